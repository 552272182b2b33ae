//! `retail.eda`: figures to look at before anything is modelled.

use std::collections::{BTreeMap, HashMap, HashSet};

use polars::prelude::*;
use segue_proto::operator::OperatorSpec;
use serde_json::{Map, Value, json};

use super::{csv::dates, orders::Orders};
use crate::{
    kernels::{KernelError, describe::Sorted},
    ops::{Context, OpError, Operator, tables},
};

/// Bins of a histogram.
const BINS: usize = 50;
/// Histograms end at this quantile: one order of 80,995 pieces would press everything else into one bin.
const CLIP_AT: f64 = 0.99;
/// A tail is cut off only if it is longer than the rest this many times.
const CLIP_FACTOR: f64 = 1.5;
/// Points of the scatter plot; more would only make the page slow.
const POINTS: usize = 4000;
/// Of these, how many are the largest by either measure: they are what the eye looks for.
const LARGEST: usize = 100;
/// Rows of a ranking.
const TOP: usize = 10;

/// The operator.
#[derive(Debug, Clone, Copy)]
pub struct Eda;

impl Operator for Eda {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("retail.eda", "1", "describes order lines: moments, histograms, boxes, rankings")
            .input("orders", "table", "order lines of retail.clean")
            .output("stats", "json", "figures for the report")
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let table = tables::read(context.input("orders")?)?;
        let orders = Orders::of(&table)?;
        let stats = stats(&table, &orders)?;
        context.metrics.insert("lines".to_owned(), json!(orders.len()));
        context.write("stats", &serde_json::to_vec(&stats).expect("a JSON value can always be written"))
    }
}

fn stats(table: &DataFrame, orders: &Orders<'_>) -> Result<Value, OpError> {
    let quantity: Vec<f64> = orders.quantity.iter().map(|q| *q as f64).collect();
    let (totals, (quantities, prices)) = rayon::join(
        || sorted("TotalSales", orders.total.clone()),
        || rayon::join(|| sorted("Quantity", quantity), || sorted("UnitPrice", orders.price.clone())),
    );
    let (totals, quantities, prices) = (totals?, quantities?, prices?);
    let columns: Vec<_> = table
        .columns()
        .iter()
        .map(|c| json!({"name": c.name().as_str(), "type": c.dtype().to_string(), "nulls": c.null_count()}))
        .collect();
    Ok(json!({
        "lines": orders.len(),
        "describe": {
            "Quantity": describe(&quantities), "UnitPrice": describe(&prices), "TotalSales": describe(&totals),
        },
        "columns": columns,
        "histograms": { "TotalSales": histogram(&totals)?, "Quantity": histogram(&quantities)? },
        "boxes": { "TotalSales": box_plot(&totals), "Quantity": box_plot(&quantities), "UnitPrice": box_plot(&prices) },
        "scatter": scatter(orders),
        "by_country": by_country(orders),
        "by_month": by_month(orders),
        "top_products": top_products(orders),
    }))
}

fn sorted(column: &str, values: Vec<f64>) -> Result<Sorted, OpError> {
    Sorted::new(values).map_err(|e| refused(column, &e))
}

fn refused(column: &str, error: &KernelError) -> OpError {
    OpError::data(format!("column `{column}` of the orders table: {error}"))
}

fn describe(values: &Sorted) -> Value {
    let d = values.describe();
    // JSON has no NaN: the deviation of one value is null.
    json!({
        "count": d.count, "mean": d.mean, "std": d.std, "min": d.min,
        "q25": d.q25, "q50": d.q50, "q75": d.q75, "max": d.max,
    })
}

fn histogram(values: &Sorted) -> Result<Value, OpError> {
    let top = values.quantile(CLIP_AT);
    let clipped = values.max() - values.min() > CLIP_FACTOR * (top - values.min());
    let shown =
        values.histogram(BINS, if clipped { top } else { values.max() }).map_err(|e| refused("histogram", &e))?;
    let whole = values.histogram(BINS, values.max()).map_err(|e| refused("histogram", &e))?;
    let mut figure = json!({
        "edges": shown.edges,
        "counts": shown.counts,
        "whole_range": { "edges": whole.edges, "counts": whole.counts },
    });
    if clipped {
        figure["clipped_above"] = json!(shown.above);
        figure["clipped_at"] = json!(top);
    }
    Ok(figure)
}

