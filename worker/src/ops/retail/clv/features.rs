//! What is known of a customer on a date, from the orders before it.

use ndarray::Array2;

use super::ledger::{DAY, Ledger, Line};
use crate::kernels::buyers::{History, Spend};

/// Features about when and how often, with what the baseline makes of them. Gaps are in days between days with purchases.
pub(super) const TIMING: [&str; 17] = [
    "Recency",
    "Tenure",
    "Frequency",
    "PurchaseDays",
    "ActiveMonths",
    "Orders30",
    "Orders60",
    "Orders90",
    "Orders180",
    "GapMean",
    "GapStd",
    "GapMax",
    "RecencyOverGap",
    "ExpectedPurchases",
    "Alive",
    "ExpectedSpend",
    BASELINE,
];

/// Features about how much.
pub(super) const AMOUNTS: [&str; 17] = [
    "Monetary",
    "AvgOrderValue",
    "MaxOrder",
    "MinOrder",
    "MedianOrder",
    "LastOrder",
    "AvgBasketSize",
    "Products",
    "Units",
    "AvgUnitPrice",
    "MaxLine",
    "SpendPerDay",
    "RecentShare",
    "Spend30",
    "Spend60",
    "Spend90",
    "Spend180",
];

/// The spend that the baseline expects.
pub(super) const BASELINE: &str = "BaselineValue";

/// Number of features that come from orders alone, before those of the baseline.
const OWN_TIMING: usize = TIMING.len() - 4;

/// Windows of recent orders and spend, in days.
const WINDOWS: [i64; 4] = [30, 60, 90, 180];

/// Names every feature, in the order of the matrix.
pub(super) fn names() -> Vec<String> {
    TIMING.iter().chain(&AMOUNTS).map(|&name| name.to_owned()).collect()
}

/// Customers known on a date.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Positions in the ledger.
    pub customers: Vec<usize>,
    /// `(customers, TIMING + AMOUNTS)`; NaN where undefined, and for the baseline until it is fitted.
    pub matrix: Array2<f64>,
    pub histories: Vec<History>,
    pub spends: Vec<Spend>,
}

/// One invoice.
struct Order {
    time: i64,
    lines: usize,
    sales: f64,
}

impl Snapshot {
    /// Looks at every customer with an order before `at` (microseconds, midnight). Nothing from `at` on is seen.
    pub(super) fn take(ledger: &Ledger, at: i64) -> Self {
        let mut customers = Vec::new();
        let mut rows = Vec::new();
        let (mut histories, mut spends) = (Vec::new(), Vec::new());
        for (customer, all) in ledger.lines.iter().enumerate() {
            let seen = &all[..all.partition_point(|line| line.time < at)];
            if seen.is_empty() {
                continue;
            }
            let days = purchase_days(seen);
            let (history, spend) = buying(&days, at);
            let orders = orders(seen);
            rows.extend(timing(&orders, &days, at));
            rows.extend(amounts(seen, &orders, at));
            customers.push(customer);
            histories.push(history);
            spends.push(spend);
        }
        let matrix = Array2::from_shape_vec((customers.len(), TIMING.len() + AMOUNTS.len()), rows)
            .expect("every customer gives one value for each name");
        Self { customers, matrix, histories, spends }
    }

    /// Gives each customer's spend from `from` to before `to`.
    pub(super) fn spend_between(&self, ledger: &Ledger, from: i64, to: i64) -> Vec<f64> {
        let spent = |&customer: &usize| {
            let lines = &ledger.lines[customer];
            lines.iter().filter(|line| (from..to).contains(&line.time)).map(|line| line.sales).sum::<f64>().max(0.0)
        };
        self.customers.iter().map(spent).collect()
    }

    /// Fills in the columns of the baseline: expected purchases, chance of being there, spend per purchase, spend.
    pub(super) fn with_baseline(&self, columns: &[[f64; 4]]) -> Array2<f64> {
        let mut matrix = self.matrix.clone();
        for (mut row, values) in matrix.rows_mut().into_iter().zip(columns) {
            for (offset, value) in values.iter().enumerate() {
                row[OWN_TIMING + offset] = *value;
            }
        }
        matrix
    }
}

