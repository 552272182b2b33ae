//! What clients ask of backfills.

use segue_proto::{
    convert,
    ids::{BackfillId, Digest, PipelineName, RunId},
    store::v1::{BackfillRecord, PipelineRecord, RunRecord},
    v1,
};
use serde_json::json;
use tracing::info;

use super::{
    Schedules,
    apply::new_ulid,
    book::{self, Going, Tries},
    index,
    submit::{self, Checked},
    views, wall,
};
use crate::{
    core::RunState,
    schedule::{
        CatchUp, Interval, Overlap, ScheduleDecl, Timetable, Trigger,
        backfill::{Backfill, Item, MOST_INTERVALS, MOST_RUNNING, Progress, RUNNING, Reprocess, Was},
        cron::Cron,
        zone,
    },
    server::{api::Shared, error::Error, records},
    spec,
    store::{self, Batch, Key, Store, keys::prefix},
};

/// Backfills of one answer when nobody says how many, and at most.
const LISTED: u32 = 20;
const MOST_LISTED: u32 = 1_000;
/// Ended backfills that are looked through for an equal one.
const LOOKED_AT: usize = 200;

/// Where the text of a backfill comes from.
struct Source {
    text: String,
    path: String,
    operators: Vec<v1::OperatorSpec>,
}

/// What a backfill is to do.
struct Range {
    decl: ScheduleDecl,
    from: u64,
    to: u64,
    intervals: Vec<Interval>,
    /// Intervals that have not ended yet.
    left_out: u32,
}

impl Schedules {
    /// Plans a backfill and, unless that is all that was asked for, creates it.
    ///
    /// # Errors
    /// A range or intervals that make no sense, and those of the store. Faults of the file are in the answer.
    pub async fn backfill(&self, request: v1::BackfillRequest) -> Result<v1::BackfillResponse, Error> {
        let refused = |diagnostics| v1::BackfillResponse { diagnostics, ..v1::BackfillResponse::default() };
        let source = self.source(&request).await?;
        let catalogue = submit::catalogue(&self.0.shared, &source.operators);
        let checked = match submit::check(&catalogue, &source.text, &source.path) {
            Ok(checked) => checked,
            Err(diagnostics) => return Ok(refused(diagnostics)),
        };
        let now = wall();
        let mut range = range(&checked, &request, now)?;
        if request.reverse {
            range.intervals.reverse();
        }
        let first = range.intervals.first().copied().ok_or_else(|| nothing(&range))?;
        let params = spec::interval_params(&range.decl, first).map_err(Error::BadRequest)?;
        if let Err(diagnostics) = submit::try_bind(&checked, &catalogue, &params, &source.path) {
            return Ok(refused(diagnostics));
        }
        let reprocess = reprocess(request.reprocess)?;
        let mut record = record(&checked, source, &range, &request, reprocess, now)?;
        let pipeline = checked.pipeline.name.clone();

        // From here on nothing fires in between.
        let mut book = self.0.book.lock().await;
        if let Some((id, going)) = book.backfills.iter_mut().find(|(_, going)| going.record.identity == record.identity)
            && !going.set.cancelled
            && !request.dry_run
        {
            going.awake = true;
            info!(backfill = %id, "an equal backfill goes on");
            let view = views::backfill(&going.record, &going.set.items, true);
            self.0.wake.notify_one();
            return Ok(v1::BackfillResponse { backfill: Some(view), existing: true, diagnostics: checked.warnings });
        }
        let items = self.plan(pipeline, range.intervals, reprocess).await?;
        record.intervals = index(items.len());
        let set = Backfill { items, max_running: record.max_running, cancelled: false };
        record.state = book::outcome(set.outcome()).into();
        if request.dry_run {
            let view = views::backfill(&record, &set.items, true);
            return Ok(v1::BackfillResponse { backfill: Some(view), existing: false, diagnostics: checked.warnings });
        }
        if set.outcome().is_terminal() {
            record.ended_ms = now;
            let identity = record.identity.clone();
            // Nothing to do, and it is there already.
            if let Some((known, items)) = self.0.shared.blocking(move |shared| equal(&*shared.store, &identity)).await?
            {
                let view = views::backfill(&known, &items, true);
                return Ok(v1::BackfillResponse {
                    backfill: Some(view),
                    existing: true,
                    diagnostics: checked.warnings,
                });
            }
        }
        let id: BackfillId = convert::id("id", format!("bf_{}", new_ulid()))?;
        record.id = id.to_string();
        let going = Going { record, decl: range.decl, set, tries: Tries::default(), awake: true };
        let mut batch = Batch::new();
        batch.insert(&Key::Backfill(id.clone()), &going.record);
        for at in 0..going.set.items.len() {
            if let Some(item) = going.item_record(at) {
                batch.put(&Key::BackfillInterval { backfill: id.clone(), index: index(at) }, &item);
            }
        }
        self.0.shared.committer.commit(batch).await?;
        let view = views::backfill(&going.record, &going.set.items, true);
        info!(backfill = %id, pipeline = going.record.pipeline, intervals = going.set.items.len(), "backfill created");
        if !going.set.outcome().is_terminal() {
            book.backfills.insert(id, going);
            self.0.wake.notify_one();
        }
        Ok(v1::BackfillResponse { backfill: Some(view), existing: false, diagnostics: checked.warnings })
    }

