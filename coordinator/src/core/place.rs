//! Gives ready tasks to workers: into free room, and a little ahead of it where tasks are short.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use segue_proto::{
    artifact::Usage,
    ids::{RunId, Token},
    resources::Resources,
};

use super::{
    Attempt, AttemptState, Command, Core, Live, Run, TaskState, UnixMillis, Worker, WorkerKey,
    kept::{self, Keeper, Kept, oldest_ahead},
    placement::{self, Candidate, Free, Unplaced, Way},
    queue::{Class, Queue, ReadyKey},
    run::count,
};
use crate::spec::Work;

/// Work that may lie ready at a worker beyond its room, in microseconds of its own time: enough to bridge the way to the
/// coordinator and back, too little to be missed by another worker that falls idle.
const AHEAD_US: u64 = 100_000;
/// Most attempts that are given ahead to one worker.
const MOST_AHEAD: usize = 512;
/// The shortest time that an attempt is taken to need, in microseconds.
const SHORTEST_US: u64 = 100;
/// How long work given ahead may wait while another worker is idle, before it is taken back.
const STUCK_MS: u64 = 500;

/// What one round of placement knows of the workers.
#[derive(Debug)]
pub struct Fleet<'a> {
    pub workers: Vec<&'a Worker>,
    pub free: Vec<Free>,
}

impl<'a> Fleet<'a> {
    /// Shows the workers as tasks that do this work see them.
    #[must_use]
    pub fn candidates(&self, work: &Work) -> Vec<Candidate<'a>> {
        self.workers
            .iter()
            .map(|worker| Candidate {
                key: &worker.key,
                capacity: &worker.capacity,
                gpus: &worker.gpus,
                labels: &worker.labels,
                offers: placement::offers(&worker.operators, work),
            })
            .collect()
    }
}

/// A decision of one round.
struct Given {
    run: RunId,
    index: u32,
    worker: WorkerKey,
    reserved: Resources,
    ahead: bool,
}

/// What a round has found out about a shape.
struct Seen<'a> {
    candidates: Vec<Candidate<'a>>,
    ways: Vec<Way>,
}

/// What lies ahead at the workers, by their position.
struct Ahead {
    /// How much.
    lying: Vec<usize>,
    /// Something is kept there: what goes ahead would take its room as soon as it is free.
    closed: Vec<bool>,
}

impl Ahead {
    /// Gives tasks of a shape ahead to the workers that could take them, as many as may lie there. Says whether any was.
    fn give(
        &mut self,
        queue: &mut Queue,
        order: &BTreeMap<u64, RunId>,
        shape: u64,
        seen: &Seen<'_>,
        given: &mut Vec<Given>,
    ) -> bool {
        // What has a limit does not go ahead.
        let Some((class, entry)) = queue.plain(shape).and_then(|class| Some((class, queue.class(class)?))) else {
            return false;
        };
        // By a way with a GPU an attempt would hold devices, which are chosen only where they are free.
        let without_gpu = |way: &&Way| way.needs.gpu_milli == 0 && may_go_ahead(entry);
        let Some(Way { needs, able }) = seen.ways.first().filter(without_gpu) else { return false };
        let room_at = |at: usize| ahead_of(entry, needs, seen.candidates[at].capacity).saturating_sub(self.lying[at]);
        let open = able.iter().copied().filter(|&at| !self.closed[at]);
        let mut room: Vec<(usize, usize)> = open.map(|at| (at, room_at(at))).filter(|(_, room)| *room > 0).collect();
        let before = given.len();
        // One to each worker in turn, so that none lies idle beside a heap.
        let mut turn = 0;
        while !room.is_empty() {
            let Some(key) = queue.first(class) else { break };
            let Some(run) = order.get(&key.2).copied() else { break };
            let slot = turn % room.len();
            let at = room[slot].0;
            queue.remove(class, &key);
            queue.hold(class, (run, key.3));
            let worker = seen.candidates[at].key.clone();
            given.push(Given { run, index: key.3, worker, reserved: needs.clone(), ahead: true });
            self.lying[at] += 1;
            room[slot].1 -= 1;
            if room[slot].1 == 0 {
                room.remove(slot);
            } else {
                turn += 1;
            }
        }
        given.len() > before
    }
}

