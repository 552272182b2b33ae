#![allow(clippy::unwrap_used)]

use std::str::FromStr as _;

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap()
}

/// Gives the next times of an expression.
fn fires(text: &str, after: &str, n: usize) -> Vec<String> {
    let cron = Cron::parse(text).unwrap_or_else(|fault| panic!("{text}: {}", fault.message));
    let mut time = at(after);
    (0..n)
        .map(|_| {
            time = cron.next(time).unwrap();
            time.format("%Y-%m-%d %H:%M").to_string()
        })
        .collect()
}

#[test]
fn times_are_those_that_every_field_allows() {
    assert_eq!(fires("0 3 * * *", "2026-01-01 03:00", 2), ["2026-01-02 03:00", "2026-01-03 03:00"]);
    assert_eq!(
        fires("*/20 9-10 * * *", "2026-01-01 09:50", 3),
        ["2026-01-01 10:00", "2026-01-01 10:20", "2026-01-01 10:40"]
    );
    assert_eq!(fires("30 6 1,15 * *", "2026-01-15 06:30", 1), ["2026-02-01 06:30"]);
    assert_eq!(fires("0 0 * * MON-FRI", "2026-01-02 12:00", 1), ["2026-01-05 00:00"], "from Friday to Monday");
    assert_eq!(fires("0 0 29 2 *", "2096-02-29 00:00", 1), ["2104-02-29 00:00"], "2100 is no leap year");
    assert_eq!(fires("@monthly", "2026-12-31 23:59", 1), ["2027-01-01 00:00"]);
    assert_eq!(fires("59 23 31 dec ?", "2026-01-01 00:00", 1), ["2026-12-31 23:59"]);
}

#[test]
fn either_kind_of_day_is_enough_where_both_are_restricted() {
    assert_eq!(
        fires("0 0 13 * 5", "2026-03-01 00:00", 3),
        ["2026-03-06 00:00", "2026-03-13 00:00", "2026-03-20 00:00"]
    );
}

#[test]
fn days_are_counted_from_the_end_of_the_month_and_by_its_weeks() {
    assert_eq!(fires("0 0 L * *", "2028-01-31 00:00", 2), ["2028-02-29 00:00", "2028-03-31 00:00"]);
    assert_eq!(fires("0 0 * * mon#2", "2026-01-01 00:00", 2), ["2026-01-12 00:00", "2026-02-09 00:00"]);
    assert_eq!(fires("0 0 * * friL", "2026-01-01 00:00", 2), ["2026-01-30 00:00", "2026-02-27 00:00"]);
    assert_eq!(fires("0 0 1W * *", "2026-07-31 00:00", 2), ["2026-08-03 00:00", "2026-09-01 00:00"], "not into July");
    assert_eq!(fires("0 0 31W * *", "2026-05-01 00:00", 1), ["2026-05-29 00:00"], "not into June");
    assert_eq!(
        fires("0 0 * * sat-sun", "2026-01-01 00:00", 3),
        ["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-10 00:00"]
    );
    assert_eq!(fires("0 0 * * 7", "2026-01-01 00:00", 1), ["2026-01-04 00:00"]);
}

#[test]
fn spelling_does_not_change_what_is_said() {
    assert_eq!(Cron::parse(" 0  3 * *\tMON ").unwrap().canonical(), "0 3 * * mon");
    assert_eq!(Cron::parse("@Daily").unwrap(), Cron::parse("0 0 * * *").unwrap());
}

#[test]
fn a_fault_says_where_it_is_and_what_to_do() {
    let cases = [
        ("0 25 * * *", 2, 2, "`25` is no hour"),
        ("0 0 * foo *", 6, 3, "`foo` is no month"),
        ("0 0 1,,2 * *", 6, 0, "something is missing in the field for the day of the month"),
        ("5/10 * * * *", 0, 4, "`5/10` has a step but no range"),
        ("*/0 * * * *", 0, 3, "`*/0` has no step from 1 to 59"),
        ("0 0 * * 5-2", 8, 3, "`5-2` goes backwards"),
        ("0 0 * * 1#6", 8, 3, "`1#6` names no week of the month"),
        ("0 0 30 2 *", 4, 4, "this day never comes"),
        ("0 3 * *", 0, 7, "a cron expression has five fields, this one has 4"),
        ("0 0 3 * * *", 0, 11, "a cron expression has five fields, this one has 6"),
        ("@reboot", 0, 7, "`@reboot` is not known"),
        ("", 0, 0, "a cron expression has five fields, this one has 0"),
    ];
    for (text, at, length, message) in cases {
        let fault = Cron::parse(text).expect_err(text);
        assert_eq!((fault.at, fault.length, fault.message.as_str()), (at, length, message), "{text}");
    }
    assert!(Cron::parse("@every 15m").unwrap_err().hint.unwrap().contains("every = \"15m\""));
    assert!(Cron::parse(&"1,".repeat(10_000)).unwrap_err().message.contains("at most 256"));
}

fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    let number = min..=max;
    let item = prop_oneof![
        number.clone().prop_map(|n| n.to_string()),
        (number.clone(), number).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        (1..=max.min(30)).prop_map(|step| format!("*/{step}")),
    ];
    prop_oneof![2 => Just("*".to_owned()), 3 => prop::collection::vec(item, 1..3).prop_map(|items| items.join(","))]
}

fn day() -> impl Strategy<Value = String> {
    prop_oneof![6 => field(1, 31), 1 => Just("L".to_owned()), 1 => (1..=31).prop_map(|day| format!("{day}W"))]
}

fn weekday() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => field(0, 7),
        1 => (0..=6, 1..=5).prop_map(|(day, week)| format!("{day}#{week}")),
        1 => (0..=6).prop_map(|day| format!("{day}L")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn times_are_those_of_another_implementation(
        fields in (field(0, 59), field(0, 23), day(), field(1, 12), weekday()),
        minutes in 0_i64..40 * 365 * 24 * 60,
    ) {
        let (minute, hour, day, month, weekday) = fields;
        let text = format!("{minute} {hour} {day} {month} {weekday}");
        let theirs = croner::Cron::from_str(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        let mut time = at("2000-01-01 00:00") + chrono::Duration::minutes(minutes);
        let Ok(ours) = Cron::parse(&text) else {
            prop_assert!(theirs.find_next_occurrence(&time, false).map_or(true, |found| found.year() > time.year() + 40), "{} is refused", text);
            return Ok(());
        };
        for _ in 0..5 {
            let found = ours.next(time);
            let expected = theirs.find_next_occurrence(&time, false).ok();
            prop_assert_eq!(found, expected, "{} after {}", text, time);
            let Some(found) = found else { break };
            time = found;
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,40}", near in "[0-9*/,@#LWa-z -]{0,30}") {
        for text in [text, near] {
            if let Err(fault) = Cron::parse(&text) {
                prop_assert!(text.get(fault.at..fault.at + fault.length).is_some(), "{:?} of {:?}", fault, text);
            }
        }
    }
}
