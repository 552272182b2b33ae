//! Lists of customers, each with the rule that chose them in words.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::{
    profile::{Customers, count, finite, share},
    rounded,
};
use crate::ops::{
    OpError,
    report::format::{amount, decimal, integer, percent},
};

/// How many customers of a list the summary carries.
const SHOWN: usize = 20;

/// What counts as high-value and as churn-prone.
pub(super) struct Rules {
    pub high_value_share: f64,
    pub churn_factor: f64,
    pub churn_min_days: f64,
}

impl Rules {
    pub fn check(&self) -> Result<(), OpError> {
        if !(self.high_value_share > 0.0 && self.high_value_share <= 1.0) {
            return Err(OpError::user(format!("parameter `high_value_share` cannot be {}", self.high_value_share))
                .hint("give a share above 0 and up to 1, for example 0.1"));
        }
        if !(self.churn_factor > 0.0 && self.churn_factor.is_finite()) {
            return Err(OpError::user(format!("parameter `churn_factor` cannot be {}", self.churn_factor))
                .hint("give a number above 0, for example 2"));
        }
        Ok(())
    }
}

/// Customers that a rule chose, best first.
pub(super) struct Chosen {
    pub rule: String,
    pub rows: Vec<usize>,
    /// Mean days between orders, for each row; only where the rule needs it.
    gaps: Vec<f64>,
}

impl Chosen {
    pub fn flags(&self, customers: usize) -> Vec<bool> {
        let mut flags = vec![false; customers];
        for &row in &self.rows {
            flags[row] = true;
        }
        flags
    }

    /// Gives the share of all past sales that the chosen customers hold.
    pub fn share_of(&self, values: &[f64]) -> f64 {
        share(finite(self.rows.iter().map(|&row| values[row])).sum(), finite(values.iter().copied()).sum())
    }

    pub fn to_json(&self, customers: &Customers, names: &[String]) -> Value {
        let shown: Vec<Value> = self
            .rows
            .iter()
            .enumerate()
            .take(SHOWN)
            .map(|(place, &row)| {
                let mut object = customers.to_json(row, names);
                if let Some(gap) = self.gaps.get(place) {
                    object.insert("MeanGapDays".into(), rounded(*gap));
                    object.insert("TimesGap".into(), rounded(customers.value("Recency", row) / gap));
                }
                Value::Object(object)
            })
            .collect();
        json!({"rule": self.rule, "count": self.rows.len(), "customers": shown})
    }
}

/// Chooses the top share by predicted spend where there is one, else by past spend.
pub(super) fn high_value(customers: &Customers, rules: &Rules) -> Chosen {
    let money = customers.feature("Monetary").unwrap_or_default();
    let (values, by): (Vec<f64>, &str) = match &customers.predicted {
        Some(predicted) => (predicted.iter().map(|p| p.unwrap_or(f64::NEG_INFINITY)).collect(), "predicted spend"),
        None => (money.to_vec(), "past spend (Monetary)"),
    };
    // A share of a count, between 1 and the count.
    let wanted = ((rules.high_value_share * count(customers.len())).ceil() as usize).clamp(1, customers.len());
    let mut rows: Vec<usize> = (0..customers.len()).filter(|&row| values[row].is_finite()).collect();
    rows.sort_by(|&a, &b| descending(values[a], values[b]).then_with(|| customers.id[a].cmp(&customers.id[b])));
    rows.truncate(wanted);
    let threshold = rows.last().map_or(f64::NAN, |&row| values[row]);
    let rule = format!(
        "The {} of customers with the highest {by}: {} of {}, from {} upwards. Equal values go by customer number.",
        percent(rules.high_value_share),
        integer(count(rows.len())),
        integer(count(customers.len())),
        amount(threshold),
    );
    Chosen { rule, rows, gaps: Vec::new() }
}

/// Chooses customers of worth who have been silent for much longer than their own habit.
pub(super) fn churn_prone(customers: &Customers, rules: &Rules) -> Chosen {
    let money = customers.feature("Monetary").unwrap_or_default();
    let worth = median(money);
    let mut found: Vec<(usize, f64)> = (0..customers.len())
        .filter_map(|row| {
            let gap = mean_gap(customers, row)?;
            let silent = customers.value("Recency", row);
            let late = silent > rules.churn_factor * gap && silent >= rules.churn_min_days;
            (money[row] >= worth && late).then_some((row, gap))
        })
        .collect();
    found.sort_by(|a, b| descending(money[a.0], money[b.0]).then_with(|| customers.id[a.0].cmp(&customers.id[b.0])));
    let rule = if customers.feature("Tenure").is_some() {
        format!(
            "Customers who spent at least the median ({}) and whose last order is more than {} times as many days back as \
             they used to leave between orders (days from first to last order / (Frequency - 1), one day or more), and at least {} days; \
             listed by past spend. Customers with one order have no habit to break and are left out.",
            amount(worth),
            decimal(rules.churn_factor),
            integer(rules.churn_min_days),
        )
    } else {
        "Nobody could be chosen: the customers table has no column Tenure, so the days between orders are unknown."
            .to_owned()
    };
    let (rows, gaps) = found.into_iter().unzip();
    Chosen { rule, rows, gaps }
}

/// Gives the mean days between the orders of a customer, if there was more than one day of them.
fn mean_gap(customers: &Customers, row: usize) -> Option<f64> {
    let span = customers.value("Tenure", row) - customers.value("Recency", row);
    let orders = customers.value("Frequency", row);
    // Several orders a day are not a habit of coming back within hours.
    (orders >= 2.0 && span > 0.0).then(|| (span / (orders - 1.0)).max(1.0))
}

/// Gives the middle value; NaN of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = finite(values.iter().copied()).collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Orders numbers from high to low, NaN last.
fn descending(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => b.total_cmp(&a),
        (a, b) => a.cmp(&b),
    }
}
