//! What happened in one commit, from what changed in the core and what was told before.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use segue_proto::{
    ids::RunId,
    v1::{self, EventKind as Kind},
};
use serde_json::{Map, Value, json};

use super::shape::{
    LONGEST_MESSAGE, artifacts, because, begun, clip, external, failed, inputs, lost, of_attempt, of_run_alone,
    of_task, task_name, with_details,
};
use crate::{
    core::{AttemptState, Core, Dirty, FIRST_CHILD, Run, RunState, Task, TaskState, UnixMillis, explain},
    server::records,
};

/// Failed tasks that the end of a run names.
const NAMED_FAILURES: usize = 20;

/// What the feed has said so far of what still goes on. After a restart it is read from the states of the runs: they and
/// their events are in the same commits.
#[derive(Debug, Default)]
pub struct Told {
    runs: HashMap<RunId, RunTold>,
}

#[derive(Debug)]
struct RunTold {
    generation: u32,
    started: bool,
    /// Tasks whose end was told.
    ended: Bits,
    /// Live attempts by task.
    live: HashMap<u32, Live>,
    /// Last attempt whose end was told, of tasks that go on after it.
    over: HashMap<u32, u32>,
}

/// Gives a task a place in the set of those that ended: children of fan-outs come after the tasks of the spec.
fn slot(run: &Run, index: u32) -> u32 {
    match index.checked_sub(FIRST_CHILD) {
        None => index,
        Some(child) => u32::try_from(run.tasks.len()).unwrap_or(u32::MAX).saturating_add(child),
    }
}

#[derive(Debug, Clone, Copy)]
struct Live {
    attempt: u32,
    started: bool,
}

impl Told {
    /// Gives what the states of the stored runs say was told.
    pub fn of(core: &Core) -> Self {
        let runs = core.runs().map(|run| (run.id, RunTold::resumed(run))).collect();
        Self { runs }
    }
}

impl RunTold {
    fn resumed(run: &Run) -> Self {
        let mut told = Self::entered(run, |task| task.state.is_terminal());
        let worked = |task: &Task| task.attempts.iter().any(|a| a.generation == run.generation && a.started_at > 0);
        // A rerun executes what it was asked for, so that only a first generation begins with the cache.
        told.started = run
            .indices()
            .filter_map(|index| run.task(index))
            .any(|task| worked(task) || (run.generation == 0 && task.cached));
        for index in run.indices() {
            let Some(task) = run.task(index) else { continue };
            match (task.state.live(), task.attempts.last()) {
                (Some(live), _) => {
                    told.live.insert(index, Live { attempt: live.attempt, started: live.started });
                }
                (None, Some(last)) if !task.state.is_terminal() => drop(told.over.insert(index, last.number)),
                _ => {}
            }
        }
        told
    }

    fn entered(run: &Run, ended: impl Fn(&Task) -> bool) -> Self {
        let mut bits = Bits::default();
        for index in run.indices() {
            if run.task(index).is_some_and(&ended) {
                bits.set(slot(run, index), true);
            }
        }
        Self { generation: run.generation, started: false, ended: bits, live: HashMap::new(), over: HashMap::new() }
    }
}

/// Gives the events of one commit, without offset and time, causes before their consequences.
pub fn events(told: &mut Told, dirty: &Dirty, core: &Core, now: UnixMillis) -> Vec<v1::FeedEvent> {
    let mut out = Vec::new();
    // What was assigned was assigned last, after everything else of the commit.
    let mut assigned = Vec::new();
    let tasks = dirty.tasks.iter().map(|(run, _)| run);
    let attempts = dirty.attempts.iter().map(|(run, ..)| run);
    let mut ids: Vec<&RunId> = dirty.runs.iter().chain(tasks).chain(attempts).collect();
    ids.dedup();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let Some(run) = core.run(id) else { continue };
        of_run(told, dirty, core, run, now, &mut out, &mut assigned);
    }
    out.append(&mut assigned);
    out
}

