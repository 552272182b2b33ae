//! `segue artifacts list|get|lineage`.

use std::path::PathBuf;

use clap::Subcommand;
use segue_proto::v1;
use serde_json::json;

use crate::{
    blobs,
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum ArtifactsCommand {
    /// List the artifacts of a run
    List {
        /// Run id, the start of one, or `latest`
        #[arg(default_value = "latest")]
        run: String,
    },
    /// Write an artifact to a file
    Get {
        /// Run id, the start of one, or `latest`
        run: String,
        /// TASK.OUTPUT, as `list` shows it
        // Not named `output`: that is the global option.
        #[arg(value_name = "TASK.OUTPUT")]
        artifact: String,
        /// File to write; `-` is standard output
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
    /// Trace an artifact back to the external inputs
    Lineage {
        /// Digest, or the start of one
        digest: String,
    },
}

/// Runs the command.
pub async fn run(command: ArtifactsCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        ArtifactsCommand::List { run } => list(run, client, out).await,
        ArtifactsCommand::Get { run, artifact, out: path } => get(run, &artifact, path, client, out).await,
        ArtifactsCommand::Lineage { digest } => lineage(digest, client, out).await,
    }
}

async fn list(run: String, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let artifacts = of_run(run, client).await?;
    let values: Vec<_> = artifacts.iter().map(value).collect();
    out.data(&values, || {
        let mut rows = Rows::new(&["artifact", "kind", ">size", "=digest", "shape", "made by"]);
        for view in &artifacts {
            let artifact = view.artifact.clone().unwrap_or_default();
            let made = if view.cached { "cache".to_owned() } else { format!("attempt {}", view.attempt) };
            rows.row([
                format!("{}.{}", view.task, view.output),
                artifact.kind.clone(),
                format::bytes(artifact.size_bytes),
                artifact.digest.get(..12).unwrap_or(&artifact.digest).to_owned(),
                shape(&artifact.schema),
                made,
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

async fn get(
    run: String,
    output: &str,
    path: PathBuf,
    client: &Client,
    out: &mut Printer,
) -> Result<ExitStatus, Error> {
    let Some((task, port)) = output.rsplit_once('.') else {
        return Err(Error::usage(format!("`{output}` is not TASK.OUTPUT")).hint("for example report.page"));
    };
    let artifacts = of_run(run, client).await?;
    let found = artifacts.iter().find(|view| view.task == task && view.output == port).ok_or_else(|| {
        let known: Vec<String> = artifacts.iter().map(|view| format!("{}.{}", view.task, view.output)).collect();
        let hint = match segue_coordinator::spec::nearest(output, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "segue artifacts list shows what is there".to_owned(),
        };
        Error::usage(format!("the run has no artifact `{output}`")).hint(hint)
    })?;
    let digest = found.artifact.clone().unwrap_or_default().digest;
    if path.as_os_str() == "-" {
        blobs::print(client, &digest, out).await?;
        return Ok(ExitStatus::Done);
    }
    let size = blobs::file(client, &digest, &path).await?;
    out.note(&format!("{} written, {}", path.display(), format::bytes(size)));
    Ok(ExitStatus::Done)
}

async fn lineage(digest: String, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let nodes = client.runs().lineage(v1::LineageRequest { digest }).await?.into_inner().nodes;
    let values: Vec<_> = nodes
        .iter()
        .map(|node| {
            json!({
                "depth": node.depth, "artifact": node.artifact.as_ref().map(value), "work": node.work,
                "inputs": format::named_artifacts(&node.inputs), "external_inputs": node.external_inputs,
                "changed_inputs": node.changed_inputs,
            })
        })
        .collect();
    out.data(&values, || {
        let mut rows = Rows::new(&["artifact", "=digest", "work", "=run", "external inputs"]);
        for node in &nodes {
            let view = node.artifact.clone().unwrap_or_default();
            let digest = view.artifact.unwrap_or_default().digest;
            let external: Vec<String> = node
                .external_inputs
                .iter()
                .map(|(name, digest)| {
                    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
                    match node.changed_inputs.get(name).map(String::as_str) {
                        None => format!("{name} {}", short(digest)),
                        Some("") => format!("{name} {} (changed before the task ended, and gone since)", short(digest)),
                        Some(after) => {
                            format!("{name} {} (changed before the task ended: {})", short(digest), short(after))
                        }
                    }
                })
                .collect();
            rows.row([
                format!("{}{}.{}", "  ".repeat(node.depth as usize), view.task, view.output),
                digest.get(..12).unwrap_or(&digest).to_owned(),
                node.work.clone(),
                view.run_id,
                external.join(", "),
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

/// Lists the artifacts of a run.
pub async fn of_run(run: String, client: &Client) -> Result<Vec<v1::ArtifactView>, Error> {
    let request = v1::ListArtifactsRequest { run_id: run, ..v1::ListArtifactsRequest::default() };
    Ok(client.runs().list_artifacts(request).await?.into_inner().artifacts)
}

fn value(view: &v1::ArtifactView) -> serde_json::Value {
    json!({
        "run": view.run_id, "task": view.task, "output": view.output, "attempt": view.attempt, "cached": view.cached,
        "created_ms": view.created_ms, "artifact": format::artifact(view.artifact.as_ref()),
    })
}

/// Rows and columns of a table or the shape of a matrix, in few words.
fn shape(schema: &str) -> String {
    let schema = format::embedded_json(schema);
    let rows = schema.get("rows").and_then(serde_json::Value::as_u64);
    let columns = schema.get("columns").and_then(serde_json::Value::as_array).map(Vec::len);
    match (rows, columns, schema.get("shape")) {
        (Some(rows), Some(columns), _) => format!("{rows} x {columns}"),
        (_, _, Some(shape)) => shape.to_string(),
        _ => String::new(),
    }
}
