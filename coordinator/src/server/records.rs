//! Runs to records and back: what a restart, a rerun and a view of an old run are made from.

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::{
    artifact::NamedArtifact,
    convert::BadMessage,
    failure::Failure,
    ids::RunId,
    store::v1::{AttemptRecord, ExpansionRecord, RunRecord, TaskRecord, expansion_record},
    v1,
};

use crate::{
    core::{Attempt, AttemptState, Group, Items, Live, Run, RunState, Task, TaskState, WorkerKey},
    spec::RunSpec,
    store::{self, Error, Key, Store, keys::prefix},
};

/// Encodes a run without its tasks.
#[must_use]
pub fn run_record(run: &Run) -> RunRecord {
    RunRecord {
        run_id: run.id.to_string(),
        pipeline: run.spec.pipeline.to_string(),
        version: run.spec.version.clone(),
        path: run.path.clone(),
        params: run.spec.params.clone(),
        state: run_state(run.state).into(),
        created_ms: run.created_at,
        waits_since_ms: run.waits_since,
        ended_ms: run.ended_at,
        generation: run.generation,
        idempotency_key: run.idempotency_key.clone(),
        asked: run.asked.clone(),
        no_cache: run.no_cache,
        priority: run.priority,
        tags: run.tags.clone(),
        counts: super::views::counted(run.tasks.iter().map(|task| &task.state)),
        external_inputs: run.external_inputs.clone(),
        cancelled_for: run.cancelled_for.clone(),
        // Serialising plain data with string keys cannot fail.
        spec: serde_json::to_vec(&*run.spec).unwrap_or_default().into(),
    }
}

/// Encodes a task.
#[must_use]
pub fn task_record(task: &Task) -> TaskRecord {
    let mut record = TaskRecord {
        state: task_state(&task.state).into(),
        next_attempt: task.next_attempt(),
        tries: task.tries,
        cached: task.cached,
        outputs: wire_artifacts(&task.outputs),
        failure: task.failure.as_deref().cloned().map(Into::into),
        metrics_json: task.metrics_json.clone(),
        ended_ms: task.ended_at,
        ready_ms: task.ready_at,
        forced: task.forced,
        next_child: task.next_child,
        last: task.attempts.last().map(attempt_record),
        inline_json: inline_json(&task.inline),
        ..TaskRecord::default()
    };
    match &task.state {
        TaskState::Backoff { until } => record.backoff_until_ms = *until,
        TaskState::Live(live) => {
            record.worker = live.worker.name.to_string();
            record.incarnation = live.worker.incarnation.to_string();
            record.token_epoch = live.epoch;
            record.reserved = Some(live.reserved.clone().into());
            record.started = live.started;
            record.ahead = live.ahead;
        }
        _ => {}
    }
    record
}

/// Encodes an attempt.
#[must_use]
pub fn attempt_record(attempt: &Attempt) -> AttemptRecord {
    AttemptRecord {
        view: Some(attempt_view(attempt)),
        inputs: wire_artifacts(&attempt.inputs),
        outputs: wire_artifacts(&attempt.outputs),
    }
}

/// Gives the wire form of an attempt.
#[must_use]
pub fn attempt_view(attempt: &Attempt) -> v1::AttemptView {
    v1::AttemptView {
        attempt: attempt.number,
        state: attempt_state(attempt.state).into(),
        worker: attempt.worker.name.to_string(),
        incarnation: attempt.worker.incarnation.to_string(),
        assigned_ms: attempt.assigned_at,
        started_ms: attempt.started_at,
        ended_ms: attempt.ended_at,
        usage: Some(attempt.usage.into()),
        failure: attempt.failure.as_deref().cloned().map(Into::into),
        log_bytes: attempt.log_bytes,
        epoch: attempt.epoch,
        generation: attempt.generation,
    }
}

/// Gives the wire form of artifacts.
#[must_use]
pub fn wire_artifacts(artifacts: &[NamedArtifact]) -> Vec<v1::NamedArtifact> {
    artifacts.iter().cloned().map(Into::into).collect()
}

