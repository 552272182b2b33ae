//! Models, through the command line: registered by a run, shown with lineage, moved, exported for others, used to predict.
#![allow(clippy::unwrap_used)]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use polars::prelude::{DataFrame, DataType};
use segue_tests::{
    Cli, data, tables,
    values::{absolute, list, number, text},
};
use serde_json::Value;
use tempfile::TempDir;

const PIPELINE: &str = r#"
[pipeline]
name = "models"
[params]
input = { type = "path" }
seed = 1
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.rfm]
op = "retail.rfm"
inputs = { orders = "clean.orders" }
[tasks.scale]
op = "ml.scale"
inputs = { features = "rfm.customers" }
with = { transform = "log1p" }
[tasks.kmeans]
op = "ml.kmeans"
inputs = { features = "scale.scaled", scaler = "scale.model" }
with = { k_max = 4, seed = "${params.seed}" }
[tasks.clv]
op = "retail.clv"
inputs = { orders = "clean.orders", customers = "rfm.customers" }
[tasks.register]
op = "model.register"
inputs = { scaler = "scale.model", kmeans = "kmeans.model", clv = "clv.model" }
"#;

const PRODUCTS: &str = r#"
[tasks.embed]
op = "text.embed"
inputs = { texts = "clean.products" }
"#;

/// One state directory with two runs of the pipeline.
struct Registry {
    dir: TempDir,
    cli: Cli,
    runs: [String; 2],
    embedded: bool,
}

fn registry() -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let embedded = data::has_embedding_model();
    let file = dir.path().join("models.toml");
    fs::write(&file, if embedded { format!("{PIPELINE}{PRODUCTS}") } else { PIPELINE.to_owned() }).unwrap();
    let input = format!("input={}", data::sample(dir.path(), 20_000).display());
    let run = |seed: &str| {
        let outcome = cli.run_pipeline(&file, &["-p", &input, "-p", seed]);
        assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
        text(&outcome, "run").to_owned()
    };
    let runs = [run("seed=1"), run("seed=2")];
    Registry { dir, cli, runs, embedded }
}

#[test]
fn registered_models_are_shown_moved_exported_and_used() {
    let registry = registry();
    versions_carry_metrics_and_lineage(&registry);
    aliases_move(&registry);
    new_customers_are_scored(&registry);
    exports_are_complete_and_predict_the_same_in_python(&registry);
    any_text_finds_products(&registry);
}

fn versions_carry_metrics_and_lineage(registry: &Registry) {
    let models = registry.cli.json(["models", "list"]);
    let names: Vec<&str> = list(&models, "").iter().map(|model| text(model, "name")).collect();
    assert_eq!(names, ["customer-clv", "customer-kmeans", "customer-scaler"]);
    for model in list(&models, "") {
        assert_eq!(list(model, "versions").len(), 2, "{model}");
        assert_eq!(number(model, "aliases.champion"), 2.0, "the newest is the champion");
    }
    let artifacts = tables::digests(&registry.cli, &registry.runs[0]);
    let first = registry.cli.json(["models", "show", "customer-kmeans:1"]);
    assert_eq!(text(&first, "kind"), "kmeans");
    assert_eq!(text(&first, "artifact.digest"), artifacts["kmeans.model"]);
    assert_eq!(text(&first, "lineage.run"), registry.runs[0]);
    assert_eq!(text(&first, "lineage.task"), "register");
    assert_eq!(text(&first, "lineage.inputs.kmeans.digest"), artifacts["kmeans.model"]);
    let external = first["lineage"]["external_inputs"].as_object().unwrap();
    assert!(external.keys().any(|place| place.contains("sample-20000.csv")), "{external:?}");
    assert!(number(&first, "metrics.silhouette") > 0.0);
    assert_eq!(number(&first, "params.k_max"), 4.0);
    assert_eq!(list(&first, "signature.inputs").len(), 6);
    let lineage = registry.cli.json(["artifacts", "lineage", &artifacts["kmeans.model"]]);
    let works: Vec<&str> = list(&lineage, "").iter().map(|node| text(node, "work")).collect();
    for work in ["ml.kmeans", "ml.scale", "retail.rfm", "retail.clean"] {
        assert!(works.iter().any(|other| other.contains(work)), "{work} is not in {works:?}");
    }
}

