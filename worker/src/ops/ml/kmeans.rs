//! `ml.kmeans`: clusters of customers, and how many there are.

use ndarray::ArrayView2;
use polars::prelude::{Column, NamedFrom, Series};
use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::{Map, Value, json};

use super::features::{Features, id_param, trained_with, write_json};
use crate::{
    kernels::{
        KernelError,
        kmeans::{self, Candidate, Choice, Clustering, Search},
        silhouette,
    },
    models::{ModelDoc, ScalerModel, doc::Body},
    ops::{Context, OpError, Operator, tables},
};

/// Clusters rows for every k of a range and keeps the best.
#[derive(Debug)]
pub struct KMeans;

/// Parameters that can be used together.
struct Settings {
    k_min: usize,
    k_max: usize,
    restarts: usize,
    max_iter: usize,
    tolerance: f64,
    seed: u64,
    min_cluster_share: f64,
}

impl Settings {
    fn read(context: &Context) -> Result<Self, OpError> {
        let params = &context.params;
        let settings = Self {
            k_min: params.get("k_min")?,
            k_max: params.get("k_max")?,
            restarts: params.get("n_init")?,
            max_iter: params.get("max_iter")?,
            tolerance: params.get("tolerance")?,
            seed: params.get("seed")?,
            min_cluster_share: params.get("min_cluster_share")?,
        };
        if settings.k_min < 2 || settings.k_max < settings.k_min {
            return Err(OpError::user(format!(
                "parameters k_min = {} and k_max = {} are no range of k",
                settings.k_min, settings.k_max
            ))
            .hint("k_min is at least 2 and at most k_max"));
        }
        Ok(settings)
    }

    fn search(&self, k: usize) -> Search {
        Search { k, restarts: self.restarts, max_iter: self.max_iter, tolerance: self.tolerance, seed: self.seed }
    }
}

/// A clustering with the silhouette of every row.
struct Scored {
    clustering: Clustering,
    silhouettes: Vec<f64>,
    candidate: Candidate,
}

impl Operator for KMeans {
    fn spec(&self) -> OperatorSpec {
        let int = |name: &str, default: i64, least: f64, most: f64, help: &str| {
            ParamSpec::default(name, ParamType::Int, default, help).range(least, most)
        };
        OperatorSpec::new("ml.kmeans", "1", "Clusters rows; the number of clusters by silhouette")
            .input("features", "table", "id and scaled features")
            .optional_input("scaler", "model", "the scaler that made the features; kept in the model")
            .output("customers", "table", "cluster and silhouette of every row")
            .output("summary", "json", "every k that was tried, sizes, centroids, and why this k")
            .output("model", "model", "centroids, with the scaler")
            .param(id_param())
            .param(int("k_min", 2, 2.0, 1000.0, "smallest number of clusters to try"))
            .param(int(
                "k_max",
                9,
                2.0,
                1000.0,
                "largest number of clusters to try; at most the number of different rows",
            ))
            .param(int("n_init", 10, 1.0, 10_000.0, "restarts for each k"))
            .param(int("max_iter", 300, 1.0, 1_000_000.0, "most iterations of a restart"))
            .param(
                ParamSpec::default(
                    "tolerance",
                    ParamType::Float,
                    1e-4,
                    "squared movement of the centroids, over the mean variance, that ends a restart",
                )
                .range(1e-12, 1.0),
            )
            .param(int("seed", 42, 0.0, 9e15, "same seed, same clusters"))
            .param(
                ParamSpec::default(
                    "min_cluster_share",
                    ParamType::Float,
                    0.0,
                    "a k is passed over while its smallest cluster holds less than this share of the rows",
                )
                .range(0.0, 0.5),
            )
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let settings = Settings::read(context)?;
        let features = Features::read(context, None)?;
        features.at_least(2, "clustering")?;
        let scaler = read_scaler(context, &features)?;
        let distinct = kmeans::distinct_rows(features.values.view());
        if distinct < settings.k_min {
            return Err(OpError::data(format!(
                "{} clusters need as many different rows; the table has {distinct} different of {} rows",
                settings.k_min,
                features.ids.len()
            ))
            .hint("check the features: are they all constant?"));
        }
        let k_max = settings.k_max.min(distinct);
        let scored = sweep(context, &settings, k_max, &features)?;
        let candidates: Vec<Candidate> = scored.iter().map(|s| s.candidate).collect();
        let choice = kmeans::choose(&candidates, settings.min_cluster_share)
            .ok_or_else(|| OpError::user("no number of clusters was tried"))?;
        let best = &scored[choice.index];

        tables::write(context, "customers", &mut features.table(columns(best))?)?;
        write_json(context, "summary", &summary(&settings, k_max, &scored, &choice, &features))?;
        let metrics = Map::from_iter([
            ("k".to_owned(), json!(best.candidate.k)),
            ("silhouette".to_owned(), json!(best.candidate.silhouette)),
            ("inertia".to_owned(), json!(best.clustering.inertia)),
            ("smallest_share".to_owned(), json!(best.candidate.smallest_share)),
            ("rows".to_owned(), json!(features.ids.len())),
        ]);
        let body = Body::KMeans(crate::models::KMeansModel {
            features: features.names,
            centroids: best.clustering.centroids.rows().into_iter().map(|row| row.to_vec()).collect(),
            scaler,
        });
        context.write("model", &ModelDoc::new(body, trained_with(context), metrics.clone()).to_bytes())?;
        context.metrics.extend(metrics);
        Ok(())
    }
}

