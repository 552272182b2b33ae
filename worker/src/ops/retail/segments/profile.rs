//! Customers with their clusters, and what the clusters look like on average.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;
use serde_json::{Map, Value, json};

use super::rounded;
use crate::ops::{OpError, tables};

/// Features a profile may use, in the order of screens. The first three must be there.
pub(super) const FEATURES: [&str; 6] = ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure", "AvgBasketSize"];
const REQUIRED: usize = 3;

/// Customers in the order of the input table.
pub(super) struct Customers {
    pub id: Vec<String>,
    /// Cluster as numbered by the clustering.
    pub label: Vec<i64>,
    /// The same as an index into the sorted distinct labels.
    pub cluster: Vec<usize>,
    pub silhouette: Vec<f64>,
    /// Names and values of the features at hand.
    pub features: Vec<(&'static str, Vec<f64>)>,
    pub predicted: Option<Vec<Option<f64>>>,
    labels: Vec<i64>,
}

impl Customers {
    /// Joins features, clusters and predictions by CustomerID.
    pub fn load(
        table: &DataFrame,
        clusters: &DataFrame,
        predicted: Option<&BTreeMap<String, f64>>,
    ) -> Result<Self, OpError> {
        let id = tables::texts(table, "CustomerID")?;
        if id.is_empty() {
            return Err(OpError::data("the customers table is empty")
                .hint("there is nobody to segment: look at what the cleaning rules dropped"));
        }
        let mut found: BTreeMap<String, (i64, f64)> = BTreeMap::new();
        let silhouette = match clusters.column("Silhouette") {
            Ok(_) => tables::numbers(clusters, "Silhouette")?,
            Err(_) => vec![f64::NAN; clusters.height()],
        };
        let numbers = tables::numbers(clusters, "Cluster")?;
        for (row, customer) in tables::texts(clusters, "CustomerID")?.into_iter().enumerate() {
            if numbers[row].is_finite() {
                // Cluster numbers are small integers stored as i64.
                found.insert(customer, (numbers[row] as i64, silhouette[row]));
            }
        }
        let mut label = Vec::with_capacity(id.len());
        let mut silhouette = Vec::with_capacity(id.len());
        for customer in &id {
            let (cluster, score) = found.get(customer).ok_or_else(|| {
                OpError::data(format!("customer `{customer}` has no cluster"))
                    .hint("inputs `customers` and `clusters` must come from the same customers table")
            })?;
            label.push(*cluster);
            silhouette.push(*score);
        }
        let mut labels = label.clone();
        labels.sort_unstable();
        labels.dedup();
        let cluster = label.iter().map(|l| labels.partition_point(|x| x < l)).collect();
        let mut features = Vec::new();
        for (position, name) in FEATURES.into_iter().enumerate() {
            if position < REQUIRED || table.column(name).is_ok() {
                features.push((name, tables::numbers(table, name)?));
            }
        }
        let predicted = predicted.map(|known| id.iter().map(|customer| known.get(customer).copied()).collect());
        Ok(Self { id, label, cluster, silhouette, features, predicted, labels })
    }

    pub fn len(&self) -> usize {
        self.id.len()
    }

    /// Gives the values of a feature, if the table has it.
    pub fn feature(&self, name: &str) -> Option<&[f64]> {
        self.features.iter().find(|(have, _)| *have == name).map(|(_, values)| values.as_slice())
    }

    /// Gives one value of a feature; NaN where there is none.
    pub fn value(&self, name: &str, row: usize) -> f64 {
        self.feature(name).map_or(f64::NAN, |values| values[row])
    }

    /// Gives the mean silhouette, if the clustering computed it.
    pub fn mean_silhouette(&self) -> Option<f64> {
        let mean = mean(self.silhouette.iter().copied());
        mean.is_finite().then_some(mean)
    }

    /// Describes one customer for a list.
    pub fn to_json(&self, row: usize, names: &[String]) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("CustomerID".into(), json!(self.id[row]));
        object.insert("Segment".into(), json!(names[self.cluster[row]]));
        for (name, values) in &self.features {
            object.insert((*name).into(), rounded(values[row]));
        }
        if let Some(predicted) = &self.predicted {
            object.insert("Predicted".into(), predicted[row].map_or(Value::Null, rounded));
        }
        object
    }
}

