#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use polars::prelude::DataFrame;
use serde_json::json;

use super::*;
use crate::ops::{
    retail::{
        csv::dates,
        orders::Orders,
        testing::{Ran, clean_text},
    },
    tables,
};

fn sample(rows: u64, seed: u64) -> (Vec<u8>, SampleFacts) {
    let mut bytes = Vec::new();
    let facts = generate(rows, seed, &mut bytes).unwrap();
    (bytes, facts)
}

fn cleaned(rows: u64) -> (Ran, DataFrame, SampleFacts) {
    let (bytes, facts) = sample(rows, 42);
    let ran = clean_text(&bytes, &json!({})).unwrap();
    let orders = ran.table("orders");
    (ran, orders, facts)
}

#[test]
fn equal_arguments_give_equal_bytes_and_another_seed_gives_others() {
    assert!(sample(5000, 42) == sample(5000, 42));
    assert!(sample(5000, 42).0 != sample(5000, 43).0);
}

#[test]
fn any_number_of_rows_is_met_exactly() {
    for rows in [0, 1, 2, 3, 17, 500, 12_345] {
        let (bytes, facts) = sample(rows, 7);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count() as u64, rows + 1);
        assert_eq!(facts.rows, rows);
        assert!(bytes.starts_with(HEADER.as_bytes()));
    }
}

#[test]
fn the_blemishes_of_real_data_are_there() {
    let (ran, _, facts) = cleaned(20_000);
    let quality = ran.json("quality");
    let dropped = |rule: &str| quality["dropped"][rule].as_u64().unwrap();
    assert_eq!(quality["rows_read"], json!(20_000));
    assert_eq!(dropped("missing_customer_or_description"), facts.missing_customer);
    assert!((4_000..6_000).contains(&facts.missing_customer), "{facts:?}");
    assert!((100..300).contains(&dropped("duplicates")) && dropped("duplicates") >= facts.duplicates, "{quality:#}");
    assert!((150..1_000).contains(&dropped("non_positive_quantity")), "{quality:#}");
    assert!(dropped("non_positive_price") > 0, "{quality:#}");
    assert_eq!(dropped("unparsable"), 0);
    assert!(quality["descriptions_raw"].as_u64() > quality["descriptions_trimmed"].as_u64());
}

#[test]
fn the_shop_is_worth_analysing() {
    let (ran, table, facts) = cleaned(20_000);
    let orders = Orders::of(&table).unwrap();
    let customers: HashSet<_> = orders.customer.iter().collect();
    assert!((400..700).contains(&customers.len()), "{}", customers.len());
    assert!((300..1_000).contains(&ran.table("products").height()), "{facts:?}");
    let last = orders.date.iter().max().unwrap();
    let cut = last - 90 * dates::DAY_MS;
    let known: HashSet<_> = (0..orders.len()).filter(|i| orders.date[*i] < cut).map(|i| orders.customer[i]).collect();
    let again: HashSet<_> = (0..orders.len())
        .filter(|i| orders.date[*i] >= cut && known.contains(orders.customer[*i]))
        .map(|i| orders.customer[i])
        .collect();
    let share = again.len() as f64 / known.len() as f64;
    assert!(
        (0.25..0.75).contains(&share),
        "{} of {} known customers buy in the last 90 days",
        again.len(),
        known.len()
    );
    let mut invoices: HashMap<&str, HashSet<&str>> = HashMap::new();
    for i in 0..orders.len() {
        invoices.entry(orders.customer[i]).or_default().insert(orders.invoice[i]);
    }
    let once = invoices.values().filter(|invoices| invoices.len() == 1).count();
    assert!((100..400).contains(&once), "{once} customers buy once");
    let home = orders.country.iter().filter(|country| **country == "United Kingdom").count();
    assert!(home * 100 > orders.len() * 80 && home < orders.len());
    let mut spent: HashMap<&str, f64> = HashMap::new();
    for i in 0..orders.len() {
        *spent.entry(orders.customer[i]).or_default() += orders.total[i];
    }
    let mut spent: Vec<f64> = spent.into_values().collect();
    spent.sort_by(|a, b| b.total_cmp(a));
    let top: f64 = spent[..spent.len() / 10].iter().sum();
    let share = top / spent.iter().sum::<f64>();
    assert!((0.3..0.85).contains(&share), "the best tenth spends {share} of all");
    assert!(tables::texts(&table, "InvoiceNo").unwrap().iter().all(|invoice| !invoice.starts_with('C')));
}
