//! What clients see of runs, tasks and workers.

use std::collections::{BTreeMap, HashMap};

use segue_proto::{store::v1::RunRecord, v1};
use serde_json::json;

use super::records;
use crate::{
    core::{
        Core, FIRST_CHILD, Group, Run, TaskState, Worker,
        explain::{self, Reason},
    },
    spec::Work,
};

/// Shows a run. `core` explains what is not running; without it (an ended run) nothing waits. The children of fan-outs
/// are counted, not listed.
#[must_use]
pub fn run_view(run: &Run, core: Option<&Core>, with_tasks: bool) -> v1::RunView {
    let counts = counted(run.tasks.iter().map(|task| &task.state));
    let tasks = if with_tasks {
        let mut reasons = core.map(Reasons::new);
        let all = (0..FIRST_CHILD).take(run.tasks.len());
        all.filter_map(|task| task_view(run, task, reasons.as_mut())).collect()
    } else {
        Vec::new()
    };
    let reason = core.map_or_else(|| explain::explain_alone(run), |core| explain::explain_run(core, run));
    v1::RunView {
        run_id: run.id.to_string(),
        pipeline: run.spec.pipeline.to_string(),
        version: run.spec.version.clone(),
        state: records::run_state(run.state).into(),
        created_ms: run.created_at,
        ended_ms: run.ended_at,
        params: run.spec.params.clone(),
        tasks,
        counts,
        generation: run.generation,
        revision: run.revision,
        path: run.path.clone(),
        priority: run.priority,
        tags: run.tags.clone(),
        reason_code: reason.as_ref().map(|reason| reason.code.to_owned()).unwrap_or_default(),
        reason: reason.map(|reason| reason.text).unwrap_or_default(),
    }
}

/// Reasons that one look at a run gives. Why the first ready task of a class waits goes for all of them, and to find
/// it out is to look at every worker: a wide run would hold up everybody otherwise.
#[derive(Debug)]
pub struct Reasons<'a> {
    core: &'a Core,
    /// By class, and by the fan-out that holds its child back.
    ready: HashMap<(u32, Option<usize>), Reason>,
}

impl<'a> Reasons<'a> {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(core: &'a Core) -> Self {
        Self { core, ready: HashMap::new() }
    }

    fn of(&mut self, run: &Run, index: u32) -> Option<Reason> {
        let task = run.task(index).filter(|task| task.state == TaskState::Ready);
        let kind = task.map(|task| (self.core.class_of(task), task.is_held().then(|| run.node_of(index))));
        if let Some(known) = kind.and_then(|kind| self.ready.get(&kind)) {
            return Some(known.clone());
        }
        let reason = explain::explain(self.core, run, index);
        if let Some((kind, reason)) = kind.zip(reason.as_ref()) {
            self.ready.insert(kind, reason.clone());
        }
        reason
    }
}

/// Counts states.
#[must_use]
pub fn counted<'a>(states: impl Iterator<Item = &'a TaskState>) -> Vec<v1::TaskCount> {
    let mut counts: BTreeMap<i32, u32> = BTreeMap::new();
    for state in states {
        *counts.entry(records::task_state(state).into()).or_default() += 1;
    }
    counts.into_iter().map(|(state, count)| v1::TaskCount { state, count }).collect()
}

/// Shows a run that is not active from its record alone, without its tasks.
#[must_use]
pub fn record_view(record: RunRecord) -> v1::RunView {
    v1::RunView {
        run_id: record.run_id,
        pipeline: record.pipeline,
        version: record.version,
        state: record.state,
        created_ms: record.created_ms,
        ended_ms: record.ended_ms,
        params: record.params,
        counts: record.counts,
        generation: record.generation,
        path: record.path,
        priority: record.priority,
        tags: record.tags,
        ..v1::RunView::default()
    }
}

/// Names what a task executes.
#[must_use]
pub fn work_text(work: &Work) -> String {
    match work {
        Work::Operator { name, .. } => name.clone(),
        Work::Command { argv } => argv.join(" "),
        Work::Sensor { sensor, .. } => {
            let kind = sensor.as_object().and_then(|sensor| sensor.keys().next()).map_or("", String::as_str);
            format!("sensor {kind}").trim_end().to_owned()
        }
    }
}

