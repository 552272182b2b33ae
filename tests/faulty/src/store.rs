//! The decorator: any store, with the faults of a plan.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use segue_coordinator::store::{Batch, Error, Row, Store};

use crate::plan::{Kind, Plan};

/// Set by a fault after which a coordinator may stop.
pub static FAILED: AtomicBool = AtomicBool::new(false);
/// Set when the process was told to end.
pub static STOPPING: AtomicBool = AtomicBool::new(false);

/// Longer than any write of a healthy disk, shorter than the leases of the tests.
const DELAY: Duration = Duration::from_millis(150);
/// Calls that are refused one after the other.
const BUSY: u32 = 3;

/// A store that fails as it is planned.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    busy: u32,
    full: bool,
    flush_fails: bool,
    read_fails: bool,
}

impl FaultyStore {
    /// Puts the faults of a plan over a store.
    pub fn new(inner: Arc<dyn Store>, plan: Plan) -> Self {
        let state = State { plan, busy: 0, full: false, flush_fails: false, read_fails: false };
        Self { inner, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_read(&self) -> Result<(), Error> {
        let mut state = self.state();
        state.refuse_for_the_moment("reading")?;
        if std::mem::take(&mut state.read_fails) {
            return Err(fault("reading", io::Error::other("injected: input/output error")));
        }
        Ok(())
    }

    /// Says what becomes of this write.
    fn due(&self) -> Result<Option<Kind>, Error> {
        let mut state = self.state();
        state.refuse_for_the_moment("writing")?;
        if state.full {
            return Err(fault("writing", io::ErrorKind::StorageFull.into()));
        }
        if STOPPING.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Some(kind) = state.plan.next() else { return Ok(None) };
        if !kind.passes() {
            FAILED.store(true, Ordering::SeqCst);
        }
        match kind {
            Kind::Full => state.full = true,
            Kind::Flush => state.flush_fails = true,
            Kind::Read => state.read_fails = true,
            Kind::Busy => state.busy = BUSY,
            Kind::Delay | Kind::Refused | Kind::Denied => {}
        }
        Ok(Some(kind))
    }
}

impl State {
    fn refuse_for_the_moment(&mut self, what: &str) -> Result<(), Error> {
        match self.busy.checked_sub(1) {
            Some(left) => {
                self.busy = left;
                Err(fault(what, io::ErrorKind::ResourceBusy.into()))
            }
            None => Ok(()),
        }
    }
}

fn fault(what: &str, source: io::Error) -> Error {
    Error::Io { what: format!("{what} the store"), source: Arc::new(source) }
}

impl Store for FaultyStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.may_read()?;
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.may_read()?;
        self.inner.scan(prefix, after, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.may_read()?;
        self.inner.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        match self.due()? {
            Some(Kind::Busy) => Err(fault("writing", io::ErrorKind::ResourceBusy.into())),
            Some(Kind::Refused) => Err(fault("writing", io::Error::other("injected: refused"))),
            Some(Kind::Full) => Err(fault("writing", io::ErrorKind::StorageFull.into())),
            Some(Kind::Denied) => {
                // On the disk for certain, or the next start would not find what its caller was told is not there.
                self.inner.apply(batch).and_then(|()| self.inner.flush())?;
                Err(fault("writing", io::ErrorKind::TimedOut.into()))
            }
            Some(Kind::Delay) => {
                std::thread::sleep(DELAY);
                self.inner.apply(batch)
            }
            Some(Kind::Flush | Kind::Read) | None => self.inner.apply(batch),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        if self.state().flush_fails {
            return Err(fault("syncing", io::Error::other("injected: input/output error")));
        }
        self.inner.flush()
    }

    fn check(&self) -> Result<(), Error> {
        self.inner.check()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use segue_coordinator::store::MemoryStore;

    use super::*;
    use crate::plan::Spec;

    fn store(spec: &str) -> (FaultyStore, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::open(&Spec::read(spec).unwrap(), &dir.path().join("state"), true).unwrap();
        (FaultyStore::new(Arc::new(MemoryStore::new()), plan), dir)
    }

    fn batch(key: &[u8]) -> Batch {
        let mut batch = Batch::new();
        batch.put_raw(key.to_vec(), b"v".to_vec());
        batch
    }

    /// Writes rows one after the other and gives the first error, with whether its row is there.
    fn first_error(store: &FaultyStore) -> (Error, bool) {
        (0..100_u8)
            .find_map(|key| {
                let error = store.apply(&batch(&[1, key])).and_then(|()| store.flush()).err()?;
                Some((error, store.inner.get(&[1, key]).unwrap().is_some()))
            })
            .unwrap()
    }

    #[test]
    fn what_is_denied_is_there_and_what_is_refused_is_not() {
        let (error, there) = first_error(&store("applied-then-error=1").0);
        assert!(there && error.to_string().contains("timed out"), "{error}");
        let (error, there) = first_error(&store("error=1").0);
        assert!(!there && error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn a_full_disk_stays_full_and_can_be_read() {
        let (store, _dir) = store("full=1");
        let (_, there) = first_error(&store);
        assert!(!there);
        assert!(store.apply(&batch(&[2])).is_err());
        assert!(store.get(&[1, 0]).is_ok());
    }

    #[test]
    fn a_refusal_for_the_moment_passes() {
        let (store, _dir) = store("busy=1");
        let (_, there) = first_error(&store);
        assert!(!there);
        let failed = (0..BUSY).filter(|_| store.get(&[1]).is_err()).count();
        assert_eq!((failed, store.get(&[1]).is_ok()), (BUSY as usize, true));
    }
}
