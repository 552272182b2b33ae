//! Why a task is not running, by code.

use super::{Core, Run, RunState, TaskState, fleet, placement};

/// A reason with a machine-readable code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub code: &'static str,
    pub text: String,
    pub hint: String,
}

impl Reason {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), hint: String::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Explains the state of a task, or gives `None` while it runs and once it succeeded.
#[must_use]
pub fn explain(core: &Core, run: &Run, task: usize) -> Option<Reason> {
    let bound = &run.spec.tasks[task];
    let entry = &run.tasks[task];
    let reason = match &entry.state {
        TaskState::Succeeded => return None,
        TaskState::Live(live) if live.cancelling => {
            Reason::new("cancelling", format!("worker `{}` was told to stop it", live.worker.name))
        }
        TaskState::Live(live) if live.started => return None,
        TaskState::Live(live) => {
            Reason::new("starting", format!("worker `{}` has it and fetches its inputs", live.worker.name))
        }
        TaskState::Waiting { .. } => {
            let open: Vec<&str> = bound
                .needs()
                .into_iter()
                .filter(|&need| !run.tasks[need].state.satisfies_downstream())
                .map(|need| run.spec.tasks[need].name.as_str())
                .collect();
            Reason::new("waiting_upstream", format!("waits for {}", open.join(", ")))
        }
        TaskState::Backoff { until } => {
            let why = entry.failure.as_ref().map_or("", |failure| failure.message.as_str());
            Reason::new(
                "backoff",
                format!(
                    "tried {} of {} times; next try at {until} ms since 1970; last failure: {why}",
                    entry.tries, bound.retry.attempts
                ),
            )
        }
        TaskState::Failed => {
            let failure = entry.failure.as_ref();
            Reason::new(
                "failed",
                failure.map_or_else(String::new, |failure| format!("{} ({})", failure.message, failure.class.name())),
            )
            .hint(failure.map_or_else(String::new, |failure| failure.hint.clone()))
        }
        TaskState::UpstreamFailed => {
            let failed: Vec<&str> = bound
                .needs()
                .into_iter()
                .filter(|&need| matches!(run.tasks[need].state, TaskState::Failed | TaskState::UpstreamFailed))
                .map(|need| run.spec.tasks[need].name.as_str())
                .collect();
            Reason::new("upstream_failed", format!("skipped, because {} failed", failed.join(", ")))
        }
        TaskState::Cancelled => Reason::new("cancelled", "the run was cancelled"),
        TaskState::Skipped => Reason::new("not_in_version", "not part of the pipeline version of this run"),
        TaskState::Ready if run.state == RunState::Cancelling => {
            Reason::new("cancelling", "the run is being cancelled")
        }
        TaskState::Ready => unplaced(core, run, task),
    };
    Some(reason)
}

fn unplaced(core: &Core, run: &Run, task: usize) -> Reason {
    let bound = &run.spec.tasks[task];
    let free = core.workers().map(|worker| (worker.key.clone(), worker.free())).collect();
    let candidates = core.candidates_of(run, task, &free);
    let chosen = placement::choose(&bound.resources, &candidates, core.gpu_work_open());
    if let Some(reason) = chosen.as_ref().err().and_then(|why| fleet::held_back(core, bound, *why)) {
        return reason;
    }
    match chosen {
        Ok((worker, _)) => Reason::new("ready", format!("about to be given to worker `{}`", worker.name)),
        Err(placement::Unplaced::NoWorkers) => {
            Reason::new("no_workers", "no worker is connected").hint("start one: segue worker --server URL")
        }
        Err(placement::Unplaced::NoOperator) => {
            let what = match &bound.work {
                crate::spec::Work::Operator { name, version, .. } => format!("operator `{name}` version {version}"),
                crate::spec::Work::Command { .. } => "commands".to_owned(),
            };
            Reason::new("no_operator", format!("no connected worker offers {what}"))
                .hint("workers of this release offer every operator of `segue plan`; look at `segue workers list`")
        }
        Err(placement::Unplaced::NoLabels) => {
            let labels: Vec<String> =
                bound.resources.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Reason::new("no_labels", format!("no connected worker has the labels {}", labels.join(", ")))
                .hint("start one with --label")
        }
        Err(placement::Unplaced::TooLarge) => {
            Reason::new("no_worker_fits", format!("no connected worker has {}", amounts(bound)))
                .hint("ask for less in `resources`, or add a larger worker")
        }
        Err(placement::Unplaced::Busy) => {
            let count = candidates.len();
            Reason::new("workers_busy", format!("{count} worker(s) connected, none has {} free now", amounts(bound)))
        }
    }
}

fn amounts(task: &crate::spec::BoundTask) -> String {
    let wanted = &task.resources.amounts;
    let mut parts = vec![format!("{} cpu", f64::from(wanted.cpu_milli) / 1000.0)];
    if wanted.memory_bytes > 0 {
        parts.push(format!("{} MiB of memory", wanted.memory_bytes >> 20));
    }
    if wanted.gpu > 0 {
        parts.push(format!("{} gpu", wanted.gpu));
    }
    parts.extend(wanted.custom.iter().map(|(name, amount)| format!("{amount} {name}")));
    parts.join(", ")
}
