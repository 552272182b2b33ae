//! What is in memory of schedules and backfills, and how it is kept.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    ids::{BackfillId, PipelineName},
    store::v1::{
        ActiveInterval, BackfillIntervalRecord, BackfillRecord, IntervalRecord, ScheduleRecord, WaitingInterval,
    },
    v1,
};

use crate::{
    core::UnixMillis,
    schedule::{
        Interval, Plan, ScheduleDecl,
        backfill::{Backfill, Item, Outcome, Progress},
        scheduler::{Active, State, Waiting},
    },
    server::error::Error,
    store::{self, Key, Store, keys::prefix},
};

/// Every schedule, and the backfills that have not ended.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub schedules: BTreeMap<PipelineName, Entry>,
    pub backfills: BTreeMap<BackfillId, Going>,
}

/// A schedule.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it is stored, but for the state.
    pub record: ScheduleRecord,
    pub plan: Plan,
    pub state: State,
    pub tries: Tries<Interval>,
}

/// A backfill that has not ended.
#[derive(Debug)]
pub(super) struct Going {
    pub record: BackfillRecord,
    pub decl: ScheduleDecl,
    pub set: Backfill,
    pub tries: Tries<usize>,
    /// Somebody asked for it since this start: it goes on even in a coordinator that does nothing by itself.
    pub awake: bool,
}

/// Submissions that are on their way, and what became of the last one.
#[derive(Debug)]
pub(super) struct Tries<T> {
    pub submitting: BTreeSet<T>,
    /// Why the last try failed; empty when it did not.
    pub problem: String,
    /// Nothing is tried before. 0: at once.
    pub not_before: UnixMillis,
}

impl<T> Default for Tries<T> {
    fn default() -> Self {
        Self { submitting: BTreeSet::new(), problem: String::new(), not_before: 0 }
    }
}

/// How long a submission waits that failed for a reason that may pass.
const RETRY_MS: u64 = 2_000;

impl<T> Tries<T> {
    /// Notes a failure that may pass.
    pub fn put_off(&mut self, problem: String, now: UnixMillis) {
        self.problem = problem;
        self.not_before = now.saturating_add(RETRY_MS);
    }

    /// Notes an answer.
    pub fn answered(&mut self, problem: String) {
        self.problem = problem;
        self.not_before = 0;
    }
}

impl Entry {
    /// Makes the record of a schedule in a state.
    pub fn record_with(&self, state: &State) -> ScheduleRecord {
        let waiting = |waiting: &Waiting| WaitingInterval {
            start_ms: waiting.interval.start,
            end_ms: waiting.interval.end,
            late: waiting.late,
            asked: waiting.asked,
            replaced: waiting.replaced,
        };
        let active = |active: &Active| ActiveInterval {
            start_ms: active.interval.start,
            end_ms: active.interval.end,
            run_id: active.run.clone(),
            cancelling: active.cancelling,
        };
        ScheduleRecord {
            paused: state.paused,
            decided_ms: state.decided,
            floor_ms: state.floor,
            waiting: state.waiting.iter().map(waiting).collect(),
            active: state.active.iter().map(active).collect(),
            ..self.record.clone()
        }
    }

    /// Reads a schedule back.
    fn from_record(record: ScheduleRecord) -> Result<Self, String> {
        let decl: ScheduleDecl = serde_json::from_str(&record.schedule_json).map_err(|e| e.to_string())?;
        let plan = Plan::new(&record.name, decl)?;
        let waiting = |waiting: &WaitingInterval| Waiting {
            interval: Interval { start: waiting.start_ms, end: waiting.end_ms },
            late: waiting.late,
            asked: waiting.asked,
            replaced: waiting.replaced,
        };
        let active = |active: &ActiveInterval| Active {
            interval: Interval { start: active.start_ms, end: active.end_ms },
            run: active.run_id.clone(),
            cancelling: active.cancelling,
        };
        let state = State {
            decided: record.decided_ms,
            floor: record.floor_ms,
            waiting: record.waiting.iter().map(waiting).collect(),
            active: record.active.iter().map(active).collect(),
            paused: record.paused,
        };
        Ok(Self { record, plan, state, tries: Tries::default() })
    }
}

impl Going {
    /// Gives the record of the nth interval.
    pub fn item_record(&self, at: usize) -> Option<BackfillIntervalRecord> {
        self.set.items.get(at).map(|item| BackfillIntervalRecord {
            start_ms: item.interval.start,
            end_ms: item.interval.end,
            generation: item.generation,
            state: progress(item.progress).into(),
            run_id: item.run.clone(),
            message: item.message.clone(),
        })
    }
}

