//! Runs one operator on small inputs, for tests.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use ndarray::Array2;
use ndarray_npy::write_npy;
use polars::prelude::*;
use serde_json::{Map, Value};

use super::weights::Places;
use crate::ops::{Context, OpError, Operator};

/// Inputs and parameters of one attempt, in a directory of its own.
pub struct Attempt {
    dir: tempfile::TempDir,
    inputs: BTreeMap<String, PathBuf>,
    params: Map<String, Value>,
}

impl Attempt {
    /// Starts with the default parameters of an operator.
    pub fn new(operator: &dyn Operator) -> Self {
        let defaults = operator.spec().params.into_iter().filter_map(|param| Some((param.name, param.default?)));
        Self { dir: tempfile::tempdir().unwrap(), inputs: BTreeMap::new(), params: defaults.collect() }
    }

    pub fn param(&mut self, name: &str, value: Value) {
        self.params.insert(name.to_owned(), value);
    }

    pub fn table(&mut self, input: &str, mut table: DataFrame) {
        let path = self.add(input);
        ParquetWriter::new(File::create(path).unwrap()).finish(&mut table).unwrap();
    }

    pub fn matrix(&mut self, input: &str, matrix: &Array2<f32>) {
        write_npy(self.add(input), matrix).unwrap();
    }

    pub fn run(&self, operator: &dyn Operator) -> Result<Context, OpError> {
        let mut context = Context::new(self.inputs.clone(), self.dir.path().to_owned(), self.params.clone());
        operator.run(&mut context).map(|()| context)
    }

    fn add(&mut self, input: &str) -> PathBuf {
        let path = self.dir.path().join(format!("input-{input}"));
        self.inputs.insert(input.to_owned(), path.clone());
        path
    }
}

/// Says, once per test, that it is skipped for want of the model. Never asks the network.
pub fn model_is_here() -> bool {
    Places::from_env().locate().inspect_err(|e| eprintln!("skipped: {e}")).is_ok()
}
