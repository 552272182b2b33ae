//! Rerun plans: which tasks of an ended run execute again, and why.
//!
//! Laws, tested below: the plan executes every selected task; what an executed task needs either has a result that is
//! kept or executes too; what is not in the plan keeps its artifacts; equal input, equal plan.

use std::{collections::BTreeMap, sync::Arc};

use super::{Run, TaskState};
use crate::spec::{BoundTask, OutputRef, RunSpec};

/// What a client asks to execute again. Several wishes add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Everything that did not succeed.
    pub failed: bool,
    /// These tasks and what comes after them.
    pub from: Vec<String>,
    /// These tasks alone.
    pub only: Vec<String>,
}

/// A plan: one line for each task, in the order of the spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub spec: Arc<RunSpec>,
    pub items: Vec<Item>,
}

/// What happens to one task, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub execute: bool,
    /// The version does not have it any more.
    pub dropped: bool,
    pub reason: String,
}

/// A selector names a task that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the run has no task `{task}`")]
pub struct NoSuchTask {
    pub task: String,
    /// The names that are there.
    pub known: Vec<String>,
}

impl Plan {
    /// Gives the marks of tasks that the version does not have any more.
    #[must_use]
    pub fn dropped(&self) -> Vec<bool> {
        self.items.iter().map(|item| item.dropped).collect()
    }

    /// Gives the flags by task index.
    #[must_use]
    pub fn execute(&self) -> Vec<bool> {
        self.items.iter().map(|item| item.execute).collect()
    }
}

/// Plans a rerun with the pinned version, or with `latest`.
///
/// # Errors
/// A selector that names an unknown task.
pub fn plan(run: &Run, selector: &Selector, latest: Option<&RunSpec>) -> Result<Plan, NoSuchTask> {
    let (spec, differs) = match latest {
        Some(latest) => {
            let (spec, mut differs) = merge(&run.spec, latest);
            for (differs, task) in differs.iter_mut().zip(&run.tasks) {
                // It was dropped by an earlier version and is back.
                if *differs == Differs::No && task.state == TaskState::Skipped {
                    *differs = Differs::New;
                }
            }
            (spec, differs)
        }
        None => {
            let gone = |task: &super::Task| task.state == TaskState::Skipped;
            let differs =
                run.tasks.iter().map(|task| if gone(task) { Differs::Dropped } else { Differs::No }).collect();
            (Arc::clone(&run.spec), differs)
        }
    };
    let n = spec.tasks.len();
    let index: BTreeMap<&str, usize> = spec.tasks.iter().enumerate().map(|(i, task)| (task.name.as_str(), i)).collect();
    let find = |name: &String| {
        index.get(name.as_str()).copied().ok_or_else(|| NoSuchTask {
            task: name.clone(),
            known: spec.tasks.iter().map(|task| task.name.to_string()).collect(),
        })
    };
    let succeeded = |task: usize| run.tasks.get(task).is_some_and(|task| task.state == TaskState::Succeeded);
    let dependants = reverse_edges(&spec);

    let mut reasons: Vec<Option<String>> = vec![None; n];
    let mut set = |task: usize, reason: String| {
        if differs[task] != Differs::Dropped && reasons[task].is_none() {
            reasons[task] = Some(reason);
        }
    };
    for name in &selector.only {
        set(find(name)?, "asked for".to_owned());
    }
    let mut roots = Vec::new();
    for name in &selector.from {
        let task = find(name)?;
        set(task, "asked for".to_owned());
        roots.push(task);
    }
    for (task, differs) in differs.iter().copied().enumerate() {
        match differs {
            Differs::New => {
                set(task, "new in this version".to_owned());
                roots.push(task);
            }
            Differs::Changed => {
                set(task, "changed in this version".to_owned());
                roots.push(task);
            }
            Differs::No | Differs::Dropped => {}
        }
        if selector.failed && !succeeded(task) && differs != Differs::Dropped {
            let state = run.tasks.get(task).map_or("missing", |task| state_word(&task.state));
            set(task, state.to_owned());
            roots.push(task);
        }
    }
    // A task that has a reason of its own is still passed through: what comes after it comes after the root too.
    let mut reached = vec![false; n];
    let mut stack = roots;
    while let Some(task) = stack.pop() {
        if std::mem::replace(&mut reached[task], true) {
            continue;
        }
        for &next in &dependants[task] {
            if differs[next] != Differs::Dropped {
                reasons[next].get_or_insert_with(|| format!("downstream of {}", spec.tasks[task].name));
                stack.push(next);
            }
        }
    }
    // What an executed task needs must have a result.
    let mut stack: Vec<usize> = (0..n).filter(|&task| reasons[task].is_some()).collect();
    while let Some(task) = stack.pop() {
        for need in spec.tasks[task].needs() {
            if reasons[need].is_none() && !succeeded(need) {
                reasons[need] = Some(format!("needed by {}", spec.tasks[task].name));
                stack.push(need);
            }
        }
    }
    let items = reasons
        .into_iter()
        .enumerate()
        .map(|(task, reason)| match reason {
            Some(reason) => Item { execute: true, dropped: false, reason },
            None if differs[task] == Differs::Dropped => {
                Item { execute: false, dropped: true, reason: "not in this version".to_owned() }
            }
            None if succeeded(task) => Item { execute: false, dropped: false, reason: "kept".to_owned() },
            None => Item {
                execute: false,
                dropped: false,
                reason: format!("stays {}", run.tasks.get(task).map_or("missing", |task| state_word(&task.state))),
            },
        })
        .collect();
    Ok(Plan { spec, items })
}

