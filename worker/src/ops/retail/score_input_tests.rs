#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use segue_proto::failure::FailureClass;
use serde_json::json;

use super::*;
use crate::ops::retail::{
    rfm::Rfm,
    testing::{HEADER, clean_text, run},
};

fn read(bytes: impl AsRef<[u8]>) -> Result<DataFrame, OpError> {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("new customers.csv");
    fs::write(&path, bytes).unwrap();
    read_customers(&path)
}

const GOOD: &str = "CustomerID,Recency,Frequency,Name\n17850.0,3,4.5,Ann\n00012,1,2,\"B, C\"\n";

#[test]
fn a_csv_gives_ids_as_text_and_features_as_numbers() {
    for bytes in [GOOD.as_bytes().to_vec(), zstd::encode_all(GOOD.as_bytes(), 1).unwrap()] {
        let table = read(bytes).unwrap();
        assert_eq!(tables::texts(&table, "CustomerID").unwrap(), ["17850", "00012"]);
        assert_eq!(tables::numbers(&table, "Frequency").unwrap(), [4.5, 2.0]);
        assert_eq!(tables::numeric_columns(&table), ["Recency", "Frequency"]);
        assert_eq!(tables::texts(&table, "Name").unwrap(), ["Ann", "B, C"]);
    }
}

#[test]
fn the_customers_that_rfm_writes_are_read_back() {
    let orders = clean_text(format!("{HEADER}1,A,MUG,2,2010-12-01,1.5,10,F\n"), &json!({})).unwrap();
    let customers = run(&Rfm, &[("orders", &orders.path("orders"))], &json!({})).unwrap();
    let table = read_customers(&customers.path("customers")).unwrap();
    assert!(table.equals(&customers.table("customers")));
}

#[test]
fn order_lines_are_recognised_and_the_way_to_features_is_told() {
    let text = format!("{HEADER}1,A,MUG,2,2010-12-01,1.5,10,F\n");
    let orders = clean_text(&text, &json!({})).unwrap();
    for error in [read(&text).unwrap_err(), read_customers(&orders.path("orders")).unwrap_err()] {
        assert_eq!(error.0.class, FailureClass::User);
        assert!(error.0.message.contains("order lines") && error.0.hint.contains("rfm.customers"), "{error}");
    }
}

#[test]
fn bad_customers_are_refused_with_their_place() {
    for (text, part) in [
        ("Customer,Recency\n1,2\n", "no column `CustomerID`"),
        ("CustomerID,Recency\n1,two\n", "line 2: Recency `two` is not a number"),
        ("CustomerID,Recency\n1,\n", "line 2: Recency `` is not a number"),
        ("CustomerID,Recency\n1,2\n1.0,3\n", "customer 1 stands there twice"),
        ("CustomerID,Recency\n,2\n", "row 1 has no CustomerID"),
        ("CustomerID,Recency\n1,2,3\n4,5\n", "line 2: 3 fields instead of 2"),
        ("CustomerID,Recency\n", "no rows"),
        ("PAR1 and nothing else", "not a Parquet table"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error.0.class, FailureClass::Data, "{error}");
        assert!(error.0.message.contains(part) && error.0.message.contains("new customers.csv"), "{part}: {error}");
    }
    assert!(read_customers(std::path::Path::new("none.csv")).unwrap_err().0.message.contains("does not exist"));
}