/// Reads the scaler, which must have made these features.
fn read_scaler(context: &Context, features: &Features) -> Result<Option<ScalerModel>, OpError> {
    let Some(path) = context.optional_input("scaler") else { return Ok(None) };
    let bytes = std::fs::read(path).map_err(|e| OpError::infra(format!("cannot read {}: {e}", path.display())))?;
    let document = ModelDoc::parse(&bytes).map_err(|e| OpError::data(format!("input `scaler`: {e}")))?;
    let kind = document.kind();
    let Body::Scaler(scaler) = document.body else {
        return Err(
            OpError::user(format!("input `scaler` is a model of kind {kind}")).hint("connect the model of ml.scale")
        );
    };
    if scaler.features != features.names {
        return Err(OpError::user(format!(
            "input `scaler` scales [{}], the features are [{}]",
            scaler.features.join(", "),
            features.names.join(", ")
        ))
        .hint("connect `scaled` and `model` of the same ml.scale task"));
    }
    Ok(Some(scaler))
}

/// Clusters for every k and scores all of them in one pass over the distances.
fn sweep(
    context: &mut Context,
    settings: &Settings,
    k_max: usize,
    features: &Features,
) -> Result<Vec<Scored>, OpError> {
    let flag = context.cancel_flag();
    let stop = move || flag.load(std::sync::atomic::Ordering::Relaxed);
    let data: ArrayView2<'_, f64> = features.values.view();
    let explain = |error: KernelError| features.explain(error);
    let total = (k_max - settings.k_min + 2) as u64;
    let mut found = Vec::new();
    for k in settings.k_min..=k_max {
        context.progress((k - settings.k_min) as u64, total, &format!("k = {k}"));
        found.push(kmeans::fit(data, &settings.search(k), &stop).map_err(explain)?);
    }
    kmeans::improve(data, &mut found, settings.max_iter);
    context.progress(total - 1, total, "silhouettes");
    let labellings: Vec<&[usize]> = found.iter().map(|clustering| clustering.labels.as_slice()).collect();
    let silhouettes = silhouette::silhouettes(data, &labellings, &stop).map_err(explain)?;
    context.progress(total, total, "clustered");
    Ok(found
        .into_iter()
        .zip(silhouettes)
        .map(|(clustering, silhouettes)| {
            let smallest = clustering.sizes.iter().min().copied().unwrap_or(0);
            let candidate = Candidate {
                k: clustering.sizes.len(),
                silhouette: silhouette::mean(&silhouettes),
                smallest_share: smallest as f64 / clustering.labels.len() as f64,
            };
            Scored { clustering, silhouettes, candidate }
        })
        .collect())
}

fn columns(best: &Scored) -> Vec<Column> {
    let labels: Vec<i64> = best.clustering.labels.iter().map(|label| *label as i64).collect();
    vec![Series::new("Cluster".into(), labels).into(), Series::new("Silhouette".into(), &best.silhouettes).into()]
}

