//! Time zones: names, local times as instants, instants as text.

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, Offset as _, SecondsFormat, TimeZone as _, Utc};
use chrono_tz::Tz;

use crate::core::UnixMillis;

/// Last instant that anything here speaks of: 9999-12-31.
pub const LATEST: UnixMillis = 253_402_214_400_000;
/// No offset from UTC is larger, and no clock was ever set by more.
const WIDEST_SECONDS: i64 = 36 * 3_600;

/// Finds a time zone by its name in the IANA data base.
#[must_use]
pub fn find(name: &str) -> Option<Tz> {
    // Every name is short; a long one is not worth a look.
    (name.len() <= 64).then(|| name.parse().ok()).flatten()
}

/// Gives the names of all time zones, for hints.
pub fn names() -> impl Iterator<Item = &'static str> {
    chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())
}

/// Gives an instant as a time of a zone.
#[must_use]
pub fn local(zone: Tz, at: UnixMillis) -> DateTime<Tz> {
    utc(at).with_timezone(&zone)
}

/// Gives an instant in the form of RFC 3339: with the offset of its zone, with `Z` for UTC.
#[must_use]
pub fn rfc3339(zone: Tz, at: UnixMillis) -> String {
    let form = if at.is_multiple_of(1_000) { SecondsFormat::Secs } else { SecondsFormat::Millis };
    local(zone, at).to_rfc3339_opts(form, zone == Tz::UTC)
}

/// Gives the local date of an instant, such as `2026-01-31`.
#[must_use]
pub fn date(zone: Tz, at: UnixMillis) -> String {
    local(zone, at).format("%Y-%m-%d").to_string()
}

/// Reads an instant as people write one: a date (its midnight), a local time, or RFC 3339 with an offset.
///
/// # Errors
/// Says what is wrong, for use after the quoted text and "which".
pub fn parse(zone: Tz, text: &str) -> Result<UnixMillis, &'static str> {
    const FORM: &str = "is neither a date nor a time: write 2026-01-31, 2026-01-31T06:00 or 2026-01-31T06:00:00+01:00";
    let text = text.trim();
    let naive = |text: &str| {
        let forms = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"];
        let time = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        time.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
    };
    let ms = match DateTime::parse_from_rfc3339(text) {
        Ok(instant) => instant.timestamp_millis(),
        Err(_) => instant(zone, naive(text).ok_or(FORM)?).timestamp_millis(),
    };
    let ms = u64::try_from(ms).map_err(|_| "is before 1970")?;
    if ms > LATEST { Err("is after the year 9999") } else { Ok(ms) }
}

/// Gives the instant of a local time that is meant once: the first of two where clocks are set back, and the first moment
/// after those that do not exist where they are set forward. Never goes back when the local time goes forward.
#[must_use]
pub fn instant(zone: Tz, time: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&time) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
        LocalResult::None => end_of_gap(zone, time),
    }
}

/// Gives the first instant whose local time is after one that does not exist.
fn end_of_gap(zone: Tz, time: NaiveDateTime) -> DateTime<Utc> {
    let middle = time.and_utc().timestamp();
    let after = first_second(middle - WIDEST_SECONDS, middle + WIDEST_SECONDS, |second| {
        seconds(second).with_timezone(&zone).naive_local() > time
    });
    seconds(after)
}

/// Gives the first instant after `from` whose offset from UTC is another one. It must come by `to`.
#[must_use]
pub fn transition(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let before = offset(from);
    seconds(first_second(from.timestamp(), to.timestamp(), |second| offset(seconds(second)) != before))
}

/// Finds where something begins to hold, between a second where it does not and one where it does.
fn first_second(mut no: i64, mut yes: i64, holds: impl Fn(i64) -> bool) -> i64 {
    while yes - no > 1 {
        let middle = no + (yes - no) / 2;
        if holds(middle) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    yes
}

fn seconds(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(at, 0).unwrap_or_default()
}

/// Gives an instant as chrono has it; what is beyond [`LATEST`] is there.
#[must_use]
pub fn utc(at: UnixMillis) -> DateTime<Utc> {
    i64::try_from(at.min(LATEST)).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> Tz {
        Tz::Europe__Berlin
    }

    #[test]
    fn an_instant_is_read_as_people_write_it() {
        assert_eq!(parse(Tz::UTC, "2026-01-01"), Ok(1_767_225_600_000));
        assert_eq!(parse(berlin(), "2026-01-01"), Ok(1_767_222_000_000), "midnight in Berlin");
        assert_eq!(parse(berlin(), " 2026-01-01T01:00:00+01:00 "), Ok(1_767_225_600_000));
        assert_eq!(parse(berlin(), "2026-01-01 01:00"), Ok(1_767_225_600_000));
        assert_eq!(parse(berlin(), "2026-01-01T01:00:00.250Z"), Ok(1_767_229_200_250));
        for bad in ["", "yesterday", "2026-13-01", "2026-01-01T25:00", "1969-12-31", "99999-01-01", "2026-1"] {
            assert!(parse(Tz::UTC, bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn an_instant_is_written_with_the_offset_of_its_zone() {
        assert_eq!(rfc3339(Tz::UTC, 1_767_225_600_000), "2026-01-01T00:00:00Z");
        assert_eq!(rfc3339(berlin(), 1_767_225_600_000), "2026-01-01T01:00:00+01:00");
        assert_eq!(rfc3339(Tz::UTC, 1_767_225_600_250), "2026-01-01T00:00:00.250Z");
        assert_eq!(date(berlin(), 1_767_222_000_000), "2026-01-01");
    }

    #[test]
    fn a_local_time_that_does_not_exist_is_the_first_moment_after_it() {
        let at = |text: &str| text.parse::<NaiveDateTime>().expect("a local time");
        // Clocks go from 02:00 to 03:00.
        assert_eq!(instant(berlin(), at("2026-03-29T02:30:00")).to_rfc3339(), "2026-03-29T01:00:00+00:00");
        // A whole day that never was.
        let apia = Tz::Pacific__Apia;
        assert_eq!(instant(apia, at("2011-12-30T12:00:00")).to_rfc3339(), "2011-12-30T10:00:00+00:00");
        // Clocks go from 03:00 to 02:00.
        assert_eq!(instant(berlin(), at("2026-10-25T02:30:00")).to_rfc3339(), "2026-10-25T00:30:00+00:00");
    }

    #[test]
    fn every_name_of_a_zone_finds_it() {
        assert!(names().count() > 500);
        assert!(names().all(|name| find(name).is_some_and(|zone| zone.name() == name)));
        assert!(find("Europe/Berln").is_none() && find(&"x".repeat(1_000)).is_none());
    }
}