/// Shows a task or child; `None` where there is none. Without reasons (of an ended run) nothing waits.
#[must_use]
pub fn task_view(run: &Run, index: u32, reasons: Option<&mut Reasons<'_>>) -> Option<v1::TaskView> {
    let (task, bound) = run.task(index).zip(run.bound(index))?;
    let reason = reasons.and_then(|reasons| reasons.of(run, index));
    let last = task.attempts.last();
    let item = run.item_of(index);
    let group = run.groups.get(&index).filter(|_| index < FIRST_CHILD);
    Some(v1::TaskView {
        name: run.name_of(index)?.into(),
        state: records::task_state(&task.state).into(),
        work: work_text(&bound.work),
        cached: task.cached,
        attempts: task.attempts.iter().map(records::attempt_view).collect(),
        outputs: records::wire_artifacts(&task.outputs),
        failure: task.failure.as_deref().cloned().map(Into::into),
        progress_now: progress(run, task, group),
        metrics_json: task.metrics_json.clone(),
        needs: bound.needs().into_iter().map(|need| run.spec.tasks[need].name.to_string()).collect(),
        reason_code: reason.as_ref().map(|reason| reason.code.to_owned()).unwrap_or_default(),
        reason: reason.map(|reason| reason.text).unwrap_or_default(),
        started_ms: last.map_or_else(|| group.map_or(0, |group| first_start(run, group)), |last| last.started_at),
        ended_ms: task.ended_at,
        resources: Some(bound.resources.amounts.clone().into()),
        gpu: v1::GpuPreference::from(bound.resources.gpu).into(),
        group: if item.is_some() { bound.name.to_string() } else { String::new() },
        key: item.as_ref().map(|item| item.key.to_string()).unwrap_or_default(),
        children: group
            .map(|group| counted(group.members.iter().filter_map(|&member| Some(&run.task(member)?.state))))
            .unwrap_or_default(),
        index,
        item_json: item.map(|item| item.value.to_string()).unwrap_or_default(),
    })
}

/// Shows how far a task is: by its own word, or by its children.
fn progress(run: &Run, task: &crate::core::Task, group: Option<&Group>) -> Option<v1::task_view::Progress> {
    if let Some(progress) = &task.progress {
        let message = progress.message.clone();
        return Some(v1::task_view::Progress { done: progress.done, total: progress.total, message });
    }
    let group = group.filter(|_| task.state == TaskState::Expanded)?;
    let _ = run;
    let total = group.members.len() as u64;
    let done = total.saturating_sub(u64::from(group.open));
    Some(v1::task_view::Progress { done, total, message: "children".to_owned() })
}

/// Gives when the first child of a fan-out began, looked for among the first ones.
fn first_start(run: &Run, group: &Group) -> u64 {
    let starts = group.members.iter().take(1_000).filter_map(|&member| run.task(member)?.attempts.first());
    starts.map(|attempt| attempt.started_at).filter(|&started| started > 0).min().unwrap_or(0)
}

/// Explains every task of a run, or the one of that name with its children. Children with the same reason are told
/// once, with their number.
#[must_use]
pub fn explanations(run: &Run, core: &Core, only: &str) -> Vec<v1::Explanation> {
    let wanted = if only.is_empty() { None } else { run.find(only) };
    let mut reasons = Reasons::new(core);
    let tasks = (0..FIRST_CHILD).take(run.tasks.len());
    let mut found: Vec<v1::Explanation> = tasks
        .chain(wanted.filter(|&index| index >= FIRST_CHILD))
        .filter(|&index| only.is_empty() || wanted == Some(index))
        .filter_map(|index| explanation(run, &mut reasons, index, only.is_empty()))
        .collect();
    for (&node, group) in &run.groups {
        if only.is_empty() || wanted == Some(node) {
            found.extend(children_explained(run, &mut reasons, group));
        }
    }
    found
}

/// Explains why a run as a whole does not go on.
#[must_use]
pub fn run_explanation(run: &Run, core: &Core) -> Option<v1::Explanation> {
    let reason = explain::explain_run(core, run)?;
    Some(v1::Explanation { code: reason.code.to_owned(), text: reason.text, hint: reason.hint, ..Default::default() })
}

fn explanation(run: &Run, reasons: &mut Reasons<'_>, index: u32, quiet: bool) -> Option<v1::Explanation> {
    let state = records::task_state(&run.task(index)?.state);
    let reason = reasons.of(run, index);
    if reason.is_none() && quiet {
        return None;
    }
    let Reason { code, text, hint } = reason.unwrap_or_else(|| match state {
        v1::TaskState::Succeeded => Reason { code: "succeeded", text: done_text(run, index), hint: String::new() },
        _ => Reason { code: "running", text: running_text(run, index), hint: String::new() },
    });
    let task = run.name_of(index)?.into();
    Some(v1::Explanation { task, state: state.into(), code: code.to_owned(), text, hint })
}

