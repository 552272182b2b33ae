//! Every published figure of the real data, from both shipped pipelines: one run of each, shared by all tests of this file.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use polars::prelude::DataFrame;
use segue_tests::{
    Cli, data, program, tables,
    values::{absolute, at_least, at_most, list, number, relative, text},
};
use serde_json::Value;

/// What tests look at, of whatever run has it.
const WANTED: [&str; 19] = [
    "clean.quality",
    "clean.orders",
    "clean.products",
    "eda.stats",
    "rfm.customers",
    "scale.scaled",
    "kmeans.summary",
    "kmeans.customers",
    "pca.summary",
    "tsne.summary",
    "tsne.coordinates",
    "similar.neighbours",
    "clv.summary",
    "clv.predictions",
    "segments.segments",
    "segments.summary",
    "register.registered",
    "embed.index",
    "report.page",
];

const RAW: &str = r#"
[pipeline]
name = "raw"
[params]
input = { type = "path" }
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.rfm]
op = "retail.rfm"
inputs = { orders = "clean.orders" }
[tasks.scale]
op = "ml.scale"
inputs = { features = "rfm.customers" }
[tasks.kmeans]
op = "ml.kmeans"
inputs = { features = "scale.scaled", scaler = "scale.model" }
[tasks.pca]
op = "ml.pca"
inputs = { features = "scale.scaled" }
[tasks.tsne]
op = "ml.tsne"
inputs = { features = "scale.scaled" }
"#;

/// All runs, over one state directory.
struct Runs {
    recommended: Made,
    notebook: Made,
    /// The notebook's way with the features of the recommended pipeline, which the published inertias are of.
    raw: Made,
    embedded: bool,
}

/// A run and what it made.
struct Made {
    /// Answer of `segue run -o json`.
    outcome: Value,
    dir: PathBuf,
}

impl Made {
    fn json(&self, artifact: &str) -> Value {
        tables::read_json(&self.dir.join(artifact))
    }

    fn table(&self, artifact: &str) -> DataFrame {
        tables::read_table(&self.dir.join(artifact))
    }
}

/// Gives the runs, made by whoever asks first; `None` where the data is absent.
fn runs() -> Option<&'static Runs> {
    static RUNS: OnceLock<Option<Runs>> = OnceLock::new();
    let made = RUNS.get_or_init(|| {
        let input = data::online_retail()?;
        // In the target directory, emptied here: what is in it can be looked at after a failure.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("figures");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("raw.toml"), RAW).unwrap();
        let cli = Cli::state_dir(&dir.join("state"), &dir);
        let embedded = data::has_embedding_model();
        let shipped = |name: &str| pipeline(name, &dir, embedded);
        let run = |file: &Path| run(&cli, file, &input, &dir);
        // Later runs take from the cache what earlier ones have made.
        Some(Runs {
            recommended: run(&shipped("customer-segmentation")),
            notebook: run(&shipped("customer-segmentation-notebook")),
            raw: run(&dir.join("raw.toml")),
            embedded,
        })
    });
    made.as_ref()
}

/// Runs a pipeline file and fetches everything that tests look at.
fn run(cli: &Cli, file: &Path, input: &Path, dir: &Path) -> Made {
    let input = format!("input={}", input.display());
    let outcome = cli.run_pipeline(file, &["-p", &input]);
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
    let id = text(&outcome, "run");
    let dir = dir.join(file.file_stem().unwrap());
    fs::create_dir_all(&dir).unwrap();
    for artifact in WANTED.iter().filter(|artifact| tables::digests(cli, id).contains_key(**artifact)) {
        tables::fetch(cli, id, artifact, &dir.join(artifact));
    }
    Made { outcome, dir }
}

/// Gives a shipped pipeline, without what needs the embedding model where that is absent.
fn pipeline(name: &str, dir: &Path, embedded: bool) -> PathBuf {
    let shipped = program::shipped(&format!("{name}.toml"));
    if embedded {
        return shipped;
    }
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, without_products(&fs::read_to_string(shipped).unwrap())).unwrap();
    file
}

