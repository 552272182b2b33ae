//! Deliberate defects, one at a time: the proof that the simulation would notice them.
//!
//! Only a build with the feature `defects` can switch one on, and only the test of the simulation is built with it. In
//! every other build [`is`] is a constant, and nothing of a defect is compiled.

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A report counts whatever attempt it is about.
    TokenUnchecked,
    /// A lease never ends.
    LeaseWithoutEnd,
    /// What a cancelled run has not begun, it begins.
    CancelForgotten,
    /// A try that waited for its time when the coordinator stopped waits for ever.
    TimerLost,
    /// The end of a task counts twice for what waits for it.
    CountedTwice,
    /// Placement does not see what is leased already.
    OverCapacity,
    /// Placement does not see the slots of pools in use.
    PoolIgnored,
    /// A rerun executes what it was to keep.
    RerunOfEverything,
    /// Effects leave before their cause is flushed.
    ActFirst,
    /// After a restart nobody gets the time to come back with what he runs.
    NoTimeToReturn,
}

#[cfg(feature = "defects")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    use super::Defect;

    /// Place of the defect that is on, from 1.
    static ON: AtomicU8 = AtomicU8::new(0);

    impl Defect {
        /// All that there are.
        pub const ALL: [Self; 10] = [
            Self::TokenUnchecked,
            Self::LeaseWithoutEnd,
            Self::CancelForgotten,
            Self::TimerLost,
            Self::CountedTwice,
            Self::OverCapacity,
            Self::PoolIgnored,
            Self::RerunOfEverything,
            Self::ActFirst,
            Self::NoTimeToReturn,
        ];

        /// Breaks this rule from now on, in the whole process.
        pub fn switch_on(self) {
            ON.store(self as u8 + 1, Relaxed);
        }
    }

    pub(super) fn is(defect: Defect) -> bool {
        ON.load(Relaxed) == defect as u8 + 1
    }
}

/// Says whether a rule is broken.
#[cfg(feature = "defects")]
pub(crate) fn is(defect: Defect) -> bool {
    switch::is(defect)
}

/// Says that no rule is broken.
#[cfg(not(feature = "defects"))]
pub(crate) const fn is(_: Defect) -> bool {
    false
}
