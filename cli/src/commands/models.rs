//! `segue models list|show|alias|export|fetch`.

use std::path::PathBuf;

use clap::Subcommand;
use segue_proto::v1;
use segue_worker::models::{ModelDoc, export};
use serde_json::{Value, json};

use crate::{
    blobs,
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List registered models
    List,
    /// Show a version with metrics, parameters, signature and lineage
    Show {
        /// NAME, NAME:VERSION or NAME@ALIAS
        #[arg(value_name = "NAME[@ALIAS|:VERSION]")]
        model: String,
    },
    /// Move an alias to a version
    Alias {
        /// Model
        name: String,
        /// Alias, such as champion
        alias: String,
        /// Version number
        version: u32,
    },
    /// Write models as files that other programs read: XGBoost .json and .ubj, .npz, a JSON manifest
    Export {
        /// NAME, NAME:VERSION or NAME@ALIAS; @champion where nothing is said
        #[arg(required = true, value_name = "NAME[@ALIAS|:VERSION]")]
        models: Vec<String>,
        /// Directory to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Fetch the embedding model to this machine
    Fetch,
}

/// Runs the command.
pub async fn run(command: ModelsCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        ModelsCommand::List => list(client, out).await,
        ModelsCommand::Show { model } => show(&model, client, out).await,
        ModelsCommand::Alias { name, alias, version } => {
            let request = v1::SetAliasRequest { name: name.clone(), alias: alias.clone(), version };
            let previous = client.registry().set_alias(request).await?.into_inner().previous;
            let before = if previous == 0 { "was not set".to_owned() } else { format!("was {previous}") };
            if out.is_json() {
                out.json(&json!({"model": name, "alias": alias, "version": version, "previous": previous}))?;
            } else {
                out.text(&format!("{name}@{alias} is version {version} ({before})"))?;
            }
            Ok(ExitStatus::Done)
        }
        ModelsCommand::Export { models, out: dir } => export_all(&models, &dir, client, out).await,
        ModelsCommand::Fetch => fetch(out).await,
    }
}

