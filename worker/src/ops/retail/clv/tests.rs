#![allow(clippy::unwrap_used)]
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{RngCore, SeedableRng},
};
use segue_proto::failure::FailureClass;
use serde_json::json;

use super::*;
use crate::models::predict::predict;

/// A bench with inputs on disk and an empty output directory.
struct Bench {
    dir: tempfile::TempDir,
    runs: u32,
}

impl Bench {
    fn new(orders: &mut DataFrame, customers: &mut DataFrame) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, table) in [("orders", orders), ("customers", customers)] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            ParquetWriter::new(file).finish(table).unwrap();
        }
        Self { dir, runs: 0 }
    }

    fn context(&mut self, params: Value) -> (Context, PathBuf) {
        self.runs += 1;
        let out = self.dir.path().join(format!("out-{}", self.runs));
        std::fs::create_dir(&out).unwrap();
        let inputs = ["orders", "customers"].map(|name| (name.to_owned(), self.dir.path().join(name)));
        let mut all: Map<String, Value> =
            Clv.spec().params.into_iter().filter_map(|p| Some((p.name, p.default?))).collect();
        all.extend(params.as_object().cloned().unwrap());
        (Context::new(BTreeMap::from(inputs), out.clone(), all), out)
    }

    fn run(&mut self, params: Value) -> Result<PathBuf, OpError> {
        let (mut context, out) = self.context(params);
        Clv.run(&mut context).map(|()| out)
    }
}

/// Few trees: the tests are about behaviour, not about quality.
fn quick() -> Value {
    json!({"rounds": 20})
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Shoppers of 300 days from 2020-01-01: everyone has a rate, a basket, and leaves at some time. Ids are `prefix` and a number.
fn shop(customers: u64, prefix: &str) -> DataFrame {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
    let mut uniform = move || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let start = 1_577_836_800_000_000_i64;
    let (mut invoice, mut stock, mut quantity, mut time, mut id, mut sales) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for customer in 0..customers {
        let gap = 5.0 + 60.0 * uniform();
        let basket = 10.0 * (4.0 * uniform()).exp();
        let leaves = 100.0 + 400.0 * uniform();
        let mut day = 150.0 * uniform();
        while day < 300.0 && day < leaves {
            for line in 0..1 + (3.0 * uniform()) as usize {
                invoice.push(format!("{customer}-{day:.0}"));
                stock.push(format!("S{}", (uniform() * 50.0) as u32 + line as u32));
                quantity.push(1_i64 + (uniform() * 5.0) as i64);
                time.push(start + (day * 86_400e6) as i64);
                id.push(format!("{prefix}{}", 12_000 + customer));
                sales.push(basket * (0.5 + uniform()));
            }
            day += gap * (0.2 + 1.6 * uniform());
        }
    }
    orders_of(invoice, stock, quantity, time, id, sales)
}

fn orders_of(
    invoice: Vec<String>,
    stock: Vec<String>,
    quantity: Vec<i64>,
    time: Vec<i64>,
    id: Vec<String>,
    sales: Vec<f64>,
) -> DataFrame {
    let time = Column::new("InvoiceDate".into(), time).cast(&DataType::Datetime(TimeUnit::Microseconds, None)).unwrap();
    let mut table = df!(
        "InvoiceNo" => invoice, "StockCode" => stock, "Quantity" => quantity, "CustomerID" => id, "TotalSales" => sales,
    )
    .unwrap();
    table.with_column(time).unwrap();
    table
}

/// One line on each of the given (customer, day, sales).
fn lines(rows: &[(u32, i64, f64)]) -> DataFrame {
    orders_of(
        (0..rows.len()).map(|i| format!("I{i}")).collect(),
        vec!["S".into(); rows.len()],
        vec![1; rows.len()],
        rows.iter().map(|r| r.1 * ledger::DAY + 1).collect(),
        rows.iter().map(|r| r.0.to_string()).collect(),
        rows.iter().map(|r| r.2).collect(),
    )
}

/// The RFM columns that matter here, by customer.
fn rfm(orders: &DataFrame) -> DataFrame {
    let ledger = ledger::Ledger::read(orders).unwrap();
    let now = features::Snapshot::take(&ledger, ledger.end());
    let names = features::names();
    let pick = |name: &str| {
        let j = names.iter().position(|n| n == name).unwrap();
        column(name, now.matrix.column(j).to_vec())
    };
    table(&ledger.ids, ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure"].map(pick).to_vec()).unwrap()
}

fn bench(mut orders: DataFrame) -> Bench {
    let mut customers = rfm(&orders);
    Bench::new(&mut orders, &mut customers)
}

fn names(table: &DataFrame) -> Vec<String> {
    table.columns().iter().map(|c| c.name().to_string()).collect()
}

fn quality<'a>(summary: &'a Value, name: &str) -> &'a Value {
    summary["models"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["name"] == name)
        .unwrap_or_else(|| panic!("{name} in {summary}"))
}

