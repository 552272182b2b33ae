//! Scores customers with a model document, from a table that has the model's features as columns.

use ndarray::{Array2, Axis};
use polars::prelude::*;

use super::{
    doc::{Body, KMeansModel, ModelDoc, ScalerModel, Transform},
    scorer::ClvScorer,
};
use crate::{
    kernels::KernelError,
    ops::{OpError, tables},
};

/// Column that is handed through when the table has it.
const ID: &str = "CustomerID";

/// Scores every row of `table`: scaled columns (scaler), `Cluster` and `Distance` (k-means), `Predicted` and, from a
/// model of two stages, `ProbabilityBuys` (CLV). `CustomerID` stays as it is where the table has it; other columns are left out.
///
/// # Errors
/// Class `data` if feature columns are missing (all are named), are not numbers, or hold values the model cannot take;
/// class `user` if the document contradicts itself.
pub fn predict(doc: &ModelDoc, table: &DataFrame) -> Result<DataFrame, OpError> {
    let needed = inputs(doc);
    let missing: Vec<&str> = needed.iter().map(String::as_str).filter(|name| table.column(name).is_err()).collect();
    if !missing.is_empty() {
        return Err(OpError::data(format!(
            "the table lacks {} of the model's features: {}",
            missing.len(),
            missing.join(", ")
        ))
        .hint(match doc.body {
            Body::Clv(ref model) if model.mode == "holdout" => {
                "give it a table like the output `features` of retail.clv"
            }
            _ => "give it a table like the output `customers` of retail.rfm",
        }));
    }
    let matrix = tables::matrix(table, needed)?;
    let columns = match &doc.body {
        Body::Scaler(model) => {
            let scaled = scale(model, &matrix)?;
            model
                .features
                .iter()
                .enumerate()
                .map(|(j, name)| Column::new(name.as_str().into(), scaled.column(j).to_vec()))
                .collect()
        }
        Body::KMeans(model) => clusters(model, &matrix)?,
        Body::Clv(model) => {
            let scorer = ClvScorer::load(model).map_err(refused)?;
            let scores = scorer.score(matrix.view()).map_err(refused)?;
            let mut columns = vec![Column::new("Predicted".into(), scores.predicted)];
            columns.extend(scores.buys.map(|buys| Column::new("ProbabilityBuys".into(), buys)));
            columns
        }
    };
    let mut all: Vec<Column> = table.column(ID).ok().cloned().into_iter().collect();
    all.extend(columns);
    DataFrame::new(table.height(), all).map_err(|e| OpError::infra(format!("cannot make a table: {e}")))
}

/// Names the columns that a model reads.
fn inputs(doc: &ModelDoc) -> &[String] {
    match &doc.body {
        Body::KMeans(KMeansModel { scaler: Some(scaler), .. }) => &scaler.features,
        _ => doc.features(),
    }
}

/// Applies a scaler to a matrix of its features.
fn scale(model: &ScalerModel, matrix: &Array2<f64>) -> Result<Array2<f64>, OpError> {
    let width = model.features.len();
    if model.mean.len() != width
        || model.scale.len() != width
        || model.scale.iter().any(|s| *s == 0.0 || !s.is_finite())
    {
        return Err(OpError::user(
            "the scaler's document contradicts itself: means and scales must be one for each feature, scales not 0",
        ));
    }
    let mut scaled = matrix.clone();
    for ((row, column), value) in scaled.indexed_iter_mut() {
        let raw = *value;
        let moved = match model.transform {
            Transform::None => raw,
            Transform::Log1p => raw.ln_1p(),
        };
        *value = (moved - model.mean[column]) / model.scale[column];
        if !value.is_finite() {
            return Err(OpError::data(format!(
                "row {row}, column `{}`: {raw} cannot be scaled",
                model.features[column]
            )));
        }
    }
    Ok(scaled)
}

