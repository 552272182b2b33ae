//! `[retention]`: what is kept of a pipeline's runs, and for how long.
//!
//! The rules belong to the pipeline by name and not to one version of it: those of the text that was submitted last hold
//! for all its runs. So they are no part of the version, and changing them makes no new one.

use serde::{Deserialize, Serialize};

use super::{
    code::Code,
    diagnostic::quote,
    faults::Faults,
    fields::Check,
    keys,
    toml::{self, Node, Table, Value},
    units,
};

/// Most runs that a rule may count.
pub const MOST_RUNS: u32 = 1_000_000;

/// Rules of retention. Each says what is kept; a run stays as long as one of them keeps it. What no rule is about is kept
/// for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The newest ended runs of a pipeline; at least 1.
    pub keep_runs: Option<u32>,
    /// Runs for this long after their end.
    pub keep_for_ms: Option<u64>,
    /// Failed and cancelled runs for this long after their end, and no longer: they take no place among `keep_runs`.
    pub keep_failed_for_ms: Option<u64>,
    /// Logs of runs for this long after their end.
    pub logs_for_ms: Option<u64>,
    /// Results that may be used again, for this long after they were made.
    pub cache_for_ms: Option<u64>,
}

impl Retention {
    /// Fills in what these rules do not say. The two rules about runs in general belong together: whoever says one of
    /// them means that the other keeps nothing.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        const fn first(a: Option<u64>, b: Option<u64>) -> Option<u64> {
            if a.is_some() { a } else { b }
        }
        let runs = if self.keep_runs.is_some() || self.keep_for_ms.is_some() { self } else { other };
        Self {
            keep_runs: runs.keep_runs,
            keep_for_ms: runs.keep_for_ms,
            keep_failed_for_ms: first(self.keep_failed_for_ms, other.keep_failed_for_ms),
            logs_for_ms: first(self.logs_for_ms, other.logs_for_ms),
            cache_for_ms: first(self.cache_for_ms, other.cache_for_ms),
        }
    }

    /// Reads the rules of a text that was checked when it was submitted, whatever operators are known now.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        let mut faults = Faults::new();
        let Some(tree) = toml::parse(text, &mut faults) else { return Self::default() };
        let mut check = Check { text, tree: &tree, faults };
        tree.root().get("retention").map(|entry| read(&entry.node, &mut check)).unwrap_or_default()
    }
}

/// Reads the table, and reports what is wrong with it.
pub(super) fn read(node: &Node, check: &mut Check<'_>) -> Retention {
    let Some(table) = check.table(node, "`retention`", &keys::RETENTION) else { return Retention::default() };
    let keep_runs = table.get("keep_runs").and_then(|entry| {
        let number = check.int(&entry.node, "`keep_runs`")?;
        let runs = u32::try_from(number).ok().filter(|runs| (1..=MOST_RUNS).contains(runs));
        if runs.is_none() {
            let hint = format!("from 1 to {MOST_RUNS}; without it, every run is kept");
            check.faults.error(Code::BadRetention, entry.node.span, format!("`keep_runs` cannot be {number}"), hint);
        }
        runs
    });
    Retention {
        keep_runs,
        keep_for_ms: age(table, "keep_for", check),
        keep_failed_for_ms: age(table, "keep_failed_for", check),
        logs_for_ms: age(table, "logs_for", check),
        cache_for_ms: age(table, "cache_for", check),
    }
}

fn age(table: &Table, key: &str, check: &mut Check<'_>) -> Option<u64> {
    let node = &table.get(key)?.node;
    let what = quote(key);
    if let Value::Int(number) = node.value {
        let hint = Some(format!("say of what: \"{number}d\""));
        check.wrong_type(node, &what, "an age in quotes", hint);
        return None;
    }
    let text = check.string(node, &what)?;
    units::age_ms(text)
        .map_err(|why| {
            let hint = "write a number with a unit of d, h, m or s, such as \"90d\" or \"12h\"".to_owned();
            let message = format!("{what} is {}, which {why}", quote(text));
            check.faults.error(Code::BadRetention, node.span, message, hint);
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn the_rules_of_a_text_are_read_whatever_its_operators_are() {
        let text = r#"
            [pipeline]
            name = "demo"
            [retention]
            keep_runs = 100
            keep_for = "90d"
            keep_failed_for = "2d 12h"
            logs_for = "30d"
            cache_for = "3650d"
            [tasks.a]
            op = "of.another.site"
        "#;
        let expected = Retention {
            keep_runs: Some(100),
            keep_for_ms: Some(90 * DAY),
            keep_failed_for_ms: Some(2 * DAY + DAY / 2),
            logs_for_ms: Some(30 * DAY),
            cache_for_ms: Some(3_650 * DAY),
        };
        assert_eq!(Retention::of_text(text), expected);
        assert_eq!(Retention::of_text("[pipeline]\nname = \"demo\""), Retention::default());
        assert_eq!(Retention::of_text("not toml ["), Retention::default());
    }

    #[test]
    fn rules_about_runs_are_taken_together_and_the_others_one_by_one() {
        let site = Retention {
            keep_runs: Some(10),
            keep_for_ms: Some(7 * DAY),
            logs_for_ms: Some(3 * DAY),
            cache_for_ms: Some(DAY),
            keep_failed_for_ms: Some(DAY),
        };
        let file = Retention { keep_runs: Some(3), logs_for_ms: Some(DAY), ..Retention::default() };
        let both = file.or(site);
        assert_eq!((both.keep_runs, both.keep_for_ms), (Some(3), None), "3 runs, not 3 runs and a week of them");
        assert_eq!((both.logs_for_ms, both.cache_for_ms), (Some(DAY), Some(DAY)));
        assert_eq!(Retention::default().or(site), site);
        assert_eq!(site.or(Retention::default()), site);
    }
}
