//! A backfill: a set of intervals, each executed once, never more at a time than it may.

use std::collections::BTreeSet;

use super::Interval;

/// Most intervals of one backfill.
pub const MOST_INTERVALS: usize = 10_000;
/// Most runs of one backfill at a time, and how many when nobody says.
pub const MOST_RUNNING: u32 = 1_000;
pub const RUNNING: u32 = 4;

/// Which intervals are executed that have a run already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reprocess {
    #[default]
    None,
    Failed,
    All,
}

/// What became of the last run of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// None was made.
    Absent,
    /// It goes on.
    Going,
    Succeeded,
    /// Failed or cancelled.
    Failed,
    /// It ended, and its record was deleted since.
    Forgotten,
}

impl Reprocess {
    /// Says whether an interval is executed, and in which generation: that of its last run is `generation`.
    #[must_use]
    pub const fn chooses(self, was: Was, generation: u32) -> Option<u32> {
        match (self, was) {
            (_, Was::Absent) => Some(generation),
            (Self::Failed, Was::Failed) | (Self::All, _) => Some(generation.saturating_add(1)),
            (Self::None | Self::Failed, _) => None,
        }
    }
}

/// How far an interval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    Waiting,
    /// Its run is being submitted, or goes on.
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// Has a run already, which stays.
    Kept,
}

/// One interval of a backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub interval: Interval,
    /// 0: the first run of the interval.
    pub generation: u32,
    pub progress: Progress,
    /// Empty while there is none.
    pub run: String,
    /// Why it failed without a run; may be empty.
    pub message: String,
}

/// How far a backfill is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

impl Outcome {
    /// Says whether nothing more happens.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// The intervals of a backfill in the order of their execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backfill {
    pub items: Vec<Item>,
    pub max_running: u32,
    pub cancelled: bool,
}

impl Backfill {
    /// Takes the items whose turn has come: they run from now on, and are submitted once that is on disk.
    pub fn take(&mut self) -> Vec<usize> {
        if self.cancelled {
            return Vec::new();
        }
        let room = (self.max_running as usize).saturating_sub(self.with(Progress::Running).count());
        let taken: Vec<usize> = self.with(Progress::Waiting).take(room).collect();
        for &item in &taken {
            self.items[item].progress = Progress::Running;
        }
        taken
    }

    /// Gives the items whose run is not known yet: they are submitted, again after a restart. Where the whole is cancelled
    /// too, because a run may be there that must be cancelled.
    #[must_use]
    pub fn to_submit(&self, submitting: &BTreeSet<usize>) -> Vec<usize> {
        let unknown = |item: &usize| self.items[*item].run.is_empty() && !submitting.contains(item);
        self.with(Progress::Running).filter(unknown).collect()
    }

    /// Gives the items with runs to be told to stop.
    #[must_use]
    pub fn to_cancel(&self) -> Vec<usize> {
        let known = |item: &usize| self.cancelled && !self.items[*item].run.is_empty();
        self.with(Progress::Running).filter(known).collect()
    }

    /// Cancels what waits. Gives the items that changed.
    pub fn cancel(&mut self) -> Vec<usize> {
        self.cancelled = true;
        let waiting: Vec<usize> = self.with(Progress::Waiting).collect();
        for &item in &waiting {
            self.items[item].progress = Progress::Cancelled;
        }
        waiting
    }