fn summary(settings: &Settings, k_max: usize, scored: &[Scored], choice: &Choice, features: &Features) -> Value {
    let candidates: Vec<Value> = scored
        .iter()
        .map(|Scored { clustering, candidate, .. }| {
            json!({
                "k": candidate.k,
                "inertia": clustering.inertia,
                "silhouette": candidate.silhouette,
                "sizes": clustering.sizes,
                "smallest_share": candidate.smallest_share,
                "eligible": candidate.smallest_share >= settings.min_cluster_share,
            })
        })
        .collect();
    let best = &scored[choice.index];
    let centroids: Vec<Vec<f64>> = best.clustering.centroids.rows().into_iter().map(|row| row.to_vec()).collect();
    let mut reason = choice.reason.clone();
    if k_max < settings.k_max {
        reason.push_str(&format!("; k stops at {k_max}, the number of different rows"));
    }
    json!({
        "chosen_k": best.candidate.k,
        "reason": reason,
        "candidates": candidates,
        "sizes": best.clustering.sizes,
        "silhouette": best.candidate.silhouette,
        "inertia": best.clustering.inertia,
        "features": features.names,
        "centroids": centroids,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ops::ml::testing::{Bench, customers, groups};

    fn scaler(features: &[&str]) -> Vec<u8> {
        let features: Vec<String> = features.iter().map(|f| (*f).to_owned()).collect();
        let (mean, scale) = (vec![0.0; features.len()], vec![1.0; features.len()]);
        let body = Body::Scaler(ScalerModel { features, transform: crate::models::Transform::None, mean, scale });
        ModelDoc::new(body, Map::new(), Map::new()).to_bytes()
    }

    #[test]
    fn three_groups_are_found_and_the_model_carries_its_scaler() {
        let mut bench =
            Bench::new(&KMeans).table("features", groups()).file("scaler", &scaler(&["Recency", "Monetary"]));
        bench.run().unwrap();
        let summary = bench.json("summary");
        assert_eq!(summary["chosen_k"], 3);
        assert_eq!(summary["sizes"], json!([30, 20, 10]));
        assert_eq!(summary["candidates"].as_array().unwrap().len(), 8);
        let table = bench.read("customers");
        let clusters = tables::numbers(&table, "Cluster").unwrap();
        assert!((0..60).all(|i| clusters[i]
            == if i < 30 {
                0.0
            } else if i < 50 {
                1.0
            } else {
                2.0
            }));
        assert!(tables::numbers(&table, "Silhouette").unwrap().iter().all(|s| *s > 0.6));
        let Body::KMeans(model) = bench.model("model").body else { panic!("not k-means") };
        assert_eq!(model.centroids.len(), 3);
        assert_eq!(model.scaler.unwrap().features, ["Recency", "Monetary"]);
        assert_eq!(bench.context.metrics["k"], 3);
    }

    #[test]
    fn equal_runs_write_equal_bytes() {
        let run = || {
            let mut bench = Bench::new(&KMeans).table("features", groups());
            bench.run().unwrap();
            ["customers", "summary", "model"].map(|output| bench.bytes(output))
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn a_small_cluster_is_passed_over_on_request() {
        let mut bench = Bench::new(&KMeans).table("features", groups()).param("min_cluster_share", json!(0.25));
        bench.run().unwrap();
        let summary = bench.json("summary");
        assert_eq!(summary["chosen_k"], 2, "{summary}");
        assert_eq!(summary["candidates"][1]["eligible"], false);
        assert!(summary["reason"].as_str().unwrap().contains("k = 3 scores"), "{summary}");
    }

    #[test]
    fn k_stops_at_the_number_of_different_rows() {
        let rows = [("1", 0.0, 0.0), ("2", 0.0, 0.0), ("3", 5.0, 0.0), ("4", 9.0, 1.0)];
        let mut bench = Bench::new(&KMeans).table("features", customers(&rows));
        bench.run().unwrap();
        let summary = bench.json("summary");
        assert_eq!(summary["candidates"].as_array().unwrap().len(), 2, "k = 2 and 3");
        assert!(summary["reason"].as_str().unwrap().contains("k stops at 3"), "{summary}");
    }

    #[test]
    fn too_few_or_equal_rows_are_a_data_error() {
        for (rows, expected) in [
            (vec![], "the table has 0 rows"),
            (vec![("1", 1.0, 1.0)], "the table has 1 row"),
            (vec![("1", 1.0, 1.0), ("2", 1.0, 1.0)], "1 different of 2 rows"),
        ] {
            let error = Bench::new(&KMeans).table("features", customers(&rows)).run().unwrap_err();
            assert_eq!(error.0.class, segue_proto::failure::FailureClass::Data);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_scaler_of_other_features_and_a_wrong_range_are_user_errors() {
        let mut bench = Bench::new(&KMeans).table("features", groups()).file("scaler", &scaler(&["Recency"]));
        assert!(bench.run().unwrap_err().to_string().contains("scales [Recency]"));
        let mut bench = Bench::new(&KMeans).table("features", groups()).file("scaler", b"{");
        assert!(bench.run().unwrap_err().to_string().contains("input `scaler`: not a Segue model document"));
        let mut bench =
            Bench::new(&KMeans).table("features", groups()).param("k_min", json!(5)).param("k_max", json!(3));
        assert!(bench.run().unwrap_err().to_string().contains("no range of k"));
    }
}