#[test]
fn the_two_stage_model_beats_the_mean_and_every_customer_gets_a_prediction() {
    let orders = shop(400, "");
    let mut bench = bench(orders.clone());
    let out = bench.run(json!({"rounds": 100})).unwrap();
    let summary = read_json(out.join("summary"));
    let mean = quality(&summary, "train mean")["mae"].as_f64().unwrap();
    let two_stage = quality(&summary, "two-stage XGBoost");
    assert!(two_stage["mae"].as_f64().unwrap() < 0.8 * mean, "{summary:#}");
    assert!(two_stage["spearman"].as_f64().unwrap() > 0.5 && two_stage["gini"].as_f64().unwrap() > 0.6, "{two_stage}");
    assert!(quality(&summary, "BG/NBD + Gamma-Gamma")["gini"].as_f64().unwrap() > 0.5);
    assert!(quality(&summary, "train mean")["gini"].is_null());

    let predictions = tables::read(&out.join("predictions")).unwrap();
    assert_eq!(names(&predictions), ["CustomerID", "Predicted", "ProbabilityBuys", "Baseline", "Alive"]);
    assert_eq!(tables::texts(&predictions, "CustomerID").unwrap(), tables::texts(&rfm(&orders), "CustomerID").unwrap());
    for (name, most) in [("Predicted", f64::MAX), ("Baseline", f64::MAX), ("ProbabilityBuys", 1.0), ("Alive", 1.0)] {
        assert!(tables::numbers(&predictions, name).unwrap().iter().all(|v| (0.0..=most).contains(v)), "{name}");
    }
}

#[test]
fn running_twice_gives_the_same_bytes() {
    let mut bench = bench(shop(120, ""));
    let [one, two] = [(), ()].map(|()| bench.run(quick()).unwrap());
    for output in ["predictions", "features", "summary", "model"] {
        assert_eq!(std::fs::read(one.join(output)).unwrap(), std::fs::read(two.join(output)).unwrap(), "{output}");
    }
}

#[test]
fn the_model_scores_its_own_feature_table_to_the_same_predictions() {
    let mut bench = bench(shop(120, "C"));
    for mode in ["holdout", "in_sample"] {
        let out = bench.run(json!({"rounds": 20, "mode": mode})).unwrap();
        let doc = ModelDoc::parse(&std::fs::read(out.join("model")).unwrap()).unwrap();
        let scored = predict(&doc, &tables::read(&out.join("features")).unwrap()).unwrap();
        let wanted = tables::read(&out.join("predictions")).unwrap();
        for name in ["CustomerID", "Predicted"] {
            assert_eq!(scored.column(name).unwrap(), wanted.column(name).unwrap(), "{mode} {name}");
        }
    }
}

#[test]
fn what_happens_after_the_horizon_changes_nothing_about_the_measures() {
    let orders = shop(150, "");
    let day = 18_262; // 2020-01-01
    let mut later = orders.clone();
    let extra = lines(&[(12_003, day + 299, 1e5), (12_004, day + 299, 9e4)]);
    later.vstack_mut(&extra.select(names(&later)).unwrap()).unwrap();
    let params = json!({"rounds": 10, "cut_date": "2020-07-01", "horizon_days": 60});
    let [one, two] = [orders, later].map(|table| {
        let mut bench = bench(table);
        read_json(bench.run(params.clone()).unwrap().join("summary"))
    });
    assert_eq!(one["models"], two["models"]);
    assert_eq!(one["cut"], json!("2020-07-01"));
}

#[test]
fn in_sample_reproduces_the_monetary_value_it_was_trained_on() {
    let mut bench = bench(shop(400, ""));
    let out = bench.run(json!({"mode": "in_sample"})).unwrap();
    let summary = read_json(out.join("summary"));
    assert!(summary["models"][0]["r2"].as_f64().unwrap() > 0.99, "{summary}");
    let (actual, predicted) = (summary["actual_sum"].as_f64().unwrap(), summary["predicted_sum"].as_f64().unwrap());
    assert!((predicted / actual - 1.0).abs() < 0.002);
    assert!(summary["notes"][0].as_str().unwrap().contains("future"));
}

#[test]
fn one_customer_is_too_few_and_the_message_says_what_to_do() {
    let error = bench(lines(&[(1, 100, 5.0), (1, 300, 5.0)])).run(quick()).unwrap_err();
    assert_eq!(error.0.class, FailureClass::Data);
    assert!(error.0.message.contains("1 customers") && error.0.hint.contains("in_sample"), "{error}");
}

