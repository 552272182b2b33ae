//! The store of the simulation: a page cache over a disk. What was not flushed may be lost in a crash.
//!
//! It promises what sled promises, and no more: a batch is applied whole or not at all; after a flush, everything that was
//! applied before it is on the disk; what was applied since is there up to some batch, and nothing after it. A batch whose
//! tail was torn fails its checksum and disappears whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_coordinator::store::{Batch, Error, MemoryStore, Row, Store, Write};

use crate::{chance::Chance, say, trace::Trace};

/// The disk itself, which outlives the coordinators that write on it.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    /// What is on the disk for good.
    durable: Arc<MemoryStore>,
    /// What a process sees: with what is in the page cache.
    seen: Arc<MemoryStore>,
    /// Applied and not flushed, oldest first.
    cached: Vec<Batch>,
    /// Number of the process that holds the store; older ones reach nothing.
    holder: u64,
    /// The next flush fails.
    fail_flush: bool,
    /// Flushes say that they are done, and do nothing: a deliberate defect.
    lies: bool,
    /// A crash keeps a part of the first batch that it loses: a deliberate defect.
    tears: bool,
    /// What a crash loses, by number of batches.
    lost: u64,
    chance: Chance,
    trace: Trace,
}

/// The store as one process of the coordinator holds it.
#[derive(Debug)]
pub struct Mount {
    disk: Disk,
    seen: Arc<MemoryStore>,
    holder: u64,
}

impl Disk {
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            durable: Arc::default(),
            seen: Arc::default(),
            cached: Vec::new(),
            holder: 0,
            fail_flush: false,
            lies: false,
            tears: false,
            lost: 0,
            chance: Chance::of(seed, "disk"),
            trace,
        })))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the store for a new process.
    pub fn mount(&self) -> Mount {
        let mut platter = self.platter();
        platter.holder += 1;
        Mount { disk: self.clone(), seen: Arc::clone(&platter.seen), holder: platter.holder }
    }

    /// The process that holds the store dies, by a signal or with its machine: sled keeps what is not flushed in the memory
    /// of its process, so that it goes either way, from some batch on.
    pub fn crash(&self) {
        let mut platter = self.platter();
        platter.holder += 1;
        platter.fail_flush = false;
        let all = platter.cached.len();
        let reached = platter.chance.below(all + 1);
        let cached = std::mem::take(&mut platter.cached);
        for batch in cached.iter().take(reached) {
            // Its preconditions held when it was applied, over the very same rows.
            let _ = platter.durable.apply(batch);
        }
        if let Some(torn) = cached.get(reached).filter(|_| platter.tears) {
            let mut part = Batch::new();
            for write in &torn.writes()[..torn.writes().len() / 2] {
                match write {
                    Write::Put(key, value) => part.put_raw(key.clone(), value.clone()),
                    Write::Delete(key) => part.delete_raw(key.clone()),
                }
            }
            let _ = platter.durable.apply(&part);
        }
        platter.lost += (all - reached) as u64;
        say!(platter.trace, "disk", "crash: {reached} of {all} unflushed batches have reached the disk");
        platter.seen = Arc::new(copy(&platter.durable));
    }

    /// Gives what is on the disk for good, to look at.
    pub fn durable(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.platter().durable)
    }

    pub fn fail_next_flush(&self) {
        self.platter().fail_flush = true;
    }

    /// Takes back a failure that has not come.
    pub fn heal(&self) {
        self.platter().fail_flush = false;
    }

    /// Makes flushes do nothing and say that they are done.
    pub fn lie(&self) {
        self.platter().lies = true;
    }

    /// Makes a crash tear a batch.
    pub fn tear(&self) {
        self.platter().tears = true;
    }

    pub fn lost(&self) -> u64 {
        self.platter().lost
    }
}

/// Copies every row.
fn copy(from: &MemoryStore) -> MemoryStore {
    let to = MemoryStore::new();
    let mut batch = Batch::new();
    for (key, value) in from.scan(&[], None, usize::MAX).unwrap_or_default() {
        batch.put_raw(key, value);
    }
    // A batch without preconditions is never refused.
    let _ = to.apply(&batch);
    to
}

impl Mount {
    /// Gives the disk, as long as this process is the one that holds it.
    fn held(&self) -> Result<MutexGuard<'_, Platter>, Error> {
        let platter = self.disk.platter();
        if platter.holder == self.holder {
            Ok(platter)
        } else {
            Err(Error::Stopped { reason: "this process is dead".to_owned() })
        }
    }
}

impl Store for Mount {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.seen.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.seen.scan(prefix, after, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.seen.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        let mut platter = self.held()?;
        self.seen.apply(batch)?;
        platter.cached.push(batch.clone());
        let bytes: usize = batch.writes().iter().map(|write| write.key().len()).sum();
        platter.trace.count(&[batch.writes().len() as u64, bytes as u64]);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let mut platter = self.held()?;
        if std::mem::take(&mut platter.fail_flush) {
            say!(platter.trace, "disk", "a flush fails");
            return Err(Error::Stopped { reason: "the disk answers with an error".to_owned() });
        }
        if platter.lies {
            return Ok(());
        }
        for batch in std::mem::take(&mut platter.cached) {
            platter.durable.apply(&batch)?;
        }
        Ok(())
    }
}
