//! `segue predict NAME[@ALIAS]`: score new customers with registered models.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use polars::prelude::{CsvWriter, DataFrame, ParquetWriter, SerWriter as _};
use segue_worker::{
    models::predict::predict,
    ops::retail::{rfm::Frequency, score_input::Scored},
};
use serde_json::json;

use super::models::document;
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// NAME, NAME:VERSION or NAME@ALIAS; the champion where nothing is said. Several add their columns side by side
    #[arg(required = true, value_name = "NAME[@ALIAS]")]
    pub models: Vec<String>,
    /// Order lines as CSV, or customers with the columns that the models take as CSV or Parquet
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// What frequency counts in order lines: as in the pipeline that made the models
    #[arg(long, value_enum, default_value_t = Counts::Orders, value_name = "WHAT")]
    pub frequency: Counts,
    /// File to write; Parquet where the name ends in .parquet, else CSV; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// What frequency counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Counts {
    /// Distinct invoices
    Orders,
    /// Order lines
    Lines,
}

/// Runs the command.
pub async fn run(args: PredictArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let scratch =
        tempfile::tempdir().map_err(|e| Error::internal(format!("cannot make a temporary directory: {e}")))?;
    let frequency = match args.frequency {
        Counts::Orders => Frequency::Orders,
        Counts::Lines => Frequency::Lines,
    };
    let input = Scored::read(&args.input, frequency, scratch.path())?;
    let mut scored: Option<DataFrame> = None;
    let mut used = Vec::new();
    for reference in &args.models {
        let (name, version, doc) = document(reference, client).await?;
        let table = predict(&doc, &input.table_for(&doc)?)?;
        used.push(json!({"model": name, "version": version.version, "kind": doc.kind()}));
        match &mut scored {
            None => scored = Some(table),
            Some(scored) => {
                for column in table.columns() {
                    // The customer's id is there already; a second model of a kind gets its name before its columns.
                    if column.name() == "CustomerID" {
                        continue;
                    }
                    let mut column = column.clone();
                    if scored.column(column.name()).is_ok() {
                        let longer = format!("{name} {}", column.name());
                        column.rename(longer.into());
                    }
                    scored.with_column(column).map_err(|e| Error::internal(format!("cannot join predictions: {e}")))?;
                }
            }
        }
    }
    let mut scored = scored.ok_or_else(|| Error::usage("name at least one model"))?;
    if args.out.as_os_str() == "-" {
        // The table is the data, whatever the format of other answers.
        let mut csv = Vec::new();
        CsvWriter::new(&mut csv).finish(&mut scored).map_err(|e| Error::internal(format!("cannot make CSV: {e}")))?;
        out.bytes(&csv)?;
        out.note(&format!("{} scored", format::counted(scored.height() as u64, "customer", "customers")));
        return Ok(ExitStatus::Done);
    }
    write(&args.out, &mut scored)?;
    if out.is_json() {
        out.json(&json!({"customers": scored.height(), "out": args.out, "models": used}))?;
    } else {
        let some = format::counted(scored.height() as u64, "customer", "customers");
        out.note(&format!("{some} scored, written to {}", args.out.display()));
    }
    Ok(ExitStatus::Done)
}

fn write(path: &Path, table: &mut DataFrame) -> Result<(), Error> {
    let cannot = |e: &dyn std::fmt::Display| Error::usage(format!("cannot write {}: {e}", path.display()));
    let file = File::create(path).map_err(|e| cannot(&e))?;
    if path.extension().is_some_and(|extension| extension == "parquet") {
        ParquetWriter::new(file).finish(table).map_err(|e| cannot(&e))?;
    } else {
        CsvWriter::new(file).finish(table).map_err(|e| cannot(&e))?;
    }
    Ok(())
}
