//! Which deliveries are due, and what comes after a failure. No clock, no store, no network.

use segue_proto::store::v1::delivery_record::Retry;

use crate::{core::UnixMillis, store::keys::DeliveryKey};

/// After this time nobody tries any more.
pub const GIVE_UP_MS: u64 = 24 * 3_600_000;

/// Longest delay that a receiver may ask for.
const LONGEST_ASKED_MS: u64 = 3_600_000;

/// How much is under way at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub in_all: usize,
    /// To one receiver.
    pub of_lane: usize,
    /// To one receiver whose last answer was none: a receiver that hangs must not hold what the others need.
    pub of_failing: usize,
}

/// Those of the coordinator.
pub const LIMITS: Limits = Limits { in_all: 64, of_lane: 4, of_failing: 1 };

/// One receiver: what waits for it, most urgent first, and what is under way to it.
#[derive(Debug, Clone, Default)]
pub struct Lane {
    pub waiting: Vec<DeliveryKey>,
    pub under_way: usize,
    pub failing: bool,
}

/// What to do now, and when to look again if nothing else happens before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub start: Vec<DeliveryKey>,
    pub wake_at: Option<UnixMillis>,
}

/// Chooses what to start: each receiver in turn, the most urgent of each first, never more than the limits allow.
#[must_use]
pub fn decide(now: UnixMillis, lanes: &[Lane], limits: Limits) -> Decision {
    let mut room = limits.in_all.saturating_sub(lanes.iter().map(|lane| lane.under_way).sum());
    let mut start = Vec::new();
    let mut turn = 0;
    loop {
        let before = start.len();
        for lane in lanes {
            let allowed = if lane.failing { limits.of_failing } else { limits.of_lane };
            if room == 0 || lane.under_way + turn >= allowed {
                continue;
            }
            if let Some(key) = lane.waiting.get(turn).filter(|key| key.due_ms <= now) {
                start.push(*key);
                room -= 1;
            }
        }
        if start.len() == before {
            break;
        }
        turn += 1;
    }
    // What is due and has no room is woken by the end of what is under way.
    let wake_at = lanes.iter().flat_map(|lane| &lane.waiting).map(|key| key.due_ms).filter(|due| *due > now).min();
    Decision { start, wake_at }
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Never holds a secret: neither an address that is one nor what the receiver said.
    pub message: String,
    /// The receiver wants it never again, or it cannot ever be sent.
    pub for_good: bool,
    /// The receiver asked for this delay.
    pub asked_ms: Option<u64>,
}

impl Failure {
    /// Makes one that may pass.
    pub fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), for_good: false, asked_ms: None }
    }

    /// Makes one that will not pass.
    pub fn for_good(message: impl Into<String>) -> Self {
        Self { for_good: true, ..Self::passing(message) }
    }
}

/// What comes after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    At(UnixMillis),
    GiveUp,
}

/// Decides what comes after a failure. `tries` counts the failed ones, this one included; `first_ms` is when the first
/// was due; `seed` spreads those that failed together.
#[must_use]
pub fn after(
    failure: &Failure,
    retry: &Retry,
    tries: u32,
    first_ms: UnixMillis,
    seed: DeliveryKey,
    now: UnixMillis,
) -> Next {
    if failure.for_good || tries >= retry.attempts {
        return Next::GiveUp;
    }
    let delay = delay_ms(retry, tries, seed).max(failure.asked_ms.unwrap_or(0).min(LONGEST_ASKED_MS));
    let at = now.saturating_add(delay);
    if at > first_ms.saturating_add(GIVE_UP_MS) { Next::GiveUp } else { Next::At(at) }
}

