//! Decides which intervals of a schedule are executed, and when: a state, the time, and what to do about it.
//!
//! A fire is *decided* once, in order, and never again: it is left out for a stated reason, or it waits for its run. What
//! waits is kept until its run is submitted, so that a crash at any moment loses nothing; submissions are idempotent, so
//! that nothing is doubled.

use super::{CatchUp, Interval, Overlap, Plan};
use crate::core::UnixMillis;

/// A fire is on time within this: it costs a moment to restart a coordinator.
pub const ON_TIME_MS: u64 = 60_000;
/// Most intervals that wait. With `catch_up = "all"` further fires stay undecided until there is room.
pub const MOST_WAITING: usize = 1_000;
/// Runs of missed intervals that go on at a time where runs may overlap.
pub const CAUGHT_UP_AT_ONCE: usize = 16;
/// Where counting what was missed stops.
const MOST_COUNTED: u64 = 1_000_000;

/// What is known of the fires of a schedule so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Every fire up to here is decided.
    pub decided: UnixMillis,
    /// While missed intervals are caught up: fires before it are too old. 0: nothing is caught up.
    pub floor: UnixMillis,
    /// Intervals that are to be submitted, in order.
    pub waiting: Vec<Waiting>,
    /// Runs that have not ended.
    pub active: Vec<Active>,
    pub paused: bool,
}

/// An interval that is to be submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub interval: Interval,
    /// Missed, and caught up: it waits for the runs before it and is never left out.
    pub late: bool,
    /// Its run was asked for, and may be there although nothing of it is known here yet.
    pub asked: bool,
    /// A later fire has taken its place after its run was asked for: that run is cancelled as soon as it is known.
    pub replaced: bool,
}

impl Waiting {
    const fn new(interval: Interval, late: bool) -> Self {
        Self { interval, late, asked: false, replaced: false }
    }
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    pub interval: Interval,
    pub run: String,
    /// It is to be told to stop, again after a restart.
    pub cancelling: bool,
}

/// What is to be done, once the state is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Submit a run. The interval waits until [`State::started`] or [`State::refused`]; until then it is asked for again.
    Start { interval: Interval, late: bool },
    /// Note that an interval is left out.
    Skip { interval: Interval, why: Skipped },
    /// Note that intervals were missed, from the first to the last.
    Missed { first: Interval, last: Interval, count: u64 },
}

/// Why an interval is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// A run of an earlier interval was going on.
    Overlap,
    /// A later fire came before it could start.
    Replaced,
    /// Too many wait already.
    QueueFull,
}

impl State {
    /// Begins: without a start, fires count from now on.
    #[must_use]
    pub fn new(plan: &Plan, now: UnixMillis) -> Self {
        Self { decided: plan.decl.start.map_or(now, |start| start.min(now)), ..Self::default() }
    }