fn clusters(model: &KMeansModel, matrix: &Array2<f64>) -> Result<Vec<Column>, OpError> {
    let contradiction = || OpError::user("the k-means document contradicts itself: features and centroids do not fit");
    let points = match &model.scaler {
        // The centroids may use the scaled columns in another order.
        Some(scaler) => {
            let scaled = scale(scaler, matrix)?;
            let at = |name: &String| scaler.features.iter().position(|f| f == name).ok_or_else(contradiction);
            scaled.select(Axis(1), &model.features.iter().map(at).collect::<Result<Vec<_>, _>>()?)
        }
        None => matrix.clone(),
    };
    if model.centroids.is_empty() || model.centroids.iter().any(|c| c.len() != model.features.len()) {
        return Err(contradiction());
    }
    let (mut labels, mut distances) = (Vec::with_capacity(points.nrows()), Vec::with_capacity(points.nrows()));
    for (row, point) in points.rows().into_iter().enumerate() {
        if let Some(column) = point.iter().position(|v| !v.is_finite()) {
            return Err(OpError::data(format!(
                "row {row}, column `{}` is not a finite number",
                model.features[column]
            )));
        }
        let squared = |centroid: &Vec<f64>| point.iter().zip(centroid).map(|(x, c)| (x - c).powi(2)).sum::<f64>();
        let (mut nearest, mut least) = (0_i64, f64::INFINITY);
        for (label, centroid) in (0_i64..).zip(&model.centroids) {
            let distance = squared(centroid);
            if distance < least {
                (nearest, least) = (label, distance);
            }
        }
        labels.push(nearest);
        distances.push(least.sqrt());
    }
    Ok(vec![Column::new("Cluster".into(), labels), Column::new("Distance".into(), distances)])
}

fn refused(error: KernelError) -> OpError {
    OpError::data(format!("the model cannot score this table: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Map;

    use super::*;

    fn scaler() -> ScalerModel {
        ScalerModel {
            features: vec!["A".into(), "B".into()],
            transform: Transform::Log1p,
            mean: vec![1.0, 0.0],
            scale: vec![2.0, 1.0],
        }
    }

    fn doc(body: Body) -> ModelDoc {
        ModelDoc::new(body, Map::new(), Map::new())
    }

    fn names(table: &DataFrame) -> Vec<&str> {
        table.columns().iter().map(|c| c.name().as_str()).collect()
    }

    fn numbers(table: &DataFrame, name: &str) -> Vec<f64> {
        tables::numbers(table, name).unwrap()
    }

    #[test]
    fn a_scaler_transforms_shifts_and_divides_and_keeps_the_customers() {
        let table =
            df!("CustomerID" => ["7", "8"], "B" => [0_i64, 3], "A" => [0.0, 1.0_f64.exp() - 1.0], "C" => [1, 1])
                .unwrap();
        let scaled = predict(&doc(Body::Scaler(scaler())), &table).unwrap();
        assert_eq!(names(&scaled), ["CustomerID", "A", "B"]);
        assert_eq!(numbers(&scaled, "A"), [-0.5, 0.0]);
        assert_eq!(numbers(&scaled, "B"), [0.0, 4.0_f64.ln()]);
    }

    #[test]
    fn k_means_scales_raw_columns_itself_and_takes_the_nearest_centroid() {
        // The centroids' columns are in another order than the scaler's.
        let model = KMeansModel {
            features: vec!["B".into(), "A".into()],
            centroids: vec![vec![0.0, -0.5], vec![4.0_f64.ln(), 3.0]],
            scaler: Some(scaler()),
        };
        let table = df!("A" => [0.0, 0.0], "B" => [0.0, 3.0]).unwrap();
        let labels = predict(&doc(Body::KMeans(model)), &table).unwrap();
        assert_eq!(names(&labels), ["Cluster", "Distance"]);
        assert_eq!(numbers(&labels, "Cluster"), [0.0, 0.0]);
        assert!((numbers(&labels, "Distance")[1] - 4.0_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn every_missing_feature_is_named() {
        let error = predict(&doc(Body::Scaler(scaler())), &df!("CustomerID" => ["7"]).unwrap()).unwrap_err();
        assert!(error.0.message.contains("A, B"), "{error}");
    }

    #[test]
    fn a_value_that_cannot_be_scaled_is_named_by_row_and_column() {
        let table = df!("A" => [Some(1.0), None], "B" => [1.0, 1.0]).unwrap();
        let error = predict(&doc(Body::Scaler(scaler())), &table).unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains('A'), "{error}");
        let low = predict(&doc(Body::Scaler(scaler())), &df!("A" => [1.0], "B" => [-5.0]).unwrap()).unwrap_err();
        assert!(low.to_string().contains('B'));
    }
}