/// Reads an interval of a backfill back.
pub(super) fn item(record: BackfillIntervalRecord) -> Result<Item, String> {
    use v1::BackfillIntervalState as S;
    let progress = match S::try_from(record.state) {
        Ok(S::Waiting) => Progress::Waiting,
        Ok(S::Running) => Progress::Running,
        Ok(S::Succeeded) => Progress::Succeeded,
        Ok(S::Failed) => Progress::Failed,
        Ok(S::Cancelled) => Progress::Cancelled,
        Ok(S::Kept) => Progress::Kept,
        Ok(S::Unspecified) | Err(_) => return Err(format!("an interval in the unknown state {}", record.state)),
    };
    Ok(Item {
        interval: Interval { start: record.start_ms, end: record.end_ms },
        generation: record.generation,
        progress,
        run: record.run_id,
        message: record.message,
    })
}

/// Gives the wire form of how far an interval is.
pub(super) const fn progress(progress: Progress) -> v1::BackfillIntervalState {
    use v1::BackfillIntervalState as S;
    match progress {
        Progress::Waiting => S::Waiting,
        Progress::Running => S::Running,
        Progress::Succeeded => S::Succeeded,
        Progress::Failed => S::Failed,
        Progress::Cancelled => S::Cancelled,
        Progress::Kept => S::Kept,
    }
}

/// Gives the wire form of how far a backfill is.
pub(super) const fn outcome(outcome: Outcome) -> v1::BackfillState {
    use v1::BackfillState as S;
    match outcome {
        Outcome::Running => S::Running,
        Outcome::Cancelling => S::Cancelling,
        Outcome::Succeeded => S::Succeeded,
        Outcome::Failed => S::Failed,
        Outcome::Cancelled => S::Cancelled,
    }
}

/// Says whether a stored backfill has ended.
pub(super) fn is_ended(record: &BackfillRecord) -> bool {
    use v1::BackfillState as S;
    matches!(S::try_from(record.state), Ok(S::Succeeded | S::Failed | S::Cancelled))
}

/// Reads the whole book after a start. What another release has written and this one cannot read stays where it is, and
/// is named in the log.
///
/// # Errors
/// Those of the store.
pub(super) fn load(store: &dyn Store) -> Result<Book, Error> {
    let mut book = Book::default();
    store::visit(store, &prefix::schedules(), |key, value| {
        let (key, record) = store::codec::decode_row::<ScheduleRecord>(&key, &value)?;
        let Key::Schedule(name) = key else { return Ok(()) };
        match Entry::from_record(record) {
            Ok(entry) => drop(book.schedules.insert(name, entry)),
            Err(e) => tracing::error!(schedule = %name, error = e, "schedule not readable: apply its file again"),
        }
        Ok(())
    })?;
    let mut open = Vec::new();
    store::visit(store, &prefix::backfills(), |key, value| {
        let (key, record) = store::codec::decode_row::<BackfillRecord>(&key, &value)?;
        if let Key::Backfill(id) = key
            && !is_ended(&record)
        {
            open.push((id, record));
        }
        Ok(())
    })?;
    for (id, record) in open {
        match going(store, &id, record)? {
            Ok(going) => drop(book.backfills.insert(id, going)),
            Err(e) => tracing::error!(backfill = %id, error = e, "backfill not readable: it does not go on"),
        }
    }
    Ok(book)
}

fn going(store: &dyn Store, id: &BackfillId, record: BackfillRecord) -> Result<Result<Going, String>, Error> {
    let decl: ScheduleDecl = match serde_json::from_str(&record.schedule_json) {
        Ok(decl) => decl,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let items = match items(store, id)? {
        Ok(items) => items,
        Err(e) => return Ok(Err(e)),
    };
    let cancelled = record.state == i32::from(v1::BackfillState::Cancelling);
    let set = Backfill { items, max_running: record.max_running, cancelled };
    Ok(Ok(Going { record, decl, set, tries: Tries::default(), awake: false }))
}

/// Reads the intervals of a backfill.
pub(super) fn items(store: &dyn Store, id: &BackfillId) -> Result<Result<Vec<Item>, String>, Error> {
    let mut items = Vec::new();
    store::visit(store, &prefix::backfill_intervals(id), |key, value| {
        let (_, record) = store::codec::decode_row::<BackfillIntervalRecord>(&key, &value)?;
        items.push(item(record));
        Ok(())
    })?;
    Ok(items.into_iter().collect())
}

/// Gives the key of what became of an interval.
pub(super) fn interval_key(pipeline: &PipelineName, interval: Interval) -> Key {
    Key::Interval { pipeline: pipeline.clone(), start: interval.start, end: interval.end }
}

/// Reads what became of an interval; nothing where nothing was noted.
///
/// # Errors
/// Those of the store.
pub(super) fn noted(store: &dyn Store, pipeline: &PipelineName, interval: Interval) -> Result<IntervalRecord, Error> {
    Ok(store::read(store, &interval_key(pipeline, interval))?.unwrap_or_default())
}
