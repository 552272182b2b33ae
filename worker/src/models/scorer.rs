//! Scores customers with the trees of a CLV model.

use ndarray::{ArrayView2, Axis};

use super::doc::ClvModel;
use crate::kernels::{KernelError, boost::Model};

/// A CLV model ready to score.
#[derive(Debug)]
pub struct ClvScorer {
    buys: Option<Model>,
    /// Columns that `buys` takes.
    buys_columns: Vec<usize>,
    spend: Model,
    expm1: bool,
    /// Column of the baseline's expectation.
    baseline: Option<usize>,
    weight: f64,
    /// Multiplies every prediction.
    pub calibration: f64,
}

/// What a CLV model says, a value for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Expected spend.
    pub predicted: Vec<f64>,
    /// Chance of buying within the horizon; absent from models of one stage.
    pub buys: Option<Vec<f64>>,
    /// Expected spend by the trees alone, before blending and calibration.
    pub stages: Vec<f64>,
}

impl ClvScorer {
    /// Reads the trees of a document.
    ///
    /// # Errors
    /// `Invalid` if the trees cannot be used or the document contradicts itself.
    pub fn load(model: &ClvModel) -> Result<Self, KernelError> {
        let buys = model.buys.as_deref().map(Model::from_json).transpose()?;
        Self::of(model, buys, Model::from_json(&model.spend)?)
    }

    /// Takes trees that are at hand, and everything else from the document.
    ///
    /// # Errors
    /// `Invalid` if the document contradicts itself or the trees.
    pub fn of(model: &ClvModel, buys: Option<Model>, spend: Model) -> Result<Self, KernelError> {
        let bad = |what: &str| KernelError::Invalid(format!("the model's document contradicts itself: {what}"));
        let at = |name: &String| {
            model
                .features
                .iter()
                .position(|f| f == name)
                .ok_or_else(|| bad(&format!("`{name}` is not among its features")))
        };
        let buys_columns = if model.buys_features.is_empty() {
            (0..model.features.len()).collect()
        } else {
            model.buys_features.iter().map(at).collect::<Result<Vec<_>, _>>()?
        };
        if spend.features() != model.features.len() || buys.as_ref().is_some_and(|b| b.features() != buys_columns.len())
        {
            return Err(bad("its trees take another number of features"));
        }
        let expm1 = match model.spend_link.as_str() {
            "none" => false,
            "expm1" => true,
            other => return Err(bad(&format!("link `{other}` is not `none` or `expm1`"))),
        };
        let weight = model.baseline_weight;
        if !(0.0..=1.0).contains(&weight) || !model.calibration.is_finite() {
            return Err(bad("its weight of the baseline or its calibration is out of range"));
        }
        let baseline = model.baseline_feature.as_ref().map(at).transpose()?;
        if weight > 0.0 && baseline.is_none() {
            return Err(bad("a baseline is blended, but no column names it"));
        }
        Ok(Self { buys, buys_columns, spend, expm1, baseline, weight, calibration: model.calibration })
    }

    /// Scores `(rows, features)`: `calibration * (probability * spend)^(1 - w) * baseline^w`.
    ///
    /// # Errors
    /// `Shape` if the number of features differs, `NotFinite` for an infinite feature, `Invalid` if the baseline is missing from a row.
    pub fn score(&self, matrix: ArrayView2<'_, f64>) -> Result<Scores, KernelError> {
        let mut stages = self.spend.predict(matrix)?;
        if self.expm1 {
            stages.iter_mut().for_each(|s| *s = s.exp_m1());
        }
        let buys = match &self.buys {
            Some(trees) => Some(trees.predict(matrix.select(Axis(1), &self.buys_columns).view())?),
            None => None,
        };
        for (spend, probability) in stages.iter_mut().zip(buys.iter().flatten()) {
            *spend *= probability;
        }
        let mut predicted = stages.clone();
        if let Some(column) = self.baseline.filter(|_| self.weight > 0.0) {
            for (row, (value, &expected)) in predicted.iter_mut().zip(matrix.column(column)).enumerate() {
                if !expected.is_finite() {
                    return Err(KernelError::Invalid(format!(
                        "row {row} lacks the expectation of the baseline (column {column})"
                    )));
                }
                *value = value.max(0.0).powf(1.0 - self.weight) * expected.max(0.0).powf(self.weight);
            }
        }
        predicted.iter_mut().for_each(|p| *p *= self.calibration);
        Ok(Scores { predicted, buys, stages })
    }

    /// Gives the trees of the first stage.
    #[must_use]
    pub const fn buys(&self) -> Option<&Model> {
        self.buys.as_ref()
    }

