//! Sample data of the schema of the UCI Online Retail set: a made-up gift shop over one year.
//!
//! Seeded and streaming: equal arguments give equal bytes, and memory grows with customers and products, not with rows.

mod calendar;
mod catalogue;
mod dice;
mod events;
mod lines;

use std::io::{self, Write};

use serde::Serialize;

use self::{events::Plan, lines::Desk};

/// The header of the data set.
pub const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SampleFacts {
    pub rows: u64,
    /// Purchases, returns and stock adjustments.
    pub invoices: u64,
    /// Customers with at least one line.
    pub customers: u64,
    /// Products on offer.
    pub products: u64,
    /// Rows without a customer.
    pub missing_customer: u64,
    /// Rows that repeat an earlier row exactly, on purpose.
    pub duplicates: u64,
    /// Rows of returns.
    pub returns: u64,
    /// First and last day, as `2024-12-01`.
    pub first_day: String,
    pub last_day: String,
}

/// Writes exactly `rows` order lines after a header.
///
/// The lines are of wholesalers, regular, lapsed and one-off customers whose purchases follow a Poisson process with a
/// gamma-distributed rate and a lifetime, busier in autumn. About a quarter has no customer, one in a hundred repeats an
/// earlier line, some are returns (invoices beginning with `C`), postage, gifts at price zero and stock adjustments.
///
/// # Errors
/// Those of `out`.
pub fn generate(rows: u64, seed: u64, out: &mut dyn Write) -> io::Result<SampleFacts> {
    let plan = Plan::new(rows, seed);
    let mut desk = Desk::new(rows, seed, &plan, out)?;
    for (event, lines) in plan.events() {
        desk.serve(&event, lines)?;
    }
    desk.close()
}

#[cfg(test)]
mod tests;
