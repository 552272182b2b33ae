//! What the report knows: the inputs that were connected, joined by customer.

use std::{collections::BTreeMap, path::Path};

use polars::prelude::{DataFrame, DataType};
use serde_json::Value;

use crate::ops::{Context, OpError, tables};

/// Features of a customer on screens: column, name, what an axis says.
pub(super) const FEATURES: [(&str, &str, &str); 6] = [
    ("Recency", "Recency", "days since the last order"),
    ("Frequency", "Frequency", "frequency (orders or lines)"),
    ("Monetary", "Monetary", "sales per customer"),
    ("AvgOrderValue", "Order value", "sales per order"),
    ("Tenure", "Tenure", "days since the first order"),
    ("AvgBasketSize", "Basket size", "lines per order"),
];

/// A cluster under its name.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub label: i64,
    pub name: String,
    pub size: usize,
    /// Mean silhouette of its customers, where the clustering gave one.
    pub silhouette: Option<f64>,
}

/// A point of a map and the group it belongs to.
pub(super) type Placed<const N: usize> = ([f64; N], usize);

/// Products and their most similar ones, as positions into `texts`.
#[derive(Debug, Clone, Default)]
pub(super) struct Similar {
    pub texts: Vec<String>,
    pub codes: Vec<String>,
    pub sales: Vec<f64>,
    pub neighbours: Vec<Vec<(usize, f64)>>,
}

/// Everything that was connected.
#[derive(Debug)]
pub(super) struct Data {
    pub quality: Option<Value>,
    pub stats: Option<Value>,
    pub kmeans: Option<Value>,
    pub pca_summary: Option<Value>,
    pub tsne_summary: Option<Value>,
    pub clv: Option<Value>,
    pub summary: Option<Value>,
    pub registered: Option<Value>,
    /// Features by column name.
    pub features: BTreeMap<&'static str, Vec<f64>>,
    /// Group of each customer.
    pub member: Vec<usize>,
    pub groups: Vec<Group>,
    pub predicted: Option<Vec<f64>>,
    pub pca: Option<Vec<Placed<3>>>,
    pub tsne: Option<Vec<Placed<2>>>,
    pub similar: Option<Similar>,
    pub facts: Value,
}

impl Data {
    /// Reads what is connected.
    ///
    /// # Errors
    /// Class `data` if an input is not what its port says.
    pub fn load(context: &Context) -> Result<Self, OpError> {
        let table = |name: &str| context.optional_input(name).map(tables::read).transpose();
        let json = |name: &str| context.optional_input(name).map(|path| read_json(name, path)).transpose();
        let segments = tables::read(context.input("segments")?)?;
        let ids = tables::texts(&segments, "CustomerID")?;
        let (member, mut groups) = grouped(&segments)?;
        let by_id: BTreeMap<&str, usize> = ids.iter().map(String::as_str).zip(member.iter().copied()).collect();

        if let Some(clusters) = table("clusters")? {
            average_silhouettes(&clusters, &by_id, &mut groups)?;
        }
        let customers = table("customers")?;
        let mut features = BTreeMap::new();
        for (column, ..) in FEATURES {
            let from = [Some(&segments), customers.as_ref()].into_iter().flatten().find(|t| t.column(column).is_ok());
            // Values of another table would not line up with the members.
            if let Some(from) = from.filter(|t| t.height() == segments.height()) {
                features.insert(column, tables::numbers(from, column)?);
            }
        }
        let predicted = match table("predictions")? {
            Some(predictions) => Some(tables::numbers(&predictions, "Predicted")?),
            None if segments.column("Predicted").is_ok() => Some(tables::numbers(&segments, "Predicted")?),
            None => None,
        };
        let pca = table("pca")?.map(|t| placed(&t, ["PC1", "PC2", "PC3"], &by_id)).transpose()?;
        let tsne = table("tsne")?.map(|t| placed(&t, ["X", "Y"], &by_id)).transpose()?;
        let similar = match table("neighbours")? {
            Some(neighbours) => Some(similar(&neighbours, table("index")?.as_ref())?),
            None => None,
        };
        Ok(Self {
            quality: json("quality")?,
            stats: json("stats")?,
            kmeans: json("kmeans")?,
            pca_summary: json("pca_summary")?,
            tsne_summary: json("tsne_summary")?,
            clv: json("clv")?,
            summary: json("segments_summary")?,
            registered: json("registered")?,
            features,
            member,
            groups,
            predicted,
            pca,
            tsne,
            similar,
            facts: context.run_facts.clone(),
        })
    }

    /// Gives the values of a feature by group.
    pub fn by_group(&self, feature: &str) -> Option<Vec<Vec<f64>>> {
        let values = self.features.get(feature)?;
        let mut groups = vec![Vec::new(); self.groups.len()];
        for (&group, &value) in self.member.iter().zip(values) {
            groups[group].push(value);
        }
        Some(groups)
    }

    /// Gives palette numbers and names of the groups.
    pub fn legend(&self) -> Vec<(usize, String)> {
        self.groups.iter().enumerate().map(|(i, group)| (i, group.name.clone())).collect()
    }
}

/// Gives a number below a JSON pointer.
pub(super) fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

