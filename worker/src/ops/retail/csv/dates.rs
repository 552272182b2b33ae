//! Dates as exports write them: ISO, day first, or month first.

use chrono::DateTime;

use crate::ops::OpError;

/// Which of the two numbers before the year is the month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    DayFirst,
    MonthFirst,
}

/// Which dates a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateFormat {
    /// Year first, as in `2010-12-01 08:26:00`, is understood.
    pub iso: bool,
    /// Year last, as in `12/1/2010 8:26`, is understood this way.
    pub year_last: Option<Order>,
}

impl DateFormat {
    const ISO: Self = Self { iso: true, year_last: None };
    const DAY_FIRST: Self = Self { iso: false, year_last: Some(Order::DayFirst) };
    const MONTH_FIRST: Self = Self { iso: false, year_last: Some(Order::MonthFirst) };

    /// Reads the parameter; `None` means detect.
    ///
    /// # Errors
    /// Class `user` if the name is not known.
    pub fn named(name: &str) -> Result<Option<Self>, OpError> {
        match name {
            "auto" => Ok(None),
            "iso" => Ok(Some(Self::ISO)),
            "dmy" => Ok(Some(Self::DAY_FIRST)),
            "mdy" => Ok(Some(Self::MONTH_FIRST)),
            _ => Err(OpError::user(format!("`date_format` cannot be `{name}`")).hint("use auto, iso, dmy or mdy")),
        }
    }

    /// Gives the name shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.iso, self.year_last) {
            (_, None) => "iso",
            (false, Some(Order::DayFirst)) => "dmy",
            (false, Some(Order::MonthFirst)) => "mdy",
            (true, Some(Order::DayFirst)) => "iso and dmy",
            (true, Some(Order::MonthFirst)) => "iso and mdy",
        }
    }

    /// Gives milliseconds since 1970 without time zone, or nothing if this is not a date of the format.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<i64> {
        let parts = split(text)?;
        let (year, month, day) = match (parts.year_first, self.year_last) {
            (true, _) if self.iso => (parts.numbers[0], parts.numbers[1], parts.numbers[2]),
            (false, Some(Order::DayFirst)) => (parts.numbers[2], parts.numbers[1], parts.numbers[0]),
            (false, Some(Order::MonthFirst)) => (parts.numbers[2], parts.numbers[0], parts.numbers[1]),
            _ => return None,
        };
        let last = match month {
            4 | 6 | 9 | 11 => 30,
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            _ => return None,
        };
        // Other centuries are slips of a finger, and would make a customer a thousand years old.
        let valid = (1900..2200).contains(&year) && (1..=last).contains(&day);
        valid.then(|| days_since_1970(i64::from(year), i64::from(month), i64::from(day)) * DAY_MS + parts.time_ms)
    }
}

/// What all dates of a file together say about their format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    pub year_first: u64,
    pub year_last: u64,
    /// Dates with the year last whose first number can only be a day.
    pub first_over_12: u64,
    /// Dates with the year last whose second number can only be a day.
    pub second_over_12: u64,
}

/// A format and how sure it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    pub format: DateFormat,
    pub certain: bool,
    /// What people should know about the choice.
    pub note: Option<String>,
}

impl Evidence {
    /// Looks at every value: the day that settles the order may come late in a file.
    #[must_use]
    pub fn gather<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut evidence = Self::default();
        for parts in values.filter_map(split) {
            if parts.year_first {
                evidence.year_first += 1;
            } else {
                evidence.year_last += 1;
                evidence.first_over_12 += u64::from((13..=31).contains(&parts.numbers[0]));
                evidence.second_over_12 += u64::from((13..=31).contains(&parts.numbers[1]));
            }
        }
        evidence
    }

    /// Chooses the format.
    #[must_use]
    pub fn decide(self) -> Detected {
        let iso = self.year_first > 0 || self.year_last == 0;
        if self.year_last == 0 {
            return Detected { format: DateFormat::ISO, certain: true, note: None };
        }
        let with = |order, certain, note| {
            let format = DateFormat { iso, year_last: Some(order) };
            Detected { format, certain, note }
        };
        match (self.first_over_12, self.second_over_12) {
            (0, 0) => with(
                Order::MonthFirst,
                false,
                Some(
                    "no date tells whether day or month comes first; they were read month first. \
                     Set date_format = \"dmy\" if the day comes first"
                        .to_owned(),
                ),
            ),
            (_, 0) => with(Order::DayFirst, true, None),
            (0, _) => with(Order::MonthFirst, true, None),
            (first, second) => {
                let (order, word) =
                    if first > second { (Order::DayFirst, "day") } else { (Order::MonthFirst, "month") };
                let note = format!(
                    "the order of day and month is mixed: {first} dates can only be day first and {second} only month \
                     first; all were read {word} first"
                );
                with(order, false, Some(note))
            }
        }
    }
}

