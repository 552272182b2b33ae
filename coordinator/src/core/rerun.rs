//! Rerun plans: which tasks of an ended run execute again, and why.
//!
//! Laws, tested below: the plan executes every selected task; what an executed task needs either has a result that is
//! kept or executes too; what is not in the plan keeps its artifacts; equal input, equal plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Run, RunState, TaskState, run::count};
use crate::spec::{BoundTask, OutputRef, Over, RunIf, RunSpec};

/// What a client asks to execute again. Several wishes add up. A name may be that of a child: `score[eu]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Everything that did not succeed. What its own condition skipped is no failure.
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
    /// Of a fan-out: the children that execute, when the others keep what they have.
    pub children: Option<BTreeSet<u32>>,
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
    /// Says whether anything executes.
    #[must_use]
    pub fn executes(&self) -> bool {
        self.items.iter().any(|item| item.execute)
    }

    /// Gives the flags by task index.
    #[must_use]
    pub fn execute(&self) -> Vec<bool> {
        self.items.iter().map(|item| item.execute).collect()
    }
}

/// Why a task is in the plan, and how much of it.
#[derive(Debug, Clone)]
struct Mark {
    reason: String,
    /// `None`: the whole task.
    children: Option<BTreeSet<u32>>,
}

/// A plan in the making.
struct Planner<'a> {
    run: &'a Run,
    spec: &'a RunSpec,
    differs: Vec<Differs>,
    marks: Vec<Option<Mark>>,
}

/// Plans a rerun with the pinned version, or with `latest`.
///
/// # Errors
/// A selector that names an unknown task.
pub fn plan(run: &Run, selector: &Selector, latest: Option<&RunSpec>) -> Result<Plan, NoSuchTask> {
    let gone = |task: &super::Task| task.state == TaskState::Dropped;
    let (spec, differs) = match latest {
        Some(latest) => {
            let (spec, mut differs) = merge(&run.spec, latest);
            for (differs, task) in differs.iter_mut().zip(&run.tasks) {
                // It was dropped by an earlier version and is back.
                if *differs == Differs::No && gone(task) {
                    *differs = Differs::New;
                }
            }
            (spec, differs)
        }
        None => {
            let differs =
                run.tasks.iter().map(|task| if gone(task) { Differs::Dropped } else { Differs::No }).collect();
            (Arc::clone(&run.spec), differs)
        }
    };
    let marks = vec![None; spec.tasks.len()];
    let mut planner = Planner { run, spec: &spec, differs, marks };
    let roots = planner.wishes(selector)?;
    planner.reach_downstream(roots);
    planner.bring_producers();
    planner.widen();
    planner.finally();
    let items = planner.items();
    Ok(Plan { spec, items })
}

