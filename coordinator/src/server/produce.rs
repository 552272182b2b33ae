//! Records of what attempts leave behind: artifacts with their producers, cache entries, model versions.

use std::collections::BTreeMap;

use segue_proto::{
    artifact::{ModelRegistration, NamedArtifact},
    failure::{Failure, FailureClass},
    ids::{Digest, RunId, Token},
    store::v1::{ArtifactRecord, CacheRecord, Producer},
    v1,
};

use super::{error::Error, fleet, records, reread::Checks};
use crate::{
    core::{CachedResult, Core, Event, Outcome, Record, Run, UnixMillis},
    registry,
    spec::Work,
    store::{self, Batch, Key, Store},
};

/// Producers that are kept per artifact: enough for lineage, bounded for outputs that every run makes again. The first
/// one and the newest ones are kept, so that each production changes the record: a collection sees that it is needed.
const MOST_PRODUCERS: usize = 32;

/// What one commit makes, beside what is in its batch already.
#[derive(Debug, Default)]
pub struct Made {
    /// Artifacts with all of their producers. Equal bytes may be put out more than once in a commit: each producer must see
    /// those before it.
    artifacts: BTreeMap<Digest, ArtifactRecord>,
    /// Attempts whose external inputs are digested again before their results may be used again.
    pub checks: Checks,
}

impl Made {
    /// Gives the record of an artifact as it is so far.
    fn artifact(&mut self, digest: &Digest, store: &dyn Store) -> Result<&mut ArtifactRecord, store::Error> {
        if !self.artifacts.contains_key(digest) {
            let stored = store::read::<ArtifactRecord>(store, &Key::Artifact(digest.clone()))?;
            self.artifacts.insert(digest.clone(), stored.unwrap_or_default());
        }
        Ok(self.artifacts.entry(digest.clone()).or_default())
    }

    /// Adds the artifacts to the batch, once everything is added to them. Gives the attempts that are to be checked.
    pub fn write(self, batch: &mut Batch) -> Checks {
        for (digest, record) in self.artifacts {
            batch.put(&Key::Artifact(digest), &record);
        }
        self.checks
    }
}

/// Adds a record to the batch, and what it says of artifacts to what the commit makes.
///
/// # Errors
/// Those of the store and of the registry.
pub fn add(
    record: &Record,
    core: &Core,
    store: &dyn Store,
    batch: &mut Batch,
    made: &mut Made,
    now: UnixMillis,
) -> Result<(), Error> {
    match record {
        Record::Produced { run, task, attempt, outputs, cached } => {
            let state = find(core, run)?;
            let Some(name) = state.name_of(*task) else { return Ok(()) };
            for output in outputs {
                let place = Place { run, index: *task, task: name.as_str(), attempt: *attempt, cached: *cached, now };
                produced(&place, output, store, batch, made)?;
            }
            Ok(())
        }
        Record::Cached { key, run, task, attempt, result } => {
            let record = cache_record(find(core, run)?, *task, *attempt, result, now);
            if let Some((key, record)) = made.checks.hold((*run, *task, *attempt), key.clone(), record) {
                batch.put(&Key::Cache(key), &record);
            }
            Ok(())
        }
        Record::Models { run, task, attempt, models, inputs } => {
            let state = find(core, run)?;
            let Some(entry) = state.task(*task) else { return Ok(()) };
            register(state, *task, *attempt, models, inputs, &entry.outputs, store, batch, now)?;
            Ok(())
        }
        Record::Worker { name, settings } => {
            fleet::put_settings(batch, name, settings);
            Ok(())
        }
        Record::Pool { name, slots, description } => {
            fleet::put_pool(batch, name, *slots, description);
            Ok(())
        }
    }
}

fn cache_record(run: &Run, task: u32, attempt: u32, result: &CachedResult, now: UnixMillis) -> CacheRecord {
    let (operator, version) = match run.bound(task).map(|bound| &bound.work) {
        Some(Work::Operator { name, version, .. }) => (name.as_str(), version.as_str()),
        _ => ("command", ""),
    };
    CacheRecord {
        outputs: records::wire_artifacts(&result.outputs),
        metrics_json: result.metrics_json.clone(),
        inline_json: records::inline_json(&result.inline),
        run_id: run.id.to_string(),
        task: run.name_of(task).map(String::from).unwrap_or_default(),
        attempt,
        created_ms: now,
        pipeline: run.spec.pipeline.to_string(),
        operator: operator.to_owned(),
        operator_version: version.to_owned(),
    }
}

/// Says whether the registry would take the models of an attempt that reports success.
///
/// # Errors
/// Those of the registry: the attempt is at fault.
fn check_models(
    core: &Core,
    store: &dyn Store,
    token: &Token,
    models: &[ModelRegistration],
    outputs: &[NamedArtifact],
    now: UnixMillis,
) -> Result<(), Error> {
    // A stale report is not looked at: the core acknowledges and ignores it.
    let Some(run) = core.run(&token.run) else { return Ok(()) };
    let Some(inputs) = run.inputs_of(token.index) else { return Ok(()) };
    match register(run, token.index, token.attempt, models, &inputs, outputs, store, &mut Batch::new(), now) {
        // A store that cannot be read is no fault of the attempt: the commit of its success reads the same again, and where
        // that fails too the coordinator stops, and is told once more when it is back.
        Err(Error::Store(store::Error::Io { .. } | store::Error::Stopped { .. })) => Ok(()),
        checked => checked,
    }
}

