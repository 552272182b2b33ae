//! Delays between tries: doubling, capped, jittered, so that workers do not come back all at once.

use std::time::Duration;

/// Grows with each failure, starts again after a success.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Makes a backoff between these delays.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure and gives the delay before the next try: between half and all of the doubled delay. `draw` is a
    /// random number.
    pub fn next(&mut self, draw: u64) -> Duration {
        let full =
            self.first.saturating_mul(1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let share = f64::from((draw >> 32) as u32) / f64::from(u32::MAX);
        full.mul_f64(0.5 + share / 2.0)
    }

    /// Gives how often it failed since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Gives a random number from the seed that std draws for its hash maps. Good enough for jitter and names.
#[must_use]
pub fn entropy() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let delays: Vec<u128> = (0..7).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(50), "the smallest draw gives half");
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..10_000 {
            assert!(backoff.next(entropy()) <= Duration::from_secs(2));
        }
    }
}
