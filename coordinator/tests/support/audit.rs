//! The auditor: judges from outside whether what happened may happen. It has the feed, the final state, what workers saw
//! and what clients were told, and asks nothing of how the coordinator works.

use std::collections::{BTreeMap, BTreeSet};

use segue_coordinator::store::{Key, Row, codec};
use segue_proto::{
    store::v1::RunRecord,
    v1::{self, AttemptState, EventKind as Kind, RunState, TaskState, finished::Outcome},
};

use super::worker::Execution;

/// What a client was told, and how much was on disk when it heard it.
#[derive(Debug, Clone)]
pub struct Told {
    pub written: usize,
    pub what: Ack,
}

/// Answers that must outlive any crash.
#[derive(Debug, Clone)]
pub enum Ack {
    Submitted {
        key: String,
        run: String,
    },
    Cancelled {
        run: String,
    },
    /// The plan that was printed, and the outputs of each task before.
    Rerun {
        run: String,
        generation: u32,
        items: Vec<v1::RerunItem>,
        before: BTreeMap<String, Vec<v1::NamedArtifact>>,
    },
    Alias {
        model: String,
        alias: String,
    },
    Pool {
        name: String,
    },
    Schedule {
        name: String,
    },
    Backfill {
        id: String,
    },
}

/// Everything that the auditor looks at.
#[derive(Debug, Default)]
pub struct Evidence {
    pub events: Vec<v1::FeedEvent>,
    pub runs: Vec<v1::RunView>,
    /// Every task and child, by run.
    pub tasks: BTreeMap<String, Vec<v1::TaskView>>,
    pub workers: Vec<v1::WorkerDetail>,
    pub pools: Vec<v1::PoolView>,
    pub schedules: Vec<v1::ScheduleView>,
    pub backfills: Vec<v1::BackfillView>,
    pub models: Vec<v1::ModelView>,
    pub rows: Vec<Row>,
    /// What `segue store verify` says.
    pub verified: Vec<String>,
    pub executions: Vec<Execution>,
    /// Log of each attempt that was executed, in the order of the executions: bytes, and how many are missing.
    pub logs: Vec<(Vec<u8>, u64)>,
    pub told: Vec<Told>,
    /// Tasks that hold a slot of a pool, by pipeline and task, with the size of the pool.
    pub slots: BTreeMap<(String, String), (String, u32)>,
    /// Runs at a time, by pipeline.
    pub lanes: BTreeMap<String, usize>,
    /// Pipelines whose ended runs may have been collected.
    pub collected: BTreeSet<String>,
    /// What workers complained of.
    pub complaints: Vec<String>,
}

/// Gives every breach of an invariant; nothing when all is well.
pub fn audit(evidence: &Evidence) -> Vec<String> {
    let mut findings = Findings { found: Vec::new() };
    feed(evidence, &mut findings);
    final_state(evidence, &mut findings);
    feed_and_state(evidence, &mut findings);
    executions(evidence, &mut findings);
    answers(evidence, &mut findings);
    findings.found.extend(evidence.verified.iter().map(|problem| format!("verify: {problem}")));
    findings.found.extend(evidence.complaints.iter().map(|complaint| format!("worker: {complaint}")));
    findings.found
}

struct Findings {
    found: Vec<String>,
}

impl Findings {
    fn add(&mut self, text: String) {
        if self.found.len() < 50 {
            self.found.push(text);
        }
    }

    fn check(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.add(text());
        }
    }
}

/// What the feed has told of a run so far.
#[derive(Debug, Default)]
struct RunSoFar {
    generation: u32,
    over: bool,
    /// Open attempt of each task, and whether it has started.
    open: BTreeMap<String, (u32, bool)>,
    last: BTreeMap<String, u32>,
    /// Tasks whose end was told in this generation, and in any.
    ended: BTreeSet<String>,
    ever: BTreeSet<String>,
}

const fn is_end_of_run(kind: Kind) -> bool {
    matches!(kind, Kind::RunSucceeded | Kind::RunFailed | Kind::RunCancelled | Kind::RunSkipped)
}