/// Reads an ISO date or date with time, as parameters give it.
#[must_use]
pub fn parse_iso(text: &str) -> Option<i64> {
    DateFormat::ISO.parse(text)
}

/// Writes milliseconds since 1970 as `2010-12-01T08:26:00`.
#[must_use]
pub fn show(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).map_or_else(|| ms.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%S").to_string())
}

/// Gives the month of milliseconds since 1970 as `2010-12`.
#[must_use]
pub fn month(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).map_or_else(String::new, |at| at.format("%Y-%m").to_string())
}

/// Milliseconds of a day.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

struct Parts {
    numbers: [u32; 3],
    year_first: bool,
    time_ms: i64,
}

/// Splits a date into its numbers without deciding what they mean.
fn split(text: &str) -> Option<Parts> {
    let mut rest = Digits(text.trim().as_bytes());
    let (first, width) = rest.number(4)?;
    let separator = rest.one_of(b"-/.")?;
    let (second, _) = rest.number(2)?;
    rest.byte(separator)?;
    let year_first = width == 4;
    let (mut third, third_width) = rest.number(if year_first { 2 } else { 4 })?;
    match (year_first, third_width) {
        (true, _) | (false, 4) => {}
        (false, 2) => third += if third < 70 { 2000 } else { 1900 },
        _ => return None,
    }
    if !year_first && width > 2 {
        return None;
    }
    let time_ms = rest.time()?;
    Some(Parts { numbers: [first, second, third], year_first, time_ms })
}

/// The bytes of a date that are still to be read.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    /// Reads digits, at least one and at most `most`. Gives their value and how many there were.
    fn number(&mut self, most: usize) -> Option<(u32, usize)> {
        let width = self.0.iter().take(most + 1).take_while(|b| b.is_ascii_digit()).count();
        if width == 0 || width > most {
            return None;
        }
        let value = self.0[..width].iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        self.0 = &self.0[width..];
        Some((value, width))
    }

    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        allowed.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        self.one_of(&[wanted]).map(|_| ())
    }

    /// Reads what follows a date: nothing, or `T` or a space and a time. Gives milliseconds since midnight.
    fn time(&mut self) -> Option<i64> {
        if self.0.is_empty() {
            return Some(0);
        }
        self.one_of(b"T ")?;
        self.0 = self.0.trim_ascii_start();
        let (mut hour, _) = self.number(2)?;
        self.byte(b':')?;
        let (minute, _) = self.number(2)?;
        let (mut second, mut ms) = (0, 0);
        if self.byte(b':').is_some() {
            second = self.number(2)?.0;
            if self.byte(b'.').is_some() {
                let (fraction, width) = self.fraction()?;
                ms = fraction * 1000 / 10i64.pow(width);
            }
        }
        match self.0.trim_ascii() {
            b"" | b"Z" => {}
            half if (1..=12).contains(&hour) && half.eq_ignore_ascii_case(b"AM") => hour %= 12,
            half if (1..=12).contains(&hour) && half.eq_ignore_ascii_case(b"PM") => hour = hour % 12 + 12,
            _ => return None,
        }
        let valid = hour < 24 && minute < 60 && second < 60;
        valid.then(|| i64::from(hour * 3600 + minute * 60 + second) * 1000 + ms)
    }

    /// Reads up to nine digits after the point.
    fn fraction(&mut self) -> Option<(i64, u32)> {
        let (value, width) = self.number(9)?;
        Some((i64::from(value), u32::try_from(width).ok()?))
    }
}

