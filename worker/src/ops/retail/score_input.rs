//! Customers to score: a CSV or Parquet file with one row for each customer and one column for each feature.

use std::{fs::File, io::Read, path::Path};

use polars::prelude::*;

use super::csv::{
    CsvText,
    columns::{self, Wanted},
    decode, values,
};
use super::{
    clean::Clean,
    clv,
    orders::Orders,
    rfm::{self, Frequency},
};
use crate::{
    models::{ModelDoc, doc::Body},
    ops::{Context, OpError, Operator as _, tables},
};

/// The features that `retail.rfm` computes.
pub const FEATURES: [&str; 6] = ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure", "AvgBasketSize"];
/// Columns that only order lines have.
const ORDER_LINE_COLUMNS: [&str; 5] = ["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice"];
const ID: &str = "CustomerID";

/// What is scored: customers with their features, or the orders that features are made from.
#[derive(Debug)]
pub enum Scored {
    Customers(DataFrame),
    Orders { orders: DataFrame, customers: DataFrame },
}

impl Scored {
    /// Reads a file. Order lines are cleaned as `retail.clean` does it, and described as `retail.rfm` and `retail.clv`
    /// do; `scratch` is an empty directory for what comes in between.
    ///
    /// # Errors
    /// As [`read_customers`], and as the operators for order lines.
    pub fn read(path: &Path, frequency: Frequency, scratch: &Path) -> Result<Self, OpError> {
        if !is_order_lines(path)? {
            return read_customers(path).map(Self::Customers);
        }
        let mut params: serde_json::Map<String, serde_json::Value> =
            Clean.spec().params.into_iter().filter_map(|param| Some((param.name, param.default?))).collect();
        params.insert("path".to_owned(), path.to_string_lossy().into());
        let mut context = Context::new(std::collections::BTreeMap::new(), scratch.to_owned(), params);
        Clean.run(&mut context)?;
        let orders = tables::read(&scratch.join("orders"))?;
        let lines = Orders::of(&orders)?;
        let snapshot = rfm::snapshot_of(&lines, None)?;
        let customers = rfm::features(&lines, frequency, snapshot)?;
        Ok(Self::Orders { orders, customers })
    }

    /// Gives the table that a model takes, one row for each customer in the same order for every model.
    ///
    /// # Errors
    /// Class `data` if the features of a model cannot be made from the orders.
    pub fn table_for(&self, doc: &ModelDoc) -> Result<DataFrame, OpError> {
        match (self, &doc.body) {
            (Self::Customers(table), _) => Ok(table.clone()),
            (Self::Orders { orders, customers }, Body::Clv(model)) if model.mode == "holdout" => {
                clv::features_of(orders, customers, model)
            }
            (Self::Orders { customers, .. }, _) => Ok(customers.clone()),
        }
    }
}

/// Says whether a file has the columns of order lines. Parquet tables are always of customers.
fn is_order_lines(path: &Path) -> Result<bool, OpError> {
    if is_parquet(path) {
        return Ok(false);
    }
    let file = CsvText::load(path, decode::Wanted::Auto)?;
    let has = |name: &str| file.header.iter().any(|column| column.trim() == name);
    Ok(ORDER_LINE_COLUMNS.iter().all(|name| has(name)) && !FEATURES.iter().any(|name| has(name)))
}

/// Reads customers with their features. Parquet is recognised by its first bytes; anything else is read as CSV, plain or
/// packed with gz, xz or zst. `CustomerID` is text, features are numbers; other columns stay text unless all numeric.
///
/// # Errors
/// Class `user` if there is no such file or it holds order lines; `data` if it is damaged, has no `CustomerID` or a
/// customer twice, or a feature is not a number.
pub fn read_customers(path: &Path) -> Result<DataFrame, OpError> {
    let table = if is_parquet(path) { from_parquet(path)? } else { from_csv(path)? };
    let shown = path.display();
    let ids =
        table.column(ID).and_then(|ids| ids.str().cloned()).map_err(|e| OpError::data(format!("{shown}: {e}")))?;
    let mut seen = std::collections::HashSet::with_capacity(table.height());
    for (row, id) in ids.iter().enumerate() {
        match id {
            None | Some("") => return Err(OpError::data(format!("{shown}: row {} has no {ID}", row + 1))),
            Some(id) if !seen.insert(id) => {
                return Err(OpError::data(format!(
                    "{shown}: customer {id} stands there twice, again in row {}",
                    row + 1
                ))
                .hint("give one row for each customer, as the output `customers` of retail.rfm does"));
            }
            Some(_) => {}
        }
    }
    if table.height() == 0 {
        return Err(OpError::data(format!("{shown} holds no customers")));
    }
    Ok(table)
}