/// Gives the days with purchases and their sales, in order of time.
fn purchase_days(lines: &[Line]) -> Vec<(i64, f64)> {
    let mut days: Vec<(i64, f64)> = Vec::new();
    for line in lines {
        let day = line.time.div_euclid(DAY);
        match days.last_mut() {
            Some((last, sales)) if *last == day => *sales += line.sales,
            _ => days.push((day, line.sales)),
        }
    }
    days
}

/// A purchase is a day with orders: an order split over two invoices is one decision to buy.
fn buying(days: &[(i64, f64)], at: i64) -> (History, Spend) {
    let (first, last, today) = (days[0].0, days[days.len() - 1].0, at.div_euclid(DAY));
    let repeats = u32::try_from(days.len() - 1).unwrap_or(u32::MAX);
    let history = History { repeats, last: (last - first) as f64, age: (today - first) as f64 };
    // The first purchase is left out, as its size often differs and the model is about repeats.
    let mean = days[1..].iter().map(|d| d.1).sum::<f64>() / f64::from(repeats.max(1));
    let spend = if mean > 0.0 { Spend { purchases: repeats, mean } } else { Spend { purchases: 0, mean: 0.0 } };
    (history, spend)
}

/// Gives the invoices in the order of their first line.
fn orders(lines: &[Line]) -> Vec<Order> {
    let mut by_invoice: Vec<&Line> = lines.iter().collect();
    by_invoice.sort_by_key(|line| line.invoice);
    let mut orders: Vec<Order> = by_invoice
        .chunk_by(|a, b| a.invoice == b.invoice)
        .map(|own| Order { time: own[0].time, lines: own.len(), sales: own.iter().map(|line| line.sales).sum() })
        .collect();
    orders.sort_by_key(|order| order.time);
    orders
}

/// Gives [`TIMING`], the baseline's columns still undefined.
fn timing(orders: &[Order], days: &[(i64, f64)], at: i64) -> [f64; TIMING.len()] {
    let whole_days = |time: i64| ((at - time).div_euclid(DAY)) as f64;
    let recency = whole_days(orders.iter().map(|o| o.time).max().unwrap_or(at));
    let gaps: Vec<f64> = days.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
    let n = gaps.len() as f64;
    let mean = if gaps.is_empty() { f64::NAN } else { gaps.iter().sum::<f64>() / n };
    let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    // Months of 365.25 / 12 days counted from the first purchase: calendar months would favour early or late days.
    let month = |day: i64| ((day - days[0].0) as f64 / 30.4375) as i64;
    let mut months: Vec<i64> = days.iter().map(|d| month(d.0)).collect();
    months.dedup();
    let recent = WINDOWS.map(|window| orders.iter().filter(|o| o.time >= at - window * DAY).count() as f64);
    [
        recency,
        whole_days(orders[0].time),
        orders.len() as f64,
        days.len() as f64,
        months.len() as f64,
        recent[0],
        recent[1],
        recent[2],
        recent[3],
        mean,
        if gaps.len() < 2 { f64::NAN } else { deviation },
        gaps.iter().copied().fold(f64::NAN, f64::max),
        recency / mean,
        f64::NAN,
        f64::NAN,
        f64::NAN,
        f64::NAN,
    ]
}

