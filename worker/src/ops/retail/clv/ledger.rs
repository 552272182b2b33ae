//! Order lines by customer and time, as the features need them.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate};
use polars::prelude::*;

use super::super::super::{OpError, tables};

/// Microseconds of a day, the unit of the order table's times being microseconds.
pub(super) const DAY: i64 = 86_400_000_000;

/// A line of an order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// Microseconds since 1970.
    pub time: i64,
    pub invoice: u32,
    pub stock: u32,
    pub quantity: f64,
    pub sales: f64,
}

/// Every customer's lines.
#[derive(Debug)]
pub(super) struct Ledger {
    /// In the order of text.
    pub ids: Vec<String>,
    /// By customer, in the order of time, then invoice.
    pub lines: Vec<Vec<Line>>,
}

impl Ledger {
    /// Reads the table of orders.
    pub(super) fn read(orders: &DataFrame) -> Result<Self, OpError> {
        if orders.height() == 0 {
            return Err(OpError::data("input `orders` has no rows"));
        }
        let (rank, ids) = intern(&tables::texts(orders, "CustomerID")?);
        if ids[0].is_empty() {
            return Err(
                OpError::data("input `orders` has lines without CustomerID").hint("clean it with retail.clean first")
            );
        }
        let (invoice, _) = intern(&tables::texts(orders, "InvoiceNo")?);
        let (stock, _) = intern(&tables::texts(orders, "StockCode")?);
        let quantity = tables::numbers(orders, "Quantity")?;
        let sales = tables::numbers(orders, "TotalSales")?;
        let times = times(orders)?;
        let mut lines = vec![Vec::new(); ids.len()];
        for row in 0..orders.height() {
            if !(quantity[row].is_finite() && sales[row].is_finite()) {
                return Err(OpError::data(format!("row {row} of `orders` has no finite Quantity or TotalSales")));
            }
            lines[rank[row] as usize].push(Line {
                time: times[row],
                invoice: invoice[row],
                stock: stock[row],
                quantity: quantity[row],
                sales: sales[row],
            });
        }
        for own in &mut lines {
            own.sort_by_key(|line| (line.time, line.invoice)); // Stable: equal lines keep the order of the file.
        }
        Ok(Self { ids, lines })
    }

    /// Gives midnight after the last order.
    pub(super) fn end(&self) -> i64 {
        let last = self.lines.iter().flatten().map(|line| line.time).max().unwrap_or(0);
        (last.div_euclid(DAY) + 1) * DAY
    }
}

/// Writes a time as a date.
pub(super) fn date(time: i64) -> String {
    DateTime::from_timestamp_micros(time).map_or_else(|| time.to_string(), |t| t.date_naive().to_string())
}

/// Reads a date as its midnight.
pub(super) fn midnight(text: &str) -> Option<i64> {
    let date: NaiveDate = text.parse().ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

fn times(orders: &DataFrame) -> Result<Vec<i64>, OpError> {
    let found =
        orders.column("InvoiceDate").map_err(|_| OpError::data("column `InvoiceDate` is missing from `orders`"))?;
    let wrong = |e: PolarsError| OpError::data(format!("column `InvoiceDate`: {e}"));
    let cast = found.cast(&DataType::Datetime(TimeUnit::Microseconds, None)).map_err(wrong)?;
    let whole = cast.cast(&DataType::Int64).map_err(wrong)?;
    let values = whole.i64().map_err(wrong)?;
    values
        .iter()
        .enumerate()
        .map(|(row, time)| time.ok_or_else(|| OpError::data(format!("row {row} of `orders` has no InvoiceDate"))))
        .collect()
}

/// Gives for every text its rank among the distinct texts, and these in order.
fn intern(texts: &[String]) -> (Vec<u32>, Vec<String>) {
    let mut distinct: Vec<&str> = texts.iter().map(String::as_str).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let rank: HashMap<&str, u32> = distinct.iter().zip(0..).map(|(&text, rank)| (text, rank)).collect();
    (texts.iter().map(|text| rank[text.as_str()]).collect(), distinct.into_iter().map(str::to_owned).collect())
}