/// Explains the children of a fan-out by reason: one line for all that wait for the same.
fn children_explained(run: &Run, reasons: &mut Reasons<'_>, group: &Group) -> Vec<v1::Explanation> {
    let mut first_of: BTreeMap<(i32, &'static str), (u32, u64, Reason)> = BTreeMap::new();
    for &member in &group.members {
        let Some(task) = run.task(member) else { continue };
        let reason = reasons.of(run, member);
        let Some(reason) = reason else { continue };
        let key = (i32::from(records::task_state(&task.state)), reason.code);
        first_of.entry(key).or_insert((member, 0, reason)).1 += 1;
    }
    first_of
        .into_iter()
        .filter_map(|((state, code), (first, count, reason))| {
            let text = match count {
                1 => reason.text,
                2 => format!("{} (and 1 more child)", reason.text),
                n => format!("{} (and {} more children)", reason.text, n - 1),
            };
            let task = run.name_of(first)?.into();
            Some(v1::Explanation { task, state, code: code.to_owned(), text, hint: reason.hint })
        })
        .collect()
}

fn done_text(run: &Run, index: u32) -> String {
    let Some(task) = run.task(index) else { return String::new() };
    if task.cached {
        return "succeeded with the committed result of an equal task".to_owned();
    }
    match task.attempts.last() {
        Some(attempt) => format!("succeeded on worker `{}` in attempt {}", attempt.worker.name, attempt.number),
        None => "succeeded".to_owned(),
    }
}

fn running_text(run: &Run, index: u32) -> String {
    let Some(task) = run.task(index) else { return String::new() };
    let place = task.attempts.last().map(|attempt| attempt.worker.name.to_string()).unwrap_or_default();
    match &task.progress {
        Some(progress) if progress.total > 0 => {
            format!("runs on worker `{place}`: {} of {} {}", progress.done, progress.total, progress.message)
        }
        _ => format!("runs on worker `{place}`"),
    }
}

/// Shows a worker.
#[must_use]
pub fn worker_view(worker: &Worker, core: &Core) -> v1::WorkerView {
    let attempts = worker
        .leased
        .keys()
        .chain(&worker.ahead)
        .filter_map(|(run, task)| core.run(run)?.live_token(*task))
        .map(Into::into)
        .collect();
    v1::WorkerView {
        name: worker.key.name.to_string(),
        incarnation: worker.key.incarnation.to_string(),
        state: worker.state().to_owned(),
        capacity: Some(worker.capacity.clone().into()),
        leased: Some(worker.in_use().into()),
        labels: worker.labels.clone(),
        operators: worker.operators.iter().map(|(name, _)| name.clone()).collect(),
        attempts,
        connected_ms: worker.connected_at,
        heartbeat_ms: worker.heartbeat_at,
        hostname: worker.hostname.clone(),
        version: worker.version.clone(),
    }
}

/// Collects the facts of a run that an operator may ask for, as JSON text.
#[must_use]
pub fn run_facts(run: &Run) -> String {
    let tasks: Vec<_> = run
        .spec
        .tasks
        .iter()
        .zip(&run.tasks)
        .map(|(bound, task)| {
            let last = task.attempts.last();
            json!({
                "name": bound.name,
                "work": work_text(&bound.work),
                "state": records::task_state(&task.state).as_str_name().trim_start_matches("TASK_STATE_").to_lowercase(),
                "cached": task.cached,
                "attempts": task.attempts.len(),
                "seconds": last.map_or(0.0, |attempt| attempt.usage.wall_ms as f64 / 1000.0),
                "cpu_seconds": last.map_or(0.0, |attempt| attempt.usage.cpu_ms as f64 / 1000.0),
                "peak_memory_bytes": last.map_or(0, |attempt| attempt.usage.peak_memory_bytes),
                "worker": last.map_or("", |attempt| attempt.worker.name.as_str()),
            })
        })
        .collect();
    json!({
        "run": run.id,
        "pipeline": run.spec.pipeline,
        "version": run.spec.version,
        "created_ms": run.created_at,
        "generation": run.generation,
        "params": run.spec.params,
        "external_inputs": run.external_inputs,
        "tasks": tasks,
    })
    .to_string()
}

#[cfg(test)]
#[path = "views_tests.rs"]
mod tests;
