//! Artifacts on disk, as tests look at them.

use std::{collections::BTreeMap, fs::File, path::Path};

use polars::prelude::{DataFrame, DataType, ParquetReader, SerReader as _};
use serde_json::Value;

use crate::Cli;

/// Writes an artifact of a run to a file.
///
/// # Panics
/// If it is not there.
#[track_caller]
pub fn fetch(cli: &Cli, run: &str, artifact: &str, to: &Path) {
    cli.ok(["artifacts", "get", run, artifact, "--out", &to.to_string_lossy()]);
}

/// Fetches an artifact of a run as bytes.
///
/// # Panics
/// If it is not there.
#[must_use]
#[track_caller]
pub fn bytes(cli: &Cli, run: &str, artifact: &str, dir: &Path) -> Vec<u8> {
    let path = dir.join(format!("{run}-{artifact}"));
    fetch(cli, run, artifact, &path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Reads a JSON file.
///
/// # Panics
/// If it is not there or not JSON.
#[must_use]
#[track_caller]
pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Reads a Parquet file.
///
/// # Panics
/// If it is not there or no Parquet.
#[must_use]
#[track_caller]
pub fn read_table(path: &Path) -> DataFrame {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    ParquetReader::new(file).finish().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Gives a column as numbers.
///
/// # Panics
/// If there is none, or a value is missing.
#[must_use]
#[track_caller]
pub fn numbers(table: &DataFrame, column: &str) -> Vec<f64> {
    let column = table.column(column).unwrap_or_else(|e| panic!("{e}"));
    let cast = column.cast(&DataType::Float64).unwrap_or_else(|e| panic!("{e}"));
    let values = cast.f64().unwrap_or_else(|e| panic!("{e}"));
    values.iter().map(|value| value.unwrap_or_else(|| panic!("a null in {}", column.name()))).collect()
}

/// Gives a column as texts.
///
/// # Panics
/// As [`numbers`].
#[must_use]
#[track_caller]
pub fn texts(table: &DataFrame, column: &str) -> Vec<String> {
    let column = table.column(column).unwrap_or_else(|e| panic!("{e}"));
    let values = column.str().unwrap_or_else(|e| panic!("{e}"));
    values.iter().map(|value| value.unwrap_or_else(|| panic!("a null in {}", column.name())).to_owned()).collect()
}

/// Lists the digests of a run's artifacts by `task.output`.
#[must_use]
#[track_caller]
pub fn digests(cli: &Cli, run: &str) -> BTreeMap<String, String> {
    let listed = cli.json(["artifacts", "list", run]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = listed.as_array().into_iter().flatten();
    all.map(|view| {
        let name = format!("{}.{}", text(&view["task"]), text(&view["output"]));
        (name, text(&view["artifact"]["digest"]))
    })
    .collect()
}
