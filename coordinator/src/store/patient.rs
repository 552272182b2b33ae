//! A store that waits where another one says "not now".

use std::{
    io::ErrorKind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Batch, Error, Row, Store};

/// How long a call is repeated. A coordinator that stops and starts again is slower than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between the first two tries; doubled each time, up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(200);

/// Repeats calls that were refused for the moment, so that what passes costs time and not the coordinator. Every other
/// error is given on at once: after a write that failed nobody knows what the disk has.
#[derive(Debug)]
pub struct Patient(Arc<dyn Store>);

impl Patient {
    /// Waits for this store.
    #[must_use]
    pub const fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    fn repeat<T>(&self, what: &str, call: impl Fn(&dyn Store) -> Result<T, Error>) -> Result<T, Error> {
        let start = Instant::now();
        let mut pause = SHORTEST;
        loop {
            let error = match call(&*self.0) {
                Err(error) if is_passing(&error) && start.elapsed() < PATIENCE => error,
                ended => return ended,
            };
            tracing::debug!(%error, what, "the store asks to wait");
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// Says whether nothing was done, and the same call may succeed in a moment.
fn is_passing(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ResourceBusy)
}

impl Store for Patient {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.repeat("get", |store| store.get(key))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.repeat("scan", |store| store.scan(prefix, after, limit))
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.repeat("scan", |store| store.scan_back(prefix, before, limit))
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        self.repeat("apply", |store| store.apply(batch))
    }

    // No flush is repeated: the system may have dropped what it could not write, and the next one would succeed.
    fn flush(&self) -> Result<(), Error> {
        self.0.flush()
    }

    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::store::MemoryStore;

    /// Fails so many times before it does what it is asked to.
    #[derive(Debug)]
    struct Failing(MemoryStore, AtomicU32, ErrorKind);

    impl Failing {
        fn fail(&self) -> Result<(), Error> {
            match self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => Err(Error::Io { what: "x".to_owned(), source: Arc::new(io::Error::from(self.2)) }),
                Err(_) => Ok(()),
            }
        }
    }

    impl Store for Failing {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
            self.fail().and_then(|()| self.0.get(key))
        }
        fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
            self.fail().and_then(|()| self.0.scan(prefix, after, limit))
        }
        fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
            self.fail().and_then(|()| self.0.scan_back(prefix, before, limit))
        }
        fn apply(&self, batch: &Batch) -> Result<(), Error> {
            self.fail().and_then(|()| self.0.apply(batch))
        }
        fn flush(&self) -> Result<(), Error> {
            self.fail()
        }
    }

    fn failing(times: u32, kind: ErrorKind) -> Patient {
        Patient::new(Arc::new(Failing(MemoryStore::new(), AtomicU32::new(times), kind)))
    }

    #[test]
    fn what_passes_is_waited_for() {
        for kind in [ErrorKind::WouldBlock, ErrorKind::Interrupted, ErrorKind::ResourceBusy] {
            assert!(failing(4, kind).apply(&Batch::new()).is_ok());
            assert_eq!(failing(4, kind).get(b"k").unwrap(), None);
            assert_eq!(failing(4, kind).scan(b"", None, 1).unwrap(), []);
            assert_eq!(failing(4, kind).scan_back(b"", None, 1).unwrap(), []);
        }
    }

    #[test]
    fn what_does_not_pass_is_told_at_once_and_no_flush_is_repeated() {
        for kind in [ErrorKind::TimedOut, ErrorKind::StorageFull, ErrorKind::Other] {
            assert!(failing(1, kind).apply(&Batch::new()).is_err());
        }
        assert!(failing(1, ErrorKind::Interrupted).flush().is_err());
    }
}
