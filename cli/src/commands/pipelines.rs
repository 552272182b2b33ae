//! `segue pipelines list|show|diff`: what was submitted, version by version.

use clap::Subcommand;
use segue_proto::v1;
use serde_json::{Value, json};

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows, clean},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum PipelinesCommand {
    /// List pipelines by name: versions, runs, the last run
    List,
    /// Print the text of a version as it was submitted
    Show {
        /// NAME, NAME@latest, NAME@previous, or NAME:VERSION with the start of a version
        #[arg(value_name = "NAME[:VERSION|@latest]")]
        pipeline: String,
    },
    /// Compare two versions: the texts, and what it means task by task
    Diff {
        /// Pipeline
        name: String,
        /// The start of a version, `latest` or `previous`
        #[arg(default_value = "previous", value_name = "FROM")]
        from: String,
        /// The start of a version, `latest` or `previous`
        #[arg(default_value = "latest", value_name = "TO")]
        to: String,
    },
}

/// Runs the command.
pub async fn run(command: PipelinesCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        PipelinesCommand::List => list(client, out).await,
        PipelinesCommand::Show { pipeline } => show(pipeline, client, out).await,
        PipelinesCommand::Diff { name, from, to } => diff(name, from, to, client, out).await,
    }
}

/// Fetches the text of a version.
pub async fn text(reference: String, client: &Client) -> Result<v1::PipelineText, Error> {
    Ok(client.maintenance().get_pipeline(v1::GetPipelineRequest { reference }).await?.into_inner())
}

