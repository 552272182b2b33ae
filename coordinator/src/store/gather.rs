//! The records of a backup: those of a store at one moment.
//!
//! A store that is being written is read page by page while commits go on. What a page showed may have been written since,
//! so the keys of those writes are read again, and those that were written during that, until few are left. These few are
//! read on the commit thread, between two flushes: nothing else has been written since it was read, so that all of it
//! together is the state at that moment. Commits wait for the few keys alone, however large the store is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use segue_proto::ids::Digest;

use super::{
    Committer, Store, codec,
    error::Error,
    export,
    keys::{Key, describe},
    references, visit,
};
use crate::blobs::blocking;

/// Keys that may be read while commits wait: some milliseconds, far below any lease.
const FEW: usize = 500;

/// How often what was written meanwhile is read again before commits wait for the rest: reading is faster than writing,
/// so that each time there is less.
const ROUNDS: usize = 64;

/// What was written to the file.
pub(super) struct Exported {
    pub records: u64,
    pub bytes: u64,
    pub digest: Digest,
    /// Each blob with a record that needs it.
    pub needed: BTreeMap<Digest, String>,
    pub problems: Vec<String>,
}

/// Writes the records of a store that nobody writes.
pub(super) fn quiet(store: &dyn Store, file: &Path) -> Result<Exported, Error> {
    // What is exported must not be ahead of what the disk has.
    store.flush()?;
    let mut export = Export::create(file)?;
    // Damage must not stand in the way of saving what can be read.
    if let Err(damaged @ Error::Damaged { .. }) = store.check() {
        export.problems.push(damaged.to_string());
    }
    match visit(store, &[], |key, value| export.record(&key, &value)) {
        Err(e @ Error::Damaged { .. }) if !export.problems.is_empty() => {
            export.problems.push(format!("not all records could be read: {e}"));
        }
        read => read?,
    }
    export.finish(file)
}

/// Writes the records of a store that is being written, as they are at one moment of this call.
pub(super) async fn running(committer: &Committer, file: PathBuf) -> Result<Exported, Error> {
    let written = committer.listen();
    let first = file.with_extension("first");
    let (store, place) = (Arc::clone(committer.store()), first.clone());
    blocking(move || {
        let mut writer = export::Writer::create(&place)?;
        visit(store.as_ref(), &[], |key, value| writer.record(&key, &value))?;
        writer.finish().map(drop)
    })
    .await?;

    let mut newer: Newer = BTreeMap::new();
    let mut left = written.take();
    for _ in 0..ROUNDS {
        if left.len() <= FEW {
            break;
        }
        let (store, keys) = (Arc::clone(committer.store()), left);
        newer.extend(blocking(move || read(store.as_ref(), keys)).await?);
        left = written.take();
    }
    let last = committer.quiet(move |store| {
        // What is exported must not be ahead of what the disk has.
        store.flush()?;
        left.extend(written.take());
        read(store, left)
    });
    newer.extend(last.await??);

    blocking(move || {
        let exported = merge(&first, newer, &file)?;
        fs::remove_file(&first).map_err(|e| Error::io("removing", &first, e))?;
        Ok(exported)
    })
    .await
}

/// Values that are newer than those in a file; absent: deleted since.
type Newer = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn read(store: &dyn Store, keys: BTreeSet<Vec<u8>>) -> Result<Newer, Error> {
    keys.into_iter().map(|key| store.get(&key).map(|value| (key, value))).collect()
}

/// Writes the records of a file, and what is newer in its place. Both are in the order of their keys.
fn merge(first: &Path, newer: Newer, file: &Path) -> Result<Exported, Error> {
    let mut export = Export::create(file)?;
    let mut newer = newer.into_iter().peekable();
    export::read(first, |(key, value)| {
        while let Some((earlier, value)) = newer.next_if(|(newer, _)| *newer < key) {
            export.newer(&earlier, value)?;
        }
        match newer.next_if(|(newer, _)| *newer == key) {
            Some((key, value)) => export.newer(&key, value),
            None => export.record(&key, &value),
        }
    })?;
    newer.try_for_each(|(key, value)| export.newer(&key, value))?;
    export.finish(file)
}

/// A file of records, and what it is found to need.
struct Export {
    writer: export::Writer,
    needed: BTreeMap<Digest, String>,
    problems: Vec<String>,
}

impl Export {
    fn create(file: &Path) -> Result<Self, Error> {
        Ok(Self { writer: export::Writer::create(file)?, needed: BTreeMap::new(), problems: Vec::new() })
    }

    fn newer(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.record(key, &value))
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.writer.record(key, value)?;
        match blobs_of(key, value) {
            Ok((key, blobs)) => {
                for blob in blobs {
                    self.needed.entry(blob.digest).or_insert_with(|| key.to_string());
                }
            }
            // Kept as it is: a damaged record must not stand in the way of saving all others.
            Err(problem) => self.problems.push(problem),
        }
        Ok(())
    }

    fn finish(self, file: &Path) -> Result<Exported, Error> {
        let (records, digest) = self.writer.finish()?;
        let bytes = fs::metadata(file).map_err(|e| Error::io("reading", file, e))?.len();
        Ok(Exported { records, bytes, digest, needed: self.needed, problems: self.problems })
    }
}

fn blobs_of(key: &[u8], value: &[u8]) -> Result<(Key, Vec<references::Needed>), String> {
    let key = Key::decode(key).map_err(|e| format!("the record `{}` cannot be read: {e}", describe(key)))?;
    let value = codec::decode_any(&key, value).map_err(|e| e.to_string())?;
    let blobs = references::of(&key, &value)?;
    Ok((key, blobs))
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
