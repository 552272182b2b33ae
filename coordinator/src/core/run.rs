//! A run in memory: its bound spec, the state of each task, and the children of its fan-outs.

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::{
    artifact::{NamedArtifact, Usage},
    failure::Failure,
    ids::{ItemKey, RunId, TaskRef, Token},
    resources::Resources,
};
use serde_json::Value;

use super::{UnixMillis, graph::Graph, group::Group, worker::WorkerKey};
use crate::spec::{BoundTask, RunSpec};

/// Index of the first child of a fan-out. Below are the tasks of the spec, in its order; no pipeline file is large
/// enough to hold so many.
pub const FIRST_CHILD: u32 = 1 << 24;

/// Class of a task that was never in the queue.
pub(super) const UNQUEUED: u32 = u32::MAX;

/// Life of a run. A terminal run holds no lease, no timer and no process.
///
/// ```text
/// Queued --room--> Running --cancel--> Cancelling
/// Running, Cancelling --no open task--> Succeeded, Failed, Cancelled
/// Queued --cancel--> Cancelled          submitted where others are going, by wish --> Skipped
/// any terminal state --rerun--> Queued or Running
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Waits for other runs, by the concurrency of its pipeline.
    Queued,
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
    /// Never started, because others were going.
    Skipped,
}

impl RunState {
    /// Says whether nothing more happens without a rerun.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped)
    }
}

/// Life of one task. Every arrow not drawn here is refused.
///
/// ```text
/// Waiting --last need ended, rule and condition hold--> Ready, Sensing, or Expanded for a fan-out
/// Ready --assigned--> Live --succeeded--> Succeeded
/// Ready --cache hit--> Succeeded            Ready --queue timeout--> Failed
/// Sensing --condition met--> Succeeded      Sensing --timeout--> Failed
/// Expanded --last child ended--> Succeeded, Failed or Cancelled
/// Live --failed, timed out or lost--> Backoff --timer--> Ready, or Failed when no tries are left
/// Live --handed back or never delivered--> Ready
/// Live --cancel--> Live (cancelling) --confirmed or lease over--> Cancelled
/// Waiting, Ready, Sensing, Backoff --cancel--> Cancelled
/// Waiting --a need failed--> UpstreamFailed    Waiting --condition false, or a need skipped--> Skipped
/// any terminal state --rerun--> Waiting, or Dropped when the version does not have it
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    Waiting {
        /// Needs that have not ended. A `finally` task needs everything else, which counts as one.
        needs_left: u32,
    },
    Ready,
    Sensing {
        next: UnixMillis,
    },
    Live(Box<Live>),
    Backoff {
        until: UnixMillis,
    },
    Expanded,
    Succeeded,
    Failed,
    UpstreamFailed,
    Cancelled,
    /// By its own condition, or because something before it was.
    Skipped,
    /// Not part of the version that the run has now, or of the items of its fan-out.
    Dropped,
}

/// The attempt that holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    pub attempt: u32,
    /// Coordinator epoch of the assignment: part of the fencing token.
    pub epoch: u64,
    pub worker: WorkerKey,
    pub lease_until: UnixMillis,
    /// The time under which the timers hold it: at most `lease_until`, but while its worker never named it.
    pub timer: UnixMillis,
    pub started: bool,
    pub cancelling: bool,
    /// Given before there is room: it waits at the worker, and its amounts do not count yet.
    pub ahead: bool,
    /// What the lease reserves, GPUs of a preference included.
    pub reserved: Resources,
}

impl TaskState {
    /// Says whether nothing more happens without a rerun.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::UpstreamFailed | Self::Cancelled | Self::Skipped | Self::Dropped
        )
    }

    /// Says whether it ended in a way that stops what needs its success.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed | Self::UpstreamFailed | Self::Cancelled)
    }

    /// Gives the attempt that holds a lease.
    #[must_use]
    pub fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            _ => None,
        }
    }

    /// Says whether the worker was told to stop it.
    #[must_use]
    pub fn is_cancelling(&self) -> bool {
        self.live().is_some_and(|live| live.cancelling)
    }

    /// Names the state as conditions and reports do.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Ready => "ready",
            Self::Sensing { .. } => "sensing",
            Self::Live(live) if live.cancelling => "cancelling",
            Self::Live(live) if live.started => "running",
            Self::Live(_) => "assigned",
            Self::Backoff { .. } => "backoff",
            Self::Expanded => "expanded",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::UpstreamFailed => "upstream_failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
            Self::Dropped => "dropped",
        }
    }
}

/// Outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    Assigned,
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Lost,
    Cancelled,
    HandedBack,
}

/// One try of one task; never overwritten by a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub number: u32,
    pub state: AttemptState,
    pub worker: WorkerKey,
    pub epoch: u64,
    pub generation: u32,
    pub assigned_at: UnixMillis,
    /// 0: never started.
    pub started_at: UnixMillis,
    /// 0: not ended.
    pub ended_at: UnixMillis,
    pub usage: Usage,
    pub failure: Option<Box<Failure>>,
    pub log_bytes: u64,
    pub inputs: Vec<NamedArtifact>,
    pub outputs: Vec<NamedArtifact>,
}

/// Last word of a running attempt about how far it is; not persisted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    /// 0: unknown.
    pub total: u64,
    pub message: String,
}

/// State of a task or of a child in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub state: TaskState,
    /// Tries burnt in this generation.
    pub tries: u32,
    /// Placement class since it was first in the queue, [`UNQUEUED`] before.
    pub(super) class: u32,
    pub cached: bool,
    /// A rerun asked for it: it executes even when the cache has a result.
    pub forced: bool,
    pub attempts: Vec<Attempt>,
    pub outputs: Vec<NamedArtifact>,
    pub failure: Option<Box<Failure>>,
    pub metrics_json: String,
    /// JSON outputs that conditions and fan-outs read.
    pub inline: BTreeMap<String, Value>,
    /// When it could first have been placed, or its sensor began to look.
    pub ready_at: UnixMillis,
    pub ended_at: UnixMillis,
    /// Of an expanded fan-out: the first of its children that has not begun, by index; they begin in this order, some at a
    /// time. 0: all have.
    pub next_child: u32,
    pub progress: Option<Box<Progress>>,
}

impl Task {
    /// Makes a task that waits for `needs` others.
    #[must_use]
    pub const fn new(needs: u32) -> Self {
        Self {
            state: TaskState::Waiting { needs_left: needs },
            tries: 0,
            class: UNQUEUED,
            cached: false,
            forced: false,
            attempts: Vec::new(),
            outputs: Vec::new(),
            failure: None,
            metrics_json: String::new(),
            inline: BTreeMap::new(),
            ready_at: 0,
            ended_at: 0,
            next_child: 0,
            progress: None,
        }
    }

    /// Starts it anew for a rerun: what was made before stays in its attempts.
    pub(super) fn reset(&mut self) {
        let attempts = std::mem::take(&mut self.attempts);
        *self = Self { attempts, forced: true, ..Self::new(1) };
    }

    /// Says whether it is a child that is ready and held back by the `max_parallel` of its fan-out.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state == TaskState::Ready && self.class == UNQUEUED
    }

    /// Gives the number of the next attempt.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        self.attempts.last().map_or(1, |attempt| attempt.number.saturating_add(1))
    }

    /// Finds an output.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&NamedArtifact> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// Finds an attempt by number.
    #[must_use]
    pub fn attempt_mut(&mut self, number: u32) -> Option<&mut Attempt> {
        // Searched from the end: the live attempt is the last one.
        self.attempts.iter_mut().rev().find(|attempt| attempt.number == number)
    }
}

/// One item of a fan-out, as its child sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub key: ItemKey,
    pub value: Value,
    pub ordinal: u32,
}

/// One execution of a pipeline version.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: RunId,
    pub spec: Arc<RunSpec>,
    pub path: String,
    pub state: RunState,
    pub created_at: UnixMillis,
    /// Since when it waits: for its turn while it is queued, for workers once it goes on. Runs stand in this order, moved
    /// by their priority.
    pub waits_since: UnixMillis,
    pub ended_at: UnixMillis,
    /// 0, and one more for each rerun.
    pub generation: u32,
    pub priority: i32,
    pub tags: BTreeMap<String, String>,
    pub idempotency_key: String,
    /// Digest of what a client asked for under its key; empty: a repeat is not compared.
    pub asked: String,
    pub no_cache: bool,
    /// Path or URL to the digest of the content that was there at submission.
    pub external_inputs: BTreeMap<String, String>,
    /// Why it was cancelled as a whole, in words; empty: it was not.
    pub cancelled_for: String,
    /// By index in the spec.
    pub tasks: Vec<Task>,
    /// From [`FIRST_CHILD`] on.
    pub children: Vec<Task>,
    /// Task and ordinal of each child.
    pub(super) homes: Vec<(u32, u32)>,
    /// Expanded fan-outs, by index of their task.
    pub groups: BTreeMap<u32, Group>,
    /// Placement class of each task that was ready; of the queue that it is in.
    pub(super) classes: BTreeMap<u32, u32>,
    pub(super) graph: Arc<Graph>,
    /// Tasks of the spec that are not terminal.
    pub(super) open: u32,
    /// Of them, those that are not `finally`.
    pub(super) open_main: u32,
    /// Grows with each change; for watchers.
    pub revision: u64,
}

