//! Made-up inputs for the report: three clusters of customers, statistics with long tails, hostile product names.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use polars::prelude::*;
use serde_json::{Value, json};

/// What a product name must never do to the page.
pub const HOSTILE: [&str; 4] = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\" onmouseover=\"alert(3)\" x='",
    "<!-- --><svg/onload=alert(4)> & \u{2028} \u{1} https://evil.example/x.js",
];

/// A small generator, so that fixtures are the same everywhere.
pub struct Draw(pub u64);

impl Draw {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().max(1e-12).ln()).sqrt() * (self.uniform() * std::f64::consts::TAU).cos()
    }
}

pub fn save(dir: &Path, name: &str, mut table: DataFrame) -> PathBuf {
    let path = dir.join(name);
    ParquetWriter::new(File::create(&path).unwrap()).finish(&mut table).unwrap();
    path
}

pub fn save_json(dir: &Path, name: &str, value: &Value) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path
}

/// Features of customers in `k` clusters: the tables that retail.segments and the report read.
pub struct People {
    pub rfm: DataFrame,
    pub clusters: DataFrame,
    pub predictions: DataFrame,
    pub pca: DataFrame,
    pub tsne: DataFrame,
}

pub fn people(n: usize, k: usize) -> People {
    let mut draw = Draw(7);
    let ids: Vec<String> = (0..n).map(|i| format!("{}", 12_346 + i)).collect();
    let cluster: Vec<i64> = (0..n).map(|i| [1, 2, 0, 1, 2, 0, 1, 2, 1][i % 9] as usize % k).map(|c| c as i64).collect();
    let mut rows: Vec<[f64; 6]> = Vec::new();
    let (mut pcs, mut map) = (Vec::new(), Vec::new());
    for c in &cluster {
        let level = [1.0, 0.0, -1.0][*c as usize % 3];
        let frequency = (level * 1.1 + 1.0 + draw.normal() * 0.5).exp().round().clamp(1.0, 210.0);
        let order = (5.6 + level * 0.2 + draw.normal() * 0.7).exp();
        let tenure = (220.0 + level * 90.0 + draw.normal() * 70.0).clamp(1.0, 374.0).round();
        let recency = ((tenure * (0.45 - level * 0.35)) + draw.normal().abs() * 12.0 + 1.0).clamp(1.0, tenure).round();
        let basket = (2.9 + draw.normal() * 0.6).exp();
        rows.push([recency, frequency, frequency * order, order, tenure, basket]);
        pcs.push([level * 1.9 + draw.normal(), draw.normal() * 1.1, draw.normal() * 0.9]);
        let turn = draw.uniform() * 2.4 + level * 2.2;
        let out = 20.0 + draw.uniform() * 45.0;
        map.push([turn.cos() * out, turn.sin() * out]);
    }
    pcs[0] = [31.0, -9.0, 4.0];
    let column = |name: &str, f: &dyn Fn(usize) -> f64| Column::new(name.into(), (0..n).map(f).collect::<Vec<f64>>());
    let whole = |name: &str, f: &dyn Fn(usize) -> f64| {
        Column::new(name.into(), (0..n).map(|i| f(i) as i64).collect::<Vec<_>>())
    };
    let id = || Column::new("CustomerID".into(), &ids);
    let frame = |columns: Vec<Column>| DataFrame::new(n, columns).unwrap();
    People {
        rfm: frame(vec![
            id(),
            whole("Recency", &|i| rows[i][0]),
            whole("Frequency", &|i| rows[i][1]),
            column("Monetary", &|i| rows[i][2]),
            column("AvgOrderValue", &|i| rows[i][3]),
            whole("Tenure", &|i| rows[i][4]),
            column("AvgBasketSize", &|i| rows[i][5]),
        ]),
        clusters: frame(vec![
            id(),
            Column::new("Cluster".into(), cluster.clone()),
            column("Silhouette", &|i| 0.27 + 0.1 * (i as f64).sin()),
        ]),
        predictions: frame(vec![id(), column("Predicted", &|i| (rows[i][2] * 0.2 - 60.0).max(0.0))]),
        pca: frame(vec![
            id(),
            column("PC1", &|i| pcs[i][0]),
            column("PC2", &|i| pcs[i][1]),
            column("PC3", &|i| pcs[i][2]),
        ]),
        tsne: frame(vec![id(), column("X", &|i| map[i][0]), column("Y", &|i| map[i][1])]),
    }
}

