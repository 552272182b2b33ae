//! What has been counted since this start of the coordinator.

use std::collections::BTreeMap;

use segue_proto::failure::Failure;

use crate::core::{AttemptState, RunState};

/// Counts that only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts that have ended, by outcome and class of failure (empty: none).
    pub attempts: BTreeMap<(&'static str, &'static str), u64>,
    /// Runs that have ended, by state.
    pub runs: BTreeMap<&'static str, u64>,
    /// Attempts whose worker was silent for longer than its lease.
    pub leases_lost: u64,
    /// Further tries that were granted after a failure.
    pub retries: u64,
}

impl Tally {
    pub(in crate::core) fn attempt_ended(&mut self, outcome: AttemptState, failure: Option<&Failure>) {
        let outcome = match outcome {
            AttemptState::Assigned | AttemptState::Running => return,
            AttemptState::Succeeded => "succeeded",
            AttemptState::Failed => "failed",
            AttemptState::TimedOut => "timed_out",
            AttemptState::Lost => "lost",
            AttemptState::Cancelled => "cancelled",
            AttemptState::HandedBack => "handed_back",
        };
        let class = failure.map_or("", |failure| failure.class.name());
        *self.attempts.entry((outcome, class)).or_default() += 1;
    }

    pub(in crate::core) fn run_ended(&mut self, state: RunState) {
        let state = match state {
            RunState::Queued | RunState::Running | RunState::Cancelling => return,
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
            RunState::Skipped => "skipped",
        };
        *self.runs.entry(state).or_default() += 1;
    }
}
