//! Records of what attempts leave behind: artifacts with their producers, cache entries, model versions.

use segue_proto::{
    artifact::{ModelRegistration, NamedArtifact},
    ids::{RunId, Token},
    store::v1::{ArtifactRecord, CacheRecord, Producer},
    v1,
};

use super::{error::Error, fleet, records};
use crate::{
    core::{Core, Record, Run, UnixMillis},
    registry,
    spec::Work,
    store::{self, Batch, Key, Store},
};

/// Producers that are kept per artifact: enough for lineage, bounded for outputs that every run makes again. The first
/// one and the newest ones are kept, so that each production changes the record: a collection sees that it is needed.
const MOST_PRODUCERS: usize = 32;

/// Adds a record to the batch.
///
/// # Errors
/// Those of the store and of the registry.
pub fn add(record: &Record, core: &Core, store: &dyn Store, batch: &mut Batch, now: UnixMillis) -> Result<(), Error> {
    match record {
        Record::Produced { run, task, attempt, outputs, cached } => {
            let state = find(core, run)?;
            let Some(name) = state.name_of(*task) else { return Ok(()) };
            for output in outputs {
                let place = Place { run, index: *task, task: name.as_str(), attempt: *attempt, cached: *cached, now };
                produced(&place, output, store, batch)?;
            }
            Ok(())
        }
        Record::Cached { key, run, task, attempt, result } => {
            let state = find(core, run)?;
            let (operator, version) = match state.bound(*task).map(|bound| &bound.work) {
                Some(Work::Operator { name, version, .. }) => (name.as_str(), version.as_str()),
                _ => ("command", ""),
            };
            let record = CacheRecord {
                outputs: records::wire_artifacts(&result.outputs),
                metrics_json: result.metrics_json.clone(),
                inline_json: records::inline_json(&result.inline),
                run_id: run.to_string(),
                task: state.name_of(*task).map(String::from).unwrap_or_default(),
                attempt: *attempt,
                created_ms: now,
                pipeline: state.spec.pipeline.to_string(),
                operator: operator.to_owned(),
                operator_version: version.to_owned(),
            };
            batch.put(&Key::Cache(key.clone()), &record);
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

/// Says whether the registry would take the models of an attempt that reports success.
///
/// # Errors
/// Those of the registry: the attempt is at fault.
pub fn check_models(
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
    register(run, token.index, token.attempt, models, &inputs, outputs, store, &mut Batch::new(), now)
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

fn produced(place: &Place<'_>, output: &NamedArtifact, store: &dyn Store, batch: &mut Batch) -> Result<(), Error> {
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

    let key = Key::Artifact(output.artifact.digest.clone());
    let mut record = store::read::<ArtifactRecord>(store, &key)?.unwrap_or_default();
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
    batch.put(&key, &record);
    Ok(())
}
