//! CSV files of people, packed or not: order lines that `retail.clean` reads, and customers that `segue predict` scores.

use std::collections::BTreeMap;

use segue_worker::ops::{
    Context, Operator as _,
    retail::{clean::Clean, rfm::Frequency, score_input::Scored},
    tables,
};
use serde_json::{Map, Value, json};

use crate::scratch::Scratch;

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let scratch = Scratch::new();
    let path = scratch.file("lines.csv", bytes);
    // Files are read as they come, or as the parameters say.
    let says =
        [json!({}), json!({"date_format": "dmy"}), json!({"encoding": "utf-8"}), json!({"encoding": "iso-8859-1"})];
    let mut params: Map<String, Value> = says[bytes.len() % says.len()].as_object().cloned().unwrap_or_default();
    params.insert("path".to_owned(), path.to_string_lossy().into());
    let out = scratch.path().join("out");
    std::fs::create_dir(&out).expect("a directory of a moment");
    let mut context = Context::new(BTreeMap::new(), out.clone(), params);
    let cleaned = Clean.run(&mut context);
    match &cleaned {
        Ok(()) => cleaned_well(&context),
        Err(refused) => assert!(!refused.0.message.is_empty()),
    }
    let again = scratch.path().join("again");
    std::fs::create_dir(&again).expect("a directory of a moment");
    match Scored::read(&path, Frequency::Orders, &again) {
        Ok(Scored::Customers(table)) => assert!(table.height() > 0 && table.column("CustomerID").is_ok()),
        Ok(Scored::Orders { orders, customers }) => assert!(customers.height() <= orders.height()),
        Err(refused) => assert!(!refused.0.message.is_empty()),
    }
}

/// What was kept and what was dropped is what was read.
fn cleaned_well(context: &Context) {
    let quality = std::fs::read(context.output("quality")).expect("it was written");
    let quality: Value = serde_json::from_slice(&quality).expect("it is JSON");
    let number = |value: &Value| value.as_u64().expect("a number of rows");
    let orders = tables::read(&context.output("orders")).unwrap_or_else(|e| panic!("{e}"));
    let products = tables::read(&context.output("products")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(orders.height() as u64, number(&quality["kept"]));
    assert!(number(&quality["kept"]) <= number(&quality["rows_read"]));
    assert!(products.height() <= orders.height());
    for name in ["Quantity", "UnitPrice", "TotalSales"] {
        let values = tables::numbers(&orders, name).unwrap_or_else(|e| panic!("{e}"));
        assert!(values.iter().all(|value| *value > 0.0), "{name} of a line that was kept is not positive");
    }
}
