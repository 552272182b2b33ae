//! What the tests of this family share: files, contexts, the real data.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use polars::prelude::DataFrame;
use serde_json::{Map, Value, json};

use crate::ops::{Context, OpError, Operator, tables};

pub const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

/// A run of one operator in a folder of its own.
pub struct Ran {
    pub dir: tempfile::TempDir,
    pub context: Context,
}

impl Ran {
    pub fn path(&self, output: &str) -> PathBuf {
        self.dir.path().join(output)
    }

    pub fn bytes(&self, output: &str) -> Vec<u8> {
        fs::read(self.path(output)).unwrap()
    }

    pub fn json(&self, output: &str) -> Value {
        serde_json::from_slice(&self.bytes(output)).unwrap()
    }

    pub fn table(&self, output: &str) -> DataFrame {
        tables::read(&self.path(output)).unwrap()
    }
}

/// Runs an operator on input files with parameters (a JSON object).
pub fn run(operator: &dyn Operator, inputs: &[(&str, &Path)], params: &Value) -> Result<Ran, OpError> {
    let dir = tempfile::tempdir().unwrap();
    let inputs: BTreeMap<_, _> = inputs.iter().map(|(name, path)| ((*name).to_owned(), path.to_path_buf())).collect();
    let params: Map<_, _> = params.as_object().unwrap().clone();
    let mut context = Context::new(inputs, dir.path().to_path_buf(), params);
    operator.run(&mut context)?;
    Ok(Ran { dir, context })
}

/// Cleans a file.
pub fn clean(path: &Path) -> Result<Ran, OpError> {
    clean_with(path, &json!({}))
}

/// Cleans a file with parameters.
pub fn clean_with(path: &Path, params: &Value) -> Result<Ran, OpError> {
    let mut params = params.clone();
    params["path"] = json!(path);
    run(&super::clean::Clean, &[], &params)
}

/// Cleans a text, header included.
pub fn clean_text(text: impl AsRef<[u8]>, params: &Value) -> Result<Ran, OpError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines.csv");
    fs::write(&path, text).unwrap();
    clean_with(&path, params)
}

/// Finds the real data, or says that the test is skipped.
pub fn real_data() -> Option<PathBuf> {
    const FILE: &str = "online_retail.csv.xz";
    let named = std::env::var_os("SEGUE_TEST_DATA").map(PathBuf::from);
    let named = named.map(|given| if given.is_dir() { given.join(FILE) } else { given });
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("shared/data").join(FILE));
    let found = named.into_iter().chain(beside).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: {FILE} is not here; set SEGUE_TEST_DATA to its path");
    }
    found
}

/// Asserts that two numbers agree to a millionth.
#[track_caller]
pub fn assert_close(got: f64, wanted: f64, what: &str) {
    assert!((got - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{what}: got {got}, wanted {wanted}");
}
