//! The rules that decide which order lines count, in their fixed order.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use polars::prelude::*;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::csv::{
    Cells,
    dates::{self, DateFormat},
    layout::{BadRow, Layout},
    values,
};
use crate::ops::OpError;

/// How many dropped rows are shown one by one.
const SHOWN_BAD_ROWS: usize = 20;

/// The cells of order lines as they stand in the file; a missing cell is empty.
#[derive(Debug, Default)]
pub struct RawLines<'a> {
    pub invoice: Vec<&'a str>,
    pub stock: Vec<&'a str>,
    pub description: Vec<&'a str>,
    pub quantity: Vec<&'a str>,
    pub date: Vec<&'a str>,
    pub price: Vec<&'a str>,
    pub customer: Vec<&'a str>,
    pub country: Vec<&'a str>,
}

/// What is left of a file.
#[derive(Debug)]
pub struct Cleaned {
    pub orders: DataFrame,
    /// Everything there is to say about the file but how it was encoded.
    pub quality: Value,
}

impl<'a> RawLines<'a> {
    /// Takes the eight columns in the order of the orders table.
    ///
    /// # Errors
    /// Class `data` if a column was not read.
    pub fn of(cells: &'a Cells<'_>) -> Result<Self, OpError> {
        Ok(Self {
            invoice: cells.column(0)?,
            stock: cells.column(1)?,
            description: cells.column(2)?,
            quantity: cells.column(3)?,
            date: cells.column(4)?,
            price: cells.column(5)?,
            customer: cells.column(6)?.into_iter().map(values::customer).collect(),
            country: cells.column(7)?,
        })
    }

    fn columns(&self) -> [(&'static str, &[&'a str]); 8] {
        [
            ("InvoiceNo", &self.invoice),
            ("StockCode", &self.stock),
            ("Description", &self.description),
            ("Quantity", &self.quantity),
            ("InvoiceDate", &self.date),
            ("UnitPrice", &self.price),
            ("CustomerID", &self.customer),
            ("Country", &self.country),
        ]
    }
}

/// The parsed columns of all rows. A cell that could not be parsed holds 0 and its row is listed in `bad`, ascending.
struct Parsed<'r, 'a> {
    raw: &'r RawLines<'a>,
    quantity: Vec<i64>,
    date: Vec<i64>,
    price: Vec<f64>,
    bad: Vec<u32>,
}

/// Applies the rules: customer and description present, readable, not an exact duplicate of an earlier line, quantity
/// and price above zero.
///
/// # Errors
/// Class `data` if more than half of the rows with a customer cannot be read, or if none is left.
pub fn apply(raw: &RawLines<'_>, layout: &Layout<'_>, format: DateFormat, shown: &str) -> Result<Cleaned, OpError> {
    let read = raw.invoice.len() + layout.ragged.len();
    let present: Vec<u32> = rows(raw.invoice.len())?
        .filter(|row| !raw.customer[*row as usize].is_empty() && !raw.description[*row as usize].is_empty())
        .collect();
    let missing = raw.invoice.len() - present.len();
    let parsed = parse(raw, format);
    let readable: Vec<u32> = without(&present, &parsed.bad);
    let unparsable = present.len() - readable.len() + layout.ragged.len();
    let bad = first_bad(&parsed, &present, layout, format);
    if unparsable * 2 > read - missing {
        return Err(mostly_unparsable(&bad, unparsable, read - missing, shown));
    }
    let distinct = drop_duplicates(&parsed, &readable);
    let positive: Vec<u32> = distinct.iter().copied().filter(|row| parsed.quantity[*row as usize] > 0).collect();
    let kept: Vec<u32> = positive.iter().copied().filter(|row| parsed.price[*row as usize] > 0.0).collect();
    let dropped = json!({
        "missing_customer_or_description": missing,
        "unparsable": unparsable,
        "duplicates": readable.len() - distinct.len(),
        "non_positive_quantity": distinct.len() - positive.len(),
        "non_positive_price": positive.len() - kept.len(),
    });
    if kept.is_empty() {
        return Err(OpError::data(format!(
            "{shown}: no order line is left after cleaning {read} rows: dropped {dropped}"
        ))
        .hint("check that the columns named hold what they should: customer, description, quantity and price"));
    }
    let orders = orders_of(&parsed, &kept)?;
    let count = |column: &[&str]| kept.iter().map(|row| column[*row as usize]).collect::<HashSet<_>>().len();
    let total: f64 = kept.iter().map(|row| parsed.total(*row)).sum();
    let last = kept.iter().map(|row| parsed.date[*row as usize]).max().unwrap_or_default();
    let first = kept.iter().map(|row| parsed.date[*row as usize]).min().unwrap_or_default();
    let nulls: serde_json::Map<_, _> = raw
        .columns()
        .into_par_iter()
        .map(|(name, cells)| (name.to_owned(), json!(cells.iter().filter(|cell| cell.is_empty()).count())))
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    let types: serde_json::Map<_, _> =
        orders.columns().iter().map(|c| (c.name().to_string(), json!(c.dtype().to_string()))).collect();
    let quality = json!({
        "rows_read": read,
        "after_missing": read - missing,
        "after_unparsable": readable.len(),
        "after_duplicates": distinct.len(),
        "kept": kept.len(),
        "dropped": dropped,
        "customers": count(&raw.customer),
        "invoices": count(&raw.invoice),
        "descriptions_raw": count(&raw.description),
        "descriptions_trimmed": Value::Null,
        "stock_codes": count(&raw.stock),
        "sum_total_sales": total,
        "first_order": dates::show(first),
        "last_order": dates::show(last),
        "nulls": nulls,
        "types": types,
        "unparsable_rows": bad.iter().map(|bad| json!({"line": bad.line, "reason": bad.reason})).collect::<Vec<_>>(),
    });
    Ok(Cleaned { orders, quality })
}

