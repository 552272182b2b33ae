//! What decisions have changed, as the writes of their commit.

use super::{
    active::Active,
    error::Error,
    feed::Feed,
    produce::{self, Made},
    records,
    reread::Checks,
};
use crate::{
    core::{Core, Dirty, UnixMillis},
    store::{Batch, Key, Store},
};

/// Adds everything that changed to the batch of its commit. Gives the attempts whose external inputs are to be digested
/// again: none unless `rereads`.
///
/// # Errors
/// Those of the store and of the registry.
#[allow(clippy::too_many_arguments)] // The parts of one commit.
pub fn add(
    dirty: &Dirty,
    core: &Core,
    store: &dyn Store,
    active: &mut Active,
    feed: &mut Feed,
    rereads: bool,
    batch: &mut Batch,
    now: UnixMillis,
) -> Result<Checks, Error> {
    for id in &dirty.runs {
        if let Some(run) = core.run(id) {
            batch.put(&Key::Run(*id), &records::run_record(run));
            active.note(run, batch);
        }
    }
    for (id, task) in &dirty.tasks {
        if let Some(entry) = core.run(id).and_then(|run| run.task(*task)) {
            batch.put(&Key::Task { run: *id, task: *task }, &records::task_record(entry));
        }
    }
    for (id, task) in &dirty.groups {
        if let Some(group) = core.run(id).and_then(|run| run.groups.get(task)) {
            batch.put(&Key::Expansion { run: *id, task: *task }, &records::expansion_record(group));
        }
    }
    for (id, task, number) in &dirty.attempts {
        let entry = core.run(id).and_then(|run| run.task(*task));
        if let Some(attempt) = entry.and_then(|entry| entry.attempts.iter().rev().find(|a| a.number == *number)) {
            let key = Key::Attempt { run: *id, task: *task, attempt: *number };
            batch.put(&key, &records::attempt_record(attempt));
        }
    }
    let mut made = Made::default();
    for record in &dirty.records {
        if rereads {
            made.checks.note(record, core);
        }
        produce::add(record, core, store, batch, &mut made, now)?;
    }
    let checks = made.write(batch);
    feed.add(dirty, core, batch, now);
    Ok(checks)
}
