//! What the coordinator remembers: one ordered map of bytes, written in atomic batches by one thread.
//!
//! [`Store`] is the port. [`SledStore`] keeps it on disk, [`MemoryStore`] in memory; both pass the same tests.
//! [`keys`] and [`codec`] say what the bytes mean, [`Committer`] turns many waiting batches into one flush.

pub mod backup;
pub mod batch;
pub mod codec;
pub mod commit;
pub(crate) mod durable;
pub mod error;
mod export;
mod gather;
pub mod keys;
mod mark;
pub mod memory;
pub mod meta;
pub mod patient;
mod pieces;
pub(crate) mod references;
mod seal;
pub mod sled_store;
pub mod state_dir;
pub mod verify;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt::Debug;

pub use backup::{BackupReport, RestoreReport, Source, backup, restore};
pub use batch::{Batch, Precondition, Write};
pub use commit::{CommitStats, Committer, Pending, Written};
pub use error::{Code, Error};
pub use keys::Key;
pub use memory::MemoryStore;
pub use patient::Patient;
pub use sled_store::SledStore;
pub use state_dir::StateDir;
pub use verify::{VerifyReport, verify, verify_dir};

/// A key and its value, as bytes.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes with atomic, conditional batches.
///
/// Calls block. Reads may come from any thread; writes are meant to go through one [`Committer`].
///
/// An [`Error::Io`] of kind `WouldBlock`, `Interrupted` or `ResourceBusy` is a promise: nothing was done, and the same call
/// may succeed in a moment ([`Patient`] makes it again). After any other error a write may be there or not.
pub trait Store: Debug + Send + Sync + 'static {
    /// Gives the value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Gives up to `limit` rows whose key starts with `prefix`, in ascending order. With `after`, only keys strictly
    /// greater than it: the last key of one page is the `after` of the next.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error>;

    /// Like [`Store::scan`] in descending order. With `before`, only keys strictly smaller than it.
    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error>;

    /// Applies a batch whole or not at all. If a precondition does not hold, gives [`Error::Conflict`] and writes
    /// nothing. The batch is visible at once, but durable only after the next [`Store::flush`].
    fn apply(&self, batch: &Batch) -> Result<(), Error>;

    /// Makes every applied batch durable.
    fn flush(&self) -> Result<(), Error>;

    /// Reads every row once and compares all of them with what the store knows of them, while it is used. For a store that
    /// knows nothing of its rows, there is nothing to compare.
    ///
    /// # Errors
    /// [`Error::Damaged`] if rows are lost, or not as they were written last.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Rows of one page of [`visit`]: enough to make a call worth it, few enough to keep memory small.
const PAGE_ROWS: usize = 256;

/// Shows every row under a prefix to `see`, in ascending order, in pages.
///
/// # Errors
/// Those of the store, and the first one that `see` gives.
pub fn visit(
    store: &dyn Store,
    prefix: &[u8],
    mut see: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(prefix, after.as_deref(), PAGE_ROWS)?;
        let full = rows.len() == PAGE_ROWS;
        after = rows.last().map(|(key, _)| key.clone());
        for (key, value) in rows {
            see(key, value)?;
        }
        if !full {
            return Ok(());
        }
    }
}

/// Reads and decodes the record of a key.
///
/// # Errors
/// Those of the store, and [`Error::Corrupt`] for a value that cannot be decoded.
pub fn read<M: prost::Message + Default>(store: &dyn Store, key: &Key) -> Result<Option<M>, Error> {
    match store.get(&key.encode())? {
        Some(bytes) => codec::decode(key, &bytes).map(Some),
        None => Ok(None),
    }
}