async fn list(client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let models = client.registry().list_models(v1::ListModelsRequest {}).await?.into_inner().models;
    let values: Vec<_> = models
        .iter()
        .map(|model| {
            json!({
                "name": model.name, "aliases": model.aliases,
                "versions": model.versions.iter().map(|version| version_value(&model.name, version)).collect::<Vec<_>>(),
            })
        })
        .collect();
    out.data(&values, || {
        let mut rows = Rows::new(&["model", "kind", ">versions", "aliases", "latest metrics", "created"]);
        for model in &models {
            let latest = model.versions.iter().max_by_key(|version| version.version);
            let aliases: Vec<String> =
                model.aliases.iter().map(|(alias, version)| format!("{alias} -> {version}")).collect();
            rows.row([
                model.name.clone(),
                latest.map_or_else(String::new, |version| version.kind.clone()),
                model.versions.len().to_string(),
                aliases.join(", "),
                latest.map_or_else(String::new, |version| short_metrics(&version.metrics_json)),
                latest.map_or_else(String::new, |version| format::moment(version.created_ms)),
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

async fn show(reference: &str, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let (name, version, aliases) = find(reference, client).await?;
    let value = version_value(&name, &version);
    if out.is_json() {
        out.json(&value)?;
        return Ok(ExitStatus::Done);
    }
    out.text(&format!("{name} version {} ({})", version.version, version.kind))?;
    let mut rows = Rows::new(&["field", "value"]);
    let aliases: Vec<&str> =
        aliases.iter().filter(|(_, v)| **v == version.version).map(|(alias, _)| alias.as_str()).collect();
    rows.row(["aliases".to_owned(), aliases.join(", ")]);
    rows.row(["created".to_owned(), format::moment(version.created_ms)]);
    rows.row(["run".to_owned(), format!("{} {} attempt {}", version.run_id, version.task, version.attempt)]);
    rows.row(["pipeline".to_owned(), format!("{} {}", version.pipeline, version.pipeline_version)]);
    if let Some(artifact) = &version.artifact {
        rows.row(["artifact".to_owned(), artifact.digest.clone()]);
    }
    for input in &version.inputs {
        let digest = input.artifact.as_ref().map_or("", |artifact| artifact.digest.as_str());
        rows.row([format!("input {}", input.name), digest.to_owned()]);
    }
    for (place, digest) in &version.external_inputs {
        rows.row([format!("external {place}"), digest.clone()]);
    }
    for (title, json) in [("metric", &version.metrics_json), ("parameter", &version.params_json)] {
        if let Value::Object(fields) = format::embedded_json(json) {
            for (field, value) in fields {
                rows.row([format!("{title} {field}"), value.to_string()]);
            }
        }
    }
    rows.row(["signature".to_owned(), signature(&version.signature_json)]);
    out.data(&(), || rows)?;
    Ok(ExitStatus::Done)
}

async fn export_all(
    models: &[String],
    dir: &std::path::Path,
    client: &Client,
    out: &mut Printer,
) -> Result<ExitStatus, Error> {
    let mut written = Vec::new();
    for reference in models {
        let (name, version, doc) = document(reference, client).await?;
        let facts = version_value(&name, &version);
        written.extend(export::export(&name, version.version, &doc, facts, dir)?);
    }
    let paths: Vec<String> = written.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    out.data(&paths, || {
        let mut rows = Rows::new(&["file"]);
        for path in &paths {
            rows.row([path.as_str()]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

/// Fetches the embedding model to this machine: local directory, Hugging Face cache, hub.
pub async fn fetch(out: &mut Printer) -> Result<ExitStatus, Error> {
    let files = tokio::task::spawn_blocking(segue_worker::ops::text::weights::fetch)
        .await
        .map_err(|e| Error::internal(format!("the download ended early: {e}")))??;
    let dir = files.dir.to_string_lossy().into_owned();
    if out.is_json() {
        out.json(&json!({"directory": dir}))?;
    } else {
        out.text(&dir)?;
    }
    Ok(ExitStatus::Done)
}

/// Finds a version by reference; a bare name means its `champion`, or the latest version where there is no champion.
pub async fn find(
    reference: &str,
    client: &Client,
) -> Result<(String, v1::ModelVersion, std::collections::BTreeMap<String, u32>), Error> {
    let view = client.registry().get_model(v1::GetModelRequest { reference: reference.to_owned() }).await?.into_inner();
    let bare = !reference.contains(['@', ':']);
    let number = if bare { view.aliases.get("champion").copied().unwrap_or(view.chosen) } else { view.chosen };
    let version = view.versions.into_iter().find(|version| version.version == number).ok_or_else(|| {
        Error::internal(format!("the registry named version {number} of `{}`, but did not send it", view.name))
    })?;
    Ok((view.name, version, view.aliases))
}

/// Fetches the document of a version.
pub async fn document(reference: &str, client: &Client) -> Result<(String, v1::ModelVersion, ModelDoc), Error> {
    let (name, version, _) = find(reference, client).await?;
    let digest = version.artifact.as_ref().map(|artifact| artifact.digest.clone()).unwrap_or_default();
    let bytes = match blobs::bytes(client, &digest).await {
        Ok(bytes) => bytes,
        Err(e) => return Err(unreadable(e, &name, &version, &digest, client).await),
    };
    let doc = ModelDoc::parse(&bytes)
        .map_err(|e| Error::usage(format!("model `{name}` version {}: {e}", version.version)))?;
    Ok((name, version, doc))
}

/// Says which model it is whose document cannot be had, and who makes it again.
async fn unreadable(mut e: Error, name: &str, version: &v1::ModelVersion, digest: &str, client: &Client) -> Error {
    let lineage = client.runs().lineage(v1::LineageRequest { digest: digest.to_owned() }).await;
    let maker = lineage.ok().and_then(|answer| answer.into_inner().nodes.into_iter().next()?.artifact);
    let number = version.version;
    let hint = match maker {
        Some(maker) if !maker.run_id.is_empty() => {
            let (run, task) = (maker.run_id, maker.task);
            format!(
                "task `{task}` makes it again: segue rerun {run} --from {task}; or take another version: segue models list"
            )
        }
        _ => "take another version (segue models list), or bring back a backup (segue store restore)".to_owned(),
    };
    e.message = format!("the document of model `{name}` version {number} cannot be read: {}", e.message);
    e.hint(hint)
}

fn version_value(name: &str, version: &v1::ModelVersion) -> Value {
    json!({
        "name": name, "version": version.version, "kind": version.kind,
        "artifact": format::artifact(version.artifact.as_ref()),
        "metrics": format::embedded_json(&version.metrics_json),
        "params": format::embedded_json(&version.params_json),
        "signature": format::embedded_json(&version.signature_json),
        "lineage": {
            "run": version.run_id, "task": version.task, "attempt": version.attempt,
            "pipeline": version.pipeline, "pipeline_version": version.pipeline_version,
            "inputs": format::named_artifacts(&version.inputs), "external_inputs": version.external_inputs,
        },
        "created_ms": version.created_ms,
    })
}

fn short_metrics(text: &str) -> String {
    let Value::Object(fields) = format::embedded_json(text) else { return String::new() };
    let shown: Vec<String> =
        fields.iter().filter_map(|(name, value)| Some(format!("{name} {}", number(value.as_f64()?)))).take(3).collect();
    shown.join(", ")
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.4}") }
}

fn signature(text: &str) -> String {
    let value = format::embedded_json(text);
    let names = |key: &str| -> String {
        value
            .get(key)
            .and_then(Value::as_array)
            .map(|fields| fields.iter().filter_map(|field| field.get("name")?.as_str()).collect::<Vec<_>>().join(", "))
            .unwrap_or_default()
    };
    format!("({}) -> ({})", names("inputs"), names("outputs"))
}
