//! Submissions: asked for by a decision, executed as tasks of their own, noted when they are answered.

use segue_proto::{
    ids::{BackfillId, PipelineName},
    store::v1::IntervalRecord,
    v1,
};
use tracing::{debug, info, warn};

use super::{
    Schedules, Work,
    book::Book,
    index, notes,
    submit::{self, NotSubmitted},
    wall,
};
use crate::{
    core::Event,
    schedule::{Interval, backfill::Progress, interval_key, scheduler::State, zone},
    server::error::Error,
    spec,
    store::{Batch, Key},
};

impl Schedules {
    /// Begins what a decision asks for.
    pub(super) fn begin(&self, work: Work, book: &mut Book) {
        match work {
            Work::Cancel { run, why } => self.cancel(run, why),
            Work::Interval { name, interval, late } => {
                let Some(entry) = book.schedules.get_mut(&name) else { return };
                entry.tries.submitting.insert(interval);
                let operators = entry.record.operators.clone();
                let request = spec::interval_params(&entry.plan.decl, interval).map(|params| v1::SubmitRequest {
                    text: entry.record.text.clone(),
                    path: entry.record.path.clone(),
                    params,
                    idempotency_key: interval_key(name.as_str(), interval, 0),
                    tags: submit::tags("schedule", name.as_str(), interval, entry.plan.table.zone()),
                    ..v1::SubmitRequest::default()
                });
                let this = self.clone();
                self.0.tasks.spawn(async move {
                    let answer = match request {
                        Ok(request) => submit::submit(&this.0.shared, request, &operators).await,
                        Err(message) => Err(NotSubmitted::Refused(message)),
                    };
                    if let Err(e) = this.interval_answered(&name, interval, late, answer).await {
                        warn!(schedule = %name, error = %e, "the answer to a submission was not noted: it is asked for again");
                    }
                    this.0.wake.notify_one();
                });
            }
            Work::Item { id, at } => {
                let Some(going) = book.backfills.get_mut(&id) else { return };
                let Some(item) = going.set.items.get(at) else { return };
                going.tries.submitting.insert(at);
                let operators = going.record.operators.clone();
                let idempotency_key = interval_key(&going.record.pipeline, item.interval, item.generation);
                let zone = zone::find(&going.decl.timezone).unwrap_or(chrono_tz::Tz::UTC);
                let request = spec::interval_params(&going.decl, item.interval).map(|params| v1::SubmitRequest {
                    text: going.record.text.clone(),
                    path: going.record.path.clone(),
                    params,
                    idempotency_key,
                    no_cache: going.record.no_cache,
                    priority: Some(going.record.priority),
                    tags: submit::tags("backfill", id.as_str(), item.interval, zone),
                });
                let this = self.clone();
                self.0.tasks.spawn(async move {
                    let answer = match request {
                        Ok(request) => submit::submit(&this.0.shared, request, &operators).await,
                        Err(message) => Err(NotSubmitted::Refused(message)),
                    };
                    if let Err(e) = this.item_answered(&id, at, answer).await {
                        warn!(backfill = %id, error = %e, "the answer to a submission was not noted: it is asked for again");
                    }
                    this.0.wake.notify_one();
                });
            }
        }
    }

    /// Notes the answer to the submission of an interval of a schedule.
    async fn interval_answered(
        &self,
        name: &PipelineName,
        interval: Interval,
        late: bool,
        answer: Result<v1::SubmitResponse, NotSubmitted>,
    ) -> Result<(), Error> {
        let now = wall();
        let mut book = self.0.book.lock().await;
        // Deleted meanwhile: the run is there and belongs to nobody.
        let Some(entry) = book.schedules.get_mut(name) else { return Ok(()) };
        entry.tries.submitting.remove(&interval);
        let mut state: State = entry.state.clone();
        let (record, problem) = match answer {
            Ok(answer) => {
                state.started(interval, answer.run_id.clone());
                info!(schedule = %name, run = answer.run_id, late, "fired");
                (notes::submitted(answer.run_id, 0, late, "schedule", now), String::new())
            }
            Err(NotSubmitted::Refused(message)) => {
                state.refused(interval);
                warn!(schedule = %name, error = message, "fire refused");
                (notes::refused(message.clone(), late, now), message)
            }
            Err(NotSubmitted::Later(message)) => {
                debug!(schedule = %name, error = message, "fire put off");
                entry.tries.put_off(message, now);
                return Ok(());
            }
        };
        let mut batch = Batch::new();
        batch.put(&Key::Schedule(name.clone()), &entry.record_with(&state));
        notes::put(&*self.0.shared.store, &mut batch, name, interval, record)?;
        self.0.shared.committer.commit(batch).await?;
        entry.state = state;
        entry.tries.answered(problem);
        entry.record.fires += 1;
        let prune = entry.record.fires.is_multiple_of(notes::KEPT as u64 / 10);
        drop(book);
        if prune {
            let name = name.clone();
            self.0.shared.blocking(move |shared| notes::prune(shared, &name)).await?;
        }
        Ok(())
    }

    /// Notes the answer to the submission of an interval of a backfill.
    async fn item_answered(
        &self,
        id: &BackfillId,
        at: usize,
        answer: Result<v1::SubmitResponse, NotSubmitted>,
    ) -> Result<(), Error> {
        let now = wall();
        let mut book = self.0.book.lock().await;
        let Some(going) = book.backfills.get_mut(id) else { return Ok(()) };
        going.tries.submitting.remove(&at);
        let Some(item) = going.set.items.get_mut(at) else { return Ok(()) };
        let (interval, generation) = (item.interval, item.generation);
        let (record, problem): (IntervalRecord, String) = match answer {
            Ok(answer) => {
                item.run.clone_from(&answer.run_id);
                (notes::submitted(answer.run_id, generation, false, "backfill", now), String::new())
            }
            Err(NotSubmitted::Refused(message)) => {
                item.progress = Progress::Failed;
                item.message.clone_from(&message);
                (notes::refused(message.clone(), false, now), message)
            }
            Err(NotSubmitted::Later(message)) => {
                going.tries.put_off(message, now);
                return Ok(());
            }
        };
        going.tries.answered(problem);
        let mut batch = Batch::new();
        if let Some(record) = going.item_record(at) {
            batch.put(&Key::BackfillInterval { backfill: id.clone(), index: index(at) }, &record);
        }
        if let Ok(pipeline) = going.record.pipeline.parse() {
            notes::put(&*self.0.shared.store, &mut batch, &pipeline, interval, record)?;
        }
        Ok(self.0.shared.committer.commit(batch).await?)
    }

    /// Cancels a run; one that has ended stays as it is.
    fn cancel(&self, run: String, why: String) {
        let this = self.clone();
        self.0.tasks.spawn(async move {
            let Ok(id) = run.parse() else { return };
            if let Err(e) = this.0.shared.handle.decide(Event::CancelRun { run: id, gently: true, why }).await {
                debug!(run, error = %e, "run not cancelled");
            }
        });
    }
}
