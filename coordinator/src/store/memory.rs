//! A store in memory, for tests and for runs that nobody wants to keep.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Batch, Row, Store, Write,
    error::Error,
    keys::{describe, end_of},
};

/// Keeps everything in a sorted map. A flush does nothing: there is nothing more durable to reach.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        // Nothing that can panic happens under the lock, so the map is whole even if a thread died.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two ends of a range of keys.
pub(crate) type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The range of keys with a prefix, cut at one end; none if it is empty (`BTreeMap::range` would panic).
pub(crate) fn range(prefix: &[u8], after: Option<&[u8]>, before: Option<&[u8]>) -> Option<Range> {
    let low = match after {
        Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
        _ => Bound::Included(prefix.to_vec()),
    };
    let end = end_of(prefix);
    let high = match (before, end) {
        (Some(before), Some(end)) if before < end.as_slice() => Bound::Excluded(before.to_vec()),
        (_, Some(end)) => Bound::Excluded(end),
        (Some(before), None) => Bound::Excluded(before.to_vec()),
        (None, None) => Bound::Unbounded,
    };
    let empty = match (&low, &high) {
        (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high)) => low >= high,
        _ => false,
    };
    (!empty).then_some((low, high))
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> Row {
    (key.clone(), value.clone())
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.rows().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        let Some(range) = range(prefix, after, None) else { return Ok(Vec::new()) };
        Ok(self.rows().range(range).take(limit).map(owned).collect())
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        let Some(range) = range(prefix, None, before) else { return Ok(Vec::new()) };
        Ok(self.rows().range(range).rev().take(limit).map(owned).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        let mut rows = self.rows();
        for precondition in batch.preconditions() {
            if !precondition.holds(rows.get(precondition.key()).map(Vec::as_slice)) {
                return Err(Error::Conflict { key: describe(precondition.key()) });
            }
        }
        for write in batch.writes() {
            match write {
                Write::Put(key, value) => rows.insert(key.clone(), value.clone()),
                Write::Delete(key) => rows.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
