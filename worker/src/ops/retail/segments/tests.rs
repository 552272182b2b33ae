#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs::File, path::Path};

use polars::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::ops::{Context, Operator};

/// A customer of a test: id, cluster, recency, frequency, monetary, tenure.
type Row = (&'static str, i64, i64, i64, f64, i64);

/// Two plain clusters: four good customers, six silent ones.
const ROWS: [Row; 10] = [
    ("100", 0, 5, 10, 5000.0, 360),
    ("101", 0, 8, 12, 6000.0, 350),
    ("102", 0, 3, 9, 4000.0, 340),
    ("103", 0, 200, 11, 4500.0, 360), // Used to buy every 16 days.
    ("104", 1, 250, 1, 100.0, 250),
    ("105", 1, 260, 1, 120.0, 260),
    ("106", 1, 240, 2, 150.0, 300),
    ("107", 1, 230, 1, 90.0, 230),
    ("108", 1, 280, 1, 80.0, 280),
    ("109", 1, 300, 2, 60.0, 310),
];

fn save(dir: &Path, name: &str, mut table: DataFrame) -> std::path::PathBuf {
    let path = dir.join(name);
    ParquetWriter::new(File::create(&path).unwrap()).finish(&mut table).unwrap();
    path
}

fn run_with(
    rows: &[Row],
    silhouette: f64,
    predicted: Option<Vec<f64>>,
    params: Value,
) -> Result<(DataFrame, Value), OpError> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let ids: Vec<&str> = rows.iter().map(|r| r.0).collect();
    let customers = DataFrame::new(
        rows.len(),
        vec![
            Column::new("CustomerID".into(), &ids),
            Column::new("Recency".into(), rows.iter().map(|r| r.2).collect::<Vec<_>>()),
            Column::new("Frequency".into(), rows.iter().map(|r| r.3).collect::<Vec<_>>()),
            Column::new("Monetary".into(), rows.iter().map(|r| r.4).collect::<Vec<_>>()),
            Column::new("Tenure".into(), rows.iter().map(|r| r.5).collect::<Vec<_>>()),
        ],
    )
    .unwrap();
    let clusters = DataFrame::new(
        rows.len(),
        vec![
            Column::new("CustomerID".into(), &ids),
            Column::new("Cluster".into(), rows.iter().map(|r| r.1).collect::<Vec<_>>()),
            Column::new("Silhouette".into(), vec![silhouette; rows.len()]),
        ],
    )
    .unwrap();
    let mut inputs = BTreeMap::from([
        ("customers".to_owned(), save(dir.path(), "customers", customers)),
        ("clusters".to_owned(), save(dir.path(), "clusters", clusters)),
    ]);
    if let Some(values) = predicted {
        let table = DataFrame::new(
            rows.len(),
            vec![Column::new("CustomerID".into(), &ids), Column::new("Predicted".into(), values)],
        )
        .unwrap();
        inputs.insert("predictions".to_owned(), save(dir.path(), "predictions", table));
    }
    let mut all = Map::from_iter([
        ("high_value_share".to_owned(), json!(0.1)),
        ("churn_factor".to_owned(), json!(2.0)),
        ("churn_min_days".to_owned(), json!(60)),
    ]);
    all.extend(params.as_object().cloned().unwrap_or_default());
    let mut context = Context::new(inputs, out.clone(), all);
    Segments.run(&mut context)?;
    let table = tables::read(&out.join("segments"))?;
    Ok((table, serde_json::from_slice(&std::fs::read(out.join("summary")).unwrap()).unwrap()))
}

fn sentences(summary: &Value, field: &str) -> Vec<String> {
    summary[field].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}

#[test]
fn clusters_get_the_names_of_their_averages_and_the_numbers_add_up() {
    let (table, summary) = run_with(&ROWS, 0.6, None, json!({})).unwrap();
    assert_eq!(summary["clusters"][0]["name"], "Champions");
    assert_eq!(summary["clusters"][1]["name"], "Lapsed");
    assert_eq!(summary["clusters"][0]["size"], 4);
    assert_eq!(summary["clusters"][0]["share"], 0.4);
    assert_eq!(summary["clusters"][0]["means"]["Recency"], 54.0);
    assert_eq!(summary["clusters"][0]["share_of_sales"], json!(0.9701));
    let names = tables::texts(&table, "Segment").unwrap();
    assert_eq!(names[0], "Champions");
    assert_eq!(
        table.get_column_names().iter().map(|n| n.as_str()).collect::<Vec<_>>(),
        ["CustomerID", "Cluster", "Segment", "Recency", "Frequency", "Monetary", "Tenure", "HighValue", "ChurnRisk"]
    );
    assert_eq!(summary["heatmap"]["rows"].as_array().unwrap().len(), 2);
    assert!(sentences(&summary, "warnings").is_empty());
}

#[test]
fn high_value_follows_predictions_where_they_exist_else_past_spend() {
    let (_, by_past) = run_with(&ROWS, 0.6, None, json!({})).unwrap();
    assert_eq!(by_past["high_value"]["customers"][0]["CustomerID"], "101");
    assert!(
        by_past["high_value"]["rule"].as_str().unwrap().contains("past spend (Monetary): 1 of 10, from 6,000 upwards")
    );
    let mut predicted = vec![1.0; 10];
    predicted[9] = 900.0;
    let (table, by_future) = run_with(&ROWS, 0.6, Some(predicted), json!({})).unwrap();
    assert_eq!(by_future["high_value"]["customers"][0]["CustomerID"], "109");
    assert!(by_future["high_value"]["rule"].as_str().unwrap().contains("predicted spend"));
    assert_eq!(tables::numbers(&table, "Predicted").unwrap()[9], 900.0);
}

