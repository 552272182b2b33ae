//! What must hold after each event, whatever came before: what is counted equals a naive count, and nothing is left over.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    ids::RunId,
    resources::{GpuPreference, WHOLE_GPU},
};

use super::support::Bench;
use crate::{
    core::{
        Core, FIRST_CHILD, OVERDUE_MS, Run, RunState, Task, TaskState, Worker, explain, kept, placement,
        queue::ReadyKey,
        run::{UNQUEUED, count},
    },
    spec::RunIf,
};

impl Bench {
    /// Checks every invariant.
    pub fn check(&self) {
        let core = &self.core;
        assert!(core.settled.is_empty() && core.touched.is_empty(), "consequences are left to be drawn");
        for run in core.runs() {
            counts(run);
            fan_outs(run);
            readiness(run);
            ended(run);
        }
        assert_eq!(core.gpu_open, gpu_open(core), "unfinished tasks that want a GPU");
        leases(core);
        queue(core);
        gates(core, self.pools_may_be_over);
        timers(core);
        admission(core);
        if self.looks_closely {
            reasons(core, self.now);
        }
    }
}

impl Bench {
    /// Checks that whatever waits can say why, and waits for a reason.
    pub fn check_reasons(&self) {
        reasons(&self.core, self.now);
    }
}

/// Every task and child with its index.
fn all(run: &Run) -> impl Iterator<Item = (u32, &Task)> {
    run.indices().filter_map(|index| Some((index, run.task(index)?)))
}

fn counts(run: &Run) {
    let open = || run.tasks.iter().zip(&run.spec.tasks).filter(|(task, _)| !task.state.is_terminal());
    assert_eq!(run.open as usize, open().count(), "open tasks");
    assert_eq!(run.open_main as usize, open().filter(|(_, bound)| !bound.flow.finally).count(), "open main tasks");
}

fn gpu_open(core: &Core) -> u64 {
    let open = |run: &Run| {
        let wants = |bound: &crate::spec::BoundTask| bound.resources.gpu != GpuPreference::None;
        run.tasks.iter().zip(&run.spec.tasks).filter(|(task, bound)| !task.state.is_terminal() && wants(bound)).count()
    };
    core.runs().map(|run| open(run) as u64).sum()
}

fn fan_outs(run: &Run) {
    for (node, group) in &run.groups {
        let states = || group.members.iter().map(|&member| &run.task(member).unwrap().state);
        let of = |wanted: &dyn Fn(&TaskState) -> bool| count(states().filter(|state| wanted(state)).count());
        assert_eq!(group.open, of(&|state| !state.is_terminal()), "open children");
        assert_eq!(group.failed, of(&TaskState::is_failure), "failed children");
        assert_eq!(group.cancelled, of(&|state| *state == TaskState::Cancelled), "cancelled children");
        assert_eq!(group.items.len(), group.members.len());
        for (ordinal, &member) in group.members.iter().enumerate() {
            assert_eq!(run.node_of(member), *node as usize);
            let item = run.item_of(member).unwrap();
            assert_eq!(item.ordinal as usize, ordinal);
            assert_eq!(group.find(item.key.as_str()), Some(member), "a child is found by its key");
        }
        let task = &run.tasks[*node as usize];
        let expanded = task.state == TaskState::Expanded;
        assert!(expanded || task.next_child == 0, "{node} has ended, and would begin more children");
        let mut waiting =
            group.members.iter().filter(|&&m| matches!(run.task(m).unwrap().state, TaskState::Waiting { .. }));
        assert!(waiting.all(|&member| task.next_child > 0 && member >= task.next_child), "a child never begins");
        assert!(expanded || group.open == 0, "children of {node} are open after it has ended");
        assert!(!expanded || group.open > 0, "{node} goes on without children");
        let members = || group.members.iter().map(|&member| run.task(member).unwrap());
        let held: BTreeSet<u32> =
            group.members.iter().copied().filter(|&member| run.task(member).unwrap().is_held()).collect();
        let going = members().filter(|child| match child.state {
            TaskState::Live(_) | TaskState::Backoff { .. } => true,
            TaskState::Ready => child.class != UNQUEUED,
            _ => false,
        });
        assert_eq!(group.going, count(going.count()), "children that take a place");
        let most = run.spec.tasks[*node as usize].flow.fan_out.as_ref().and_then(|fan_out| fan_out.max_parallel);
        assert!(most.is_none_or(|most| group.going <= most), "more children go on than may");
        assert!(held.is_empty() || most.is_some_and(|most| group.going == most), "a place of {node} is left empty");
        assert!(held.iter().all(|child| group.held.contains(child)), "a held child was forgotten");
    }
}

