#![allow(clippy::unwrap_used)]

use std::sync::Condvar;

use futures::FutureExt as _;

use super::*;
use crate::store::{Code, Key, MemoryStore, Precondition, Row};

/// A store whose flushes wait for leave, are counted, and may be told to fail.
#[derive(Debug, Default)]
struct GatedStore {
    rows: MemoryStore,
    state: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    failing: bool,
    /// Whether a batch is applied and its caller told that it was not.
    denying: bool,
    begun: u64,
    ended: u64,
    /// Batches applied when the last flush began.
    applied: u64,
    applied_at_flush: u64,
}

impl GatedStore {
    fn closed() -> Arc<Self> {
        let store = Self::default();
        store.state.lock().unwrap().closed = true;
        Arc::new(store)
    }

    fn set(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Blocks until so many flushes have begun.
    fn wait_begun(&self, flushes: u64) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |gate| gate.begun < flushes).unwrap());
    }
}

impl Store for GatedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.rows.scan(prefix, after, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.rows.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        self.rows.apply(batch)?;
        self.set(|gate| gate.applied += 1);
        if self.state.lock().unwrap().denying {
            return Err(Error::io("writing", std::path::Path::new("db"), std::io::Error::other("timed out")));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.set(|gate| {
            assert_eq!(gate.begun, gate.ended, "two flushes at once");
            gate.begun += 1;
            gate.applied_at_flush = gate.applied;
        });
        let mut gate = self.changed.wait_while(self.state.lock().unwrap(), |gate| gate.closed).unwrap();
        gate.ended += 1;
        if gate.failing {
            Err(Error::io("syncing", std::path::Path::new("db"), std::io::Error::other("disk full")))
        } else {
            Ok(())
        }
    }
}

fn put(n: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put_raw(key(n).encode(), vec![1]);
    batch
}

fn key(n: usize) -> Key {
    Key::Cache(n.to_string())
}

#[tokio::test]
async fn many_waiting_batches_take_one_flush() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let first = committer.submit(put(0)).await.unwrap();
    store.wait_begun(1);
    let mut rest = Vec::new();
    for n in 1..=50 {
        rest.push(committer.submit(put(n)).await.unwrap());
    }
    store.set(|gate| gate.closed = false);
    first.await.unwrap();
    for pending in rest {
        pending.await.unwrap();
    }
    let stats = committer.stats();
    assert_eq!((stats.flushes, stats.batches, stats.largest_group), (2, 51, 50));
    assert_eq!(store.state.lock().unwrap().applied_at_flush, 51, "the second flush came after all were applied");
}

#[tokio::test]
async fn no_answer_precedes_its_flush() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let mut first = committer.submit(put(1)).await.unwrap();
    store.wait_begun(1);
    assert!(store.get(&key(1).encode()).unwrap().is_some(), "it is applied");
    assert!((&mut first).now_or_never().is_none(), "but not answered");
    let mut second = committer.submit(put(2)).await.unwrap();
    store.set(|gate| gate.closed = false);
    first.await.unwrap();
    (&mut second).await.unwrap();
    assert_eq!(store.state.lock().unwrap().ended, 2);
}

#[tokio::test]
async fn a_task_answers_after_the_flush_as_the_thread_does() {
    let store = Arc::new(GatedStore::default());
    let committer = Committer::start_in_task(store.clone(), || Duration::from_millis(1));
    let mut first = committer.submit(put(1)).await.unwrap();
    let second = committer.submit(put(2)).await.unwrap();
    while store.get(&key(1).encode()).unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert!((&mut first).now_or_never().is_none(), "it is applied, and not answered before its flush");
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(store.state.lock().unwrap().ended, 1, "both waited, and one flush was enough");
    store.set(|gate| gate.failing = true);
    assert!(committer.commit(put(3)).await.is_err());
    assert_eq!(committer.commit(put(4)).await.unwrap_err().code(), Code::Stopped, "nobody knows what the disk has");
}

#[tokio::test]
async fn a_conflict_is_answered_to_its_own_batch_alone() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let gate = committer.submit(put(0)).await.unwrap();
    store.wait_begun(1);
    let good = committer.submit(put(1)).await.unwrap();
    let mut conflicting = put(2);
    conflicting.require(Precondition::Absent(key(1).encode()));
    let conflicting = committer.submit(conflicting).await.unwrap();
    let after = committer.submit(put(3)).await.unwrap();
    store.set(|gate| gate.closed = false);
    gate.await.unwrap();
    good.await.unwrap();
    assert_eq!(conflicting.await.unwrap_err().code(), Code::Conflict, "it saw the batch before it");
    after.await.unwrap();
    assert_eq!(store.get(&key(2).encode()).unwrap(), None);
    assert_eq!(committer.stats().conflicts, 1);
}

