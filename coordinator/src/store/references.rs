//! Which blobs a record needs.

use segue_proto::{ids::Digest, v1};

use super::{codec::Value, keys::Key};

/// How a run names an uploaded file among its parameters.
const UPLOADED: &str = "blob:";

/// A blob that a record needs, with the size that the record gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) digest: Digest,
    /// None where the record does not say.
    pub(super) size_bytes: Option<u64>,
}

/// Gives the blobs that a record needs; a digest that cannot be read is the error.
pub(super) fn of(key: &Key, value: &Value) -> Result<Vec<Needed>, String> {
    let mut needed = Vec::new();
    let mut add = |artifact: Option<&v1::Artifact>| -> Result<(), String> {
        let Some(artifact) = artifact else { return Err(format!("the record `{key}` names no artifact")) };
        let digest = artifact.digest.parse().map_err(|e| format!("the record `{key}`: {e}"))?;
        needed.push(Needed { digest, size_bytes: Some(artifact.size_bytes) });
        Ok(())
    };
    let mut add_all = |named: &[v1::NamedArtifact]| named.iter().try_for_each(|named| add(named.artifact.as_ref()));
    match value {
        Value::Task(task) => {
            add_all(&task.outputs)?;
            if let Some(attempt) = &task.last {
                add_all(&attempt.inputs)?;
                add_all(&attempt.outputs)?;
            }
        }
        Value::Attempt(attempt) => {
            add_all(&attempt.inputs)?;
            add_all(&attempt.outputs)?;
        }
        Value::Cache(cache) => add_all(&cache.outputs)?,
        Value::ModelVersion(version) => {
            add_all(&version.inputs)?;
            add(version.artifact.as_ref())?;
        }
        Value::Artifact(record) => add(record.artifact.as_ref())?,
        Value::Produced(view) => add(view.artifact.as_ref())?,
        Value::Run(run) => {
            let uploads = run.params.values().filter_map(|value| value.strip_prefix(UPLOADED));
            // A text that merely begins alike is no digest.
            needed.extend(
                uploads.filter_map(|digest| digest.parse().ok()).map(|digest| Needed { digest, size_bytes: None }),
            );
        }
        Value::Meta
        | Value::Expansion(_)
        | Value::Pipeline(_)
        | Value::Idempotency(_)
        | Value::Alias(_)
        | Value::Worker(_)
        | Value::Pool(_) => {}
    }
    Ok(needed)
}