    /// Lists backfills, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_backfills(&self, request: v1::ListBackfillsRequest) -> Result<v1::ListBackfillsResponse, Error> {
        let limit = if request.limit == 0 { LISTED } else { request.limit.min(MOST_LISTED) } as usize;
        let backfills = self
            .0
            .shared
            .blocking(move |shared| {
                let mut found = Vec::new();
                let mut before: Option<Vec<u8>> = None;
                while found.len() < limit {
                    let rows = shared.store.scan_back(&prefix::backfills(), before.as_deref(), limit)?;
                    let Some(last) = rows.last() else { break };
                    before = Some(last.0.clone());
                    for (key, value) in &rows {
                        let (key, record) = store::codec::decode_row::<BackfillRecord>(key, value)?;
                        if let Key::Backfill(id) = key
                            && (request.pipeline.is_empty() || request.pipeline == record.pipeline)
                            && found.len() < limit
                        {
                            found.push(views::backfill(&record, &stored(&*shared.store, &id)?, false));
                        }
                    }
                }
                Ok(found)
            })
            .await?;
        Ok(v1::ListBackfillsResponse { backfills })
    }

    /// Shows a backfill.
    ///
    /// # Errors
    /// An unknown backfill, and those of the store.
    pub async fn get_backfill(&self, request: v1::GetBackfillRequest) -> Result<v1::BackfillView, Error> {
        let id = self.resolve(request.id).await?;
        let book = self.0.book.lock().await;
        if let Some(going) = book.backfills.get(&id) {
            let mut view = views::backfill(&going.record, &going.set.items, request.with_intervals);
            view.state = book::outcome(going.set.outcome()).into();
            view.problem.clone_from(&going.tries.problem);
            return Ok(view);
        }
        drop(book);
        self.0
            .shared
            .blocking(move |shared| {
                let record: Option<BackfillRecord> = store::read(&*shared.store, &Key::Backfill(id.clone()))?;
                let record = record.ok_or_else(|| no_backfill(id.as_str()))?;
                Ok(views::backfill(&record, &stored(&*shared.store, &id)?, request.with_intervals))
            })
            .await
    }

    /// Cancels the intervals that wait and the runs that go.
    ///
    /// # Errors
    /// An unknown backfill or one that has ended, and those of the store.
    pub async fn cancel_backfill(&self, request: v1::CancelBackfillRequest) -> Result<v1::BackfillView, Error> {
        let id = self.resolve(request.id).await?;
        let mut book = self.0.book.lock().await;
        let Some(going) = book.backfills.get_mut(&id) else {
            return Err(Error::Ended(format!("the backfill `{id}` has ended")));
        };
        let mut batch = Batch::new();
        for at in going.set.cancel() {
            if let Some(item) = going.item_record(at) {
                batch.put(&Key::BackfillInterval { backfill: id.clone(), index: index(at) }, &item);
            }
        }
        // Its end is noted by the next turn, as that of any backfill.
        going.record.state = v1::BackfillState::Cancelling.into();
        going.awake = true;
        batch.put(&Key::Backfill(id.clone()), &going.record);
        self.0.shared.committer.commit(batch).await?;
        info!(backfill = %id, "backfill cancelled");
        self.0.wake.notify_one();
        Ok(views::backfill(&going.record, &going.set.items, true))
    }

    /// Finds the text of a backfill: given, of the schedule, or of the last run of the pipeline.
    async fn source(&self, request: &v1::BackfillRequest) -> Result<Source, Error> {
        if !request.text.is_empty() {
            return Ok(Source { text: request.text.clone(), path: request.path.clone(), operators: Vec::new() });
        }
        let name: PipelineName = convert::id("pipeline", request.pipeline.clone())?;
        if let Some(entry) = self.0.book.lock().await.schedules.get(&name) {
            let record = &entry.record;
            return Ok(Source {
                text: record.text.clone(),
                path: record.path.clone(),
                operators: record.operators.clone(),
            });
        }
        let wanted = name.clone();
        let last = self.0.shared.blocking(move |shared| last_version(&*shared.store, &wanted)).await?;
        let missing = || {
            let message = format!("there is no schedule `{name}`, and no pipeline of that name was ever submitted");
            Error::NotFound(message)
        };
        let record = last.ok_or_else(missing)?;
        Ok(Source { text: record.text, path: record.path, operators: Vec::new() })
    }

    /// Says of each interval whether it is executed.
    async fn plan(
        &self,
        pipeline: PipelineName,
        intervals: Vec<Interval>,
        reprocess: Reprocess,
    ) -> Result<Vec<Item>, Error> {
        let active = self
            .0
            .shared
            .handle
            .read(|core| core.runs().filter(|run| !run.state.is_terminal()).map(|run| run.id.to_string()).collect())
            .await?;
        let active: std::collections::BTreeSet<String> = active;
        self.0
            .shared
            .blocking(move |shared| {
                let mut items = Vec::with_capacity(intervals.len());
                for interval in intervals {
                    let noted = book::noted(&*shared.store, &pipeline, interval)?;
                    // Without that policy it does not matter how the run ended.
                    let was = if noted.run_id.is_empty() {
                        Was::Absent
                    } else if active.contains(&noted.run_id) {
                        Was::Going
                    } else if reprocess == Reprocess::Failed {
                        ended(shared, &noted.run_id)?
                    } else {
                        Was::Succeeded
                    };
                    let (progress, generation, run) = match reprocess.chooses(was, noted.generation) {
                        Some(generation) => (Progress::Waiting, generation, String::new()),
                        None => (Progress::Kept, noted.generation, noted.run_id),
                    };
                    items.push(Item { interval, generation, progress, run, message: String::new() });
                }
                Ok(items)
            })
            .await
    }

    /// Finds a backfill by its id, the start of one, or `latest`.
    async fn resolve(&self, reference: String) -> Result<BackfillId, Error> {
        self.0.shared.blocking(move |shared| resolve(&*shared.store, &reference)).await
    }
}

