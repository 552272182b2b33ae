//! `segue graph FILE`: the DAG as dot, mermaid or JSON.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use segue_coordinator::spec;

use super::read_pipeline;
use crate::{
    error::{Error, ExitStatus},
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Pipeline file
    pub file: PathBuf,
    /// Language of the drawing; with -o json it is JSON
    #[arg(long, value_enum, default_value_t = Language::Mermaid)]
    pub format: Language,
}

/// Languages of drawings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Graphviz
    Dot,
    /// Mermaid, as Markdown pages draw it
    Mermaid,
    /// JSON
    Json,
}

/// Runs the command.
pub fn run(args: GraphArgs, out: &mut Printer) -> Result<ExitStatus, Error> {
    let (text, _) = read_pipeline(&args.file)?;
    let shown = args.file.to_string_lossy().into_owned();
    let checked = spec::check(&text, &shown, &segue_worker::ops::catalogue());
    let Some(pipeline) = checked.pipeline else {
        return Err(Error::diagnostics(checked.diagnostics.iter().map(|d| d.to_wire(&shown, &text)).collect()));
    };
    let language = if out.is_json() { Language::Json } else { args.format };
    match language {
        Language::Dot => out.text(spec::graph::dot(&pipeline).trim_end())?,
        Language::Mermaid => out.text(spec::graph::mermaid(&pipeline).trim_end())?,
        Language::Json => out.json(&spec::graph::json(&pipeline))?,
    }
    Ok(ExitStatus::Done)
}