fn rows(count: usize) -> Result<std::ops::Range<u32>, OpError> {
    let count = u32::try_from(count)
        .map_err(|_| OpError::data(format!("the file has {count} rows; up to {} are supported", u32::MAX)))?;
    Ok(0..count)
}

/// Gives the members of `all` that are not in `out`; both ascend.
fn without(all: &[u32], out: &[u32]) -> Vec<u32> {
    all.iter().copied().filter(|row| out.binary_search(row).is_err()).collect()
}

impl Parsed<'_, '_> {
    fn total(&self, row: u32) -> f64 {
        // Quantities are far below 2^53, where a double is exact.
        self.quantity[row as usize] as f64 * self.price[row as usize]
    }

    /// Gives everything that makes two lines the same line.
    fn key(&self, row: u32) -> (&str, &str, &str, i64, i64, u64, &str, &str) {
        let (row, raw) = (row as usize, self.raw);
        // Adding zero makes the two zeros one.
        let price = (self.price[row] + 0.0).to_bits();
        let (invoice, stock, description) = (raw.invoice[row], raw.stock[row], raw.description[row]);
        (invoice, stock, description, self.quantity[row], self.date[row], price, raw.customer[row], raw.country[row])
    }
}

fn parse<'r, 'a>(raw: &'r RawLines<'a>, format: DateFormat) -> Parsed<'r, 'a> {
    let (date, (quantity, price)) = rayon::join(
        || cells(&raw.date, |cell| format.parse(cell)),
        || (cells(&raw.quantity, values::quantity), cells(&raw.price, values::price)),
    );
    let mut bad = [date.1, quantity.1, price.1].concat();
    let endless = |row: &u32| !(quantity.0[*row as usize] as f64 * price.0[*row as usize]).is_finite();
    let all = 0..u32::try_from(raw.invoice.len()).unwrap_or(u32::MAX);
    bad.extend(all.filter(|row| raw.invoice[*row as usize].trim().is_empty() || endless(row)));
    bad.sort_unstable();
    bad.dedup();
    Parsed { raw, quantity: quantity.0, date: date.0, price: price.0, bad }
}

fn cells<T: Default>(cells: &[&str], parse: impl Fn(&str) -> Option<T>) -> (Vec<T>, Vec<u32>) {
    let mut bad = Vec::new();
    let values = cells
        .iter()
        .zip(0u32..)
        .map(|(cell, row)| {
            parse(cell).unwrap_or_else(|| {
                bad.push(row);
                T::default()
            })
        })
        .collect();
    (values, bad)
}

/// Keeps the first of every set of equal lines.
fn drop_duplicates(parsed: &Parsed<'_, '_>, readable: &[u32]) -> Vec<u32> {
    let keyed = RandomState::new();
    let hashes: Vec<u64> = readable.par_iter().map(|row| keyed.hash_one(parsed.key(*row))).collect();
    let mut first: HashMap<u64, u32, BuildHasherDefault<AlreadyHashed>> =
        HashMap::with_capacity_and_hasher(readable.len(), BuildHasherDefault::default());
    // Different lines with equal hashes: in practice none, but a hash must never drop a sale.
    let mut collided: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut distinct = Vec::with_capacity(readable.len());
    for (row, hash) in readable.iter().zip(&hashes) {
        match first.entry(*hash) {
            Entry::Vacant(place) => {
                place.insert(*row);
            }
            Entry::Occupied(earlier) => {
                let key = parsed.key(*row);
                let others = collided.entry(*hash).or_default();
                if parsed.key(*earlier.get()) == key || others.iter().any(|other| parsed.key(*other) == key) {
                    continue;
                }
                others.push(*row);
            }
        }
        distinct.push(*row);
    }
    distinct
}

