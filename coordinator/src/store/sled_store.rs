//! The store on disk: sled 0.34.7, with the cautions that its reports of corruption ask for.
//!
//! - One process, one tree, one writer: a lock file with our pid, then sled's own lock.
//! - Values above 4 KiB are kept in pieces (see [`super::pieces`]).
//! - A flush is sled's flush and then `fdatasync`: on Linux, sled only asks for `sync_file_range`, which neither writes
//!   the size of a grown file nor empties the cache of the disk.
//! - sled panics on some damaged files; a panic becomes an error, and the store takes no more writes.
//! - sled passes over damage in its log at a start; each batch carries a seal (see [`super::seal`]), by which what is lost
//!   or old is noticed.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek as _, Write as _},
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Once, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Batch, Row, Store, Write,
    durable::{make_dir, sync_dir, unusable},
    error::Error,
    keys::{Key, Meta, RESERVED, describe},
    mark::{self, Mark, Said},
    memory::{self, Range},
    meta::{self, SCHEMA, SchemaFault},
    pieces::{self, Kept},
    seal::{self, Check, SEAL_TAG, Seal, Tally},
};

/// Pages that sled keeps in memory. What is active is in the core, so that the store is written far more than it is read;
/// sled's own default is a gigabyte.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// How long to wait for sled's own lock. We hold ours by then, so only threads of a store that this very process has
/// just closed can still have it.
const CLOSING: Duration = Duration::from_secs(10);

/// Holds our lock and the pid of its holder.
const LOCK_FILE: &str = "lock";

/// How long a start waits for all rows to be read and compared with the seal. What is left then is read beside the work:
/// a coordinator that starts late loses its leases.
const READING: Duration = Duration::from_millis(250);

/// Rows that are read under the gate at a time: writes wait for them.
const STEP: usize = 256;

/// A store in a directory of its own.
pub struct SledStore {
    // Fields are dropped in this order: the lock goes last.
    db: Sealed,
    log: File,
    mark: Option<Mark>,
    /// It was opened for what can still be read of it.
    only_read: bool,
    rest: Option<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
    _lock: File,
}

/// The database and what is known of it. Clones share it.
#[derive(Clone)]
struct Sealed {
    db: sled::Db,
    dir: PathBuf,
    /// Readers share it, a batch has it alone: a value in pieces is never read half old, half new.
    gate: Arc<RwLock<Known>>,
    /// Why nothing is written any more.
    broken: Arc<OnceLock<String>>,
}

