//! Order lines as `retail.clean` leaves them, column by column.

use polars::prelude::*;

use crate::ops::OpError;

/// The columns of an orders table, borrowed.
#[derive(Debug)]
pub struct Orders<'a> {
    pub invoice: Vec<&'a str>,
    pub stock: Vec<&'a str>,
    pub description: Vec<&'a str>,
    pub quantity: Vec<i64>,
    /// Milliseconds since 1970, no time zone.
    pub date: Vec<i64>,
    pub price: Vec<f64>,
    pub customer: Vec<&'a str>,
    pub country: Vec<&'a str>,
    pub total: Vec<f64>,
}

impl<'a> Orders<'a> {
    /// Takes a table apart.
    ///
    /// # Errors
    /// Class `data` if a column is missing, of another type, or holds nulls where a number must be.
    pub fn of(table: &'a DataFrame) -> Result<Self, OpError> {
        if table.height() == 0 {
            return Err(OpError::data("the orders table has no rows"));
        }
        Ok(Self {
            invoice: text(table, "InvoiceNo")?,
            stock: text(table, "StockCode")?,
            description: text(table, "Description")?,
            quantity: whole(table, "Quantity")?,
            date: dates(table, "InvoiceDate")?,
            price: numbers(table, "UnitPrice")?,
            customer: text(table, "CustomerID")?,
            country: text(table, "Country")?,
            total: numbers(table, "TotalSales")?,
        })
    }

    /// Gives the number of lines.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.invoice.len()
    }

    /// Says whether there are no lines; [`Orders::of`] refuses such tables.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.invoice.is_empty()
    }
}

fn column<'a>(table: &'a DataFrame, name: &str) -> Result<&'a Column, OpError> {
    table.column(name).map_err(|_| {
        let have: Vec<_> = table.get_column_names().iter().map(|n| n.to_string()).collect();
        OpError::data(format!("the orders table has no column `{name}`"))
            .hint(format!("connect the output `orders` of retail.clean; the table has: {}", have.join(", ")))
    })
}

fn bad(name: &str, error: &PolarsError) -> OpError {
    OpError::data(format!("column `{name}` of the orders table: {error}"))
        .hint("connect the output `orders` of retail.clean")
}

fn text<'a>(table: &'a DataFrame, name: &str) -> Result<Vec<&'a str>, OpError> {
    let values = column(table, name)?.str().map_err(|e| bad(name, &e))?;
    Ok(values.iter().map(Option::unwrap_or_default).collect())
}

fn whole(table: &DataFrame, name: &str) -> Result<Vec<i64>, OpError> {
    let values = column(table, name)?.i64().map_err(|e| bad(name, &e))?;
    full(name, values.iter())
}

fn numbers(table: &DataFrame, name: &str) -> Result<Vec<f64>, OpError> {
    let values = column(table, name)?.f64().map_err(|e| bad(name, &e))?;
    full(name, values.iter().map(|value| value.filter(|number| number.is_finite())))
}

fn dates(table: &DataFrame, name: &str) -> Result<Vec<i64>, OpError> {
    let cast = column(table, name)?
        .cast(&DataType::Datetime(TimeUnit::Milliseconds, None))
        .and_then(|dates| dates.cast(&DataType::Int64))
        .map_err(|e| bad(name, &e))?;
    let values = cast.i64().map_err(|e| bad(name, &e))?;
    full(name, values.iter())
}

fn full<T>(name: &str, values: impl Iterator<Item = Option<T>>) -> Result<Vec<T>, OpError> {
    values
        .enumerate()
        .map(|(row, value)| {
            let message =
                || OpError::data(format!("column `{name}` of the orders table has no value in row {}", row + 1));
            value.ok_or_else(message)
        })
        .collect()
}