/// Counts the needs of every waiting task anew, and asks the rule that can be decided early.
fn readiness(run: &Run) {
    let main_open =
        run.tasks.iter().zip(&run.spec.tasks).any(|(task, bound)| !bound.flow.finally && !task.state.is_terminal());
    for (node, task) in run.tasks.iter().enumerate() {
        let TaskState::Waiting { needs_left } = task.state else { continue };
        let bound = &run.spec.tasks[node];
        let needs: Vec<&TaskState> = bound.needs().into_iter().map(|need| &run.tasks[need].state).collect();
        let open =
            needs.iter().filter(|state| !state.is_terminal()).count() + usize::from(bound.flow.finally && main_open);
        assert_eq!(needs_left as usize, open, "needs of `{}`", bound.name);
        if run.state == RunState::Queued {
            continue;
        }
        assert!(open > 0, "`{}` waits for nothing", bound.name);
        let lost = bound.flow.run_if == RunIf::AllSucceeded && needs.iter().any(|state| state.is_failure());
        assert!(!lost, "`{}` waits although a need has failed", bound.name);
    }
}

fn ended(run: &Run) {
    if !run.state.is_terminal() {
        let alive = run.tasks.iter().any(|task| !task.state.is_terminal());
        assert!(alive, "run {} goes on without tasks", run.id);
        return;
    }
    assert!(all(run).all(|(_, task)| task.state.is_terminal()), "an ended run has an open task");
    assert!(run.ended_at > 0);
}

/// Leases belong to live attempts, each to one, and fit.
fn leases(core: &Core) {
    let mut given: BTreeSet<(RunId, u32)> = BTreeSet::new();
    for worker in core.workers() {
        if worker.link.is_some() {
            assert!(worker.capacity.fits(&worker.in_use()), "worker {} is over its capacity", worker.key);
        }
        for place in worker.leased.keys().chain(&worker.ahead) {
            assert!(given.insert(*place), "given out twice");
            let run = core.run(&place.0).expect("a lease belongs to a run in memory");
            let state = &run.task(place.1).expect("a task of the run").state;
            let TaskState::Live(live) = state else { panic!("a lease without a live attempt: {state:?}") };
            assert_eq!(live.worker, worker.key);
            assert_eq!(live.ahead, worker.ahead.contains(place));
            assert!(!(live.ahead && live.started), "what runs takes its room");
            if let Some(reserved) = worker.leased.get(place) {
                assert_eq!(*reserved, live.reserved);
            }
        }
        let mut devices: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
        for reserved in worker.leased.values() {
            for device in &reserved.devices {
                let used = devices.entry(*device).or_default();
                used.0 += reserved.gpu_milli.min(WHOLE_GPU);
                used.1 += reserved.gpu_memory_bytes;
            }
        }
        for (device, (milli, memory)) in devices {
            assert!(milli <= WHOLE_GPU, "GPU {device} of {} is given out twice", worker.key);
            let gpu = worker.gpus.iter().find(|gpu| gpu.index == device);
            assert!(gpu.is_none_or(|gpu| memory <= gpu.memory_bytes), "the memory of GPU {device} is given out twice");
        }
    }
    let live = |run: &Run| {
        let live = all(run).filter(|(_, task)| task.state.live().is_some());
        live.map(|(index, _)| (run.id, index)).collect::<Vec<_>>()
    };
    let live: BTreeSet<(RunId, u32)> = core.runs().flat_map(live).collect();
    assert_eq!(given, live, "live attempts and leases");
}

