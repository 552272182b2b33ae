//! Parquet tables in and out of operators. Written so that equal tables give equal bytes.

use std::{
    fs::File,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use ndarray::Array2;
use polars::prelude::*;
use serde_json::json;

use super::{Context, OpError};

/// Reads a Parquet table.
///
/// # Errors
/// Class `data` if the file is not a table, `infra` if it cannot be opened.
pub fn read(path: &Path) -> Result<DataFrame, OpError> {
    let file = File::open(path).map_err(|e| OpError::infra(format!("cannot open {}: {e}", path.display())))?;
    // The reader checks much of a file by asserting it. Only the file and the table were in its hands.
    let read = {
        let _quiet = Quiet::new();
        catch_unwind(AssertUnwindSafe(|| ParquetReader::new(file).finish()))
    };
    match read {
        Ok(Ok(table)) => Ok(table),
        Ok(Err(e)) => Err(OpError::data(format!("{} is not a Parquet table: {e}", path.display()))),
        Err(_) => Err(OpError::data(format!("{} is not a Parquet table: its description is corrupt", path.display()))),
    }
}

/// While it lives, what polars asserts is not told on stderr: it becomes an error of the file.
struct Quiet;

static QUIET: AtomicUsize = AtomicUsize::new(0);

impl Quiet {
    fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let by_polars = info.location().is_some_and(|at| at.file().contains("polars-"));
                if QUIET.load(Relaxed) > 0 && by_polars {
                    tracing::debug!("a Parquet file is corrupt: {info}");
                } else {
                    usual(info);
                }
            }));
        });
        QUIET.fetch_add(1, Relaxed);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.fetch_sub(1, Relaxed);
    }
}

/// Writes a table as an output and describes its columns.
///
/// # Errors
/// Class `infra` if the disk refuses.
pub fn write(context: &mut Context, output: &str, table: &mut DataFrame) -> Result<(), OpError> {
    table.rechunk_mut();
    let path = context.output(output);
    let file = File::create(&path).map_err(|e| OpError::infra(format!("cannot write output `{output}`: {e}")))?;
    ParquetWriter::new(file)
        .with_compression(ParquetCompression::Zstd(None))
        .finish(table)
        .map_err(|e| OpError::infra(format!("cannot write output `{output}`: {e}")))?;
    let columns: Vec<_> =
        table.columns().iter().map(|c| json!({"name": c.name().as_str(), "type": c.dtype().to_string()})).collect();
    context.describe(output, json!({"rows": table.height(), "columns": columns}));
    Ok(())
}

/// Gives a column as `f64`. Nulls become NaN.
///
/// # Errors
/// Class `data` if the column is missing or not numeric.
pub fn numbers(table: &DataFrame, column: &str) -> Result<Vec<f64>, OpError> {
    let found = table.column(column).map_err(|_| missing(table, column))?;
    let cast = found.cast(&DataType::Float64).map_err(|e| OpError::data(format!("column `{column}`: {e}")))?;
    let values = cast.f64().map_err(|e| OpError::data(format!("column `{column}`: {e}")))?;
    Ok(values.iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}

/// Gives a column of text. Nulls become empty.
///
/// # Errors
/// Class `data` if the column is missing.
pub fn texts(table: &DataFrame, column: &str) -> Result<Vec<String>, OpError> {
    let found = table.column(column).map_err(|_| missing(table, column))?;
    let cast = found.cast(&DataType::String).map_err(|e| OpError::data(format!("column `{column}`: {e}")))?;
    let values = cast.str().map_err(|e| OpError::data(format!("column `{column}`: {e}")))?;
    Ok(values.iter().map(|v| v.unwrap_or_default().to_owned()).collect())
}

/// Gives columns as a row-major matrix `(rows, columns)`.
///
/// # Errors
/// Class `data` if a column is missing or not numeric.
pub fn matrix(table: &DataFrame, columns: &[String]) -> Result<Array2<f64>, OpError> {
    let mut values = Array2::zeros((table.height(), columns.len()));
    for (j, name) in columns.iter().enumerate() {
        for (i, value) in numbers(table, name)?.into_iter().enumerate() {
            values[[i, j]] = value;
        }
    }
    Ok(values)
}

/// Names the numeric columns, in order.
#[must_use]
pub fn numeric_columns(table: &DataFrame) -> Vec<String> {
    table.columns().iter().filter(|c| c.dtype().is_primitive_numeric()).map(|c| c.name().to_string()).collect()
}

fn missing(table: &DataFrame, column: &str) -> OpError {
    let have: Vec<_> = table.get_column_names().iter().map(|n| n.to_string()).collect();
    OpError::data(format!("column `{column}` is missing")).hint(format!("the table has: {}", have.join(", ")))
}
