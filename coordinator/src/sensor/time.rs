//! Has a moment come?

use chrono::{Days, NaiveTime};
use chrono_tz::Tz;

use super::Probe;
use crate::{core::UnixMillis, schedule::zone};

/// What a text names.
enum Moment {
    Instant(UnixMillis),
    Daily(NaiveTime),
}

/// Looks at the form of a moment.
pub(super) fn check(at: &str, timezone: &str) -> Result<(), String> {
    parse(at, timezone).map(drop)
}

/// Looks once.
pub(super) fn probe(at: &str, timezone: &str, since: UnixMillis, now: UnixMillis) -> Probe {
    let (zone, moment) = match parse(at, timezone) {
        Ok(parsed) => parsed,
        Err(message) => return Probe::Fault { message },
    };
    let due = match moment {
        Moment::Instant(at) => Some(at),
        Moment::Daily(time) => next(zone, time, since),
    };
    match due {
        Some(due) if due <= now => Probe::Met { note: zone::rfc3339(zone, due) },
        Some(due) => Probe::NotYet { why: format!("it is not yet {}", zone::rfc3339(zone, due)) },
        None => Probe::Fault { message: format!("`{at}` never comes") },
    }
}

fn parse(at: &str, timezone: &str) -> Result<(Tz, Moment), String> {
    let zone = zone::find(timezone).ok_or_else(|| format!("there is no time zone `{timezone}`"))?;
    let daily = ["%H:%M", "%H:%M:%S"].iter().find_map(|form| NaiveTime::parse_from_str(at.trim(), form).ok());
    if let Some(time) = daily {
        return Ok((zone, Moment::Daily(time)));
    }
    let instant = zone::parse(zone, at).map_err(|why| format!("`{at}` {why}, or a time of day such as 06:30"))?;
    Ok((zone, Moment::Instant(instant)))
}

/// Gives the first moment from `since` on at which it is this time of day.
fn next(zone: Tz, time: NaiveTime, since: UnixMillis) -> Option<UnixMillis> {
    let today = zone::local(zone, since).date_naive();
    // A time that does not exist today may be tomorrow's first moment: the day before counts as well.
    (0..3).find_map(|day| {
        let date = today.checked_sub_days(Days::new(1))?.checked_add_days(Days::new(day))?;
        let at = u64::try_from(zone::instant(zone, date.and_time(time)).timestamp_millis()).ok()?;
        (at >= since).then_some(at)
    })
}
