#![allow(clippy::unwrap_used)]

use chrono::{Duration, NaiveDateTime, TimeZone as _};
use proptest::prelude::*;

use super::*;

fn table(cron: &str, zone: Tz) -> Timetable {
    Timetable::new(&Trigger::Cron(cron.to_owned()), zone, None).unwrap()
}

fn ms(zone: Tz, text: &str) -> UnixMillis {
    zone::parse(zone, text).unwrap()
}

/// Gives the next fires in local time.
fn fires(table: &Timetable, after: UnixMillis, n: usize) -> Vec<String> {
    let mut at = after;
    (0..n)
        .map(|_| {
            at = table.next(at).unwrap();
            zone::rfc3339(table.zone(), at)
        })
        .collect()
}

const BERLIN: Tz = Tz::Europe__Berlin;

#[test]
fn a_time_that_does_not_exist_fires_at_the_first_moment_after_it() {
    // Clocks go from 02:00 to 03:00 on 29 March 2026.
    let after = ms(BERLIN, "2026-03-28T12:00");
    let expected = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"];
    assert_eq!(fires(&table("30 2 * * *", BERLIN), after, 2), expected);
    assert_eq!(fires(&table("0 3 * * *", BERLIN), after, 1), ["2026-03-29T03:00:00+02:00"]);
}

#[test]
fn two_times_that_do_not_exist_are_one_fire() {
    let after = ms(BERLIN, "2026-03-29T00:00");
    let expected = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T02:30:00+02:00"];
    assert_eq!(fires(&table("0,30 2 * * *", BERLIN), after, 3), expected);
    assert_eq!(fires(&table("0 2,3 * * *", BERLIN), after, 2)[1], "2026-03-30T02:00:00+02:00", "02:00 was 03:00");
}

#[test]
fn a_time_that_comes_twice_fires_once() {
    // Clocks go from 03:00 to 02:00 on 25 October 2026.
    let after = ms(BERLIN, "2026-10-25T00:00");
    let expected = ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"];
    assert_eq!(fires(&table("30 2 * * *", BERLIN), after, 2), expected);
    let expected = ["2026-10-25T01:00:00+02:00", "2026-10-25T02:00:00+02:00", "2026-10-26T01:00:00+01:00"];
    assert_eq!(fires(&table("0 1,2 * * *", BERLIN), after, 3), expected, "a list of hours is a list of times");
}

#[test]
fn what_follows_the_clock_skips_what_it_skips_and_repeats_what_it_repeats() {
    let spring = ms(BERLIN, "2026-03-29T01:00");
    let expected = ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"];
    assert_eq!(fires(&table("*/30 * * * *", BERLIN), spring, 3), expected);
    let autumn = ms(BERLIN, "2026-10-25T01:30");
    let expected = [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ];
    assert_eq!(fires(&table("*/30 * * * *", BERLIN), autumn, 5), expected);
    assert_eq!(fires(&table("*/30 2 * * *", BERLIN), spring, 1), ["2026-03-30T02:00:00+02:00"]);
}

#[test]
fn spans_of_time_are_counted_from_their_anchor_whatever_clocks_do() {
    let quarter = Timetable::new(&Trigger::Every(900_000), BERLIN, None).unwrap();
    assert_eq!(
        fires(&quarter, ms(BERLIN, "2026-10-25T02:50"), 2),
        ["2026-10-25T02:00:00+01:00", "2026-10-25T02:15:00+01:00"]
    );
    let anchor = ms(Tz::UTC, "2026-01-01T00:07");
    let odd = Timetable::new(&Trigger::Every(3_600_000), Tz::UTC, Some(anchor)).unwrap();
    assert_eq!(fires(&odd, anchor, 1), ["2026-01-01T01:07:00Z"]);
    assert_eq!(odd.previous(anchor), Some(anchor - 3_600_000), "an anchor is no beginning");
    let day = Timetable::new(&Trigger::Every(86_400_000), BERLIN, None).unwrap();
    assert_eq!(fires(&day, ms(BERLIN, "2026-01-01T12:00"), 1), ["2026-01-02T00:00:00+01:00"], "local midnight of 1970");
}

#[test]
fn an_interval_is_the_time_between_two_fires() {
    let daily = table("0 3 * * *", BERLIN);
    let now = ms(BERLIN, "2026-03-29T12:00");
    let last = daily.interval_until(now).unwrap();
    let day = |text| ms(BERLIN, text);
    assert_eq!(last, Interval { start: day("2026-03-28T03:00"), end: day("2026-03-29T03:00") });
    assert_eq!(last.end - last.start, 23 * 3_600_000, "the day on which clocks are set forward");
    assert_eq!(daily.interval_until(last.end), Some(last));
    assert_eq!(daily.interval_after(now).unwrap().start, last.end);
    let month: Vec<Interval> = daily.intervals(day("2026-01-01"), day("2026-02-01")).collect();
    assert_eq!(month.len(), 31);
    assert_eq!((month[0].start, month[30].end), (day("2026-01-01T03:00"), day("2026-02-01T03:00")));
}