fn aliases_move(registry: &Registry) {
    let version = |reference: &str| number(&registry.cli.json(["models", "show", reference]), "version");
    let moved = registry.cli.json(["models", "alias", "customer-kmeans", "champion", "1"]);
    assert_eq!(number(&moved, "previous"), 2.0);
    assert_eq!((version("customer-kmeans@champion"), version("customer-kmeans")), (1.0, 1.0));
    registry.cli.json(["models", "alias", "customer-kmeans", "champion", "2"]);
    registry.cli.json(["models", "alias", "customer-kmeans", "challenger", "1"]);
    assert_eq!((version("customer-kmeans@challenger"), version("customer-kmeans")), (1.0, 2.0));
    registry.cli.run(["models", "alias", "customer-kmeans", "champion", "9"]).refuses(2, &["9"]);
    registry.cli.run(["models", "show", "customer-kmeans@loser"]).refuses(2, &["loser"]);
}

fn fetched(registry: &Registry, artifact: &str) -> PathBuf {
    let path = registry.dir.path().join(format!("{artifact}.parquet"));
    tables::fetch(&registry.cli, &registry.runs[1], artifact, &path);
    path
}

/// Scores a table and gives the scores.
fn scored(registry: &Registry, model: &str, input: &Path, rows: usize) -> DataFrame {
    let out = registry.dir.path().join(format!("{model}-scored.parquet"));
    let (input, to) = (input.to_string_lossy(), out.to_string_lossy());
    let said = registry.cli.json(["predict", model, "--input", &input, "--out", &to]);
    assert_eq!(number(&said, "customers"), rows as f64);
    tables::read_table(&out)
}

fn new_customers_are_scored(registry: &Registry) {
    // The champion gives the customers that it was trained on their own clusters.
    let customers = fetched(registry, "rfm.customers");
    let labels = tables::read_table(&fetched(registry, "kmeans.customers"));
    let scores = scored(registry, "customer-kmeans", &customers, labels.height());
    assert_eq!(tables::numbers(&scores, "Cluster"), tables::numbers(&labels, "Cluster"));
    let features = fetched(registry, "clv.features");
    let predictions = tables::read_table(&fetched(registry, "clv.predictions"));
    let scores = scored(registry, "customer-clv@champion", &features, predictions.height());
    let (ours, theirs) = (tables::numbers(&scores, "Predicted"), tables::numbers(&predictions, "Predicted"));
    for (scored, predicted) in ours.iter().zip(&theirs) {
        absolute("a prediction", *scored, *predicted, 1e-3 + predicted.abs() * 1e-4);
    }

    // People hold CSVs.
    let csv = registry.dir.path().join("new.csv");
    let text = "CustomerID,Recency,Frequency,Monetary,AvgOrderValue,Tenure,AvgBasketSize\n\
        new-1,3,12,4200.50,350.04,300,20.5\nnew-2,250,1,80,80,250,4\n";
    fs::write(&csv, text).unwrap();
    let scores = scored(registry, "customer-kmeans", &csv, 2);
    assert_eq!(tables::texts(&scores, "CustomerID"), ["new-1", "new-2"]);
    let clusters = tables::numbers(&scores, "Cluster");
    assert_ne!(clusters[0], clusters[1], "a regular and a lapsed customer are told apart");
    fs::write(&csv, "CustomerID,Recency\n1,2\n").unwrap();
    let input = csv.to_string_lossy().into_owned();
    let refused = registry.cli.run(["predict", "customer-kmeans", "--input", &input, "--out", "x.csv"]);
    refused.refuses(2, &["Frequency"]);
}

fn exports_are_complete_and_predict_the_same_in_python(registry: &Registry) {
    let out = registry.dir.path().join("exported");
    let to = out.to_string_lossy().into_owned();
    let written =
        registry.cli.json(["models", "export", "customer-clv", "customer-kmeans", "customer-scaler", "--out", &to]);
    for file in list(&written, "") {
        assert!(fs::metadata(file.as_str().unwrap()).unwrap().len() > 0, "{file}");
    }
    let manifest = tables::read_json(&out.join("customer-clv-2.manifest.json"));
    assert_eq!(text(&manifest, "lineage.lineage.run"), registry.runs[1]);
    for stage in ["buys", "spend"] {
        for format in ["json", "ubj"] {
            assert!(out.join(format!("customer-clv-2.{stage}.{format}")).is_file(), "{stage}.{format}");
        }
    }
    for name in ["customer-kmeans-2.npz", "customer-scaler-2.npz"] {
        assert!(fs::read(out.join(name)).unwrap().starts_with(b"PK"), "{name} is an archive");
    }
    python_predicts_the_same(registry, &out, &manifest);
}

