//! The store on disk: sled 0.34.7, with the cautions that its reports of corruption ask for.
//!
//! - One process, one tree, one writer: a lock file with our pid, then sled's own lock.
//! - Values above 4 KiB are kept in pieces (see [`super::pieces`]).
//! - A flush is sled's flush and then `fdatasync`: on Linux, sled only asks for `sync_file_range`, which neither writes
//!   the size of a grown file nor empties the cache of the disk.
//! - sled panics on some damaged files; a panic becomes an error, and the store takes no more writes.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek as _, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Batch, Row, Store, Write,
    durable::{make_dir, sync_dir, unusable, write_file},
    error::Error,
    keys::{Key, Meta, RESERVED, describe},
    memory::{self, Range},
    meta::{self, SCHEMA, SchemaFault},
    pieces::{self, Kept},
};

/// Pages that sled keeps in memory. What is active is in the core, so that the store is written far more than it is read;
/// sled's own default is a gigabyte.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// How long to wait for sled's own lock. We hold ours by then, so only threads of a store that this very process has
/// just closed can still have it.
const CLOSING: Duration = Duration::from_secs(10);

/// Holds our lock and the pid of its holder.
const LOCK_FILE: &str = "lock";

/// There once the schema has been written: an empty database beside it has lost its data, it is not new.
const MARK_FILE: &str = "segue-store";

/// A store in a directory of its own.
pub struct SledStore {
    // Fields are dropped in this order: the lock goes last.
    db: sled::Db,
    log: File,
    dir: PathBuf,
    /// Readers share it, a batch has it alone: a value in pieces is never read half old, half new.
    gate: RwLock<()>,
    broken: AtomicBool,
    _lock: File,
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sled prints every row.
        f.debug_struct("SledStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in a directory, and makes both where they are missing.
    ///
    /// # Errors
    /// [`Error::Directory`], [`Error::InUse`], [`Error::NewerSchema`], [`Error::NotAStore`], [`Error::Damaged`], and
    /// [`Error::Io`]; each names the directory.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        make_dir(dir)?;
        let lock = lock(dir)?;
        let marked = dir.join(MARK_FILE).exists();
        let db = open_sled(dir)?;
        let log = File::open(dir.join("db")).map_err(|e| Error::io("opening", &dir.join("db"), e))?;
        let store =
            Self { db, log, dir: dir.to_owned(), gate: RwLock::new(()), broken: AtomicBool::new(false), _lock: lock };
        store.check(marked)?;
        Ok(store)
    }

    /// Opens the store in a directory that must have one.
    ///
    /// # Errors
    /// Those of [`SledStore::open`], and [`Error::Directory`] if there is none.
    pub fn open_existing(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        if !dir.join("db").is_file() {
            return Err(Error::Directory {
                dir: dir.to_owned(),
                reason: "there is no store here".to_owned(),
                fix: "name the state directory of a coordinator with --state-dir",
            });
        }
        Self::open(dir)
    }

    /// Gives the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the size of the database files.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Damaged`].
    pub fn size_on_disk(&self) -> Result<u64, Error> {
        self.guarded(|| self.db.size_on_disk().map_err(|e| from_sled(&self.dir, e)))
    }

    fn check(&self, marked: bool) -> Result<(), Error> {
        let schema = Key::Meta(Meta::Schema).encode();
        let (empty, schema) = self.guarded(|| Ok((self.db.is_empty(), self.raw(&schema)?)))?;
        if schema.is_none() && marked {
            return Err(Error::Damaged { dir: self.dir.clone(), reason: "its records are gone".to_owned() });
        }
        if schema.is_none() && !empty {
            let reason = "the database is of another program".to_owned();
            return Err(Error::NotAStore { dir: self.dir.clone(), reason });
        }
        match meta::check_schema(self)? {
            Ok(()) if marked => Ok(()),
            Ok(()) => {
                sync_dir(&self.dir)?;
                write_file(&self.dir.join(MARK_FILE), format!("{SCHEMA}\n").as_bytes())
            }
            Err(SchemaFault::Newer(found)) => {
                Err(Error::NewerSchema { dir: self.dir.clone(), found, supported: SCHEMA })
            }
            Err(SchemaFault::NotOurs(reason)) => Err(Error::NotAStore { dir: self.dir.clone(), reason }),
        }
    }