#[tokio::test]
async fn after_a_flush_that_failed_nothing_is_written_any_more() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let first = committer.submit(put(1)).await.unwrap();
    store.wait_begun(1);
    store.set(|gate| (gate.failing, gate.closed) = (true, false));
    assert_eq!(first.await.unwrap_err().code(), Code::Io);
    store.set(|gate| gate.failing = false);
    let error = committer.commit(put(2)).await.unwrap_err();
    assert_eq!(error.code(), Code::Stopped);
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!(store.get(&key(2).encode()).unwrap(), None);
}

#[tokio::test]
async fn after_a_write_that_failed_nothing_is_written_any_more_and_whoever_waits_for_that_is_told() {
    let store = GatedStore::closed();
    store.set(|gate| (gate.denying, gate.closed) = (true, false));
    let committer = Committer::start(store.clone()).unwrap();
    let mut failed = Box::pin(committer.failed());
    assert!((&mut failed).now_or_never().is_none(), "nothing has failed yet");
    assert_eq!(committer.commit(put(1)).await.unwrap_err().code(), Code::Io);
    assert!(failed.await.contains("timed out"));
    store.set(|gate| gate.denying = false);
    let error = committer.commit(put(2)).await.unwrap_err();
    assert_eq!(error.code(), Code::Stopped);
    assert!(error.to_string().contains("timed out"), "{error}");
    assert_eq!(store.get(&key(2).encode()).unwrap(), None);
}

#[tokio::test]
async fn a_conflict_stops_nobody() {
    let committer = Committer::start(Arc::new(MemoryStore::new())).unwrap();
    committer.commit(put(1)).await.unwrap();
    let mut conflicting = put(2);
    conflicting.require(Precondition::Absent(key(1).encode()));
    assert_eq!(committer.commit(conflicting).await.unwrap_err().code(), Code::Conflict);
    committer.commit(put(3)).await.unwrap();
    assert!(Box::pin(committer.failed()).now_or_never().is_none());
}

#[test]
fn what_waits_is_committed_before_the_thread_ends() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pending: Vec<Pending> = (0..20).map(|n| runtime.block_on(committer.submit(put(n))).unwrap()).collect();
    store.set(|gate| gate.closed = false);
    committer.close();
    for answer in pending {
        answer.now_or_never().unwrap().unwrap();
    }
    assert_eq!(committer.commit_blocking(put(99)).unwrap_err().code(), Code::Stopped);
}

#[test]
fn threads_outside_the_runtime_can_commit() {
    let committer = Committer::start(Arc::new(MemoryStore::new())).unwrap();
    thread::scope(|scope| {
        for n in 0..8 {
            let committer = committer.clone();
            scope.spawn(move || committer.commit_blocking(put(n)).unwrap());
        }
    });
    let stats = committer.stats();
    assert_eq!(stats.batches, 8);
    assert!(stats.flushes <= 8);
}

#[tokio::test]
async fn a_quiet_reader_sees_everything_queued_before_it_and_nothing_after() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let before = committer.submit(put(1)).await.unwrap();
    let reading = {
        let committer = committer.clone();
        tokio::spawn(async move { committer.quiet(|store| store.scan(&[], None, 9).unwrap().len()).await })
    };
    store.wait_begun(1);
    store.set(|gate| gate.closed = false);
    assert_eq!(reading.await.unwrap().unwrap(), 1);
    before.await.unwrap();
    committer.commit(put(2)).await.unwrap();
}

#[test]
fn closing_does_not_wait_for_a_submit_that_cannot_go_on() {
    let store = GatedStore::closed();
    let committer = Committer::start(store.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let first = runtime.block_on(committer.submit(put(0))).unwrap();
    store.wait_begun(1);
    let queued: Vec<Pending> = (0..WAITING).map(|n| runtime.block_on(committer.submit(put(n))).unwrap()).collect();
    let mut stuck = Box::pin(committer.submit(put(9999)));
    assert!((&mut stuck).now_or_never().is_none(), "the queue is full");
    store.set(|gate| gate.closed = false);
    committer.close();
    for answer in queued.into_iter().chain([first]) {
        answer.now_or_never().unwrap().unwrap();
    }
    // It may have been given a place just before the end; nobody took what it put there.
    let answer = stuck.now_or_never().unwrap().and_then(|pending| pending.now_or_never().unwrap());
    assert_eq!(answer.unwrap_err().code(), Code::Stopped);
}
