//! `retail.rfm`: what each customer bought, when, and how much of it.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;
use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::{Map, Value, json};

use super::{
    csv::dates::{self, DAY_MS},
    orders::Orders,
};
use crate::ops::{Context, OpError, Operator, tables};

/// The operator.
#[derive(Debug, Clone, Copy)]
pub struct Rfm;

/// What counts as one purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frequency {
    /// Distinct invoices.
    Orders,
    /// Order lines, as the classic notebook counts.
    Lines,
}

impl Operator for Rfm {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("retail.rfm", "1", "describes each customer by recency, frequency, monetary value and more")
            .input("orders", "table", "order lines of retail.clean")
            .output("customers", "table", "one row for each customer, sorted by CustomerID")
            .output("summary", "json", "snapshot date, customers, mean of each feature")
            .param(
                ParamSpec::default("frequency", ParamType::String, "orders", "what Frequency counts")
                    .one_of(&["orders", "lines"]),
            )
            .param(ParamSpec::optional(
                "snapshot",
                ParamType::String,
                "date from which Recency and Tenure count, as 2011-12-10; default: one day after the last order",
            ))
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let frequency = match context.params.optional::<String>("frequency")?.as_deref() {
            None | Some("orders") => Frequency::Orders,
            Some("lines") => Frequency::Lines,
            Some(other) => {
                return Err(OpError::user(format!("`frequency` cannot be `{other}`")).hint("use orders or lines"));
            }
        };
        let snapshot = context.params.optional::<String>("snapshot")?;
        let table = tables::read(context.input("orders")?)?;
        let orders = Orders::of(&table)?;
        let snapshot = snapshot_of(&orders, snapshot.as_deref())?;
        let mut customers = features(&orders, frequency, snapshot)?;
        let means: Map<String, Value> = tables::numeric_columns(&customers)
            .into_iter()
            .map(|name| {
                let values = tables::numbers(&customers, &name)?;
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                Ok((name, json!(mean)))
            })
            .collect::<Result<_, OpError>>()?;
        let summary = json!({
            "snapshot": dates::show(snapshot),
            "frequency": match frequency { Frequency::Orders => "orders", Frequency::Lines => "lines" },
            "customers": customers.height(),
            "means": means,
        });
        context.metrics.insert("customers".to_owned(), json!(customers.height()));
        context.metrics.insert("snapshot".to_owned(), summary["snapshot"].clone());
        tables::write(context, "customers", &mut customers)?;
        context.write("summary", &serde_json::to_vec_pretty(&summary).expect("a JSON value can always be written"))
    }
}

/// Gives the snapshot in milliseconds since 1970.
///
/// # Errors
/// Class `user` if the text is no date or lies before the last order.
pub fn snapshot_of(orders: &Orders<'_>, given: Option<&str>) -> Result<i64, OpError> {
    let last = orders.date.iter().copied().max().ok_or_else(|| OpError::data("the orders table has no rows"))?;
    let Some(text) = given else { return Ok(last + DAY_MS) };
    let snapshot = dates::parse_iso(text)
        .ok_or_else(|| OpError::user(format!("`snapshot` cannot be `{text}`")).hint("write it as 2011-12-10"))?;
    if snapshot < last {
        let message = format!("`snapshot` {} lies before the last order, {}", dates::show(snapshot), dates::show(last));
        return Err(OpError::user(message).hint("leave it out, or give a later date"));
    }
    Ok(snapshot)
}

#[derive(Default)]
struct Bought {
    first: i64,
    last: i64,
    lines: i64,
    orders: i64,
    spent: f64,
    /// Sum over lines of the line count of the line's invoice.
    lines_of_invoices: i64,
}

/// Computes the features of every customer, sorted by id as text.
///
/// Recency and Tenure are whole days before `snapshot` (milliseconds since 1970), rounded down. AvgOrderValue is
/// Monetary / Frequency. AvgBasketSize is lines per order, or with [`Frequency::Lines`] the mean over lines of the line
/// count of the line's invoice.
///
/// # Errors
/// Class `data` if the result makes no table.
pub fn features(orders: &Orders<'_>, frequency: Frequency, snapshot: i64) -> Result<DataFrame, OpError> {
    let mut invoices: HashMap<&str, i64> = HashMap::new();
    for invoice in &orders.invoice {
        *invoices.entry(invoice).or_default() += 1;
    }
    // An invoice is counted once for each customer on it, which in sound data is one.
    let mut seen: HashMap<(&str, &str), ()> = HashMap::with_capacity(invoices.len());
    let mut customers: HashMap<&str, Bought> = HashMap::new();
    for row in 0..orders.len() {
        let (id, date, invoice) = (orders.customer[row], orders.date[row], orders.invoice[row]);
        let bought = customers.entry(id).or_insert_with(|| Bought { first: date, last: date, ..Bought::default() });
        bought.first = bought.first.min(date);
        bought.last = bought.last.max(date);
        bought.lines += 1;
        bought.spent += orders.total[row];
        bought.lines_of_invoices += invoices.get(invoice).copied().unwrap_or(1);
        if seen.insert((id, invoice), ()).is_none() {
            bought.orders += 1;
        }
    }
    let sorted: BTreeMap<&str, Bought> = customers.into_iter().collect();
    let times = |bought: &Bought| match frequency {
        Frequency::Orders => bought.orders,
        Frequency::Lines => bought.lines,
    };
    let basket = |bought: &Bought| match frequency {
        Frequency::Orders => bought.lines as f64 / bought.orders as f64,
        Frequency::Lines => bought.lines_of_invoices as f64 / bought.lines as f64,
    };
    let days = |since: i64| (snapshot - since).div_euclid(DAY_MS);
    let whole = |name: &str, value: &dyn Fn(&Bought) -> i64| {
        Column::new(name.into(), sorted.values().map(value).collect::<Vec<_>>())
    };
    let real = |name: &str, value: &dyn Fn(&Bought) -> f64| {
        Column::new(name.into(), sorted.values().map(value).collect::<Vec<_>>())
    };
    let columns = vec![
        Column::new("CustomerID".into(), sorted.keys().copied().collect::<Vec<_>>()),
        whole("Recency", &|bought| days(bought.last)),
        whole("Frequency", &times),
        real("Monetary", &|bought| bought.spent),
        real("AvgOrderValue", &|bought| bought.spent / times(bought) as f64),
        whole("Tenure", &|bought| days(bought.first)),
        real("AvgBasketSize", &basket),
    ];
    DataFrame::new(sorted.len(), columns).map_err(|e| OpError::data(format!("the customers make no table: {e}")))
}

#[cfg(test)]
#[path = "rfm_tests.rs"]
mod tests;
