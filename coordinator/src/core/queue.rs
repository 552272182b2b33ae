//! The ready queue: tasks by class, in the order of their runs. Pools and limits are gates in front of it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use segue_proto::{ids::RunId, resources::GpuPreference};

use super::{Core, Kept, Run, UnixMillis, kept, run::FIRST_CHILD};
use crate::{
    defect::{self, Defect},
    spec::{BoundTask, ResourceRequest, Work},
};

/// What one step of priority is worth in waiting. A task of priority 1 goes before one of priority 0 whose run was let in
/// less than a minute before its own, and after one whose run was let in earlier than that: no stream of urgent work
/// holds the rest back for ever. A rerun waits from when it was asked for, a run of a full lane from when it got its turn.
/// What needs more than is ever free at a time is another matter: see [`Kept`].
pub const AGEING_MS: i64 = 60_000;

/// Classes that are kept without asking whether they are still needed.
const MANY_CLASSES: usize = 1_024;

/// Order of ready tasks: since when the run waits, moved by the priority; longest remaining path, arrival of the run, index.
///
/// The first part ages by itself: it is a point in time, so that it never has to be computed again.
pub(super) type ReadyKey = (i64, Reverse<u32>, u64, u32);

/// What tasks of a class have in common: one refusal of placement speaks for all of them.
#[derive(Debug, Clone)]
pub struct Class {
    pub work: Work,
    pub request: ResourceRequest,
    /// Slots of pools.
    pub pools: BTreeMap<String, u32>,
    /// Key and most attempts at a time.
    pub limit: Option<(String, u32)>,
    /// How long its attempts took lately, in microseconds; absent: none has ended yet.
    pub(super) took_us: Option<u64>,
    /// What it wants besides its limit: one refusal of a worker or a pool speaks for all classes of a shape.
    pub(super) shape: u64,
    /// Its first ready task, while its limit lets one more in: as it stands among the heads.
    shown: Option<ReadyKey>,
}

impl Class {
    /// Says whether its tasks could use a GPU.
    #[must_use]
    pub fn wants_gpu(&self) -> bool {
        self.request.gpu != GpuPreference::None
    }

    /// Says whether its pools let one of its tasks in when nobody else holds slots.
    pub(super) fn pools_could(&self, pools: &BTreeMap<String, u32>) -> bool {
        self.pools.iter().all(|(name, wanted)| pools.get(name).is_some_and(|slots| wanted <= slots))
    }
}

/// What keeps a class from being placed, workers aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shut {
    NoPool(String),
    Pool { name: String, slots: u32, used: u32 },
    Limit { key: String, max: u32 },
}

/// Ready tasks, and who holds the slots of pools and limits.
#[derive(Debug, Default)]
pub struct Queue {
    pub(super) classes: Vec<Class>,
    ids: HashMap<String, u32>,
    /// By what a class wants besides its limit.
    shapes: HashMap<String, u64>,
    next_shape: u64,
    /// The class without a limit of each shape that has one.
    plain: HashMap<u64, u32>,
    /// Numbers of classes that were forgotten, to be given again.
    spare: Vec<u32>,
    /// How many classes there may be before it is looked which of them are still needed.
    many: usize,
    /// By class.
    pub(super) ready: BTreeMap<u32, BTreeSet<ReadyKey>>,
    /// The first ready task of each class whose limit lets one more in, by shape. A limit by item makes a class for each
    /// item: a round looks at the first of each shape, not at all of them.
    pub(super) heads: BTreeMap<u64, BTreeSet<(ReadyKey, u32)>>,
    /// Classes with ready tasks, by the key of their limit.
    pub(super) limited: HashMap<String, BTreeSet<u32>>,
    /// Something was put in, taken out or given back since the last round.
    pub(super) changed: bool,
    /// Slots that live attempts hold: derived from them, never counted apart.
    pub(super) pool_use: BTreeMap<String, BTreeMap<(RunId, u32), u32>>,
    pub(super) limit_use: HashMap<String, BTreeSet<(RunId, u32)>>,
}

