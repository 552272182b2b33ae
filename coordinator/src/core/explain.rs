//! Why a run or a task is not going, by code.

use super::{
    Core, Group, OVERDUE_MS, Run, RunState, Shut, TaskState, fleet, place, placement,
    run::{FIRST_CHILD, count},
};
use crate::{
    schedule::zone,
    spec::{FanOut, RunIf, Work},
};

/// Names that one sentence lists; more are counted.
const MOST_NAMES: usize = 5;

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

/// Explains why a run as a whole does not go on, or gives `None` where it does.
#[must_use]
pub fn explain_run(core: &Core, run: &Run) -> Option<Reason> {
    match run.state {
        RunState::Queued => {
            let (others, max) = core.runs_before(run)?;
            let key = run.spec.concurrency.as_ref().map_or("", |concurrency| concurrency.key.as_str());
            let of = if key.is_empty() { String::new() } else { format!(" with the key `{key}`") };
            let names = list(others.iter().map(ToString::to_string));
            Some(
                Reason::new(
                    "concurrency_full",
                    format!("{max} run(s) of `{}`{of} may go on at a time; going: {names}", run.spec.pipeline),
                )
                .hint("it starts when one of them ends; `concurrency` in [pipeline] sets the number"),
            )
        }
        _ => explain_alone(run),
    }
}

/// Explains the state of a run as far as it has to do with no other one.
#[must_use]
pub fn explain_alone(run: &Run) -> Option<Reason> {
    match run.state {
        RunState::Cancelling => Some(Reason::new("cancelling", with_cause("the run is being cancelled", run))),
        RunState::Cancelled if run.cancelled_for.is_empty() => {
            let state = |task: usize| run.tasks.get(task).map(|task| &task.state);
            let alone = run.spec.tasks.iter().enumerate().filter(|(at, _)| state(*at) == Some(&TaskState::Cancelled));
            Some(Reason::new(
                "cancelled",
                format!("of its tasks, these were cancelled: {}", list(alone.map(|(_, task)| task.name.to_string()))),
            ))
        }
        RunState::Cancelled => Some(Reason::new("cancelled", with_cause("the run was cancelled", run))),
        RunState::Skipped => {
            Some(Reason::new("concurrency_skip", "another run was going, and `on_full = \"skip\"` lets this one go"))
        }
        _ => None,
    }
}

fn with_cause(what: &str, run: &Run) -> String {
    if run.cancelled_for.is_empty() { what.to_owned() } else { format!("{what}: {}", run.cancelled_for) }
}

/// Explains the state of a task or child, or gives `None` while it runs and once it succeeded.
#[must_use]
pub fn explain(core: &Core, run: &Run, index: u32) -> Option<Reason> {
    let (bound, entry) = run.bound(index).zip(run.task(index))?;
    let needs = || bound.needs().into_iter();
    let names = |wanted: &dyn Fn(&TaskState) -> bool| {
        list(needs().filter(|&need| wanted(&run.tasks[need].state)).map(|need| run.spec.tasks[need].name.to_string()))
    };
    let reason = match &entry.state {
        TaskState::Succeeded => return None,
        TaskState::Live(live) if live.cancelling => {
            Reason::new("cancelling", format!("worker `{}` was told to stop it", live.worker.name))
        }
        TaskState::Live(live) if live.started => return None,
        TaskState::Live(live) if live.ahead => {
            Reason::new("given_ahead", format!("it is next in line at worker `{}`", live.worker.name))
        }
        TaskState::Live(live) => {
            Reason::new("starting", format!("worker `{}` has it and fetches its inputs", live.worker.name))
        }
        _ if run.state == RunState::Queued => return explain_run(core, run),
        TaskState::Waiting { .. } if index >= FIRST_CHILD => {
            Reason::new("expanding", format!("the children of `{}` begin some at a time, in their order", bound.name))
        }
        TaskState::Waiting { .. } => {
            let open = names(&|state| !state.is_terminal());
            if open.is_empty() && bound.flow.finally {
                Reason::new("waiting_finally", "it runs once everything else in the run has ended")
            } else {
                Reason::new("waiting_upstream", format!("waits for {open}"))
            }
        }
        TaskState::Expanded => {
            let group = run.groups.get(&index)?;
            let done = group.members.len().saturating_sub(group.open as usize);
            Reason::new("waiting_children", format!("{done} of {} children have ended", group.members.len()))
        }
        TaskState::Sensing { .. } => {
            let why = entry.progress.as_ref().map_or("it has not looked yet", |progress| progress.message.as_str());
            Reason::new("sensing", format!("its condition is not met: {why}"))
        }
        TaskState::Backoff { until } => {
            let why = entry.failure.as_ref().map_or("", |failure| failure.message.as_str());
            let tried = if entry.tries == 1 { "tried once".to_owned() } else { format!("tried {} times", entry.tries) };
            // A point in time stays true however late the sentence is read.
            let at = zone::rfc3339(chrono_tz::Tz::UTC, until / 1_000 * 1_000);
            Reason::new("backoff", format!("{tried}; next try at {at}; last failure: {why}"))
        }
        TaskState::Failed => {
            let failure = entry.failure.as_ref();
            Reason::new(
                "failed",
                failure.map_or_else(String::new, |failure| format!("{} ({})", failure.message, failure.class.name())),
            )
            .hint(failure.map_or_else(String::new, |failure| failure.hint.clone()))
        }
        TaskState::UpstreamFailed => Reason::new(
            "upstream_failed",
            format!("not run, because {} did not succeed", names(&TaskState::is_failure)),
        ),
        TaskState::Cancelled => cancelled(run, index),
        TaskState::Dropped if index >= FIRST_CHILD => {
            Reason::new("not_among_items", format!("the fan-out `{}` does not have its item now", bound.name))
        }
        TaskState::Dropped => Reason::new("not_in_version", "not part of the pipeline version of this run"),
        TaskState::Skipped => skipped(run, index, &names(&|state| *state == TaskState::Skipped)),
        TaskState::Ready => unplaced(core, run, index),
    };
    Some(reason)
}

