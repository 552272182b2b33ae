//! The shell around schedules and backfills: wakes when something is due, decides, persists, submits.
//!
//! What is decided is on disk before a run is asked for, and the run's key is that of its interval: a coordinator that is
//! killed between the two asks again, and gets the run that is there. Submissions are tasks of their own, so that one
//! whose inputs take long to digest holds up nobody else.

mod answers;
mod apply;
mod backfills;
mod book;
mod lookup;
mod notes;
mod range;
mod submit;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use segue_proto::{
    ids::{BackfillId, PipelineName, RunId},
    store::v1::RunRecord,
};
use tokio::sync::{Mutex, Notify, broadcast};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::book::{Book, Going};
use super::{api::Shared, error::Error, records};
use crate::{
    core::{RunState, UnixMillis},
    schedule::{
        Interval,
        backfill::Progress,
        scheduler::{Action, State},
    },
    store::{self, Batch, Key},
};

/// How long it may take until a change of the system's clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How long a turn waits after the store or the core did not answer.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Schedules and backfills of a coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Schedules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Shared,
    book: Mutex<Book>,
    /// Runs whose end is waited for.
    watched: RwLock<HashSet<RunId>>,
    wake: Notify,
    tasks: TaskTracker,
    /// Whether schedules fire, and backfills go on that nobody has asked for since the start.
    fires: bool,
}

/// What is to be done once a decision is on disk.
enum Work {
    Interval { name: PipelineName, interval: Interval, late: bool },
    Item { id: BackfillId, at: usize },
    Cancel { run: String, why: String },
}