#[test]
fn data_shorter_than_the_horizon_has_nobody_before_the_cut() {
    let error = bench(lines(&[(1, 100, 5.0), (2, 110, 5.0)])).run(quick()).unwrap_err();
    assert!(error.0.message.starts_with("0 customers"), "{error}");
}

#[test]
fn nobody_buying_after_the_cut_is_said() {
    let mut rows: Vec<_> = (0..40).map(|i| (i, 100 + i64::from(i % 5), 5.0)).collect();
    rows.push((99, 300, 1.0));
    let error = bench(lines(&rows)).run(quick()).unwrap_err();
    assert!(error.0.message.starts_with("0 of 40 customers"), "{error}");
}

#[test]
fn without_repeat_purchases_there_is_no_baseline_and_the_notes_say_so() {
    // 40 customers buy once before the cut; 20 of them once after it.
    let mut rows: Vec<_> = (0..40).map(|i| (i, 100 + i64::from(i), 5.0 + f64::from(i))).collect();
    rows.extend((0..20).map(|i| (2 * i, 200 + i64::from(i), 9.0)));
    let mut bench = bench(lines(&rows));
    let out = bench.run(quick()).unwrap();
    let summary = read_json(out.join("summary"));
    assert!(
        summary["notes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains("cannot be fitted")),
        "{summary}"
    );
    assert_eq!(summary["blend"]["baseline_weight"], json!(0.0));
}

#[test]
fn few_buyers_fall_back_to_their_mean_and_the_notes_say_so() {
    let mut rows: Vec<_> = (0..40).map(|i| (i, 100 + i64::from(i), 5.0)).collect();
    rows.extend((0..10).map(|i| (i, 145, 4.0)));
    rows.extend((0..6).map(|i| (i, 200 + i64::from(i), 9.0)));
    rows.push((39, 229, 9.0));
    let mut bench = bench(lines(&rows));
    let out = bench.run(quick()).unwrap();
    let summary = read_json(out.join("summary"));
    assert!(
        summary["notes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains("fewer than")),
        "{summary}"
    );
}

#[test]
fn a_cut_too_late_or_unreadable_is_the_users_to_mend() {
    let mut bench = bench(shop(60, ""));
    let late = bench.run(json!({"cut_date": "2020-10-20"})).unwrap_err();
    assert_eq!(late.0.class, FailureClass::User);
    assert!(late.0.hint.contains("2020-07-"), "{late}");
    let odd = bench.run(json!({"cut_date": "20.10.2020"})).unwrap_err();
    assert!(odd.0.hint.contains("YYYY-MM-DD"), "{odd}");
}

#[test]
fn a_customer_without_orders_is_named() {
    let mut orders = shop(60, "");
    let mut customers = rfm(&orders);
    let stranger = customers.head(Some(1));
    customers.vstack_mut(&stranger).unwrap();
    let mut ids = tables::texts(&customers, "CustomerID").unwrap();
    *ids.last_mut().unwrap() = "ghost".into();
    customers.with_column(Column::new("CustomerID".into(), ids)).unwrap();
    let error = Bench::new(&mut orders, &mut customers).run(quick()).unwrap_err();
    assert!(error.0.message.contains("ghost"), "{error}");
}

#[test]
fn a_table_of_other_columns_is_refused_by_name() {
    let mut wrong = df!("CustomerID" => ["1"], "Total" => [1.0]).unwrap();
    let mut customers = wrong.clone();
    let error = Bench::new(&mut wrong, &mut customers).run(quick()).unwrap_err();
    assert!(error.0.message.contains("InvoiceNo"), "{error}");
    let mut empty = shop(5, "").head(Some(0));
    let mut customers = rfm(&shop(5, ""));
    assert!(Bench::new(&mut empty, &mut customers).run(quick()).unwrap_err().0.message.contains("no rows"));
}

#[test]
fn a_stop_ends_the_training() {
    let mut bench = bench(shop(60, ""));
    for mode in ["holdout", "in_sample"] {
        let (context, _) = bench.context(json!({"mode": mode}));
        let mut context = context.with_cancel(Arc::new(AtomicBool::new(true)));
        assert!(Clv.run(&mut context).unwrap_err().0.message.contains("stopped"));
    }
}

#[test]
fn progress_rises_to_no_more_than_its_total() {
    let mut bench = bench(shop(60, ""));
    let (context, _) = bench.context(quick());
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let mut context = context.with_progress(Box::new(move |done, total, _| sink.lock().unwrap().push((done, total))));
    Clv.run(&mut context).unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        !seen.is_empty() && seen.windows(2).all(|w| w[0].0 < w[1].0) && seen.iter().all(|(done, total)| done <= total)
    );
}
