//! What clients see of runs, tasks and workers.

use std::collections::BTreeMap;

use segue_proto::v1;
use serde_json::json;

use super::records;
use crate::{
    core::{Core, Run, Worker, explain},
    spec::Work,
};

/// Shows a run. `core` explains what is not running; without it (an ended run) nothing waits.
#[must_use]
pub fn run_view(run: &Run, core: Option<&Core>, with_tasks: bool) -> v1::RunView {
    let mut counts: BTreeMap<i32, u32> = BTreeMap::new();
    for task in &run.tasks {
        *counts.entry(records::task_state(&task.state).into()).or_default() += 1;
    }
    let tasks =
        if with_tasks { (0..run.tasks.len()).map(|task| task_view(run, task, core)).collect() } else { Vec::new() };
    v1::RunView {
        run_id: run.id.to_string(),
        pipeline: run.spec.pipeline.to_string(),
        version: run.spec.version.clone(),
        state: records::run_state(run.state).into(),
        created_ms: run.created_at,
        ended_ms: run.ended_at,
        params: run.spec.params.clone(),
        tasks,
        counts: counts.into_iter().map(|(state, count)| v1::TaskCount { state, count }).collect(),
        generation: run.generation,
        revision: run.revision,
        path: run.path.clone(),
    }
}

/// Names what a task executes.
#[must_use]
pub fn work_text(work: &Work) -> String {
    match work {
        Work::Operator { name, .. } => name.clone(),
        Work::Command { argv } => argv.join(" "),
    }
}

fn task_view(run: &Run, index: usize, core: Option<&Core>) -> v1::TaskView {
    let task = &run.tasks[index];
    let bound = &run.spec.tasks[index];
    let reason = core.and_then(|core| explain::explain(core, run, index));
    let last = task.attempts.last();
    v1::TaskView {
        name: bound.name.to_string(),
        state: records::task_state(&task.state).into(),
        work: work_text(&bound.work),
        cached: task.cached,
        attempts: task.attempts.iter().map(records::attempt_view).collect(),
        outputs: records::wire_artifacts(&task.outputs),
        failure: task.failure.clone().map(Into::into),
        progress_now: task.progress.as_ref().map(|progress| v1::task_view::Progress {
            done: progress.done,
            total: progress.total,
            message: progress.message.clone(),
        }),
        metrics_json: task.metrics_json.clone(),
        needs: bound.needs().into_iter().map(|need| run.spec.tasks[need].name.to_string()).collect(),
        reason_code: reason.as_ref().map(|reason| reason.code.to_owned()).unwrap_or_default(),
        reason: reason.map(|reason| reason.text).unwrap_or_default(),
        started_ms: last.map_or(0, |attempt| attempt.started_at),
        ended_ms: task.ended_at,
        resources: Some(bound.resources.amounts.clone().into()),
        gpu: v1::GpuPreference::from(bound.resources.gpu).into(),
    }
}

/// Explains every task of a run, or the one of that name.
#[must_use]
pub fn explanations(run: &Run, core: &Core, only: &str) -> Vec<v1::Explanation> {
    (0..run.tasks.len())
        .filter(|&task| only.is_empty() || run.spec.tasks[task].name.as_str() == only)
        .filter_map(|task| {
            let state = records::task_state(&run.tasks[task].state);
            let reason = explain::explain(core, run, task);
            if reason.is_none() && only.is_empty() {
                return None;
            }
            let (code, text, hint) = reason.map_or_else(
                || match state {
                    v1::TaskState::Succeeded => ("succeeded".to_owned(), done_text(run, task), String::new()),
                    _ => ("running".to_owned(), running_text(run, task), String::new()),
                },
                |reason| (reason.code.to_owned(), reason.text, reason.hint),
            );
            Some(v1::Explanation { task: run.spec.tasks[task].name.to_string(), state: state.into(), code, text, hint })
        })
        .collect()
}

fn done_text(run: &Run, task: usize) -> String {
    if run.tasks[task].cached {
        return "succeeded with the committed result of an equal task".to_owned();
    }
    match run.tasks[task].attempts.last() {
        Some(attempt) => format!("succeeded on worker `{}` in attempt {}", attempt.worker.name, attempt.number),
        None => "succeeded".to_owned(),
    }
}

fn running_text(run: &Run, task: usize) -> String {
    let place = run.tasks[task].attempts.last().map(|attempt| attempt.worker.name.to_string()).unwrap_or_default();
    match &run.tasks[task].progress {
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
        .filter_map(|(run, task)| core.run(run)?.live_token(*task as usize))
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