const fn state_word(state: &TaskState) -> &'static str {
    match state {
        TaskState::Waiting { .. } => "waiting",
        TaskState::Ready => "ready",
        TaskState::Live(_) => "running",
        TaskState::Backoff { .. } => "in backoff",
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::UpstreamFailed => "upstream failed",
        TaskState::Cancelled => "cancelled",
        TaskState::Skipped => "skipped",
    }
}

fn reverse_edges(spec: &RunSpec) -> Vec<Vec<usize>> {
    let mut dependants = vec![Vec::new(); spec.tasks.len()];
    for (task, bound) in spec.tasks.iter().enumerate() {
        for need in bound.needs() {
            dependants[need].push(task);
        }
    }
    dependants
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    No,
    New,
    Changed,
    Dropped,
}

/// Brings a new version into the order of the old one: tasks of the same name keep their index, so that their attempts
/// and artifacts stay where they are; new ones come after; dropped ones stay as unconnected places.
fn merge(old: &RunSpec, new: &RunSpec) -> (Arc<RunSpec>, Vec<Differs>) {
    let old_index: BTreeMap<_, usize> = old.tasks.iter().enumerate().map(|(i, task)| (&task.name, i)).collect();
    let mut place: Vec<usize> = Vec::with_capacity(new.tasks.len());
    let mut next = old.tasks.len();
    for task in &new.tasks {
        place.push(old_index.get(&task.name).copied().unwrap_or_else(|| {
            next += 1;
            next - 1
        }));
    }
    let mut slots: Vec<Option<(BoundTask, Differs)>> = vec![None; next];
    for (task, &at) in new.tasks.iter().zip(&place) {
        let mut moved = task.clone();
        for input in moved.inputs.values_mut() {
            *input = OutputRef { task: place[input.task], output: std::mem::take(&mut input.output) };
        }
        moved.after = moved.after.iter().map(|&need| place[need]).collect();
        moved.after.sort_unstable();
        let differs = match old.tasks.get(at) {
            None => Differs::New,
            Some(before) if same_work(before, &moved) => Differs::No,
            Some(_) => Differs::Changed,
        };
        slots[at] = Some((moved, differs));
    }
    let (tasks, differs) = slots
        .into_iter()
        .enumerate()
        .map(|(at, slot)| {
            slot.unwrap_or_else(|| {
                let mut dropped = old.tasks[at].clone();
                dropped.inputs.clear();
                dropped.after.clear();
                (dropped, Differs::Dropped)
            })
        })
        .unzip();
    (Arc::new(RunSpec { tasks, ..new.clone() }), differs)
}

/// Says whether a change can change results: a new timeout or retry policy cannot.
fn same_work(a: &BoundTask, b: &BoundTask) -> bool {
    a.work == b.work && a.inputs == b.inputs && a.params == b.params && a.env == b.env && a.outputs == b.outputs
}
