//! `segue validate FILE`: every fault at its place, without or with a coordinator.

use std::path::PathBuf;

use clap::Args;
use segue_coordinator::spec;
use segue_proto::v1;
use serde_json::json;

use super::{MOST_SENT, read_text};
use crate::{
    args::Global,
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Pipeline file
    pub file: PathBuf,
}

/// Runs the command: against the workers of `--server`, else against the operators of this release.
pub async fn run(args: ValidateArgs, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let (text, path) = read_text(&args.file)?;
    // People read the path as they typed it.
    let shown = args.file.to_string_lossy().into_owned();
    // Too long for a pipeline is too long for a message that asks about it.
    let short = text.len() <= MOST_SENT;
    let (diagnostics, name, version) = if global.server.is_some() && short {
        let client = Client::connect(global).await?;
        let response = client.runs().validate(v1::ValidateRequest { text, path }).await?.into_inner();
        (response.diagnostics, response.name, response.version)
    } else {
        let checked = spec::check(&text, &shown, &segue_worker::ops::catalogue());
        let wire = checked.diagnostics.iter().map(|d| d.to_wire(&shown, &text)).collect();
        let (name, version) =
            checked.pipeline.map(|p| (p.name.to_string(), p.version().to_string())).unwrap_or_default();
        (wire, name, version)
    };
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.error).count();
    if out.is_json() {
        let all: Vec<_> = diagnostics.iter().map(format::diagnostic).collect();
        out.json(&json!({"valid": errors == 0, "pipeline": name, "version": version, "diagnostics": all}))?;
        return Ok(if errors == 0 { ExitStatus::Done } else { ExitStatus::Usage });
    }
    if errors > 0 {
        return Err(Error::diagnostics(diagnostics));
    }
    for warning in &diagnostics {
        out.note(warning.rendered.trim_end());
    }
    out.text(&format!("{shown}: pipeline `{name}` is valid (version {})", version.get(..12).unwrap_or(&version)))?;
    Ok(ExitStatus::Done)
}
