//! How much work there is, by what it wants: what metrics show and what autoscalers decide by.

use std::collections::BTreeMap;

use segue_proto::resources::{GpuPreference, Resources};

use crate::{
    core::{Core, RunState, UnixMillis, placement},
    spec::{BoundTask, Work},
};

/// What a task wants of a worker, whichever task it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Name of the operator; absent for commands.
    pub operator: Option<String>,
    pub gpu: GpuPreference,
    pub amounts: Resources,
    pub labels: BTreeMap<String, String>,
}

impl Class {
    /// Gives the class of a task.
    #[must_use]
    pub fn of(task: &BoundTask) -> Self {
        let operator = match &task.work {
            Work::Operator { name, .. } => Some(name.clone()),
            Work::Command { .. } => None,
        };
        Self {
            operator,
            gpu: task.resources.gpu,
            amounts: task.resources.amounts.clone(),
            labels: task.resources.labels.clone(),
        }
    }
}

/// How much work of one class there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Depth {
    /// Ready tasks that no worker has.
    pub waiting: u64,
    /// Tasks with a lease.
    pub running: u64,
    /// When the oldest waiting task became ready, or when this coordinator found it ready at its start.
    pub waiting_since: Option<UnixMillis>,
    /// Tasks of this class that the smallest of the workers that can take one can take at a time.
    pub per_worker: Option<u32>,
}

/// The work that wants workers now, and what the workers are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueSummary {
    pub classes: BTreeMap<Class, Depth>,
    /// Capacities of the workers that take work.
    pub capacities: Vec<Resources>,
}

impl QueueSummary {
    fn add(&mut self, core: &Core, task: &BoundTask, more: impl FnOnce(&mut Depth)) {
        let depth = self
            .classes
            .entry(Class::of(task))
            .or_insert_with(|| Depth { per_worker: smallest_fit(core, task), ..Depth::default() });
        more(depth);
    }
}

impl Core {
    /// Sums up the queue: one step per class that waits, one per lease.
    #[must_use]
    pub fn queue(&self) -> QueueSummary {
        let mut summary = QueueSummary {
            capacities: self.workers().filter(|worker| worker.takes_work()).map(|w| w.capacity.clone()).collect(),
            ..QueueSummary::default()
        };
        for (class, waiting, task) in self.heads() {
            let since = self.fleet.waits.oldest(class);
            summary.add(self, task, |depth| {
                depth.waiting += waiting as u64;
                depth.waiting_since = [depth.waiting_since, since].into_iter().flatten().min();
            });
        }
        for (run, task) in self.workers().flat_map(|worker| worker.leased.keys()) {
            if let Some(task) = self.run(run).and_then(|run| run.spec.tasks.get(*task as usize)) {
                summary.add(self, task, |depth| depth.running += 1);
            }
        }
        summary
    }

    /// Iterates over the classes that wait for a worker: class, number of tasks, and the best of them for all.
    pub(super) fn heads(&self) -> impl Iterator<Item = (u32, usize, &BoundTask)> {
        self.ready.iter().filter_map(|(class, queue)| {
            let key = queue.first()?;
            let run = self.run(self.order.get(&key.2)?)?;
            Some((*class, queue.len(), run.spec.tasks.get(key.3 as usize)?))
        })
    }

    /// Counts active runs: those that go on, and those that are being cancelled.
    #[must_use]
    pub fn active_runs(&self) -> (u64, u64) {
        let cancelling = self.runs().filter(|run| run.state == RunState::Cancelling).count() as u64;
        let running = self.runs().filter(|run| run.state == RunState::Running).count() as u64;
        (running, cancelling)
    }
}

/// Gives how many equal tasks fit at a time on the smallest worker that can take one.
fn smallest_fit(core: &Core, task: &BoundTask) -> Option<u32> {
    let wanted = &task.resources;
    core.workers()
        .filter(|worker| worker.takes_work() && placement::offers(&worker.operators, &task.work))
        .filter(|worker| wanted.labels.iter().all(|(name, value)| worker.labels.get(name) == Some(value)))
        .filter_map(|worker| {
            // On a GPU worker a preference takes a GPU.
            let mut needs = wanted.amounts.clone();
            if wanted.gpu == GpuPreference::Prefer && worker.capacity.gpu > 0 {
                needs.gpu = needs.gpu.max(1);
            }
            Some(times(&worker.capacity, &needs)).filter(|&fit| fit > 0)
        })
        .min()
}

/// Says how often `needs` fits into `capacity`.
fn times(capacity: &Resources, needs: &Resources) -> u32 {
    let quotient =
        |have: u64, want: u64| have.checked_div(want).map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
    let custom = needs
        .custom
        .iter()
        .map(|(name, want)| quotient(capacity.custom.get(name).copied().unwrap_or(0), *want))
        .min()
        .unwrap_or(u32::MAX);
    quotient(capacity.cpu_milli.into(), needs.cpu_milli.into())
        .min(quotient(capacity.memory_bytes, needs.memory_bytes))
        .min(quotient(capacity.gpu.into(), needs.gpu.into()))
        .min(custom)
}
