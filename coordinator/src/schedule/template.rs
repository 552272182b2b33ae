//! `${interval.start}` and the like inside the parameters of a schedule. A literal `${` is written `$${`.

use chrono_tz::Tz;

use super::{Interval, zone};

/// What a text may refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    Start,
    End,
    StartDate,
    EndDate,
}

impl Fact {
    /// Every fact, in the order of the reference.
    pub const ALL: [Self; 4] = [Self::Start, Self::End, Self::StartDate, Self::EndDate];

    /// Gives the name that stands in the braces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "interval.start",
            Self::End => "interval.end",
            Self::StartDate => "interval.start_date",
            Self::EndDate => "interval.end_date",
        }
    }

    fn of(self, interval: Interval, zone: Tz) -> String {
        match self {
            Self::Start => zone::rfc3339(zone, interval.start),
            Self::End => zone::rfc3339(zone, interval.end),
            Self::StartDate => zone::date(zone, interval.start),
            Self::EndDate => zone::date(zone, interval.end),
        }
    }
}

/// Says whether a text refers to its interval.
///
/// # Errors
/// The first `${` that names nothing.
pub fn refers(text: &str) -> Result<bool, &str> {
    let mut refers = false;
    walk(text, |piece| refers |= matches!(piece, Piece::Fact(_)))?;
    Ok(refers)
}

/// Fills in the facts of an interval.
///
/// # Errors
/// The first `${` that names nothing.
pub fn fill(text: &str, interval: Interval, zone: Tz) -> Result<String, &str> {
    let mut filled = String::with_capacity(text.len());
    walk(text, |piece| match piece {
        Piece::Text(text) => filled.push_str(text),
        Piece::Fact(fact) => filled.push_str(&fact.of(interval, zone)),
    })?;
    Ok(filled)
}

enum Piece<'t> {
    Text(&'t str),
    Fact(Fact),
}

fn walk<'t>(text: &'t str, mut see: impl FnMut(Piece<'t>)) -> Result<(), &'t str> {
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(escaped) = rest[..at].strip_suffix('$') {
            see(Piece::Text(escaped));
            see(Piece::Text("${"));
            rest = &rest[at + 2..];
            continue;
        }
        see(Piece::Text(&rest[..at]));
        let end = rest[at..].find('}').ok_or(&rest[at..])?;
        let whole = &rest[at..=at + end];
        let fact = Fact::ALL.into_iter().find(|fact| fact.name() == &whole[2..end]);
        see(Piece::Fact(fact.ok_or(whole)?));
        rest = &rest[at + end + 1..];
    }
    see(Piece::Text(rest));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Interval = Interval { start: 1_767_222_000_000, end: 1_767_308_400_000 };

    fn filled(text: &str) -> Result<String, &str> {
        fill(text, DAY, Tz::Europe__Berlin)
    }

    #[test]
    fn the_facts_of_an_interval_are_those_of_its_zone() {
        let text = "${interval.start}|${interval.end}|${interval.start_date}|${interval.end_date}";
        let expected = "2026-01-01T00:00:00+01:00|2026-01-02T00:00:00+01:00|2026-01-01|2026-01-02";
        assert_eq!(filled(text).as_deref(), Ok(expected));
        assert_eq!(filled("s3://in/${interval.start_date}.csv").as_deref(), Ok("s3://in/2026-01-01.csv"));
        assert_eq!(fill("${interval.start}", DAY, Tz::UTC).as_deref(), Ok("2025-12-31T23:00:00Z"));
    }

    #[test]
    fn an_escaped_reference_is_text_and_anything_else_in_braces_is_refused() {
        assert_eq!(filled("$${HOME} $$${interval.end_date}").as_deref(), Ok("${HOME} $${interval.end_date}"));
        assert_eq!(filled("no $ at { all }").as_deref(), Ok("no $ at { all }"));
        for bad in ["${interval}", "${interval.day}", "${params.day}", "${", "${interval.start", "${}", "${ü}"] {
            assert!(filled(bad).is_err() && refers(bad).is_err(), "{bad} was taken");
        }
        assert_eq!(refers("x ${interval.end}"), Ok(true));
        assert_eq!(refers("$${interval.end}"), Ok(false));
    }
}