/// Reads a run whole; `None` where there is none of that id.
///
/// # Errors
/// Those of the store, and [`Error::Corrupt`] where a record does not make sense.
pub fn load_run(store: &dyn Store, id: &RunId) -> Result<Option<Run>, Error> {
    let key = Key::Run(*id);
    let Some(record) = store::read::<RunRecord>(store, &key)? else { return Ok(None) };
    let corrupt = |key: &Key, reason: String| Error::Corrupt { key: key.to_string(), reason };
    let spec: RunSpec = serde_json::from_slice(&record.spec).map_err(|e| corrupt(&key, e.to_string()))?;
    spec.adds_up().map_err(|e| corrupt(&key, e))?;
    let mut run = Run::new(*id, Arc::new(spec), record.path, record.created_ms);
    run.state = run_state_from(record.state).ok_or_else(|| corrupt(&key, "unknown state of a run".to_owned()))?;
    // Records of before there was this field have none.
    run.waits_since = if record.waits_since_ms == 0 { record.created_ms } else { record.waits_since_ms };
    run.ended_at = record.ended_ms;
    run.generation = record.generation;
    run.idempotency_key = record.idempotency_key;
    run.asked = record.asked;
    run.no_cache = record.no_cache;
    run.external_inputs = record.external_inputs;
    run.cancelled_for = record.cancelled_for;
    run.priority = record.priority;
    run.tags = record.tags;

    let mut groups = BTreeMap::new();
    store::visit(store, &prefix::expansions(id), |key, value| {
        let (key, record) = store::codec::decode_row::<ExpansionRecord>(&key, &value)?;
        if let Key::Expansion { task, .. } = &key {
            groups.insert(*task, group_from(record).map_err(|e| corrupt(&key, e))?);
        }
        Ok(())
    })?;
    run.adopt_groups(groups).map_err(|(task, e)| corrupt(&Key::Expansion { run: *id, task }, e))?;
    let mut attempts: BTreeMap<u32, Vec<Attempt>> = BTreeMap::new();
    store::visit(store, &prefix::attempts(id), |key, value| {
        let (key, record) = store::codec::decode_row::<AttemptRecord>(&key, &value)?;
        if let Key::Attempt { task, .. } = &key {
            let attempt = attempt_from(record).map_err(|e| corrupt(&key, e.to_string()))?;
            attempts.entry(*task).or_default().push(attempt);
        }
        Ok(())
    })?;
    store::visit(store, &prefix::tasks(id), |key, value| {
        let (key, record) = store::codec::decode_row::<TaskRecord>(&key, &value)?;
        if let Key::Task { task: index, .. } = &key {
            let made = attempts.remove(index).unwrap_or_default();
            let slot = run.task_mut(*index);
            let slot = slot.ok_or_else(|| corrupt(&key, "the run has no task of this index".to_owned()))?;
            *slot = task_from(record, made).map_err(|e| corrupt(&key, e.to_string()))?;
        }
        Ok(())
    })?;
    run.index();
    Ok(Some(run))
}

fn task_from(record: TaskRecord, mut attempts: Vec<Attempt>) -> Result<Task, BadMessage> {
    if let Some(last) = record.last {
        attempts.push(attempt_from(last)?);
    }
    let unknown = BadMessage::UnknownNumber { field: "task.state", number: record.state };
    let state = match v1::TaskState::try_from(record.state).map_err(|_| unknown.clone())? {
        v1::TaskState::Unspecified => return Err(unknown),
        v1::TaskState::Sensing => TaskState::Sensing { next: 0 },
        v1::TaskState::Expanded => TaskState::Expanded,
        v1::TaskState::Dropped => TaskState::Dropped,
        // The count is derived again when the run is indexed.
        v1::TaskState::Waiting => TaskState::Waiting { needs_left: 1 },
        v1::TaskState::Ready => TaskState::Ready,
        v1::TaskState::Backoff => TaskState::Backoff { until: record.backoff_until_ms },
        v1::TaskState::Succeeded => TaskState::Succeeded,
        v1::TaskState::Failed => TaskState::Failed,
        v1::TaskState::UpstreamFailed => TaskState::UpstreamFailed,
        v1::TaskState::Cancelled => TaskState::Cancelled,
        v1::TaskState::Skipped => TaskState::Skipped,
        live @ (v1::TaskState::Assigned | v1::TaskState::Running | v1::TaskState::Cancelling) => {
            let attempt = attempts.last().map(|attempt| attempt.number).ok_or(BadMessage::Missing("attempt"))?;
            TaskState::Live(Box::new(Live {
                attempt,
                epoch: record.token_epoch,
                worker: worker_key(record.worker, record.incarnation)?,
                lease_until: 0,
                timer: 0,
                started: record.started,
                cancelling: live == v1::TaskState::Cancelling,
                ahead: record.ahead && !record.started,
                reserved: record.reserved.map(Into::into).unwrap_or_default(),
            }))
        }
    };
    let mut task = Task::new(0);
    task.state = state;
    task.tries = record.tries;
    task.attempts = attempts;
    task.cached = record.cached;
    task.outputs = artifacts_from(record.outputs)?;
    task.failure = record.failure.map(Failure::try_from).transpose()?.map(Box::new);
    task.metrics_json = record.metrics_json;
    task.inline = inline_values(record.inline_json)?;
    task.ready_at = record.ready_ms;
    task.ended_at = record.ended_ms;
    task.forced = record.forced;
    task.next_child = record.next_child;
    Ok(task)
}

