//! The index of runs that have not ended: what a start reads, instead of every run that there ever was.
//!
//! A row comes and goes in the commit that writes the state of its run. A store whose last coordinator did not keep the
//! index (an older release, or a restored backup) gets it anew, in the commit that begins the epoch: whole or not at all.

use std::collections::HashSet;

use segue_proto::{
    ids::RunId,
    store::v1::{ActiveRunRecord, RunRecord},
};

use super::records;
use crate::{
    core::{Run, RunState},
    store::{
        self, Batch, Key, Store, codec,
        keys::{Meta, prefix},
        meta, visit,
    },
};

/// The rows that are there.
#[derive(Debug, Default)]
pub struct Active(HashSet<RunId>);

impl Active {
    /// Reads the index.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read(store: &dyn Store) -> Result<Self, store::Error> {
        let mut rows = HashSet::new();
        visit(store, &prefix::active_runs(), |key, _| {
            if let Ok(Key::ActiveRun(run)) = Key::decode(&key) {
                rows.insert(run);
            }
            Ok(())
        })?;
        Ok(Self(rows))
    }

    /// Gives the runs that have a row, oldest first.
    #[must_use]
    pub fn runs(&self) -> Vec<RunId> {
        let mut runs: Vec<RunId> = self.0.iter().copied().collect();
        runs.sort_unstable();
        runs
    }

    /// Adds what the state of a run makes of its row to the batch with that state.
    pub fn note(&mut self, run: &Run, batch: &mut Batch) {
        if run.state.is_terminal() {
            if self.0.remove(&run.id) {
                batch.delete(&Key::ActiveRun(run.id));
            }
        } else if self.0.insert(run.id) {
            batch.put(&Key::ActiveRun(run.id), &ActiveRunRecord {});
        }
    }
}

/// Adds to the batch that begins an epoch that its coordinator keeps the index; and the index itself, if the coordinator
/// before did not.
///
/// # Errors
/// Those of the store, and a run that cannot be read.
pub fn begin(store: &dyn Store, batch: &mut Batch, epoch: u64) -> Result<(), store::Error> {
    let mark = Key::Meta(Meta::ActiveRuns);
    let kept = store.get(&mark.encode())?.and_then(|kept| meta::parse_epoch(&kept).ok());
    batch.put_raw(mark.encode(), epoch.to_string().into_bytes());
    // An older release counts epochs on and leaves the mark behind.
    if kept.is_some_and(|kept| kept.checked_add(1) == Some(epoch)) {
        return Ok(());
    }
    for run in Active::read(store)?.0 {
        batch.delete(&Key::ActiveRun(run));
    }
    visit(store, &prefix::runs(), |key, value| {
        let (key, record) = codec::decode_row::<RunRecord>(&key, &value)?;
        let ended = records::run_state_from(record.state).is_some_and(RunState::is_terminal);
        if let Key::Run(run) = key
            && !ended
        {
            batch.put(&Key::ActiveRun(run), &ActiveRunRecord {});
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use segue_proto::v1;

    use super::*;
    use crate::store::{
        MemoryStore,
        testing::{run, run_record},
    };

    fn put(store: &MemoryStore, n: u32, state: v1::RunState) {
        let mut batch = Batch::new();
        batch.put(&Key::Run(run(n)), &RunRecord { state: state.into(), ..run_record(&run(n), 1) });
        store.apply(&batch).unwrap();
    }

    /// Begins the next epoch, of this release or of one without the index.
    fn start(store: &MemoryStore, keeps_index: bool) -> Vec<RunId> {
        let mut batch = Batch::new();
        let epoch = meta::next_epoch(store, &mut batch).unwrap();
        if keeps_index {
            begin(store, &mut batch, epoch).unwrap();
        }
        store.apply(&batch).unwrap();
        Active::read(store).unwrap().runs()
    }

    #[test]
    fn an_old_store_gets_the_index_once_and_again_after_an_older_release_had_it() {
        let store = MemoryStore::new();
        put(&store, 1, v1::RunState::Running);
        put(&store, 2, v1::RunState::Failed);
        put(&store, 3, v1::RunState::Queued);
        assert_eq!(start(&store, false), []);
        assert_eq!(start(&store, true), [run(1), run(3)]);
        // Written past the index, which nobody of this release does: it is not looked for.
        put(&store, 4, v1::RunState::Running);
        assert_eq!(start(&store, true), [run(1), run(3)]);
        put(&store, 1, v1::RunState::Succeeded);
        start(&store, false);
        assert_eq!(start(&store, true), [run(3), run(4)], "the older release knew nothing of the index");
    }

    #[test]
    fn a_start_that_dies_before_its_commit_leaves_the_store_as_it_was() {
        let store = MemoryStore::new();
        put(&store, 1, v1::RunState::Running);
        let mut lost = Batch::new();
        begin(&store, &mut lost, 1).unwrap();
        assert_eq!(Active::read(&store).unwrap().runs(), []);
        assert_eq!(start(&store, true), [run(1)]);
    }
}
