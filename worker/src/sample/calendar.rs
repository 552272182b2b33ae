//! The year of the shop: when how much is sold.
//!
//! Customers buy at constant rates in the shop's own time, `[0, 1)`, which runs fast in busy weeks and stands still when
//! the shop is closed.

use chrono::{Datelike, Days, NaiveDate, Weekday};

/// How busy January to December are.
const BUSY: [f64; 12] = [0.75, 0.75, 0.9, 0.85, 0.95, 0.95, 0.95, 1.0, 1.4, 1.55, 1.9, 0.9];
const OPENS_AT_MINUTE: u32 = 8 * 60;
const OPEN_MINUTES: f64 = 600.0;

/// The days on which something can be sold.
#[derive(Debug)]
pub struct Calendar {
    days: Vec<NaiveDate>,
    /// Share of the year's business done by the end of each day.
    done: Vec<f64>,
}

/// A moment of the year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub day: NaiveDate,
    /// Minute of the day.
    pub minute: u32,
}

impl Calendar {
    /// Makes the year from 1 December 2024 to 30 November 2025.
    pub fn new() -> Self {
        let first = NaiveDate::from_ymd_opt(2024, 12, 1).expect("a day of the calendar");
        let open: Vec<_> = (0..365)
            .map(|n| first + Days::new(n))
            .map(|day| (day, weight(day)))
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        let all: f64 = open.iter().map(|(_, weight)| weight).sum();
        let done = open.iter().scan(0.0, |sum, (_, weight)| {
            *sum += weight;
            Some(*sum / all)
        });
        Self { done: done.collect(), days: open.iter().map(|(day, _)| *day).collect() }
    }

    /// Gives the moment of a time of the shop. Later times never give earlier moments.
    pub fn moment(&self, time: f64) -> Moment {
        let at = self.done.partition_point(|done| *done <= time).min(self.days.len() - 1);
        let before = if at == 0 { 0.0 } else { self.done[at - 1] };
        let part = ((time - before) / (self.done[at] - before)).clamp(0.0, 0.999);
        Moment { day: self.days[at], minute: OPENS_AT_MINUTE + (part * OPEN_MINUTES) as u32 }
    }
}

fn weight(day: NaiveDate) -> f64 {
    let closed = matches!((day.month(), day.day()), (12, 24..) | (1, 1..=3));
    match day.weekday() {
        _ if closed => 0.0,
        Weekday::Sat => 0.0,
        Weekday::Sun => 0.5 * BUSY[day.month0() as usize],
        _ => BUSY[day.month0() as usize],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_never_go_back_and_fall_into_opening_hours() {
        let calendar = Calendar::new();
        let moments: Vec<_> = (0..100_000).map(|i| calendar.moment(f64::from(i) / 1e5)).collect();
        assert!(moments.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(
            moments.iter().all(|moment| (480..1080).contains(&moment.minute) && moment.day.weekday() != Weekday::Sat)
        );
        assert_eq!(moments[0].day.to_string(), "2024-12-01");
        assert_eq!(calendar.moment(1.0).day.to_string(), "2025-11-30");
    }
}