/// The queue holds what is ready and nothing else.
fn queue(core: &Core) {
    let ready = |run: &Run| {
        let ready = all(run).filter(|(_, task)| task.state == TaskState::Ready && !task.is_held());
        ready.map(|(index, task)| (run.id, index, task.class)).collect::<Vec<_>>()
    };
    let ready: BTreeSet<(RunId, u32, u32)> = core.runs().flat_map(ready).collect();
    let queued: BTreeSet<(RunId, u32, u32)> = core
        .queue
        .ready
        .iter()
        .flat_map(|(class, tasks)| tasks.iter().map(|key| (core.order[&key.2], key.3, *class)))
        .collect();
    assert_eq!(queued, ready, "the queue and what is ready");
    assert_eq!(core.queue.len(), ready.len());
    assert_eq!(core.order.len(), core.arrival.len());
    assert!(core.queue.ready.values().all(|tasks| !tasks.is_empty()));
    let classes = core.queue.ready.iter().map(|(class, tasks)| (*class, core.queue.class(*class).unwrap(), tasks));
    let mut heads: BTreeMap<u64, BTreeSet<_>> = BTreeMap::new();
    let mut limited: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (id, class, tasks) in classes {
        let used = |key: &str| core.queue.limit_use.get(key).map_or(0, BTreeSet::len);
        if class.limit.as_ref().is_none_or(|(key, max)| used(key) < *max as usize) {
            heads.entry(class.shape).or_default().insert((*tasks.first().unwrap(), id));
        }
        if let Some((key, _)) = &class.limit {
            limited.entry(key.clone()).or_default().insert(id);
        }
    }
    assert_eq!(core.queue.heads, heads, "first tasks of classes whose limit lets one more in");
    assert_eq!(core.queue.limited.clone().into_iter().collect::<BTreeMap<_, _>>(), limited, "classes of limits");
}

/// Slots are held by live attempts, and no more than there are.
fn gates(core: &Core, may_be_over: bool) {
    let mut pools: BTreeMap<String, BTreeMap<(RunId, u32), u32>> = BTreeMap::new();
    let mut limits: BTreeMap<String, BTreeSet<(RunId, u32)>> = BTreeMap::new();
    for run in core.runs() {
        for (index, task) in all(run).filter(|(_, task)| task.state.live().is_some()) {
            let class = core.queue.class(task.class).expect("a live attempt has a class");
            for (name, slots) in &class.pools {
                pools.entry(name.clone()).or_default().insert((run.id, index), *slots);
            }
            if let Some((key, max)) = &class.limit {
                let holders = limits.entry(key.clone()).or_default();
                holders.insert((run.id, index));
                assert!(may_be_over || holders.len() <= *max as usize, "limit `{key}` is exceeded");
            }
        }
    }
    assert_eq!(core.queue.pool_use, pools, "slots of pools");
    assert_eq!(core.queue.limit_use.clone().into_iter().collect::<BTreeMap<_, _>>(), limits, "slots of limits");
    for (name, holders) in pools.iter().filter(|_| !may_be_over) {
        let used: u32 = holders.values().sum();
        assert!(core.pools.get(name).is_some_and(|slots| used <= *slots), "pool `{name}` is exceeded");
    }
}

/// Each wait has its timer, and no timer outlives its wait.
fn timers(core: &Core) {
    let mut wanted = BTreeSet::new();
    for run in core.runs() {
        for (index, task) in all(run) {
            let at = match &task.state {
                TaskState::Live(live) => Some(live.timer),
                TaskState::Backoff { until } => Some(*until),
                TaskState::Sensing { next } => Some(*next),
                TaskState::Ready if !task.is_held() => {
                    run.bound(index).unwrap().flow.queue_timeout_ms.map(|timeout| task.ready_at + timeout)
                }
                _ => None,
            };
            wanted.extend(at.map(|at| (at, run.id, index)));
        }
    }
    assert_eq!(core.timers, wanted, "timers and waits");
}