impl Run {
    /// Makes a run in which nothing has begun.
    #[must_use]
    pub fn new(id: RunId, spec: Arc<RunSpec>, path: String, created_at: UnixMillis) -> Self {
        let tasks = spec.tasks.iter().map(|_| Task::new(1)).collect();
        let mut run = Self {
            id,
            path,
            state: RunState::Running,
            created_at,
            waits_since: created_at,
            ended_at: 0,
            generation: 0,
            priority: spec.priority,
            tags: BTreeMap::new(),
            idempotency_key: String::new(),
            asked: String::new(),
            no_cache: false,
            external_inputs: BTreeMap::new(),
            cancelled_for: String::new(),
            tasks,
            children: Vec::new(),
            homes: Vec::new(),
            groups: BTreeMap::new(),
            classes: BTreeMap::new(),
            graph: Arc::new(Graph::of(&spec)),
            spec,
            open: 0,
            open_main: 0,
            revision: 0,
        };
        run.index();
        run
    }

    /// Rebuilds what is derived from spec and task states: edges, path lengths, counters.
    pub fn index(&mut self) {
        if !self.graph.is_of(&self.spec) {
            self.graph = Arc::new(Graph::of(&self.spec));
        }
        self.open = 0;
        self.open_main = 0;
        let open = self.tasks.iter().zip(&self.spec.tasks).filter(|(task, _)| !task.state.is_terminal());
        for (_, bound) in open {
            self.open += 1;
            self.open_main += u32::from(!bound.flow.finally);
        }
        for node in 0..self.tasks.len() {
            if matches!(self.tasks[node].state, TaskState::Waiting { .. }) {
                let needs_left = self.needs_left(node);
                self.tasks[node].state = TaskState::Waiting { needs_left };
            }
        }
        let mut groups = std::mem::take(&mut self.groups);
        for group in groups.values_mut() {
            group.recount(|index| self.task(index).map(|task| &task.state));
        }
        self.groups = groups;
    }

    fn needs_left(&self, node: usize) -> u32 {
        let open =
            self.graph.needs[node].iter().filter(|&&need| !self.tasks[need as usize].state.is_terminal()).count();
        let all_else = self.spec.tasks[node].flow.finally && self.open_main > 0;
        count(open) + u32::from(all_else)
    }

    /// Takes the expanded fan-outs from the store, by the index of their task, with children that have not begun.
    ///
    /// # Errors
    /// Names the task whose fan-out does not fit in, and why.
    pub fn adopt_groups(&mut self, groups: BTreeMap<u32, Group>) -> Result<(), (u32, String)> {
        // Children are numbered without gaps, so that no record makes more of them than it names.
        let children = groups.values().map(|group| group.members.len()).sum();
        self.children.resize_with(children, || Task::new(0));
        self.homes = vec![(u32::MAX, 0); children];
        for (&node, group) in &groups {
            if node as usize >= self.tasks.len() {
                return Err((node, format!("the run has no task {node}")));
            }
            for (ordinal, &member) in group.members.iter().enumerate() {
                let at = member.checked_sub(FIRST_CHILD).and_then(|at| self.homes.get_mut(at as usize));
                match at {
                    Some(home) if home.0 == u32::MAX => *home = (node, count(ordinal)),
                    Some(_) => return Err((node, format!("a child has the index {member}, and so has another one"))),
                    None => return Err((node, format!("a child has the index {member}, of {children} children"))),
                }
            }
        }
        self.groups = groups;
        Ok(())
    }

    /// Gives the task of the spec that an index belongs to: its own, or that of its fan-out.
    #[must_use]
    pub fn node_of(&self, index: u32) -> usize {
        match index.checked_sub(FIRST_CHILD) {
            None => index as usize,
            Some(child) => self.homes.get(child as usize).map_or(usize::MAX, |(node, _)| *node as usize),
        }
    }

    /// Counts the tasks on the longest path from a task, or that of a child, to an end: what comes after it has fewer.
    #[must_use]
    pub fn remaining(&self, index: u32) -> u32 {
        self.graph.remaining.get(self.node_of(index)).copied().unwrap_or_default()
    }

