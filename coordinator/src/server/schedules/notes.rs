//! What became of intervals: the history of a schedule, and what a backfill need not execute again.

use segue_proto::{ids::PipelineName, store::v1::IntervalRecord, v1};

use super::book;
use crate::{
    core::UnixMillis,
    schedule::{
        Interval,
        scheduler::{MOST_WAITING, Skipped},
    },
    server::{api::Shared, error::Error},
    store::{Batch, Key, Store, keys::prefix},
};

/// Earlier notes of one interval that are kept, the newest.
const MOST_BEFORE: usize = 16;
/// Intervals of a pipeline whose notes are kept, the newest.
pub(super) const KEPT: usize = 10_000;

/// A run was submitted.
pub(super) fn submitted(run: String, generation: u32, late: bool, origin: &str, now: UnixMillis) -> IntervalRecord {
    IntervalRecord {
        run_id: run,
        generation,
        outcome: v1::FireOutcome::Submitted.into(),
        late,
        message: String::new(),
        count: 1,
        decided_ms: now,
        origin: origin.to_owned(),
        before: Vec::new(),
    }
}

/// A submission was refused.
pub(super) fn refused(message: String, late: bool, now: UnixMillis) -> IntervalRecord {
    IntervalRecord { late, message, ..left_out(v1::FireOutcome::Refused, 1, now) }
}

/// A fire was left out. `going` is the run of an earlier one, where it is known.
pub(super) fn skipped(why: Skipped, going: Option<&str>, now: UnixMillis) -> IntervalRecord {
    let (outcome, message) = match (why, going) {
        (Skipped::Overlap, Some(run)) => (v1::FireOutcome::Overlapped, format!("{run} was going on")),
        (Skipped::Overlap, None) => (v1::FireOutcome::Overlapped, "an earlier interval was waiting".to_owned()),
        (Skipped::Replaced, _) => (v1::FireOutcome::Replaced, "a later fire took its place".to_owned()),
        (Skipped::QueueFull, _) => {
            (v1::FireOutcome::QueueFull, format!("{MOST_WAITING} intervals were waiting already"))
        }
    };
    IntervalRecord { message, ..left_out(outcome, 1, now) }
}

/// Fires were missed.
pub(super) fn missed(count: u64, now: UnixMillis) -> IntervalRecord {
    let message = "not started in time, and not caught up".to_owned();
    IntervalRecord { message, ..left_out(v1::FireOutcome::Missed, count, now) }
}

fn left_out(outcome: v1::FireOutcome, count: u64, now: UnixMillis) -> IntervalRecord {
    IntervalRecord {
        outcome: outcome.into(),
        count,
        decided_ms: now,
        origin: "schedule".to_owned(),
        ..IntervalRecord::default()
    }
}

/// Writes a note. A run that is known of the interval is not forgotten over a fire that gets none, and neither is what was
/// noted before: an interval may be fired, triggered by hand and executed by backfills.
///
/// # Errors
/// Those of the store.
pub(super) fn put(
    store: &dyn Store,
    batch: &mut Batch,
    pipeline: &PipelineName,
    interval: Interval,
    mut record: IntervalRecord,
) -> Result<(), Error> {
    let mut known = book::noted(store, pipeline, interval)?;
    record.before = std::mem::take(&mut known.before);
    // The answer to a submission may be noted twice.
    let told_again = known.outcome == record.outcome && (record.run_id.is_empty() || known.run_id == record.run_id);
    if known.decided_ms > 0 && !told_again {
        record.before.push(known.clone());
        let most = record.before.len().saturating_sub(MOST_BEFORE);
        record.before.drain(..most);
    }
    if record.run_id.is_empty() || record.generation < known.generation {
        record.run_id = known.run_id;
    }
    record.generation = record.generation.max(known.generation);
    batch.put(&book::interval_key(pipeline, interval), &record);
    Ok(())
}

/// Deletes the oldest notes of a pipeline beyond those that are kept.
///
/// # Errors
/// Those of the store.
pub(super) fn prune(shared: &Shared, pipeline: &PipelineName) -> Result<(), Error> {
    let all = prefix::intervals(pipeline);
    let newest = shared.store.scan_back(&all, None, KEPT)?;
    let Some((oldest_kept, _)) = newest.last().filter(|_| newest.len() == KEPT) else { return Ok(()) };
    let older = shared.store.scan_back(&all, Some(oldest_kept), KEPT)?;
    let mut batch = Batch::new();
    for key in older.iter().filter_map(|(key, _)| Key::decode(key).ok()) {
        batch.delete(&key);
    }
    if !batch.is_empty() {
        shared.committer.commit_blocking(batch)?;
    }
    Ok(())
}