/// Says why a task or child was cancelled. It looks at no other child: a fan-out may have a million that are asked for.
#[must_use]
pub fn cancelled(run: &Run, index: u32) -> Reason {
    if !run.cancelled_for.is_empty() {
        return Reason::new("cancelled", with_cause("it was cancelled with its run", run));
    }
    let fan_out = run.bound(index).and_then(|bound| bound.flow.fan_out.as_ref()).filter(|_| index >= FIRST_CHILD);
    let group = fan_out.and_then(|fan_out| Some((fan_out, run.groups.get(&count(run.node_of(index)))?)));
    let stopped = |(fan_out, group): (&FanOut, &Group)| {
        fan_out.fail_fast && group.failed > group.cancelled.saturating_add(fan_out.tolerate)
    };
    if group.is_some_and(stopped) {
        return Reason::new("cancelled", "it was cancelled, because another child failed and `fail_fast` is set");
    }
    Reason::new("cancelled", "it was cancelled on request")
}

fn skipped(run: &Run, index: u32, before: &str) -> Reason {
    let flow = run.bound(index).map(|bound| &bound.flow);
    match flow {
        _ if run.state == RunState::Skipped => Reason::new("concurrency_skip", "the run was skipped"),
        Some(flow) if flow.run_if == RunIf::AnyFailed => {
            Reason::new("rule_not_met", "it runs if something before it fails, and nothing did")
        }
        _ if !before.is_empty() => Reason::new("upstream_skipped", format!("skipped, because {before} was")),
        Some(crate::spec::Flow { when: Some(when), .. }) => {
            Reason::new("condition_false", format!("its condition was false: {when}"))
        }
        _ => Reason::new("skipped", "it was not needed"),
    }
}

/// Why a ready task is not given to a worker.
fn unplaced(core: &Core, run: &Run, index: u32) -> Reason {
    let (Some(bound), Some(entry)) = (run.bound(index), run.task(index)) else { return Reason::new("ready", "") };
    if index >= FIRST_CHILD
        && let Some(fan_out) = &bound.flow.fan_out
        && let Some(most) = fan_out.max_parallel
        && entry.is_held()
    {
        return Reason::new("max_parallel", format!("{most} children of `{}` go on at a time", bound.name));
    }
    // More than the pool has is never free, whoever gives slots back.
    let beyond = |(name, wanted): &(&String, &u32)| core.pools.get(*name).is_some_and(|slots| *wanted > slots);
    if let Some((name, wanted)) = bound.flow.pools.iter().find(beyond) {
        let slots = core.pools.get(name).copied().unwrap_or_default();
        let text = format!("it asks for {wanted} slots of pool `{name}`, which has {slots}");
        return Reason::new("pool_too_small", text)
            .hint(format!("give the pool more: segue pools set {name} {wanted}; or ask for fewer in `pools`"));
    }
    if let Some(shut) = core.queue.class(entry.class).and_then(|class| core.queue.shut(class, &core.pools)) {
        return gate(core, &shut);
    }
    let place = core.place_of(run, index);
    if let Some(pool) =
        core.queue.class(entry.class).and_then(|class| core.queue.kept_pool(class, &place, &core.kept, &core.pools))
    {
        let keeper = core.kept.keeper_of_pool(pool, &place).map(|keeper| named(core, keeper.run, keeper.index));
        let used = core.queue.pool_used(pool);
        return kept_for(
            "pool_kept",
            &format!("of pool `{pool}` {used} slots are held, and others are kept"),
            &keeper.unwrap_or_default(),
        );
    }
    let placed = place::try_place(core, run, index);
    if let Some(reason) = placed.as_ref().err().and_then(|why| fleet::held_back(core, bound, *why)) {
        return reason;
    }
    match placed {
        Ok(worker) => Reason::new("ready", format!("about to be given to worker `{}`", worker.name)),
        Err(placement::Unplaced::NoWorkers) => Reason::new("no_workers", "no worker is connected that takes work")
            .hint("start one: segue worker --server URL"),
        Err(placement::Unplaced::NoOperator) => {
            let what = match &bound.work {
                Work::Operator { name, version, .. } => format!("operator `{name}` version {version}"),
                Work::Command { .. } => "commands".to_owned(),
                Work::Sensor { .. } => "sensors".to_owned(),
            };
            Reason::new("no_operator", format!("no connected worker offers {what}"))
                .hint("workers of this release offer every operator of `segue plan`; look at `segue workers list`")
        }
        Err(placement::Unplaced::NoLabels) => {
            let request = &bound.resources;
            let with = request.labels.iter().map(|(name, value)| format!("{name}={value}"));
            let without = request.not_labels.iter().map(|(name, value)| match value.as_str() {
                "" => format!("no label `{name}`"),
                value => format!("a `{name}` other than {value}"),
            });
            let labels: Vec<String> = with.chain(without).collect();
            Reason::new("no_labels", format!("no connected worker has labels that fit: it wants {}", labels.join(", ")))
                .hint("start one with --label, or change one: segue workers label NAME KEY=VALUE")
        }
        Err(placement::Unplaced::TooLarge) => {
            Reason::new("no_worker_fits", format!("no connected worker has {}", amounts(bound)))
                .hint("ask for less in `resources`, or add a larger worker")
        }
        Err(placement::Unplaced::Busy) => {
            let busy = format!("{} worker(s) connected, none has {} free now", place::takers(core), amounts(bound));
            let kept = core.kept.worker_for(run.id, index);
            let then = kept.map(|worker| {
                let name = &worker.name;
                format!("; `{name}` begins nothing that would take its room, until there is enough for one of these")
            });
            Reason::new("workers_busy", busy + &then.unwrap_or_default())
        }
        Err(placement::Unplaced::Kept) => {
            let keeper = core.workers().find_map(|worker| core.kept.keeper_of_worker(&worker.key, &place));
            let keeper = keeper.map(|keeper| named(core, keeper.run, keeper.index)).unwrap_or_default();
            kept_for("room_kept", "what the workers have free is kept", &keeper)
        }
    }
}