    /// Gives the trees of spend.
    #[must_use]
    pub const fn spend(&self) -> &Model {
        &self.spend
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::ControlFlow;

    use ndarray::Array2;
    use polars::prelude::*;
    use serde_json::Map;

    use super::*;
    use crate::{
        kernels::boost::{Objective, Settings},
        models::{ModelDoc, doc::Body, predict::predict},
        ops::tables,
    };

    fn doc(body: Body) -> ModelDoc {
        ModelDoc::new(body, Map::new(), Map::new())
    }

    fn clv() -> (ClvModel, Array2<f64>) {
        let matrix = Array2::from_shape_fn((60, 2), |(i, j)| if j == 0 { i as f64 } else { 9.0 });
        let settings = |objective| Settings::new(objective, 20, 0.3, 3, 1);
        let train = |objective, features: ArrayView2<'_, f64>, target: &[f64]| {
            Model::train(&settings(objective), features, target, &mut |_| ControlFlow::Continue(())).unwrap()
        };
        let bought: Vec<f64> = (0..60).map(|i| f64::from(u8::from(i % 3 == 0 || i > 30))).collect();
        let spent: Vec<f64> = (0..60).map(|i| 5.0 + f64::from(i)).collect();
        let model = ClvModel {
            mode: "holdout".into(),
            features: vec!["X".into(), "Value".into()],
            target: "spend".into(),
            buys: Some(
                train(Objective::Logistic, matrix.slice_axis(Axis(1), (0..1).into()), &bought).json().to_owned(),
            ),
            spend: train(Objective::Gamma, matrix.view(), &spent).json().to_owned(),
            spend_link: "none".into(),
            calibration: 2.0,
            buys_features: vec!["X".into()],
            baseline_feature: Some("Value".into()),
            baseline_weight: 0.5,
            baseline: None,
        };
        (model, matrix)
    }

    #[test]
    fn two_stages_and_the_baseline_are_blended_as_documented() {
        let (model, matrix) = clv();
        let x: Vec<f64> = matrix.column(0).to_vec();
        let table = df!("CustomerID" => (0..60).collect::<Vec<i64>>(), "Value" => vec![9.0; 60], "X" => x).unwrap();
        let scored = predict(&doc(Body::Clv(model.clone())), &table).unwrap();
        let names: Vec<&str> = scored.columns().iter().map(|c| c.name().as_str()).collect();
        assert_eq!(names, ["CustomerID", "Predicted", "ProbabilityBuys"]);
        let spend = Model::from_json(&model.spend).unwrap().predict(matrix.view()).unwrap();
        let (predicted, buys) =
            (tables::numbers(&scored, "Predicted").unwrap(), tables::numbers(&scored, "ProbabilityBuys").unwrap());
        for i in 0..60 {
            let wanted = 2.0 * (buys[i] * spend[i]).sqrt() * 3.0;
            assert!((predicted[i] / wanted - 1.0).abs() < 1e-12, "row {i}: {} {wanted}", predicted[i]);
        }
    }

    #[test]
    fn a_row_without_the_baseline_is_refused_rather_than_scored_another_way() {
        let (model, mut matrix) = clv();
        matrix[[4, 1]] = f64::NAN;
        let error = ClvScorer::load(&model).unwrap().score(matrix.view()).unwrap_err();
        assert!(error.to_string().contains("row 4"), "{error}");
    }

    #[test]
    fn documents_that_contradict_themselves_are_refused() {
        let (model, _) = clv();
        for wrong in [
            ClvModel { features: vec!["X".into()], ..model.clone() },
            ClvModel { buys_features: vec!["Y".into()], ..model.clone() },
            ClvModel { spend_link: "sqrt".into(), ..model.clone() },
            ClvModel { baseline_feature: None, ..model.clone() },
            ClvModel { baseline_weight: 1.5, ..model.clone() },
            ClvModel { spend: "{}".into(), ..model.clone() },
        ] {
            assert!(matches!(ClvScorer::load(&wrong), Err(KernelError::Invalid(_))), "{:?}", wrong.features);
        }
    }

    #[test]
    fn documents_written_before_blending_still_load() {
        let (model, _) = clv();
        let mut value = serde_json::to_value(doc(Body::Clv(model))).unwrap();
        let body = value["model"].as_object_mut().unwrap();
        for field in ["buys_features", "baseline_feature", "baseline_weight", "baseline"] {
            body.remove(field);
        }
        let parsed = ModelDoc::parse(value.to_string().as_bytes()).unwrap();
        let Body::Clv(model) = parsed.body else { panic!("another kind") };
        assert_eq!(model.baseline_weight, 0.0);
    }
}