/// Product names: hostile ones first, then plain ones.
pub fn products(n: usize) -> (DataFrame, DataFrame) {
    const COLOURS: [&str; 8] = ["WHITE", "RED", "PINK", "CREAM", "BLUE", "IVORY", "VINTAGE", "RETROSPOT"];
    const THINGS: [&str; 8] = [
        "HANGING HEART T-LIGHT HOLDER",
        "PARTY BUNTING",
        "LUNCH BAG",
        "CAKE STAND",
        "JUMBO BAG",
        "ALARM CLOCK",
        "TEA TOWEL",
        "DOORMAT",
    ];
    let texts: Vec<String> = (0..n)
        .map(|i| match HOSTILE.get(i) {
            Some(text) => (*text).to_owned(),
            None => format!("{} {} {}", COLOURS[i % 8], THINGS[i / 8 % 8], i / 64),
        })
        .collect();
    let (mut text, mut rank, mut other, mut cosine) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        for r in 1..=5_usize.min(n - 1) {
            text.push(texts[i].clone());
            rank.push(r as i64);
            other.push(texts[(i + r * 8) % n].clone());
            cosine.push(0.95 - 0.07 * r as f64);
        }
    }
    let rows = text.len();
    let neighbours = DataFrame::new(
        rows,
        vec![
            Column::new("Text".into(), text),
            Column::new("Rank".into(), rank),
            Column::new("Neighbour".into(), other),
            Column::new("Cosine".into(), cosine),
        ],
    )
    .unwrap();
    let index = DataFrame::new(
        n,
        vec![
            Column::new("Row".into(), (0..n as i64).collect::<Vec<_>>()),
            Column::new("Text".into(), texts),
            Column::new("StockCode".into(), (0..n).map(|i| format!("{}A", 20_000 + i)).collect::<Vec<_>>()),
            Column::new("Sales".into(), (0..n).map(|i| 99_000.0 / (1.0 + i as f64)).collect::<Vec<_>>()),
        ],
    )
    .unwrap();
    (neighbours, index)
}

pub fn quality() -> Value {
    json!({
        "rows_read": 541_909, "kept": 392_692, "customers": 4338, "invoices": 18_532, "stock_codes": 3665,
        "descriptions_trimmed": 3866, "sum_total_sales": 8_887_208.894,
        "dropped": {"missing_customer_or_description": 135_080, "duplicates": 5225, "non_positive_quantity": 8872,
            "non_positive_price": 40, "unparsable": 0},
        "nulls": {"InvoiceNo": 0, "Description": 1454, "CustomerID": 135_080},
        "types": {"InvoiceNo": "str", "Description": "str", "CustomerID": "str"},
        "detected": {"encoding": "utf-8", "date_format": "iso", "compression": "xz"},
        "unparsable_rows": [{"line": 12, "reason": "<b>not a number</b>"}],
        "first_order": "2010-12-01 08:26:00", "last_order": "2011-12-09 12:50:00",
    })
}

pub fn stats() -> Value {
    let mut draw = Draw(3);
    let edges: Vec<f64> = (0..=50).map(|i| f64::from(i) * 2.4).collect();
    let counts: Vec<f64> =
        (0..50).map(|i| (180_000.0 * (-f64::from(i) * 0.35).exp() + 90.0 / f64::from(i + 1)).round()).collect();
    let points: Vec<Value> = (0..6000)
        .map(|_| {
            let quantity = (1.8 + draw.normal() * 1.4).exp().round().max(1.0);
            json!([quantity, quantity * (0.8 + draw.normal() * 0.8).exp()])
        })
        .collect();
    let bounds = |max: f64| json!({"min": 1, "whisker_low": 1, "q25": 2, "q50": 6, "q75": 12, "whisker_high": 27, "max": max, "outliers": 25_000});
    let column = |max: f64| json!({"count": 392_692, "mean": 13.1197, "std": 180.4928, "min": 1, "q25": 2, "q50": 6, "q75": 12, "max": max});
    let histogram = json!({"edges": edges, "counts": counts, "clipped_above": 120});
    json!({
        "describe": {"Quantity": column(80_995.0), "UnitPrice": column(8142.75), "TotalSales": column(168_469.6)},
        "columns": [{"name": "InvoiceNo", "type": "str", "nulls": 0}],
        "histograms": {"Quantity": histogram, "TotalSales": histogram},
        "boxes": {"Quantity": bounds(80_995.0), "TotalSales": bounds(168_469.6)},
        "scatter": {"points": points, "shown": 6000, "of": 392_692},
        "by_month": (1..=13).map(|m| json!({"month": format!("{}-{:02}", 2010 + (m + 10) / 12, (m + 10) % 12 + 1), "sales": 400_000 + m * 37_000})).collect::<Vec<_>>(),
        "by_country": [{"country": "United Kingdom", "sales": 7_285_024.6}, {"country": "Netherlands", "sales": 285_446.3}],
        "top_products": [{"description": HOSTILE[0], "sales": 168_469.6}, {"description": "REGENCY CAKESTAND 3 TIER", "sales": 142_264.8}],
    })
}