/// The feed has no gaps; attempts follow each other, each is assigned before it starts and ends once; a task starts when
/// what it needs has ended; a run ends once, with nothing open; pools and lanes are never overfull.
fn feed(evidence: &Evidence, findings: &mut Findings) {
    let mut next = evidence.events.first().map_or(1, |event| event.offset);
    findings.check(next == 1, || format!("the feed begins at {next}"));
    let needs: BTreeMap<(&str, &str), &[String]> = evidence
        .tasks
        .iter()
        .flat_map(|(run, tasks)| tasks.iter().map(|task| ((run.as_str(), task.name.as_str()), &task.needs[..])))
        .collect();
    let mut runs: BTreeMap<String, RunSoFar> = BTreeMap::new();
    let mut holders: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    let mut going: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in &evidence.events {
        let at = format!("event {} ({} {} {})", event.offset, event.kind().as_str_name(), event.run_id, event.task);
        findings.check(event.offset == next, || format!("{at}: the next offset was {next}"));
        next = event.offset + 1;
        if event.run_id.is_empty() {
            continue;
        }
        let kind = event.kind();
        let run = runs.entry(event.run_id.clone()).or_default();
        if kind == Kind::RunRerun {
            findings
                .check(run.over && event.generation == run.generation + 1, || format!("{at}: of a run that goes on"));
            *run = RunSoFar {
                generation: event.generation,
                last: std::mem::take(&mut run.last),
                ever: std::mem::take(&mut run.ever),
                ..RunSoFar::default()
            };
        }
        let told_after = matches!(kind, Kind::ModelRegistered | Kind::AliasMoved | Kind::HookGaveUp | Kind::SlaMissed);
        findings.check(!run.over || told_after, || format!("{at}: after the end of the run"));
        findings.check(told_after || event.generation == run.generation, || {
            format!("{at}: of generation {}", event.generation)
        });
        let task = event.task.clone();
        match kind {
            Kind::TaskAssigned => {
                let open = run.open.insert(task.clone(), (event.attempt, false));
                findings.check(open.is_none(), || format!("{at}: attempt {open:?} was open"));
                let last = run.last.insert(task.clone(), event.attempt).unwrap_or(0);
                findings.check(event.attempt == last + 1, || format!("{at}: attempt {} after {last}", event.attempt));
                findings.check(!run.ended.contains(&task), || format!("{at}: of a task that has ended"));
                let base = task.split('[').next().unwrap_or_default();
                for need in needs.get(&(event.run_id.as_str(), base)).copied().unwrap_or_default() {
                    let settled = run.ever.contains(need) && !run.open.contains_key(need);
                    findings.check(settled, || format!("{at}: before `{need}` had ended"));
                }
            }
            Kind::TaskStarted => match run.open.get_mut(&task) {
                Some((number, started)) if *number == event.attempt && !*started => *started = true,
                other => findings.add(format!("{at}: attempt {} starts, open is {other:?}", event.attempt)),
            },
            _ => {}
        }
        let ends_attempt = match kind {
            Kind::TaskSucceeded | Kind::TaskFailed | Kind::TaskCancelled => event.attempt > 0,
            Kind::TaskTimedOut | Kind::TaskLost | Kind::TaskHandedBack => true,
            _ => false,
        };
        if ends_attempt {
            let open = run.open.remove(&task);
            // One that was lost before it started, or that failed without an attempt, names none.
            let fits = open.is_some_and(|(number, _)| number == event.attempt);
            findings.check(fits, || format!("{at}: attempt {} ends, open was {open:?}", event.attempt));
        }
        if event.task_ended {
            findings.check(run.ended.insert(task.clone()), || format!("{at}: the task ends twice"));
            run.ever.insert(task.clone());
        }
        if is_end_of_run(kind) {
            findings.check(run.open.is_empty(), || format!("{at}: with open attempts {:?}", run.open));
            run.over = true;
        }
        let key = (event.run_id.clone(), task.clone());
        let base = task.split('[').next().unwrap_or_default().to_owned();
        if let Some((pool, most)) = evidence.slots.get(&(event.pipeline.clone(), base)) {
            let held = holders.entry(pool.clone()).or_default();
            if kind == Kind::TaskAssigned {
                held.insert(key);
                findings
                    .check(held.len() <= *most as usize, || format!("{at}: pool `{pool}` of {most} held by {held:?}"));
            } else if ends_attempt {
                held.remove(&key);
            }
        }
        if let Some(most) = evidence.lanes.get(&event.pipeline) {
            let going = going.entry(event.pipeline.clone()).or_default();
            if kind == Kind::RunStarted {
                going.insert(event.run_id.clone());
                findings.check(going.len() <= *most, || format!("{at}: {going:?} go at once"));
            } else if is_end_of_run(kind) {
                going.remove(&event.run_id);
            }
        }
    }
}