/// Gives the delay after so many failed tries, at least a millisecond.
#[must_use]
pub fn delay_ms(retry: &Retry, tries: u32, seed: DeliveryKey) -> u64 {
    let base = if retry.constant {
        retry.initial_ms
    } else {
        retry.initial_ms.saturating_mul(1 << tries.saturating_sub(1).min(40))
    }
    .min(retry.max_ms);
    let mut hasher = blake3::Hasher::new();
    for part in [seed.lane, seed.offset, seed.hook.into(), tries.into()] {
        hasher.update(&part.to_be_bytes());
    }
    let draw = u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    // -1 to 1, uniform.
    let unit = (draw as f64 / u64::MAX as f64).mul_add(2.0, -1.0);
    let jittered = base as f64 * retry.jitter.clamp(0.0, 1.0).mul_add(unit, 1.0);
    (jittered.max(1.0) as u64).min(retry.max_ms.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn key(lane: u64, due_ms: u64, offset: u64) -> DeliveryKey {
        DeliveryKey { lane, due_ms, offset, hook: 0 }
    }

    fn waiting(lane: u64, due: &[u64]) -> Lane {
        let waiting = (1..).zip(due).map(|(offset, due)| key(lane, *due, offset)).collect();
        Lane { waiting, ..Lane::default() }
    }

    fn retry() -> Retry {
        Retry { attempts: 100, constant: false, initial_ms: 5_000, max_ms: HOUR, jitter: 0.0 }
    }

    #[test]
    fn what_is_due_starts_and_the_next_is_waited_for() {
        let lanes = [waiting(1, &[10, 30]), waiting(2, &[20])];
        assert_eq!(decide(15, &lanes, LIMITS), Decision { start: vec![key(1, 10, 1)], wake_at: Some(20) });
        assert_eq!(decide(5, &lanes, LIMITS), Decision { start: Vec::new(), wake_at: Some(10) });
        assert_eq!(decide(30, &lanes, LIMITS).start.len(), 3);
        assert_eq!(decide(30, &[], LIMITS), Decision::default());
    }

    #[test]
    fn a_receiver_that_hangs_does_not_hold_the_others_back() {
        let limits = Limits { in_all: 8, of_lane: 4, of_failing: 1 };
        let hanging = Lane { under_way: 4, ..waiting(1, &[0; 100]) };
        let fine = waiting(2, &[1, 2]);
        let decision = decide(10, &[hanging.clone(), fine.clone()], limits);
        assert_eq!(decision.start, vec![key(2, 1, 1), key(2, 2, 2)]);
        // Many that hang take turns, so that the last in line gets its place too.
        let decision = decide(10, &[waiting(1, &[0; 100]), waiting(3, &[0; 100]), fine], limits);
        assert_eq!(decision.start.iter().filter(|key| key.lane == 2).count(), 2);
        assert_eq!(decision.start.len(), limits.in_all);
        // One that failed last is only probed.
        let failing = Lane { failing: true, ..waiting(1, &[0; 100]) };
        assert_eq!(decide(10, &[failing], limits).start.len(), 1);
    }

    #[test]
    fn never_more_is_under_way_than_the_limits_allow() {
        let limits = Limits { in_all: 5, of_lane: 2, of_failing: 1 };
        let lanes: Vec<Lane> = (1..10).map(|lane| Lane { under_way: 0, ..waiting(lane, &[0; 3]) }).collect();
        let start = decide(1, &lanes, limits).start;
        assert_eq!(start.len(), 5);
        assert!((1..10).all(|lane| start.iter().filter(|key| key.lane == lane).count() <= 2));
        let full: Vec<Lane> = (1..6).map(|lane| Lane { under_way: 1, ..waiting(lane, &[0; 3]) }).collect();
        assert!(decide(1, &full, limits).start.is_empty());
    }

    #[test]
    fn delays_grow_up_to_the_longest_one() {
        let seed = key(1, 0, 1);
        let delays: Vec<u64> = (1..=12).map(|tries| delay_ms(&retry(), tries, seed)).collect();
        assert_eq!(delays[..4], [5_000, 10_000, 20_000, 40_000]);
        assert_eq!(delays[11], HOUR);
        let spread = Retry { jitter: 0.5, ..retry() };
        let delay = delay_ms(&spread, 1, seed);
        assert!((2_500..=7_500).contains(&delay) && delay == delay_ms(&spread, 1, seed), "{delay}");
        assert_ne!(delay, delay_ms(&spread, 1, key(1, 0, 2)), "those that failed together come back apart");
        let none = Retry { initial_ms: 0, max_ms: 0, ..retry() };
        assert_eq!(delay_ms(&none, 1, seed), 1, "time goes on");
    }

    #[test]
    fn it_is_given_up_after_a_day_after_the_last_try_and_at_once_when_it_is_hopeless() {
        let seed = key(1, 0, 1);
        let passing = Failure::passing("503");
        assert_eq!(after(&passing, &retry(), 1, 0, seed, 100), Next::At(5_100));
        assert_eq!(after(&passing, &retry(), 30, 0, seed, GIVE_UP_MS - HOUR), Next::At(GIVE_UP_MS));
        assert_eq!(after(&passing, &retry(), 30, 0, seed, GIVE_UP_MS - HOUR + 1), Next::GiveUp);
        assert_eq!(after(&passing, &Retry { attempts: 3, ..retry() }, 3, 0, seed, 100), Next::GiveUp);
        assert_eq!(after(&Failure::for_good("410"), &retry(), 1, 0, seed, 100), Next::GiveUp);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_delay_but_not_for_ever() {
        let seed = key(1, 0, 1);
        let asks = |asked_ms| Failure { asked_ms: Some(asked_ms), ..Failure::passing("429") };
        assert_eq!(after(&asks(60_000), &retry(), 1, 0, seed, 0), Next::At(60_000));
        assert_eq!(after(&asks(1), &retry(), 1, 0, seed, 0), Next::At(5_000));
        assert_eq!(after(&asks(u64::MAX), &retry(), 1, 0, seed, 0), Next::At(HOUR));
    }
}
