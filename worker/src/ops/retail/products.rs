//! The products behind order lines.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;

use super::{orders::Orders, rules::Cleaned};
use crate::ops::OpError;

#[derive(Default)]
struct Product<'a> {
    lines: i64,
    sales: f64,
    codes: HashMap<&'a str, u64>,
}

/// Lists distinct descriptions without the spaces around them, sorted: the code most lines use (the smallest of equals),
/// lines and sales.
///
/// # Errors
/// Class `data` if the order lines lack a column.
pub fn of(cleaned: &Cleaned) -> Result<DataFrame, OpError> {
    let orders = Orders::of(&cleaned.orders)?;
    let mut found: HashMap<&str, Product<'_>> = HashMap::new();
    for (row, description) in orders.description.iter().enumerate() {
        let text = description.trim();
        // A description of spaces alone is no product that anybody could look for.
        if text.is_empty() {
            continue;
        }
        let product = found.entry(text).or_default();
        product.lines += 1;
        product.sales += orders.total[row];
        *product.codes.entry(orders.stock[row]).or_default() += 1;
    }
    let sorted: BTreeMap<&str, Product<'_>> = found.into_iter().collect();
    let code = |product: &Product<'_>| {
        let best = product.codes.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        best.map_or("", |(code, _)| *code).to_owned()
    };
    let columns = vec![
        Column::new("Description".into(), sorted.keys().copied().collect::<Vec<_>>()),
        Column::new("StockCode".into(), sorted.values().map(code).collect::<Vec<_>>()),
        Column::new("Lines".into(), sorted.values().map(|product| product.lines).collect::<Vec<_>>()),
        Column::new("Sales".into(), sorted.values().map(|product| product.sales).collect::<Vec<_>>()),
    ];
    DataFrame::new(sorted.len(), columns).map_err(|e| OpError::data(format!("the products make no table: {e}")))
}
