#![allow(clippy::unwrap_used)]

use super::*;
use crate::ops::retail::testing::{HEADER, Ran, assert_close, clean, clean_text, real_data, run};

const LINES: &str = "1,A,MUG,2,2010-12-01 08:00:00,1.5,10,F\n1,B,TRAY,1,2010-12-01 08:00:00,4,10,F\n\
                     2,A,MUG,1,2010-12-05 07:00:00,2,10,F\n3,A,MUG,1,2010-12-06 09:00:00,1,9,F\n";

fn rfm(cleaned: &Ran, params: &Value) -> Result<Ran, OpError> {
    run(&Rfm, &[("orders", &cleaned.path("orders"))], params)
}

fn small() -> Ran {
    clean_text(format!("{HEADER}{LINES}"), &json!({})).unwrap()
}

/// The row of a customer, without the id.
fn row(table: &DataFrame, id: &str) -> Vec<f64> {
    let at = tables::texts(table, "CustomerID").unwrap().iter().position(|found| found == id).unwrap();
    tables::numeric_columns(table).iter().map(|name| tables::numbers(table, name).unwrap()[at]).collect()
}

#[test]
fn features_count_orders_or_lines() {
    let orders = small();
    let by_order = rfm(&orders, &json!({})).unwrap();
    let table = by_order.table("customers");
    assert_eq!(
        tables::numeric_columns(&table),
        ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure", "AvgBasketSize"]
    );
    assert_eq!(tables::texts(&table, "CustomerID").unwrap(), ["10", "9"], "sorted as text");
    // The snapshot is 2010-12-07 09:00: 2 days and 2 hours after the last order, 6 days and 1 hour after the first.
    assert_eq!(row(&table, "10"), [2.0, 2.0, 9.0, 4.5, 6.0, 1.5]);
    assert_eq!(row(&table, "9"), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let by_line = rfm(&orders, &json!({"frequency": "lines"})).unwrap().table("customers");
    assert_eq!(row(&by_line, "10"), [2.0, 3.0, 9.0, 3.0, 6.0, 5.0 / 3.0]);
    assert_eq!(by_order.json("summary")["snapshot"], json!("2010-12-07T09:00:00"));
    assert_eq!(by_order.context.metrics["customers"], json!(2));
}

#[test]
fn a_snapshot_can_be_set_but_not_before_the_last_order() {
    let orders = small();
    let later = rfm(&orders, &json!({"snapshot": "2010-12-31"})).unwrap();
    assert_eq!(row(&later.table("customers"), "9")[0], 24.0);
    for wrong in ["2010-12-06", "soon"] {
        let error = rfm(&orders, &json!({"snapshot": wrong})).err().unwrap();
        assert!(error.0.message.contains(wrong) && !error.0.hint.is_empty(), "{error}");
    }
}

#[test]
fn a_table_of_something_else_is_refused() {
    let orders = small();
    let error = run(&Rfm, &[("orders", &orders.path("products"))], &json!({})).err().unwrap();
    assert!(error.0.message.contains("no column `InvoiceNo`") && error.0.hint.contains("retail.clean"), "{error}");
    let error = run(&Rfm, &[("orders", &orders.path("quality"))], &json!({})).err().unwrap();
    assert!(error.0.message.contains("not a Parquet table"), "{error}");
}

#[test]
fn the_real_data_gives_the_reference_means() {
    let Some(path) = real_data() else { return };
    let cleaned = clean(&path).unwrap();
    let by_order = rfm(&cleaned, &json!({})).unwrap();
    let means = &by_order.json("summary")["means"];
    for (feature, mean) in [
        ("Recency", 92.536_422),
        ("Frequency", 4.272_015),
        ("Monetary", 2_048.688_081),
        ("AvgOrderValue", 417.645_735),
        ("Tenure", 223.308_207),
        ("AvgBasketSize", 21.834_836),
    ] {
        assert_close(means[feature].as_f64().unwrap(), mean, feature);
    }
    let wanted = [2.0, 7.0, 4310.0, 615.714_286, 367.0, 26.0];
    for (got, wanted) in row(&by_order.table("customers"), "12347").into_iter().zip(wanted) {
        assert_close(got, wanted, "customer 12347");
    }

    let by_line = rfm(&cleaned, &json!({"frequency": "lines"})).unwrap();
    let means = &by_line.json("summary")["means"];
    for (feature, mean) in [("Frequency", 90.523_744), ("AvgOrderValue", 68.381_590), ("AvgBasketSize", 25.714_117)] {
        assert_close(means[feature].as_f64().unwrap(), mean, feature);
    }
    let customer = row(&by_line.table("customers"), "17850");
    for (at, wanted) in [(1, 297.0), (3, 18.152_222), (5, 14.414_141)] {
        assert_close(customer[at], wanted, "customer 17850");
    }
    let again = rfm(&cleaned, &json!({})).unwrap();
    assert!(by_order.bytes("customers") == again.bytes("customers"), "the same orders give the same bytes");
}