/// One cluster on average.
pub(super) struct Profile {
    pub label: i64,
    pub size: usize,
    pub share: f64,
    pub sales: f64,
    pub share_of_sales: f64,
    /// Plain means, by feature.
    pub means: Vec<f64>,
    /// Means of ln(1 + x) in standard deviations from the average customer, by feature.
    pub standardised: Vec<f64>,
}

/// All clusters, by label.
pub(super) struct Clusters {
    pub features: Vec<&'static str>,
    pub profiles: Vec<Profile>,
    pub sales: f64,
}

impl Clusters {
    pub fn of(customers: &Customers) -> Self {
        let groups = customers.labels.len();
        let mut members = vec![Vec::new(); groups];
        for (row, &cluster) in customers.cluster.iter().enumerate() {
            members[cluster].push(row);
        }
        let money = customers.feature("Monetary").unwrap_or_default();
        let sales: f64 = finite(money.iter().copied()).sum();
        let logs: Vec<(Vec<f64>, f64, f64)> = customers
            .features
            .iter()
            .map(|(_, values)| {
                // Money and counts have long tails: on the plain scale a handful of customers would set every mean.
                let logged: Vec<f64> = values.iter().map(|v| v.max(0.0).ln_1p()).collect();
                let centre = mean(logged.iter().copied());
                let spread = mean(logged.iter().map(|v| (v - centre).powi(2))).sqrt();
                (logged, centre, spread)
            })
            .collect();
        let profiles = members
            .iter()
            .zip(&customers.labels)
            .map(|(rows, &label)| {
                let own: f64 = finite(rows.iter().map(|&row| money[row])).sum();
                Profile {
                    label,
                    size: rows.len(),
                    share: share(count(rows.len()), count(customers.len())),
                    sales: own,
                    share_of_sales: share(own, sales),
                    means: customers.features.iter().map(|(_, v)| mean(rows.iter().map(|&row| v[row]))).collect(),
                    standardised: logs
                        .iter()
                        .map(|(logged, centre, spread)| {
                            let distance = mean(rows.iter().map(|&row| logged[row])) - centre;
                            // A constant feature tells clusters nothing apart.
                            if *spread > 1e-12 { distance / spread } else { 0.0 }
                        })
                        .collect(),
                }
            })
            .collect();
        Self { features: customers.features.iter().map(|(name, _)| *name).collect(), profiles, sales }
    }

    /// Gives the standardised mean of a feature; 0 where the table does not have it.
    pub fn standardised(&self, cluster: usize, feature: &str) -> f64 {
        self.position(feature).map_or(0.0, |f| self.profiles[cluster].standardised[f])
    }

    /// Gives the plain mean of a feature; NaN where the table does not have it.
    pub fn mean(&self, cluster: usize, feature: &str) -> f64 {
        self.position(feature).map_or(f64::NAN, |f| self.profiles[cluster].means[f])
    }

    fn position(&self, feature: &str) -> Option<usize> {
        self.features.iter().position(|name| *name == feature)
    }

    pub fn to_json(&self, names: &[String]) -> Vec<Value> {
        self.profiles
            .iter()
            .zip(names)
            .map(|(profile, name)| {
                let means: Map<String, Value> =
                    self.features.iter().zip(&profile.means).map(|(f, v)| ((*f).to_owned(), rounded(*v))).collect();
                json!({
                    "cluster": profile.label,
                    "name": name,
                    "size": profile.size,
                    "share": rounded(profile.share),
                    "means": means,
                    "sales": rounded(profile.sales),
                    "share_of_sales": rounded(profile.share_of_sales),
                })
            })
            .collect()
    }

    pub fn heatmap(&self, names: &[String]) -> Value {
        let rows: Vec<Value> = self
            .profiles
            .iter()
            .zip(names)
            .map(|(profile, name)| {
                let values: Vec<Value> = profile.standardised.iter().map(|v| rounded(*v)).collect();
                json!({"cluster": profile.label, "name": name, "values": values})
            })
            .collect();
        json!({
            "features": self.features,
            "unit": "mean of ln(1 + x), in standard deviations from the average customer",
            "rows": rows,
        })
    }
}

/// Gives the mean of the finite values; NaN of none.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = finite(values).fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    sum / n
}

/// Gives a share, 0 of nothing.
pub(super) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Gives a count as a number to calculate with.
// Counts of customers are far below 2^52.
pub(super) const fn count(n: usize) -> f64 {
    n as f64
}

pub(super) fn finite(values: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
    values.filter(|v| v.is_finite())
}
