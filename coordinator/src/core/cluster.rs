//! The whole state that decisions are made from, and the function that makes them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use segue_proto::{
    ids::{PoolName, RunId, Token, WorkerName},
    resources::{GpuPreference, Resources},
};

use super::{
    Attempt, AttemptState, Command, Effect, Event, Held, Live, Record, Refused, Run, RunState, TaskState, UnixMillis,
    Verdict, Worker, WorkerKey,
    event::{Changed, Past},
    placement::{self, Candidate},
    run::count,
};
use crate::spec::{BoundTask, Work};

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
    pub tasks: BTreeSet<(RunId, u32)>,
    pub attempts: BTreeSet<(RunId, u32, u32)>,
    pub records: Vec<Record>,
    /// May leave once everything above is flushed.
    pub effects: Vec<Effect>,
}

/// Order of ready tasks of one class: priority, longest remaining path, older run, file order.
pub(super) type ReadyKey = (Reverse<i32>, Reverse<u32>, u64, u32);

/// All non-terminal runs, the workers, and the indices that make decisions cheap.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) workers: BTreeMap<WorkerKey, Worker>,
    /// Ready tasks by class: tasks of a class want the same operator and amounts, so that one refusal speaks for all.
    pub(super) ready: BTreeMap<u32, BTreeSet<ReadyKey>>,
    class_ids: HashMap<String, u32>,
    /// Class of each task of each run.
    pub(super) classes: BTreeMap<RunId, Vec<u32>>,
    /// Runs by arrival.
    pub(super) order: BTreeMap<u64, RunId>,
    pub(super) arrival: BTreeMap<RunId, u64>,
    next_arrival: u64,
    pub(super) backoffs: BTreeSet<(UnixMillis, RunId, u32)>,
    /// Unfinished tasks that want a GPU.
    pub(super) gpu_open: u64,
    pub(super) fleet: super::fleet::Fleet,
    /// Slots by pool.
    pub(super) pools: BTreeMap<PoolName, u32>,
    pub(super) changed: Changed,
    pub(super) records: Vec<Record>,
    pub(super) effects: Vec<Effect>,
}

impl Core {
    /// Makes an empty cluster.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            runs: BTreeMap::new(),
            workers: BTreeMap::new(),
            ready: BTreeMap::new(),
            class_ids: HashMap::new(),
            classes: BTreeMap::new(),
            order: BTreeMap::new(),
            arrival: BTreeMap::new(),
            next_arrival: 0,
            backoffs: BTreeSet::new(),
            gpu_open: 0,
            fleet: super::fleet::Fleet::default(),
            pools: BTreeMap::new(),
            changed: Changed::default(),
            records: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Takes a run from the store after a restart. Live attempts get one lease of time to be adopted.
    pub fn restore(&mut self, mut run: Run, now: UnixMillis) {
        self.fleet.waits.time(now);
        run.index();
        let lease_until = now.saturating_add(self.config.lease_ms);
        for (index, task) in run.tasks.iter_mut().enumerate() {
            if let TaskState::Live(live) = &mut task.state {
                live.lease_until = lease_until;
                let worker =
                    self.workers.entry(live.worker.clone()).or_insert_with(|| Worker::awaited(live.worker.clone()));
                worker.leased.insert((run.id.clone(), count(index)), live.reserved.clone());
            }
        }
        self.enter(run);
    }

    /// Puts a run among the active ones and its ready tasks into the queue.
    pub(super) fn enter(&mut self, run: Run) {
        let id = run.id.clone();
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let classes = run.spec.tasks.iter().map(|task| self.class_of(task)).collect();
        self.classes.insert(id.clone(), classes);
        self.order.insert(arrival, id.clone());
        self.arrival.insert(id.clone(), arrival);
        for (index, task) in run.tasks.iter().enumerate() {
            if !task.state.is_terminal() && run.spec.tasks[index].resources.gpu != GpuPreference::None {
                self.gpu_open += 1;
            }
            if let TaskState::Backoff { until } = task.state {
                self.backoffs.insert((until, id.clone(), count(index)));
            }
        }
        let ready: Vec<usize> =
            (0..run.tasks.len()).filter(|&index| run.tasks[index].state == TaskState::Ready).collect();
        self.runs.insert(id.clone(), run);
        for index in ready {
            self.enqueue(&id, index);
        }
    }

