//! A run in memory: its bound spec, and the state of each task.

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::{
    artifact::{NamedArtifact, Usage},
    failure::Failure,
    ids::{RunId, Token},
    resources::Resources,
};

use super::{UnixMillis, worker::WorkerKey};
use crate::spec::RunSpec;

/// Life of a run. A terminal run holds no lease, no timer and no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    /// Says whether nothing more happens without a rerun.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Life of one task. Every arrow not drawn here is refused.
///
/// ```text
/// Waiting --last need done--> Ready --assigned--> Live --succeeded--> Succeeded
/// Ready --cache hit--> Succeeded
/// Live --failed, timed out or lost--> Backoff --timer--> Ready, or Failed when no tries are left
/// Live --handed back or never delivered--> Ready
/// Live --cancel--> Live (cancelling) --confirmed or lease over--> Cancelled
/// Waiting, Ready, Backoff --cancel--> Cancelled
/// Waiting --a need failed--> UpstreamFailed
/// any terminal state --rerun--> Waiting or Ready
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    Waiting {
        needs_left: u32,
    },
    Ready,
    Live(Live),
    Backoff {
        until: UnixMillis,
    },
    Succeeded,
    Failed,
    UpstreamFailed,
    Cancelled,
    /// Not part of the version that the run has now.
    Skipped,
}

/// The attempt that holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    pub attempt: u32,
    /// Coordinator epoch of the assignment: part of the fencing token.
    pub epoch: u64,
    pub worker: WorkerKey,
    pub lease_until: UnixMillis,
    pub started: bool,
    pub cancelling: bool,
    /// What the lease reserves, GPUs of a preference included.
    pub reserved: Resources,
}

impl TaskState {
    /// Says whether nothing more happens without a rerun.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::UpstreamFailed | Self::Cancelled | Self::Skipped)
    }

    /// Says whether what comes after may go on.
    #[must_use]
    pub const fn satisfies_downstream(&self) -> bool {
        matches!(self, Self::Succeeded)
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
    pub failure: Option<Failure>,
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

/// State of a task in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub state: TaskState,
    /// Tries burnt in this generation.
    pub tries: u32,
    pub attempts: Vec<Attempt>,
    pub cached: bool,
    pub outputs: Vec<NamedArtifact>,
    pub failure: Option<Failure>,
    pub metrics_json: String,
    pub ended_at: UnixMillis,
    pub progress: Option<Progress>,
    /// A rerun asked for it: it executes even when the cache has a result.
    pub forced: bool,
}

impl Task {
    /// Makes a task that waits for `needs` others.
    #[must_use]
    pub const fn new(needs: u32) -> Self {
        Self {
            state: if needs == 0 { TaskState::Ready } else { TaskState::Waiting { needs_left: needs } },
            tries: 0,
            attempts: Vec::new(),
            cached: false,
            outputs: Vec::new(),
            failure: None,
            metrics_json: String::new(),
            ended_at: 0,
            progress: None,
            forced: false,
        }
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

/// One execution of a pipeline version.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: RunId,
    pub spec: Arc<RunSpec>,
    pub path: String,
    pub state: RunState,
    pub created_at: UnixMillis,
    pub ended_at: UnixMillis,
    /// 0, and one more for each rerun.
    pub generation: u32,
    pub idempotency_key: String,
    pub no_cache: bool,
    /// Path or URL to the digest of the content that was there at submission.
    pub external_inputs: BTreeMap<String, String>,
    pub tasks: Vec<Task>,
    /// Reverse edges: who waits for each task, each once.
    pub(super) dependants: Vec<Vec<u32>>,
    /// Number of tasks on the longest path from each task to an end, itself included.
    pub(super) remaining_path: Vec<u32>,
    /// Tasks that are not terminal.
    pub(super) open: u32,
    /// Task indices in the order of their names, to find one without a scan.
    by_name: Vec<u32>,
    /// Grows with each change; for watchers.
    pub revision: u64,
}

impl Run {
    /// Starts a run: tasks without needs are ready, the others wait.
    #[must_use]
    pub fn new(id: RunId, spec: Arc<RunSpec>, path: String, created_at: UnixMillis) -> Self {
        let tasks = spec.tasks.iter().map(|task| Task::new(count(task.needs().len()))).collect();
        let mut run = Self {
            id,
            spec,
            path,
            state: RunState::Running,
            created_at,
            ended_at: 0,
            generation: 0,
            idempotency_key: String::new(),
            no_cache: false,
            external_inputs: BTreeMap::new(),
            tasks,
            dependants: Vec::new(),
            remaining_path: Vec::new(),
            open: 0,
            by_name: Vec::new(),
            revision: 0,
        };
        run.index();
        run
    }