fn admission(core: &Core) {
    let mut going: BTreeMap<_, BTreeSet<RunId>> = BTreeMap::new();
    let mut waiting: BTreeMap<_, BTreeSet<RunId>> = BTreeMap::new();
    for run in core.runs() {
        let Some(concurrency) = &run.spec.concurrency else {
            assert_ne!(run.state, RunState::Queued, "nothing says that it must wait");
            continue;
        };
        let lane = (run.spec.pipeline.to_string(), concurrency.key.clone());
        match run.state {
            RunState::Queued => drop(waiting.entry(lane).or_default().insert(run.id)),
            RunState::Running | RunState::Cancelling => drop(going.entry(lane).or_default().insert(run.id)),
            _ => {}
        }
    }
    assert_eq!(core.admission.going, going, "runs that go on");
    let turns = core.admission.waiting.iter().map(|(lane, turns)| {
        let runs: BTreeSet<RunId> = turns.iter().map(|turn| turn.2).collect();
        (lane.clone(), runs)
    });
    assert_eq!(turns.collect::<BTreeMap<_, _>>(), waiting, "runs that wait");
    for lane in waiting.keys() {
        assert!(going.contains_key(lane), "runs wait in a lane where none goes on");
    }
}

/// Says whether a task would find room if nothing were kept for others.
fn fits_somewhere(core: &Core, run: &Run, index: u32) -> bool {
    let (fleet, bound) = (core.fleet(), run.bound(index).unwrap());
    let candidates = fleet.candidates(&bound.work);
    placement::choose(&bound.resources, &candidates, &fleet.free, core.gpu_work_open()).is_ok()
}

/// Gives the place in the queue of the first task that has waited too long, whatever for.
fn first_overdue(core: &Core, now: u64) -> Option<ReadyKey> {
    let ready = |run: &Run| {
        let ready = all(run).filter(|(_, task)| task.state == TaskState::Ready && !task.is_held());
        let overdue = ready.filter(|(_, task)| task.ready_at + OVERDUE_MS <= now);
        overdue.map(|(index, _)| core.place_of(run, index)).min()
    };
    let ahead = |worker: &Worker| kept::oldest_ahead(&core.runs, worker).filter(|(_, since)| since + OVERDUE_MS <= now);
    let ahead = core.workers().find_map(ahead).map(|_| kept::FIRST);
    ahead.or_else(|| core.runs().filter_map(ready).min())
}

/// Everything that is not going can say why; and what could be given to a worker has been, unless what has waited too
/// long comes before it.
fn reasons(core: &Core, now: u64) {
    let first_overdue = first_overdue(core, now);
    for run in core.runs() {
        for (index, task) in all(run).filter(|(_, task)| !task.state.is_terminal()) {
            let runs = task.state.live().is_some_and(|live| live.started && !live.cancelling);
            let reason = explain::explain(core, run, index);
            assert_eq!(reason.is_none(), runs, "{:?}: {reason:?}", task.state);
            let Some(reason) = reason else { continue };
            assert!(!reason.text.is_empty() && !reason.text.ends_with("waits for "), "{:?}: {reason:?}", task.state);
            if task.state == TaskState::Ready && !task.is_held() {
                assert_ne!(reason.code, "ready", "{} was not given out", run.name_of(index).unwrap());
                let class = core.queue.class(task.class).unwrap();
                let open = core.queue.shut(class, &core.pools).is_none();
                let fits = open && fits_somewhere(core, run, index);
                let may_wait = first_overdue.is_some_and(|first| first < core.place_of(run, index));
                assert!(!fits || may_wait, "work lies idle, and nothing before it is overdue");
            }
            if index >= FIRST_CHILD && task.is_held() {
                assert_eq!(reason.code, "max_parallel");
            }
        }
    }
}
