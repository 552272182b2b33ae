//! `segue sample-data`: a data set to try things on.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use clap::Args;
use segue_worker::sample;
use serde_json::json;

use crate::{
    error::{Error, ExitStatus},
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct SampleDataArgs {
    /// Order lines to write
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    pub rows: u64,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "sample.csv")]
    pub out: PathBuf,
}

/// Runs the command.
pub fn run(args: SampleDataArgs, out: &mut Printer) -> Result<ExitStatus, Error> {
    let cannot = |e: std::io::Error| Error::usage(format!("cannot write {}: {e}", args.out.display()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&args.out).map_err(cannot)?);
    sample::generate(args.rows, args.seed, &mut file).map_err(cannot)?;
    file.flush().map_err(cannot)?;
    if out.is_json() {
        out.json(&json!({"rows": args.rows, "seed": args.seed, "out": args.out}))?;
    } else {
        out.note(&format!("{} order lines written to {}", args.rows, args.out.display()));
    }
    Ok(ExitStatus::Done)
}
