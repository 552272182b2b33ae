//! What came out of it.

use std::io::Write as _;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::{
    audit::Figures,
    faults::{Done, Kind},
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

/// The result.
#[derive(Debug, Clone)]
pub struct Report {
    pub faults: Done,
    pub figures: Figures,
    pub violations: Vec<String>,
}

impl Report {
    /// Says whether nothing was violated.
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    /// Prints it.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn print(&self, output: Output) -> std::io::Result<()> {
        let text = match output {
            Output::Table => self.table(),
            Output::Json => format!("{:#}\n", self.json()),
        };
        anstream::stdout().write_all(text.as_bytes())
    }

    fn back_ms(&self) -> Option<(f64, f64)> {
        let mut times: Vec<f64> = self.faults.back.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
        times.sort_by(f64::total_cmp);
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }

    fn table(&self) -> String {
        let Figures { runs, tasks, looks, begun, ended } = self.figures;
        let mut text = String::new();
        for (kind, count) in &self.faults.counts {
            text += &format!("{:<20} {count:>8}\n", name(*kind));
        }
        text += &format!("{:<20} {:>8}\n", "faults", self.faults.counts.values().sum::<u32>());
        text += &format!(
            "{runs} runs with {tasks} tasks ended; {begun} executions began, {ended} came to their end; {looks} looks\n"
        );
        if let Some((median, longest)) = self.back_ms() {
            text += &format!(
                "a killed coordinator served again after {median:.0} ms (median), {longest:.0} ms (longest)\n"
            );
        }
        text += &format!("{} violations\n", self.violations.len());
        for violation in self.violations.iter().take(SHOWN) {
            text += &format!("  {violation}\n");
        }
        text
    }

    fn json(&self) -> Value {
        let faults: Map<String, Value> =
            self.faults.counts.iter().map(|(kind, count)| (name(*kind), json!(count))).collect();
        let Figures { runs, tasks, looks, begun, ended } = self.figures;
        json!({
            "faults": faults,
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

fn name(kind: Kind) -> String {
    kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