    /// Turns a panic of sled into an error, after which nothing more is written.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            self.broken.store(true, Ordering::Release);
            Err(Error::Damaged { dir: self.dir.clone(), reason: "the database gave up on its own files".to_owned() })
        })
    }

    fn refuse_if_broken(&self) -> Result<(), Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Stopped { reason: format!("the store in {} is damaged", self.dir.display()) });
        }
        Ok(())
    }

    fn raw(&self, key: &[u8]) -> Result<Option<sled::IVec>, Error> {
        self.db.get(key).map_err(|e| from_sled(&self.dir, e))
    }

    fn load(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.raw(key)?.map(|raw| self.whole(key, &raw)).transpose()
    }

    /// Puts a value together from what is kept under its key.
    fn whole(&self, key: &[u8], raw: &[u8]) -> Result<Vec<u8>, Error> {
        let corrupt = |reason: &str| Error::corrupt(describe(key), reason);
        match pieces::parse(raw).map_err(corrupt)? {
            Kept::Whole(value) => Ok(value.to_vec()),
            Kept::InPieces { length, count } => {
                // No capacity taken on the word of a number that may be damaged.
                let mut value = Vec::new();
                for piece in 0..count {
                    let bytes =
                        self.raw(&pieces::key(key, piece))?.ok_or_else(|| corrupt("a piece of it is missing"))?;
                    value.extend_from_slice(&bytes);
                }
                if value.len() == length { Ok(value) } else { Err(corrupt("its pieces have the wrong length")) }
            }
        }
    }

    fn count_of_pieces(&self, key: &[u8]) -> Result<u32, Error> {
        Ok(match self.raw(key)?.as_deref().map(pieces::parse) {
            Some(Ok(Kept::InPieces { count, .. })) => count,
            // A head that cannot be read is overwritten all the same: that is how damage is mended.
            _ => 0,
        })
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        for precondition in batch.preconditions() {
            if !precondition.holds(self.load(precondition.key())?.as_deref()) {
                return Err(Error::Conflict { key: describe(precondition.key()) });
            }
        }
        let mut last: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for write in batch.writes() {
            match write {
                Write::Put(key, value) => last.insert(key, Some(value)),
                Write::Delete(key) => last.insert(key, None),
            };
        }
        let mut changes = sled::Batch::default();
        for (key, value) in last {
            if key.first().is_none_or(|&tag| tag >= RESERVED) {
                return Err(Error::corrupt(describe(key), "such a key cannot be written"));
            }
            let mut kept: u32 = 0;
            match value {
                Some(value) => {
                    let (own, parts) = pieces::split(value);
                    changes.insert(key, own);
                    for part in parts {
                        changes.insert(pieces::key(key, kept), part);
                        kept += 1;
                    }
                }
                None => changes.remove(key),
            }
            for piece in kept..self.count_of_pieces(key)? {
                changes.remove(pieces::key(key, piece));
            }
        }
        self.db.apply_batch(changes).map_err(|e| from_sled(&self.dir, e))
    }

    fn rows(&self, range: Option<Range>, back: bool, limit: usize) -> Result<Vec<Row>, Error> {
        let Some(range) = range else { return Ok(Vec::new()) };
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.guarded(|| {
            let mut found = self.db.range::<Vec<u8>, Range>(range);
            let mut rows = Vec::new();
            while rows.len() < limit {
                let Some(row) = (if back { found.next_back() } else { found.next() }) else { break };
                let (key, raw) = row.map_err(|e| from_sled(&self.dir, e))?;
                rows.push((key.to_vec(), self.whole(&key, &raw)?));
            }
            Ok(rows)
        })
    }
}

/// Narrows the range of a scan to records: pieces are not rows.
fn records(prefix: &[u8], after: Option<&[u8]>, before: Option<&[u8]>) -> Option<Range> {
    let top: &[u8] = &[RESERVED];
    memory::range(prefix, after, Some(before.map_or(top, |before| before.min(top))))
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.guarded(|| self.load(key))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.rows(records(prefix, after, None), false, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.rows(records(prefix, None, before), true, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        self.refuse_if_broken()?;
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.guarded(|| self.write(batch))
    }

    fn flush(&self) -> Result<(), Error> {
        self.refuse_if_broken()?;
        self.guarded(|| self.db.flush().map(drop).map_err(|e| from_sled(&self.dir, e)))?;
        self.log.sync_data().map_err(|e| Error::io("syncing", &self.dir.join("db"), e))
    }
}

/// Takes the lock of a directory and leaves our pid in it.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| unusable(dir, &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // A pid is short; whatever else is in the file is not read.
            let pid =
                Read::by_ref(&mut file).take(16).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(Error::InUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(e)) => return Err(Error::io("locking", &path, e)),
    }
    let sign = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    sign(&mut file).map_err(|e| unusable(dir, &e))?;
    Ok(file)
}

fn open_sled(dir: &Path) -> Result<sled::Db, Error> {
    // We flush ourselves, so sled's flush thread is off: never two flushes at once. Compression would need its feature
    // and buys little on small records. `mode` is left alone, because 0.34.7 reads it nowhere.
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let since = Instant::now();
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open())).unwrap_or_else(|_| {
            Err(sled::Error::ReportableBug("the database gave up on its own files while opening them".to_owned()))
        });
        match opened {
            Ok(db) => return Ok(db),
            Err(e) if is_lock(&e) && since.elapsed() < CLOSING => thread::sleep(Duration::from_millis(10)),
            Err(e) if is_lock(&e) => return Err(Error::InUse { dir: dir.to_owned(), pid: None }),
            Err(sled::Error::Unsupported(reason)) => return Err(Error::NotAStore { dir: dir.to_owned(), reason }),
            Err(e) => return Err(from_sled(dir, e)),
        }
    }
}

fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

fn from_sled(dir: &Path, error: sled::Error) -> Error {
    match error {
        sled::Error::Io(e) => Error::io("using the store in", dir, plain(e)),
        sled::Error::Corruption { .. } => {
            Error::Damaged { dir: dir.to_owned(), reason: "a checksum in its files does not match".to_owned() }
        }
        other => Error::Damaged { dir: dir.to_owned(), reason: other.to_string() },
    }
}

/// Gives the words of the system back to an error of a disk that says no: sled repeats it as what a debugger would show.
fn plain(error: std::io::Error) -> std::io::Error {
    use std::io::{Error, ErrorKind};
    match error.kind() {
        kind @ ErrorKind::StorageFull => Error::new(kind, "No space left on device"),
        kind @ ErrorKind::ReadOnlyFilesystem => Error::new(kind, "Read-only file system"),
        _ => error,
    }
}

#[cfg(test)]
#[path = "sled_tests.rs"]
mod tests;