/// Takes the tasks out that need the embedding model, and what refers to them.
fn without_products(pipeline: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in pipeline.lines() {
        if line.starts_with('[') {
            inside = line == "[tasks.embed]" || line == "[tasks.similar]";
        }
        if !inside && !line.contains("\"embed.") && !line.contains("\"similar.") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn both_pipelines_end_with_every_task_succeeded_at_its_first_attempt() {
    let Some(runs) = runs() else { return };
    for outcome in [&runs.recommended.outcome, &runs.notebook.outcome] {
        for task in list(outcome, "tasks") {
            assert_eq!(task["state"], "succeeded", "{task}");
            assert!(number(task, "attempts") <= 1.0, "{task}");
        }
        assert_eq!(list(outcome, "tasks").len(), if runs.embedded { 13 } else { 11 });
    }
    let cached: Vec<&str> =
        list(&runs.notebook.outcome, "tasks").iter().filter(|t| t["cached"] == true).map(|t| text(t, "name")).collect();
    assert!(cached.contains(&"clean") && cached.contains(&"eda"), "equal work is done once: {cached:?}");
    assert!(!cached.contains(&"rfm"), "its parameter differs: {cached:?}");
}

#[test]
fn cleaning_keeps_the_rows_that_it_must() {
    let Some(runs) = runs() else { return };
    let quality = runs.recommended.json("clean.quality");
    for (place, count) in [
        ("rows_read", 541_909.0),
        ("after_missing", 406_829.0),
        ("after_duplicates", 401_604.0),
        ("kept", 392_692.0),
        ("customers", 4_338.0),
        ("invoices", 18_532.0),
        ("descriptions_raw", 3_877.0),
        ("descriptions_trimmed", 3_866.0),
        ("stock_codes", 3_665.0),
        ("dropped.unparsable", 0.0),
    ] {
        assert_eq!(number(&quality, place), count, "{place}");
    }
    relative("sum of TotalSales", number(&quality, "sum_total_sales"), 8_887_208.894, 1e-6);
    let orders = runs.recommended.table("clean.orders");
    assert_eq!(orders.height(), 392_692);
    relative("sum of the table", tables::numbers(&orders, "TotalSales").iter().sum(), 8_887_208.894, 1e-6);
    assert_eq!(runs.recommended.table("clean.products").height(), 3_866);
}

#[test]
fn the_description_of_the_columns_is_that_of_pandas() {
    let Some(runs) = runs() else { return };
    let stats = runs.recommended.json("eda.stats");
    for (place, figure) in [
        ("Quantity.mean", 13.119_702),
        ("Quantity.std", 180.492_832),
        ("Quantity.max", 80_995.0),
        ("Quantity.q25", 2.0),
        ("Quantity.q50", 6.0),
        ("Quantity.q75", 12.0),
        ("TotalSales.mean", 22.631_500),
        ("TotalSales.std", 311.099_224),
        ("TotalSales.q25", 4.95),
        ("TotalSales.q50", 12.45),
        ("TotalSales.q75", 19.80),
    ] {
        relative(place, number(&stats, &format!("describe.{place}")), figure, 1e-6);
    }
    for column in ["Quantity", "TotalSales"] {
        assert_eq!(number(&stats, &format!("describe.{column}.count")), 392_692.0);
        assert_eq!(list(&stats, &format!("histograms.{column}.counts")).len(), 50);
    }
}

#[test]
fn rfm_by_orders_has_the_published_means_and_customers() {
    let Some(runs) = runs() else { return };
    let customers = runs.recommended.table("rfm.customers");
    assert_eq!(customers.height(), 4_338);
    means(
        &customers,
        &[
            ("Recency", 92.536_422),
            ("Frequency", 4.272_015),
            ("Monetary", 2_048.688_081),
            ("AvgOrderValue", 417.645_735),
            ("Tenure", 223.308_207),
            ("AvgBasketSize", 21.834_836),
        ],
    );
    customer(
        &customers,
        "12347",
        &[
            ("Recency", 2.0),
            ("Frequency", 7.0),
            ("Monetary", 4_310.0),
            ("AvgOrderValue", 615.714_286),
            ("Tenure", 367.0),
            ("AvgBasketSize", 26.0),
        ],
    );
}

#[test]
fn rfm_by_lines_has_the_published_means_and_customers() {
    let Some(runs) = runs() else { return };
    let customers = runs.notebook.table("rfm.customers");
    means(
        &customers,
        &[
            ("Recency", 92.536_422),
            ("Frequency", 90.523_744),
            ("Monetary", 2_048.688_081),
            ("AvgOrderValue", 68.381_590),
            ("AvgBasketSize", 25.714_117),
        ],
    );
    customer(
        &customers,
        "17850",
        &[("Frequency", 297.0), ("AvgOrderValue", 18.152_222), ("AvgBasketSize", 14.414_141)],
    );
}

#[track_caller]
fn means(customers: &DataFrame, expected: &[(&str, f64)]) {
    for (column, mean) in expected {
        let values = tables::numbers(customers, column);
        relative(column, values.iter().sum::<f64>() / values.len() as f64, *mean, 1e-6);
    }
}

#[track_caller]
fn customer(customers: &DataFrame, id: &str, expected: &[(&str, f64)]) {
    let ids = tables::texts(customers, "CustomerID");
    assert!(ids.is_sorted(), "customers are sorted by id");
    let row = ids.iter().position(|other| other == id).unwrap();
    for (column, value) in expected {
        relative(&format!("{column} of {id}"), tables::numbers(customers, column)[row], *value, 1e-6);
    }
}

#[test]
fn raw_k_means_is_as_good_as_the_published_one_for_every_k() {
    let Some(runs) = runs() else { return };
    let summary = runs.raw.json("kmeans.summary");
    let inertia = [21_564.52, 17_440.48, 13_748.95, 10_412.75, 8_583.62, 7_459.29, 6_609.54, 6_131.21];
    let silhouette = [0.9159, 0.2808, 0.2903, 0.3762, 0.3929, 0.3944, 0.3847, 0.3361];
    for (index, k) in (2..=9).enumerate() {
        let found = |what: &str| number(&summary, &format!("candidates.{index}.{what}"));
        assert_eq!(found("k"), f64::from(k));
        at_most(&format!("inertia at k = {k}"), found("inertia"), inertia[index] * 1.001);
        // A better optimum has its own silhouette, which the next test computes by itself.
        if found("inertia") > inertia[index] * 0.999 {
            absolute(&format!("silhouette at k = {k}"), found("silhouette"), silhouette[index], 0.01);
        }
    }
    // The weakness that the recommended pipeline mends: a handful of customers, and everybody else.
    assert_eq!(number(&summary, "chosen_k"), 2.0);
    at_most("the smaller cluster of two", number(&summary, "sizes.1"), 20.0);

    let pca = runs.raw.json("pca.summary");
    for (index, ratio) in [0.304_246, 0.221_898, 0.181_302].into_iter().enumerate() {
        absolute("raw PCA ratio", number(&pca, &format!("ratio.{index}")), ratio, 1e-5);
    }
    at_most("KL of raw t-SNE", number(&runs.raw.json("tsne.summary"), "kl"), 1.010 * 1.01);
}

#[test]
fn the_chosen_clusters_have_the_inertia_and_the_silhouette_that_their_labels_have() {
    let Some(runs) = runs() else { return };
    for made in [&runs.raw, &runs.notebook, &runs.recommended] {
        let points = points(&made.table("scale.scaled"));
        let clusters = made.table("kmeans.customers");
        let labels: Vec<usize> = tables::numbers(&clusters, "Cluster").iter().map(|label| *label as usize).collect();
        let (inertia, silhouettes) = judge(&points, &labels);
        let summary = made.json("kmeans.summary");
        relative("inertia", number(&summary, "inertia"), inertia, 1e-9);
        let mean = silhouettes.iter().sum::<f64>() / silhouettes.len() as f64;
        absolute("mean silhouette", number(&summary, "silhouette"), mean, 1e-9);
        for (ours, computed) in tables::numbers(&clusters, "Silhouette").iter().zip(&silhouettes) {
            absolute("silhouette of a customer", *ours, *computed, 1e-9);
        }
    }
}

/// The six features of every customer.
fn points(scaled: &DataFrame) -> Vec<[f64; 6]> {
    let names = ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure", "AvgBasketSize"];
    let columns = names.map(|name| tables::numbers(scaled, name));
    (0..scaled.height()).map(|row| std::array::from_fn(|column| columns[column][row])).collect()
}

/// Computes inertia and silhouettes from their definitions, as scikit-learn does: a customer alone in a cluster scores 0.
fn judge(points: &[[f64; 6]], labels: &[usize]) -> (f64, Vec<f64>) {
    let k = labels.iter().max().unwrap() + 1;
    let mut sizes = vec![0.0_f64; k];
    let mut centres = vec![[0.0_f64; 6]; k];
    for (point, label) in points.iter().zip(labels) {
        sizes[*label] += 1.0;
        centres[*label].iter_mut().zip(point).for_each(|(sum, x)| *sum += x);
    }
    for (centre, size) in centres.iter_mut().zip(&sizes) {
        centre.iter_mut().for_each(|sum| *sum /= size);
    }
    let squared = |a: &[f64; 6], b: &[f64; 6]| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>();
    let inertia = points.iter().zip(labels).map(|(point, label)| squared(point, &centres[*label])).sum();
    let silhouettes = points.iter().zip(labels).map(|(point, own)| {
        let mut sums = vec![0.0; k];
        for (other, label) in points.iter().zip(labels) {
            sums[*label] += squared(point, other).sqrt();
        }
        if sizes[*own] < 2.0 {
            return 0.0;
        }
        let inside = sums[*own] / (sizes[*own] - 1.0);
        let others = (0..k).filter(|label| label != own).map(|label| sums[label] / sizes[label]);
        let outside = others.fold(f64::INFINITY, f64::min);
        (outside - inside) / outside.max(inside)
    });
    (inertia, silhouettes.collect())
}

#[test]
fn k_means_on_logarithms_gives_three_segments_of_the_published_sizes() {
    let Some(runs) = runs() else { return };
    let summary = runs.recommended.json("kmeans.summary");
    for (index, silhouette) in [0.2699, 0.2701, 0.2379].into_iter().enumerate() {
        absolute("silhouette", number(&summary, &format!("candidates.{index}.silhouette")), silhouette, 0.01);
    }
    let mut sizes: Vec<f64> = list(&summary, "candidates.1.sizes").iter().map(|size| size.as_f64().unwrap()).collect();
    sizes.sort_by(f64::total_cmp);
    for (size, about) in sizes.iter().zip([962.0, 1_653.0, 1_723.0]) {
        relative("size at k = 3", *size, about, 0.05);
    }
    let chosen = number(&summary, "chosen_k");
    let smallest = list(&summary, "sizes").iter().map(|size| size.as_f64().unwrap()).fold(f64::MAX, f64::min);
    at_least("the smallest cluster's share", smallest / 4_338.0, 0.05);
    assert_eq!(runs.recommended.table("kmeans.customers").height(), 4_338);
    let segments = runs.recommended.json("segments.summary");
    assert_eq!(list(&segments, "clusters").len() as f64, chosen, "every cluster has a name");
    let shares: f64 = list(&segments, "clusters").iter().map(|cluster| number(cluster, "share")).sum();
    absolute("the shares of all segments", shares, 1.0, 1e-3);
}

#[test]
fn projections_have_the_published_ratios_and_divergences() {
    let Some(runs) = runs() else { return };
    let pca = runs.recommended.json("pca.summary");
    for (index, ratio) in [0.448_429, 0.226_322, 0.195_157].into_iter().enumerate() {
        absolute("PCA ratio", number(&pca, &format!("ratio.{index}")), ratio, 1e-5);
    }
    at_most("KL of t-SNE", number(&runs.recommended.json("tsne.summary"), "kl"), 1.276 * 1.01);
    assert_eq!(runs.recommended.table("tsne.coordinates").height(), 4_338);
}

#[test]
fn products_have_the_published_neighbours() {
    let Some(runs) = runs() else { return };
    if !runs.embedded {
        return;
    }
    let table = runs.recommended.table("similar.neighbours");
    let (texts, neighbours) = (tables::texts(&table, "Text"), tables::texts(&table, "Neighbour"));
    let cosines = tables::numbers(&table, "Cosine");
    assert_eq!(texts.len(), 3_866 * 5);
    let top = |product: &str| -> Vec<(String, f64)> {
        (0..texts.len())
            .filter(|&row| texts[row] == product)
            .map(|row| (neighbours[row].clone(), cosines[row]))
            .collect()
    };
    for (product, expected) in [
        (
            "WHITE HANGING HEART T-LIGHT HOLDER",
            [
                ("PINK HANGING HEART T-LIGHT HOLDER", 0.92248),
                ("RED HANGING HEART T-LIGHT HOLDER", 0.90128),
                ("HEART T-LIGHT HOLDER", 0.85536),
                ("CREAM HANGING HEART T-LIGHT HOLDER", 0.84654),
                ("HANGING HEART ZINC T-LIGHT HOLDER", 0.83564),
            ],
        ),
        (
            "PARTY BUNTING",
            [
                ("TEA TIME PARTY BUNTING", 0.79099),
                ("PAPER BUNTING VINTAGE PARTY", 0.78800),
                ("CONGRATULATIONS BUNTING", 0.71873),
                ("VINTAGE CHRISTMAS BUNTING", 0.71751),
                ("BUNTING , SPOTTY", 0.70992),
            ],
        ),
    ] {
        let found = top(product);
        assert_eq!(found.len(), 5, "{product}");
        for ((neighbour, cosine), (name, published)) in found.iter().zip(expected) {
            assert_eq!(neighbour.trim(), name.trim(), "{product}: {found:?}");
            absolute(&format!("{product} and {name}"), *cosine, published, 1e-3);
        }
    }
}

#[test]
fn value_in_sample_is_the_nearly_perfect_fit_of_the_notebook() {
    let Some(runs) = runs() else { return };
    let summary = runs.notebook.json("clv.summary");
    at_least("R2 in sample", number(&summary, "models.0.r2"), 0.999);
    relative("predicted sum", number(&summary, "predicted_sum"), 8_887_209.0, 0.002);
    let predictions = runs.notebook.table("clv.predictions");
    assert_eq!(predictions.height(), 4_338);
    relative("sum of predictions", tables::numbers(&predictions, "Predicted").iter().sum(), 8_887_209.0, 0.002);
}

#[test]
fn value_held_out_in_time_beats_its_limits_with_the_baseline_beside_it() {
    let Some(runs) = runs() else { return };
    let summary = runs.recommended.json("clv.summary");
    assert!(
        text(&summary, "cut").starts_with("2011-09-11") || text(&summary, "cut").starts_with("2011-09-10"),
        "{}",
        summary["cut"]
    );
    for (place, count) in
        [("customers_known", 3_370.0), ("buyers_after", 1_921.0), ("folds", 5.0), ("horizon_days", 90.0)]
    {
        assert_eq!(number(&summary, place), count, "{place}");
    }
    relative("spend after the cut", number(&summary, "spend_after"), 2_843_839.251, 1e-6);
    let model = |name: &str| list(&summary, "models").iter().find(|model| model["name"] == name).cloned().unwrap();
    let two_stage = model("two-stage XGBoost");
    at_most("MAE", number(&two_stage, "mae"), 650.0);
    at_least("normalised Gini", number(&two_stage, "gini"), 0.69);
    at_least("Spearman", number(&two_stage, "spearman"), 0.51);
    let baseline = model("BG/NBD + Gamma-Gamma");
    // A baseline below the published one would flatter the model.
    at_most("MAE of the baseline", number(&baseline, "mae"), 662.0 * 1.01);
    at_least("Gini of the baseline", number(&baseline, "gini"), 0.692 - 0.01);
    at_least("Spearman of the baseline", number(&baseline, "spearman"), 0.414 - 0.01);
    relative("MAE of the mean", number(&model("train mean"), "mae"), 1_058.0, 0.01);
    assert_eq!(runs.recommended.table("clv.predictions").height(), 4_338, "everybody has a prediction");
}

#[test]
fn the_report_holds_what_the_runs_found_and_needs_no_network() {
    let Some(runs) = runs() else { return };
    for made in [&runs.recommended, &runs.notebook] {
        let page = fs::read_to_string(made.dir.join("report.page")).unwrap();
        assert!(page.contains("392,692") || page.contains("392692"), "the rows that were kept");
        for outside in ["src=\"http", "href=\"http://", "@import", "url(http"] {
            assert!(!page.contains(outside), "the page reaches for {outside}");
        }
        assert!(page.matches("<svg").count() >= 8, "{} figures", page.matches("<svg").count());
    }
}