fn box_plot(values: &Sorted) -> Value {
    let b = values.box_plot();
    json!({
        "min": b.min, "whisker_low": b.whisker_low, "q25": b.q25, "q50": b.q50, "q75": b.q75,
        "whisker_high": b.whisker_high, "max": b.max, "outliers": b.outliers,
    })
}

/// Picks lines evenly through the file, and always the largest.
fn scatter(orders: &Orders<'_>) -> Value {
    let lines = orders.len();
    let mut rows: Vec<usize> = if lines <= POINTS {
        (0..lines).collect()
    } else {
        let even = POINTS - 2 * LARGEST;
        let mut rows: Vec<usize> = (0..even).map(|i| i * lines / even).collect();
        rows.extend(largest(lines, |a, b| orders.total[a].total_cmp(&orders.total[b])));
        rows.extend(largest(lines, |a, b| orders.quantity[a].cmp(&orders.quantity[b])));
        rows
    };
    rows.sort_unstable();
    rows.dedup();
    let points: Vec<_> = rows.iter().map(|row| json!([orders.quantity[*row], orders.total[*row]])).collect();
    json!({ "shown": points.len(), "of": lines, "points": points })
}

fn largest(lines: usize, compare: impl Fn(usize, usize) -> std::cmp::Ordering) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..lines).collect();
    // Ties by place in the file, so that equal tables give equal figures.
    let by = |a: &usize, b: &usize| compare(*b, *a).then(a.cmp(b));
    if lines > LARGEST {
        rows.select_nth_unstable_by(LARGEST, by);
    }
    rows.truncate(LARGEST);
    rows
}

/// Sums over some of the lines.
#[derive(Default)]
struct Share<'a> {
    sales: f64,
    lines: u64,
    quantity: i64,
    orders: HashSet<&'a str>,
    customers: HashSet<&'a str>,
}

impl<'a> Share<'a> {
    fn add(&mut self, orders: &Orders<'a>, row: usize) {
        self.sales += orders.total[row];
        self.lines += 1;
        self.quantity = self.quantity.saturating_add(orders.quantity[row]);
        self.orders.insert(orders.invoice[row]);
        self.customers.insert(orders.customer[row]);
    }

    fn json(&self, key: &str, name: &str) -> Value {
        let mut fields = Map::new();
        fields.insert(key.to_owned(), json!(name));
        fields.insert("sales".to_owned(), json!(self.sales));
        fields.insert("lines".to_owned(), json!(self.lines));
        fields.insert("quantity".to_owned(), json!(self.quantity));
        fields.insert("orders".to_owned(), json!(self.orders.len()));
        fields.insert("customers".to_owned(), json!(self.customers.len()));
        Value::Object(fields)
    }
}

fn group<'a>(orders: &Orders<'a>, key: impl Fn(usize) -> &'a str) -> HashMap<&'a str, Share<'a>> {
    let mut groups: HashMap<&str, Share<'_>> = HashMap::new();
    for row in 0..orders.len() {
        groups.entry(key(row)).or_default().add(orders, row);
    }
    groups
}

/// Ranks groups by sales, ties by name.
fn ranked<'a>(groups: HashMap<&'a str, Share<'a>>, key: &str) -> Vec<Value> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|a, b| b.1.sales.total_cmp(&a.1.sales).then(a.0.cmp(b.0)));
    groups.iter().take(TOP).map(|(name, share)| share.json(key, name)).collect()
}

fn by_country(orders: &Orders<'_>) -> Vec<Value> {
    ranked(group(orders, |row| orders.country[row]), "country")
}

fn top_products(orders: &Orders<'_>) -> Vec<Value> {
    ranked(group(orders, |row| orders.description[row].trim()), "product")
}

fn by_month(orders: &Orders<'_>) -> Vec<Value> {
    // Months by day first: one calendar conversion a day instead of one a line.
    let mut days: BTreeMap<i64, String> = BTreeMap::new();
    let mut months: BTreeMap<String, Share<'_>> = BTreeMap::new();
    for row in 0..orders.len() {
        let day = orders.date[row].div_euclid(dates::DAY_MS);
        let month = days.entry(day).or_insert_with(|| dates::month(orders.date[row]));
        match months.get_mut(month.as_str()) {
            Some(share) => share.add(orders, row),
            None => months.entry(month.clone()).or_default().add(orders, row),
        }
    }
    months.iter().map(|(month, share)| share.json("month", month)).collect()
}

#[cfg(test)]
#[path = "eda_tests.rs"]
mod tests;