fn of_run(
    told: &mut Told,
    dirty: &Dirty,
    core: &Core,
    run: &Run,
    now: UnixMillis,
    out: &mut Vec<v1::FeedEvent>,
    assigned: &mut Vec<v1::FeedEvent>,
) {
    let known = told.runs.remove(&run.id).filter(|known| known.generation == run.generation);
    let mut known = known.unwrap_or_else(|| {
        out.push(entry(run));
        // A rerun keeps the tasks that ended before; those that end with its first commit are news.
        let kept = |task: &Task| {
            let made_before = task.attempts.last().is_none_or(|last| last.generation < run.generation);
            task.state.is_terminal() && run.generation > 0 && made_before && task.ended_at != now
        };
        RunTold::entered(run, kept)
    });
    let mut body: Vec<(Turn, v1::FeedEvent)> = Vec::new();
    let mut failures_told = HashSet::new();
    // What is not told yet of the attempts of each task that changed: usually of the last one, and of the one before where
    // it came back and was given out again in the same commit.
    let changed = dirty.tasks.range((run.id, 0)..=(run.id, u32::MAX));
    let news = changed.flat_map(|(_, index)| {
        let from = known.live.get(index).map(|live| live.attempt);
        let told = known.over.get(index).copied().unwrap_or(0);
        let attempts = run.task(*index).map(|task| &task.attempts[..]).unwrap_or_default();
        // Attempts of earlier generations were told when they ended.
        let of_now = attempts.iter().rev().take_while(|attempt| attempt.generation == run.generation);
        let fresh = of_now.take_while(move |attempt| match from {
            Some(live) => attempt.number >= live,
            None => attempt.number > told,
        });
        let mut numbers: Vec<u32> = fresh.map(|attempt| attempt.number).collect();
        numbers.reverse();
        numbers.into_iter().map(move |number| (*index, number))
    });
    let news: Vec<(u32, u32)> = news.collect();
    for (index, number) in &news {
        // One that had ended and is open again was reset: a fan-out of a rerun has expanded.
        let over = |task: &&Task| task.state.is_terminal() && known.ended.get(slot(run, *index));
        let Some(task) = run.task(*index).filter(|task| !over(task)) else { continue };
        let Some(attempt) = task.attempts.iter().rev().find(|attempt| attempt.number == *number) else { continue };
        let live = known.live.get(index).copied().filter(|live| live.attempt == *number);
        let over = attempt.ended_at != 0;
        if live.is_none() {
            let event = of_attempt(run, *index, attempt, Kind::TaskAssigned);
            if over || attempt.started_at != 0 {
                body.push((Turn::of(run, 0, *index), event))
            } else {
                assigned.push(event)
            }
        }
        let started = live.is_some_and(|live| live.started);
        if !started && attempt.started_at != 0 {
            body.push((Turn::of(run, 0, *index), begun(run, *index, attempt)));
        }
        if !over {
            known.live.insert(*index, Live { attempt: *number, started: started || attempt.started_at != 0 });
            continue;
        }
        known.live.remove(index);
        if task.state.is_terminal() {
            known.over.remove(index);
        } else {
            known.over.insert(*index, *number);
        }
        if let Some(kind) = bad_end(attempt.state) {
            let ended = task.state == TaskState::Failed;
            if ended {
                failures_told.insert(*index);
            }
            let event = failed(of_attempt(run, *index, attempt, kind), attempt.failure.as_deref());
            let event = if attempt.state == AttemptState::Lost { lost(event) } else { event };
            body.push((Turn::of(run, 0, *index), v1::FeedEvent { task_ended: ended, ..event }));
            if let TaskState::Backoff { until } = task.state {
                let event = of_attempt(run, *index, attempt, Kind::TaskRetrying);
                let event = failed(event, attempt.failure.as_deref());
                body.push((
                    Turn::of(run, 0, *index),
                    v1::FeedEvent { retry_at_ms: until, details_json: String::new(), ..event },
                ));
            }
        }
    }
    for (_, index) in dirty.tasks.range((run.id, 0)..=(run.id, u32::MAX)) {
        let Some(task) = run.task(*index) else { continue };
        let ended = task.state.is_terminal();
        if ended == known.ended.get(slot(run, *index)) {
            continue;
        }
        known.ended.set(slot(run, *index), ended);
        if ended && !(task.state == TaskState::Failed && failures_told.contains(index)) {
            body.extend(end(core, run, *index, task).map(|(rank, event)| (Turn::of(run, rank, *index), event)));
        }
    }
    body.sort_by_key(|(turn, _)| *turn);
    let works = |kind: i32| kind == i32::from(Kind::TaskStarted) || kind == i32::from(Kind::TaskSucceeded);
    if !known.started && body.iter().any(|(_, event)| works(event.kind)) {
        known.started = true;
        out.push(of_run_alone(run, Kind::RunStarted));
    }
    out.extend(body.into_iter().map(|(_, event)| event));
    if run.state.is_terminal() {
        out.push(outcome(core, run));
    } else {
        told.runs.insert(run.id, known);
    }
}