#[test]
fn after_the_year_9999_nothing_fires() {
    let daily = table("0 3 * * *", Tz::UTC);
    assert_eq!(daily.next(zone::LATEST), None);
    assert_eq!(daily.next(u64::MAX), None);
    assert!(daily.previous(u64::MAX).is_some());
    assert_eq!(daily.intervals(u64::MAX - 1, u64::MAX).next(), None);
    assert!(Timetable::new(&Trigger::Every(u64::MAX), Tz::UTC, None).is_err());
}

/// Zones whose clocks are set, by an hour, by half an hour, over midnight, and on the other half of the earth.
const ZONES: [Tz; 6] =
    [BERLIN, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::America__Santiago, Tz::Asia__Beirut, Tz::UTC];

/// Finds the fires of an hour by looking at every minute: what the reference says, written down another way.
fn by_looking(cron: &str, zone: Tz, from: UnixMillis, hours: i64) -> Vec<UnixMillis> {
    let parsed = Cron::parse(cron).unwrap();
    let names = |time: NaiveDateTime| parsed.next(time - Duration::minutes(1)) == Some(time);
    let start = zone::utc(from);
    let mut found = std::collections::BTreeSet::new();
    if parsed.follows_clock() {
        for minute in 1..=hours * 60 {
            let at = start + Duration::minutes(minute);
            if names(at.with_timezone(&zone).naive_local()) {
                found.insert(at.timestamp_millis() as u64);
            }
        }
    } else {
        // Every local time there could be, with the moment that it means.
        let local = start.with_timezone(&zone).naive_local() - Duration::hours(30);
        for minute in 0..(hours + 60) * 60 {
            let time = local + Duration::minutes(minute);
            if !names(time) {
                continue;
            }
            let at = match zone.from_local_datetime(&time) {
                LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
                // Forward to the first time that exists.
                LocalResult::None => (1..=26 * 60)
                    .find_map(|minutes| zone.from_local_datetime(&(time + Duration::minutes(minutes))).earliest())
                    .unwrap()
                    .to_utc(),
            };
            if at > start && at <= start + Duration::hours(hours) {
                found.insert(at.timestamp_millis() as u64);
            }
        }
    }
    found.into_iter().collect()
}

fn cron() -> impl Strategy<Value = String> {
    let minute = prop_oneof![
        Just("*/15".to_owned()),
        Just("0".to_owned()),
        Just("0,30".to_owned()),
        (0_u32..60).prop_map(|m| m.to_string())
    ];
    let hour = prop_oneof![
        Just("*".to_owned()),
        Just("*/2".to_owned()),
        Just("0-4".to_owned()),
        Just("1,2,3".to_owned()),
        (0_u32..24).prop_map(|hour| hour.to_string())
    ];
    (minute, hour).prop_map(|(minute, hour)| format!("{minute} {hour} * * *"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Around the days on which clocks are set in 2026, in six zones.
    #[test]
    fn fires_are_those_that_one_finds_by_looking_at_every_minute(
        cron in cron(),
        zone in prop::sample::select(ZONES.to_vec()),
        day in prop::sample::select(vec!["2026-03-08", "2026-03-29", "2026-04-05", "2026-09-06", "2026-10-04", "2026-10-25", "2026-11-01"]),
        minutes in -2_000_i64..2_000,
    ) {
        let from = (i64::try_from(ms(zone, day)).unwrap() + minutes * 60_000) as u64;
        let table = table(&cron, zone);
        let expected = by_looking(&cron, zone, from, 30);
        let mut found = Vec::new();
        let mut at = from;
        while let Some(next) = table.next(at).filter(|next| *next <= from + 30 * 3_600_000) {
            prop_assert!(next > at);
            found.push(next);
            at = next;
        }
        prop_assert_eq!(&found, &expected, "{} in {} after {}", cron, zone, zone::rfc3339(zone, from));
    }

    #[test]
    fn the_fire_before_the_next_one_is_the_one_that_was(
        cron in cron(),
        zone in prop::sample::select(ZONES.to_vec()),
        at in 1_700_000_000_000_u64..1_900_000_000_000,
        every in prop::option::of(1_000_u64..100_000_000),
    ) {
        let table = match every {
            Some(ms) => Timetable::new(&Trigger::Every(ms), zone, Some(at / 2)).unwrap(),
            None => table(&cron, zone),
        };
        let next = table.next(at).unwrap();
        let before = table.previous(next).unwrap();
        prop_assert!(before <= at && at < next);
        prop_assert_eq!(table.next(before), Some(next));
        prop_assert_eq!(table.interval_after(at), Some(Interval { start: before, end: next }));
        prop_assert_eq!(table.interval_after(next).unwrap().start, next);
        prop_assert_eq!(table.interval_until(next), Some(Interval { start: before, end: next }));
        let chain: Vec<Interval> = table.intervals(before, table.next(next).unwrap() + 1).collect();
        prop_assert!(chain.windows(2).all(|pair| pair[0].end == pair[1].start));
        prop_assert_eq!(chain[0], Interval { start: before, end: next });
    }
}