impl Schedules {
    /// Reads what is stored. Submissions are tracked by `tasks`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(shared: Shared, tasks: TaskTracker, fires: bool) -> Result<Self, Error> {
        let book = shared.blocking(|shared| book::load(&*shared.store)).await?;
        if !book.schedules.is_empty() || !book.backfills.is_empty() {
            let (schedules, backfills) = (book.schedules.len(), book.backfills.len());
            info!(schedules, backfills, fires, "schedules and backfills read");
        }
        let inner =
            Inner { shared, book: Mutex::new(book), watched: RwLock::default(), wake: Notify::new(), tasks, fires };
        Ok(Self(Arc::new(inner)))
    }

    /// Runs until the coordinator stops.
    pub async fn run(self) {
        let stop = self.0.shared.stop.clone();
        self.0.tasks.spawn(self.clone().tidy());
        let mut changes = self.0.shared.handle.changes();
        loop {
            let sleep = match self.turn().await {
                Ok(Some(at)) => Duration::from_millis(at.saturating_sub(wall()).max(1)).min(LONGEST_SLEEP),
                Ok(None) => LONGEST_SLEEP,
                Err(Error::Stopping) => return,
                Err(e) => {
                    warn!(error = %e, "schedules not decided: trying again");
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(sleep) => {}
                () = self.0.wake.notified() => {}
                () = self.an_end(&mut changes) => {}
            }
        }
    }

    /// Deletes what the history of each schedule has too much. Nobody waits for it.
    async fn tidy(self) {
        if !self.0.fires {
            return;
        }
        let names: Vec<PipelineName> = self.0.book.lock().await.schedules.keys().cloned().collect();
        for name in names {
            if self.0.shared.stop.is_cancelled() {
                return;
            }
            let of = name.clone();
            if let Err(e) = self.0.shared.blocking(move |shared| notes::prune(shared, &of)).await {
                warn!(schedule = %name, error = %e, "old notes of a schedule not deleted: the next start tries again");
            }
        }
    }

    /// Waits until a run that somebody waits for has ended, or may have.
    async fn an_end(&self, changes: &mut broadcast::Receiver<RunId>) {
        loop {
            match changes.recv().await {
                Ok(run) => {
                    let watched = self.0.watched.read().unwrap_or_else(PoisonError::into_inner).contains(&run);
                    if !watched {
                        continue;
                    }
                    // A run that goes on changes often.
                    let going =
                        move |core: &crate::core::Core| core.run(&run).is_some_and(|run| !run.state.is_terminal());
                    if !self.0.shared.handle.read_patiently(going).await.unwrap_or(false) {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Decides everything that is due. Gives when something is due next.
    async fn turn(&self) -> Result<Option<UnixMillis>, Error> {
        let now = wall();
        let mut book = self.0.book.lock().await;
        let ended = self.ended(watched(&book)).await?;
        let mut batch = Batch::new();
        let mut work = Vec::new();
        let mut states = Vec::new();
        for (name, entry) in book.schedules.iter().filter(|_| self.0.fires) {
            let mut state = entry.state.clone();
            for run in ended.keys() {
                state.ended(run);
            }
            let actions = state.decide(&entry.plan, now);
            if state != entry.state {
                batch.put(&Key::Schedule(name.clone()), &entry.record_with(&state));
            }
            self.note_actions(name, &actions, &state, now, &mut batch)?;
            let may_submit = entry.tries.not_before <= now;
            work.extend(actions.into_iter().filter_map(|action| match action {
                Action::Start { interval, late } if may_submit && !entry.tries.submitting.contains(&interval) => {
                    Some(Work::Interval { name: name.clone(), interval, late })
                }
                Action::Start { .. } | Action::Skip { .. } | Action::Missed { .. } => None,
            }));
            let cancelling = state.active.iter().filter(|active| active.cancelling);
            work.extend(cancelling.map(|active| Work::Cancel {
                run: active.run.clone(),
                why: format!("a later fire of schedule `{name}` took its place (`overlap = \"cancel_running\"`)"),
            }));
            states.push((name.clone(), state));
        }
        let mut over = Vec::new();
        for (id, going) in book.backfills.iter_mut().filter(|(_, going)| self.0.fires || going.awake) {
            if advance(id, going, &ended, now, &mut batch) {
                over.push(id.clone());
            }
            work.extend(going.set.to_cancel().into_iter().map(|at| Work::Cancel {
                run: going.set.items[at].run.clone(),
                why: format!("backfill {id} was cancelled"),
            }));
            if going.tries.not_before <= now {
                let due = going.set.to_submit(&going.tries.submitting);
                work.extend(due.into_iter().map(|at| Work::Item { id: id.clone(), at }));
            }
        }
        if !batch.is_empty() {
            // After a failed commit the store takes no more, and the coordinator stops: memory may be ahead of it.
            self.0.shared.committer.commit(batch).await?;
        }
        for (name, state) in states {
            if let Some(entry) = book.schedules.get_mut(&name) {
                entry.state = state;
            }
        }
        for id in over {
            info!(backfill = %id, "backfill ended");
            book.backfills.remove(&id);
        }
        for work in work {
            self.begin(work, &mut book);
        }
        *self.0.watched.write().unwrap_or_else(PoisonError::into_inner) =
            watched(&book).iter().filter_map(|run| run.parse().ok()).collect();
        Ok(self.next_wakeup(&book, now))
    }

    fn next_wakeup(&self, book: &Book, now: UnixMillis) -> Option<UnixMillis> {
        let schedules = book.schedules.values().filter(|_| self.0.fires).flat_map(|entry| {
            [entry.state.next_wakeup(&entry.plan), Some(entry.tries.not_before).filter(|at| *at > now)]
        });
        let backfills = book.backfills.values().map(|going| Some(going.tries.not_before).filter(|at| *at > now));
        schedules.chain(backfills).flatten().min()
    }

    /// Notes what became of fires that get no run.
    fn note_actions(
        &self,
        name: &PipelineName,
        actions: &[Action],
        state: &State,
        now: UnixMillis,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        for action in actions {
            let (interval, record) = match action {
                Action::Skip { interval, why } => {
                    let going = state.active.first().map(|active| active.run.as_str());
                    (*interval, notes::skipped(*why, going, now))
                }
                Action::Missed { first, last, count } => {
                    (Interval { start: first.start, end: last.end }, notes::missed(*count, now))
                }
                Action::Start { .. } => continue,
            };
            notes::put(&*self.0.shared.store, batch, name, interval, record)?;
        }
        Ok(())
    }

    /// Gives those of some runs that have ended, and how.
    async fn ended(&self, runs: BTreeSet<String>) -> Result<BTreeMap<String, Progress>, Error> {
        if runs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids: Vec<(String, Option<RunId>)> = runs.into_iter().map(|run| (run.clone(), run.parse().ok())).collect();
        let gone = self
            .0
            .shared
            .handle
            .read_patiently(move |core| {
                let goes_on = |id: &RunId| core.run(id).is_some_and(|run| !run.state.is_terminal());
                ids.into_iter().filter(|(_, id)| !id.as_ref().is_some_and(goes_on)).collect::<Vec<_>>()
            })
            .await?;
        self.0
            .shared
            .blocking(move |shared| {
                let mut ended = BTreeMap::new();
                for (run, id) in gone {
                    let record = match id {
                        Some(id) => store::read::<RunRecord>(&*shared.store, &Key::Run(id))?,
                        None => None,
                    };
                    let progress = match record.map(|record| records::run_state_from(record.state)) {
                        Some(Some(RunState::Succeeded)) => Progress::Succeeded,
                        // Skipped: others were going, and its pipeline does not let it wait.
                        Some(Some(RunState::Cancelled | RunState::Skipped)) => Progress::Cancelled,
                        Some(Some(RunState::Queued | RunState::Running | RunState::Cancelling)) => continue,
                        // Deleted since, or not readable: nobody knows better.
                        Some(Some(RunState::Failed) | None) | None => Progress::Failed,
                    };
                    ended.insert(run, progress);
                }
                Ok(ended)
            })
            .await
    }
}

/// Takes a backfill a step further. Says whether it is over.
fn advance(
    id: &BackfillId,
    going: &mut Going,
    ended: &BTreeMap<String, Progress>,
    now: UnixMillis,
    batch: &mut Batch,
) -> bool {
    let mut changed = Vec::new();
    for (at, item) in going.set.items.iter_mut().enumerate() {
        if item.progress == Progress::Running
            && let Some(progress) = ended.get(&item.run)
        {
            item.progress = *progress;
            changed.push(at);
        }
    }
    changed.extend(going.set.take());
    for at in changed {
        if let Some(record) = going.item_record(at) {
            batch.put(&Key::BackfillInterval { backfill: id.clone(), index: index(at) }, &record);
        }
    }
    let outcome = going.set.outcome();
    if outcome.is_terminal() {
        going.record.state = book::outcome(outcome).into();
        going.record.ended_ms = now;
        batch.put(&Key::Backfill(id.clone()), &going.record);
    }
    outcome.is_terminal()
}

/// Gives the runs whose end is waited for.
fn watched(book: &Book) -> BTreeSet<String> {
    let schedules = book.schedules.values().flat_map(|entry| entry.state.active.iter().map(|active| &active.run));
    let backfills = book.backfills.values().flat_map(|going| {
        let running = going.set.items.iter().filter(|item| item.progress == Progress::Running);
        running.map(|item| &item.run).filter(|run| !run.is_empty())
    });
    schedules.chain(backfills).cloned().collect()
}

/// Gives the index of an item as keys have it; there are at most ten thousand.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Gives the time of the system's clock. Unlike that of leases it may be set: fires are meant by it, and one that is
/// decided is not decided again when it goes back.
fn wall() -> UnixMillis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
