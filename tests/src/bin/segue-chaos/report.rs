//! What came out of it.

use std::{collections::BTreeMap, io::Write as _};

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::{
    audit::Figures,
    faults::Done,
    kind::{Budget, Kind},
};

/// Violations that are shown; the rest is counted.
const SHOWN: usize = 20;

/// Forms of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people
    Table,
    /// One JSON object for scripts
    Json,
}

/// What a part of the program found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whether all is as it has to be.
    pub sound: bool,
    pub table: String,
    pub json: Value,
}

impl Found {
    /// Prints it.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn print(&self, output: Output) -> std::io::Result<()> {
        let text = match output {
            Output::Table => self.table.clone(),
            Output::Json => format!("{:#}\n", self.json),
        };
        anstream::stdout().write_all(text.as_bytes())
    }
}

/// The result of random faults.
#[derive(Debug, Clone)]
pub struct Report {
    pub budget: Budget,
    pub faults: Done,
    pub figures: Figures,
    pub violations: Vec<String>,
}

impl Report {
    /// Gives what is printed.
    pub fn found(&self) -> Found {
        // A fault of the budget that did not happen is as bad as one that did harm: nothing was shown of it.
        let sound = self.violations.is_empty() && self.faults.counts == *self.budget.shares();
        Found { sound, table: self.table(), json: self.json() }
    }

    fn back_ms(&self) -> Option<(f64, f64)> {
        let mut times: Vec<f64> = self.faults.back.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
        times.sort_by(f64::total_cmp);
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }

    fn table(&self) -> String {
        let Figures { runs, tasks, looks, begun, ended, .. } = self.figures;
        let mut text = format!("{:<20} {:>8} {:>8}\n", "", "happened", "budget");
        for (kind, share) in self.budget.shares() {
            let count = self.faults.counts.get(kind).copied().unwrap_or(0);
            text += &format!("{:<20} {count:>8} {share:>8}\n", kind.name());
        }
        let (count, share) = (self.faults.counts.values().sum::<u32>(), self.budget.shares().values().sum::<u32>());
        text += &format!("{:<20} {count:>8} {share:>8}\n", "faults");
        text += &format!(
            "{runs} runs with {tasks} tasks ended; {begun} executions began, {ended} came to their end; {looks} looks\n"
        );
        if let Some((median, longest)) = self.back_ms() {
            text += &format!(
                "a killed coordinator served again after {median:.0} ms (median), {longest:.0} ms (longest)\n"
            );
        }
        text + &listed(&self.violations)
    }

    fn json(&self) -> Value {
        let shown = |counts: &BTreeMap<Kind, u32>| -> Map<String, Value> {
            counts.iter().map(|(kind, count)| (kind.name(), json!(count))).collect()
        };
        let Figures { runs, tasks, looks, begun, ended, .. } = self.figures;
        json!({
            "budget": shown(self.budget.shares()),
            "faults": shown(&self.faults.counts),
            "runs": runs,
            "tasks": tasks,
            "executions_begun": begun,
            "executions_ended": ended,
            "looks": looks,
            "coordinator_back_ms": self.back_ms().map(|(median, longest)| json!({ "median": median, "longest": longest })),
            "violations": self.violations,
        })
    }
}

/// Shows violations, one in each line.
pub fn listed(violations: &[String]) -> String {
    let mut text = format!("{} violations\n", violations.len());
    for violation in violations.iter().take(SHOWN) {
        text += &format!("  {violation}\n");
    }
    text
}
