//! Which blobs a record needs, and on whose behalf: what reachability is made of, for verification, backup and
//! collection alike.

use segue_proto::{
    ids::{Digest, RunId},
    v1,
};

use super::{codec::Value, keys::Key};

/// How a run names an uploaded file among its parameters.
const UPLOADED: &str = "blob:";

/// A blob that a record needs, with the size that the record gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    pub(crate) digest: Digest,
    /// None where the record does not say.
    pub(crate) size_bytes: Option<u64>,
}

/// On whose behalf a record needs its blobs: they stay as long as this does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder<'a> {
    /// A run with its tasks, attempts, outputs and fan-outs. Whatever belongs to a run goes with it: see the collection.
    Run(&'a RunId),
    /// A committed result.
    Cache,
    /// A version of a model, for ever.
    Model,
    /// Nobody: the record is about the blob, and goes with it.
    Blob,
    /// Something that is never collected.
    Store,
}

/// Says on whose behalf a record needs its blobs. A kind of record that is not named here is never collected.
pub(crate) const fn holder(key: &Key) -> Holder<'_> {
    match key {
        Key::Run(run)
        | Key::Task { run, .. }
        | Key::Attempt { run, .. }
        | Key::Produced { run, .. }
        | Key::Expansion { run, .. }
        | Key::ChangedInputs { run, .. } => Holder::Run(run),
        Key::Cache(_) => Holder::Cache,
        Key::ModelVersion { .. } => Holder::Model,
        Key::Artifact(_) => Holder::Blob,
        _ => Holder::Store,
    }
}

/// Gives the uploaded files that parameters name.
pub(crate) fn uploads<'a>(values: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = Digest> {
    // A text that merely begins alike is no digest.
    values.into_iter().filter_map(|value| value.strip_prefix(UPLOADED)?.parse().ok())
}

/// Gives the blobs that a record needs; a digest that cannot be read is the error.
pub(crate) fn of(key: &Key, value: &Value) -> Result<Vec<Needed>, String> {
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
            needed.extend(uploads(run.params.values()).map(|digest| Needed { digest, size_bytes: None }));
        }
        // Its runs are still to be made.
        Value::Backfill(backfill) => {
            needed.extend(uploads(backfill.params.values()).map(|digest| Needed { digest, size_bytes: None }));
        }
        Value::Meta
        | Value::Expansion(_)
        | Value::Pipeline(_)
        | Value::Idempotency(_)
        | Value::Alias(_)
        | Value::PipelineVersion(_)
        | Value::PipelineRun(_)
        | Value::DroppedRun(_)
        | Value::ActiveRun(_)
        | Value::ChangedInputs(_)
        | Value::Schedule(_)
        | Value::Interval(_)
        | Value::BackfillInterval(_)
        | Value::Worker(_)
        | Value::Pool(_) => {}
        // What has happened stays true when its bytes are gone.
        Value::Events(_) | Value::Cursor(_) | Value::Delivery(_) | Value::Sla(_) => {}
    }
    Ok(needed)
}