/// Takes a hash as it is.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Makes the orders table. Columns are built anew from values, so that equal lines give equal bytes whatever file they
/// came from.
fn orders_of(parsed: &Parsed<'_, '_>, kept: &[u32]) -> Result<DataFrame, OpError> {
    let raw = parsed.raw;
    let text = |name: &str, cells: &[&str]| {
        let values = kept.iter().map(|row| cells[*row as usize]);
        StringChunked::from_iter_values(name.into(), values).into_column()
    };
    let dates = Int64Chunked::from_iter_values("InvoiceDate".into(), kept.iter().map(|row| parsed.date[*row as usize]));
    let makers: Vec<Box<dyn Fn() -> Column + Sync + '_>> = vec![
        Box::new(|| text("InvoiceNo", &raw.invoice)),
        Box::new(|| text("StockCode", &raw.stock)),
        Box::new(|| text("Description", &raw.description)),
        Box::new(|| {
            let values = kept.iter().map(|row| parsed.quantity[*row as usize]);
            Int64Chunked::from_iter_values("Quantity".into(), values).into_column()
        }),
        Box::new(|| dates.clone().into_datetime(TimeUnit::Milliseconds, None).into_column()),
        Box::new(|| {
            let values = kept.iter().map(|row| parsed.price[*row as usize]);
            Float64Chunked::from_iter_values("UnitPrice".into(), values).into_column()
        }),
        Box::new(|| text("CustomerID", &raw.customer)),
        Box::new(|| text("Country", &raw.country)),
        Box::new(|| {
            let values = kept.iter().map(|row| parsed.total(*row));
            Float64Chunked::from_iter_values("TotalSales".into(), values).into_column()
        }),
    ];
    let columns: Vec<Column> = makers.par_iter().map(|make| make()).collect();
    DataFrame::new(kept.len(), columns).map_err(|e| OpError::data(format!("the order lines make no table: {e}")))
}

/// Explains the first unparsable rows, by line.
fn first_bad(parsed: &Parsed<'_, '_>, present: &[u32], layout: &Layout<'_>, format: DateFormat) -> Vec<BadRow> {
    let explained =
        parsed.bad.iter().filter(|row| present.binary_search(row).is_ok()).take(SHOWN_BAD_ROWS).map(|row| BadRow {
            line: layout.line_of(*row as usize),
            reason: reason(parsed.raw, *row as usize, format),
        });
    let mut bad: Vec<_> = layout.ragged.iter().take(SHOWN_BAD_ROWS).cloned().chain(explained).collect();
    bad.sort_by_key(|bad| bad.line);
    bad.truncate(SHOWN_BAD_ROWS);
    bad
}

fn reason(raw: &RawLines<'_>, row: usize, format: DateFormat) -> String {
    let (invoice, quantity, date, price) = (raw.invoice[row], raw.quantity[row], raw.date[row], raw.price[row]);
    if invoice.trim().is_empty() {
        "InvoiceNo is empty".to_owned()
    } else if values::quantity(quantity).is_none() {
        format!("Quantity {} is not a whole number", quoted(quantity))
    } else if format.parse(date).is_none() {
        format!("InvoiceDate {} is not a date ({})", quoted(date), format.name())
    } else if values::price(price).is_none() {
        format!("UnitPrice {} is not a number", quoted(price))
    } else {
        format!("Quantity {} times UnitPrice {} is too large", quoted(quantity), quoted(price))
    }
}

/// Shows a cell, cut short: a damaged file may hold anything.
fn quoted(cell: &str) -> String {
    const MOST: usize = 40;
    let short: String = cell.chars().take(MOST).collect();
    let more = if cell.chars().nth(MOST).is_some() { "..." } else { "" };
    format!("`{}{more}`", short.escape_debug())
}

fn mostly_unparsable(bad: &[BadRow], unparsable: usize, of: usize, shown: &str) -> OpError {
    let examples: Vec<_> = bad.iter().take(3).map(|bad| format!("line {}: {}", bad.line, bad.reason)).collect();
    let hint = if bad.iter().filter(|bad| bad.reason.starts_with("InvoiceDate")).count() * 2 > bad.len() {
        "set `date_format` to iso, dmy or mdy"
    } else {
        "check that the columns named hold what they should, and that the file is separated by commas"
    };
    OpError::data(format!("{shown}: {unparsable} of {of} rows cannot be read: {}", examples.join("; "))).hint(hint)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