/// Says that something is kept for a task that has waited too long.
fn kept_for(code: &'static str, what: &str, keeper: &str) -> Reason {
    let minutes = OVERDUE_MS / 60_000;
    Reason::new(code, format!("{what} for {keeper}, which comes first and has waited for more than {minutes} min"))
        .hint("it goes on when that one has begun; `priority` says what comes first")
}

fn named(core: &Core, run: segue_proto::ids::RunId, index: u32) -> String {
    let name = core.run(&run).and_then(|run| run.name_of(index)).map(|name| name.to_string());
    format!("{} of {run}", name.unwrap_or_default())
}

fn gate(core: &Core, shut: &Shut) -> Reason {
    let holders =
        |held: Vec<(segue_proto::ids::RunId, u32)>| list(held.into_iter().map(|(run, index)| named(core, run, index)));
    match shut {
        Shut::NoPool(name) => Reason::new("no_pool", format!("there is no pool `{name}`"))
            .hint(format!("make it: segue pools set {name} SLOTS")),
        Shut::Pool { name, slots, used } => {
            let held = core.pool_use(name).into_iter().map(|(run, index, _)| (run, index)).collect();
            Reason::new(
                "pool_full",
                format!("pool `{name}` is full: {used} of {slots} slots held by {}", holders(held)),
            )
        }
        Shut::Limit { key, max } => {
            let held = core.queue.limit_use.get(key).map(|held| held.iter().copied().collect()).unwrap_or_default();
            Reason::new("limit_reached", format!("{max} at a time with the key `{key}`; going: {}", holders(held)))
        }
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(MOST_NAMES * 1_000).collect();
    let more = names.len().saturating_sub(MOST_NAMES);
    names.truncate(MOST_NAMES);
    let text = names.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

/// Shows an amount of memory as a pipeline file says it: in the largest unit that gives a whole number.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| format!("{bytes} B"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

fn amounts(task: &crate::spec::BoundTask) -> String {
    let text = |wanted: &segue_proto::resources::Resources| {
        let mut parts = vec![format!("{} cpu", f64::from(wanted.cpu_milli) / 1000.0)];
        if wanted.memory_bytes > 0 {
            parts.push(format!("{} of memory", size(wanted.memory_bytes)));
        }
        if wanted.gpu_milli > 0 {
            let memory = if wanted.gpu_memory_bytes > 0 {
                format!(" with {} each", size(wanted.gpu_memory_bytes))
            } else {
                String::new()
            };
            parts.push(format!("{} gpu{memory}", f64::from(wanted.gpu_milli) / 1000.0));
        }
        parts.extend(wanted.custom.iter().map(|(name, amount)| format!("{amount} {name}")));
        parts.join(", ")
    };
    let ways: Vec<String> =
        std::iter::once(&task.resources.amounts).chain(&task.resources.alternatives).map(text).collect();
    ways.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn memory_is_told_as_a_file_says_it() {
        let sizes = [900 << 30, 1 << 40, 1536 << 20, 512 << 10, 1_000, 0].map(size);
        assert_eq!(sizes, ["900 GiB", "1 TiB", "1536 MiB", "512 KiB", "1000 B", "0 B"]);
    }
}
