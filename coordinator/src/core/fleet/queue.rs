//! How much work there is, by what it wants: what metrics show and what autoscalers decide by.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use segue_proto::resources::{Gpu, GpuPreference, Resources, WHOLE_GPU};

use super::idle::alone;
use crate::{
    core::{Core, RunState, UnixMillis, Worker, placement, queue},
    spec::{ResourceRequest, Work},
};

/// Tasks of a class that are asked since when they wait. Those that were ready first are among the first in line, or near
/// them; to ask a million children would hold up everybody.
const ASKED: usize = 10_000;

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
    /// Gives the class of tasks that do this work with these resources.
    #[must_use]
    pub fn of(work: &Work, request: &ResourceRequest) -> Self {
        let operator = match work {
            Work::Operator { name, .. } => Some(name.clone()),
            Work::Command { .. } | Work::Sensor { .. } => None,
        };
        // With a way that takes none, a GPU is what it would rather have.
        let does_without = request.alternatives.iter().any(|amounts| amounts.gpu_milli == 0);
        let gpu = match request.gpu {
            GpuPreference::Require if does_without => GpuPreference::Prefer,
            gpu => gpu,
        };
        Self { operator, gpu, amounts: request.amounts.clone(), labels: request.labels.clone() }
    }
}

/// How much work of one class there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Depth {
    /// Ready tasks that no worker has, and that one more worker could begin.
    pub waiting: u64,
    /// Ready tasks that wait for a pool or a limit: no number of workers would begin them.
    pub held: u64,
    /// Tasks that a worker has.
    pub running: u64,
    /// When the oldest ready task became so; where that was asked for.
    pub waiting_since: Option<UnixMillis>,
    /// Tasks of this class that the smallest of the workers that can take one can take at a time; where that was asked
    /// for.
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
    fn depth(&mut self, class: &queue::Class) -> &mut Depth {
        self.classes.entry(Class::of(&class.work, &class.request)).or_default()
    }
}

impl Core {
    /// Sums up the queue: one step for each class that waits, one for each attempt that a worker has. Slots that several
    /// classes want are counted for those that come first.
    #[must_use]
    pub fn queue_summary(&self) -> QueueSummary {
        let mut summary = QueueSummary {
            capacities: self.workers().filter(|worker| worker.takes_work()).map(|w| w.capacity.clone()).collect(),
            ..QueueSummary::default()
        };
        let mut heads: Vec<_> = self.queue.ready.iter().filter_map(|(id, tasks)| Some((tasks.first()?, *id))).collect();
        heads.sort_unstable();
        let mut room = Room::new(self);
        for (_, id) in heads {
            let (Some(class), Some(tasks)) = (self.queue.class(id), self.queue.ready.get(&id)) else { continue };
            let ready = tasks.len() as u64;
            let waiting = room.take(class, ready);
            let depth = summary.depth(class);
            depth.waiting += waiting;
            depth.held += ready - waiting;
        }
        for (run, index) in self.workers().flat_map(|worker| worker.leased.keys().chain(&worker.ahead)) {
            let task = self.run(run).and_then(|run| run.task(*index));
            if let Some(class) = task.and_then(|task| self.queue.class(task.class)) {
                summary.depth(class).running += 1;
            }
        }
        summary
    }

    /// Adds to a summary since when each class waits.
    pub fn add_waits(&self, summary: &mut QueueSummary) {
        for (id, tasks) in &self.queue.ready {
            let Some(class) = self.queue.class(*id) else { continue };
            let since = tasks.iter().take(ASKED).filter_map(|key| {
                let task = self.run(self.order.get(&key.2)?)?.task(key.3)?;
                Some(task.ready_at)
            });
            let depth = summary.depth(class);
            depth.waiting_since = depth.waiting_since.into_iter().chain(since).min();
        }
    }

