//! Cron expressions: five fields, read with the place of every fault, and the local times that they name.
//!
//! Read here and not by a crate, so that a fault is shown at its field in the pipeline file, and because of what a list
//! of hours means where clocks are set back (see [`Cron::follows_clock`]). A property test holds it against `croner`.

use chrono::{Datelike as _, Days, NaiveDate, NaiveDateTime, Timelike as _};

/// Longest expression that is read.
const LONGEST: usize = 256;
/// How far a matching day is looked for. The rarest that comes at all, a fifth Monday of February, comes every 28 years,
/// and once in 40 around a year such as 2100.
const MOST_YEARS: i32 = 50;

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, words: &[] },
    Field { name: "hour", min: 0, max: 23, words: &[] },
    Field { name: "day of the month", min: 1, max: 31, words: &[] },
    Field { name: "month", min: 1, max: 12, words: &MONTHS },
    Field { name: "day of the week", min: 0, max: 7, words: &WEEKDAYS },
];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Short names and what they stand for.
const NAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A checked expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u32,
    days: Days31,
    months: u16,
    weekdays: Weekdays,
    follows_clock: bool,
    canonical: String,
}

/// Days of the month, as bits from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Days31 {
    /// Any day: the field says nothing.
    any: bool,
    days: u32,
    /// `L`
    last: bool,
    /// `15W`: the weekday nearest to these.
    nearest: u32,
}

/// Days of the week, as bits from Sunday.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Weekdays {
    any: bool,
    days: u8,
    /// `mon#2`: the days of each week of the month, counted from its first.
    nth: [u8; 5],
    /// `friL`
    last: u8,
}

/// What is wrong with an expression, and where in it, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: usize,
    pub length: usize,
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    words: &'static [&'static str],
}

/// A piece of the expression and where it begins.
#[derive(Debug, Clone, Copy)]
struct Piece<'t> {
    at: usize,
    text: &'t str,
}

impl<'t> Piece<'t> {
    fn split(self, by: fn(char) -> bool) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (end, c) in self.text.char_indices().filter(|(_, c)| by(*c)) {
            pieces.push(Self { at: self.at + start, text: &self.text[start..end] });
            start = end + c.len_utf8();
        }
        pieces.push(Self { at: self.at + start, text: &self.text[start..] });
        pieces
    }

    fn fault(self, message: String, hint: Option<String>) -> Fault {
        Fault { at: self.at, length: self.text.len(), message, hint }
    }
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let whole = Piece { at: 0, text };
        if text.len() > LONGEST {
            let message = format!("a cron expression has at most {LONGEST} characters, this one has {}", text.len());
            return Err(Fault { at: 0, length: 0, message, hint: None });
        }
        let lower = text.to_ascii_lowercase();
        let trimmed = lower.trim();
        if trimmed.starts_with('@') {
            let Some((_, meaning)) = NAMES.iter().find(|(name, _)| *name == trimmed) else {
                let hint = if trimmed.starts_with("@every") {
                    "write every = \"15m\" in the place of cron".to_owned()
                } else {
                    "@hourly, @daily, @weekly, @monthly, @yearly, or five fields".to_owned()
                };
                return Err(whole.fault(format!("`{}` is not known", shown(text)), Some(hint)));
            };
            return Self::parse(meaning);
        }
        let lower = Piece { at: 0, text: &lower };
        let mut fields = lower.split(char::is_whitespace);
        fields.retain(|field| !field.text.is_empty());
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            let hint = match fields.len() {
                6 | 7 => "seconds and years are not taken; for less than a minute write every = \"10s\"".to_owned(),
                _ => "minute, hour, day of the month, month, day of the week, such as 0 3 * * *".to_owned(),
            };
            return Err(
                whole.fault(format!("a cron expression has five fields, this one has {}", fields.len()), Some(hint))
            );
        };
        let cron = Self {
            minutes: numbers(*minute, &FIELDS[0])?,
            hours: numbers(*hour, &FIELDS[1])? as u32,
            days: days(*day)?,
            months: numbers(*month, &FIELDS[3])? as u16,
            weekdays: weekdays(*weekday)?,
            follows_clock: minute.text.starts_with('*') || hour.text.starts_with('*'),
            canonical: fields.iter().map(|field| field.text).collect::<Vec<_>>().join(" "),
        };
        // Leap years and weekdays repeat in less than the time that is searched.
        let start = NaiveDate::from_ymd_opt(2024, 1, 1).and_then(|date| date.and_hms_opt(0, 0, 0)).unwrap_or_default();
        if cron.next(start).is_none() {
            let at = day.at;
            let length = month.at + month.text.len() - at;
            let hint = Some("no month that is named has such a day".to_owned());
            return Err(Fault { at, length, message: "this day never comes".to_owned(), hint });
        }
        Ok(cron)
    }

    /// Gives the expression with single spaces, in lower case and without short names.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Says whether minutes or hours begin with `*`: such times are what the clock shows, so that they are absent where
    /// it is set forward and come twice where it is set back. Other times come once on each of their days.
    #[must_use]
    pub const fn follows_clock(&self) -> bool {
        self.follows_clock
    }

    /// Gives the first local time after another one that matches; nothing where none comes within 50 years.
    #[must_use]
    pub fn next(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let last_year = after.year().checked_add(MOST_YEARS)?;
        let mut date = after.date();
        let mut minute = after.hour() * 60 + after.minute() + 1;
        loop {
            if self.months & (1 << date.month()) == 0 {
                date = first_of_next_month(date)?;
                minute = 0;
            } else {
                if self.is_day(date)
                    && let Some(found) = self.minute_from(minute)
                {
                    return date.and_hms_opt(found / 60, found % 60, 0);
                }
                date = date.checked_add_days(Days::new(1))?;
                minute = 0;
            }
            if date.year() > last_year {
                return None;
            }
        }
    }

    /// Gives the first matching minute of a day that is not before another one.
    fn minute_from(&self, minute: u32) -> Option<u32> {
        let mut from = minute % 60;
        for hour in minute / 60..24 {
            let left = self.minutes >> from;
            if self.hours & (1 << hour) != 0 && left != 0 {
                return Some(hour * 60 + from + left.trailing_zeros());
            }
            from = 0;
        }
        None
    }

    /// Where both kinds of day are restricted, either is enough, as ever in cron.
    fn is_day(&self, date: NaiveDate) -> bool {
        match (self.days.any, self.weekdays.any) {
            (true, true) => true,
            (false, true) => self.days.holds(date),
            (true, false) => self.weekdays.holds(date),
            (false, false) => self.days.holds(date) || self.weekdays.holds(date),
        }
    }
}