/// Where an event stands among those of its run and commit: what comes earlier in the graph first, and of a task its
/// children before itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// What runs at the end of a run follows from everything else.
    finally: bool,
    before_end: Reverse<u32>,
    /// The end of a fan-out follows from those of its children.
    parent: bool,
    rank: u8,
    index: u32,
}

impl Turn {
    fn of(run: &Run, rank: u8, index: u32) -> Self {
        let finally = run.bound(index).is_some_and(|bound| bound.flow.finally);
        let parent = run.groups.contains_key(&index);
        Self { finally, before_end: Reverse(run.remaining(index)), parent, rank, index }
    }
}

/// The entry of a run among those that go on.
fn entry(run: &Run) -> v1::FeedEvent {
    if run.generation == 0 {
        let details = json!({ "tasks": run.tasks.len() });
        return with_details(of_run_alone(run, Kind::RunSubmitted), &details);
    }
    let again = run.tasks.iter().filter(|task| !task.state.is_terminal()).count();
    with_details(of_run_alone(run, Kind::RunRerun), &json!({ "tasks": again }))
}

const fn bad_end(state: AttemptState) -> Option<Kind> {
    match state {
        AttemptState::Failed => Some(Kind::TaskFailed),
        AttemptState::TimedOut => Some(Kind::TaskTimedOut),
        AttemptState::Lost => Some(Kind::TaskLost),
        AttemptState::HandedBack => Some(Kind::TaskHandedBack),
        // The end of the task tells of these.
        AttemptState::Succeeded | AttemptState::Cancelled => None,
        AttemptState::Assigned | AttemptState::Running => None,
    }
}

/// The end of a task, and its rank: consequences come after what executed.
fn end(core: &Core, run: &Run, index: u32, task: &Task) -> Option<(u8, v1::FeedEvent)> {
    let last = task.attempts.last().filter(|attempt| attempt.generation == run.generation);
    let (rank, kind) = match task.state {
        TaskState::Succeeded => (u8::from(task.cached), Kind::TaskSucceeded),
        TaskState::Failed => (0, Kind::TaskFailed),
        TaskState::Cancelled => (2, Kind::TaskCancelled),
        TaskState::UpstreamFailed => (3, Kind::TaskUpstreamFailed),
        TaskState::Skipped => (3, Kind::TaskSkipped),
        // What a version or new items dropped has no say, and no end of its own.
        TaskState::Dropped => return None,
        TaskState::Waiting { .. }
        | TaskState::Ready
        | TaskState::Sensing { .. }
        | TaskState::Expanded
        | TaskState::Live(_)
        | TaskState::Backoff { .. } => return None,
    };
    let attempt = match kind {
        Kind::TaskSucceeded if !task.cached => last,
        Kind::TaskCancelled => last.filter(|attempt| attempt.state == AttemptState::Cancelled),
        _ => None,
    };
    let event = match attempt {
        Some(attempt) => of_attempt(run, index, attempt, kind),
        None => of_task(run, index, kind),
    };
    let event = v1::FeedEvent { task_ended: true, ..event };
    Some(match kind {
        Kind::TaskSucceeded => {
            let mut event = v1::FeedEvent { outputs: artifacts(&task.outputs), cached: task.cached, ..event };
            if task.cached {
                event.inputs = inputs(run, index, &run.inputs_of(index).unwrap_or_default());
                event.external_inputs = external(run, index);
            }
            let usage = attempt.map(|attempt| attempt.usage);
            let usage = usage.map(|usage| {
                json!({ "wall_ms": usage.wall_ms, "cpu_ms": usage.cpu_ms, "peak_memory_bytes": usage.peak_memory_bytes })
            });
            (rank, usage.map_or(event.clone(), |details| with_details(event, &details)))
        }
        Kind::TaskFailed => (rank, failed(event, task.failure.as_deref())),
        Kind::TaskCancelled => (rank, v1::FeedEvent { message: explain::cancelled(run, index).text, ..event }),
        // Nothing of its own says why it was never executed.
        Kind::TaskSkipped | Kind::TaskUpstreamFailed => (rank, because(event, explain::explain(core, run, index))),
        _ => (rank, event),
    })
}

