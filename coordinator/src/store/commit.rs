//! Group commit: one thread takes every batch that waits, applies them, flushes once, and only then answers.

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Batch, Store, error::Error};

/// Batches that may wait for the commit thread; more make the sender wait. Enough for the reports of hundreds of
/// workers, few enough that a slow disk is felt at once.
const WAITING: usize = 1024;

/// Batches of one flush: bounds how long the first of them waits for the last.
const GROUP: usize = 512;

/// Owns the write side of a store. Clones share one thread; when the last one is dropped, the thread commits what still
/// waits and ends.
#[derive(Clone)]
pub struct Committer(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    closing: Arc<AtomicBool>,
    listeners: Listeners,
    failed: watch::Receiver<Option<String>>,
    /// Taken at the end.
    link: Mutex<Option<Link>>,
}

struct Link {
    sender: mpsc::Sender<Job>,
    /// None where a task commits.
    thread: Option<JoinHandle<()>>,
}

type Keys = Mutex<BTreeSet<Vec<u8>>>;
type Listeners = Arc<Mutex<Vec<Weak<Keys>>>>;

/// The keys that are written while this lives: for who reads a store page by page while it changes. A key comes after its
/// write is visible, so what was read before its write is there to be read again.
#[derive(Debug)]
pub struct Written(Arc<Keys>);

impl Written {
    /// Takes the keys that were written since they were taken last.
    #[must_use]
    pub fn take(&self) -> BTreeSet<Vec<u8>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Reading = Box<dyn FnOnce(&dyn Store) + Send>;

enum Job {
    Commit(Batch, oneshot::Sender<Result<(), Error>>),
    /// Reads while nothing is written.
    Quiet(Reading),
    /// Makes the thread look whether it is to end.
    Wake,
}

#[derive(Debug, Default)]
struct Counters {
    flushes: AtomicU64,
    batches: AtomicU64,
    conflicts: AtomicU64,
    largest: AtomicU64,
    flush_micros: AtomicU64,
}

/// What the commit thread has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStats {
    pub flushes: u64,
    /// Batches answered, conflicts included.
    pub batches: u64,
    pub conflicts: u64,
    /// Most batches of one flush.
    pub largest_group: u64,
    /// Time in flushes, all together.
    pub flush_micros: u64,
}

/// A batch on its way: resolves when it is durable, or refused.
#[derive(Debug)]
#[must_use = "a batch counts only when this has resolved"]
pub struct Pending(oneshot::Receiver<Result<(), Error>>);

impl Future for Pending {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Committer {
    /// Starts the commit thread of a store.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the system gives no thread.
    pub fn start(store: Arc<dyn Store>) -> Result<Self, Error> {
        let (committer, worker, jobs) = Self::parts(store);
        let thread = thread::Builder::new()
            .name("segue-commit".to_owned())
            .spawn(move || worker.run(jobs))
            .map_err(|e| Error::Stopped { reason: format!("the commit thread does not start ({e})") })?;
        if let Some(link) = committer.0.link.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            link.thread = Some(thread);
        }
        Ok(committer)
    }

    /// Commits in a task of this runtime, for a cluster that lives in one thread. Between the writes of a group and their
    /// flush it waits as long as `flush_takes` says: what a disk would take, in which others go on.
    #[must_use]
    pub fn start_in_task(store: Arc<dyn Store>, flush_takes: impl FnMut() -> Duration + Send + 'static) -> Self {
        let (committer, worker, jobs) = Self::parts(store);
        tokio::spawn(worker.run_in_task(jobs, flush_takes));
        committer
    }

    fn parts(store: Arc<dyn Store>) -> (Self, Worker, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel(WAITING);
        let counters = Arc::new(Counters::default());
        let closing = Arc::new(AtomicBool::new(false));
        let listeners = Listeners::default();
        let (failed, failed_end) = watch::channel(None);
        let worker = Worker {
            store: Arc::clone(&store),
            counters: Arc::clone(&counters),
            closing: Arc::clone(&closing),
            listeners: Arc::clone(&listeners),
            failed,
        };
        let link = Mutex::new(Some(Link { sender, thread: None }));
        (Self(Arc::new(Inner { store, counters, closing, listeners, failed: failed_end, link })), worker, jobs)
    }

