//! Whether and when a failed task is tried again.

use segue_proto::{failure::Failure, ids::Token};

use super::UnixMillis;
use crate::spec::{Backoff, RetryPolicy};

/// Gives the time of the next try, or `None` when the policy allows none.
///
/// `tries` counts the tries burnt so far, the failed one included. The first rule that fits the failure counts instead
/// of the policy; an exit code in `never` is never tried again.
#[must_use]
pub fn next_try(
    policy: &RetryPolicy,
    failure: &Failure,
    tries: u32,
    token: &Token,
    now: UnixMillis,
) -> Option<UnixMillis> {
    if failure.exit_code.is_some_and(|code| policy.never.contains(&code)) {
        return None;
    }
    let rule = policy.rules.iter().find(|rule| {
        failure.exit_code.is_some_and(|code| rule.exit_codes.contains(&code)) || rule.on.contains(&failure.class)
    });
    let pace = match rule {
        Some(rule) => Pace {
            attempts: rule.attempts,
            backoff: rule.backoff,
            initial_ms: rule.initial_ms,
            max_ms: rule.max_ms,
            jitter: rule.jitter,
        },
        None if policy.on.contains(&failure.class) => Pace::of(policy),
        None => return None,
    };
    (tries < pace.attempts).then(|| now.saturating_add(pace.delay_ms(tries, token)))
}

/// How often, and how fast.
#[derive(Debug, Clone, Copy)]
struct Pace {
    attempts: u32,
    backoff: Backoff,
    initial_ms: u64,
    max_ms: u64,
    jitter: f64,
}

impl Pace {
    const fn of(policy: &RetryPolicy) -> Self {
        Self {
            attempts: policy.attempts,
            backoff: policy.backoff,
            initial_ms: policy.initial_ms,
            max_ms: policy.max_ms,
            jitter: policy.jitter,
        }
    }

    /// Gives the delay before the next try in milliseconds. The jitter comes from a hash of the token, not from a
    /// random draw, so that replaying an event gives the same time.
    fn delay_ms(&self, tries: u32, token: &Token) -> u64 {
        let base = match self.backoff {
            Backoff::Constant => self.initial_ms,
            Backoff::Exponential => {
                let doublings = tries.saturating_sub(1).min(40);
                self.initial_ms.saturating_mul(1_u64 << doublings)
            }
        }
        .min(self.max_ms);
        let hash = blake3::hash(token.to_string().as_bytes());
        let draw = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
        // -1 to 1, uniform.
        let unit = (draw as f64 / u64::MAX as f64).mul_add(2.0, -1.0);
        let jittered = base as f64 * self.jitter.clamp(0.0, 1.0).mul_add(unit, 1.0);
        (jittered.max(0.0) as u64).min(self.max_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use segue_proto::failure::FailureClass;

    use super::*;
    use crate::spec::RetryRule;

    fn failed(class: FailureClass) -> Failure {
        Failure::new(class, "as told")
    }

    fn delay_ms(policy: &RetryPolicy, tries: u32, token: &Token) -> u64 {
        Pace::of(policy).delay_ms(tries, token)
    }

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
        assert!(next_try(&policy, &failed(FailureClass::Lost), 1, &token(1), 0).is_some());
        assert_eq!(next_try(&policy, &failed(FailureClass::User), 1, &token(1), 0), None);
        assert_eq!(next_try(&policy, &failed(FailureClass::Lost), 3, &token(3), 0), None);
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

    #[test]
    fn the_first_rule_that_fits_counts_and_some_exit_codes_are_final() {
        let busy = RetryRule {
            on: vec![],
            exit_codes: vec![75],
            attempts: 10,
            backoff: Backoff::Constant,
            initial_ms: 5,
            max_ms: 5,
            jitter: 0.0,
        };
        let memory = RetryRule { on: vec![FailureClass::Oom], exit_codes: vec![], attempts: 2, ..busy.clone() };
        let policy = RetryPolicy { never: vec![2], rules: vec![busy, memory], ..RetryPolicy::default() };
        let exit = |code| Failure { exit_code: Some(code), ..failed(FailureClass::User) };
        assert_eq!(next_try(&policy, &exit(75), 9, &token(9), 100), Some(105));
        assert_eq!(next_try(&policy, &exit(75), 10, &token(10), 100), None);
        assert_eq!(next_try(&policy, &exit(1), 1, &token(1), 100), None, "the policy does not list this class");
        assert_eq!(next_try(&policy, &failed(FailureClass::Oom), 1, &token(1), 100), Some(105));
        let final_one = Failure { exit_code: Some(2), ..failed(FailureClass::Infra) };
        assert_eq!(next_try(&policy, &final_one, 1, &token(1), 100), None);
    }
}
