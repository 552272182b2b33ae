//! A disk that can be taken away at any moment, and a store on it that fails as it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use segue_coordinator::store::{Batch, Error, MemoryStore, Row, Store};

/// What the store does at a chosen write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written, and the caller is told so.
    Refused,
    /// It is written, and the caller is told that it is not.
    Denied,
    /// It is written; the flush after it fails. Whether it is there after a restart is left to the disk.
    FlushFails,
    /// From then on nothing is written any more; everything can be read.
    DiskFull,
    /// The write takes its time.
    Slow,
    /// One read fails, and no write.
    ReadFails,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Denied, Self::FlushFails, Self::DiskFull, Self::Slow, Self::ReadFails];
}

/// What has been written so far, in order, and how much of it a flush has covered.
#[derive(Debug, Default)]
struct Platters {
    batches: Vec<Batch>,
    flushed: usize,
    /// Blobs that were there when each batch was written, by path under their root.
    blobs: Vec<BTreeSet<PathBuf>>,
    bytes: BTreeMap<PathBuf, Vec<u8>>,
}

/// The disk: it outlives the stores on it.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Platters>>);

impl Disk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a disk that holds the first `batches` of this one.
    pub fn prefix(&self, batches: usize) -> Self {
        let all = self.0.lock().unwrap();
        let batches = all.batches[..batches].to_vec();
        let flushed = batches.len();
        Self(Arc::new(Mutex::new(Platters { batches, flushed, ..Platters::default() })))
    }

    /// Loses power: of what was written after the last flush, any part from the front may be there or not.
    pub fn lose_power(&self, choice: u64) {
        let mut all = self.0.lock().unwrap();
        let unflushed = all.batches.len() - all.flushed;
        let kept = all.flushed + usize::try_from(choice).unwrap_or(0) % (unflushed + 1);
        all.batches.truncate(kept);
        all.flushed = kept;
    }

    pub fn written(&self) -> usize {
        self.0.lock().unwrap().batches.len()
    }

    /// Gives every row that is there.
    pub fn rows(&self) -> Vec<Row> {
        self.open().scan(&[], None, usize::MAX).unwrap()
    }

    fn open(&self) -> MemoryStore {
        let rows = MemoryStore::new();
        for batch in &self.0.lock().unwrap().batches {
            rows.apply(batch).expect("what was applied once applies again");
        }
        rows
    }

    /// Puts the blobs of a moment under a root: those that were there when the last of so many batches was written.
    pub fn restore_blobs(&self, batches: usize, root: &Path) {
        let all = self.0.lock().unwrap();
        let Some(there) = batches.checked_sub(1).and_then(|last| all.blobs.get(last)) else { return };
        for path in there {
            let target = root.join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, &all.bytes[path]).unwrap();
        }
    }

    fn write(&self, batch: &Batch, blobs: Option<&Path>) {
        let mut all = self.0.lock().unwrap();
        all.batches.push(batch.clone());
        let Some(root) = blobs else { return };
        let mut there = BTreeSet::new();
        for path in files(&root.join("blobs")) {
            // One that is gone meanwhile is not there.
            let Ok(name) = path.strip_prefix(root).map(Path::to_owned) else { continue };
            if !all.bytes.contains_key(&name) {
                let Ok(bytes) = fs::read(&path) else { continue };
                all.bytes.insert(name.clone(), bytes);
            }
            there.insert(name);
        }
        all.blobs.push(there);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] }).collect()
}

/// A store on a disk.
#[derive(Debug)]
pub struct DiskStore {
    rows: MemoryStore,
    disk: Disk,
    /// Where the blobs are that are remembered with each write.
    blobs: Option<PathBuf>,
    plan: Option<(usize, Fault)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    writes: usize,
    /// Whether the fault has happened: without it the test tests nothing.
    hit: bool,
    full: bool,
    flush_fails: bool,
    read_fails: bool,
}

impl DiskStore {
    pub fn open(disk: &Disk) -> Self {
        Self { rows: disk.open(), disk: disk.clone(), blobs: None, plan: None, state: Mutex::default() }
    }

    /// Remembers the blobs under this root with each write.
    pub fn with_blobs(mut self, root: PathBuf) -> Self {
        self.blobs = Some(root);
        self
    }

    /// Has a fault happen at the nth write, counted from 0.
    pub fn failing(mut self, at: usize, fault: Fault) -> Self {
        self.plan = Some((at, fault));
        self
    }

    pub fn has_failed(&self) -> bool {
        self.state.lock().unwrap().hit
    }

    /// Fails a read once, when it is its turn.
    fn read(&self) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap();
        if std::mem::take(&mut state.read_fails) {
            return Err(io_error("reading", io::Error::other("input/output error")));
        }
        Ok(())
    }

    fn keep(&self, batch: &Batch) -> Result<(), Error> {
        self.rows.apply(batch)?;
        self.disk.write(batch, self.blobs.as_deref());
        Ok(())
    }
}

fn io_error(what: &str, source: io::Error) -> Error {
    Error::Io { what: format!("{what} the store"), source: Arc::new(source) }
}

fn full() -> Error {
    io_error("writing", io::Error::from(io::ErrorKind::StorageFull))
}

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.read()?;
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.read()?;
        self.rows.scan(prefix, after, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.read()?;
        self.rows.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            if state.full {
                return Err(full());
            }
            let due = self.plan.filter(|(at, _)| *at == state.writes).map(|(_, fault)| fault);
            state.writes += 1;
            state.hit |= due.is_some();
            match due {
                Some(Fault::DiskFull) => state.full = true,
                Some(Fault::FlushFails) => state.flush_fails = true,
                Some(Fault::ReadFails) => state.read_fails = true,
                _ => {}
            }
            due
        };
        match fault {
            Some(Fault::Refused) => Err(io_error("writing", io::Error::other("refused"))),
            Some(Fault::DiskFull) => Err(full()),
            Some(Fault::Denied) => {
                self.keep(batch)?;
                Err(io_error("writing", io::Error::from(io::ErrorKind::TimedOut)))
            }
            Some(Fault::Slow) => {
                std::thread::sleep(Duration::from_millis(150));
                self.keep(batch)
            }
            _ => self.keep(batch),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        if self.state.lock().unwrap().flush_fails {
            return Err(io_error("syncing", io::Error::other("input/output error")));
        }
        let mut all = self.disk.0.lock().unwrap();
        all.flushed = all.batches.len();
        Ok(())
    }
}
