//! Which runs may go on: the concurrency of a pipeline, and what becomes of a run that finds no room.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use segue_proto::ids::RunId;

use super::{Core, Refused, Run, RunState, TaskState, UnixMillis, Verdict, event::Past};
use crate::spec::OnFull;

/// Runs that count together: pipeline and key.
type Lane = (String, String);

/// Order in a lane: larger priority, then older.
type Turn = (Reverse<i32>, UnixMillis, RunId);

/// Who goes and who waits, by lane.
#[derive(Debug, Default)]
pub(super) struct Admission {
    going: BTreeMap<Lane, BTreeSet<RunId>>,
    waiting: BTreeMap<Lane, BTreeSet<Turn>>,
    /// Runs that have ended since the last flush.
    pub ended: Vec<RunId>,
}

fn lane(run: &Run) -> Option<(Lane, u32, OnFull)> {
    let concurrency = run.spec.concurrency.as_ref()?;
    let lane = (run.spec.pipeline.to_string(), concurrency.key.clone());
    Some((lane, concurrency.max.max(1), concurrency.on_full))
}

const fn turn(run: &Run) -> Turn {
    (Reverse(run.priority), run.created_at, run.id)
}

impl Admission {
    /// Takes a run that was active before a restart.
    pub fn restore(&mut self, run: &Run) {
        let Some((lane, ..)) = lane(run) else { return };
        match run.state {
            RunState::Queued => drop(self.waiting.entry(lane).or_default().insert(turn(run))),
            RunState::Running | RunState::Cancelling => drop(self.going.entry(lane).or_default().insert(run.id)),
            _ => {}
        }
    }

    /// Gives the runs that go on in the lane of a run, and how many may.
    pub fn others(&self, run: &Run) -> Option<(Vec<RunId>, u32)> {
        let (lane, max, _) = lane(run)?;
        Some((self.going.get(&lane).map(|going| going.iter().copied().collect()).unwrap_or_default(), max))
    }

    fn has_room(&self, lane: &Lane, max: u32) -> bool {
        self.going.get(lane).map_or(0, BTreeSet::len) < max as usize
    }

    /// Forgets a run; gives the next one of its lane that may start.
    fn leave(&mut self, run: &Run) -> Option<RunId> {
        let (lane, max, _) = lane(run)?;
        if let Some(waiting) = self.waiting.get_mut(&lane) {
            waiting.remove(&turn(run));
        }
        if let Some(going) = self.going.get_mut(&lane) {
            going.remove(&run.id);
        }
        let next = if self.has_room(&lane, max) {
            self.waiting.get_mut(&lane).and_then(BTreeSet::pop_first).map(|(.., id)| id)
        } else {
            None
        };
        if let Some(next) = next {
            self.going.entry(lane.clone()).or_default().insert(next);
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        self.going.retain(|_, going| !going.is_empty());
        next
    }
}

impl Core {
    pub(super) fn submit(&mut self, run: Run, now: UnixMillis, past: &dyn Past) -> Result<Verdict, Refused> {
        let id = run.id;
        self.changed.runs.insert(id);
        self.admit(run, now, past);
        self.watchers(id);
        Ok(Verdict::Done)
    }

    /// Lets a run in, makes it wait for its turn, or ends it.
    pub(super) fn admit(&mut self, mut run: Run, now: UnixMillis, past: &dyn Past) {
        let id = run.id;
        let Some((lane, max, on_full)) = lane(&run) else {
            run.state = RunState::Running;
            self.enter(run, now);
            self.launch(id, now, past);
            return;
        };
        let room = self.admission.has_room(&lane, max);
        match on_full {
            _ if room => {
                run.state = RunState::Running;
                self.admission.going.entry(lane).or_default().insert(id);
                self.enter(run, now);
                self.launch(id, now, past);
            }
            OnFull::Skip => {
                run.state = RunState::Running;
                self.enter(run, now);
                for index in self.open_tasks(id) {
                    self.close(id, index, TaskState::Skipped, now);
                }
                if let Some(run) = self.runs.get_mut(&id) {
                    run.state = RunState::Skipped;
                    run.ended_at = now;
                    self.upkeep.tally.run_ended(run.state);
                }
                self.admission.ended.push(id);
            }
            OnFull::Queue | OnFull::CancelRunning => {
                run.state = RunState::Queued;
                self.admission.waiting.entry(lane.clone()).or_default().insert(turn(&run));
                self.enter(run, now);
                if on_full == OnFull::CancelRunning {
                    let going: Vec<RunId> = self
                        .admission
                        .going
                        .get(&lane)
                        .map(|going| going.iter().copied().collect())
                        .unwrap_or_default();
                    for other in going {
                        if self.run_state(&other) == Some(RunState::Running) {
                            let _ = self.cancel_run(other, now);
                        }
                    }
                    // Those that wait were meant to be replaced as well.
                    let waiting: Vec<RunId> = self
                        .admission
                        .waiting
                        .get(&lane)
                        .map(|waiting| waiting.iter().map(|turn| turn.2).filter(|other| *other != id).collect())
                        .unwrap_or_default();
                    for other in waiting {
                        let _ = self.cancel_run(other, now);
                    }
                }
            }
        }
    }

    /// A run has ended: the next one of its lane starts.
    pub(super) fn leave(&mut self, id: RunId, now: UnixMillis, past: &dyn Past) {
        self.admission.ended.push(id);
        let Some(run) = self.runs.get(&id) else { return };
        let Some(next) = self.admission.leave(run) else { return };
        if let Some(run) = self.runs.get_mut(&next) {
            run.state = RunState::Running;
        }
        self.changed.runs.insert(next);
        self.watchers(next);
        self.launch(next, now, past);
    }

    /// Gives the runs that keep this one from starting, and how many may go on at a time.
    #[must_use]
    pub fn runs_before(&self, run: &Run) -> Option<(Vec<RunId>, u32)> {
        (run.state == RunState::Queued).then(|| self.admission.others(run)).flatten()
    }
}
