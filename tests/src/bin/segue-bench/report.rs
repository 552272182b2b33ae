//! Figures with their targets, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::measure::percentile;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Below(limit) => value < limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::Below(limit) => format!("< {limit}"),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::AtMost(limit) => json!({ "at_most": limit }),
            Self::AtLeast(limit) => json!({ "at_least": limit }),
            Self::Below(limit) => json!({ "below": limit }),
        }
    }
}

/// What figures belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub key: &'static str,
    pub title: &'static str,
}

/// One line of the result: a value of each run.
#[derive(Debug, Clone)]
pub struct Figure {
    group: Group,
    name: String,
    unit: &'static str,
    target: Option<Target>,
    values: Vec<f64>,
    /// Why runs gave no value.
    faults: Vec<String>,
}

impl Figure {
    /// Gives the median over the runs.
    pub fn value(&self) -> Option<f64> {
        percentile(&self.values, 0.5)
    }

    /// Says whether the target was met; a run without a value meets none.
    fn met(&self) -> Option<bool> {
        let target = self.target?;
        Some(self.faults.is_empty() && self.value().is_some_and(|value| target.met(value)))
    }

    fn json(&self) -> Value {
        json!({
            "group": self.group.key,
            "figure": self.name,
            "unit": self.unit,
            "value": self.value(),
            "lowest": percentile(&self.values, 0.0),
            "highest": percentile(&self.values, 1.0),
            "values": self.values,
            "target": self.target.map(Target::json),
            "met": self.met(),
            "faults": self.faults,
        })
    }
}

/// All figures, in the order in which they were first seen.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    figures: Vec<Figure>,
    /// What broke off before it could give any figure.
    broken: Vec<String>,
}

impl Figures {
    /// Adds the value of one run, or why there is none.
    pub fn add(
        &mut self,
        group: Group,
        name: &str,
        unit: &'static str,
        target: Option<Target>,
        value: Result<f64, String>,
    ) {
        let at = self.figures.iter().position(|figure| figure.group == group && figure.name == name);
        let at = at.unwrap_or_else(|| {
            // Groups stay together although a later round may bring a figure that an earlier one had to leave out.
            let last = self.figures.iter().rposition(|figure| figure.group == group);
            let at = last.map_or(self.figures.len(), |last| last + 1);
            let (values, faults) = (Vec::new(), Vec::new());
            self.figures.insert(at, Figure { group, name: name.to_owned(), unit, target, values, faults });
            at
        });
        match value {
            Ok(value) => self.figures[at].values.push(value),
            Err(fault) => self.figures[at].faults.push(fault),
        }
    }

    /// Notes that a measurement broke off.
    pub fn broke(&mut self, reason: String) {
        self.broken.push(reason);
    }

    /// Finds the median of a figure.
    pub fn value(&self, group: Group, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.group == group && figure.name == name)?.value()
    }

    /// Says whether every target was met.
    pub fn all_met(&self) -> bool {
        self.is_whole() && self.figures.iter().all(|figure| figure.met() != Some(false))
    }

    /// Says whether nothing broke off.
    pub fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }

    /// Gives them to scripts.
    pub fn json(&self) -> Value {
        json!({
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "broken": self.broken,
            "all_met": self.all_met(),
        })
    }

    /// Shows them to people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut last = None;
        for figure in &self.figures {
            if last.replace(figure.group) != Some(figure.group) {
                let _ = writeln!(out, "\n{}", figure.group.title);
                let _ = writeln!(
                    out,
                    "  {:<58} {:>10} {:>10} {:>10}   {:<10}",
                    "", "median", "lowest", "highest", "target"
                );
            }
            let name = format!("{}, {}", figure.name, figure.unit);
            let cell = |share| percentile(&figure.values, share).map_or_else(|| "-".to_owned(), number);
            let target = figure.target.map(Target::text).unwrap_or_default();
            let mark = match figure.met() {
                None => "",
                Some(true) => "met",
                Some(false) => "MISSED",
            };
            let line =
                format!("  {name:<58} {:>10} {:>10} {:>10}   {target:<10} {mark}", cell(0.5), cell(0.0), cell(1.0));
            let _ = writeln!(out, "{}", line.trim_end());
            for fault in &figure.faults {
                let _ = writeln!(out, "      {fault}");
            }
        }
        for reason in &self.broken {
            let _ = writeln!(out, "\nbroke off: {}", reason.lines().next().unwrap_or_default());
        }
        out
    }
}

/// Shows a number with about four digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1_000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Group = Group { key: "one", title: "the first" };
    const TWO: Group = Group { key: "two", title: "the second" };

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2.0] {
            figures.add(ONE, "p50", "ms", Some(Target::AtMost(2.0)), Ok(value));
        }
        figures.add(TWO, "memory", "bytes", None, Ok(12.0));
        figures
    }

    #[test]
    fn a_target_is_judged_by_the_median() {
        let mut figures = figures();
        assert!(figures.all_met());
        assert_eq!(figures.value(ONE, "p50"), Some(2.0));
        figures.add(ONE, "p50", "ms", None, Ok(9.0));
        figures.add(ONE, "p50", "ms", None, Ok(9.0));
        assert!(!figures.all_met());
        assert!(figures.table().contains("MISSED"));
        assert!(figures.is_whole(), "a missed target is no broken measurement");
    }

    #[test]
    fn the_edge_of_a_target_is_as_it_is_written() {
        assert!(Target::AtMost(1.2).met(1.2) && !Target::Below(2.0).met(2.0) && Target::AtLeast(0.8).met(0.8));
    }

    #[test]
    fn a_run_without_a_value_meets_no_target_and_says_why() {
        let mut figures = figures();
        figures.add(ONE, "p50", "ms", None, Err("no answer".to_owned()));
        assert!(!figures.all_met());
        assert!(figures.table().contains("no answer"));
        assert_eq!(figures.json()["figures"][0]["faults"][0], "no answer");
    }

    #[test]
    fn a_figure_that_comes_late_stands_with_its_group() {
        let mut figures = figures();
        figures.add(ONE, "p99", "ms", None, Ok(7.0));
        let keys: Vec<_> = figures.figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(keys, ["p50", "p99", "memory"]);
        assert_eq!(figures.table().matches("the first").count(), 1);
    }

    #[test]
    fn what_broke_off_is_neither_whole_nor_met() {
        let mut figures = figures();
        figures.broke("the worker ended\nits log".to_owned());
        assert!(!figures.is_whole() && !figures.all_met());
        assert!(figures.table().ends_with("broke off: the worker ended\n"));
    }
}
