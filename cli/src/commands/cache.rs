//! `segue cache list|show|drop`: results that later runs use instead of executing.

use clap::{Args, Subcommand};
use segue_proto::v1;
use serde_json::{Value, json};

use super::gc::age;
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List committed results that later runs may use, newest first
    List {
        #[command(flatten)]
        of: Of,
        /// Most results to list
        #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// Show one result with its outputs and metrics
    Show {
        /// Key, or the start of one
        key: String,
    },
    /// Forget results, so that their tasks execute again; `segue gc` then frees their bytes
    Drop(DropArgs),
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, Args)]
pub struct Of {
    /// Only results of this operator; `command` for commands
    #[arg(long, value_name = "NAME")]
    pub operator: Option<String>,
    /// Only results that runs of this pipeline made
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Only results that were made at least this long ago, such as 30d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older_than: Option<u64>,
}

/// Arguments of `drop`.
#[derive(Debug, Args)]
pub struct DropArgs {
    /// Keys, or the starts of keys
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    #[command(flatten)]
    pub of: Of,
    /// Every result
    #[arg(long, conflicts_with_all = ["keys", "operator", "pipeline", "older_than"])]
    pub all: bool,
    /// Say what would be dropped, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Of {
    fn filter(self, keys: Vec<String>) -> v1::CacheFilter {
        v1::CacheFilter {
            keys,
            operator: self.operator.unwrap_or_default(),
            pipeline: self.pipeline.unwrap_or_default(),
            older_than_ms: self.older_than.unwrap_or(0),
        }
    }
}

/// Runs the command.
pub async fn run(command: CacheCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        CacheCommand::List { of, limit } => list(of, limit, client, out).await,
        CacheCommand::Show { key } => show(key, client, out).await,
        CacheCommand::Drop(args) => drop_entries(args, client, out).await,
    }
}

async fn list(of: Of, limit: u32, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let request = v1::ListCacheRequest { filter: Some(of.filter(Vec::new())), limit };
    let answer = client.maintenance().list_cache(request).await?.into_inner();
    if out.is_json() {
        out.json(&answer.entries.iter().map(value).collect::<Vec<_>>())?;
        return Ok(ExitStatus::Done);
    }
    print(&answer.entries, out)?;
    out.text(&total(answer.total, answer.total_bytes, ""))?;
    Ok(ExitStatus::Done)
}

async fn show(key: String, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let filter = v1::CacheFilter { keys: vec![key], ..v1::CacheFilter::default() };
    let request = v1::ListCacheRequest { filter: Some(filter), limit: 1 };
    let answer = client.maintenance().list_cache(request).await?.into_inner();
    let entry = answer
        .entries
        .into_iter()
        .next()
        .ok_or_else(|| Error::internal("the coordinator found the result, but did not send it"))?;
    out.data(&value(&entry), || {
        let mut rows = Rows::new(&["field", "value"]);
        rows.row(["key", &entry.key]);
        rows.row(["operator", &work(&entry)]);
        rows.row(["pipeline", known(&entry.pipeline)]);
        rows.row(["made by", &format!("{} {} attempt {}", entry.run_id, entry.task, entry.attempt)]);
        rows.row(["made at", &format::moment(entry.created_ms)]);
        for output in &entry.outputs {
            let artifact = output.artifact.clone().unwrap_or_default();
            let text = format!("{} {} {}", artifact.kind, format::bytes(artifact.size_bytes), artifact.digest);
            rows.row([format!("output {}", output.name), text]);
        }
        if let Value::Object(metrics) = format::embedded_json(&entry.metrics_json) {
            for (name, value) in metrics {
                rows.row([format!("metric {name}"), value.to_string()]);
            }
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

async fn drop_entries(args: DropArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let filter = args.of.filter(args.keys);
    if filter == v1::CacheFilter::default() && !args.all {
        return Err(Error::usage("nothing says which results to drop")
            .hint("give keys, --operator, --pipeline or --older-than, or say --all"));
    }
    let request = v1::DropCacheRequest { filter: Some(filter), dry_run: args.dry_run, all: args.all };
    let answer = client.maintenance().drop_cache(request).await?.into_inner();
    if out.is_json() {
        out.json(&json!({
            "dry_run": args.dry_run, "dropped": answer.entries.iter().map(value).collect::<Vec<_>>(),
            "total": answer.total, "total_bytes": answer.total_bytes,
        }))?;
        return Ok(ExitStatus::Done);
    }
    print(&answer.entries, out)?;
    out.text(&total(answer.total, answer.total_bytes, if args.dry_run { " would be dropped" } else { " dropped" }))?;
    if !args.dry_run && answer.total > 0 {
        out.note("`segue gc` frees the bytes that nothing else needs");
    }
    Ok(ExitStatus::Done)
}

fn print(entries: &[v1::CacheEntry], out: &mut Printer) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    out.data(&(), || {
        let mut rows = Rows::new(&["=key", "operator", "pipeline", "task", ">outputs", ">size", "made", "by"]);
        for entry in entries {
            rows.row([
                entry.key.get(..12).unwrap_or(&entry.key).to_owned(),
                work(entry),
                known(&entry.pipeline).to_owned(),
                entry.task.clone(),
                entry.outputs.len().to_string(),
                format::bytes(size(entry)),
                format::moment(entry.created_ms),
                entry.run_id.clone(),
            ]);
        }
        rows
    })
}

fn total(entries: u64, bytes: u64, what: &str) -> String {
    format!("{}{what}, {} of outputs", format::counted(entries, "cache entry", "cache entries"), format::bytes(bytes))
}

fn work(entry: &v1::CacheEntry) -> String {
    format!("{} {}", known(&entry.operator), entry.operator_version).trim_end().to_owned()
}

/// Results of earlier releases do not say whose they are.
fn known(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn size(entry: &v1::CacheEntry) -> u64 {
    entry.outputs.iter().filter_map(|output| output.artifact.as_ref()).map(|artifact| artifact.size_bytes).sum()
}

fn value(entry: &v1::CacheEntry) -> Value {
    json!({
        "key": entry.key, "operator": entry.operator, "operator_version": entry.operator_version,
        "pipeline": entry.pipeline, "run": entry.run_id, "task": entry.task, "attempt": entry.attempt,
        "created_ms": entry.created_ms, "size_bytes": size(entry), "outputs": format::named_artifacts(&entry.outputs),
        "metrics": format::embedded_json(&entry.metrics_json),
    })
}