impl Days31 {
    fn holds(&self, date: NaiveDate) -> bool {
        let day = date.day();
        self.days & (1 << day) != 0
            || (self.last && day == length_of(date))
            || (self.nearest != 0
                && (1..=length_of(date))
                    .any(|wanted| self.nearest & (1 << wanted) != 0 && nearest(date, wanted) == day))
    }
}

impl Weekdays {
    fn holds(&self, date: NaiveDate) -> bool {
        let bit = 1 << date.weekday().num_days_from_sunday();
        self.days & bit != 0
            || self.nth[(date.day() as usize - 1) / 7] & bit != 0
            || (self.last & bit != 0 && date.day() + 7 > length_of(date))
    }
}

/// Gives the day from Monday to Friday that is nearest to a day, in the same month.
fn nearest(month: NaiveDate, wanted: u32) -> u32 {
    let Some(date) = month.with_day(wanted) else { return 0 };
    match date.weekday() {
        chrono::Weekday::Sat => {
            if wanted == 1 {
                3
            } else {
                wanted - 1
            }
        }
        chrono::Weekday::Sun => {
            if wanted == length_of(month) {
                wanted - 2
            } else {
                wanted + 1
            }
        }
        _ => wanted,
    }
}

fn length_of(date: NaiveDate) -> u32 {
    first_of_next_month(date).and_then(|next| next.pred_opt()).map_or(31, |last| last.day())
}

fn first_of_next_month(date: NaiveDate) -> Option<NaiveDate> {
    let (year, month) =
        if date.month() == 12 { (date.year().checked_add(1)?, 1) } else { (date.year(), date.month() + 1) };
    NaiveDate::from_ymd_opt(year, month, 1)
}

/// Reads a field of numbers as bits.
fn numbers(field: Piece<'_>, of: &Field) -> Result<u64, Fault> {
    field.split(|c| c == ',').into_iter().try_fold(0, |all, item| Ok(all | range(item, of)?))
}