impl Queue {
    /// Gives the class of a task. `limit` is the key of its limit with every item filled in.
    pub(super) fn class_of(&mut self, task: &BoundTask, limit: Option<(String, u32)>) -> u32 {
        let work = match &task.work {
            Work::Operator { name, version, .. } => format!("{name} {version}"),
            Work::Command { .. } | Work::Sensor { .. } => String::new(),
        };
        let shape = format!("{work}|{:?}|{:?}", task.resources, task.flow.pools);
        let signature = format!("{shape}|{limit:?}");
        if let Some(id) = self.ids.get(&signature) {
            return *id;
        }
        let shape = *self.shapes.entry(shape).or_insert_with(|| {
            self.next_shape += 1;
            self.next_shape
        });
        let plain = limit.is_none();
        let class = Class {
            work: match &task.work {
                // The arguments of commands are no part of a class.
                Work::Command { .. } => Work::Command { argv: Vec::new() },
                other => other.clone(),
            },
            request: task.resources.clone(),
            pools: task.flow.pools.clone(),
            limit,
            took_us: None,
            shape,
            shown: None,
        };
        let id = match self.spare.pop() {
            Some(id) => {
                self.classes[id as usize] = class;
                id
            }
            None => {
                self.classes.push(class);
                u32::try_from(self.classes.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.ids.insert(signature, id);
        if plain {
            self.plain.insert(shape, id);
        }
        id
    }

    /// Says whether there are so many classes that those should be forgotten which nothing refers to: limits by key make
    /// one for each key.
    pub(super) fn has_many(&self) -> bool {
        self.ids.len() > self.many.max(MANY_CLASSES)
    }

    /// Forgets the classes that are not among these.
    pub(super) fn keep(&mut self, needed: &BTreeSet<u32>) {
        self.ids.retain(|_, id| {
            let stays = needed.contains(id);
            if !stays {
                self.spare.push(*id);
            }
            stays
        });
        self.many = self.ids.len().saturating_mul(2);
        let shapes: BTreeSet<u64> = self.ids.values().map(|id| self.classes[*id as usize].shape).collect();
        self.shapes.retain(|_, shape| shapes.contains(shape));
        self.plain.retain(|_, id| needed.contains(id));
    }

    pub(super) fn class(&self, id: u32) -> Option<&Class> {
        self.classes.get(id as usize)
    }

    /// Puts a ready task into the queue.
    pub(super) fn push(&mut self, id: u32, key: ReadyKey) {
        self.changed = true;
        let tasks = self.ready.entry(id).or_default();
        let first = tasks.is_empty();
        tasks.insert(key);
        if first && let Some((limit, _)) = self.classes.get(id as usize).and_then(|class| class.limit.as_ref()) {
            self.limited.entry(limit.clone()).or_default().insert(id);
        }
        self.show(id);
    }

    /// Takes a task out of the queue.
    pub(super) fn remove(&mut self, id: u32, key: &ReadyKey) {
        self.changed = true;
        let Some(tasks) = self.ready.get_mut(&id) else { return };
        tasks.remove(key);
        if tasks.is_empty() {
            self.ready.remove(&id);
            if let Some((limit, _)) = self.classes.get(id as usize).and_then(|class| class.limit.as_ref())
                && let Some(classes) = self.limited.get_mut(limit)
            {
                classes.remove(&id);
                if classes.is_empty() {
                    self.limited.remove(limit);
                }
            }
        }
        self.show(id);
    }

    /// Gives the first ready task of a class.
    pub(super) fn first(&self, id: u32) -> Option<ReadyKey> {
        self.ready.get(&id)?.first().copied()
    }

    /// Gives the first ready task of a shape that no limit keeps back, and its class.
    pub(super) fn head(&self, shape: u64) -> Option<(ReadyKey, u32)> {
        self.heads.get(&shape)?.first().copied()
    }

    /// Gives the class of a shape that has no limit.
    pub(super) fn plain(&self, shape: u64) -> Option<u32> {
        self.plain.get(&shape).copied()
    }

    /// Puts the first task of a class among the heads, or takes it away, as its limit has it now.
    fn show(&mut self, id: u32) {
        let Some(class) = self.classes.get_mut(id as usize) else { return };
        let used = |key: &String| self.limit_use.get(key).map_or(0, BTreeSet::len);
        let open = class.limit.as_ref().is_none_or(|(key, max)| used(key) < *max as usize);
        let first = self.ready.get(&id).and_then(BTreeSet::first).filter(|_| open).copied();
        let before = std::mem::replace(&mut class.shown, first);
        if before == first {
            return;
        }
        let heads = self.heads.entry(class.shape).or_default();
        if let Some(key) = before {
            heads.remove(&(key, id));
        }
        if let Some(key) = first {
            heads.insert((key, id));
        }
        if heads.is_empty() {
            self.heads.remove(&class.shape);
        }
    }

    /// Looks anew at the classes that share a limit.
    fn show_limited(&mut self, key: &str) {
        let sharing: Vec<u32> = self.limited.get(key).into_iter().flatten().copied().collect();
        for id in sharing {
            self.show(id);
        }
    }

    /// Says what keeps a class from being placed, workers aside.
    pub(super) fn shut(&self, class: &Class, pools: &BTreeMap<String, u32>) -> Option<Shut> {
        self.full_pool(class, pools).or_else(|| {
            let (key, max) = class.limit.as_ref()?;
            let used = self.limit_use.get(key).map_or(0, BTreeSet::len);
            (used >= *max as usize).then(|| Shut::Limit { key: key.clone(), max: *max })
        })
    }

    /// Says which pool has no room for one more task of a class.
    pub(super) fn full_pool(&self, class: &Class, pools: &BTreeMap<String, u32>) -> Option<Shut> {
        for (name, wanted) in &class.pools {
            let Some(&slots) = pools.get(name) else { return Some(Shut::NoPool(name.clone())) };
            let used = self.pool_used(name);
            if wanted.saturating_add(used) > slots && !defect::is(Defect::PoolIgnored) {
                return Some(Shut::Pool { name: name.clone(), slots, used });
            }
        }
        None
    }

    /// Says from which pool slots are kept that a task of a class would take, for one that stands before it.
    pub(super) fn kept_pool<'a>(
        &self,
        class: &'a Class,
        place: &ReadyKey,
        kept: &Kept,
        pools: &BTreeMap<String, u32>,
    ) -> Option<&'a str> {
        class.pools.iter().map(|(name, wanted)| (name.as_str(), wanted)).find_map(|(name, wanted)| {
            let slots = kept.slots(name, place);
            let taken = self.pool_used(name).saturating_add(slots).saturating_add(*wanted);
            (slots > 0 && pools.get(name).is_none_or(|all| taken > *all)).then_some(name)
        })
    }

    /// Adds up the slots of a pool that live attempts hold.
    pub(super) fn pool_used(&self, name: &str) -> u32 {
        self.pool_use.get(name).map_or(0, |holders| holders.values().copied().fold(0, u32::saturating_add))
    }

    /// Notes that a live attempt of a class holds its slots.
    pub(super) fn hold(&mut self, class: u32, task: (RunId, u32)) {
        let Some(class) = self.classes.get(class as usize) else { return };
        for (name, slots) in &class.pools {
            self.pool_use.entry(name.clone()).or_default().insert(task, *slots);
        }
        if let Some((key, _)) = class.limit.clone() {
            self.limit_use.entry(key.clone()).or_default().insert(task);
            self.show_limited(&key);
        }
    }

    /// Gives the slots of an attempt that has ended back.
    pub(super) fn give_back(&mut self, class: u32, task: (RunId, u32)) {
        self.changed = true;
        let Some(class) = self.classes.get(class as usize) else { return };
        for name in class.pools.keys() {
            if let Some(holders) = self.pool_use.get_mut(name) {
                holders.remove(&task);
                if holders.is_empty() {
                    self.pool_use.remove(name);
                }
            }
        }
        if let Some((key, _)) = class.limit.clone()
            && let Some(holders) = self.limit_use.get_mut(&key)
        {
            holders.remove(&task);
            if holders.is_empty() {
                self.limit_use.remove(&key);
            }
            self.show_limited(&key);
        }
    }

    /// Learns from an attempt that has ended how long its class takes.
    pub(super) fn learn(&mut self, class: u32, took_us: u64) {
        if let Some(class) = self.classes.get_mut(class as usize) {
            // A moving average over about eight attempts.
            // The time is a worker's word: an absurd one must not overflow.
            let mean = |before: u64| before.saturating_mul(7).saturating_add(took_us) / 8;
            class.took_us = Some(class.took_us.map_or(took_us, mean));
        }
    }

    /// Counts ready tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ready.values().map(BTreeSet::len).sum()
    }