impl Core {
    /// Gives the workers that may take work, and what is free on each.
    #[must_use]
    pub fn fleet(&self) -> Fleet<'_> {
        let workers: Vec<&Worker> = self.workers.values().filter(|worker| worker.takes_work()).collect();
        let free = workers.iter().map(|worker| worker.free()).collect();
        Fleet { workers, free }
    }

    /// Gives ready tasks to workers until nothing more fits beside what is [`Kept`](super::Kept). Called once after a batch
    /// of events; costs nothing where they changed neither the queue nor what there is for it.
    pub fn place(&mut self, now: UnixMillis) {
        let freed = std::mem::take(&mut self.freed);
        self.stirred |= !freed.is_empty() || self.queue.changed;
        for worker in freed {
            self.promote_all(&worker);
        }
        if self.stirred || self.kept.next_at.is_some_and(|at| at <= now) {
            self.kept = Kept::default();
            if !self.queue.is_empty() {
                for given in self.round(now) {
                    self.assign(given, now);
                }
            }
        }
        // What a round has given leaves nothing more to give.
        (self.stirred, self.queue.changed) = (false, false);
        self.take_back_what_is_stuck(now);
    }

    /// Decides one round. Whatever is given leaves the queue and holds its slots at once.
    fn round(&mut self, now: UnixMillis) -> Vec<Given> {
        let (queue, runs, order, pools, workers, kept) =
            (&mut self.queue, &self.runs, &self.order, &self.pools, &self.workers, &mut self.kept);
        let fleet: Vec<&Worker> = workers.values().filter(|worker| worker.takes_work()).collect();
        if fleet.is_empty() {
            return Vec::new();
        }
        let mut fleet = Fleet { free: fleet.iter().map(|worker| worker.free()).collect(), workers: fleet };
        let mut ahead = Ahead {
            lying: fleet.workers.iter().map(|worker| worker.ahead.len()).collect(),
            closed: vec![false; fleet.workers.len()],
        };
        for (at, worker) in fleet.workers.iter().enumerate() {
            if let Some((keeper, since)) = oldest_ahead(runs, worker)
                && kept.is_overdue(since, now)
            {
                fleet.free[at].take(&keeper.what);
                ahead.closed[at] = true;
                kept.workers.entry(worker.key.clone()).or_default().push(keeper);
            }
        }
        let mut seen: HashMap<u64, Option<Seen<'_>>> = HashMap::new();
        let mut given = Vec::new();
        // The head of each shape, best first. A shape whose head finds no place is left out of this round: all of its
        // tasks want the same.
        let mut heads: BTreeSet<(ReadyKey, u32)> = queue.heads.values().filter_map(BTreeSet::first).copied().collect();
        while let Some((key, class)) = heads.pop_first() {
            self.looks += 1;
            let Some(entry) = queue.class(class) else { continue };
            let shape = entry.shape;
            let first = queue.head(shape);
            if first != Some((key, class)) {
                heads.extend(first); // A limit that it shares with another shape has been reached in this round.
                continue;
            }
            let Some(run) = order.get(&key.2).and_then(|id| runs.get(id)) else {
                queue.remove(class, &key);
                heads.extend(queue.head(shape));
                continue;
            };
            let since = run.task(key.3).map_or(now, |task| task.ready_at);
            let shut = queue.full_pool(entry, pools).is_some() || queue.kept_pool(entry, &key, kept, pools).is_some();
            if shut && !(entry.pools_could(pools) && kept.is_overdue(since, now)) {
                continue;
            }
            let known = seen.entry(shape).or_insert_with(|| look(entry, &fleet, self.gpu_open > 0).ok());
            let Some(known) = known else { continue };
            let Seen { candidates, ways } = &*known;
            let local = local_bytes(run, key.3);
            let bytes = |at: usize| local.get(candidates[at].key).copied().unwrap_or(0);
            let choice = if shut { None } else { placement::pick(ways, candidates, &fleet.free, bytes) };
            if let Some((at, reserved)) = choice {
                fleet.free[at].take(&reserved);
                queue.remove(class, &key);
                queue.hold(class, (run.id, key.3));
                let worker = candidates[at].key.clone();
                given.push(Given { run: run.id, index: key.3, worker, reserved, ahead: false });
                heads.extend(queue.head(shape));
                continue;
            }
            if !shut && ahead.give(queue, order, shape, known, &mut given) {
                heads.extend(queue.head(shape)); // Whoever is the first of them now finds neither room nor a line.
                continue;
            }
            let Some(entry) = queue.class(class).filter(|_| kept.is_overdue(since, now)) else { continue };
            let (run, index) = (run.id, key.3);
            if let Some((at, what)) = placement::keep(ways, candidates, &fleet.free).filter(|_| !shut) {
                fleet.free[at].take(&what);
                ahead.closed[at] = true;
                let keepers = kept.workers.entry(candidates[at].key.clone()).or_default();
                keepers.push(Keeper { place: key, run, index, what });
            }
            for (pool, slots) in &entry.pools {
                let keepers = kept.pools.entry(pool.clone()).or_default();
                keepers.push(Keeper { place: key, run, index, what: *slots });
            }
        }
        given
    }

    /// Ready -> Live.
    fn assign(&mut self, given: Given, now: UnixMillis) {
        let Given { run: id, index, worker, reserved, ahead } = given;
        let (epoch, lease_until) = (self.config.epoch, now.saturating_add(self.config.lease_ms));
        self.stop_waiting(id, index);
        let Some(run) = self.runs.get_mut(&id) else { return };
        let inputs = run.inputs_of(index).unwrap_or_default();
        let (generation, name) = (run.generation, run.name_of(index));
        let Some((task, name)) = run.task_mut(index).zip(name) else { return };
        let number = task.next_attempt();
        if let Some(before) = task.attempts.last() {
            self.changed.attempts.insert((id, index, before.number));
        }
        // Most tasks have one attempt, and there may be a million of them: a vector would make room for four.
        task.attempts.reserve_exact(1);
        task.attempts.push(Attempt {
            number,
            state: AttemptState::Assigned,
            worker: worker.clone(),
            epoch,
            generation,
            assigned_at: now,
            started_at: 0,
            ended_at: 0,
            usage: Usage::default(),
            failure: None,
            log_bytes: 0,
            inputs: inputs.clone(),
            outputs: Vec::new(),
        });
        task.progress = None;
        task.state = TaskState::Live(Box::new(Live {
            attempt: number,
            epoch,
            worker: worker.clone(),
            lease_until,
            timer: lease_until,
            started: false,
            cancelling: false,
            ahead,
            reserved: reserved.clone(),
        }));
        self.timers.insert((lease_until, id, index));
        self.mark(id, index);
        if let Some(worker) = self.workers.get_mut(&worker) {
            if ahead {
                worker.ahead_alike = match worker.ahead.back() {
                    None => true,
                    Some((run, last)) => {
                        let last = self.runs.get(run).and_then(|run| run.task(*last)?.state.live());
                        worker.ahead_alike && last.is_some_and(|last| last.reserved == reserved)
                    }
                };
                worker.ahead.push_back((id, index));
            } else {
                worker.leased.insert((id, index), reserved.clone());
            }
        }
        let token = Token { run: id, index, attempt: number, epoch, task: name };
        self.send(&worker, Command::Assign { token, inputs, reserved, ahead });
    }

    /// The worker has begun an attempt that was given ahead: from now on its amounts count.
    pub(super) fn promote(&mut self, worker: &WorkerKey, id: RunId, index: u32) {
        let Some(holder) = self.workers.get_mut(worker) else { return };
        // Another one may be given ahead in its place.
        self.stirred = true;
        if let Some(at) = holder.ahead.iter().position(|waiting| *waiting == (id, index)) {
            holder.ahead.remove(at);
        }
        let Some(TaskState::Live(live)) =
            self.runs.get_mut(&id).and_then(|run| run.task_mut(index)).map(|task| &mut task.state)
        else {
            return;
        };
        live.ahead = false;
        holder.leased.insert((id, index), live.reserved.clone());
    }

    /// Room has become free on a worker: it begins what it was given ahead, in order, whatever fits; and so it counts.
    fn promote_all(&mut self, worker: &WorkerKey) {
        let Some(holder) = self.workers.get(worker).filter(|holder| !holder.ahead.is_empty()) else { return };
        let mut free = holder.free();
        let mut begun = Vec::new();
        for (id, index) in &holder.ahead {
            let Some(live) = self.runs.get(id).and_then(|run| run.task(*index)).and_then(|task| task.state.live())
            else {
                continue;
            };
            if !free.amounts.fits(&live.reserved) {
                if holder.ahead_alike {
                    break; // The next ones do not fit either.
                }
                continue;
            }
            free.take(&live.reserved);
            begun.push((*id, *index));
        }
        for (id, index) in begun {
            self.promote(worker, id, index);
        }
    }

    /// Takes work back that was given ahead and waits at one worker while another one has room for it.
    fn take_back_what_is_stuck(&mut self, now: UnixMillis) {
        if self.workers.values().all(|worker| worker.ahead.is_empty()) {
            self.look_ahead_at = None;
            return;
        }
        if *self.look_ahead_at.get_or_insert(now + STUCK_MS) > now {
            return;
        }
        self.look_ahead_at = Some(now + STUCK_MS);
        for (worker, stuck) in self.stuck(now) {
            if let Some(known) = self.workers.get_mut(&worker) {
                known.retracted_at = now;
            }
            let tokens = stuck.into_iter().filter_map(|(id, index)| self.runs.get(&id)?.live_token(index)).collect();
            self.send(&worker, Command::Retract { tokens });
        }
    }

    /// Gives attempts that wait at one worker and would find room at another one now: as many as find it, and no more, or
    /// they would only be given ahead again.
    fn stuck(&self, now: UnixMillis) -> Vec<(WorkerKey, Vec<(RunId, u32)>)> {
        let mut fleet = self.fleet();
        for (worker, free) in fleet.workers.iter().zip(&mut fleet.free) {
            self.kept.narrow(&worker.key, &kept::LAST, free);
        }
        let mut seen: HashMap<u64, Option<Seen<'_>>> = HashMap::new();
        let mut stuck = Vec::new();
        let waiting = self.workers.values().filter(|worker| worker.link.is_some() && !worker.ahead.is_empty());
        for worker in waiting.filter(|worker| worker.retracted_at.saturating_add(STUCK_MS) <= now) {
            let mut here = Vec::new();
            // From the end: the worker comes to the earlier ones first.
            for (id, index) in worker.ahead.iter().rev() {
                let Some(task) = self.runs.get(id).and_then(|run| run.task(*index)) else { continue };
                let Some(class) = self.queue.class(task.class).filter(|_| !task.state.is_cancelling()) else {
                    continue;
                };
                let known = seen.entry(class.shape).or_insert_with(|| look(class, &fleet, self.gpu_open > 0).ok());
                let Some(Seen { candidates, ways }) = known else { continue };
                let Some((at, reserved)) = placement::pick(ways, candidates, &fleet.free, |_| 0) else { continue };
                if *candidates[at].key != worker.key {
                    fleet.free[at].take(&reserved);
                    here.push((*id, *index));
                }
            }
            if !here.is_empty() {
                stuck.push((worker.key.clone(), here));
            }
        }
        stuck
    }
}

