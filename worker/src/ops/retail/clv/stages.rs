//! The two-stage model: who buys again, and how much those who do will spend.
//!
//! Spend is skewed and mostly zero, which squared error on the whole does badly. The first stage learns who buys, from timing
//! alone: amounts add little there and much noise. The second learns the mean spend of buyers through a log link (gamma).
//! Their product is blended with the baseline's expectation by a geometric mean, which pulls customers of whom little is known (one small
//! order) towards the population. The weights below were chosen by comparing five cut dates of one data set, the default one among them.

use std::ops::ControlFlow;

use ndarray::{Array2, ArrayView2, Axis};

use super::{
    Settings,
    features::{self, BASELINE, TIMING},
};
use crate::{
    kernels::{
        KernelError,
        boost::{self, Model, Objective},
    },
    models::{BaselineModel, ClvModel, scorer::ClvScorer},
};

/// Weight of the baseline in the blend, of 1.
pub(super) const BASELINE_WEIGHT: f64 = 0.5;

/// Calibration leaves out what lies above this quantile of spend: a few wholesale orders make a quarter of all spend, and no factor
/// on everybody's prediction should stand in for them.
const CALIBRATION_QUANTILE: f64 = 0.99;

/// Fewer buyers than this cannot be split into leaves: their mean is predicted.
pub(super) const FEW_BUYERS: usize = 20;

/// Told after each round; may stop.
pub(super) type Tick<'a> = &'a mut dyn FnMut(u32) -> ControlFlow<()>;

/// A trained pair with all that a document needs.
#[derive(Debug)]
pub(super) struct Stages {
    pub scorer: ClvScorer,
    pub model: ClvModel,
}

/// Trains on `matrix` (a row for each customer) and what these customers spent. There must be a buyer.
///
/// `baseline` is the one behind the matrix, if there is one: without, nothing is blended.
pub(super) fn fit(
    settings: &Settings,
    matrix: ArrayView2<'_, f64>,
    spend: &[f64],
    baseline: Option<BaselineModel>,
    tick: Tick<'_>,
) -> Result<Stages, KernelError> {
    let bought: Vec<f64> = spend.iter().map(|&s| f64::from(u8::from(s > 0.0))).collect();
    let buyers: Vec<usize> = (0..spend.len()).filter(|&i| spend[i] > 0.0).collect();
    let buyers_spend: Vec<f64> = buyers.iter().map(|&i| spend[i]).collect();
    let timing = matrix.slice_axis(Axis(1), (0..TIMING.len()).into());
    let buys = Model::train(&careful(settings, Objective::Logistic), timing, &bought, tick)?;
    let amount = Model::train(
        &careful(settings, Objective::Gamma),
        matrix.select(Axis(0), &buyers).view(),
        &buyers_spend,
        tick,
    )?;
    let mut model = ClvModel {
        mode: "holdout".into(),
        features: features::names(),
        target: format!("spend in the next {} days", settings.horizon_days),
        buys: Some(buys.json().to_owned()),
        spend: amount.json().to_owned(),
        spend_link: "none".into(),
        calibration: 1.0,
        buys_features: TIMING.iter().map(|&name| name.to_owned()).collect(),
        baseline_feature: baseline.map(|_| BASELINE.to_owned()),
        baseline_weight: if baseline.is_some() { BASELINE_WEIGHT } else { 0.0 },
        baseline,
    };
    let mut scorer = ClvScorer::of(&model, Some(buys), amount)?;
    model.calibration = calibration(spend, &scorer.score(matrix)?.predicted);
    scorer.calibration = model.calibration;
    Ok(Stages { scorer, model })
}

/// Trains the plain alternative: one squared-error model of spend on every feature.
pub(super) fn fit_single(
    settings: &Settings,
    matrix: ArrayView2<'_, f64>,
    spend: &[f64],
    tick: Tick<'_>,
) -> Result<Model, KernelError> {
    Model::train(&plain(settings, Objective::SquaredError), matrix, spend, tick)
}

/// Gives XGBoost's defaults with the operator's parameters.
pub(super) const fn plain(settings: &Settings, objective: Objective) -> boost::Settings {
    boost::Settings::new(objective, settings.rounds, settings.learning_rate, settings.max_depth, settings.seed)
}

/// Holds trees of this depth back from learning single customers by heart.
const fn careful(settings: &Settings, objective: Objective) -> boost::Settings {
    boost::Settings {
        row_share: 0.7,
        column_share: 0.6,
        min_child_weight: 10.0,
        lambda: 5.0,
        ..plain(settings, objective)
    }
}

/// Gives the factor by which predictions of the customers trained on add up to what they spent, leaving out the excess above the
/// 99th percentile on both sides.
fn calibration(spend: &[f64], predicted: &[f64]) -> f64 {
    let mut sorted = spend.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = ((sorted.len() - 1) as f64 * CALIBRATION_QUANTILE).ceil() as usize;
    let cap = if sorted[position] > 0.0 { sorted[position] } else { sorted[sorted.len() - 1] };
    let capped = |values: &[f64]| values.iter().map(|v| v.min(cap)).sum::<f64>();
    let factor = capped(spend) / capped(predicted);
    // Guards against a hopeless fit on a handful of customers.
    if factor.is_finite() { factor.clamp(0.2, 5.0) } else { 1.0 }
}

/// Gives the rows of a matrix at `rows`.
pub(super) fn rows(matrix: &Array2<f64>, rows: &[usize]) -> Array2<f64> {
    matrix.select(Axis(0), rows)
}

#[cfg(test)]
mod tests {
    use super::calibration;

    #[test]
    fn calibration_makes_sums_agree_and_is_not_led_by_one_huge_order() {
        let mut spend = vec![10.0; 200];
        let predicted = vec![8.0; 200];
        assert!((calibration(&spend, &predicted) - 1.25).abs() < 1e-12);
        spend[7] = 1e6;
        assert!((calibration(&spend, &predicted) - 1.25).abs() < 1e-12);
    }

    #[test]
    fn calibration_stays_finite_when_nothing_is_predicted_or_hardly_anybody_buys() {
        assert_eq!(calibration(&[1.0, 2.0], &[0.0, 0.0]), 1.0);
        let mut spend = vec![0.0; 300];
        spend[0] = 30.0;
        assert!((calibration(&spend, &[0.05; 300]) - 2.0).abs() < 1e-12);
    }
}