    /// Adds to a summary how much of each class one worker takes.
    pub fn add_slots(&self, summary: &mut QueueSummary) {
        let ready = self.queue.ready.keys().copied();
        let given = self.workers().flat_map(|worker| worker.leased.keys().chain(&worker.ahead));
        let running = given.filter_map(|(run, index)| Some(self.run(run)?.task(*index)?.class));
        let classes: BTreeSet<u32> = ready.chain(running).collect();
        for class in classes.into_iter().filter_map(|id| self.queue.class(id)) {
            let fit = self.workers().filter_map(|worker| slots(worker, class)).min();
            let depth = summary.depth(class);
            depth.per_worker = depth.per_worker.into_iter().chain(fit).min();
        }
    }

    /// Counts active runs by state: queued, running, cancelling.
    #[must_use]
    pub fn active_runs(&self) -> [(&'static str, u64); 3] {
        let count = |state| self.runs().filter(|run| run.state == state).count() as u64;
        [
            ("queued", count(RunState::Queued)),
            ("running", count(RunState::Running)),
            ("cancelling", count(RunState::Cancelling)),
        ]
    }
}

/// What pools and limits have left, while it is counted who would get it.
struct Room<'a> {
    core: &'a Core,
    /// Slots that are taken, by pool.
    pools: HashMap<&'a str, u64>,
    /// Attempts that go on, by limit.
    limits: HashMap<&'a str, u64>,
}

impl<'a> Room<'a> {
    fn new(core: &'a Core) -> Self {
        Self { core, pools: HashMap::new(), limits: HashMap::new() }
    }

    /// Lets in as many tasks of a class as find room, up to `ready`; says how many.
    fn take(&mut self, class: &'a queue::Class, ready: u64) -> u64 {
        let mut most = ready;
        for (name, wanted) in &class.pools {
            let slots = u64::from(self.core.pools.get(name).copied().unwrap_or(0));
            let used = *self.pools.entry(name).or_insert_with(|| {
                let held = self.core.queue.pool_use.get(name).map(|holders| holders.values().copied().map(u64::from));
                held.map_or(0, Iterator::sum)
            });
            most = most.min(slots.saturating_sub(used) / u64::from((*wanted).max(1)));
        }
        if let Some((key, max)) = &class.limit {
            let held = || self.core.queue.limit_use.get(key).map_or(0, BTreeSet::len) as u64;
            most = most.min(u64::from(*max).saturating_sub(*self.limits.entry(key).or_insert_with(held)));
        }
        for (name, wanted) in &class.pools {
            *self.pools.entry(name).or_default() += most.saturating_mul(u64::from(*wanted));
        }
        if let Some((key, _)) = &class.limit {
            *self.limits.entry(key).or_default() += most;
        }
        most
    }
}

/// Gives how many tasks of a class fit on a worker at a time; `None` where it takes no work or never one of these.
fn slots(worker: &Worker, class: &queue::Class) -> Option<u32> {
    let way = placement::ways(&class.request, &[alone(worker, &class.work)], false).ok()?.into_iter().next()?;
    worker.takes_work().then(|| times(&worker.capacity, &worker.gpus, &way.needs))
}

/// Says how often `needs` fits into an idle worker.
fn times(capacity: &Resources, gpus: &[Gpu], needs: &Resources) -> u32 {
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
        .min(gpu_times(gpus, needs))
        .min(custom)
}

/// Says how often the GPUs that are needed are there: shares of one device, or whole ones.
fn gpu_times(gpus: &[Gpu], needs: &Resources) -> u32 {
    if needs.gpu_milli == 0 {
        return u32::MAX;
    }
    let fitting = gpus.iter().filter(|gpu| gpu.memory_bytes >= needs.gpu_memory_bytes);
    if needs.gpu_milli >= WHOLE_GPU {
        let devices = u32::try_from(fitting.count()).unwrap_or(u32::MAX);
        return devices / (needs.gpu_milli / WHOLE_GPU);
    }
    let shares = fitting.map(|gpu| {
        let by_memory = gpu.memory_bytes.checked_div(needs.gpu_memory_bytes).unwrap_or(u64::MAX);
        (WHOLE_GPU / needs.gpu_milli).min(u32::try_from(by_memory).unwrap_or(u32::MAX))
    });
    shares.fold(0, u32::saturating_add)
}
