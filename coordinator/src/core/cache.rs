//! Cache keys: operator name and version, its parameters, input digests.

use std::collections::BTreeMap;

use segue_proto::artifact::NamedArtifact;
use serde_json::Value;

use super::Run;
use crate::spec::{BoundTask, Work};

/// Gives the cache key of a task or child of a run, once what it needs has ended.
#[must_use]
pub fn key_of(run: &Run, index: u32) -> Option<String> {
    let bound = run.bound(index).filter(|bound| bound.cache)?;
    let inputs = run.inputs_of(index)?;
    let Some(item) = run.item_of(index) else { return key(bound, &inputs, &run.external_inputs) };
    let child =
        crate::spec::resolve_child(bound, &run.spec.working_dir, &item.value, item.key.as_str(), item.ordinal).ok()?;
    let mut own = bound.clone();
    (own.work, own.params, own.env) = (child.work, child.params, child.env);
    // A command finds its item in its environment.
    own.params.insert("segue.item".to_owned(), item.value);
    own.params.insert("segue.key".to_owned(), item.key.as_str().into());
    key(&own, &inputs, &run.external_inputs)
}

/// Gives the cache key of a task whose inputs are there, or `None` where its results must not be reused.
///
/// A path parameter enters by the digest of its content: without a digest (the coordinator could not read it) there is
/// no key, because equal paths may hold other bytes.
#[must_use]
pub fn key(task: &BoundTask, inputs: &[NamedArtifact], external_inputs: &BTreeMap<String, String>) -> Option<String> {
    if !task.cache {
        return None;
    }
    let mut hash = blake3::Hasher::new();
    let mut part = |label: &str, text: &str| {
        // Lengths keep `ab` + `c` apart from `a` + `bc`.
        for piece in [label, text] {
            hash.update(&(piece.len() as u64).to_be_bytes());
            hash.update(piece.as_bytes());
        }
    };
    match &task.work {
        Work::Operator { name, version, .. } => {
            part("operator", name);
            part("version", version);
        }
        Work::Command { argv } => {
            for word in argv {
                part("word", word);
            }
        }
        Work::Sensor { .. } => return None,
    }
    let mut params: BTreeMap<&str, &Value> = task.params.iter().map(|(name, value)| (name.as_str(), value)).collect();
    for name in &task.path_params {
        if let Some(value) = params.remove(name.as_str()) {
            let Value::String(path) = value else { continue };
            part("external", name);
            part("digest", external_inputs.get(path)?);
        }
    }
    for (name, value) in params {
        part("param", name);
        part("value", &value.to_string());
    }
    for (name, value) in &task.env {
        part("env", name);
        // The reference of a secret, never its value.
        part("value", &format!("{value:?}"));
    }
    for input in inputs {
        part("input", &input.name);
        if let Some(key) = &input.key {
            part("key", key.as_str());
        }
        part("digest", input.artifact.digest.as_str());
    }
    for output in &task.outputs {
        part("output", &output.name);
    }
    Some(hash.finalize().to_hex().to_string())
}