    /// Gives what a task or child executes.
    #[must_use]
    pub fn bound(&self, index: u32) -> Option<&BoundTask> {
        self.spec.tasks.get(self.node_of(index))
    }

    /// Gives a task or child.
    #[must_use]
    pub fn task(&self, index: u32) -> Option<&Task> {
        match index.checked_sub(FIRST_CHILD) {
            None => self.tasks.get(index as usize),
            Some(child) => self.children.get(child as usize),
        }
    }

    /// Gives a task or child to change it.
    pub fn task_mut(&mut self, index: u32) -> Option<&mut Task> {
        match index.checked_sub(FIRST_CHILD) {
            None => self.tasks.get_mut(index as usize),
            Some(child) => self.children.get_mut(child as usize),
        }
    }

    /// Gives the indices of every task and child.
    pub fn indices(&self) -> impl Iterator<Item = u32> + use<> {
        (0..count(self.tasks.len())).chain((0..count(self.children.len())).map(|child| FIRST_CHILD + child))
    }

    /// Gives the item of a child.
    #[must_use]
    pub fn item_of(&self, index: u32) -> Option<Item> {
        let (node, ordinal) = *self.homes.get(index.checked_sub(FIRST_CHILD)? as usize)?;
        let (key, value) = self.groups.get(&node)?.items.get(ordinal)?;
        Some(Item { key, value, ordinal })
    }

    /// Names a task or child.
    #[must_use]
    pub fn name_of(&self, index: u32) -> Option<TaskRef> {
        let name = &self.bound(index)?.name;
        Some(TaskRef::new(name, self.item_of(index).map(|item| item.key).as_ref()))
    }

    /// Finds a task, or a child by `task[key]`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u32> {
        let (name, key) = match name.split_once('[') {
            None => (name, None),
            Some((name, key)) => (name, Some(key.strip_suffix(']')?)),
        };
        let node = self.graph.find(&self.spec, name)?;
        match key {
            None => Some(node),
            Some(key) => self.groups.get(&node)?.find(key),
        }
    }

    /// Finds a task of the spec.
    #[must_use]
    pub fn task_index(&self, name: &str) -> Option<usize> {
        self.graph.find(&self.spec, name).map(|node| node as usize)
    }

    /// Gives the fencing token of the live attempt of a task or child.
    #[must_use]
    pub fn live_token(&self, index: u32) -> Option<Token> {
        let live = self.task(index)?.state.live()?;
        Some(Token { run: self.id, index, attempt: live.attempt, epoch: live.epoch, task: self.name_of(index)? })
    }

    /// Collects the artifacts that a task or child takes; `None` while one is not there that its rule asks for.
    /// The outputs of a fan-out come once for each child that succeeded, with its key.
    #[must_use]
    pub fn inputs_of(&self, index: u32) -> Option<Vec<NamedArtifact>> {
        let bound = self.bound(index)?;
        let mut inputs = Vec::with_capacity(bound.inputs.len());
        for (name, from) in &bound.inputs {
            let (producer, made_by) = self.tasks.get(from.task).zip(self.spec.tasks.get(from.task))?;
            // A task that was a fan-out in an earlier version may still have its children.
            let group = self.groups.get(&count(from.task)).filter(|_| made_by.flow.fan_out.is_some());
            if let Some(group) = group {
                for (ordinal, member) in group.members.iter().enumerate() {
                    // Those whose item is gone still have what they made, for who looks at them.
                    let child = self.task(*member).filter(|child| child.state == TaskState::Succeeded);
                    let Some(output) = child.and_then(|child| child.output(&from.output)) else { continue };
                    let (key, _) = group.items.get(count(ordinal))?;
                    inputs.push(NamedArtifact {
                        name: name.clone(),
                        artifact: output.artifact.clone(),
                        key: Some(key),
                    });
                }
                continue;
            }
            match producer.output(&from.output) {
                Some(output) => inputs.push(NamedArtifact::new(name.clone(), output.artifact.clone())),
                // Under any other rule the task runs without what was not made.
                None if bound.flow.run_if != crate::spec::RunIf::AllSucceeded => {}
                // Nothing to join.
                None if made_by.flow.fan_out.is_some() => {}
                None => return None,
            }
        }
        Some(inputs)
    }

    /// Gives the indices of what comes after the given tasks of the spec, themselves included.
    #[must_use]
    pub fn downstream(&self, of: impl IntoIterator<Item = usize>) -> Vec<bool> {
        self.graph.downstream(of)
    }
}

/// Narrows a count of tasks; nothing that is counted here reaches `u32::MAX`.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