/// Everything has ended, and whatever has ended holds nothing.
fn final_state(evidence: &Evidence, findings: &mut Findings) {
    for run in &evidence.runs {
        let id = &run.run_id;
        let over =
            matches!(run.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Skipped);
        findings.check(over, || format!("{id} ({}) is {}: {}", run.pipeline, run.state().as_str_name(), run.reason));
        for task in evidence.tasks.get(id).into_iter().flatten() {
            let open = matches!(
                task.state(),
                TaskState::Unspecified
                    | TaskState::Waiting
                    | TaskState::Ready
                    | TaskState::Assigned
                    | TaskState::Running
                    | TaskState::Backoff
                    | TaskState::Cancelling
                    | TaskState::Sensing
                    | TaskState::Expanded
            );
            findings.check(!(over && open), || {
                format!("{id} is over, and its task {} is {}", task.name, task.state().as_str_name())
            });
            for attempt in &task.attempts {
                let live = matches!(
                    attempt.state(),
                    AttemptState::Unspecified | AttemptState::Assigned | AttemptState::Running
                );
                findings.check(!(over && live), || {
                    format!("{id} is over, and attempt {} of {} lives", attempt.attempt, task.name)
                });
            }
            if task.state() == TaskState::Succeeded && !task.cached && !task.attempts.is_empty() {
                let made = task.attempts.iter().any(|attempt| attempt.state() == AttemptState::Succeeded);
                findings.check(made, || format!("{id}: {} succeeded, and none of its attempts did", task.name));
            }
        }
    }
    for worker in &evidence.workers {
        let name = worker.worker.as_ref().map_or("", |worker| &worker.name);
        findings.check(worker.tasks.is_empty(), || format!("worker {name} still holds {:?}", worker.tasks));
    }
    for pool in &evidence.pools {
        findings.check(pool.used == 0 && pool.waiting == 0, || format!("pool {} is still in use: {pool:?}", pool.name));
    }
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in &evidence.rows {
        let Ok(Key::Run(id)) = Key::decode(key) else { continue };
        match codec::decode_row::<RunRecord>(key, value) {
            Ok((_, record)) if !record.idempotency_key.is_empty() => {
                let before = keys.insert(record.idempotency_key.clone(), id.to_string());
                findings.check(before.is_none(), || {
                    format!("{id} and {before:?} share the key {}", record.idempotency_key)
                });
            }
            Ok(_) => {}
            Err(e) => findings.add(format!("run record {id}: {e}")),
        }
    }
}

/// The feed tells of every attempt that is stored, and of no other.
fn feed_and_state(evidence: &Evidence, findings: &mut Findings) {
    let mut told: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
    for event in evidence.events.iter().filter(|event| event.kind() == Kind::TaskAssigned) {
        told.entry((&event.run_id, &event.task)).or_default().insert(event.attempt);
    }
    for (run, tasks) in &evidence.tasks {
        for task in tasks {
            let stored: BTreeSet<u32> = task.attempts.iter().map(|attempt| attempt.attempt).collect();
            let told = told.remove(&(run.as_str(), task.name.as_str())).unwrap_or_default();
            findings.check(stored == told, || {
                format!("{run} {}: attempts {stored:?} are stored, {told:?} told", task.name)
            });
        }
    }
    for (run, task) in told.keys().filter(|(run, _)| evidence.tasks.contains_key(*run)) {
        findings.add(format!("{run} {task}: told of, and not stored"));
    }
    for run in &evidence.runs {
        let of_run = || evidence.events.iter().filter(|event| event.run_id == run.run_id);
        let last = of_run().rfind(|event| is_end_of_run(event.kind())).map(|event| event.kind());
        let expected = match run.state() {
            RunState::Succeeded => Some(Kind::RunSucceeded),
            RunState::Failed => Some(Kind::RunFailed),
            RunState::Cancelled => Some(Kind::RunCancelled),
            RunState::Skipped => Some(Kind::RunSkipped),
            _ => None,
        };
        findings.check(last == expected, || format!("{} is {:?}, and the feed says {last:?}", run.run_id, run.state()));
        let entries = of_run().filter(|event| event.kind() == Kind::RunSubmitted).count();
        findings.check(entries == 1, || format!("{} was submitted {entries} times", run.run_id));
    }
}