/// A choice of k = 3 with k = 2 ruled out, or the choice that raw features lead to.
pub fn kmeans(raw: bool) -> Value {
    let scores: [f64; 8] = if raw {
        [0.9159, 0.2808, 0.2903, 0.3762, 0.3929, 0.3944, 0.3847, 0.3361]
    } else {
        [0.2699, 0.2701, 0.2379, 0.231, 0.22, 0.21, 0.205, 0.2]
    };
    let candidates: Vec<Value> = scores
        .iter()
        .zip(2..)
        .map(|(score, k)| {
            let smallest = if raw && k == 2 { 8 } else { 900 / k };
            json!({"k": k, "inertia": 21_000.0 / f64::from(k), "silhouette": score, "sizes": [4338 - smallest, smallest],
                "smallest_share": f64::from(smallest) / 4338.0, "eligible": raw || k < 6})
        })
        .collect();
    json!({"chosen_k": if raw { 2 } else { 3 }, "reason": "highest silhouette among solutions whose smallest cluster holds at least 5%", "candidates": candidates})
}

pub fn clv() -> Value {
    let model = |name: &str, mae: f64, r2: f64, spearman: f64, gini: f64, share: f64| json!({"name": name, "mae": mae, "rmse": mae * 3.1, "r2": r2, "spearman": spearman, "gini": gini, "top_decile_share": share, "top_decile_lift": share * 10.0});
    json!({
        "mode": "holdout", "cut": "2011-09-11", "horizon_days": 90,
        "models": [
            {"name": "train mean", "mae": 1058.0, "r2": -0.001, "top_decile_share": 0.07},
            model("BG/NBD + Gamma-Gamma", 662.0, 0.307, 0.414, 0.692, 0.522),
            model("two-stage XGBoost", 644.0, 0.341, 0.518, 0.652, 0.526),
        ],
        "customers_known": 3370, "buyers_after": 1921, "spend_after": 2_843_839.251,
        "importance": {"buys": [{"feature": "Recency", "share": 0.6}, {"feature": "Frequency", "share": 0.4}],
            "spend": [{"feature": "Monetary", "share": 0.7}, {"feature": "<b>Recency</b>", "share": 0.3}]},
        "notes": ["the baseline gave no order for <b>some</b> customers"],
    })
}

pub fn facts() -> Value {
    json!({
        "run": "run_01j8zk5m8w0000000000000000", "pipeline": "customer-segmentation", "version": "af1349b9f5f9a1a6a0404dea36dcc949",
        "created": 1_795_383_000_000_i64,
        "params": {"input": "online_retail.csv.xz", "frequency": "orders"},
        "tasks": [
            {"name": "clean", "seconds": 1.42, "worker": "worker-1", "attempts": 1, "cached": false},
            {"name": "embed", "seconds": 75.0, "worker": "gpu-1", "attempts": 2, "cached": false},
            {"name": "rfm", "seconds": 0.05, "worker": "worker-2", "attempts": 1, "cached": true},
        ],
    })
}

pub fn registered() -> Value {
    json!({"models": [
        {"name": "customer-kmeans", "aliases": ["champion"], "signature": {"inputs": [{"name": "Recency", "type": "f64"}, {"name": "Frequency", "type": "f64"}], "outputs": [{"name": "Cluster", "type": "i64"}]}, "digest": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262", "metrics": {"silhouette": 0.2701, "k": 3}},
        {"name": "customer-clv", "version": 3, "alias": "champion", "digest": "bf1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262", "metrics": {"mae": 644.1}},
    ]})
}

/// Runs retail.segments on the people and adds its outputs.
pub fn segments(dir: &Path, people: &People, inputs: &mut BTreeMap<String, PathBuf>) {
    let out = dir.join("segments-out");
    std::fs::create_dir_all(&out).unwrap();
    let needed = BTreeMap::from([
        ("customers".to_owned(), save(dir, "rfm", people.rfm.clone())),
        ("clusters".to_owned(), save(dir, "clusters", people.clusters.clone())),
        ("predictions".to_owned(), save(dir, "predictions", people.predictions.clone())),
    ]);
    let params = json!({"high_value_share": 0.1, "churn_factor": 2.0, "churn_min_days": 60});
    let mut context = crate::ops::Context::new(needed, out.clone(), params.as_object().cloned().unwrap());
    let operator = crate::ops::all().into_iter().find(|o| o.spec().name == "retail.segments").unwrap();
    operator.run(&mut context).unwrap();
    inputs.insert("segments".to_owned(), out.join("segments"));
    inputs.insert("segments_summary".to_owned(), out.join("summary"));
}
