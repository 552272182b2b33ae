//! Schedules and backfills as pure rules: when a schedule fires, which intervals its fires are about, what happens to
//! those that were missed or overlap, and what a backfill executes next.
//!
//! As in [`crate::core`], nothing here knows tokio, the store, a clock or randomness. `server::schedules` is the shell.

pub mod backfill;
pub mod cron;
mod decl;
pub mod scheduler;
pub mod template;
mod timetable;
pub mod zone;

pub use decl::{CatchUp, Overlap, Plan, ScheduleDecl};
pub use timetable::{Interval, Timetable, Trigger};

use crate::core::UnixMillis;

/// Gives how much later than its time a fire starts: below `most`, the same at every look, spread over schedules and
/// fires.
#[must_use]
pub fn jitter(schedule: &str, fire: UnixMillis, most: u64) -> u64 {
    if most == 0 {
        return 0;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(schedule.as_bytes()).update(&[0]).update(&fire.to_be_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_be_bytes(bytes) % most
}

/// Gives the key under which the run of an interval is submitted: the same one gives the same run. The end is part of it,
/// because an hour and a day may begin at the same moment. Runs that a backfill makes anew have a generation above 0.
#[must_use]
pub fn interval_key(pipeline: &str, interval: Interval, generation: u32) -> String {
    let text = |at| zone::rfc3339(chrono_tz::Tz::UTC, at);
    let key = format!("schedule/{pipeline}/{}/{}", text(interval.start), text(interval.end));
    if generation == 0 { key } else { format!("{key}/{generation}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_below_its_limit_the_same_each_time_and_not_the_same_for_all() {
        let values: std::collections::BTreeSet<u64> = (0..100).map(|fire| jitter("nightly", fire, 30_000)).collect();
        assert!(values.len() > 90 && values.iter().all(|value| *value < 30_000), "{values:?}");
        assert_eq!(jitter("nightly", 7, 30_000), jitter("nightly", 7, 30_000));
        assert_ne!(jitter("nightly", 7, 30_000), jitter("weekly", 7, 30_000));
        assert_eq!(jitter("nightly", 7, 0), 0);
    }

    #[test]
    fn the_key_of_an_interval_says_which_pipeline_which_interval_and_which_generation() {
        let day = Interval { start: 1_767_225_600_000, end: 1_767_312_000_000 };
        let hour = Interval { end: day.start + 3_600_000, ..day };
        assert_eq!(interval_key("nightly", day, 0), "schedule/nightly/2026-01-01T00:00:00Z/2026-01-02T00:00:00Z");
        assert_ne!(interval_key("nightly", day, 0), interval_key("nightly", hour, 0));
        assert_ne!(interval_key("nightly", day, 0), interval_key("nightly", day, 1));
    }
}
