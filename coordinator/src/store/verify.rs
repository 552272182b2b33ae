//! Reads everything once and says what does not add up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::StreamExt as _;
use segue_proto::{
    ids::{BackfillId, Digest, RunId},
    store::v1::EventsRecord,
};

use super::{
    SledStore, StateDir, Store,
    codec::{self, Value},
    error::Error,
    keys::{Key, describe},
    references, visit,
};
use crate::blobs::{BlobStore, Verdict, blocking};

/// Problems that are listed; more are counted. A store that is damaged everywhere must not fill the memory.
const LISTED: usize = 1000;

/// What was read, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// One sentence each, naming the record or the blob.
    pub problems: Vec<String>,
    pub records: u64,
    /// Blobs that records need and that are good.
    pub blobs: u64,
    /// Of those blobs.
    pub bytes: u64,
    /// Blobs that no record needs. No fault: an attempt that failed after an upload leaves some.
    pub orphans: u64,
}

/// Reads every record and every blob that a record needs. Store and blobs may be in use: what is written meanwhile may
/// or may not be looked at.
///
/// # Errors
/// Only if reading itself fails; what is wrong with the data is in the report.
pub async fn verify(store: Arc<dyn Store>, blobs: &BlobStore) -> Result<VerifyReport, Error> {
    let mut found = blocking(move || {
        let mut found = Findings::default();
        match store.check().and_then(|()| found.read(store.as_ref())) {
            Ok(()) => Ok(found),
            // What can be read is looked at all the same.
            Err(damaged @ Error::Damaged { .. }) => {
                found.problem(damaged.to_string());
                match found.read(store.as_ref()) {
                    Ok(()) => Ok(found),
                    Err(e @ (Error::Damaged { .. } | Error::Corrupt { .. })) => {
                        found.problem(format!("not all records can be read: {e}"));
                        Ok(found)
                    }
                    Err(e) => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    })
    .await?;

    for (digest, uses) in std::mem::take(&mut found.needed) {
        match blobs.verify_one(&digest).await? {
            Verdict::Good { size_bytes } => {
                found.report.blobs += 1;
                found.report.bytes += size_bytes;
                if let Some((record, said)) = uses.sizes.iter().find(|&&(_, said)| said != size_bytes) {
                    found.problem(format!(
                        "blob {digest} has {size_bytes} bytes, and the record `{record}` says {said}"
                    ));
                }
            }
            Verdict::Missing => found.problem(format!("blob {digest} is missing: {}", uses.describe())),
            Verdict::Wrong { actual, size_bytes } => found.problem(format!(
                "blob {digest} is damaged: its {size_bytes} bytes have the digest {actual}: {}",
                uses.describe()
            )),
        }
        found.seen.insert(digest);
    }
    let mut listed = blobs.list();
    while let Some(blob) = listed.next().await {
        found.report.orphans += u64::from(!found.seen.contains(&blob?.digest));
    }
    Ok(found.finish())
}

/// Reads every record once, and no blob.
///
/// # Errors
/// As [`verify`].
pub(crate) fn records(store: &dyn Store) -> Result<VerifyReport, Error> {
    let mut found = Findings::default();
    found.read(store)?;
    Ok(found.finish())
}

/// Verifies a state directory that no coordinator holds, with its blobs beside the store.
///
/// # Errors
/// Those of [`SledStore::open_existing`] and of [`verify`].
pub async fn verify_dir(dir: &StateDir) -> Result<VerifyReport, Error> {
    let store_dir = dir.store();
    let store = blocking(move || SledStore::open_to_look(store_dir)).await?;
    verify(Arc::new(store), &BlobStore::open_to_read(dir.root())?).await
}

#[derive(Default)]
struct Findings {
    report: VerifyReport,
    unlisted: u64,
    needed: BTreeMap<Digest, Uses>,
    seen: BTreeSet<Digest>,
    /// Runs with their number of tasks, where the record says it.
    runs: BTreeMap<RunId, Option<u32>>,
    /// Runs that a collection is taking away: what is left of them is no fault, and needs nothing.
    dropped: BTreeSet<RunId>,
    pipelines: BTreeSet<Digest>,
    artifacts: BTreeSet<Digest>,
    versions: BTreeSet<(String, u32)>,
    /// Backfills with their number of intervals.
    backfills: BTreeMap<BackfillId, u32>,
    /// Offset that the next record of the feed must begin with.
    next_event: Option<u64>,
}

/// Names kept of those who need a blob: enough to know what to run again.
const NAMED: usize = 4;

/// Who needs a blob.
#[derive(Default)]
struct Uses {
    producers: Vec<String>,
    records: Vec<String>,
    /// Each size that a record gives, with such a record.
    sizes: Vec<(String, u64)>,
}

impl Uses {
    /// Names the producers, or the records where there are none.
    fn describe(&self) -> String {
        let (what, names) =
            if self.producers.is_empty() { ("needed by", &self.records) } else { ("produced by", &self.producers) };
        let more = if names.len() == NAMED { ", and perhaps others" } else { "" };
        format!("{what} {}{more}", names.join(", "))
    }
}

impl Findings {
    fn problem(&mut self, text: String) {
        if self.report.problems.len() < LISTED { self.report.problems.push(text) } else { self.unlisted += 1 }
    }

    fn finish(mut self) -> VerifyReport {
        if self.unlisted > 0 {
            self.report.problems.push(format!("and {} more problems", self.unlisted));
        }
        self.report
    }

    fn read(&mut self, store: &dyn Store) -> Result<(), Error> {
        // First what others point at, then what points.
        for pointing in [false, true] {
            visit(store, &[], |key, value| {
                let read = Key::decode(&key)
                    .map_err(|e| format!("the record `{}` cannot be read: {e}", describe(&key)))
                    .and_then(|key| {
                        let value = codec::decode_any(&key, &value).map_err(|e| e.to_string())?;
                        Ok((key, value))
                    });
                match read {
                    Ok((key, value)) if pointing => self.check(&key, &value),
                    Ok((key, value)) => self.collect(&key, &value),
                    Err(problem) if pointing => self.problem(problem),
                    Err(_) => {}
                }
                self.report.records += u64::from(pointing);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn collect(&mut self, key: &Key, value: &Value) {
        match (key, value) {
            (Key::Run(run), Value::Run(record)) => {
                self.runs.insert(*run, task_count(&record.spec));
            }
            (Key::DroppedRun(run), _) => {
                self.dropped.insert(*run);
            }
            (Key::Pipeline(version), _) => {
                self.pipelines.insert(version.clone());
            }
            (Key::Artifact(digest), _) => {
                self.artifacts.insert(digest.clone());
            }
            (Key::ModelVersion { name, version }, _) => {
                self.versions.insert((name.as_str().to_owned(), *version));
            }
            (Key::Backfill(id), Value::Backfill(record)) => {
                self.backfills.insert(id.clone(), record.intervals);
            }
            _ => {}
        }
    }

    fn check(&mut self, key: &Key, value: &Value) {
        self.check_own_name(key, value);
        if let references::Holder::Run(run) = references::holder(key)
            && self.dropped.contains(run)
        {
            return;
        }
        match (key, value) {
            (
                Key::Task { run, task }
                | Key::Attempt { run, task, .. }
                | Key::Produced { run, task, .. }
                | Key::ChangedInputs { run, task, .. }
                | Key::Expansion { run, task },
                _,
            ) => {
                match self.runs.get(run) {
                    None => self.problem(format!("the record `{key}` belongs to a run that does not exist")),
                    // Children of fan-outs are beyond all tasks.
                    Some(Some(tasks)) if task >= tasks && *task < crate::core::FIRST_CHILD => {
                        self.problem(format!("the record `{key}` is beyond the {tasks} tasks of its run"));
                    }
                    Some(_) => {}
                }
                if let Value::Produced(view) = value
                    && let Some(artifact) = &view.artifact
                    && artifact.digest.parse().is_ok_and(|digest: Digest| !self.artifacts.contains(&digest))
                {
                    self.problem(format!(
                        "the record `{key}` names the artifact {}, which has no record",
                        artifact.digest
                    ));
                }
            }
            (Key::Alias { name, alias }, Value::Alias(record))
                if !self.versions.contains(&(name.as_str().to_owned(), record.version)) =>
            {
                let version = record.version;
                self.problem(format!("the alias `{name}@{alias}` names version {version}, which does not exist"));
            }
            (Key::Idempotency(_), Value::Idempotency(record))
                if RunId::try_from(record.run_id.clone()).map_or(true, |run| !self.runs.contains_key(&run)) =>
            {
                self.problem(format!("the record `{key}` names a run that does not exist"));
            }
            (Key::BackfillInterval { backfill, index }, _)
                if self.backfills.get(backfill).is_none_or(|intervals| index >= intervals) =>
            {
                self.problem(format!("the record `{key}` belongs to no backfill that is so long"));
            }
            (Key::PipelineRun { run, .. }, _) if !self.runs.contains_key(run) => {
                self.problem(format!("the record `{key}` names a run that does not exist"));
            }
            (Key::PipelineVersion { version, .. }, _) if !self.pipelines.contains(version) => {
                self.problem(format!("the record `{key}` names a version that does not exist"));
            }
            (Key::Sla(run) | Key::ActiveRun(run), _) if !self.runs.contains_key(run) => {
                self.problem(format!("the record `{key}` belongs to a run that does not exist"));
            }
            (Key::Events(first), Value::Events(record)) => self.check_events(*first, record),
            _ => {}
        }
        match references::of(key, value) {
            Ok(needed) => needed.into_iter().for_each(|blob| self.need(key, value, blob)),
            Err(problem) => self.problem(problem),
        }
    }

    /// The feed has no gaps: what follows a record begins where that one ends.
    fn check_events(&mut self, first: u64, record: &EventsRecord) {
        if let Some(expected) = self.next_event.filter(|expected| *expected != first) {
            self.problem(format!("the feed has a gap: events {expected} to {} are missing", first.saturating_sub(1)));
        }
        self.next_event = Some(first.saturating_add(record.events.len() as u64));
    }

    /// Compares what a record says of itself with its key.
    fn check_own_name(&mut self, key: &Key, value: &Value) {
        let same = match (key, value) {
            (Key::Run(run), Value::Run(record)) => record.run_id == run.to_string(),
            (Key::Attempt { attempt, .. }, Value::Attempt(record)) => {
                record.view.as_ref().is_some_and(|view| view.attempt == *attempt)
            }
            (Key::Pipeline(version), Value::Pipeline(record)) => record.version == version.as_str(),
            (Key::Artifact(digest), Value::Artifact(record)) => {
                record.artifact.as_ref().is_some_and(|artifact| artifact.digest == digest.as_str())
            }
            (Key::ModelVersion { version, .. }, Value::ModelVersion(record)) => record.version == *version,
            (Key::Schedule(name), Value::Schedule(record)) => record.name == name.as_str(),
            (Key::Backfill(id), Value::Backfill(record)) => record.id == id.as_str(),
            (Key::Worker(name), Value::Worker(record)) => record.name == name.as_str(),
            (Key::Pool(name), Value::Pool(record)) => record.name == name.as_str(),
            _ => true,
        };
        if !same {
            self.problem(format!("the record `{key}` says of itself that it is another one"));
        }
    }

    fn need(&mut self, key: &Key, value: &Value, blob: references::Needed) {
        let uses = self.needed.entry(blob.digest).or_default();
        if uses.records.len() < NAMED {
            uses.records.push(key.to_string());
        }
        if let Some(size) = blob.size_bytes
            && uses.sizes.len() < NAMED
            && uses.sizes.iter().all(|&(_, said)| said != size)
        {
            uses.sizes.push((key.to_string(), size));
        }
        if let Value::Artifact(record) = value {
            let room = NAMED.saturating_sub(uses.producers.len());
            uses.producers.extend(
                record
                    .producers
                    .iter()
                    .take(room)
                    .map(|by| format!("{}.{} (attempt {}) of {}", by.task, by.output, by.attempt, by.run_id)),
            );
        }
    }
}

/// Gives the number of tasks of a bound run, or none where it is not kept or of another shape.
fn task_count(spec: &[u8]) -> Option<u32> {
    let spec: serde_json::Value = serde_json::from_slice(spec).ok()?;
    u32::try_from(spec.get("tasks")?.as_array()?.len()).ok()
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