fn look<'a>(class: &Class, fleet: &Fleet<'a>, gpu_work_open: bool) -> Result<Seen<'a>, Unplaced> {
    let candidates = fleet.candidates(&class.work);
    let ways = placement::ways(&class.request, &candidates, gpu_work_open)?;
    Ok(Seen { candidates, ways })
}

/// Gives who made how many bytes of the inputs of a task: that worker has them in its cache.
fn local_bytes(run: &Run, index: u32) -> BTreeMap<&WorkerKey, u64> {
    let mut local: BTreeMap<&WorkerKey, u64> = BTreeMap::new();
    let Some(bound) = run.bound(index) else { return local };
    for input in bound.inputs.values() {
        // The children of a fan-out are everywhere: their outputs draw to no worker.
        let Some(producer) = run.tasks.get(input.task) else { continue };
        if let (Some(attempt), Some(output)) = (producer.attempts.last(), producer.output(&input.output)) {
            // The size is a worker's word: absurd ones must not overflow.
            let bytes = local.entry(&attempt.worker).or_default();
            *bytes = bytes.saturating_add(output.artifact.size_bytes);
        }
    }
    local
}

/// Says whether tasks of a class may lie at a worker before there is room: nothing scarce waits with them.
fn may_go_ahead(class: &Class) -> bool {
    class.took_us.is_some() && class.pools.is_empty() && class.limit.is_none() && !class.wants_gpu()
}