/// Reads what the intervals of a backfill are.
fn range(checked: &Checked, request: &v1::BackfillRequest, now: u64) -> Result<Range, Error> {
    let bad = Error::BadRequest;
    let name = &checked.pipeline.name;
    let scheduled = checked.pipeline.schedule.clone();
    let given = match (request.cron.as_str(), request.every_ms) {
        ("", 0) => None,
        (text, 0) => {
            let cron = Cron::parse(text).map_err(|fault| {
                let hint = fault.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                bad(format!("the cron expression `{text}`: {}{hint}", fault.message))
            })?;
            Some(Trigger::Cron(cron.canonical().to_owned()))
        }
        ("", ms) if ms % 1_000 == 0 => Some(Trigger::Every(ms)),
        ("", _) => return Err(bad("the intervals are not a number of whole seconds".to_owned())),
        _ => return Err(bad("give either a cron expression or a length of the intervals".to_owned())),
    };
    let timezone = match (request.timezone.as_str(), &scheduled) {
        ("", Some(decl)) => decl.timezone.clone(),
        ("", None) => "UTC".to_owned(),
        (name, _) => name.to_owned(),
    };
    let zone = zone::find(&timezone).ok_or_else(|| {
        let near = spec::nearest(&timezone, zone::names()).map(|near| format!(": did you mean `{near}`?"));
        bad(format!("there is no time zone `{timezone}`{}", near.unwrap_or_default()))
    })?;
    let instant = |what: &str, text: &str| {
        zone::parse(zone, text).map_err(|why| bad(format!("`{what}` is `{}`, which {why}", text.escape_debug())))
    };
    let (from, to) = (instant("from", &request.from)?, instant("to", &request.to)?);
    if from >= to {
        return Err(bad("`from` is not before `to`".to_owned()));
    }
    let decl = match (scheduled, given) {
        (None, None) => {
            let message = format!(
                "the pipeline `{name}` has no schedule: say which intervals, with --every 1d or --cron '@daily'"
            );
            return Err(bad(message));
        }
        (Some(decl), None) => ScheduleDecl { timezone, ..decl },
        // Spans of time are counted from the beginning of the range.
        (Some(decl), Some(trigger)) => ScheduleDecl { trigger, timezone, start: Some(from), end: None, ..decl },
        (None, Some(trigger)) => ScheduleDecl {
            trigger,
            timezone,
            start: Some(from),
            end: None,
            catch_up: CatchUp::None,
            catch_up_window_ms: 0,
            overlap: Overlap::Allow,
            jitter_ms: 0,
            params: std::collections::BTreeMap::new(),
        },
    };
    let given = request.params.iter().map(|(name, value)| (name.clone(), json!(value)));
    let params = decl.params.iter().map(|(name, value)| (name.clone(), value.clone())).chain(given).collect();
    let decl = ScheduleDecl { params, ..decl };
    let table = Timetable::new(&decl.trigger, zone, decl.start).map_err(bad)?;
    let mut intervals = Vec::new();
    let mut left_out = 0;
    for interval in table.intervals(from, to) {
        if interval.end > now {
            left_out += 1;
            if left_out >= MOST_INTERVALS {
                break;
            }
        } else if intervals.len() == MOST_INTERVALS {
            let message = format!("the range has more than {MOST_INTERVALS} intervals: split it");
            return Err(bad(message));
        } else {
            intervals.push(interval);
        }
    }
    Ok(Range { decl, from, to, intervals, left_out: index(left_out) })
}