impl Planner<'_> {
    /// Finds a task, or a child of one.
    fn find(&self, name: &str) -> Result<(usize, Option<u32>), NoSuchTask> {
        let unknown = || NoSuchTask {
            task: name.to_owned(),
            known: self.spec.tasks.iter().map(|task| task.name.to_string()).collect(),
        };
        let (task, key) = match name.split_once('[') {
            None => (name, None),
            Some((task, key)) => (task, Some(key.strip_suffix(']').ok_or_else(unknown)?)),
        };
        let node = self.spec.tasks.iter().position(|known| known.name.as_str() == task).ok_or_else(unknown)?;
        let Some(key) = key else { return Ok((node, None)) };
        let child = self.run.groups.get(&count(node)).and_then(|group| group.find(key)).ok_or_else(unknown)?;
        let there = self.run.task(child).is_some_and(|child| child.state != TaskState::Dropped);
        if there { Ok((node, Some(child))) } else { Err(unknown()) }
    }

    fn succeeded(&self, task: usize) -> bool {
        self.run.tasks.get(task).is_some_and(|task| task.state == TaskState::Succeeded)
    }

    fn mark(&mut self, task: usize, reason: impl Into<String>, children: Option<BTreeSet<u32>>) {
        if self.differs[task] == Differs::Dropped {
            return;
        }
        match &mut self.marks[task] {
            None => self.marks[task] = Some(Mark { reason: reason.into(), children }),
            Some(mark) => match (&mut mark.children, children) {
                (Some(known), Some(more)) => known.extend(more),
                // The whole task is more than some of its children.
                (known, None) => *known = None,
                (None, Some(_)) => {}
            },
        }
    }

    /// Marks what is asked for, what the version changed, and what failed. Gives the tasks whose downstream executes too.
    fn wishes(&mut self, selector: &Selector) -> Result<Vec<usize>, NoSuchTask> {
        for name in &selector.only {
            let (task, child) = self.find(name)?;
            self.mark(task, "asked for", child.map(|child| [child].into()));
        }
        let mut roots = Vec::new();
        for name in &selector.from {
            let (task, child) = self.find(name)?;
            self.mark(task, "asked for", child.map(|child| [child].into()));
            roots.push(task);
        }
        for task in 0..self.spec.tasks.len() {
            match self.differs[task] {
                Differs::New => {
                    self.mark(task, "new in this version", None);
                    roots.push(task);
                }
                Differs::Changed => {
                    self.mark(task, "changed in this version", None);
                    roots.push(task);
                }
                Differs::No | Differs::Dropped => {}
            }
            let state = self.run.tasks.get(task).map(|task| &task.state);
            let fine = match state {
                // Of a run that never began nothing was skipped by its own condition.
                Some(TaskState::Skipped) => self.run.state != RunState::Skipped,
                state => state == Some(&TaskState::Succeeded),
            };
            if selector.failed && !fine && self.differs[task] != Differs::Dropped {
                self.mark(task, state.map_or("missing", state_word), self.failed_children(task));
                roots.push(task);
            }
        }
        Ok(roots)
    }

    /// Gives the children of a fan-out that did not succeed; `None` where it has none and so executes whole.
    fn failed_children(&self, task: usize) -> Option<BTreeSet<u32>> {
        let group = self.run.groups.get(&count(task)).filter(|_| self.differs[task] == Differs::No)?;
        let failed = |child: &u32| self.run.task(*child).is_some_and(|child| child.state.is_failure());
        let failed: BTreeSet<u32> = group.members.iter().copied().filter(failed).collect();
        (!failed.is_empty()).then_some(failed)
    }

    /// Marks everything after the roots. A task that has a reason of its own is still passed through: what comes after it
    /// comes after the root too.
    fn reach_downstream(&mut self, roots: Vec<usize>) {
        let dependants = reverse_edges(self.spec);
        let mut reached = vec![false; self.spec.tasks.len()];
        let mut stack = roots;
        while let Some(task) = stack.pop() {
            if std::mem::replace(&mut reached[task], true) {
                continue;
            }
            for &next in &dependants[task] {
                if self.differs[next] != Differs::Dropped {
                    self.mark(next, format!("downstream of {}", self.spec.tasks[task].name), None);
                    stack.push(next);
                }
            }
        }
    }

    /// What an executed task needs must have a result, unless its rule asks for none.
    fn bring_producers(&mut self) {
        let mut stack: Vec<usize> = (0..self.marks.len()).filter(|&task| self.marks[task].is_some()).collect();
        while let Some(task) = stack.pop() {
            if self.spec.tasks[task].flow.run_if != RunIf::AllSucceeded {
                continue;
            }
            for need in self.spec.tasks[task].needs() {
                if self.marks[need].is_none() && !self.succeeded(need) {
                    self.mark(need, format!("needed by {}", self.spec.tasks[task].name), self.failed_children(need));
                    stack.push(need);
                }
            }
        }
    }

    /// A fan-out whose needs execute gets new inputs, so that all of its children do.
    fn widen(&mut self) {
        for task in 0..self.marks.len() {
            let fresh = self.spec.tasks[task].needs().into_iter().any(|need| self.marks[need].is_some());
            if let Some(mark) = self.marks[task].as_mut().filter(|_| fresh) {
                mark.children = None;
            }
        }
    }

    /// What runs at the end runs at the end of each generation, unless it needs what did not succeed and is not tried
    /// again.
    fn finally(&mut self) {
        if self.marks.iter().all(Option::is_none) {
            return;
        }
        let mut at_end: BTreeSet<usize> = (0..self.marks.len())
            .filter(|&task| self.spec.tasks[task].flow.finally && self.differs[task] != Differs::Dropped)
            .collect();
        loop {
            let never = at_end.iter().copied().find(|&task| {
                let lacks =
                    |need: usize| self.marks[need].is_none() && !self.succeeded(need) && !at_end.contains(&need);
                let bound = &self.spec.tasks[task];
                self.marks[task].is_none()
                    && bound.flow.run_if == RunIf::AllSucceeded
                    && bound.needs().into_iter().any(lacks)
            });
            match never {
                Some(task) => at_end.remove(&task),
                None => break,
            };
        }
        for task in at_end {
            self.mark(task, "runs at the end of every run", None);
        }
    }

    fn items(self) -> Vec<Item> {
        let Self { run, spec, differs, marks } = self;
        let state = |task: usize| run.tasks.get(task).map(|task| &task.state);
        marks
            .into_iter()
            .enumerate()
            .map(|(task, mark)| match mark {
                Some(Mark { mut reason, children }) => {
                    if matches!(spec.tasks[task].flow.run_if, RunIf::AnySucceeded | RunIf::AnyFailed) {
                        reason.push_str(", if its rule holds");
                    }
                    if spec.tasks[task].flow.when.is_some() {
                        reason.push_str(", if its condition holds");
                    }
                    Item { execute: true, dropped: false, reason, children }
                }
                None => {
                    let dropped = differs[task] == Differs::Dropped;
                    let reason = match state(task) {
                        _ if dropped => "not in this version".to_owned(),
                        Some(TaskState::Succeeded) => tolerated(run, task).unwrap_or_else(|| "kept".to_owned()),
                        state => format!("stays {}", state.map_or("missing", state_word)),
                    };
                    Item { execute: false, dropped, reason, children: None }
                }
            })
            .collect()
    }
}

