//! Which runs may go on: the concurrency of a pipeline, and what becomes of a run that finds no room.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use segue_proto::ids::RunId;

use super::{Core, Effect, Refused, Run, RunState, TaskState, UnixMillis, Verdict, event::Past};
use crate::spec::OnFull;

/// Runs that count together: pipeline and key.
pub(super) type Lane = (String, String);

/// Order in a lane: larger priority, then who waits for longer.
pub(super) type Turn = (Reverse<i32>, UnixMillis, RunId);

/// Who goes and who waits, by lane.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub going: BTreeMap<Lane, BTreeSet<RunId>>,
    pub waiting: BTreeMap<Lane, BTreeSet<Turn>>,
    /// Runs that have ended since the last flush.
    pub ended: Vec<RunId>,
}

fn lane(run: &Run) -> Option<(Lane, u32, OnFull)> {
    let concurrency = run.spec.concurrency.as_ref()?;
    let lane = (run.spec.pipeline.to_string(), concurrency.key.clone());
    Some((lane, concurrency.max.max(1), concurrency.on_full))
}

const fn turn(run: &Run) -> Turn {
    (Reverse(run.priority), run.waits_since, run.id)
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

    /// Forgets a run; gives its lane.
    fn leave(&mut self, run: &Run) -> Option<Lane> {
        let (lane, ..) = lane(run)?;
        remove(&mut self.waiting, &lane, &turn(run));
        remove(&mut self.going, &lane, &run.id);
        Some(lane)
    }

    /// Gives the next run of a lane, if it may start; it goes on from now. `max` says how many may go on beside a run:
    /// versions of a pipeline may say different numbers.
    fn next(&mut self, lane: &Lane, max: impl Fn(&RunId) -> u32) -> Option<RunId> {
        let turn = *self.waiting.get(lane)?.first()?;
        if !self.has_room(lane, max(&turn.2)) {
            return None;
        }
        remove(&mut self.waiting, lane, &turn);
        self.going.entry(lane.clone()).or_default().insert(turn.2);
        Some(turn.2)
    }
}

/// Takes one out of a lane, and the lane away when it was the last.
fn remove<T: Ord>(lanes: &mut BTreeMap<Lane, BTreeSet<T>>, lane: &Lane, one: &T) {
    if let Some(known) = lanes.get_mut(lane) {
        known.remove(one);
        if known.is_empty() {
            lanes.remove(lane);
        }
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
        // Nobody overtakes those that wait.
        let room = self.admission.has_room(&lane, max) && !self.admission.waiting.contains_key(&lane);
        match on_full {
            _ if room => {
                run.state = RunState::Running;
                self.admission.going.entry(lane).or_default().insert(id);
                self.enter(run, now);
                self.launch(id, now, past);
            }
            // A rerun was asked for by name: it waits, and keeps what it has.
            OnFull::Skip if run.generation == 0 => {
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
                self.effects.push(Effect::RunEnded(id));
            }
            OnFull::Queue | OnFull::CancelRunning | OnFull::Skip => {
                run.state = RunState::Queued;
                self.admission.waiting.entry(lane.clone()).or_default().insert(turn(&run));
                self.enter(run, now);
                if on_full == OnFull::CancelRunning {
                    let why = format!("run {id} took its place (`on_full = \"cancel_running\"`)");
                    let going: Vec<RunId> = self
                        .admission
                        .going
                        .get(&lane)
                        .map(|going| going.iter().copied().collect())
                        .unwrap_or_default();
                    for other in going {
                        if self.run_state(&other) == Some(RunState::Running) {
                            let _ = self.cancel_run(other, false, &why, now);
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
                        let _ = self.cancel_run(other, false, &why, now);
                    }
                }
            }
        }
    }

    /// A run has ended: the next one of its lane starts.
    pub(super) fn leave(&mut self, id: RunId, now: UnixMillis, past: &dyn Past) {
        self.admission.ended.push(id);
        let Some(run) = self.runs.get(&id) else { return };
        let Some(free) = self.admission.leave(run) else { return };
        let max = |runs: &BTreeMap<RunId, Run>, id: &RunId| runs.get(id).and_then(lane).map_or(1, |(_, max, _)| max);
        while let Some(next) = self.admission.next(&free, |id| max(&self.runs, id)) {
            if let Some(run) = self.runs.get_mut(&next) {
                run.state = RunState::Running;
                // What it waited for until now was no worker.
                run.waits_since = now;
            }
            self.changed.runs.insert(next);
            self.watchers(next);
            self.launch(next, now, past);
        }
    }

    /// Gives the runs that keep this one from starting, and how many may go on at a time.
    #[must_use]
    pub fn runs_before(&self, run: &Run) -> Option<(Vec<RunId>, u32)> {
        (run.state == RunState::Queued).then(|| self.admission.others(run)).flatten()
    }
}