/// The end of a run, with what there is to say to whoever is woken by it.
fn outcome(core: &Core, run: &Run) -> v1::FeedEvent {
    let kind = match run.state {
        RunState::Succeeded => Kind::RunSucceeded,
        RunState::Failed => Kind::RunFailed,
        RunState::Skipped => Kind::RunSkipped,
        RunState::Cancelled | RunState::Queued | RunState::Running | RunState::Cancelling => Kind::RunCancelled,
    };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for task in &run.tasks {
        let name = records::task_state(&task.state).as_str_name().trim_start_matches("TASK_STATE_").to_lowercase();
        *counts.entry(name).or_default() += 1;
    }
    let all_failed = || run.tasks.iter().enumerate().filter(|(_, task)| task.state == TaskState::Failed);
    let failed: Vec<Value> = all_failed()
        .take(NAMED_FAILURES)
        .map(|(index, task)| {
            let failure = task.failure.as_ref();
            json!({
                "task": task_name(run, u32::try_from(index).unwrap_or(u32::MAX)),
                "class": failure.map_or("", |failure| failure.class.name()),
                "message": clip(failure.map_or("", |failure| &failure.message), 500),
            })
        })
        .collect();
    let message = match (all_failed().count(), failed.first()) {
        (0, _) | (_, None) => unfinished(run),
        (count, Some(first)) => {
            let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
            let others = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
            format!("task `{}` failed ({}): {}{others}", text("task"), text("class"), text("message"))
        }
    };
    let seconds = run.ended_at.saturating_sub(since(run)) as f64 / 1_000.0;
    let mut details = Map::from_iter([("seconds".to_owned(), json!(seconds)), ("tasks".to_owned(), json!(counts))]);
    if !failed.is_empty() {
        details.insert("failed".to_owned(), Value::from(failed));
    }
    let event = v1::FeedEvent { message: clip(&message, LONGEST_MESSAGE), ..of_run_alone(run, kind) };
    let event = with_details(event, &Value::from(details));
    if run.state == RunState::Skipped { because(event, explain::explain_run(core, run)) } else { event }
}

/// Says why a run did not succeed in which no task failed.
fn unfinished(run: &Run) -> String {
    match run.state {
        RunState::Cancelled => explain::explain_alone(run).map(|reason| reason.text).unwrap_or_default(),
        RunState::Failed => {
            let stopped = run.tasks.iter().position(|task| task.state == TaskState::UpstreamFailed);
            let name = stopped.map(|index| task_name(run, u32::try_from(index).unwrap_or(u32::MAX)));
            name.map(|name| format!("task `{name}` was not run, because what it needs did not succeed"))
                .unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// When this generation of a run began to work.
fn since(run: &Run) -> UnixMillis {
    if run.generation == 0 {
        return run.created_at;
    }
    let attempts = run.tasks.iter().flat_map(|task| &task.attempts).filter(|a| a.generation == run.generation);
    attempts.map(|attempt| attempt.assigned_at).min().unwrap_or(run.ended_at)
}

/// A set of small numbers: a hundred thousand of them in twelve kilobytes.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn get(&self, index: u32) -> bool {
        self.0.get(index as usize / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    fn set(&mut self, index: u32, value: bool) {
        let at = index as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let bit = 1_u64 << (index % 64);
        if value { self.0[at] |= bit } else { self.0[at] &= !bit }
    }
}