    fn class_of(&mut self, task: &BoundTask) -> u32 {
        let work = match &task.work {
            Work::Operator { name, version, .. } => format!("{name} {version}"),
            Work::Command { .. } => String::new(),
        };
        let signature = format!("{work}|{:?}", task.resources);
        let next = count(self.class_ids.len());
        *self.class_ids.entry(signature).or_insert(next)
    }

    /// Gives the key under which a task waits in the ready queue.
    pub(super) fn ready_key(&self, run: &RunId, task: usize) -> Option<(u32, ReadyKey)> {
        let state = self.runs.get(run)?;
        let class = *self.classes.get(run)?.get(task)?;
        let arrival = *self.arrival.get(run)?;
        let key = (Reverse(state.spec.tasks[task].priority), Reverse(state.remaining_path[task]), arrival, count(task));
        Some((class, key))
    }

    pub(super) fn enqueue(&mut self, run: &RunId, task: usize) {
        if let Some((class, key)) = self.ready_key(run, task) {
            self.ready.entry(class).or_default().insert(key);
            self.fleet.waits.enter(class, (key.2, key.3));
        }
    }

    pub(super) fn dequeue(&mut self, run: &RunId, task: usize) {
        if let Some((class, key)) = self.ready_key(run, task)
            && let Some(queue) = self.ready.get_mut(&class)
        {
            queue.remove(&key);
            self.fleet.waits.leave(class, (key.2, key.3));
            if queue.is_empty() {
                self.ready.remove(&class);
            }
        }
    }

