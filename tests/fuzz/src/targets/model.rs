//! Files of models: documents and trees in JSON, matrices (npy), tables (Parquet), and the three files of an embedding model
//! (safetensors, tokenizer, configuration). Every reader sees every file.

use std::{collections::BTreeSet, sync::atomic::AtomicBool};

use candle_core::Device;
use ndarray::Array2;
use polars::prelude::{Column, DataFrame};
use segue_worker::{
    kernels::{
        boost::Model,
        sentence::{ModelBytes, SentenceModel},
    },
    models::{ModelDoc, export::export, predict::predict},
    ops::{arrays, retail::rfm::Frequency, retail::score_input::Scored},
};
use serde_json::Value;

use crate::scratch::Scratch;

/// Columns of a table that is scored.
const MOST_COLUMNS: usize = 32;

const WEIGHTS: &[u8] = include_bytes!("../../corpus/model/small.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../../corpus/model/small-tokenizer.json");
const CONFIG: &[u8] = include_bytes!("../../corpus/model/small-config.json");

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    document(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        trees(text);
    }
    embedding(bytes);
    if bytes.starts_with(b"\x93NUMPY") || bytes.starts_with(b"PAR1") {
        files(bytes);
    }
}

fn document(bytes: &[u8]) {
    let Ok(doc) = ModelDoc::parse(bytes) else { return };
    assert!(ModelDoc::parse(&doc.to_bytes()).is_ok(), "a document that was read can be written and read again");
    let mut names: BTreeSet<String> = doc.features().iter().take(MOST_COLUMNS).cloned().collect();
    names.extend(["A", "B", "CustomerID", "Recency"].map(String::from));
    let values = [vec![0.0, 1.5, -3.0], vec![f64::NAN, 1e300, -0.0], vec![f64::INFINITY, 1.0, 2.0]];
    for rows in &values {
        let columns = names.iter().map(|name| Column::new(name.as_str().into(), rows.clone())).collect();
        let table = DataFrame::new(rows.len(), columns).expect("columns of one length and different names");
        if let Ok(scored) = predict(&doc, &table) {
            assert_eq!(scored.height(), rows.len(), "every row has its score");
        }
    }
    let scratch = Scratch::new();
    let _ = export("fuzz", 1, &doc, Value::Null, scratch.path());
}

fn trees(text: &str) {
    let Ok(model) = Model::from_json(text) else { return };
    let columns = model.features();
    for value in [0.0, -1e30, 1e30, f64::NAN] {
        let rows = Array2::from_elem((2, columns), value);
        if let Ok(predicted) = model.predict(rows.view()) {
            assert_eq!(predicted.len(), 2);
        }
    }
    let _ = model.importance();
    assert!(Model::from_json(model.json()).is_ok(), "what was read can be read again");
}

fn embedding(bytes: &[u8]) {
    let files = |weights: &[u8], tokenizer: &[u8], config: &[u8]| ModelBytes {
        weights: weights.to_vec(),
        tokenizer: tokenizer.to_vec(),
        config: config.to_vec(),
    };
    let mut candidates = vec![files(bytes, TOKENIZER, CONFIG)];
    if bytes.trim_ascii_start().starts_with(b"{") {
        candidates.push(files(WEIGHTS, bytes, CONFIG));
        candidates.push(files(WEIGHTS, TOKENIZER, bytes));
    }
    for candidate in candidates {
        let Ok(model) = SentenceModel::load(candidate, &Device::Cpu) else { continue };
        let texts = ["", "white heart", "WHITE hearts\u{301} \u{0} 心"];
        if let Ok(embedded) = model.embed(&texts, &AtomicBool::new(false), &mut |_, _| {}) {
            assert_eq!(embedded.vectors.dim(), (texts.len(), model.width()));
        }
    }
}

fn files(bytes: &[u8]) {
    let scratch = Scratch::new();
    let path = scratch.file("model", bytes);
    let _ = (arrays::read::<f32>(&path), arrays::read::<f64>(&path));
    let again = scratch.path().join("again");
    std::fs::create_dir(&again).expect("a directory of a moment");
    let _ = Scored::read(&path, Frequency::Lines, &again);
}
