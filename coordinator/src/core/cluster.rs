//! The whole state that decisions are made from, and the function that makes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use segue_proto::ids::RunId;

use super::{
    Command, Effect, Event, Record, Refused, Run, RunState, UnixMillis, Verdict, Worker, WorkerKey,
    admission::Admission,
    event::{Changed, Past},
    flow::Settled,
    queue::Queue,
};
use crate::defect::{self, Defect};

/// Constants of the cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of this start of the coordinator: part of each token that it hands out.
    pub epoch: u64,
    /// How long a worker may be silent before its attempts are lost.
    pub lease_ms: u64,
}

/// Ids whose records changed, and records to add, since the last call of [`Core::take`].
#[derive(Debug, Default)]
pub struct Dirty {
    pub runs: BTreeSet<RunId>,
    /// Tasks and children; the record of each holds its last attempt.
    pub tasks: BTreeSet<(RunId, u32)>,
    /// Attempts that are not the last one of their task any more.
    pub attempts: BTreeSet<(RunId, u32, u32)>,
    /// Fan-outs whose items changed.
    pub groups: BTreeSet<(RunId, u32)>,
    pub records: Vec<Record>,
    /// May leave once everything above is flushed.
    pub effects: Vec<Effect>,
}

/// All non-terminal runs, the workers, and the indices that make decisions cheap.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) workers: BTreeMap<WorkerKey, Worker>,
    pub(super) queue: Queue,
    pub(super) admission: Admission,
    /// Slots of named pools.
    pub(super) pools: BTreeMap<String, u32>,
    pub(super) upkeep: super::fleet::Upkeep,
    /// Most children of one run.
    pub(super) most_children: usize,
    /// Runs by arrival.
    pub(super) order: BTreeMap<u64, RunId>,
    pub(super) arrival: BTreeMap<RunId, u64>,
    next_arrival: u64,
    /// When to look at a task again: end of a lease, a backoff, a wait. An entry that its task has outlived means nothing.
    pub(super) timers: BTreeSet<(UnixMillis, RunId, u32)>,
    /// Unfinished tasks that want a GPU.
    pub(super) gpu_open: u64,
    /// Ends whose consequences are not drawn yet; empty between two decisions.
    pub(super) settled: Vec<Settled>,
    /// Runs that may have ended; empty between two decisions.
    pub(super) touched: BTreeSet<RunId>,
    /// Fan-outs with children that have not begun, in the order of their turns.
    pub(super) expanding: VecDeque<(RunId, u32)>,
    /// Workers that have room since the last placement.
    pub(super) freed: BTreeSet<WorkerKey>,
    /// Workers, pools or the kinds of work that are open may have changed since the last placement.
    pub(super) stirred: bool,
    /// What overdue tasks have been promised.
    pub(super) kept: super::Kept,
    /// First tasks that rounds of placement have looked at.
    pub(super) looks: u64,
    /// When to look again whether work given ahead is stuck.
    pub(super) look_ahead_at: Option<UnixMillis>,
    pub(super) changed: Changed,
    pub(super) records: Vec<Record>,
    pub(super) effects: Vec<Effect>,
}

/// A past without results.
#[derive(Debug)]
struct Nothing;

impl Past for Nothing {
    fn cached(&self, _: &str) -> Option<super::event::CachedResult> {
        None
    }
}