/// Names the children of a fan-out that succeeded all the same: `--failed` leaves them as the pipeline wants it.
fn tolerated(run: &Run, task: usize) -> Option<String> {
    const MOST_NAMED: usize = 5;
    let group = run.groups.get(&count(task)).filter(|group| group.failed > 0)?;
    let failed = group.members.iter().filter(|&&child| run.task(child).is_some_and(|child| child.state.is_failure()));
    let names: Vec<String> =
        failed.take(MOST_NAMED).filter_map(|&child| Some(run.name_of(child)?.to_string())).collect();
    let more = (group.failed as usize).saturating_sub(names.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("kept, although it tolerates {}{rest}: ask for them with --only", names.join(", ")))
}

/// Names a state in a sentence.
fn state_word(state: &TaskState) -> &'static str {
    match state {
        TaskState::UpstreamFailed => "upstream failed",
        TaskState::Backoff { .. } => "in backoff",
        TaskState::Live(_) => "running",
        state => state.word(),
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
        if let Some(Over::Output(from)) = moved.flow.fan_out.as_mut().map(|fan_out| &mut fan_out.over) {
            from.task = place[from.task];
        }
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
                dropped.flow.fan_out = None;
                (dropped, Differs::Dropped)
            })
        })
        .unzip();
    (Arc::new(RunSpec { tasks, ..new.clone() }), differs)
}

/// Says whether a change can change results: a new timeout or retry policy cannot.
fn same_work(a: &BoundTask, b: &BoundTask) -> bool {
    let items =
        |task: &BoundTask| task.flow.fan_out.as_ref().map(|fan_out| (fan_out.over.clone(), fan_out.key.clone()));
    a.work == b.work
        && a.inputs == b.inputs
        && a.params == b.params
        && a.env == b.env
        && a.outputs == b.outputs
        && a.flow.when == b.flow.when
        && a.flow.run_if == b.flow.run_if
        && items(a) == items(b)
}