/// Turns a success whose models cannot be registered into a failure, before anything is decided on it.
pub fn with_valid_models(event: Event, core: &Core, store: &dyn Store, now: UnixMillis) -> Event {
    let Event::Finished { worker, token, usage, outcome, log_bytes } = event else { return event };
    let outcome = match outcome {
        Outcome::Success { outputs, models, metrics_json, inline } if !models.is_empty() => {
            match check_models(core, store, &token, &models, &outputs, now) {
                Ok(()) => Outcome::Success { outputs, models, metrics_json, inline },
                Err(e) => Outcome::Failure(Failure::new(FailureClass::User, e.to_string())),
            }
        }
        outcome => outcome,
    };
    Event::Finished { worker, token, usage, outcome, log_bytes }
}

#[allow(clippy::too_many_arguments)] // The facts of one registration.
fn register(
    run: &Run,
    task: u32,
    attempt: u32,
    models: &[ModelRegistration],
    inputs: &[NamedArtifact],
    outputs: &[NamedArtifact],
    store: &dyn Store,
    batch: &mut Batch,
    now: UnixMillis,
) -> Result<(), Error> {
    let Some(name) = run.name_of(task) else { return Ok(()) };
    let wire: Vec<v1::ModelRegistration> = models.iter().cloned().map(Into::into).collect();
    let lineage = registry::Lineage {
        run: &run.id,
        task: &name,
        attempt,
        pipeline: run.spec.pipeline.as_str(),
        pipeline_version: &run.spec.version,
        inputs: &records::wire_artifacts(inputs),
        outputs: &records::wire_artifacts(outputs),
        external_inputs: &run.external_inputs,
        now_ms: now,
    };
    registry::register(store, batch, &wire, &lineage)?;
    Ok(())
}

fn find<'a>(core: &'a Core, run: &RunId) -> Result<&'a Run, Error> {
    core.run(run).ok_or_else(|| Error::Internal(format!("run `{run}` produced records after it was forgotten")))
}

struct Place<'a> {
    run: &'a RunId,
    index: u32,
    task: &'a str,
    attempt: u32,
    cached: bool,
    now: UnixMillis,
}

fn produced(
    place: &Place<'_>,
    output: &NamedArtifact,
    store: &dyn Store,
    batch: &mut Batch,
    made: &mut Made,
) -> Result<(), Error> {
    let Ok(port) = output.name.parse() else {
        return Err(Error::Internal(format!("output `{}` has no valid name", output.name)));
    };
    let view = v1::ArtifactView {
        run_id: place.run.to_string(),
        task: place.task.to_owned(),
        output: output.name.clone(),
        attempt: place.attempt,
        artifact: Some(output.artifact.clone().into()),
        created_ms: place.now,
        cached: place.cached,
    };
    batch.put(&Key::Produced { run: *place.run, task: place.index, output: port }, &view);

    let record = made.artifact(&output.artifact.digest, store)?;
    record.artifact = Some(output.artifact.clone().into());
    if record.producers.len() >= MOST_PRODUCERS {
        record.producers.remove(1);
    }
    record.producers.push(Producer {
        run_id: place.run.to_string(),
        task: place.task.to_owned(),
        output: output.name.clone(),
        attempt: place.attempt,
        created_ms: place.now,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use segue_proto::ids::Digest;

    use super::*;
    use crate::{
        core::tests::support::{Bench, success, task},
        store::MemoryStore,
    };

    #[test]
    fn equal_bytes_that_come_twice_in_one_commit_have_both_producers() {
        let mut bench = Bench::new();
        bench.worker("w", 2);
        let id = bench.submit(1, vec![task("first", &[]), task("second", &[])]);
        let store = MemoryStore::new();
        let outcome = success("the same");
        let crate::core::Outcome::Success { outputs, .. } = outcome else { unreachable!() };
        let made = |task| Record::Produced { run: id, task, attempt: 1, outputs: outputs.clone(), cached: false };
        let commit = |records: &[Record]| {
            let (mut batch, mut together) = (Batch::new(), Made::default());
            for record in records {
                add(record, &bench.core, &store, &mut batch, &mut together, 5).unwrap();
            }
            drop(together.write(&mut batch));
            store.apply(&batch).unwrap();
        };
        let producers = || -> Vec<String> {
            let key = Key::Artifact(Digest::of(b"the same"));
            let record = store::read::<ArtifactRecord>(&store, &key).unwrap().unwrap();
            record.producers.into_iter().map(|producer| producer.task).collect()
        };
        commit(&[made(0), made(1)]);
        assert_eq!(producers(), ["first", "second"]);
        commit(&[made(1)]);
        assert_eq!(producers(), ["first", "second", "second"], "those of earlier commits stay");
    }
}