fn nothing(range: &Range) -> Error {
    Error::BadRequest(match range.left_out {
        0 => "no interval starts in this range".to_owned(),
        _ => "no interval of this range has ended yet: there is nothing to fill".to_owned(),
    })
}

fn reprocess(number: i32) -> Result<Reprocess, Error> {
    match v1::Reprocess::try_from(number) {
        Ok(v1::Reprocess::Unspecified | v1::Reprocess::None) => Ok(Reprocess::None),
        Ok(v1::Reprocess::Failed) => Ok(Reprocess::Failed),
        Ok(v1::Reprocess::All) => Ok(Reprocess::All),
        Err(_) => Err(convert::BadMessage::UnknownNumber { field: "reprocess", number }.into()),
    }
}

fn record(
    checked: &Checked,
    source: Source,
    range: &Range,
    request: &v1::BackfillRequest,
    reprocess: Reprocess,
    now: u64,
) -> Result<BackfillRecord, Error> {
    let max_running = if request.max_running == 0 { RUNNING } else { request.max_running };
    if max_running > MOST_RUNNING {
        return Err(Error::BadRequest(format!("at most {MOST_RUNNING} runs of a backfill go on at a time")));
    }
    let version = checked.pipeline.version().to_string();
    let decl = &range.decl;
    let reprocess = match reprocess {
        Reprocess::None => v1::Reprocess::None,
        Reprocess::Failed => v1::Reprocess::Failed,
        Reprocess::All => v1::Reprocess::All,
    };
    let identity = json!([
        checked.pipeline.name,
        version,
        range.from,
        range.to,
        decl.trigger,
        decl.timezone,
        decl.start,
        decl.params,
        reprocess as i32,
        request.no_cache,
    ]);
    Ok(BackfillRecord {
        pipeline: checked.pipeline.name.to_string(),
        version,
        text: source.text,
        path: source.path,
        operators: checked.operators.clone(),
        // Plain data with string keys.
        schedule_json: serde_json::to_string(decl).unwrap_or_default(),
        from_ms: range.from,
        to_ms: range.to,
        params: request.params.clone(),
        max_running,
        reprocess: reprocess.into(),
        reverse: request.reverse,
        no_cache: request.no_cache,
        priority: request.priority,
        created_ms: now,
        left_out: range.left_out,
        identity: Digest::of(identity.to_string().as_bytes()).into(),
        ..BackfillRecord::default()
    })
}