/// Encodes JSON that is kept with a record.
#[must_use]
pub fn inline_json(inline: &BTreeMap<String, serde_json::Value>) -> BTreeMap<String, bytes::Bytes> {
    inline.iter().map(|(name, value)| (name.clone(), value.to_string().into_bytes().into())).collect()
}

/// Decodes JSON that is kept with a record.
///
/// # Errors
/// What is not JSON.
pub fn inline_values(
    inline: BTreeMap<String, bytes::Bytes>,
) -> Result<BTreeMap<String, serde_json::Value>, BadMessage> {
    let value = |bytes: bytes::Bytes| {
        serde_json::from_slice(&bytes).map_err(|e| BadMessage::Json { field: "inline_json", reason: e.to_string() })
    };
    inline.into_iter().map(|(name, bytes)| Ok((name, value(bytes)?))).collect()
}

/// Encodes the items and children of a fan-out.
#[must_use]
pub fn expansion_record(group: &Group) -> ExpansionRecord {
    let (members, asked) = (group.members.clone(), group.asked.iter().copied().collect());
    let mut record = ExpansionRecord { members, asked, ..ExpansionRecord::default() };
    match &group.items {
        Items::Range { from, step, count } => {
            record.range = Some(expansion_record::Range { from: *from, step: *step, count: *count });
        }
        Items::List(list) => {
            record.items = list
                .iter()
                .map(|(key, value)| expansion_record::Item { key: key.to_string(), json: value.to_string() })
                .collect();
        }
    }
    record
}

fn group_from(record: ExpansionRecord) -> Result<Group, String> {
    let items = match record.range {
        Some(range) => Items::Range { from: range.from, step: range.step, count: range.count },
        None => Items::List(
            record
                .items
                .into_iter()
                .map(|item| {
                    let key = item.key.parse().map_err(|e| format!("{e}"))?;
                    Ok((key, serde_json::from_str(&item.json).map_err(|e| e.to_string())?))
                })
                .collect::<Result<_, String>>()?,
        ),
    };
    if items.len() != record.members.len() {
        return Err(format!("{} items and {} children", items.len(), record.members.len()));
    }
    let mut group = Group::new(items, record.members);
    group.asked = record.asked.into_iter().collect();
    Ok(group)
}

/// Decodes an attempt.
///
/// # Errors
/// Names the field that does not make sense.
pub fn attempt_from(record: AttemptRecord) -> Result<Attempt, BadMessage> {
    let view = record.view.ok_or(BadMessage::Missing("attempt.view"))?;
    let unknown = BadMessage::UnknownNumber { field: "attempt.state", number: view.state };
    let state = match v1::AttemptState::try_from(view.state).map_err(|_| unknown.clone())? {
        v1::AttemptState::Unspecified => return Err(unknown),
        v1::AttemptState::Assigned => AttemptState::Assigned,
        v1::AttemptState::Running => AttemptState::Running,
        v1::AttemptState::Succeeded => AttemptState::Succeeded,
        v1::AttemptState::Failed => AttemptState::Failed,
        v1::AttemptState::TimedOut => AttemptState::TimedOut,
        v1::AttemptState::Lost => AttemptState::Lost,
        v1::AttemptState::Cancelled => AttemptState::Cancelled,
        v1::AttemptState::HandedBack => AttemptState::HandedBack,
    };
    Ok(Attempt {
        number: view.attempt,
        state,
        worker: worker_key(view.worker, view.incarnation)?,
        epoch: view.epoch,
        generation: view.generation,
        assigned_at: view.assigned_ms,
        started_at: view.started_ms,
        ended_at: view.ended_ms,
        usage: view.usage.map(Into::into).unwrap_or_default(),
        failure: view.failure.map(Failure::try_from).transpose()?.map(Box::new),
        log_bytes: view.log_bytes,
        inputs: artifacts_from(record.inputs)?,
        outputs: artifacts_from(record.outputs)?,
    })
}

