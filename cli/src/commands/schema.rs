//! `segue schema`: every key of a pipeline file, for editors and for people.

use clap::Args;
use segue_coordinator::spec::schema;

use crate::{
    error::{Error, ExitStatus},
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
#[command(
    after_help = "Editors check and complete pipeline files with the schema: with Taplo (Even Better TOML), begin the \
    file with\n    #:schema ./pipeline.schema.json\nor name the schema in .taplo.toml."
)]
pub struct SchemaArgs {
    /// JSON Schema (the default)
    #[arg(long)]
    pub json: bool,
    /// Reference page in Markdown
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
}

/// Runs the command. It needs neither a coordinator nor a file.
pub fn run(args: SchemaArgs, out: &mut Printer) -> Result<ExitStatus, Error> {
    if args.markdown {
        out.bytes(schema::markdown().as_bytes())?;
    } else {
        out.json(&schema::json())?;
    }
    Ok(ExitStatus::Done)
}