fn is_parquet(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok_and(|()| &magic == b"PAR1")
}

fn from_parquet(path: &Path) -> Result<DataFrame, OpError> {
    let mut table = tables::read(path)?;
    let names: Vec<String> = table.get_column_names().iter().map(|n| n.to_string()).collect();
    check_columns(&names, &path.display().to_string())?;
    let ids: Vec<String> = tables::texts(&table, ID)?.iter().map(|id| values::customer(id).to_owned()).collect();
    table.with_column(Column::new(ID.into(), ids)).map_err(|e| OpError::data(format!("{}: {e}", path.display())))?;
    for name in FEATURES.into_iter().filter(|name| names.iter().any(|n| n == name)) {
        if let Some(row) = tables::numbers(&table, name)?.iter().position(|value| !value.is_finite()) {
            return Err(OpError::data(format!("{}: row {}: {name} is not a number", path.display(), row + 1)));
        }
    }
    Ok(table)
}

fn from_csv(path: &Path) -> Result<DataFrame, OpError> {
    let file = CsvText::load(path, decode::Wanted::Auto)?;
    let names: Vec<String> = file.header.iter().map(|name| name.trim().to_owned()).collect();
    check_columns(&names, &file.shown)?;
    let places: Vec<usize> =
        (0..names.len()).filter(|place| names[..*place].iter().all(|n| *n != names[*place])).collect();
    let cells = file.cells(&places)?;
    if let Some(bad) = cells.layout.ragged.first() {
        // To score all customers but one, and say nothing, would be worse than to stop.
        return Err(
            OpError::data(format!("{}: line {}: {}", file.shown, bad.line, bad.reason)).hint("mend or remove the line")
        );
    }
    let mut columns = Vec::with_capacity(places.len());
    for (i, place) in places.iter().enumerate() {
        let name = names[*place].as_str();
        let texts = cells.column(i)?;
        let numbers: Vec<Option<f64>> = texts.iter().map(|cell| values::price(cell)).collect();
        let column_name = PlSmallStr::from_str(name);
        columns.push(if name == ID {
            Column::new(column_name, texts.iter().map(|id| values::customer(id)).collect::<Vec<_>>())
        } else if let Some(numbers) = numbers.iter().copied().collect::<Option<Vec<f64>>>() {
            Column::new(column_name, numbers)
        } else if FEATURES.contains(&name) {
            let row = numbers.iter().position(Option::is_none).unwrap_or_default();
            let (line, cell) = (cells.layout.line_of(row), texts[row].escape_debug());
            return Err(OpError::data(format!("{}: line {line}: {name} `{cell}` is not a number", file.shown)));
        } else {
            Column::new(column_name, texts)
        });
    }
    DataFrame::new(cells.layout.rows, columns).map_err(|e| OpError::data(format!("{}: {e}", file.shown)))
}

fn check_columns(names: &[String], shown: &str) -> Result<(), OpError> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let lines = ORDER_LINE_COLUMNS.iter().filter(|name| has(name)).count();
    if lines >= 3 && !FEATURES.iter().any(|name| has(name)) {
        return Err(OpError::user(format!("{shown} holds order lines, not customers with features"))
            .hint("run the pipeline on it and score its customers: `segue artifacts get RUN rfm.customers --out customers.parquet`"));
    }
    columns::find(names, &[Wanted { name: ID.to_owned(), param: "customer_column" }], shown).map_err(|e| {
        let free: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = columns::nearest(ID, &free).map_or_else(
            || format!("the first column of the output `customers` of retail.rfm is called {ID}"),
            |near| format!("rename `{near}` to {ID}"),
        );
        OpError::data(e.0.message).hint(hint)
    })?;
    Ok(())
}

#[cfg(test)]
#[path = "score_input_tests.rs"]
mod tests;
