//! What clients see of schedules and backfills.

use chrono_tz::Tz;
use segue_proto::{
    ids::{PipelineName, RunId},
    store::v1::{BackfillRecord, IntervalRecord, RunRecord},
    v1,
};

use super::book::{self, Entry};
use crate::{
    core::UnixMillis,
    schedule::{
        Interval, Plan, ScheduleDecl, Trigger,
        backfill::{Item, Progress},
        zone,
    },
    server::error::Error,
    store::{self, Key, Store, keys::prefix},
};

/// Shows an interval in a time zone.
pub(super) fn interval(zone: Tz, interval: Interval) -> v1::Interval {
    v1::Interval {
        start_ms: interval.start,
        end_ms: interval.end,
        start: zone::rfc3339(zone, interval.start),
        end: zone::rfc3339(zone, interval.end),
    }
}

/// Shows a schedule with its next fires, without past ones.
pub(super) fn schedule(entry: &Entry, next: usize, now: UnixMillis) -> v1::ScheduleView {
    let Entry { record, plan, state, tries } = entry;
    let decl = &plan.decl;
    let zone = plan.table.zone();
    let (cron, every_ms) = trigger(&decl.trigger);
    let active = |active: &crate::schedule::scheduler::Active| v1::ActiveRun {
        interval: Some(interval(zone, active.interval)),
        run_id: active.run.clone(),
        cancelling: active.cancelling,
    };
    v1::ScheduleView {
        name: record.name.clone(),
        version: record.version.clone(),
        path: record.path.clone(),
        cron,
        every_ms,
        timezone: decl.timezone.clone(),
        start_ms: decl.start.unwrap_or_default(),
        end_ms: decl.end.unwrap_or_default(),
        catch_up: decl.catch_up.name().to_owned(),
        catch_up_window_ms: decl.catch_up_window_ms,
        overlap: decl.overlap.name().to_owned(),
        jitter_ms: decl.jitter_ms,
        // Values of JSON are JSON.
        params_json: serde_json::to_string(&decl.params).unwrap_or_default(),
        paused: state.paused,
        note: record.note.clone(),
        created_ms: record.created_ms,
        applied_ms: record.applied_ms,
        next: fires(plan, state.decided, now, next),
        last: Vec::new(),
        active: state.active.iter().map(active).collect(),
        waiting: state.waiting.iter().map(|waiting| interval(zone, waiting.interval)).collect(),
        problem: tries.problem.clone(),
    }
}

/// Gives the next fires that are still to come.
fn fires(plan: &Plan, decided: UnixMillis, now: UnixMillis, count: usize) -> Vec<v1::NextFire> {
    let zone = plan.table.zone();
    // A fire whose jitter is not over comes although its time has passed.
    let mut at = decided.max(now.saturating_sub(plan.decl.jitter_ms));
    let mut fires = Vec::new();
    while fires.len() < count
        && let Some(next) = plan.after(at)
    {
        at = next.end;
        let starts = plan.starts(next);
        if starts > now {
            let starts_text = zone::rfc3339(zone, starts);
            fires.push(v1::NextFire { interval: Some(interval(zone, next)), starts_ms: starts, starts: starts_text });
        }
    }
    fires
}

/// Gives the last fires of a pipeline, newest first.
///
/// # Errors
/// Those of the store.
pub(super) fn last(
    store: &dyn Store,
    pipeline: &PipelineName,
    zone: Tz,
    count: usize,
) -> Result<Vec<v1::PastFire>, Error> {
    let mut fires = Vec::new();
    for (key, value) in store.scan_back(&prefix::intervals(pipeline), None, count)? {
        let (key, record) = store::codec::decode_row::<IntervalRecord>(&key, &value)?;
        let Key::Interval { start, end, .. } = key else { continue };
        let mut record = record;
        let before = std::mem::take(&mut record.before);
        for record in std::iter::once(record).chain(before.into_iter().rev()) {
            fires.push(past_fire(store, interval(zone, Interval { start, end }), record)?);
        }
        if fires.len() >= count {
            break;
        }
    }
    fires.truncate(count);
    Ok(fires)
}

fn past_fire(store: &dyn Store, interval: v1::Interval, record: IntervalRecord) -> Result<v1::PastFire, Error> {
    let state = match record.run_id.parse::<RunId>() {
        Ok(run) => store::read::<RunRecord>(store, &Key::Run(run))?.map_or(0, |run| run.state),
        Err(_) => 0,
    };
    Ok(v1::PastFire {
        interval: Some(interval),
        outcome: record.outcome,
        run_id: record.run_id,
        run_state: state,
        late: record.late,
        message: record.message,
        count: record.count,
        decided_ms: record.decided_ms,
        origin: record.origin,
    })
}

/// Shows a backfill with the count of its intervals, and with the intervals themselves where that is wanted.
pub(super) fn backfill(record: &BackfillRecord, items: &[Item], with_intervals: bool) -> v1::BackfillView {
    let decl: Option<ScheduleDecl> = serde_json::from_str(&record.schedule_json).ok();
    let timezone = decl.as_ref().map_or("UTC", |decl| decl.timezone.as_str());
    let zone = zone::find(timezone).unwrap_or(Tz::UTC);
    let (cron, every_ms) = decl.as_ref().map(|decl| trigger(&decl.trigger)).unwrap_or_default();
    let kinds = [
        Progress::Waiting,
        Progress::Running,
        Progress::Succeeded,
        Progress::Failed,
        Progress::Cancelled,
        Progress::Kept,
    ];
    let counts = kinds.map(|kind| v1::BackfillCount {
        state: book::progress(kind).into(),
        count: u32::try_from(items.iter().filter(|item| item.progress == kind).count()).unwrap_or(u32::MAX),
    });
    let shown = |item: &Item| v1::BackfillInterval {
        interval: Some(interval(zone, item.interval)),
        state: book::progress(item.progress).into(),
        run_id: item.run.clone(),
        generation: item.generation,
        message: item.message.clone(),
    };
    v1::BackfillView {
        id: record.id.clone(),
        pipeline: record.pipeline.clone(),
        version: record.version.clone(),
        state: record.state,
        from: zone::rfc3339(zone, record.from_ms),
        to: zone::rfc3339(zone, record.to_ms),
        timezone: timezone.to_owned(),
        cron,
        every_ms,
        max_running: record.max_running,
        reprocess: record.reprocess,
        reverse: record.reverse,
        created_ms: record.created_ms,
        ended_ms: record.ended_ms,
        counts: counts.into_iter().filter(|count| count.count > 0).collect(),
        intervals: if with_intervals { items.iter().map(shown).collect() } else { Vec::new() },
        left_out: record.left_out,
        problem: String::new(),
        params: record.params.clone(),
    }
}

fn trigger(trigger: &Trigger) -> (String, u64) {
    match trigger {
        Trigger::Cron(cron) => (cron.clone(), 0),
        Trigger::Every(ms) => (String::new(), *ms),
    }
}
