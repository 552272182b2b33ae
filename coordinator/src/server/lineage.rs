//! Artifacts of runs, and where an artifact comes from.

use std::collections::{BTreeSet, VecDeque};

use segue_proto::{
    ids::{Digest, RunId},
    store::v1::{ArtifactRecord, ChangedInputsRecord, Producer},
    v1,
};

use super::{error::Error, find::resolve, records, views};
use crate::{
    core::Run,
    spec::Work,
    store::{self, Key, Store, keys::prefix},
};

/// Most artifacts of one answer.
const MOST_ROWS: usize = 10_000;
/// Most nodes of one lineage.
const MOST_NODES: usize = 1_000;

/// Lists artifacts of one run, or of all runs with the newest first.
///
/// # Errors
/// An unknown run, and those of the store.
pub fn list(store: &dyn Store, request: &v1::ListArtifactsRequest) -> Result<Vec<v1::ArtifactView>, Error> {
    let limit = if request.limit == 0 { MOST_ROWS } else { (request.limit as usize).min(MOST_ROWS) };
    if !request.run_id.is_empty() {
        let id = resolve(store, &request.run_id)?;
        return of_run(store, &id, request, limit);
    }
    let mut found = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    while found.len() < limit {
        let rows = store.scan_back(&prefix::runs(), before.as_deref(), 64)?;
        let Some(last) = rows.last() else { break };
        before = Some(last.0.clone());
        for (key, _) in &rows {
            if let Ok(Key::Run(id)) = Key::decode(key) {
                let room = limit - found.len();
                found.extend(of_run(store, &id, request, room)?);
            }
        }
    }
    Ok(found)
}

fn of_run(
    store: &dyn Store,
    id: &RunId,
    request: &v1::ListArtifactsRequest,
    limit: usize,
) -> Result<Vec<v1::ArtifactView>, Error> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let run = if request.operator.is_empty() { None } else { records::load_run(store, id)? };
    let mut found = Vec::new();
    store::visit(store, &prefix::produced(id), |key, value| {
        let (key, view) = store::codec::decode_row::<v1::ArtifactView>(&key, &value)?;
        let Key::Produced { task, .. } = key else { return Ok(()) };
        let wanted = (request.output.is_empty() || request.output == view.output)
            && (request.operator.is_empty() || operator_of(run.as_ref(), task) == Some(&request.operator));
        if wanted && found.len() < limit {
            found.push(view);
        }
        Ok(())
    })?;
    Ok(found)
}

fn operator_of(run: Option<&Run>, task: u32) -> Option<&String> {
    match &run?.bound(task)?.work {
        Work::Operator { name, .. } => Some(name),
        Work::Command { .. } | Work::Sensor { .. } => None,
    }
}

/// Traces an artifact back to the external inputs: producers first, breadth first.
///
/// # Errors
/// An unknown or ambiguous digest, and those of the store.
pub fn trace(store: &dyn Store, start: &str) -> Result<v1::LineageResponse, Error> {
    let first = find(store, start)?;
    let mut nodes = Vec::new();
    let mut seen = BTreeSet::from([first.clone()]);
    let mut queue = VecDeque::from([(first, 0_u32)]);
    while let Some((digest, depth)) = queue.pop_front() {
        if nodes.len() >= MOST_NODES {
            break;
        }
        let Some(record) = store::read::<ArtifactRecord>(store, &Key::Artifact(digest.clone()))? else { continue };
        let Some(producer) = best(store, &record.producers)? else { continue };
        let mut node = v1::LineageNode {
            artifact: Some(v1::ArtifactView {
                run_id: producer.run_id.clone(),
                task: producer.task.clone(),
                output: producer.output.clone(),
                attempt: producer.attempt,
                artifact: record.artifact.clone(),
                created_ms: producer.created_ms,
                cached: producer.attempt == 0,
            }),
            depth,
            ..v1::LineageNode::default()
        };
        if let Some(run) = producer.run_id.parse().ok().and_then(|id| records::load_run(store, &id).transpose()) {
            let run = run?;
            if let Some((index, bound)) = run.find(&producer.task).and_then(|index| Some((index, run.bound(index)?))) {
                node.work = match &bound.work {
                    Work::Operator { name, version, .. } => format!("{name} {version}"),
                    command @ (Work::Command { .. } | Work::Sensor { .. }) => views::work_text(command),
                };
                let attempt = run
                    .task(index)
                    .and_then(|task| task.attempts.iter().find(|attempt| attempt.number == producer.attempt));
                node.inputs = attempt
                    .map(|attempt| records::wire_artifacts(&attempt.inputs))
                    .or_else(|| run.inputs_of(index).map(|inputs| records::wire_artifacts(&inputs)))
                    .unwrap_or_default();
                let changed = Key::ChangedInputs { run: run.id, task: index, attempt: producer.attempt };
                let changed = store::read::<ChangedInputsRecord>(store, &changed)?.unwrap_or_default().digests;
                for (param, place) in super::external::of_task(&run, index) {
                    if let Some(digest) = changed.get(&place) {
                        node.changed_inputs.insert(param.clone(), digest.clone());
                    }
                    if let Some(digest) = run.external_inputs.get(&place) {
                        node.external_inputs.insert(param, digest.clone());
                    }
                }
            }
        }
        for input in &node.inputs {
            let digest = input.artifact.as_ref().and_then(|artifact| artifact.digest.parse::<Digest>().ok());
            if let Some(digest) = digest
                && seen.insert(digest.clone())
            {
                queue.push_back((digest, depth + 1));
            }
        }
        nodes.push(node);
    }
    Ok(v1::LineageResponse { nodes })
}

/// Chooses the producer that tells most: one whose run is still kept, for that run knows the inputs; and of these one that
/// executed rather than one that used the cache.
fn best<'p>(store: &dyn Store, producers: &'p [Producer]) -> Result<Option<&'p Producer>, Error> {
    let mut kept_but_cached = None;
    for producer in producers {
        let kept = match producer.run_id.parse() {
            Ok(id) => store.get(&Key::Run(id).encode())?.is_some(),
            Err(_) => false,
        };
        match (kept, producer.attempt > 0) {
            (true, true) => return Ok(Some(producer)),
            (true, false) => kept_but_cached = kept_but_cached.or(Some(producer)),
            (false, _) => {}
        }
    }
    let executed = || producers.iter().find(|producer| producer.attempt > 0);
    Ok(kept_but_cached.or_else(executed).or(producers.first()))
}

fn find(store: &dyn Store, start: &str) -> Result<Digest, Error> {
    let none = || Error::NotFound(format!("there is no artifact `{}`", start.chars().take(64).collect::<String>()));
    if start.len() < 4 || !start.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Error::BadRequest(
            "give at least 4 characters of the digest, as `segue artifacts list` shows it".into(),
        ));
    }
    let rows = store.scan(&prefix::artifacts_like(&start.to_lowercase()), None, 2)?;
    match rows.as_slice() {
        [] => Err(none()),
        [(key, _)] => match Key::decode(key) {
            Ok(Key::Artifact(digest)) => Ok(digest),
            _ => Err(none()),
        },
        _ => Err(Error::BadRequest(format!("more than one artifact starts with `{start}`: give more characters"))),
    }
}
