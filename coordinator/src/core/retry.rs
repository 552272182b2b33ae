//! Whether and when a failed task is tried again.

use segue_proto::{failure::FailureClass, ids::Token};

use super::UnixMillis;
use crate::spec::{Backoff, RetryPolicy};

/// Gives the time of the next try, or `None` when the policy allows none.
///
/// `tries` counts the tries burnt so far, the failed one included.
#[must_use]
pub fn next_try(
    policy: &RetryPolicy,
    class: FailureClass,
    tries: u32,
    token: &Token,
    now: UnixMillis,
) -> Option<UnixMillis> {
    (tries < policy.attempts && policy.on.contains(&class)).then(|| now.saturating_add(delay_ms(policy, tries, token)))
}

/// Gives the delay before the next try in milliseconds. The jitter comes from a hash of the token, not from a random
/// draw, so that replaying an event gives the same time.
#[must_use]
pub fn delay_ms(policy: &RetryPolicy, tries: u32, token: &Token) -> u64 {
    let base = match policy.backoff {
        Backoff::Constant => policy.initial_ms,
        Backoff::Exponential => {
            let doublings = tries.saturating_sub(1).min(40);
            policy.initial_ms.saturating_mul(1_u64 << doublings)
        }
    }
    .min(policy.max_ms);
    let hash = blake3::hash(token.to_string().as_bytes());
    let draw = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    // -1 to 1, uniform.
    let unit = (draw as f64 / u64::MAX as f64).mul_add(2.0, -1.0);
    let jittered = base as f64 * policy.jitter.clamp(0.0, 1.0).mul_add(unit, 1.0);
    (jittered.max(0.0) as u64).min(policy.max_ms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn token(attempt: u32) -> Token {
        Token {
            run: "run_01j8zk5m8w0000000000000000".parse().unwrap(),
            task: "t".parse().unwrap(),
            index: 0,
            attempt,
            epoch: 1,
        }
    }

    #[test]
    fn only_listed_classes_are_tried_again_and_only_while_tries_are_left() {
        let policy = RetryPolicy::default();
        assert!(next_try(&policy, FailureClass::Lost, 1, &token(1), 0).is_some());
        assert_eq!(next_try(&policy, FailureClass::User, 1, &token(1), 0), None);
        assert_eq!(next_try(&policy, FailureClass::Lost, 3, &token(3), 0), None);
    }

    #[test]
    fn delays_double_up_to_the_cap_and_jitter_stays_in_its_share() {
        let policy = RetryPolicy { jitter: 0.2, initial_ms: 1_000, max_ms: 5_000, ..RetryPolicy::default() };
        for (tries, base) in [(1, 1_000.0), (2, 2_000.0), (3, 4_000.0), (4, 5_000.0), (60, 5_000.0)] {
            let delay = delay_ms(&policy, tries, &token(tries)) as f64;
            assert!(delay >= base * 0.8 - 1.0 && delay <= base * 1.2 + 1.0, "{tries}: {delay}");
        }
    }

    #[test]
    fn the_same_token_gives_the_same_delay_and_another_one_another() {
        let policy = RetryPolicy { jitter: 0.5, ..RetryPolicy::default() };
        assert_eq!(delay_ms(&policy, 1, &token(1)), delay_ms(&policy, 1, &token(1)));
        assert_ne!(delay_ms(&policy, 1, &token(1)), delay_ms(&policy, 1, &token(2)));
    }
}