/// Gives the numbers of an array below a JSON pointer; what is not a number becomes NaN.
pub(super) fn numbers(value: &Value, pointer: &str) -> Vec<f64> {
    items(value, pointer).iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Gives the items of an array below a JSON pointer.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Gives a text below a JSON pointer; other scalars as JSON writes them.
pub(super) fn text(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn read_json(name: &str, path: &Path) -> Result<Value, OpError> {
    let bytes = std::fs::read(path).map_err(|e| OpError::infra(format!("cannot read input `{name}`: {e}")))?;
    serde_json::from_slice(&bytes).map_err(|e| OpError::data(format!("input `{name}` is not JSON: {e}")))
}

/// Gives the group of each row, and the groups by cluster number.
fn grouped(segments: &DataFrame) -> Result<(Vec<usize>, Vec<Group>), OpError> {
    let clusters = tables::numbers(segments, "Cluster")?;
    let names = tables::texts(segments, "Segment")?;
    let mut found: BTreeMap<i64, Group> = BTreeMap::new();
    // Small cluster numbers, stored as i64.
    let labels: Vec<i64> = clusters.iter().map(|c| if c.is_finite() { *c as i64 } else { -1 }).collect();
    for (label, name) in labels.iter().zip(names) {
        found.entry(*label).or_insert(Group { label: *label, name, size: 0, silhouette: None }).size += 1;
    }
    let order: Vec<i64> = found.keys().copied().collect();
    let member = labels.iter().map(|label| order.partition_point(|l| l < label)).collect();
    Ok((member, found.into_values().collect()))
}

fn average_silhouettes(
    clusters: &DataFrame,
    by_id: &BTreeMap<&str, usize>,
    groups: &mut [Group],
) -> Result<(), OpError> {
    if clusters.column("Silhouette").is_err() {
        return Ok(());
    }
    let mut sums = vec![(0.0, 0.0); groups.len()];
    let ids = tables::texts(clusters, id_column(clusters))?;
    for (id, score) in ids.iter().zip(tables::numbers(clusters, "Silhouette")?) {
        if let (Some(&group), true) = (by_id.get(id.as_str()), score.is_finite()) {
            sums[group].0 += score;
            sums[group].1 += 1.0;
        }
    }
    for (group, (sum, n)) in groups.iter_mut().zip(sums) {
        group.silhouette = (n > 0.0).then(|| sum / n);
    }
    Ok(())
}

/// Gives `CustomerID`, or the first column of text where the clustering used another id.
fn id_column(table: &DataFrame) -> &str {
    let columns = table.columns();
    let named = columns.iter().find(|c| c.name().as_str() == "CustomerID");
    let first = columns.iter().find(|c| *c.dtype() == DataType::String);
    named.or(first).map_or("CustomerID", |c| c.name().as_str())
}

/// Reads coordinates and finds the group of each; rows of unknown customers or without coordinates are left out.
fn placed<const N: usize>(
    table: &DataFrame,
    columns: [&str; N],
    by_id: &BTreeMap<&str, usize>,
) -> Result<Vec<Placed<N>>, OpError> {
    let ids = tables::texts(table, id_column(table))?;
    let mut axes = Vec::with_capacity(N);
    for (i, column) in columns.iter().enumerate() {
        // Two components make a flat cloud, not an error.
        let absent = i >= 2 && table.column(column).is_err();
        axes.push(if absent { vec![0.0; ids.len()] } else { tables::numbers(table, column)? });
    }
    let mut points = Vec::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        let at: [f64; N] = std::array::from_fn(|axis| axes[axis][row]);
        if let (Some(&group), true) = (by_id.get(id.as_str()), at.iter().all(|v| v.is_finite())) {
            points.push((at, group));
        }
    }
    Ok(points)
}

fn similar(neighbours: &DataFrame, index: Option<&DataFrame>) -> Result<Similar, OpError> {
    let texts = tables::texts(neighbours, "Text")?;
    let others = tables::texts(neighbours, "Neighbour")?;
    let cosines = tables::numbers(neighbours, "Cosine")?;
    let mut out = Similar::default();
    let mut position: BTreeMap<String, usize> = BTreeMap::new();
    let mut place = |text: &str, all: &mut Vec<String>| {
        *position.entry(text.to_owned()).or_insert_with(|| {
            all.push(text.to_owned());
            all.len() - 1
        })
    };
    for text in &texts {
        place(text, &mut out.texts);
    }
    let mut pairs = Vec::with_capacity(texts.len());
    for ((text, other), cosine) in texts.iter().zip(&others).zip(cosines) {
        pairs.push((place(text, &mut out.texts), place(other, &mut out.texts), cosine));
    }
    out.neighbours = vec![Vec::new(); out.texts.len()];
    for (from, to, cosine) in pairs {
        out.neighbours[from].push((to, cosine));
    }
    out.codes = vec![String::new(); out.texts.len()];
    out.sales = vec![f64::NAN; out.texts.len()];
    if let Some(index) = index {
        let known = tables::texts(index, "Text")?;
        let codes = index.column("StockCode").is_ok().then(|| tables::texts(index, "StockCode")).transpose()?;
        let sales = index.column("Sales").is_ok().then(|| tables::numbers(index, "Sales")).transpose()?;
        for (row, text) in known.iter().enumerate() {
            if let Some(&at) = position.get(text) {
                if let Some(codes) = &codes {
                    out.codes[at].clone_from(&codes[row]);
                }
                if let Some(sales) = &sales {
                    out.sales[at] = sales[row];
                }
            }
        }
    }
    Ok(out)
}
