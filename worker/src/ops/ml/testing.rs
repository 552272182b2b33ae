//! A place to run one operator in tests.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use polars::prelude::{DataFrame, NamedFrom, ParquetWriter, Series};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::{
    models::ModelDoc,
    ops::{Context, OpError, Operator, tables},
};

/// An operator with its inputs, default parameters and a folder of its own.
pub(super) struct Bench<'a> {
    operator: &'a dyn Operator,
    folder: TempDir,
    inputs: BTreeMap<String, std::path::PathBuf>,
    params: Map<String, Value>,
    pub context: Context,
}

impl<'a> Bench<'a> {
    pub(super) fn new(operator: &'a dyn Operator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("out")).unwrap();
        let params = operator
            .spec()
            .params
            .into_iter()
            .map(|param| (param.name, param.default.unwrap_or(Value::Null)))
            .collect();
        let context = Context::new(BTreeMap::new(), folder.path().join("out"), Map::new());
        Self { operator, folder, inputs: BTreeMap::new(), params, context }
    }

    pub(super) fn param(mut self, name: &str, value: Value) -> Self {
        self.params.insert(name.to_owned(), value);
        self
    }

    pub(super) fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        self.inputs.insert(name.to_owned(), path);
        self
    }

    pub(super) fn table(mut self, name: &str, mut table: DataFrame) -> Self {
        let path = self.folder.path().join(name);
        ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut table).unwrap();
        self.inputs.insert(name.to_owned(), path);
        self
    }

    /// Runs, and checks that every declared output is there.
    pub(super) fn run(&mut self) -> Result<(), OpError> {
        self.context = self.context();
        self.operator.run(&mut self.context)?;
        for port in self.operator.spec().outputs {
            assert!(self.context.output(&port.name).exists(), "output {} is missing", port.name);
        }
        Ok(())
    }

    /// Makes a fresh context of the same inputs and parameters.
    pub(super) fn context(&self) -> Context {
        Context::new(self.inputs.clone(), self.folder.path().join("out"), self.params.clone())
    }

    pub(super) fn read(&self, output: &str) -> DataFrame {
        tables::read(&self.context.output(output)).unwrap()
    }

    pub(super) fn bytes(&self, output: &str) -> Vec<u8> {
        std::fs::read(self.context.output(output)).unwrap()
    }

    pub(super) fn json(&self, output: &str) -> Value {
        serde_json::from_slice(&self.bytes(output)).unwrap()
    }

    pub(super) fn model(&self, output: &str) -> ModelDoc {
        ModelDoc::parse(&self.bytes(output)).unwrap()
    }
}

/// Makes a table of CustomerID, Recency and Monetary.
pub(super) fn customers(rows: &[(&str, f64, f64)]) -> DataFrame {
    let ids: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let recency: Vec<f64> = rows.iter().map(|row| row.1).collect();
    let monetary: Vec<f64> = rows.iter().map(|row| row.2).collect();
    DataFrame::new(
        rows.len(),
        vec![
            Series::new("CustomerID".into(), ids).into(),
            Series::new("Recency".into(), recency).into(),
            Series::new("Monetary".into(), monetary).into(),
        ],
    )
    .unwrap()
}

/// Makes three groups of customers, of 30, 20 and 10; the last two are neighbours.
pub(super) fn groups() -> DataFrame {
    let noise = |i: usize, j: usize| ((i * 2 + j) as f64 * 12.9898).sin();
    let rows: Vec<(String, f64, f64)> = (0..60)
        .map(|i| {
            let centre = [(0.0, 0.0), (20.0, 0.0), (20.0, 9.0)][if i < 30 {
                0
            } else if i < 50 {
                1
            } else {
                2
            }];
            (format!("{i:03}"), centre.0 + noise(i, 0), centre.1 + noise(i, 1))
        })
        .collect();
    let rows: Vec<(&str, f64, f64)> = rows.iter().map(|(id, a, b)| (id.as_str(), *a, *b)).collect();
    customers(&rows)
}