/// What is known of the rows.
#[derive(Debug, Default)]
struct Known {
    /// As the last batch left them.
    seal: Seal,
    /// While they are read again.
    check: Option<Check>,
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sled prints every row.
        f.debug_struct("SledStore").field("dir", &self.db.dir).finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in a directory, and makes both where they are missing.
    ///
    /// # Errors
    /// [`Error::Directory`], [`Error::InUse`], [`Error::NewerSchema`], [`Error::NotAStore`], [`Error::Damaged`], and
    /// [`Error::Io`]; each names the directory.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_within(dir.as_ref(), READING)
    }

    /// Opens the store in a directory that must have one.
    ///
    /// # Errors
    /// Those of [`SledStore::open`], and [`Error::Directory`] if there is none.
    pub fn open_existing(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        must_exist(dir)?;
        Self::open(dir)
    }

    /// Opens a store for what can still be read of it. One that is damaged takes no writes, and [`Store::check`] says what
    /// is wrong.
    ///
    /// # Errors
    /// Those of [`SledStore::open_existing`]; [`Error::Damaged`] only where nothing can be read.
    pub fn open_to_look(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        must_exist(dir)?;
        let (mut store, said) = Self::on_disk(dir)?;
        match store.accept(said, Duration::MAX) {
            Ok(()) => {}
            Err(Error::Damaged { reason, .. }) => {
                store.only_read = true;
                let _ = store.db.broken.set(reason);
            }
            Err(e) => return Err(e),
        }
        Ok(store)
    }

    fn open_within(dir: &Path, patience: Duration) -> Result<Self, Error> {
        let (mut store, said) = Self::on_disk(dir)?;
        store.accept(said, patience)?;
        Ok(store)
    }

    /// Opens the files, whatever is in them.
    fn on_disk(dir: &Path) -> Result<(Self, Said), Error> {
        make_dir(dir)?;
        quiet_panics();
        let lock = lock(dir)?;
        let said = mark::read(dir)?;
        let db = open_sled(dir, said != Said::Nothing)?;
        let log = File::open(dir.join("db")).map_err(|e| Error::io("opening", &dir.join("db"), e))?;
        let db = Sealed { db, dir: dir.to_owned(), gate: Arc::default(), broken: Arc::default() };
        let store = Self { db, log, mark: None, only_read: false, rest: None, closing: Arc::default(), _lock: lock };
        Ok((store, said))
    }

    /// Gives the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.db.dir
    }

    /// Gives the size of the database files.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Damaged`].
    pub fn size_on_disk(&self) -> Result<u64, Error> {
        self.db.guarded(|| self.db.db.size_on_disk().map_err(|e| from_sled(&self.db.dir, e)))
    }

    /// Accepts what is in the files, or says why not.
    fn accept(&mut self, said: Said, patience: Duration) -> Result<(), Error> {
        let dir = self.db.dir.clone();
        let schema = Key::Meta(Meta::Schema).encode();
        let found = self.db.guarded(|| {
            let seal = self.db.raw(&seal::KEY)?.map(|raw| Seal::decode(&raw));
            Ok((self.db.db.is_empty(), self.db.load(&schema)?, seal))
        });
        let (empty, schema, seal) = found?;
        if schema.is_none() && said != Said::Nothing {
            return Err(Error::damaged(&dir, "its records are gone"));
        }
        if schema.is_none() && !empty {
            let reason = "the database is of another program".to_owned();
            return Err(Error::NotAStore { dir, reason });
        }
        let version = schema.as_deref().map(meta::parse_schema).transpose();
        match version {
            Ok(Some(found)) if found > SCHEMA => {
                return Err(Error::NewerSchema { dir, found, supported: SCHEMA });
            }
            _ => {}
        }
        // Before anything is made of what the rows say.
        let rest = match seal {
            Some(seal) => self.compare(seal, said, patience)?,
            // What the first layout did not know cannot be missed.
            None if matches!(version, Ok(None | Some(1))) && !matches!(said, Said::Flushed(_)) => {
                self.db.count()?;
                false
            }
            None => return Err(Error::damaged(&dir, "the seal of its rows is gone")),
        };
        match meta::check_schema(self)? {
            Ok(()) => {}
            Err(SchemaFault::Newer(found)) => return Err(Error::NewerSchema { dir, found, supported: SCHEMA }),
            Err(SchemaFault::NotOurs(reason)) => return Err(Error::NotAStore { dir, reason }),
        }
        // A mark must never be ahead of what the disk has, and what was read here may be in its cache alone.
        self.flush()?;
        sync_dir(&dir)?;
        self.mark = Some(Mark::make(&dir, self.db.known().seal.batches)?);
        if rest {
            self.read_the_rest()?;
        }
        Ok(())
    }

    /// Compares the rows with their seal, for as long as there is patience. Says whether some are left.
    fn compare(&self, seal: Option<Seal>, said: Said, patience: Duration) -> Result<bool, Error> {
        let damaged = |reason: String| Err(Error::damaged(&self.db.dir, reason));
        let Some(seal) = seal else { return damaged("the seal of its rows cannot be read".to_owned()) };
        match said {
            Said::Flushed(flushed) if flushed > seal.batches => {
                let lost = flushed - seal.batches;
                return damaged(format!("the last {lost} of {flushed} batches that were on the disk are lost"));
            }
            Said::Flushed(_) | Said::First => {}
            // No reason to refuse: the rows are compared with their seal all the same.
            Said::Nothing | Said::Unreadable => {
                let file = self.db.dir.join(mark::FILE);
                tracing::warn!(file = %file.display(), "the mark of the store is missing or damaged, and is made anew");
            }
        }
        self.db.gate.write().unwrap_or_else(PoisonError::into_inner).seal = seal;
        self.db.begin_check();
        let since = Instant::now();
        while since.elapsed() < patience {
            if self.db.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on comparing beside the work. Damage that it finds ends the writing.
    fn read_the_rest(&mut self) -> Result<(), Error> {
        let (db, closing) = (self.db.clone(), Arc::clone(&self.closing));
        let reading = move || {
            while !closing.load(Ordering::Acquire) {
                match db.step() {
                    Ok(false) => thread::yield_now(),
                    Ok(true) => break,
                    Err(e) => {
                        tracing::error!(error = %e, "the rows of the store could not be compared with their seal");
                        break;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("segue-store-check".to_owned()).spawn(reading);
        self.rest = Some(thread.map_err(|e| Error::Stopped { reason: format!("a thread does not start ({e})") })?);
        Ok(())
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        if let Some(rest) = self.rest.take() {
            // A panic in it was caught and told.
            let _ = rest.join();
        }
    }
}

impl Sealed {
    /// Turns a panic of sled into an error, after which nothing more is written.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            let reason = "the database gave up on its own files";
            let _ = self.broken.set(reason.to_owned());
            Err(Error::damaged(&self.dir, reason))
        })
    }

    fn refuse_if_broken(&self) -> Result<(), Error> {
        self.broken.get().map_or(Ok(()), |reason| Err(Error::damaged(&self.dir, reason)))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the rows as they are: nobody has counted them before.
    fn count(&self) -> Result<(), Error> {
        let mut tally = Tally::default();
        self.guarded(|| {
            for row in self.db.iter() {
                let (key, value) = row.map_err(|e| from_sled(&self.dir, e))?;
                if key.first() != Some(&SEAL_TAG) {
                    tally.add(&key, &value);
                }
            }
            Ok(())
        })?;
        self.gate.write().unwrap_or_else(PoisonError::into_inner).seal = Seal { batches: 0, tally };
        Ok(())
    }

    fn begin_check(&self) {
        self.gate.write().unwrap_or_else(PoisonError::into_inner).check = Some(Check::default());
    }

    /// Reads some more rows. Says whether all have been read, and were those of the seal. If they were not, nothing more is
    /// written.
    fn step(&self) -> Result<bool, Error> {
        let mut known = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let Some(mut check) = known.check.take() else { return Ok(true) };
        let read = self.guarded(|| self.read_on(&mut check));
        let compared = match read {
            Ok(true) => compared(check.tally, known.seal.tally).map_err(|reason| Error::damaged(&self.dir, reason)),
            Ok(false) => {
                known.check = Some(check);
                return Ok(false);
            }
            Err(e) => Err(e),
        };
        if let Err(Error::Damaged { reason, .. }) = &compared {
            let _ = self.broken.set(reason.clone());
        }
        compared.map(|()| true)
    }

    fn read_on(&self, check: &mut Check) -> Result<bool, Error> {
        let after = check.upto.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut read = 0;
        for row in self.db.range::<Vec<u8>, Range>((after, Bound::Unbounded)).take(STEP) {
            let (key, value) = row.map_err(|e| from_sled(&self.dir, e))?;
            if key.first() != Some(&SEAL_TAG) {
                check.tally.add(&key, &value);
            }
            read += 1;
            if read == STEP {
                check.upto = Some(key.to_vec());
            }
        }
        Ok(read < STEP)
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

    /// Makes the changes of a batch. With it goes the seal of what is there after it.
    fn write(&self, batch: &Batch, known: &mut Known) -> Result<(), Error> {
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
        let mut changes = Changes { seal: known.seal, check: known.check.clone(), batch: sled::Batch::default() };
        for (key, value) in last {
            if key.first().is_none_or(|&tag| tag >= RESERVED) {
                return Err(Error::corrupt(describe(key), "such a key cannot be written"));
            }
            let old = self.raw(key)?;
            let count_before = match old.as_deref().map(pieces::parse) {
                Some(Ok(Kept::InPieces { count, .. })) => count,
                // A head that cannot be read is overwritten all the same: that is how damage is mended.
                _ => 0,
            };
            let mut kept: u32 = 0;
            match value {
                Some(value) => {
                    let (own, parts) = pieces::split(value);
                    changes.make(key.to_vec(), old.as_deref(), Some(&own));
                    for part in parts {
                        let key = pieces::key(key, kept);
                        let old = self.raw(&key)?;
                        changes.make(key, old.as_deref(), Some(part));
                        kept += 1;
                    }
                }
                None => changes.make(key.to_vec(), old.as_deref(), None),
            }
            for piece in kept..count_before {
                let key = pieces::key(key, piece);
                let old = self.raw(&key)?;
                changes.make(key, old.as_deref(), None);
            }
        }
        let Changes { mut seal, check, batch: mut changes } = changes;
        if seal.batches == 0 {
            seal::company().for_each(|key| changes.insert(&key, &[]));
        }
        seal.batches += 1;
        changes.insert(&seal::KEY, seal.encode());
        self.db.apply_batch(changes).map_err(|e| from_sled(&self.dir, e))?;
        *known = Known { seal, check };
        Ok(())
    }

    fn rows(&self, range: Option<Range>, back: bool, limit: usize) -> Result<Vec<Row>, Error> {
        let Some(range) = range else { return Ok(Vec::new()) };
        let _shared = self.known();
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

/// Says how rows differ from those that were sealed.
fn compared(found: Tally, sealed: Tally) -> Result<(), String> {
    if found == sealed {
        return Ok(());
    }
    Err(if found.rows == sealed.rows {
        format!("of its {} rows some are not as they were written last", sealed.rows)
    } else {
        format!("it has {} rows, and there were {}", found.rows, sealed.rows)
    })
}

/// Changes of rows, and what they make of the seal.
struct Changes {
    seal: Seal,
    check: Option<Check>,
    batch: sled::Batch,
}

impl Changes {
    fn make(&mut self, key: Vec<u8>, old: Option<&[u8]>, new: Option<&[u8]>) {
        self.seal.tally.change(&key, old, new);
        if let Some(check) = self.check.as_mut().filter(|check| check.has_read(&key)) {
            check.tally.change(&key, old, new);
        }
        match new {
            Some(new) => self.batch.insert(key, new),
            None => self.batch.remove(key),
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let _shared = self.db.known();
        self.db.guarded(|| self.db.load(key))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.db.rows(records(prefix, after, None), false, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.db.rows(records(prefix, None, before), true, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        self.db.refuse_if_broken()?;
        let mut alone = self.db.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.db.guarded(|| self.db.write(batch, &mut alone))
    }

    fn flush(&self) -> Result<(), Error> {
        if self.only_read {
            return Ok(());
        }
        self.db.refuse_if_broken()?;
        let batches = self.db.known().seal.batches;
        self.db.guarded(|| self.db.db.flush().map(drop).map_err(|e| from_sled(&self.db.dir, e)))?;
        self.log.sync_data().map_err(|e| Error::io("syncing", &self.db.dir.join("db"), e))?;
        if let Some(mark) = &self.mark {
            mark.note(batches);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        self.db.refuse_if_broken()?;
        // What a start has left, and then everything once more.
        while !self.db.step()? {}
        self.db.begin_check();
        while !self.db.step()? {}
        // Somebody else may have read the last of them.
        self.db.refuse_if_broken()
    }
}

/// Keeps panics of sled off the screen: they become errors, which say what to do. Those of everybody else are shown as ever.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.location().is_some_and(|place| place.file().contains("/sled-0.34")) {
                tracing::debug!(%panic, "the database gave up");
            } else {
                usual(panic);
            }
        }));
    });
}

fn must_exist(dir: &Path) -> Result<(), Error> {
    // A mark without a database is a store that has lost it.
    if dir.join("db").is_file() || dir.join(mark::FILE).is_file() {
        return Ok(());
    }
    Err(Error::Directory {
        dir: dir.to_owned(),
        reason: "there is no store here".to_owned(),
        fix: "name the state directory of a coordinator with --state-dir",
    })
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

fn open_sled(dir: &Path, marked: bool) -> Result<sled::Db, Error> {
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
            // The settings beside our own database were changed by nobody.
            Err(sled::Error::Unsupported(reason)) if marked => return Err(Error::damaged(dir, reason)),
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
        sled::Error::Corruption { .. } => Error::damaged(dir, "a checksum in its files does not match"),
        other => Error::damaged(dir, other),
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
