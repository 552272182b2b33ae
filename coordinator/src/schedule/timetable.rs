//! When a schedule fires, and the interval of data that each fire is about.

use chrono::{DateTime, Days, Duration, LocalResult, NaiveDate, TimeZone as _, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{cron::Cron, zone};
use crate::core::UnixMillis;

/// What makes a schedule fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A cron expression in its canonical form.
    Cron(String),
    /// A span of real time in milliseconds.
    Every(u64),
}

/// The time between two fires of a schedule: the start belongs to it, the end does not. The fire at its end processes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    pub start: UnixMillis,
    pub end: UnixMillis,
}

/// The fires of a trigger in a time zone, since ever and for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    kind: Kind,
    zone: Tz,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Cron(Cron),
    Every { ms: i64, anchor: i64 },
}

impl Timetable {
    /// Makes a timetable. Spans of time are counted from `anchor`, or from the midnight that began 1970 in the zone.
    ///
    /// # Errors
    /// What is wrong with the trigger.
    pub fn new(trigger: &Trigger, zone: Tz, anchor: Option<UnixMillis>) -> Result<Self, String> {
        let kind = match trigger {
            Trigger::Cron(text) => Kind::Cron(Cron::parse(text).map_err(|fault| fault.message)?),
            Trigger::Every(0) => return Err("an interval has a length".to_owned()),
            Trigger::Every(ms) => {
                let epoch = NaiveDate::default().and_hms_opt(0, 0, 0).unwrap_or_default();
                let anchor = anchor.and_then(|at| i64::try_from(at).ok());
                let anchor = anchor.unwrap_or_else(|| zone::instant(zone, epoch).timestamp_millis());
                Kind::Every { ms: i64::try_from(*ms).map_err(|_| "an interval has an end".to_owned())?, anchor }
            }
        };
        Ok(Self { kind, zone })
    }

    /// Gives the time zone.
    #[must_use]
    pub const fn zone(&self) -> Tz {
        self.zone
    }

    /// Gives the first fire after an instant; none after the year 9999.
    #[must_use]
    pub fn next(&self, after: UnixMillis) -> Option<UnixMillis> {
        if after >= zone::LATEST {
            return None;
        }
        let next = match &self.kind {
            Kind::Every { ms, anchor } => {
                let passed = i64::try_from(after).ok()?.checked_sub(*anchor)?.div_euclid(*ms);
                passed.checked_add(1)?.checked_mul(*ms)?.checked_add(*anchor)?
            }
            Kind::Cron(cron) => {
                let after = zone::utc(after);
                let next =
                    if cron.follows_clock() { self.next_shown(cron, after) } else { self.next_meant(cron, after) };
                next?.timestamp_millis()
            }
        };
        let next = u64::try_from(next).ok()?;
        (next <= zone::LATEST).then_some(next)
    }

    /// Gives the last fire before an instant; none before 1970.
    #[must_use]
    pub fn previous(&self, before: UnixMillis) -> Option<UnixMillis> {
        if let Kind::Every { ms, anchor } = &self.kind {
            let passed =
                i64::try_from(before.min(zone::LATEST)).ok()?.checked_sub(1)?.checked_sub(*anchor)?.div_euclid(*ms);
            return passed.checked_mul(*ms)?.checked_add(*anchor)?.try_into().ok();
        }
        // The latest instant whose next fire is still before it; fires of cron are at least a minute apart.
        let fires_from = |after: u64| self.next(after).is_some_and(|fire| fire < before);
        if before == 0 || !fires_from(0) {
            return None;
        }
        let (mut yes, mut no) = (0, before);
        while no - yes > 1 {
            let middle = yes + (no - yes) / 2;
            if fires_from(middle) {
                yes = middle;
            } else {
                no = middle;
            }
        }
        self.next(yes)
    }

    /// Gives the interval of the first fire after an instant.
    #[must_use]
    pub fn interval_after(&self, after: UnixMillis) -> Option<Interval> {
        let end = self.next(after)?;
        // Mostly the instant is a fire itself, and then nothing has to be searched.
        let start = if self.fires_at(after) { Some(after) } else { self.previous(end) };
        Some(Interval { start: start?, end })
    }

    /// Gives the interval that the last fire up to an instant is about.
    #[must_use]
    pub fn interval_until(&self, until: UnixMillis) -> Option<Interval> {
        let end = self.previous(until.checked_add(1)?)?;
        Some(Interval { start: self.previous(end)?, end })
    }

    /// Gives the intervals that start at `from` or later and before `to`, in order.
    pub fn intervals(&self, from: UnixMillis, to: UnixMillis) -> impl Iterator<Item = Interval> + '_ {
        let mut start = if self.fires_at(from) { Some(from) } else { self.next(from) };
        std::iter::from_fn(move || {
            let begins = start.filter(|at| *at < to)?;
            start = self.next(begins);
            start.map(|end| Interval { start: begins, end })
        })
    }

    fn fires_at(&self, at: UnixMillis) -> bool {
        at.checked_sub(1).and_then(|before| self.next(before)) == Some(at)
    }

    /// Gives the next of the times that come once on each of their days.
    fn next_meant(&self, cron: &Cron, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut time = after.with_timezone(&self.zone).naive_local();
        loop {
            time = cron.next(time)?;
            let at = zone::instant(self.zone, time);
            // Several times that do not exist are the same moment, and what comes twice was there before.
            if at > after {
                return Some(at);
            }
        }
    }

    /// Gives the next moment at which the clock shows one of the times.
    fn next_shown(&self, cron: &Cron, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let now = after.with_timezone(&self.zone).naive_local();
        let moments = |time| match self.zone.from_local_datetime(&time) {
            LocalResult::Single(at) => [Some(at.to_utc()), None],
            LocalResult::Ambiguous(first, second) => [Some(first.to_utc()), Some(second.to_utc())],
            LocalResult::None => [None, None],
        };
        let later = |from| {
            let mut time = from;
            loop {
                time = cron.next(time)?;
                if let Some(at) = moments(time).into_iter().flatten().find(|at| *at > after) {
                    return Some(at);
                }
            }
        };
        let ahead = later(now);
        // Before the clock is set back, times that it has shown already are still to be shown again.
        let LocalResult::Ambiguous(_, again) = self.zone.from_local_datetime(&now) else { return ahead };
        let again = again.to_utc();
        if again <= after {
            return ahead;
        }
        let set_back = zone::transition(self.zone, after, again);
        let mut time = set_back.with_timezone(&self.zone).naive_local().checked_sub_signed(Duration::minutes(1))?;
        let limit = time.checked_add_days(Days::new(2))?;
        let repeated = loop {
            time = cron.next(time)?;
            if time > limit {
                break None;
            }
            if let Some(at) = moments(time).into_iter().flatten().find(|at| *at >= set_back) {
                break Some(at);
            }
        };
        [ahead, repeated].into_iter().flatten().min()
    }
}

#[cfg(test)]
#[path = "timetable_tests.rs"]
mod tests;