impl Core {
    /// Makes an empty cluster.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            runs: BTreeMap::new(),
            workers: BTreeMap::new(),
            queue: Queue::default(),
            admission: Admission::default(),
            pools: BTreeMap::new(),
            upkeep: super::fleet::Upkeep::default(),
            most_children: super::group::MOST_CHILDREN_OF_RUN,
            order: BTreeMap::new(),
            arrival: BTreeMap::new(),
            next_arrival: 0,
            timers: BTreeSet::new(),
            gpu_open: 0,
            settled: Vec::new(),
            touched: BTreeSet::new(),
            expanding: VecDeque::new(),
            freed: BTreeSet::new(),
            stirred: true,
            kept: super::Kept::default(),
            looks: 0,
            look_ahead_at: None,
            changed: Changed::default(),
            records: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Takes a run from the store after a restart. Live attempts get one lease of time to be adopted.
    pub fn restore(&mut self, mut run: Run, now: UnixMillis) {
        run.index();
        let lease_ms = if defect::is(Defect::NoTimeToReturn) { 0 } else { self.config.lease_ms };
        let lease_until = now.saturating_add(lease_ms);
        let id = run.id;
        for index in run.indices() {
            let Some(task) = run.task_mut(index) else { continue };
            if let super::TaskState::Live(live) = &mut task.state {
                live.lease_until = lease_until;
                live.timer = lease_until;
                let worker =
                    self.workers.entry(live.worker.clone()).or_insert_with(|| Worker::awaited(live.worker.clone()));
                if live.ahead {
                    worker.ahead.push_back((id, index));
                } else {
                    worker.leased.insert((id, index), live.reserved.clone());
                }
            }
        }
        let state = run.state;
        self.admission.restore(&run);
        self.enter(run, now);
        if state != RunState::Queued {
            // What was ready is found again from the ends of its needs. A result of the past was looked for when it
            // became ready: there was none.
            self.launch(id, now, &Nothing);
        }
        self.settle(now, &Nothing);
    }

    /// Puts a run among the active ones, and what was ready in it into the queue.
    pub(super) fn enter(&mut self, mut run: Run, now: UnixMillis) {
        let id = run.id;
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.order.insert(arrival, id);
        self.arrival.insert(id, arrival);
        run.classes.clear();
        let wants = |node: usize| run.spec.tasks[node].resources.gpu != segue_proto::resources::GpuPreference::None;
        let gpu = (0..run.tasks.len()).filter(|&node| !run.tasks[node].state.is_terminal() && wants(node)).count();
        self.gpu_open += gpu as u64;
        self.stirred |= gpu > 0;
        self.runs.insert(id, run);
        self.resume(id, now);
    }

    /// Decides one event. What must be persisted and what may leave afterwards is collected until [`Core::take`].
    ///
    /// # Errors
    /// An event that no arrow allows changes nothing and is answered.
    pub fn decide(&mut self, event: Event, now: UnixMillis, past: &dyn Past) -> Result<Verdict, Refused> {
        // What these change of the fleet may let other work in. Everything else that could shows in queue and leases.
        self.stirred |= matches!(
            event,
            Event::Hello { .. }
                | Event::LinkClosed { .. }
                | Event::Draining { .. }
                | Event::Drain { .. }
                | Event::Cordon { .. }
                | Event::Label { .. }
                | Event::ScaleIn { .. }
        );
        let verdict = match event {
            Event::Submit(run) => self.submit(*run, now, past),
            Event::Rerun { run, spec, plan } => self.rerun(*run, spec, &plan, now, past),
            Event::CancelRun { run, gently, why } => self.cancel_run(run, gently, &why, now),
            Event::CancelTask { run, task } => self.cancel_task(run, task, now),
            Event::Hello { worker, held } => self.hello(*worker, held, now),
            Event::LinkClosed { worker, link } => self.link_closed(&worker, link),
            Event::Heartbeat { worker, sequence, tokens } => self.heartbeat(&worker, sequence, tokens, now),
            Event::Started { worker, token } => self.started(&worker, &token, now),
            Event::Progress { worker, token, progress } => self.progress(&worker, &token, progress),
            Event::Finished { worker, token, usage, outcome, log_bytes } => {
                self.finished(&worker, &token, usage, outcome, log_bytes, now)
            }
            Event::HandBack { worker, token, started } => self.hand_back(&worker, &token, started, now),
            Event::Draining { worker } => {
                let worker = self.workers.get_mut(&worker).ok_or(Refused::UnknownWorker(worker))?;
                worker.draining = true;
                Ok(Verdict::Done)
            }
            Event::Drain { worker } => self.drain_worker(worker),
            Event::Cordon { worker, on } => self.cordon(worker, on),
            Event::Label { worker, set, remove } => self.label(worker, set, &remove),
            Event::ScaleIn { count, labels, expected } => self.scale_in(count, &labels, &expected),
            Event::SetPool { name, slots, description } => self.change_pool(name, slots, description),
            Event::Sensed { run, task, since, seen } => self.sensed(run, task, since, seen, now),
            Event::Tick => {
                self.tick(now);
                self.begin_more_children(now, past);
                Ok(Verdict::Done)
            }
        };
        self.settle(now, past);
        verdict
    }