/// Gives how many attempts of a class may lie ready at a worker of this capacity.
fn ahead_of(class: &Class, needs: &Resources, capacity: &Resources) -> usize {
    let took = class.took_us.unwrap_or(u64::MAX).max(SHORTEST_US);
    let slots = u64::from(capacity.cpu_milli / needs.cpu_milli.max(1)).max(1);
    let fit = (AHEAD_US / took).saturating_mul(slots);
    usize::try_from(fit).unwrap_or(usize::MAX).min(MOST_AHEAD)
}

/// Says why a ready task is not placed, workers alone considered.
///
/// # Errors
/// The reason.
pub fn try_place(core: &Core, run: &Run, index: u32) -> Result<WorkerKey, Unplaced> {
    let fleet = core.fleet();
    let Some(bound) = run.bound(index) else { return Err(Unplaced::NoWorkers) };
    let candidates = fleet.candidates(&bound.work);
    let ways = placement::ways(&bound.resources, &candidates, core.gpu_work_open())?;
    let anywhere = placement::pick(&ways, &candidates, &fleet.free, |_| 0).ok_or(Unplaced::Busy)?;
    if core.kept.workers.is_empty() {
        return Ok(candidates[anywhere.0].key.clone());
    }
    let (place, mut free) = (core.place_of(run, index), fleet.free);
    for (candidate, free) in candidates.iter().zip(&mut free) {
        core.kept.narrow(candidate.key, &place, free);
    }
    let (at, _) = placement::pick(&ways, &candidates, &free, |_| 0).ok_or(Unplaced::Kept)?;
    Ok(candidates[at].key.clone())
}

/// Counts the workers that may take work.
#[must_use]
pub fn takers(core: &Core) -> u32 {
    count(core.workers().filter(|worker| worker.takes_work()).count())
}