/// Reads features, probabilities and predictions, and compares them with what the exported trees give.
const PYTHON: &str = r#"
import csv, json, sys
import numpy as np, xgboost as xgb
exported, manifest_file, features_file, scores_file = sys.argv[1:]
manifest = json.load(open(manifest_file))
facts = manifest["model"]
rows = list(csv.DictReader(open(features_file)))
scores = list(csv.DictReader(open(scores_file)))
number = lambda text: float(text) if text else float("nan")
def predict(stage, names, kind):
    booster = xgb.Booster()
    booster.load_model(f"{exported}.{stage}.{kind}")
    data = np.array([[number(row[name]) for name in names] for row in rows], dtype=np.float32)
    return booster.predict(xgb.DMatrix(data, missing=float("nan")), validate_features=False)
for kind in ["json", "ubj"]:
    buys = predict("buys", facts["buys_features"], kind)
    spend = predict("spend", facts["spend_features"], kind)
    wanted = np.array([number(row["ProbabilityBuys"]) for row in scores])
    assert np.allclose(buys, wanted, atol=1e-5), (kind, np.abs(buys - wanted).max())
    linked = {"none": lambda x: x, "log1p": np.expm1, "log": np.exp}[facts["link"] or "none"](spend.astype(float))
    predicted = buys * linked
    weight = facts["baseline_weight"]
    if weight > 0:
        baseline = np.array([number(row[facts["baseline_feature"]]) for row in rows])
        predicted = predicted ** (1 - weight) * baseline ** weight
    predicted = facts["calibration"] * predicted
    wanted = np.array([number(row["Predicted"]) for row in scores])
    assert np.allclose(predicted, wanted, rtol=1e-3, atol=1e-2), (kind, np.abs(predicted - wanted).max())
arrays = np.load(exported.replace("clv", "kmeans") + ".npz")
assert arrays["centroids"].shape[1] == 6 and arrays["mean"].shape == (6,)
print("same", len(rows))
"#;

fn python_predicts_the_same(registry: &Registry, exported: &Path, manifest: &Value) {
    let python = std::env::var("SEGUE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import numpy, xgboost"]).output();
    if !has.is_ok_and(|said| said.status.success()) {
        data::skipped(&format!(
            "exported models in Python: {python} has no numpy and xgboost (SEGUE_TEST_PYTHON names another)"
        ));
        return;
    }
    let dir = registry.dir.path();
    let features = tables::read_table(&dir.join("clv.features.parquet"));
    let scores = tables::read_table(&dir.join("customer-clv@champion-scored.parquet"));
    write_csv(&features, &dir.join("features.csv"));
    write_csv(&scores, &dir.join("scores.csv"));
    let stem = exported.join("customer-clv-2");
    let said = Command::new(&python)
        .args(["-c", PYTHON])
        .args([
            stem.clone(),
            exported.join("customer-clv-2.manifest.json"),
            dir.join("features.csv"),
            dir.join("scores.csv"),
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{stderr}\n{manifest:#}");
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), format!("same {}", features.height()));
}

/// Writes numbers with every digit, and nothing where there is none.
fn write_csv(table: &DataFrame, to: &Path) {
    let names: Vec<String> = table.get_column_names().iter().map(ToString::to_string).collect();
    let columns: Vec<Vec<String>> = table
        .columns()
        .iter()
        .map(|column| match column.str() {
            Ok(texts) => texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect(),
            Err(_) => {
                let numbers = column.cast(&DataType::Float64).unwrap();
                numbers.f64().unwrap().iter().map(|value| value.map(|v| v.to_string()).unwrap_or_default()).collect()
            }
        })
        .collect();
    let mut text = names.join(",");
    for row in 0..table.height() {
        let cells: Vec<&str> = columns.iter().map(|column| column[row].as_str()).collect();
        write!(text, "\n{}", cells.join(",")).unwrap();
    }
    fs::write(to, text).unwrap();
}

fn any_text_finds_products(registry: &Registry) {
    if !registry.embedded {
        return;
    }
    let found = registry.cli.json(["similar", "a mug for hot tea", "-k", "7"]);
    let cosines: Vec<f64> = list(&found, "hits").iter().map(|hit| number(hit, "cosine")).collect();
    assert_eq!(cosines.len(), 7);
    assert!(cosines.is_sorted_by(|a, b| a >= b) && cosines[0] > 0.3, "{found}");
    let product = text(&found, "hits.0.text").to_owned();
    let itself = registry.cli.json(["similar", &product, "-k", "1"]);
    assert_eq!(text(&itself, "hits.0.text"), product);
    absolute("the cosine of a text with itself", number(&itself, "hits.0.cosine"), 1.0, 1e-4);
}
