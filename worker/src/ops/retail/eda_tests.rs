#![allow(clippy::unwrap_used)]

use super::*;
use crate::ops::retail::testing::{HEADER, assert_close, clean, clean_text, real_data, run};

#[test]
fn small_orders_are_described_whole() {
    let rows = "1,A,MUG,2,2010-12-01 08:00:00,1.5,10,France\n1,B,TRAY ,1,2010-12-01 08:00:00,4,10,France\n\
                2,A,MUG,1,2011-01-05 07:00:00,2,11,Spain\n";
    let cleaned = clean_text(format!("{HEADER}{rows}"), &json!({})).unwrap();
    let stats = run(&Eda, &[("orders", &cleaned.path("orders"))], &json!({})).unwrap().json("stats");
    assert_eq!(stats["describe"]["TotalSales"]["mean"], json!(3.0));
    assert_eq!(stats["scatter"], json!({"shown": 3, "of": 3, "points": [[2, 3.0], [1, 4.0], [1, 2.0]]}));
    assert_eq!(stats["by_country"][0]["country"], json!("France"));
    assert_eq!(stats["by_country"][0]["sales"], json!(7.0));
    let months: Vec<_> = stats["by_month"].as_array().unwrap().iter().map(|m| (&m["month"], &m["orders"])).collect();
    assert_eq!(months, [(&json!("2010-12"), &json!(1)), (&json!("2011-01"), &json!(1))]);
    assert_eq!(stats["top_products"][0]["product"], json!("MUG"));
    assert_eq!(stats["top_products"][1]["product"], json!("TRAY"), "the larger sale wins, then the name");
    assert_eq!(stats["columns"][4]["name"], json!("InvoiceDate"));
    assert_eq!(stats["histograms"]["Quantity"]["edges"].as_array().unwrap().len(), BINS + 1);
}

#[test]
fn one_line_is_enough() {
    let cleaned = clean_text(format!("{HEADER}1,A,MUG,2,2010-12-01,1.5,10,F\n"), &json!({})).unwrap();
    let stats = run(&Eda, &[("orders", &cleaned.path("orders"))], &json!({})).unwrap().json("stats");
    assert_eq!(stats["describe"]["Quantity"]["std"], Value::Null);
}

#[test]
fn the_real_data_gives_the_reference_figures() {
    let Some(path) = real_data() else { return };
    let cleaned = clean(&path).unwrap();
    let ran = run(&Eda, &[("orders", &cleaned.path("orders"))], &json!({})).unwrap();
    let stats = ran.json("stats");
    let figures = |column: &str, wanted: &[(&str, f64)]| {
        for (figure, wanted) in wanted {
            assert_close(stats["describe"][column][figure].as_f64().unwrap(), *wanted, figure);
        }
    };
    figures(
        "Quantity",
        &[
            ("count", 392_692.0),
            ("mean", 13.119_702),
            ("std", 180.492_832),
            ("max", 80_995.0),
            ("q25", 2.0),
            ("q50", 6.0),
            ("q75", 12.0),
        ],
    );
    figures("TotalSales", &[("mean", 22.631_500), ("std", 311.099_224), ("q25", 4.95), ("q50", 12.45), ("q75", 19.80)]);
    let shown = &stats["histograms"]["TotalSales"];
    let counted: u64 = shown["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(counted + shown["clipped_above"].as_u64().unwrap(), 392_692);
    assert_eq!(stats["by_month"].as_array().unwrap().len(), 13);
    assert_eq!(stats["by_country"][0]["country"], json!("United Kingdom"));
    let points = stats["scatter"]["points"].as_array().unwrap();
    assert!(points.len() <= POINTS && points.iter().any(|point| point[0] == json!(80_995)));
    let again = run(&Eda, &[("orders", &cleaned.path("orders"))], &json!({})).unwrap();
    assert!(ran.bytes("stats") == again.bytes("stats"), "the same orders give the same bytes");
}
