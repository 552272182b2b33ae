//! What clients ask of backfills.

use std::collections::BTreeSet;

use segue_proto::{
    convert,
    ids::{BackfillId, PipelineName},
    store::v1::BackfillRecord,
    v1,
};
use tracing::info;

use super::{
    Schedules,
    book::{self, Going, Tries},
    index, lookup, range, submit, views, wall,
};
use crate::{
    schedule::{
        Interval,
        backfill::{Backfill, Item, Progress, Reprocess, Was},
    },
    server::{error::Error, pipelines},
    spec,
    store::{self, Batch, Key, keys::prefix},
};

/// Backfills of one answer when nobody says how many, and at most.
const LISTED: u32 = 20;
const MOST_LISTED: u32 = 1_000;

/// Where the text of a backfill comes from.
pub(super) struct Source {
    pub text: String,
    pub path: String,
    pub operators: Vec<v1::OperatorSpec>,
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
        let mut range = range::range(&checked, &request, now)?;
        if request.reverse {
            range.intervals.reverse();
        }
        let first = range.intervals.first().copied().ok_or_else(|| range::nothing(&range))?;
        let params = spec::interval_params(&range.decl, first).map_err(Error::BadRequest)?;
        if let Err(diagnostics) = submit::try_bind(&checked, &catalogue, &params, &source.path) {
            return Ok(refused(diagnostics));
        }
        let reprocess = range::reprocess(request.reprocess)?;
        let mut record = range::record(&checked, source, &range, &request, reprocess, now)?;
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
            if let Some((known, items)) =
                self.0.shared.blocking(move |shared| lookup::equal(&*shared.store, &identity)).await?
            {
                let view = views::backfill(&known, &items, true);
                return Ok(v1::BackfillResponse {
                    backfill: Some(view),
                    existing: true,
                    diagnostics: checked.warnings,
                });
            }
        }
        let id: BackfillId = convert::id("id", format!("bf_{}", self.0.shared.ids.next_text()))?;
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
                            found.push(views::backfill(&record, &lookup::stored(&*shared.store, &id)?, false));
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
                let record = record.ok_or_else(|| lookup::no_backfill(id.as_str()))?;
                Ok(views::backfill(&record, &lookup::stored(&*shared.store, &id)?, request.with_intervals))
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
        let last = self.0.shared.blocking(move |shared| pipelines::latest(&*shared.store, &wanted)).await?;
        let missing = || {
            let message = format!("there is no schedule `{name}`, and no pipeline of that name was ever submitted");
            Error::NotFound(message)
        };
        let record = last.ok_or_else(missing)?;
        Ok(Source { text: record.text, path: record.path, operators: record.operators })
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
        let active: BTreeSet<String> = active;
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
                        lookup::ended(&*shared.store, &noted.run_id)?
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
        self.0.shared.blocking(move |shared| lookup::resolve(&*shared.store, &reference)).await
    }
}