/// Days of the proleptic Gregorian calendar since 1970-01-01 (H. Hinnant, chrono-compatible low-level date algorithms).
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use chrono::{NaiveDate, NaiveTime};

    use super::*;

    fn detect(values: &[&str]) -> Detected {
        Evidence::gather(values.iter().copied()).decide()
    }

    fn shown(format: DateFormat, text: &str) -> Option<String> {
        format.parse(text).map(show)
    }

    #[test]
    fn iso_dates_are_read_with_space_or_t_and_with_or_without_time() {
        for text in [
            "2010-12-01 08:26:00",
            "2010-12-01T08:26",
            "2010-12-1 8:26",
            "2010/12/01 08:26:00.000",
            "2010-12-01T08:26:00Z",
        ] {
            assert_eq!(shown(DateFormat::ISO, text).as_deref(), Some("2010-12-01T08:26:00"), "{text}");
        }
        assert_eq!(shown(DateFormat::ISO, " 2010-12-01 ").as_deref(), Some("2010-12-01T00:00:00"));
        assert_eq!(DateFormat::ISO.parse("1970-01-02 00:00:00.250"), Some(DAY_MS + 250));
    }

    #[test]
    fn year_last_dates_are_read_in_the_order_given() {
        assert_eq!(shown(DateFormat::MONTH_FIRST, "12/1/2010 8:26").as_deref(), Some("2010-12-01T08:26:00"));
        assert_eq!(shown(DateFormat::DAY_FIRST, "01-12-2010 08:26").as_deref(), Some("2010-12-01T08:26:00"));
        assert_eq!(shown(DateFormat::DAY_FIRST, "1.12.10").as_deref(), Some("2010-12-01T00:00:00"));
        assert_eq!(shown(DateFormat::MONTH_FIRST, "12/1/2010 12:05 AM").as_deref(), Some("2010-12-01T00:05:00"));
        assert_eq!(shown(DateFormat::MONTH_FIRST, "12/1/2010 8:26:09 pm").as_deref(), Some("2010-12-01T20:26:09"));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        let both = DateFormat { iso: true, year_last: Some(Order::DayFirst) };
        for text in [
            "",
            "x",
            "2010",
            "2010-13-01",
            "2010-02-30",
            "2011-02-29",
            "31/11/2010",
            "2010-12-01 24:00",
            "2010-12-01 8",
            "0010-12-01",
            "2010-12-01 08:61",
            "2010-12/01",
            "12/1/210",
            "123/1/2010",
            "2010-12-01 08:26:00+01:00",
            "2010-12-01 08:26 morning",
            "99999999999-1-1",
            "2010-12-01 13:00 PM",
            "40513.35",
        ] {
            assert_eq!(both.parse(text), None, "{text}");
        }
        assert!(both.parse("29/2/2012").is_some());
        assert_eq!(DateFormat::ISO.parse("1/12/2010"), None);
        assert_eq!(DateFormat::DAY_FIRST.parse("2010-12-01"), None);
    }

    #[test]
    fn one_late_value_over_12_settles_the_order() {
        let early = ["1/2/2010 8:00"; 500];
        let month_first = detect(&[&early[..], &["12/13/2010 8:26"]].concat());
        assert_eq!((month_first.format, month_first.certain), (DateFormat::MONTH_FIRST, true));
        let day_first = detect(&[&early[..], &["13/12/2010 8:26"]].concat());
        assert_eq!((day_first.format, day_first.note), (DateFormat::DAY_FIRST, None));
    }

    #[test]
    fn an_undecidable_order_is_month_first_and_says_so() {
        let open = detect(&["1/2/2010", "3/4/2010"]);
        assert_eq!((open.format, open.certain), (DateFormat::MONTH_FIRST, false));
        assert!(open.note.unwrap().contains("date_format = \"dmy\""));
    }

    #[test]
    fn mixed_orders_follow_the_majority_and_iso_is_understood_beside_them() {
        let mixed = detect(&["13/1/2010", "14/1/2010", "1/15/2010", "2010-01-02"]);
        assert_eq!((mixed.format.name(), mixed.certain), ("iso and dmy", false));
        assert!(mixed.note.unwrap().contains("2 dates can only be day first and 1 only month first"));
        assert_eq!(detect(&["rubbish"]).format, DateFormat::ISO);
    }

    #[test]
    fn every_day_of_three_centuries_agrees_with_the_calendar_of_chrono() {
        let mut day = NaiveDate::from_ymd_opt(1900, 1, 1).unwrap();
        while day < NaiveDate::from_ymd_opt(2200, 1, 1).unwrap() {
            assert_eq!(parse_iso(&day.to_string()), Some(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis()));
            day = day.succ_opt().unwrap();
        }
    }
}
