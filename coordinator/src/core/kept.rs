//! Room that is kept for tasks that have waited too long: nothing starves.
//!
//! Whatever fits is placed at once, and so a task that needs much could wait for ever beside a stream of small ones, each
//! of which takes what the one before has left. Therefore a task that has been ready for [`OVERDUE_MS`] is *overdue*, and
//! the law of placement is:
//!
//! 1. A ready task that no pool and no limit holds back is placed in the turn in which it fits beside what is kept for
//!    overdue tasks that stand before it in the queue. While nothing is overdue, it is placed as soon as it fits.
//! 2. For the first task of each shape, once it is overdue and finds no room, all that it needs is kept on the worker that
//!    lacks the least of it, and in its pools. What is kept lets in whatever stands before it, and nothing behind it.
//! 3. Work that was given ahead is overdue like any other; then its worker gets nothing but what fits beside it.
//!
//! So an overdue task is placed once those before it are, and the attempts of one worker have ended: what its worker
//! lacks never grows by tasks behind it, and it moves to another worker only where that one lacks less.

use std::{cmp::Reverse, collections::BTreeMap};

use segue_proto::{ids::RunId, resources::Resources};

use super::{Run, UnixMillis, Worker, WorkerKey, placement::Free, queue::ReadyKey};

/// How long a task may be ready before room is kept for it. Long enough that what is only next in line never costs
/// anything; short beside the work that needs a whole worker.
pub const OVERDUE_MS: u64 = 60_000;

/// The place in the queue of what has left it.
pub(super) const FIRST: ReadyKey = (i64::MIN, Reverse(u32::MAX), 0, 0);

/// The place in the queue of what is not in it.
pub(super) const LAST: ReadyKey = (i64::MAX, Reverse(0), u64::MAX, u32::MAX);

/// For whom something is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper<T> {
    pub(super) place: ReadyKey,
    pub run: RunId,
    pub index: u32,
    /// What is kept.
    pub what: T,
}

/// What is kept since the last round of placement, in the order of the queue.
#[derive(Debug, Default)]
pub struct Kept {
    pub(super) workers: BTreeMap<WorkerKey, Vec<Keeper<Resources>>>,
    pub(super) pools: BTreeMap<String, Vec<Keeper<u32>>>,
    /// When the next task will be overdue.
    pub(super) next_at: Option<UnixMillis>,
}

impl Kept {
    /// Says whether a task that has been ready since then is overdue; if not, notes when it will be.
    pub(super) fn is_overdue(&mut self, since: UnixMillis, now: UnixMillis) -> bool {
        let at = since.saturating_add(OVERDUE_MS);
        if at > now {
            self.next_at = Some(self.next_at.map_or(at, |next| next.min(at)));
        }
        at <= now
    }

    /// Counts the slots of a pool that are kept from a task of this place in the queue.
    pub(super) fn slots(&self, pool: &str, place: &ReadyKey) -> u32 {
        before(self.pools.get(pool), place).fold(0, |sum, keeper| sum.saturating_add(keeper.what))
    }

    /// Takes from the room of a worker what is kept from a task of this place in the queue.
    pub(super) fn narrow(&self, worker: &WorkerKey, place: &ReadyKey, free: &mut Free) {
        before(self.workers.get(worker), place).for_each(|keeper| free.take(&keeper.what));
    }

    /// Gives the first for whom a worker is kept from a task of this place in the queue.
    pub(super) fn keeper_of_worker(&self, worker: &WorkerKey, place: &ReadyKey) -> Option<&Keeper<Resources>> {
        before(self.workers.get(worker), place).next()
    }

    /// Gives the first for whom slots of a pool are kept from a task of this place in the queue.
    pub(super) fn keeper_of_pool(&self, pool: &str, place: &ReadyKey) -> Option<&Keeper<u32>> {
        before(self.pools.get(pool), place).next()
    }

    /// Gives the worker that is kept for a task.
    pub(super) fn worker_for(&self, run: RunId, index: u32) -> Option<&WorkerKey> {
        let is_it = |keeper: &Keeper<Resources>| (keeper.run, keeper.index) == (run, index);
        self.workers.iter().find(|(_, keepers)| keepers.iter().any(is_it)).map(|(worker, _)| worker)
    }
}

fn before<'a, T>(keepers: Option<&'a Vec<Keeper<T>>>, place: &ReadyKey) -> impl Iterator<Item = &'a Keeper<T>> {
    keepers.into_iter().flatten().filter(move |keeper| keeper.place < *place)
}

/// Gives what lies at a worker for the longest time of all that was given ahead, and since when.
pub(super) fn oldest_ahead(runs: &BTreeMap<RunId, Run>, worker: &Worker) -> Option<(Keeper<Resources>, UnixMillis)> {
    let (run, index) = *worker.ahead.front()?;
    let task = runs.get(&run)?.task(index)?;
    let live = task.state.live().filter(|live| !live.cancelling)?;
    let since = task.attempts.last()?.assigned_at;
    Some((Keeper { place: FIRST, run, index, what: live.reserved.clone() }, since))
}