/// Decodes artifacts.
///
/// # Errors
/// Names the field that does not make sense.
pub fn artifacts_from(wire: Vec<v1::NamedArtifact>) -> Result<Vec<NamedArtifact>, BadMessage> {
    wire.into_iter().map(NamedArtifact::try_from).collect()
}

fn worker_key(name: String, incarnation: String) -> Result<WorkerKey, BadMessage> {
    use segue_proto::convert::id;
    Ok(WorkerKey { name: id("worker", name)?, incarnation: id("incarnation", incarnation)? })
}

/// Gives the wire form of a run's state.
#[must_use]
pub const fn run_state(state: RunState) -> v1::RunState {
    match state {
        RunState::Running => v1::RunState::Running,
        RunState::Cancelling => v1::RunState::Cancelling,
        RunState::Succeeded => v1::RunState::Succeeded,
        RunState::Failed => v1::RunState::Failed,
        RunState::Cancelled => v1::RunState::Cancelled,
        RunState::Queued => v1::RunState::Queued,
        RunState::Skipped => v1::RunState::Skipped,
    }
}

/// Reads the state of a run from a record.
#[must_use]
pub fn run_state_from(number: i32) -> Option<RunState> {
    match v1::RunState::try_from(number).ok()? {
        v1::RunState::Unspecified => None,
        v1::RunState::Queued => Some(RunState::Queued),
        v1::RunState::Skipped => Some(RunState::Skipped),
        v1::RunState::Running => Some(RunState::Running),
        v1::RunState::Cancelling => Some(RunState::Cancelling),
        v1::RunState::Succeeded => Some(RunState::Succeeded),
        v1::RunState::Failed => Some(RunState::Failed),
        v1::RunState::Cancelled => Some(RunState::Cancelled),
    }
}

/// Gives the wire form of a task's state.
#[must_use]
pub fn task_state(state: &TaskState) -> v1::TaskState {
    match state {
        TaskState::Waiting { .. } => v1::TaskState::Waiting,
        TaskState::Ready => v1::TaskState::Ready,
        TaskState::Live(live) if live.cancelling => v1::TaskState::Cancelling,
        TaskState::Live(live) if live.started => v1::TaskState::Running,
        TaskState::Sensing { .. } => v1::TaskState::Sensing,
        TaskState::Expanded => v1::TaskState::Expanded,
        TaskState::Dropped => v1::TaskState::Dropped,
        TaskState::Live(_) => v1::TaskState::Assigned,
        TaskState::Backoff { .. } => v1::TaskState::Backoff,
        TaskState::Succeeded => v1::TaskState::Succeeded,
        TaskState::Failed => v1::TaskState::Failed,
        TaskState::UpstreamFailed => v1::TaskState::UpstreamFailed,
        TaskState::Cancelled => v1::TaskState::Cancelled,
        TaskState::Skipped => v1::TaskState::Skipped,
    }
}

const fn attempt_state(state: AttemptState) -> v1::AttemptState {
    match state {
        AttemptState::Assigned => v1::AttemptState::Assigned,
        AttemptState::Running => v1::AttemptState::Running,
        AttemptState::Succeeded => v1::AttemptState::Succeeded,
        AttemptState::Failed => v1::AttemptState::Failed,
        AttemptState::TimedOut => v1::AttemptState::TimedOut,
        AttemptState::Lost => v1::AttemptState::Lost,
        AttemptState::Cancelled => v1::AttemptState::Cancelled,
        AttemptState::HandedBack => v1::AttemptState::HandedBack,
    }
}