#[test]
fn a_good_customer_silent_for_longer_than_usual_is_churn_prone() {
    let (_, summary) = run_with(&ROWS, 0.6, None, json!({})).unwrap();
    let churn = &summary["churn_prone"];
    assert_eq!(churn["count"], 2);
    assert_eq!(churn["customers"][0]["CustomerID"], "103", "160 days between 11 orders, then 200 days of silence");
    assert_eq!(churn["customers"][0]["MeanGapDays"], 16.0);
    assert_eq!(churn["customers"][0]["TimesGap"], 12.5);
    assert_eq!(churn["customers"][1]["CustomerID"], "106");
    let (_, strict) = run_with(&ROWS, 0.6, None, json!({"churn_min_days": 365})).unwrap();
    assert_eq!(strict["churn_prone"]["count"], 0);
    assert!(sentences(&strict, "insights").iter().any(|s| s.contains("churn-prone list is empty")));
}

#[test]
fn insights_carry_numbers_of_the_data_and_are_five_to_eight() {
    let (_, summary) = run_with(&ROWS, 0.6, Some(vec![10.0; 10]), json!({})).unwrap();
    let insights = sentences(&summary, "insights");
    assert!((5..=8).contains(&insights.len()), "{insights:#?}");
    assert_eq!(
        insights[0],
        "The segment Champions is 40% of customers (4 of 10) and brings 97% of sales (19,500 of 20,100)."
    );
    assert!(insights.iter().any(|s| s.contains("4 customers (40%) have a Frequency of 1")), "{insights:#?}");
    assert!(insights.iter().all(|s| s.contains(|c: char| c.is_ascii_digit())), "{insights:#?}");
}

#[test]
fn a_low_silhouette_is_said_to_be_low() {
    let (_, summary) = run_with(&ROWS, 0.27, None, json!({})).unwrap();
    assert!(sentences(&summary, "warnings")[0].starts_with("The mean silhouette is 0.27, low"));
}

#[test]
fn a_handful_of_outliers_is_called_degenerate_even_with_a_high_silhouette() {
    let ids: Vec<&'static str> = (0..300).map(|i| &*Box::leak(format!("{i:05}").into_boxed_str())).collect();
    let rows: Vec<Row> = ids
        .iter()
        .enumerate()
        .map(|(i, id)| if i < 2 { (*id, 1, 1, 200, 250_000.0, 370) } else { (*id, 0, 90, 4, 1000.0 + i as f64, 220) })
        .collect();
    let (_, summary) = run_with(&rows, 0.92, None, json!({})).unwrap();
    let warnings = sentences(&summary, "warnings");
    assert!(warnings[0].contains("degenerate") && warnings[0].contains("2 customers, 0.67% of all"), "{warnings:#?}");
    assert!(warnings[1].contains("measures how far outliers lie"), "{warnings:#?}");
    assert_eq!(summary["clusters"][0]["name"], "Mainstream", "298 of 300 are the average");
}

#[test]
fn a_single_cluster_is_all_customers() {
    let rows: Vec<Row> = ROWS.iter().map(|r| (r.0, 0, r.2, r.3, r.4, r.5)).collect();
    let (_, summary) = run_with(&rows, 0.0, None, json!({})).unwrap();
    assert_eq!(summary["clusters"][0]["name"], "All customers");
    assert!(sentences(&summary, "warnings")[0].contains("one cluster"));
}

#[test]
fn names_are_distinct_whatever_the_number_of_clusters() {
    for clusters in 2..=10_i64 {
        let ids: Vec<&'static str> = (0..60).map(|i| &*Box::leak(format!("{i:05}").into_boxed_str())).collect();
        let rows: Vec<Row> = ids
            .iter()
            .zip(0_i64..)
            .map(|(id, i)| {
                (*id, i % clusters, 1 + (i % clusters) * 30, 1 + (i * 7) % 11, 50.0 + (i * 37 % 991) as f64, 370)
            })
            .collect();
        let (_, summary) = run_with(&rows, 0.3, None, json!({})).unwrap();
        let mut names: Vec<&str> =
            summary["clusters"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len() as i64, clusters, "{names:?}");
    }
}

#[test]
fn equal_inputs_give_equal_summaries() {
    let first = run_with(&ROWS, 0.6, None, json!({})).unwrap();
    let second = run_with(&ROWS, 0.6, None, json!({})).unwrap();
    assert_eq!(first.1.to_string(), second.1.to_string());
    assert!(first.0.equals(&second.0));
}

#[test]
fn broken_inputs_are_refused_with_the_place() {
    let empty = run_with(&[], 0.5, None, json!({})).unwrap_err();
    assert!(empty.to_string().contains("customers table is empty"), "{empty}");
    let share = run_with(&ROWS, 0.5, None, json!({"high_value_share": 0.0})).unwrap_err();
    assert!(share.to_string().contains("high_value_share"), "{share}");
}
