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
    /// Gives the items to submit now, beside those that are being submitted.
    #[must_use]
    pub fn due(&self, submitting: &BTreeSet<usize>) -> Vec<usize> {
        if self.cancelled {
            return Vec::new();
        }
        let running = self.with(Progress::Running).count() + submitting.len();
        let room = (self.max_running as usize).saturating_sub(running);
        self.with(Progress::Waiting).filter(|item| !submitting.contains(item)).take(room).collect()
    }

    /// Gives the items with runs to be told to stop.
    #[must_use]
    pub fn to_cancel(&self) -> Vec<usize> {
        if self.cancelled { self.with(Progress::Running).collect() } else { Vec::new() }
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
    fn a_cancelled_backfill_submits_nothing_and_ends_with_its_last_run() {
        let mut whole = backfill(4, 2);
        whole.items[0].progress = Progress::Succeeded;
        whole.items[1].progress = Progress::Running;
        assert_eq!(whole.cancel(), [2, 3]);
        assert_eq!((whole.due(&BTreeSet::new()), whole.to_cancel()), (vec![], vec![1]));
        assert_eq!(whole.outcome(), Outcome::Cancelling);
        whole.items[1].progress = Progress::Cancelled;
        assert_eq!((whole.outcome(), whole.to_cancel()), (Outcome::Cancelled, vec![]));
    }

    proptest! {
        /// Runs end in any order, submissions are answered late: never too many at a time, each once, in order, and all.
        #[test]
        fn every_interval_is_submitted_once_and_never_too_many_run(n in 0_u64..40, max in 1_u32..7, seed: Vec<u8>) {
            let mut whole = backfill(n, max);
            let mut submitting = BTreeSet::new();
            let mut submitted = Vec::new();
            let mut seed = seed.into_iter().chain(std::iter::repeat(0));
            while whole.outcome() == Outcome::Running {
                for due in whole.due(&submitting) {
                    submitting.insert(due);
                    submitted.push(due);
                }
                let running: Vec<usize> = whole.with(Progress::Running).collect();
                prop_assert!(running.len() + submitting.len() <= max as usize);
                // Either a submission is answered or a run ends, wherever something is left.
                let answers = seed.next().is_some_and(|byte| byte % 2 == 0) || running.is_empty();
                match (answers, submitting.pop_first()) {
                    (true, Some(item)) => whole.items[item].progress = Progress::Running,
                    (_, item) => {
                        submitting.extend(item);
                        if let Some(&ended) = running.get(usize::from(seed.next().unwrap_or(0)) % running.len().max(1)) {
                            whole.items[ended].progress = Progress::Succeeded;
                        }
                    }
                }
            }
            prop_assert_eq!(submitted, (0..whole.items.len()).collect::<Vec<_>>());
            prop_assert_eq!(whole.outcome(), Outcome::Succeeded);
        }
    }
}