/// Says how a run ended that does not go on.
fn ended(shared: &Shared, run: &str) -> Result<Was, Error> {
    let Ok(id) = run.parse::<RunId>() else { return Ok(Was::Forgotten) };
    let record = store::read::<RunRecord>(&*shared.store, &Key::Run(id))?;
    Ok(match record.and_then(|record| records::run_state_from(record.state)) {
        Some(RunState::Succeeded) => Was::Succeeded,
        Some(RunState::Failed | RunState::Cancelled) => Was::Failed,
        Some(RunState::Running | RunState::Cancelling) => Was::Going,
        None => Was::Forgotten,
    })
}

/// Finds an ended backfill of which the same was asked.
fn equal(store: &dyn Store, identity: &str) -> Result<Option<(BackfillRecord, Vec<Item>)>, Error> {
    for (key, value) in store.scan_back(&prefix::backfills(), None, LOOKED_AT)? {
        let (key, record) = store::codec::decode_row::<BackfillRecord>(&key, &value)?;
        if let Key::Backfill(id) = key
            && record.identity == identity
            && book::is_ended(&record)
        {
            return Ok(Some((record, stored(store, &id)?)));
        }
    }
    Ok(None)
}

/// Finds the version of a pipeline that was submitted last.
fn last_version(store: &dyn Store, name: &PipelineName) -> Result<Option<PipelineRecord>, Error> {
    let mut last: Option<PipelineRecord> = None;
    store::visit(store, &prefix::pipelines(), |key, value| {
        let (_, record) = store::codec::decode_row::<PipelineRecord>(&key, &value)?;
        if record.name == name.as_str() && last.as_ref().is_none_or(|last| last.created_ms < record.created_ms) {
            last = Some(record);
        }
        Ok(())
    })?;
    Ok(last)
}

/// Reads the intervals of a backfill.
fn stored(store: &dyn Store, id: &BackfillId) -> Result<Vec<Item>, Error> {
    book::items(store, id)?.map_err(|e| Error::Internal(format!("the backfill `{id}` cannot be read: {e}")))
}

fn resolve(store: &dyn Store, reference: &str) -> Result<BackfillId, Error> {
    if let Ok(id) = reference.parse() {
        return Ok(id);
    }
    let one = |rows: Vec<store::Row>| match rows.as_slice() {
        [(key, _)] => match Key::decode(key) {
            Ok(Key::Backfill(id)) => Ok(id),
            _ => Err(no_backfill(reference)),
        },
        [] => Err(no_backfill(reference)),
        _ => Err(Error::BadRequest(format!("more than one backfill starts with `{reference}`: give more characters"))),
    };
    if reference == "latest" {
        return one(store.scan_back(&prefix::backfills(), None, 1)?);
    }
    let start = if reference.starts_with("bf_") { reference.to_owned() } else { format!("bf_{reference}") };
    if start.len() < "bf_".len() + 1 || !start.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(no_backfill(reference));
    }
    one(store.scan(&prefix::backfills_like(&start), None, 2)?)
}

fn no_backfill(reference: &str) -> Error {
    Error::NotFound(format!("there is no backfill `{}`", reference.chars().take(64).collect::<String>()))
}
