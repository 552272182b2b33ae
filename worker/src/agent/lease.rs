//! The worker's own view of its lease: how long it may still run what it holds without hearing from the coordinator.
//!
//! The lease counts from the moment a heartbeat was *sent*, not from the moment its answer came: the coordinator counts
//! from the receipt, so that the worker always stops first.
//!
//! A heartbeat waits for the answer to the one before it. A worker that is heard but hears nothing would renew a lease that
//! it does not know of with every heartbeat, and its attempts would stay with it although it has ended them: so it renews
//! its lease once more at the most.

use std::time::{Duration, Instant};

/// Shortest lease that is taken from the wire: a zero would fence at once and for ever.
const SHORTEST_LEASE: Duration = Duration::from_millis(50);

/// Heartbeats and the lease that their answers renew. Time is a parameter.
#[derive(Debug, Default)]
pub struct LeaseClock {
    lease: Duration,
    interval: Duration,
    valid_until: Option<Instant>,
    next_beat: Option<Instant>,
    sequence: u64,
    /// The heartbeat without answer: sequence and time of sending.
    unanswered: Option<(u64, Instant)>,
}

impl LeaseClock {
    /// Takes a welcome: the lease counts from `asked`, the time at which the hello was sent.
    pub fn granted(&mut self, lease: Duration, interval: Duration, asked: Instant) {
        self.lease = lease.max(SHORTEST_LEASE);
        self.interval = if interval.is_zero() { self.lease / 3 } else { interval.min(self.lease) };
        self.valid_until = Some(asked + self.lease);
        self.next_beat = Some(asked + self.interval);
        self.unanswered = None;
    }

    /// Stops heartbeats while there is no link. The lease runs on.
    pub fn link_lost(&mut self) {
        self.next_beat = None;
        self.unanswered = None;
    }

    /// Says whether a heartbeat is due: its time has come, and the one before it was answered.
    #[must_use]
    pub fn beat_due(&self, now: Instant) -> bool {
        self.next_beat().is_some_and(|at| at <= now)
    }

    fn next_beat(&self) -> Option<Instant> {
        self.next_beat.filter(|_| self.unanswered.is_none())
    }

    /// Notes that a heartbeat is sent now and gives its sequence number.
    pub fn beat(&mut self, now: Instant) -> u64 {
        self.sequence += 1;
        self.next_beat = Some(now + self.interval);
        self.unanswered = Some((self.sequence, now));
        self.sequence
    }

    /// Takes the answer to a heartbeat. One for a heartbeat of an earlier link renews nothing.
    pub fn answered(&mut self, sequence: u64) {
        if let Some((_, sent)) = self.unanswered.take_if(|(waiting, _)| *waiting == sequence) {
            let until = sent + self.lease;
            self.valid_until = Some(self.valid_until.map_or(until, |old| old.max(until)));
        }
    }

    /// Says whether the lease has passed. It stays so until the next welcome.
    #[must_use]
    pub fn expired(&self, now: Instant) -> bool {
        self.valid_until.is_some_and(|until| until <= now)
    }

    /// Forgets the lease after it passed and was acted on.
    pub fn forget(&mut self) {
        self.valid_until = None;
        self.link_lost();
    }

    /// Says when it ends, while there is one.
    #[must_use]
    pub const fn until(&self) -> Option<Instant> {
        self.valid_until
    }

    /// Gives the lease of the last welcome.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// Gives the time at which something is due next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        [self.next_beat(), self.valid_until].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(9);
    const BEAT: Duration = Duration::from_secs(3);

    fn clock(start: Instant) -> LeaseClock {
        let mut clock = LeaseClock::default();
        clock.granted(LEASE, BEAT, start);
        clock
    }

    #[test]
    fn the_lease_counts_from_the_sending_of_the_last_answered_heartbeat() {
        let start = Instant::now();
        let mut clock = clock(start);
        let first = clock.beat(start + BEAT);
        clock.answered(first);
        clock.beat(start + 2 * BEAT);
        assert!(!clock.expired(start + BEAT + LEASE - Duration::from_millis(1)));
        assert!(clock.expired(start + BEAT + LEASE), "the second heartbeat was never answered");
    }

    #[test]
    fn a_heartbeat_waits_for_the_answer_to_the_one_before_it_and_is_due_at_once_when_it_comes() {
        let start = Instant::now();
        let mut clock = clock(start);
        let first = clock.beat(start + BEAT);
        assert!(!clock.beat_due(start + 2 * BEAT), "who hears nothing asks for no more time");
        assert_eq!(clock.next_wake(), Some(start + LEASE), "it has nothing to wake up for before its lease ends");
        clock.answered(first);
        assert!(clock.beat_due(start + 2 * BEAT));
    }

    #[test]
    fn an_answer_is_counted_once() {
        let start = Instant::now();
        let mut clock = clock(start);
        let first = clock.beat(start + BEAT);
        clock.answered(first);
        let second = clock.beat(start + 2 * BEAT);
        clock.answered(first);
        assert!(!clock.beat_due(start + 3 * BEAT), "the second one is still without answer");
        clock.answered(second);
        assert!(!clock.expired(start + 2 * BEAT + LEASE - Duration::from_millis(1)));
        assert!(clock.expired(start + 2 * BEAT + LEASE));
    }

    #[test]
    fn an_answer_to_a_heartbeat_of_an_earlier_link_renews_nothing() {
        let start = Instant::now();
        let mut clock = clock(start);
        let old = clock.beat(start + BEAT);
        clock.link_lost();
        clock.answered(old);
        assert!(clock.expired(start + LEASE));
    }

    #[test]
    fn the_lease_runs_on_while_the_link_is_down() {
        let start = Instant::now();
        let mut clock = clock(start);
        clock.link_lost();
        assert!(!clock.beat_due(start + 10 * LEASE), "no link, no heartbeat");
        assert_eq!(clock.next_wake(), Some(start + LEASE));
        assert!(clock.expired(start + LEASE));
    }

    #[test]
    fn a_welcome_without_numbers_does_not_fence_for_ever() {
        let start = Instant::now();
        let mut clock = LeaseClock::default();
        clock.granted(Duration::ZERO, Duration::ZERO, start);
        assert!(!clock.expired(start));
        assert!(clock.next_wake().is_some_and(|at| at > start));
    }
}