    /// Queues a batch, in the order of the calls that have returned; waits while the queue is full. The answer is the
    /// [`Pending`].
    ///
    /// # Errors
    /// [`Error::Stopped`] after [`Committer::close`].
    pub async fn submit(&self, batch: Batch) -> Result<Pending, Error> {
        let sender = self.sender()?;
        let (reply, answer) = oneshot::channel();
        sender.send(Job::Commit(batch, reply)).await.map_err(|_| gone())?;
        Ok(Pending(answer))
    }

    /// Queues a batch and waits until it is durable.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a precondition does not hold; what the store says; [`Error::Stopped`] after a write or a
    /// flush that failed, because nobody knows what the disk has then.
    pub async fn commit(&self, batch: Batch) -> Result<(), Error> {
        self.submit(batch).await?.await
    }

    /// Like [`Committer::commit`], for threads outside the runtime.
    ///
    /// # Errors
    /// Those of [`Committer::commit`].
    ///
    /// # Panics
    /// If called on a thread of an async runtime, where it would block others.
    pub fn commit_blocking(&self, batch: Batch) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.blocking_send(Job::Commit(batch, reply)).map_err(|_| gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Reads on the commit thread, between two flushes: `work` sees one state, and commits wait for it.
    ///
    /// # Errors
    /// [`Error::Stopped`] after [`Committer::close`].
    pub async fn quiet<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Quiet(Box::new(move |store| {
            // The caller may have gone.
            let _ = reply.send(work(store));
        }));
        self.sender()?.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Begins to note the keys that are written. Each write that is not visible yet will be noted.
    #[must_use]
    pub fn listen(&self) -> Written {
        let keys = Arc::new(Keys::default());
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&keys));
        Written(keys)
    }

    /// Waits until a write or a flush has failed, and gives the reason: the store takes nothing more then, and the way
    /// back is a restart. Never ends otherwise.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.clone();
        loop {
            if let Some(reason) = failed.borrow_and_update().clone() {
                return reason;
            }
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Gives why the store takes no more writes, where it does not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.failed.borrow().clone()
    }

    /// Gives the store, for reading.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Gives what has been done so far.
    #[must_use]
    pub fn stats(&self) -> CommitStats {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitStats {
            flushes: read(&counters.flushes),
            batches: read(&counters.batches),
            conflicts: read(&counters.conflicts),
            largest_group: read(&counters.largest),
            flush_micros: read(&counters.flush_micros),
        }
    }

    /// Commits what waits and ends the thread. Blocks until it has ended (a task is not waited for); later commits give [`Error::Stopped`].
    pub fn close(&self) {
        self.0.close();
    }

    fn sender(&self) -> Result<mpsc::Sender<Job>, Error> {
        let link = self.0.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().map(|link| link.sender.clone()).ok_or_else(gone)
    }
}

impl Inner {
    fn close(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Link { sender, thread }) = link {
            // Dropping the sender is not enough: a submit that waits for a place in the queue holds another one, and
            // may be on the very runtime that is blocked here. If the queue is full, the thread looks without a wake.
            self.closing.store(true, Ordering::Release);
            let _ = sender.try_send(Job::Wake);
            drop(sender);
            // The last clone may be dropped by a closure that runs on the thread itself.
            if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
                // Its panic has been answered: every reply it held was dropped.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn gone() -> Error {
    Error::Stopped { reason: "the commit thread has ended".to_owned() }
}

struct Worker {
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    closing: Arc<AtomicBool>,
    listeners: Listeners,
    /// After a failed write or flush nobody knows what is on disk: everything later is refused with its reason.
    failed: watch::Sender<Option<String>>,
}

/// Batches of one flush, and where their answers go.
type Group = Vec<(Batch, oneshot::Sender<Result<(), Error>>)>;

/// Takes what waits behind a job, as much as goes into one flush.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> (Group, Option<Reading>) {
    let (mut group, mut quiet) = (Vec::new(), None);
    let mut next = Some(first);
    while let Some(job) = next.take() {
        match job {
            Job::Commit(batch, reply) => group.push((batch, reply)),
            Job::Quiet(work) => quiet = Some(work),
            Job::Wake => {}
        }
        if quiet.is_none() && group.len() < GROUP {
            next = jobs.try_recv().ok();
        }
    }
    (group, quiet)
}