/// Gives [`AMOUNTS`].
fn amounts(lines: &[Line], orders: &[Order], at: i64) -> [f64; AMOUNTS.len()] {
    let count = orders.len() as f64;
    let total: f64 = lines.iter().map(|line| line.sales).sum();
    let units: f64 = lines.iter().map(|line| line.quantity).sum();
    let mut sizes: Vec<f64> = orders.iter().map(|o| o.sales).collect();
    sizes.sort_by(f64::total_cmp);
    let middle = sizes.len() / 2;
    let median = if sizes.len() % 2 == 1 { sizes[middle] } else { f64::midpoint(sizes[middle - 1], sizes[middle]) };
    let mut products: Vec<u32> = lines.iter().map(|line| line.stock).collect();
    products.sort_unstable();
    products.dedup();
    let tenure = ((at - orders[0].time) as f64 / DAY as f64).max(30.0); // A month at least: a first order is no rate.
    let recent = WINDOWS.map(|window| {
        // Not `sum`, which starts at -0.0 and would print so.
        orders.iter().filter(|o| o.time >= at - window * DAY).fold(0.0, |sum, o| sum + o.sales)
    });
    [
        total,
        total / count,
        sizes[sizes.len() - 1],
        sizes[0],
        median,
        orders[orders.len() - 1].sales,
        orders.iter().map(|o| o.lines as f64).sum::<f64>() / count,
        products.len() as f64,
        units,
        if units > 0.0 { total / units } else { f64::NAN },
        lines.iter().map(|line| line.sales).fold(f64::NAN, f64::max),
        total / tenure,
        recent[2] / (total.abs() + 1.0),
        recent[0],
        recent[1],
        recent[2],
        recent[3],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(day: f64, invoice: u32, stock: u32, sales: f64) -> Line {
        Line { time: (day * DAY as f64) as i64, invoice, stock, quantity: 2.0, sales }
    }

    fn ledger() -> Ledger {
        // Two invoices on day 10, one on day 20, one on day 50; the last is after the snapshot of day 40.
        let lines = vec![
            line(10.1, 1, 1, 5.0),
            line(10.1, 1, 2, 7.0),
            line(10.6, 2, 1, 8.0),
            line(20.5, 3, 3, 30.0),
            line(50.0, 4, 4, 99.0),
        ];
        Ledger { ids: vec!["1".into(), "2".into()], lines: vec![lines, vec![line(45.0, 9, 1, 1.0)]] }
    }

    fn value(snapshot: &Snapshot, name: &str) -> f64 {
        snapshot.matrix[[0, names().iter().position(|n| n == name).expect("a feature of that name")]]
    }

    #[test]
    fn features_of_a_customer_are_as_computed_by_hand() {
        let snapshot = Snapshot::take(&ledger(), 40 * DAY);
        assert_eq!(snapshot.customers, [0], "the second customer is not known yet");
        for (name, wanted) in [
            ("Recency", 19.0),
            ("Tenure", 29.0),
            ("Frequency", 3.0),
            ("PurchaseDays", 2.0),
            ("Orders30", 3.0),
            ("GapMean", 10.0),
            ("RecencyOverGap", 1.9),
            ("Monetary", 50.0),
            ("MaxOrder", 30.0),
            ("MedianOrder", 12.0),
            ("LastOrder", 30.0),
            ("Products", 3.0),
            ("Units", 8.0),
            ("MaxLine", 30.0),
            ("Spend90", 50.0),
        ] {
            assert_eq!(value(&snapshot, name), wanted, "{name}");
        }
        assert!(value(&snapshot, "GapStd").is_nan(), "one gap has no deviation");
        assert_eq!(snapshot.histories[0], History { repeats: 1, last: 10.0, age: 30.0 });
        assert_eq!(snapshot.spends[0], Spend { purchases: 1, mean: 30.0 });
    }

    #[test]
    fn nothing_from_the_date_on_is_seen() {
        let (mut later, at) = (ledger(), 40 * DAY);
        let before = Snapshot::take(&later, at).matrix;
        later.lines[0].retain(|line| line.time < at);
        let without = Snapshot::take(&later, at).matrix;
        assert_eq!(format!("{before:?}"), format!("{without:?}"));
    }

    #[test]
    fn spend_is_counted_from_the_start_to_before_the_end() {
        let ledger = ledger();
        let snapshot = Snapshot::take(&ledger, 40 * DAY);
        assert_eq!(snapshot.spend_between(&ledger, 40 * DAY, 50 * DAY), [0.0]);
        assert_eq!(snapshot.spend_between(&ledger, 50 * DAY, 51 * DAY), [99.0]);
    }

    #[test]
    fn columns_of_the_baseline_go_where_their_names_are() {
        let snapshot = Snapshot::take(&ledger(), 40 * DAY);
        let matrix = snapshot.with_baseline(&[[1.0, 2.0, 3.0, 4.0]]);
        let at = |name: &str| matrix[[0, names().iter().position(|n| n == name).expect("a feature of that name")]];
        assert_eq!([at("ExpectedPurchases"), at("Alive"), at("ExpectedSpend"), at(BASELINE)], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(at("Monetary"), 50.0);
    }
}