    /// Says whether no task is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Iterates over what ready tasks want that neither a pool nor a limit keeps back: one class of each shape.
    pub fn open<'a>(&'a self, pools: &'a BTreeMap<String, u32>) -> impl Iterator<Item = &'a Class> {
        let first = self.heads.values().filter_map(|heads| self.class(heads.first()?.1));
        first.filter(|class| self.full_pool(class, pools).is_none())
    }
}

/// Gives the place of a task in its queue.
fn ready_key(run: &Run, arrival: u64, index: u32) -> Option<ReadyKey> {
    let node = run.node_of(index);
    let bound = run.spec.tasks.get(node)?;
    let priority = i64::from(run.priority).saturating_add(i64::from(bound.priority));
    let since = i64::try_from(run.waits_since).unwrap_or(i64::MAX);
    let start = since.saturating_sub(priority.saturating_mul(AGEING_MS));
    Some((start, Reverse(run.graph.remaining[node]), arrival, index))
}

impl Core {
    /// Puts a ready task into the queue.
    pub(super) fn enqueue(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let Some(&arrival) = self.arrival.get(&id) else { return };
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Some(key) = ready_key(run, arrival, index) else { return };
        let Some(class) = class_in(run, index, &mut self.queue) else { return };
        let queue_timeout = run.bound(index).and_then(|bound| bound.flow.queue_timeout_ms);
        let Some(task) = run.task_mut(index) else { return };
        task.class = class;
        if task.ready_at == 0 {
            task.ready_at = now;
        }
        if let Some(timeout) = queue_timeout {
            self.timers.insert((task.ready_at.saturating_add(timeout), id, index));
        }
        self.queue.push(class, key);
    }