    /// Says how far the whole is.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let any = |progress| self.items.iter().any(|item| item.progress == progress);
        match (any(Progress::Waiting) || any(Progress::Running), self.cancelled) {
            (true, true) => Outcome::Cancelling,
            (true, false) => Outcome::Running,
            (false, true) => Outcome::Cancelled,
            // A run of it that somebody else cancelled is a failure of the whole.
            (false, false) if any(Progress::Failed) || any(Progress::Cancelled) => Outcome::Failed,
            (false, false) => Outcome::Succeeded,
        }
    }

    fn with(&self, progress: Progress) -> impl Iterator<Item = usize> + '_ {
        self.items.iter().enumerate().filter(move |(_, item)| item.progress == progress).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backfill(n: u64, max_running: u32) -> Backfill {
        let item = |n| Item {
            interval: Interval { start: n, end: n + 1 },
            generation: 0,
            progress: Progress::Waiting,
            run: String::new(),
            message: String::new(),
        };
        Backfill { items: (0..n).map(item).collect(), max_running, cancelled: false }
    }

    #[test]
    fn only_what_was_asked_for_is_executed_again() {
        use {Reprocess as R, Was as W};
        let all = [W::Absent, W::Going, W::Succeeded, W::Failed, W::Forgotten];
        let chosen = |reprocess: R| all.map(|was| reprocess.chooses(was, 3));
        assert_eq!(chosen(R::None), [Some(3), None, None, None, None]);
        assert_eq!(chosen(R::Failed), [Some(3), None, None, Some(4), None]);
        assert_eq!(chosen(R::All), [Some(3), Some(4), Some(4), Some(4), Some(4)]);
    }

    #[test]
    fn a_backfill_ends_as_its_intervals_did() {
        let mut whole = backfill(3, 2);
        assert_eq!(whole.outcome(), Outcome::Running);
        whole.items[0].progress = Progress::Kept;
        whole.items[1].progress = Progress::Succeeded;
        whole.items[2].progress = Progress::Succeeded;
        assert_eq!(whole.outcome(), Outcome::Succeeded);
        whole.items[2].progress = Progress::Failed;
        assert_eq!(whole.outcome(), Outcome::Failed);
        whole.items[2].progress = Progress::Cancelled;
        assert_eq!(whole.outcome(), Outcome::Failed, "somebody cancelled a run of it");
        assert_eq!(backfill(0, 1).outcome(), Outcome::Succeeded);
    }

    #[test]
    fn a_cancelled_backfill_begins_nothing_and_ends_with_its_last_run() {
        let mut whole = backfill(4, 2);
        assert_eq!(whole.take(), [0, 1]);
        whole.items[0].run = "first".to_owned();
        assert_eq!(whole.cancel(), [2, 3]);
        assert!(whole.take().is_empty());
        assert_eq!(whole.to_submit(&BTreeSet::new()), [1], "its run may be there");
        assert_eq!(whole.to_cancel(), [0]);
        whole.items[1].run = "second".to_owned();
        assert!(whole.to_submit(&BTreeSet::new()).is_empty());
        assert_eq!(whole.to_cancel(), [0, 1]);
        assert_eq!(whole.outcome(), Outcome::Cancelling);
        whole.items[0].progress = Progress::Succeeded;
        whole.items[1].progress = Progress::Cancelled;
        assert_eq!(whole.outcome(), Outcome::Cancelled);
        assert!(whole.to_cancel().is_empty());
    }

    proptest! {
        /// Runs end in any order, submissions are answered late, and now and then everything in memory is lost: never too
        /// many at a time, each interval by one run, in order, and all of them.
        #[test]
        fn every_interval_is_executed_once_and_never_too_many_run(n in 0_u64..40, max in 1_u32..7, seed: Vec<u8>) {
            let mut whole = backfill(n, max);
            let mut submitting = BTreeSet::new();
            // By key, as the coordinator keeps them.
            let mut runs: Vec<usize> = Vec::new();
            let mut seed = seed.into_iter().chain(std::iter::repeat(1));
            while whole.outcome() == Outcome::Running {
                whole.take();
                prop_assert!(whole.with(Progress::Running).count() <= max as usize);
                for item in whole.to_submit(&submitting) {
                    submitting.insert(item);
                    if !runs.contains(&item) {
                        runs.push(item);
                    }
                }
                let known: Vec<usize> =
                    whole.with(Progress::Running).filter(|item| !whole.items[*item].run.is_empty()).collect();
                match (seed.next().unwrap_or(1) % 4, known.is_empty()) {
                    (0, _) => submitting.clear(),
                    (1, _) | (_, true) => {
                        if let Some(item) = submitting.pop_first() {
                            whole.items[item].run = item.to_string();
                        }
                    }
                    _ => {
                        let ended = known[usize::from(seed.next().unwrap_or(0)) % known.len()];
                        whole.items[ended].progress = Progress::Succeeded;
                    }
                }
                if seed.next().is_none_or(|byte| byte == 1) && submitting.is_empty() {
                    for item in known {
                        whole.items[item].progress = Progress::Succeeded;
                    }
                }
            }
            prop_assert_eq!(runs, (0..whole.items.len()).collect::<Vec<_>>());
            prop_assert_eq!(whole.outcome(), Outcome::Succeeded);
        }
    }
}
