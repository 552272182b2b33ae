//! What `[schedule]` of a pipeline file says, checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Interval, Timetable, Trigger, jitter, zone};
use crate::core::UnixMillis;

/// The schedule of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleDecl {
    pub trigger: Trigger,
    /// Name in the IANA data base.
    pub timezone: String,
    /// No interval starts before it.
    pub start: Option<UnixMillis>,
    /// No interval ends after it.
    pub end: Option<UnixMillis>,
    pub catch_up: CatchUp,
    /// How far back missed intervals are caught up.
    pub catch_up_window_ms: u64,
    pub overlap: Overlap,
    /// A fire comes up to this much later, always the same for the same fire.
    pub jitter_ms: u64,
    /// Parameters of each run; texts may hold `${interval.start}` and the like.
    pub params: BTreeMap<String, Value>,
}

/// Which of the intervals are executed that were missed while nobody was there to start them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    None,
    #[default]
    Last,
    All,
}

/// What happens to a fire while a run of an earlier one is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It waits.
    Queue,
    /// The earlier run is cancelled; the fire waits for its end.
    CancelRunning,
    /// Both go on.
    Allow,
}

impl CatchUp {
    /// Every policy, in the order of the reference.
    pub const ALL: [Self; 3] = [Self::None, Self::Last, Self::All];

    /// Gives the word of the pipeline file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        }
    }
}

impl Overlap {
    /// Every policy, in the order of the reference.
    pub const ALL: [Self; 4] = [Self::Skip, Self::Queue, Self::CancelRunning, Self::Allow];

    /// Gives the word of the pipeline file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::CancelRunning => "cancel_running",
            Self::Allow => "allow",
        }
    }
}

/// A schedule that can be asked when it fires: a declaration with its timetable.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub decl: ScheduleDecl,
    pub table: Timetable,
    /// Name of the schedule: part of the jitter.
    pub name: String,
}

impl Plan {
    /// Makes the plan of a declaration.
    ///
    /// # Errors
    /// What is wrong with trigger or time zone: one that was checked by another release.
    pub fn new(name: &str, decl: ScheduleDecl) -> Result<Self, String> {
        let zone = zone::find(&decl.timezone).ok_or_else(|| format!("there is no time zone `{}`", decl.timezone))?;
        let table = Timetable::new(&decl.trigger, zone, decl.start)?;
        Ok(Self { decl, table, name: name.to_owned() })
    }

    /// Gives the interval of the first fire after an instant, within start and end.
    #[must_use]
    pub fn after(&self, after: UnixMillis) -> Option<Interval> {
        let mut interval = self.table.interval_after(after)?;
        if let Some(start) = self.decl.start
            && interval.start < start
        {
            interval = self.table.intervals(start, UnixMillis::MAX).next()?;
        }
        (self.decl.end.is_none_or(|end| interval.end <= end)).then_some(interval)
    }

    /// Gives the interval of the last fire up to an instant, within start and end.
    #[must_use]
    pub fn until(&self, until: UnixMillis) -> Option<Interval> {
        let interval = self.table.interval_until(self.decl.end.map_or(until, |end| end.min(until)))?;
        (self.decl.start.is_none_or(|start| interval.start >= start)).then_some(interval)
    }

    /// Counts the fires from one to another, both included; stops counting at `most`.
    #[must_use]
    pub fn count(&self, first: Interval, last: Interval, most: u64) -> u64 {
        if let Trigger::Every(ms) = self.decl.trigger {
            return (last.end.saturating_sub(first.end) / ms.max(1) + 1).min(most);
        }
        let mut fire = first.end;
        let mut count = 1;
        while fire < last.end && count < most {
            let Some(next) = self.table.next(fire) else { break };
            fire = next;
            count += 1;
        }
        count
    }

    /// Gives when the run of an interval starts, by its fire and its jitter.
    #[must_use]
    pub fn starts(&self, interval: Interval) -> UnixMillis {
        interval.end.saturating_add(jitter(&self.name, interval.end, self.decl.jitter_ms))
    }
}