    /// Takes a task out of the queue.
    pub(super) fn dequeue(&mut self, id: RunId, index: u32) {
        self.stop_waiting(id, index);
        let Some(&arrival) = self.arrival.get(&id) else { return };
        let Some(run) = self.runs.get(&id) else { return };
        let (Some(key), Some(task)) = (ready_key(run, arrival, index), run.task(index)) else { return };
        self.queue.remove(task.class, &key);
    }

    /// Forgets until when a ready task may wait for a worker.
    pub(super) fn stop_waiting(&mut self, id: RunId, index: u32) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some((task, timeout)) = run.task(index).zip(run.bound(index).and_then(|b| b.flow.queue_timeout_ms)) else {
            return;
        };
        self.timers.remove(&(task.ready_at.saturating_add(timeout), id, index));
    }

    /// Gives the class of a task of a run, making it where needed.
    pub(super) fn classify(&mut self, id: RunId, index: u32) -> Option<u32> {
        let run = self.runs.get_mut(&id)?;
        let class = class_in(run, index, &mut self.queue)?;
        run.task_mut(index)?.class = class;
        Some(class)
    }

    /// Gives the slots of a pool that attempts hold, and who holds them.
    #[must_use]
    pub fn pool_use(&self, name: &str) -> Vec<(RunId, u32, u32)> {
        self.queue
            .pool_use
            .get(name)
            .map(|holders| holders.iter().map(|((run, task), slots)| (*run, *task, *slots)).collect())
            .unwrap_or_default()
    }

    /// Gives the number of the class of a ready task: tasks with the same number wait for the same.
    #[must_use]
    pub const fn class_of(&self, task: &super::Task) -> u32 {
        task.class
    }

    /// Gives the place of a task in the queue; the last one to what is not in memory.
    pub(super) fn place_of(&self, run: &Run, index: u32) -> ReadyKey {
        let arrival = self.arrival.get(&run.id);
        arrival.and_then(|arrival| ready_key(run, *arrival, index)).unwrap_or(kept::LAST)
    }

    /// Gives the ready queue.
    #[must_use]
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }
}

fn class_in(run: &mut Run, index: u32, queue: &mut Queue) -> Option<u32> {
    let node = run.node_of(index);
    let limit = limit_of(run, node, index);
    let own_limit = index >= FIRST_CHILD && run.spec.tasks.get(node)?.flow.limit.is_some();
    if !own_limit && let Some(&class) = run.classes.get(&u32::try_from(node).ok()?) {
        return Some(class);
    }
    let class = queue.class_of(run.spec.tasks.get(node)?, limit);
    if !own_limit {
        run.classes.insert(u32::try_from(node).ok()?, class);
    }
    Some(class)
}

/// Gives the key and size of the limit of a task, the item filled in.
fn limit_of(run: &Run, node: usize, index: u32) -> Option<(String, u32)> {
    let bound = run.spec.tasks.get(node)?;
    let limit = bound.flow.limit.as_ref()?;
    let key = match run.item_of(index) {
        None => limit.key.clone(),
        Some(item) => crate::spec::fill_item(&limit.key, &item.value, item.key.as_str(), item.ordinal)
            .unwrap_or_else(|_| limit.key.clone()),
    };
    Some((key, limit.max))
}