fn days(field: Piece<'_>) -> Result<Days31, Fault> {
    let of = &FIELDS[2];
    let mut days = Days31 { any: matches!(field.text, "*" | "?"), ..Days31::default() };
    for item in field.split(|c| c == ',') {
        if item.text == "l" {
            days.last = true;
        } else if let Some(day) = item.text.strip_suffix('w') {
            days.nearest |= 1 << number(Piece { text: day, ..item }, of)?;
        } else if item.text != "?" {
            days.days |= range(item, of)? as u32;
        }
    }
    Ok(days)
}

fn weekdays(field: Piece<'_>) -> Result<Weekdays, Fault> {
    let of = &FIELDS[4];
    let mut weekdays = Weekdays { any: matches!(field.text, "*" | "?"), ..Weekdays::default() };
    for item in field.split(|c| c == ',') {
        if let Some((day, nth)) = item.text.split_once('#') {
            let day = number(Piece { text: day, ..item }, of)? % 7;
            let week = nth.parse::<usize>().ok().filter(|week| (1..=5).contains(week)).ok_or_else(|| {
                let hint = Some("mon#2 is the second Monday of the month; at most #5".to_owned());
                item.fault(format!("`{}` names no week of the month", shown(item.text)), hint)
            })?;
            weekdays.nth[week - 1] |= 1 << day;
        } else if let Some(day) = item.text.strip_suffix('l').filter(|day| !day.is_empty()) {
            weekdays.last |= 1 << (number(Piece { text: day, ..item }, of)? % 7);
        } else if item.text != "?" {
            let bits = range(item, of)?;
            // 7 is Sunday too.
            weekdays.days |= (bits & 0x7f | bits >> 7) as u8;
        }
    }
    Ok(weekdays)
}

/// Reads `*`, `5`, `1-5`, `*/15` or `9-17/2` as bits.
fn range(item: Piece<'_>, of: &Field) -> Result<u64, Fault> {
    let (span, step) = match item.text.split_once('/') {
        None => (item.text, 1),
        Some((span, step)) => {
            let step = digits(step)
                .filter(|step| (1..=of.max).contains(step))
                .ok_or_else(|| item.fault(format!("`{}` has no step from 1 to {}", shown(item.text), of.max), None))?;
            (span, step)
        }
    };
    let (first, last) = if span == "*" {
        (of.min, if of.max == 7 { 6 } else { of.max })
    } else if let Some((first, last)) = span.split_once('-') {
        let (first, last) = (number(Piece { text: first, ..item }, of)?, number(Piece { text: last, ..item }, of)?);
        // sat-sun
        let last = if of.max == 7 && last == 0 && first > 0 { 7 } else { last };
        if first > last {
            let hint = Some(format!("write two ranges, such as {first}-{},{}-{last}", of.max, of.min));
            return Err(item.fault(format!("`{}` goes backwards", shown(item.text)), hint));
        }
        (first, last)
    } else {
        let first = number(Piece { text: span, ..item }, of)?;
        if step > 1 || item.text.contains('/') {
            let hint = Some(format!("write {first}-{}/{step} or */{step}", of.max));
            return Err(item.fault(format!("`{}` has a step but no range", shown(item.text)), hint));
        }
        (first, first)
    };
    Ok((first..=last).step_by(step as usize).fold(0, |bits, value| bits | 1 << value))
}

fn number(item: Piece<'_>, of: &Field) -> Result<u32, Fault> {
    let word = of.words.iter().position(|word| *word == item.text).map(|at| at as u32 + of.min);
    let found = word.or_else(|| digits(item.text)).filter(|value| (of.min..=of.max).contains(value));
    found.ok_or_else(|| {
        let words = if of.words.is_empty() {
            String::new()
        } else {
            format!(", or {} to {}", of.words[0], of.words[of.words.len() - 1])
        };
        let message = if item.text.is_empty() {
            format!("something is missing in the field for the {}", of.name)
        } else {
            format!("`{}` is no {}", shown(item.text), of.name)
        };
        item.fault(message, Some(format!("from {} to {}{words}", of.min, of.max)))
    })
}

/// Reads a short number without signs.
fn digits(text: &str) -> Option<u32> {
    if text.len() > 4 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Keeps a message in one short line, whatever was typed.
fn shown(text: &str) -> String {
    text.chars().take(24).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
