//! What clients ask of schedules.

use segue_proto::{convert, ids::PipelineName, store::v1::ScheduleRecord, v1};
use tracing::info;

use super::{
    Schedules,
    book::{self, Entry, Tries},
    notes,
    submit::{self, NotSubmitted},
    views, wall,
};
use crate::{
    schedule::{
        Plan,
        scheduler::{Active, State},
    },
    server::error::Error,
    spec,
    store::{Batch, Key},
};

/// Fires that are shown when nobody says how many, and at most.
const NEXT: u32 = 5;
const LAST: u32 = 10;
const MOST_SHOWN: u32 = 1_000;
/// Longest reason of a pause that is kept.
const LONGEST_NOTE: usize = 1_000;

impl Schedules {
    /// Registers the schedule of a file, or changes it for the fires to come.
    ///
    /// # Errors
    /// A file without a schedule, and those of the store. Faults of the file are in the answer.
    pub async fn apply(&self, request: v1::ApplyScheduleRequest) -> Result<v1::ApplyScheduleResponse, Error> {
        let catalogue = self.0.shared.operators();
        let refused = |diagnostics| v1::ApplyScheduleResponse { diagnostics, ..v1::ApplyScheduleResponse::default() };
        let checked = match submit::check(&catalogue, &request.text, &request.path) {
            Ok(checked) => checked,
            Err(diagnostics) => {
                self.0.shared.judge(&diagnostics).await?;
                return Ok(refused(diagnostics));
            }
        };
        let name = checked.pipeline.name.clone();
        let Some(decl) = checked.pipeline.schedule.clone() else {
            let message = format!("the pipeline `{name}` has no schedule: add a table [schedule] with cron or every");
            return Err(Error::BadRequest(message));
        };
        let plan = Plan::new(name.as_str(), decl).map_err(Error::Internal)?;
        let now = wall();
        let Some(sample) = plan.after(now).or_else(|| plan.until(now)) else {
            return Err(Error::BadRequest(format!(
                "the schedule of `{name}` fires neither from now on nor did it ever"
            )));
        };
        let params = spec::interval_params(&plan.decl, sample).map_err(Error::Internal)?;
        if let Err(diagnostics) = submit::try_bind(&checked, &catalogue, &params, &request.path) {
            return Ok(refused(diagnostics));
        }
        let mut record = ScheduleRecord {
            name: name.to_string(),
            version: checked.pipeline.version().into(),
            text: request.text,
            path: request.path,
            // Plain data with string keys.
            schedule_json: serde_json::to_string(&plan.decl).unwrap_or_default(),
            operators: checked.operators,
            created_ms: now,
            applied_ms: now,
            ..ScheduleRecord::default()
        };
        let mut book = self.0.book.lock().await;
        let mut batch = Batch::new();
        let (state, changed) = match book.schedules.get(&name) {
            Some(old) => {
                record.created_ms = old.record.created_ms;
                record.note.clone_from(&old.record.note);
                record.fires = old.record.fires;
                let mut state = old.state.clone();
                if old.plan.table != plan.table || old.plan.decl.start != plan.decl.start {
                    // What is due by now fires as it was written until now; the rest as it is written now.
                    let actions = if self.0.fires { state.decide(&old.plan, now) } else { Vec::new() };
                    self.note_actions(&name, &actions, &state, now, &mut batch)?;
                    state.decided = state.decided.max(now);
                }
                (state, old.record.version != record.version)
            }
            None => (State { paused: request.paused, ..State::new(&plan, now) }, true),
        };
        let mut entry = Entry { record, plan, state, tries: Tries::default() };
        let created = !book.schedules.contains_key(&name);
        batch.put(&Key::Schedule(name.clone()), &entry.record_with(&entry.state));
        self.0.shared.committer.commit(batch).await?;
        if let Some(old) = book.schedules.remove(&name) {
            entry.tries = old.tries;
        }
        let view = views::schedule(&entry, NEXT as usize, now);
        info!(schedule = %name, version = entry.record.version, created, "schedule applied");
        book.schedules.insert(name, entry);
        self.0.wake.notify_one();
        Ok(v1::ApplyScheduleResponse { schedule: Some(view), diagnostics: checked.warnings, created, changed })
    }

    /// Lists schedules by name.
    pub async fn list(&self) -> v1::ListSchedulesResponse {
        let now = wall();
        let book = self.0.book.lock().await;
        v1::ListSchedulesResponse {
            schedules: book.schedules.values().map(|entry| views::schedule(entry, 1, now)).collect(),
        }
    }

    /// Shows a schedule with its next fires and its last ones.
    ///
    /// # Errors
    /// An unknown schedule, and those of the store.
    pub async fn get(&self, request: v1::GetScheduleRequest) -> Result<v1::ScheduleView, Error> {
        let count = |wanted: u32, default: u32| (if wanted == 0 { default } else { wanted.min(MOST_SHOWN) }) as usize;
        let (next, last) = (count(request.next, NEXT), count(request.last, LAST));
        let name = named(request.name)?;
        let (mut view, zone) = {
            let book = self.0.book.lock().await;
            let entry = book.schedules.get(&name).ok_or_else(|| unknown(&name, &book))?;
            (views::schedule(entry, next, wall()), entry.plan.table.zone())
        };
        view.last = self.0.shared.blocking(move |shared| views::last(&*shared.store, &name, zone, last)).await?;
        Ok(view)
    }