    /// Rebuilds what is derived from spec and task states: reverse edges, path lengths, counters.
    pub fn index(&mut self) {
        let n = self.spec.tasks.len();
        let needs: Vec<Vec<usize>> = self.spec.tasks.iter().map(crate::spec::BoundTask::needs).collect();
        let mut dependants = vec![Vec::new(); n];
        for (task, needed) in needs.iter().enumerate() {
            for &need in needed {
                dependants[need].push(count(task));
            }
        }
        // Kahn's order backwards gives the longest path to an end; the checker has excluded cycles.
        let mut left: Vec<usize> = dependants.iter().map(Vec::len).collect();
        let mut stack: Vec<usize> = (0..n).filter(|&task| left[task] == 0).collect();
        let mut remaining = vec![1_u32; n];
        while let Some(task) = stack.pop() {
            for &need in &needs[task] {
                remaining[need] = remaining[need].max(remaining[task] + 1);
                left[need] -= 1;
                if left[need] == 0 {
                    stack.push(need);
                }
            }
        }
        for (task, needed) in needs.iter().enumerate() {
            if let TaskState::Waiting { .. } = self.tasks[task].state {
                let open = needed.iter().filter(|&&need| !self.tasks[need].state.satisfies_downstream()).count();
                self.tasks[task].state =
                    if open == 0 { TaskState::Ready } else { TaskState::Waiting { needs_left: count(open) } };
            }
        }
        self.open = count(self.tasks.iter().filter(|task| !task.state.is_terminal()).count());
        let mut by_name: Vec<u32> = (0..count(n)).collect();
        by_name.sort_unstable_by_key(|&task| &self.spec.tasks[task as usize].name);
        self.by_name = by_name;
        self.dependants = dependants;
        self.remaining_path = remaining;
    }

    /// Finds a task by name.
    #[must_use]
    pub fn task_index(&self, name: &str) -> Option<usize> {
        self.by_name
            .binary_search_by(|&task| self.spec.tasks[task as usize].name.as_str().cmp(name))
            .ok()
            .map(|at| self.by_name[at] as usize)
    }

    /// Gives the fencing token of the live attempt of a task.
    #[must_use]
    pub fn live_token(&self, task: usize) -> Option<Token> {
        let TaskState::Live(live) = &self.tasks.get(task)?.state else { return None };
        Some(Token {
            run: self.id,
            index: count(task),
            task: segue_proto::ids::TaskRef::new(&self.spec.tasks[task].name, None),
            attempt: live.attempt,
            epoch: live.epoch,
        })
    }

    /// Collects the artifacts that a task takes; `None` while one is not there.
    #[must_use]
    pub fn inputs_of(&self, task: usize) -> Option<Vec<NamedArtifact>> {
        self.spec.tasks[task]
            .inputs
            .iter()
            .map(|(name, from)| {
                let output = self.tasks[from.task].output(&from.output)?;
                Some(NamedArtifact::new(name.clone(), output.artifact.clone()))
            })
            .collect()
    }

    /// Gives the indices of what comes after the given tasks, themselves included.
    #[must_use]
    pub fn downstream(&self, of: impl IntoIterator<Item = usize>) -> Vec<bool> {
        let mut reached = vec![false; self.tasks.len()];
        let mut stack: Vec<usize> = of.into_iter().collect();
        while let Some(task) = stack.pop() {
            if !std::mem::replace(&mut reached[task], true) {
                stack.extend(self.dependants[task].iter().map(|&next| next as usize));
            }
        }
        reached
    }
}

/// Narrows a count of tasks; a pipeline file cannot hold more than `u32::MAX` of them.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