impl Worker {
    fn run(self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = self.next(&mut jobs) {
            let (group, quiet) = gather(first, &mut jobs);
            let applied = self.apply_all(&group);
            self.flush_and_answer(group, applied);
            if let Some(work) = quiet {
                work(self.store.as_ref());
            }
        }
    }

    async fn run_in_task(self, mut jobs: mpsc::Receiver<Job>, mut flush_takes: impl FnMut() -> Duration + Send) {
        // No close waits for a task: it ends when the last sender is gone, or with its runtime.
        while let Some(first) = jobs.recv().await {
            let (group, quiet) = gather(first, &mut jobs);
            let applied = self.apply_all(&group);
            tokio::time::sleep(flush_takes()).await;
            self.flush_and_answer(group, applied);
            if let Some(work) = quiet {
                work(self.store.as_ref());
            }
        }
    }

    fn next(&self, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        if self.closing.load(Ordering::Acquire) {
            // Only what is queued. A submit that was just given its place, but has not used it yet, would be waited for
            // by `recv`; so it is refused.
            jobs.try_recv().ok()
        } else {
            jobs.blocking_recv()
        }
    }

    fn apply_all(&self, group: &Group) -> Vec<Result<(), Error>> {
        group.iter().map(|(batch, _)| self.apply(batch)).collect()
    }

    fn flush_and_answer(&self, group: Group, applied: Vec<Result<(), Error>>) {
        if group.is_empty() {
            return;
        }
        let size = group.len() as u64;
        let flushed = if applied.iter().any(Result::is_ok) { self.flush() } else { Ok(()) };

        let conflicts = applied.iter().filter(|result| matches!(result, Err(Error::Conflict { .. }))).count() as u64;
        self.counters.batches.fetch_add(size, Ordering::Relaxed);
        self.counters.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        self.counters.largest.fetch_max(size, Ordering::Relaxed);
        // A conflict too is answered only now, when the state that it was compared with is durable.
        for ((_, reply), result) in group.into_iter().zip(applied) {
            // The sender may have gone; its batch is committed all the same.
            let _ = reply.send(flushed.clone().and(result));
        }
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        if let Some(reason) = self.failed.borrow().clone() {
            return Err(Error::Stopped { reason });
        }
        let applied = self.store.apply(batch);
        // Whatever became of it: to read a key once more does no harm.
        self.note(batch);
        match &applied {
            // Nothing was written, and nobody else is touched by it.
            Ok(()) | Err(Error::Conflict { .. } | Error::Corrupt { .. }) => {}
            // The batch may be there or not, and later ones rest on what was decided with it.
            Err(e) => {
                tracing::error!(error = %e, "a write failed, the store takes no more of them");
                self.failed.send_replace(Some(format!("a write failed ({e})")));
            }
        }
        applied
    }

    fn note(&self, batch: &Batch) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| {
            let Some(keys) = listener.upgrade() else { return false };
            let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extend(batch.writes().iter().map(|write| write.key().to_vec()));
            true
        });
    }

    fn flush(&self) -> Result<(), Error> {
        let start = Instant::now();
        let flushed = self.store.flush();
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters.flush_micros.fetch_add(micros, Ordering::Relaxed);
        if let Err(e) = &flushed {
            tracing::error!(error = %e, "flush failed, the store takes no more writes");
            self.failed.send_replace(Some(format!("a flush failed ({e})")));
        }
        flushed
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