    /// Takes what changed since the last call.
    pub fn take(&mut self) -> Dirty {
        let changed = std::mem::take(&mut self.changed);
        Dirty {
            runs: changed.runs,
            tasks: changed.tasks,
            attempts: changed.attempts,
            groups: changed.groups,
            records: std::mem::take(&mut self.records),
            effects: std::mem::take(&mut self.effects),
        }
    }

    /// Drops terminal runs from memory, once their records are flushed; they are read from the store from then on.
    pub fn forget_terminal(&mut self) {
        let ended: Vec<RunId> = std::mem::take(&mut self.admission.ended);
        for id in ended {
            if self.runs.get(&id).is_none_or(|run| !run.state.is_terminal()) {
                continue;
            }
            self.runs.remove(&id);
            if let Some(arrival) = self.arrival.remove(&id) {
                self.order.remove(&arrival);
            }
        }
        if self.queue.has_many() {
            let runs = self.runs.values();
            let of = |run: &Run| -> Vec<u32> {
                let open = |task: &&super::Task| !task.state.is_terminal();
                let tasks = run.tasks.iter().chain(&run.children).filter(open).map(|task| task.class);
                tasks.chain(run.classes.values().copied()).collect()
            };
            let needed = runs.flat_map(of).collect();
            self.queue.keep(&needed);
        }
    }

    /// Notes that a record of a task must be written, and that watchers of the run look again.
    pub(super) fn mark(&mut self, id: RunId, index: u32) {
        self.changed.tasks.insert((id, index));
        self.watchers(id);
    }

    /// Notes that watchers of a run look again.
    pub(super) fn watchers(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.revision += 1;
        }
        if self.effects.last() != Some(&Effect::RunChanged(id)) {
            self.effects.push(Effect::RunChanged(id));
        }
    }

    /// Sends a command down the link of a worker, if it has one.
    pub(super) fn send(&mut self, worker: &WorkerKey, command: Command) {
        if let Some(link) = self.workers.get(worker).and_then(|worker| worker.link) {
            self.effects.push(Effect::Send { worker: worker.clone(), link, command });
        }
    }

    /// Sets the slots of a pool, or forgets it. What holds slots beyond the new number keeps them until it ends.
    pub fn set_pool(&mut self, name: String, slots: Option<u32>) {
        self.stirred = true;
        match slots {
            Some(slots) => drop(self.pools.insert(name, slots)),
            None => drop(self.pools.remove(&name)),
        }
    }

    /// Gives the named pools and their slots.
    #[must_use]
    pub const fn pools(&self) -> &BTreeMap<String, u32> {
        &self.pools
    }

    /// Gives an active run.
    #[must_use]
    pub fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.get(id)
    }

    /// Iterates over the active runs.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// Iterates over the workers.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Counts ready tasks.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.queue.len()
    }

    /// Gives the constants.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Says whether an unfinished task wants a GPU.
    #[must_use]
    pub const fn gpu_work_open(&self) -> bool {
        self.gpu_open > 0
    }

    /// Gives the state of a run for the caller of a command.
    #[must_use]
    pub fn run_state(&self, id: &RunId) -> Option<RunState> {
        self.runs.get(id).map(|run| run.state)
    }
}