/// No attempt is executed twice, no two of a task at once, and what counts is what a worker has reported.
fn executions(evidence: &Evidence, findings: &mut Findings) {
    let mut seen = BTreeMap::new();
    let mut by_task: BTreeMap<(&str, &str), Vec<&Execution>> = BTreeMap::new();
    for execution in &evidence.executions {
        let token = &execution.token;
        let key = (token.run_id.clone(), token.task.clone(), token.attempt, token.epoch);
        if let Some(before) = seen.insert(key, &execution.worker) {
            findings.add(format!("{token:?} was executed by {before} and by {}", execution.worker));
        }
        by_task.entry((&token.run_id, &token.task)).or_default().push(execution);
    }
    for ((run, task), mut all) in by_task {
        all.sort_by_key(|execution| execution.began);
        for pair in all.windows(2) {
            let over = pair[0].ended.is_some_and(|ended| ended < pair[1].began);
            findings.check(over, || {
                format!(
                    "{run} {task}: attempt {} began before attempt {} had ended",
                    pair[1].token.attempt, pair[0].token.attempt
                )
            });
        }
    }
    for (at, execution) in evidence.executions.iter().enumerate() {
        let token = &execution.token;
        let views = evidence.tasks.get(&token.run_id);
        let Some(task) = views.and_then(|tasks| tasks.iter().find(|task| task.name == token.task)) else { continue };
        let attempt =
            task.attempts.iter().find(|attempt| attempt.attempt == token.attempt && attempt.epoch == token.epoch);
        findings.check(attempt.is_some(), || format!("{token:?} was executed, and is not stored"));
        let Some(attempt) = attempt else { continue };
        let succeeded = attempt.state() == AttemptState::Succeeded;
        let said = matches!(execution.outcome, Some(Outcome::Success(_)));
        findings.check(!succeeded || said, || {
            format!("{token:?} counts as a success, its worker said {:?}", execution.outcome)
        });
        let newest = task.attempts.last().is_some_and(|last| last.attempt == token.attempt);
        if let (true, true, Some(Outcome::Success(success))) = (succeeded, newest && !task.cached, &execution.outcome)
            && task.state() == TaskState::Succeeded
        {
            findings
                .check(success.outputs == task.outputs, || format!("{token:?} has other outputs than were reported"));
        }
        let Some((kept, lost)) = evidence.logs.get(at) else { continue };
        if *lost == 0 {
            findings.check(execution.log.starts_with(kept), || format!("the log of {token:?} is {kept:?}"));
        }
    }
}

/// What a client was told holds.
fn answers(evidence: &Evidence, findings: &mut Findings) {
    let run_of = |id: &str| evidence.runs.iter().find(|run| run.run_id == id);
    for Told { what, .. } in &evidence.told {
        match what {
            Ack::Submitted { key, run } => {
                let collected = evidence.collected.iter().any(|pipeline| key.starts_with(pipeline.as_str()));
                findings.check(collected || run_of(run).is_some(), || {
                    format!("{run} was acknowledged (key {key}) and is gone")
                });
            }
            Ack::Cancelled { run } => {
                let state = run_of(run).map(|run| run.state());
                findings.check(state == Some(RunState::Cancelled), || {
                    format!("the cancel of {run} was acknowledged: it is {state:?}")
                });
            }
            Ack::Rerun { run, generation, items, before } => {
                let Some(view) = run_of(run) else {
                    findings.add(format!("{run} was rerun and is gone"));
                    continue;
                };
                findings.check(view.generation >= *generation, || format!("the rerun of {run} is lost"));
                if view.generation == *generation {
                    rerun_as_planned(evidence, run, *generation, items, before, findings);
                }
            }
            Ack::Alias { model, alias } => {
                let there =
                    evidence.models.iter().any(|known| known.name == *model && known.aliases.contains_key(alias));
                findings.check(there, || format!("the alias {model}@{alias} is lost"));
            }
            Ack::Pool { name } => {
                findings
                    .check(evidence.pools.iter().any(|pool| pool.name == *name), || format!("the pool {name} is lost"));
            }
            Ack::Schedule { name } => {
                let there = evidence.schedules.iter().any(|schedule| schedule.name == *name);
                findings.check(there, || format!("the schedule {name} is lost"));
            }
            Ack::Backfill { id } => {
                let there = evidence.backfills.iter().find(|backfill| backfill.id == *id);
                findings.check(there.is_some(), || format!("the backfill {id} is lost"));
            }
        }
    }
}

/// Exactly what the plan says is executed, and what it keeps stays as it was.
fn rerun_as_planned(
    evidence: &Evidence,
    run: &str,
    generation: u32,
    items: &[v1::RerunItem],
    before: &BTreeMap<String, Vec<v1::NamedArtifact>>,
    findings: &mut Findings,
) {
    let planned: BTreeSet<&str> = items.iter().filter(|item| item.execute).map(|item| item.task.as_str()).collect();
    for event in &evidence.events {
        let executes = event.run_id == run && event.generation == generation && event.kind() == Kind::TaskAssigned;
        let base = event.task.split('[').next().unwrap_or_default();
        findings.check(!executes || planned.contains(base), || {
            format!("the rerun of {run} executed {}, which it kept", event.task)
        });
    }
    for task in evidence.tasks.get(run).into_iter().flatten().filter(|task| task.group.is_empty()) {
        if let (false, Some(outputs)) = (planned.contains(task.name.as_str()), before.get(&task.name)) {
            findings.check(task.outputs == *outputs, || {
                format!("the rerun of {run} changed what it kept of {}", task.name)
            });
        }
    }
}