    /// Decides every fire that is due, and says what may start.
    pub fn decide(&mut self, plan: &Plan, now: UnixMillis) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.paused {
            return actions;
        }
        // Fires before this are late, whatever their jitter.
        let late_before = now.saturating_sub(ON_TIME_MS).saturating_sub(plan.decl.jitter_ms);
        match plan.decl.catch_up {
            CatchUp::All => self.pass_what_is_too_old(plan, late_before, now, &mut actions),
            policy => self.pass_what_was_missed(policy, plan, late_before, now, &mut actions),
        }
        let together = plan.decl.catch_up == CatchUp::All && self.several_are_due(plan, now);
        while let Some(interval) = plan.after(self.decided).filter(|interval| plan.starts(*interval) <= now) {
            if !self.accept(Waiting::new(interval, together || interval.end < late_before), plan, &mut actions) {
                return self.start(plan, actions);
            }
        }
        self.floor = 0;
        self.start(plan, actions)
    }

    /// Says whether more than one fire is due. They were missed together, however short the gap was, and would be in each
    /// other's way if they counted as on time.
    fn several_are_due(&self, plan: &Plan, now: UnixMillis) -> bool {
        let due = |after: UnixMillis| plan.after(after).filter(|interval| plan.starts(*interval) <= now);
        due(self.decided).is_some_and(|first| due(first.end).is_some())
    }

    /// Gives when [`State::decide`] has something to do next, if nothing else happens.
    #[must_use]
    pub fn next_wakeup(&self, plan: &Plan) -> Option<UnixMillis> {
        if self.paused || (plan.decl.catch_up == CatchUp::All && self.waiting.len() >= MOST_WAITING) {
            return None;
        }
        plan.after(self.decided).map(|interval| plan.starts(interval))
    }

    /// Notes the run of an interval that waited. It is to be cancelled where a later fire has taken its place meanwhile.
    pub fn started(&mut self, interval: Interval, run: String) {
        let cancelling = self.waiting.iter().any(|waiting| waiting.interval == interval && waiting.replaced);
        self.waiting.retain(|waiting| waiting.interval != interval);
        self.active.push(Active { interval, run, cancelling });
    }

    /// Notes that the run of an interval that waited was refused.
    pub fn refused(&mut self, interval: Interval) {
        self.waiting.retain(|waiting| waiting.interval != interval);
    }

    /// Notes that a run has ended. Says whether it was one of these.
    pub fn ended(&mut self, run: &str) -> bool {
        let before = self.active.len();
        self.active.retain(|active| active.run != run);
        self.active.len() < before
    }

    /// Goes on after a pause. What was missed meanwhile is left to the policy, or left out.
    pub fn resume(&mut self, plan: &Plan, skip_missed: bool, now: UnixMillis) -> Vec<Action> {
        self.paused = false;
        let mut actions = Vec::new();
        if skip_missed {
            self.miss_until(now, plan, &mut actions);
        }
        actions
    }

    /// Under `catch_up = "none"` and `"last"`: passes over what is late, but for the last one where that is wanted.
    fn pass_what_was_missed(
        &mut self,
        policy: CatchUp,
        plan: &Plan,
        late_before: UnixMillis,
        now: UnixMillis,
        actions: &mut Vec<Action>,
    ) {
        let Some(last) = late_before.checked_sub(1).and_then(|until| plan.until(until)) else { return };
        if last.end <= self.decided {
            return;
        }
        let in_window = last.end.saturating_add(plan.decl.catch_up_window_ms) >= now;
        let on_time = || plan.after(last.end).is_some_and(|next| plan.starts(next) <= now);
        if policy == CatchUp::Last && in_window && !on_time() {
            self.miss_until(last.end.saturating_sub(1), plan, actions);
            self.accept(Waiting::new(last, true), plan, actions);
        } else {
            self.miss_until(last.end, plan, actions);
        }
    }

    /// Under `catch_up = "all"`: passes over what is older than the window. The window counts from the moment at which the
    /// gap was noticed, so that nothing grows too old while it waits for its turn.
    fn pass_what_is_too_old(
        &mut self,
        plan: &Plan,
        late_before: UnixMillis,
        now: UnixMillis,
        actions: &mut Vec<Action>,
    ) {
        if self.floor == 0 {
            let missed = plan.after(self.decided).is_some_and(|next| next.end < late_before);
            if !missed {
                return;
            }
            self.floor = now.saturating_sub(plan.decl.catch_up_window_ms).max(1);
        }
        self.miss_until(self.floor.saturating_sub(1), plan, actions);
    }

    /// Decides that every fire up to an instant is left out.
    fn miss_until(&mut self, until: UnixMillis, plan: &Plan, actions: &mut Vec<Action>) {
        let first = plan.after(self.decided).filter(|first| first.end <= until);
        if let (Some(first), Some(last)) = (first, plan.until(until)) {
            let count = plan.count(first, last, MOST_COUNTED);
            actions.push(Action::Missed { first, last, count });
            self.decided = last.end;
        }
    }

    /// Decides a fire that is due. Says whether it did: a full queue puts it off.
    fn accept(&mut self, fire: Waiting, plan: &Plan, actions: &mut Vec<Action>) -> bool {
        let interval = fire.interval;
        let overlap = plan.decl.overlap;
        if overlap == Overlap::CancelRunning && !fire.late && !self.waiting.iter().any(|waiting| waiting.late) {
            self.waiting.iter_mut().filter(|waiting| waiting.asked).for_each(|waiting| waiting.replaced = true);
            for waiting in self.waiting.extract_if(.., |waiting| !waiting.asked) {
                actions.push(Action::Skip { interval: waiting.interval, why: Skipped::Replaced });
            }
            self.active.iter_mut().for_each(|active| active.cancelling = true);
        }
        let busy = !self.active.is_empty() || !self.waiting.is_empty();
        if overlap == Overlap::Skip && busy && !fire.late {
            actions.push(Action::Skip { interval, why: Skipped::Overlap });
        } else if self.waiting.len() < MOST_WAITING {
            self.waiting.push(fire);
        } else if plan.decl.catch_up == CatchUp::All {
            return false;
        } else {
            actions.push(Action::Skip { interval, why: Skipped::QueueFull });
        }
        self.decided = interval.end;
        true
    }

    /// Asks for the runs that may start now.
    fn start(&mut self, plan: &Plan, mut actions: Vec<Action>) -> Vec<Action> {
        let allowed = plan.decl.overlap == Overlap::Allow;
        let mut going = self.active.len();
        for waiting in &mut self.waiting {
            let room = if allowed { !waiting.late || going < CAUGHT_UP_AT_ONCE } else { going == 0 };
            if room {
                waiting.asked = true;
                going += 1;
                actions.push(Action::Start { interval: waiting.interval, late: waiting.late });
            }
        }
        actions
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