    /// Stops the fires of a schedule.
    ///
    /// # Errors
    /// As [`Schedules::get`].
    pub async fn pause(&self, request: v1::PauseScheduleRequest) -> Result<v1::ScheduleView, Error> {
        if request.note.len() > LONGEST_NOTE {
            return Err(Error::BadRequest(format!("the note is longer than {LONGEST_NOTE} bytes")));
        }
        self.change(request.name, |entry, state, _| {
            state.paused = true;
            entry.note = request.note;
            Vec::new()
        })
        .await
    }

    /// Lets a schedule fire again.
    ///
    /// # Errors
    /// As [`Schedules::get`].
    pub async fn resume(&self, request: v1::ResumeScheduleRequest) -> Result<v1::ScheduleView, Error> {
        self.change(request.name, |record, state, plan| {
            record.note.clear();
            state.resume(plan, request.skip_missed, wall())
        })
        .await
    }

    async fn change(
        &self,
        name: String,
        change: impl FnOnce(&mut ScheduleRecord, &mut State, &Plan) -> Vec<crate::schedule::scheduler::Action>,
    ) -> Result<v1::ScheduleView, Error> {
        let name = named(name)?;
        let now = wall();
        let mut book = self.0.book.lock().await;
        if !book.schedules.contains_key(&name) {
            return Err(unknown(&name, &book));
        }
        let entry = book.schedules.get_mut(&name).ok_or(Error::Stopping)?;
        let mut state = entry.state.clone();
        let mut record = entry.record.clone();
        let actions = change(&mut record, &mut state, &entry.plan);
        entry.record = record;
        let mut batch = Batch::new();
        batch.put(&Key::Schedule(name.clone()), &entry.record_with(&state));
        self.note_actions(&name, &actions, &state, now, &mut batch)?;
        self.0.shared.committer.commit(batch).await?;
        entry.state = state;
        self.0.wake.notify_one();
        Ok(views::schedule(entry, NEXT as usize, now))
    }

    /// Takes a schedule away. What became of its intervals stays, so that they are known if it comes again.
    ///
    /// # Errors
    /// As [`Schedules::get`].
    pub async fn delete(&self, name: String) -> Result<(), Error> {
        let name = named(name)?;
        let mut book = self.0.book.lock().await;
        if !book.schedules.contains_key(&name) {
            return Err(unknown(&name, &book));
        }
        let mut batch = Batch::new();
        batch.delete(&Key::Schedule(name.clone()));
        self.0.shared.committer.commit(batch).await?;
        book.schedules.remove(&name);
        info!(schedule = %name, "schedule deleted");
        Ok(())
    }

    /// Submits a run now, for the last complete interval.
    ///
    /// # Errors
    /// As [`Schedules::get`]; a refusal.
    pub async fn trigger(&self, request: v1::TriggerScheduleRequest) -> Result<v1::TriggerScheduleResponse, Error> {
        let name = named(request.name)?;
        let now = wall();
        let (record, interval, zone, mut params) = {
            let book = self.0.book.lock().await;
            let entry = book.schedules.get(&name).ok_or_else(|| unknown(&name, &book))?;
            let interval = entry.plan.table.interval_until(now).or_else(|| entry.plan.table.interval_after(now));
            let interval = interval.ok_or_else(|| Error::Internal(format!("the schedule `{name}` has no interval")))?;
            let params = spec::interval_params(&entry.plan.decl, interval).map_err(Error::Internal)?;
            (entry.record.clone(), interval, entry.plan.table.zone(), params)
        };
        params.extend(request.params);
        let key =
            if request.idempotency_key.is_empty() { self.0.shared.ids.next_text() } else { request.idempotency_key };
        let submit = v1::SubmitRequest {
            text: record.text,
            path: record.path,
            params,
            idempotency_key: format!("trigger/{name}/{key}"),
            tags: submit::tags("trigger", name.as_str(), interval, zone),
            ..v1::SubmitRequest::default()
        };
        let answer = match submit::submit(&self.0.shared, submit, &record.operators).await {
            Ok(answer) => answer,
            Err(NotSubmitted::Refused(message)) => return Err(Error::BadRequest(message)),
            Err(NotSubmitted::Later(message)) => return Err(Error::Unavailable(message)),
        };
        self.triggered(&name, interval, &answer.run_id).await?;
        Ok(v1::TriggerScheduleResponse {
            run_id: answer.run_id,
            interval: Some(views::interval(zone, interval)),
            diagnostics: answer.diagnostics,
        })
    }

    /// Notes a run that was asked for by hand: later fires see it as one that goes on.
    async fn triggered(
        &self,
        name: &PipelineName,
        interval: crate::schedule::Interval,
        run: &str,
    ) -> Result<(), Error> {
        let mut book = self.0.book.lock().await;
        let Some(entry) = book.schedules.get_mut(name) else { return Ok(()) };
        let mut state = entry.state.clone();
        if !state.active.iter().any(|active| active.run == run) {
            state.active.push(Active { interval, run: run.to_owned(), cancelling: false });
        }
        let known = book::noted(&*self.0.shared.store, name, interval)?;
        let mut batch = Batch::new();
        batch.put(&Key::Schedule(name.clone()), &entry.record_with(&state));
        let note = notes::submitted(run.to_owned(), known.generation, false, "trigger", wall());
        notes::put(&*self.0.shared.store, &mut batch, name, interval, note)?;
        self.0.shared.committer.commit(batch).await?;
        entry.state = state;
        self.0.wake.notify_one();
        Ok(())
    }
}

/// Reads the name of a schedule.
fn named(name: String) -> Result<PipelineName, Error> {
    Ok(convert::id("name", name)?)
}

fn unknown(name: &PipelineName, book: &book::Book) -> Error {
    let near = spec::nearest(name.as_str(), book.schedules.keys().map(PipelineName::as_str));
    let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
    Error::NotFound(format!("there is no schedule `{name}`{hint}"))
}