    /// Decides one event. What must be persisted and what may leave afterwards is collected until [`Core::take`].
    ///
    /// # Errors
    /// An event that no arrow allows changes nothing and is answered.
    pub fn decide(&mut self, event: Event, now: UnixMillis, past: &dyn Past) -> Result<Verdict, Refused> {
        self.fleet.waits.time(now);
        match event {
            Event::Submit(run) => self.submit(*run, now, past),
            Event::Rerun { run, spec, execute, dropped } => self.rerun(*run, spec, &execute, &dropped, now, past),
            Event::CancelRun { run } => self.cancel_run(&run, now),
            Event::Hello { worker, held } => self.hello(*worker, held, now),
            Event::LinkClosed { worker, link } => self.link_closed(&worker, link),
            Event::Heartbeat { worker, sequence, tokens } => self.heartbeat(&worker, sequence, tokens, now),
            Event::Started { worker, token } => self.started(&worker, &token, now),
            Event::Progress { worker, token, progress } => {
                let Some(task) = self.current(&worker, &token)? else { return Ok(Verdict::Stale) };
                if let Some(run) = self.runs.get_mut(&token.run) {
                    run.tasks[task].progress = Some(progress);
                    run.revision += 1;
                    self.effects.push(Effect::RunChanged(token.run));
                }
                Ok(Verdict::Done)
            }
            Event::Finished { worker, token, usage, outcome, log_bytes } => {
                self.finished(&worker, &token, usage, outcome, log_bytes, now, past)
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
            Event::SetPool { name, slots, description } => self.set_pool(name, slots, description),
            Event::Tick => {
                self.tick(now);
                Ok(Verdict::Done)
            }
        }
    }

    /// Gives ready tasks to workers until nothing more fits. Called once after a batch of events.
    pub fn place(&mut self, now: UnixMillis) {
        if self.ready.is_empty() {
            return;
        }
        let mut free: BTreeMap<WorkerKey, Resources> = self
            .workers
            .values()
            .filter(|worker| worker.takes_work())
            .map(|worker| (worker.key.clone(), worker.free()))
            .collect();
        // The head of each class, best first. A class whose head finds no place is left out of this round: all of its
        // tasks want the same.
        let mut heads: BTreeSet<(ReadyKey, u32)> =
            self.ready.iter().filter_map(|(class, queue)| Some((*queue.first()?, *class))).collect();
        while let Some((key, class)) = heads.pop_first() {
            let Some(run) = self.order.get(&key.2).cloned() else { continue };
            let task = key.3 as usize;
            let Some((worker, reserved)) = self.choose(&run, task, &free) else { continue };
            if let Some(left) = free.get_mut(&worker) {
                *left = left.checked_sub(&reserved).unwrap_or_default();
            }
            self.dequeue(&run, task);
            self.assign(&run, task, worker, reserved, now);
            if let Some(next) = self.ready.get(&class).and_then(BTreeSet::first) {
                heads.insert((*next, class));
            }
        }
    }

    /// Chooses a worker for one ready task from what is free.
    fn choose(
        &self,
        run: &RunId,
        task: usize,
        free: &BTreeMap<WorkerKey, Resources>,
    ) -> Option<(WorkerKey, Resources)> {
        let state = self.runs.get(run)?;
        let candidates = self.candidates_of(state, task, free);
        let (worker, reserved) =
            placement::choose(&state.spec.tasks[task].resources, &candidates, self.gpu_open > 0).ok()?;
        Some((worker.clone(), reserved))
    }

    /// Gives the workers that may take work, as placement sees them for one task. `free` says what is left on each.
    #[must_use]
    pub fn candidates_of<'a>(
        &'a self,
        run: &Run,
        task: usize,
        free: &BTreeMap<WorkerKey, Resources>,
    ) -> Vec<Candidate<'a>> {
        let bound = &run.spec.tasks[task];
        // Who made how many bytes of the inputs: that worker has them in its cache.
        let mut local: BTreeMap<&WorkerKey, u64> = BTreeMap::new();
        for input in bound.inputs.values() {
            let producer = &run.tasks[input.task];
            if let (Some(attempt), Some(output)) = (producer.attempts.last(), producer.output(&input.output)) {
                // The size is a worker's word: absurd ones must not overflow.
                let bytes = local.entry(&attempt.worker).or_default();
                *bytes = bytes.saturating_add(output.artifact.size_bytes);
            }
        }
        self.workers
            .values()
            .filter(|worker| worker.takes_work())
            .map(|worker| Candidate {
                key: &worker.key,
                capacity: &worker.capacity,
                free: free.get(&worker.key).cloned().unwrap_or_default(),
                labels: &worker.labels,
                offers: placement::offers(&worker.operators, &bound.work),
                local_bytes: local.get(&worker.key).copied().unwrap_or(0),
            })
            .collect()
    }

    /// Ready -> Live.
    fn assign(&mut self, id: &RunId, task: usize, worker: WorkerKey, reserved: Resources, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let inputs = run.inputs_of(task).unwrap_or_default();
        let state = &mut run.tasks[task];
        let number = state.next_attempt();
        state.attempts.push(Attempt {
            number,
            state: AttemptState::Assigned,
            worker: worker.clone(),
            epoch: self.config.epoch,
            generation: run.generation,
            assigned_at: now,
            started_at: 0,
            ended_at: 0,
            usage: segue_proto::artifact::Usage::default(),
            failure: None,
            log_bytes: 0,
            inputs: inputs.clone(),
            outputs: Vec::new(),
        });
        state.progress = None;
        state.state = TaskState::Live(Live {
            attempt: number,
            epoch: self.config.epoch,
            worker: worker.clone(),
            lease_until: now.saturating_add(self.config.lease_ms),
            started: false,
            cancelling: false,
            reserved: reserved.clone(),
        });
        run.revision += 1;
        let token = Token {
            run: id.clone(),
            task: run.spec.tasks[task].name.clone(),
            attempt: number,
            epoch: self.config.epoch,
        };
        self.changed.tasks.insert((id.clone(), count(task)));
        self.changed.attempts.insert((id.clone(), count(task), number));
        self.effects.push(Effect::RunChanged(id.clone()));
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.leased.insert((id.clone(), count(task)), reserved.clone());
            if let Some(link) = worker.link {
                let command = Command::Assign { token, task: count(task), inputs, reserved };
                self.effects.push(Effect::Send { worker: worker.key.clone(), link, command });
            }
        }
    }

    /// Gives the index of the task whose live attempt the token names and this worker holds; `None` for a stale token.
    pub(super) fn current(&self, worker: &WorkerKey, token: &Token) -> Result<Option<usize>, Refused> {
        let Some(run) = self.runs.get(&token.run) else { return Ok(None) };
        let Some(task) = run.task_index(token.task.as_str()) else { return Ok(None) };
        let TaskState::Live(live) = &run.tasks[task].state else { return Ok(None) };
        if live.attempt != token.attempt || live.epoch != token.epoch {
            return Ok(None);
        }
        if live.worker != *worker {
            return Err(Refused::NotYours { worker: worker.clone(), token: token.clone() });
        }
        Ok(Some(task))
    }

    fn hello(&mut self, mut worker: Worker, held: Vec<Held>, now: UnixMillis) -> Result<Verdict, Refused> {
        let key = worker.key.clone();
        if self.workers.get(&key).is_some_and(|known| known.superseded) {
            if let Some(link) = worker.link {
                let command = Command::Goodbye { reason: "a newer start of this worker has connected" };
                self.effects.push(Effect::Send { worker: key, link, command });
            }
            return Ok(Verdict::Stale);
        }
        for other in self.workers.values_mut().filter(|other| other.key.name == key.name && other.key != key) {
            // Its leases go on: the old process may still be alive somewhere, and stops itself when they end.
            other.superseded = true;
            if let Some(link) = other.link.take() {
                let command = Command::Goodbye { reason: "a newer start of this worker has connected" };
                self.effects.push(Effect::Send { worker: other.key.clone(), link, command });
            }
        }
        if let Some(before) = self.workers.get(&key) {
            worker.leased = before.leased.clone();
            worker.draining |= before.draining;
        }
        self.fleet.dress(&mut worker);
        worker.connected_at = now;
        worker.heartbeat_at = now;
        let link = worker.link;
        let leased: Vec<(RunId, u32)> = worker.leased.keys().cloned().collect();
        self.workers.insert(key.clone(), worker);

        let (mut adopted, mut unknown) = (Vec::new(), Vec::new());
        let mut held_tasks = BTreeSet::new();
        for Held { token, started } in held {
            match self.current(&key, &token) {
                Ok(Some(task)) => {
                    held_tasks.insert((token.run.clone(), count(task)));
                    self.renew(&token.run, task, now);
                    if started {
                        self.mark_started(&token.run, task, now);
                    }
                    adopted.push(token);
                }
                Ok(None) | Err(_) => unknown.push(token),
            }
        }
        if let Some(link) = link {
            let command = Command::Welcome { unknown, adopted: adopted.clone() };
            self.effects.push(Effect::Send { worker: key.clone(), link, command });
        }
        for (run, task) in leased {
            let index = task as usize;
            if !held_tasks.contains(&(run.clone(), task)) {
                // The assignment never arrived: the worker lists everything it holds. It burns no try.
                if self.is_cancelling(&run, index) {
                    self.end_attempt(&run, index, AttemptState::Cancelled, None, now);
                    self.close(&run, index, TaskState::Cancelled, now);
                    self.end_run_if_done(&run, now);
                } else {
                    self.end_attempt(&run, index, AttemptState::HandedBack, None, now);
                    self.back_to_ready(&run, index, now);
                }
            } else if let Some(token) = self.runs.get(&run).and_then(|run| run.live_token(index))
                && self.is_cancelling(&run, index)
                && let Some(link) = link
            {
                self.effects.push(Effect::Send { worker: key.clone(), link, command: Command::Cancel { token } });
            }
        }
        self.repeat_drain(&key);
        Ok(Verdict::Done)
    }

    fn is_cancelling(&self, run: &RunId, task: usize) -> bool {
        matches!(
            self.runs.get(run).and_then(|run| run.tasks.get(task)).map(|task| &task.state),
            Some(TaskState::Live(Live { cancelling: true, .. }))
        )
    }

    fn link_closed(&mut self, worker: &WorkerKey, link: u64) -> Result<Verdict, Refused> {
        let Some(known) = self.workers.get_mut(worker) else { return Ok(Verdict::Stale) };
        if known.link != Some(link) {
            return Ok(Verdict::Stale);
        }
        known.link = None;
        self.forget_idle_workers();
        Ok(Verdict::Done)
    }

    /// Drops workers that are gone and hold no lease.
    pub(super) fn forget_idle_workers(&mut self) {
        let connected: BTreeSet<WorkerName> = self
            .workers
            .values()
            .filter(|worker| worker.link.is_some())
            .map(|worker| worker.key.name.clone())
            .collect();
        // A superseded start is remembered while its successor is there, or it would supersede that one in turn.
        self.workers.retain(|key, worker| {
            worker.link.is_some() || !worker.leased.is_empty() || (worker.superseded && connected.contains(&key.name))
        });
    }

    fn heartbeat(
        &mut self,
        worker: &WorkerKey,
        sequence: u64,
        tokens: Vec<Token>,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        let Some(link) = self.workers.get(worker).and_then(|worker| worker.link) else {
            return Err(Refused::UnknownWorker(worker.clone()));
        };
        let mut lost = Vec::new();
        for token in tokens {
            match self.current(worker, &token) {
                Ok(Some(task)) => self.renew(&token.run, task, now),
                Ok(None) | Err(_) => lost.push(token),
            }
        }
        if let Some(known) = self.workers.get_mut(worker) {
            known.heartbeat_at = now;
        }
        let command = Command::HeartbeatAck { sequence, lost };
        self.effects.push(Effect::Send { worker: worker.clone(), link, command });
        Ok(Verdict::Done)
    }

    fn renew(&mut self, run: &RunId, task: usize, now: UnixMillis) {
        let until = now.saturating_add(self.config.lease_ms);
        if let Some(TaskState::Live(live)) =
            self.runs.get_mut(run).and_then(|run| run.tasks.get_mut(task)).map(|task| &mut task.state)
        {
            live.lease_until = live.lease_until.max(until);
        }
    }

    pub(super) fn drain_worker(&mut self, name: WorkerName) -> Result<Verdict, Refused> {
        let mut found = false;
        for worker in self.workers.values_mut().filter(|worker| worker.key.name == name && !worker.superseded) {
            found = true;
            worker.draining = true;
            if let Some(link) = worker.link {
                self.effects.push(Effect::Send { worker: worker.key.clone(), link, command: Command::Drain });
            }
        }
        if found { Ok(Verdict::Done) } else { Err(Refused::NoSuchWorker(name)) }
    }

    /// Ends leases and backoffs whose time has come.
    fn tick(&mut self, now: UnixMillis) {
        let expired: Vec<(RunId, u32)> = self
            .workers
            .values()
            .flat_map(|worker| worker.leased.keys())
            .filter(|(run, task)| self.lease_until(run, *task as usize).is_none_or(|until| until <= now))
            .cloned()
            .collect();
        for (run, task) in expired {
            self.lease_expired(&run, task as usize, now);
        }
        while let Some((until, run, task)) = self.backoffs.first().cloned() {
            if until > now {
                break;
            }
            self.backoffs.pop_first();
            // The timer speaks for a task only while it is still in that very backoff.
            let state = self.runs.get(&run).and_then(|run| run.tasks.get(task as usize)).map(|task| &task.state);
            if state == Some(&TaskState::Backoff { until }) {
                self.back_to_ready(&run, task as usize, now);
            }
        }
        self.forget_idle_workers();
    }

    fn lease_until(&self, run: &RunId, task: usize) -> Option<UnixMillis> {
        match &self.runs.get(run)?.tasks.get(task)?.state {
            TaskState::Live(live) => Some(live.lease_until),
            _ => None,
        }
    }

    /// Gives the next time at which a tick changes something.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<UnixMillis> {
        let lease = self
            .workers
            .values()
            .flat_map(|worker| worker.leased.keys())
            .filter_map(|(run, task)| self.lease_until(run, *task as usize))
            .min();
        let backoff = self.backoffs.first().map(|(until, ..)| *until);
        lease.into_iter().chain(backoff).min()
    }

    /// Takes what changed since the last call.
    pub fn take(&mut self) -> Dirty {
        let changed = std::mem::take(&mut self.changed);
        Dirty {
            runs: changed.runs,
            tasks: changed.tasks,
            attempts: changed.attempts,
            records: std::mem::take(&mut self.records),
            effects: std::mem::take(&mut self.effects),
        }
    }

    /// Drops terminal runs from memory, once their records are flushed; they are read from the store from then on.
    pub fn forget_terminal(&mut self) {
        let ended: Vec<RunId> =
            self.runs.values().filter(|run| run.state.is_terminal()).map(|run| run.id.clone()).collect();
        for id in ended {
            self.runs.remove(&id);
            self.classes.remove(&id);
            if let Some(arrival) = self.arrival.remove(&id) {
                self.order.remove(&arrival);
            }
        }
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
        self.ready.values().map(BTreeSet::len).sum()
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
