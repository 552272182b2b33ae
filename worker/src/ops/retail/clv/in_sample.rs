//! The classic notebook's model: Monetary of the customers it was trained on.

use std::{ops::ControlFlow, sync::atomic::Ordering};

use serde_json::json;

use super::{Outcome, Settings, column, failed, stages, summary, table};
use crate::{
    kernels::boost::{Model, Objective},
    models::ClvModel,
    ops::{Context, OpError, tables},
};
use polars::prelude::DataFrame;

/// Features, by the names of retail.rfm.
const FEATURES: [&str; 4] = ["Recency", "Frequency", "AvgOrderValue", "Tenure"];

pub(super) fn run(context: &mut Context, settings: &Settings, customers: &DataFrame) -> Result<Outcome, OpError> {
    let names: Vec<String> = FEATURES.iter().map(|&name| name.to_owned()).collect();
    let ids = tables::texts(customers, "CustomerID")?;
    let matrix = tables::matrix(customers, &names)?;
    let target = tables::numbers(customers, "Monetary")?;
    let cancelled = context.cancel_flag();
    let total = u64::from(settings.rounds);
    let mut tick = |round: u32| {
        if round.is_multiple_of(20) {
            context.progress(u64::from(round), total, "training");
        }
        if cancelled.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let trees = Model::train(&stages::plain(settings, Objective::SquaredError), matrix.view(), &target, &mut tick)
        .map_err(|e| failed("training on `customers`", e))?;
    let predicted = trees.predict(matrix.view()).map_err(|e| failed("predicting", e))?;
    let quality = summary::quality("XGBoost, in sample", &target, &predicted);
    let metrics = summary::headline(&quality);
    let summary = json!({
        "mode": "in_sample",
        "customers": ids.len(),
        "actual_sum": target.iter().sum::<f64>(),
        "predicted_sum": predicted.iter().sum::<f64>(),
        "models": [quality],
        "importance": {"spend": summary::importance(&trees, &names)},
        "histogram": summary::histogram(&predicted),
        "notes": ["measured on the customers it was trained on: it says nothing about the future; use mode holdout for that"],
    });
    let columns = names.iter().enumerate().map(|(j, name)| column(name, matrix.column(j).iter().copied())).collect();
    let model = ClvModel {
        mode: "in_sample".into(),
        features: names,
        target: "Monetary, total spend so far".into(),
        buys: None,
        spend: trees.json().to_owned(),
        spend_link: "none".into(),
        calibration: 1.0,
        buys_features: Vec::new(),
        baseline_feature: None,
        baseline_weight: 0.0,
        baseline: None,
    };
    Ok(Outcome {
        predictions: table(&ids, vec![column("Predicted", predicted)])?,
        features: table(&ids, columns)?,
        summary,
        model,
        metrics,
    })
}