async fn list(client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let pipelines = client.maintenance().list_pipelines(v1::ListPipelinesRequest {}).await?.into_inner().pipelines;
    let values: Vec<_> = pipelines
        .iter()
        .map(|pipeline| {
            let versions: Vec<_> = pipeline
                .versions
                .iter()
                .map(|one| json!({"version": one.version, "first_ms": one.first_ms, "last_ms": one.last_ms}))
                .collect();
            let last = pipeline.last_run.as_ref().map(|run| {
                json!({
                    "run": run.run_id, "state": format::run_state(run.state), "created_ms": run.created_ms,
                    "version": run.version,
                })
            });
            json!({
                "name": pipeline.name, "versions": versions, "runs": pipeline.runs, "last_run": last,
                "retention": pipeline.retention.as_ref().map(rules),
            })
        })
        .collect();
    out.data(&values, || {
        let mut rows = Rows::new(&["pipeline", ">versions", "latest", ">runs", "last run", "state", "submitted"]);
        for pipeline in &pipelines {
            let latest = pipeline.versions.last();
            let run = pipeline.last_run.as_ref();
            rows.row([
                pipeline.name.clone(),
                pipeline.versions.len().to_string(),
                latest.map_or_else(String::new, |one| short(&one.version).to_owned()),
                pipeline.runs.to_string(),
                run.map_or_else(|| "-".to_owned(), |run| run.run_id.clone()),
                run.map_or_else(|| "-".to_owned(), |run| format::run_state(run.state).to_owned()),
                latest.map_or_else(String::new, |one| format::moment(one.last_ms)),
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

async fn show(reference: String, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let found = text(reference, client).await?;
    if out.is_json() {
        out.json(&json!({
            "name": found.name, "version": found.version, "latest": found.latest, "path": found.path,
            "first_ms": found.first_ms, "last_ms": found.last_ms, "text": found.text,
        }))?;
        return Ok(ExitStatus::Done);
    }
    let latest = if found.latest { ", the latest" } else { "" };
    out.note(&format!(
        "{} version {}{latest}, submitted {} from {}",
        found.name,
        short(&found.version),
        format::moment(found.last_ms),
        clean(&found.path)
    ));
    // As it was submitted, to the byte: it may be redirected to a file.
    out.bytes(found.text.as_bytes())?;
    Ok(ExitStatus::Done)
}

async fn diff(name: String, from: String, to: String, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let request = v1::DiffPipelinesRequest { name, from, to };
    let found = client.maintenance().diff_pipelines(request).await?.into_inner();
    let (from, to) = (found.from.clone().unwrap_or_default(), found.to.clone().unwrap_or_default());
    if out.is_json() {
        let fields = |fields: &[v1::FieldDiff]| -> Vec<Value> {
            fields
                .iter()
                .map(|field| {
                    json!({
                        "aspect": field.aspect, "field": field.field,
                        "before": format::embedded_json(&field.before_json),
                        "after": format::embedded_json(&field.after_json),
                    })
                })
                .collect()
        };
        let tasks: Vec<_> = found
            .tasks
            .iter()
            .map(|task| json!({"task": task.task, "change": kind(task.kind), "fields": fields(&task.fields)}))
            .collect();
        out.json(&json!({
            "name": from.name, "from": from.version, "to": to.version, "unified": found.unified, "tasks": tasks,
            "pipeline": fields(&found.pipeline), "unstructured": found.unstructured,
        }))?;
        return Ok(ExitStatus::Done);
    }
    if from.version == to.version {
        out.text(&format!("{} {}: one and the same version", from.name, short(&from.version)))?;
        return Ok(ExitStatus::Done);
    }
    for line in found.unified.lines() {
        out.text(&printable(line))?;
    }
    if !found.unified.is_empty() {
        out.text("")?;
    }
    print_tasks(&found, out)?;
    Ok(ExitStatus::Done)
}

fn print_tasks(found: &v1::DiffPipelinesResponse, out: &mut Printer) -> Result<(), Error> {
    if !found.unstructured.is_empty() {
        out.note(&format!("tasks are not compared: {}", clean(&found.unstructured)));
        return Ok(());
    }
    if found.tasks.is_empty() && found.pipeline.is_empty() {
        return out.text("no task means anything else");
    }
    out.data(&(), || {
        let mut rows = Rows::new(&["task", "change", "in", "field", "before", "after"]);
        for task in &found.tasks {
            if task.fields.is_empty() {
                rows.row([task.task.as_str(), kind(task.kind), "", "", "", ""]);
            }
            for (at, field) in task.fields.iter().enumerate() {
                let (name, change) = if at == 0 { (task.task.as_str(), kind(task.kind)) } else { ("", "") };
                rows.row([
                    name,
                    change,
                    &field.aspect,
                    &field.field,
                    shown(&field.before_json),
                    shown(&field.after_json),
                ]);
            }
        }
        for (at, field) in found.pipeline.iter().enumerate() {
            let name = if at == 0 { "(the pipeline)" } else { "" };
            let change = if at == 0 { "changed" } else { "" };
            rows.row([name, change, &field.aspect, &field.field, shown(&field.before_json), shown(&field.after_json)]);
        }
        rows
    })
}

/// Takes out of a line what could do something to a terminal; people indent with tabs.
fn printable(line: &str) -> String {
    line.split('\t').map(clean).collect::<Vec<_>>().join("\t")
}

fn shown(json: &str) -> &str {
    if json.is_empty() { "-" } else { json }
}

fn kind(number: i32) -> &'static str {
    match v1::TaskDiffKind::try_from(number) {
        Ok(v1::TaskDiffKind::Added) => "added",
        Ok(v1::TaskDiffKind::Dropped) => "dropped",
        Ok(v1::TaskDiffKind::Changed) => "changed",
        Ok(v1::TaskDiffKind::Unspecified) | Err(_) => "unknown",
    }
}

fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

fn rules(rules: &v1::Retention) -> Value {
    json!({
        "keep_runs": rules.keep_runs, "keep_for_ms": rules.keep_for_ms, "keep_failed_for_ms": rules.keep_failed_for_ms,
        "logs_for_ms": rules.logs_for_ms, "cache_for_ms": rules.cache_for_ms,
    })
}
