//! Learns on the past as it looked at a cut date, measures on customers not seen, predicts the time after the data.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use ndarray::{Array2, Axis};
use polars::prelude::DataFrame;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{
    Outcome, Settings, baseline, column, failed,
    features::{Snapshot, TIMING},
    folds::fold,
    ledger::{DAY, Ledger, date, midnight},
    stages::{self, BASELINE_WEIGHT, FEW_BUYERS, Stages},
    summary, table,
};
use crate::{
    kernels::KernelError,
    ops::{Context, OpError, tables},
};

/// With fewer known customers or buyers there is nothing to learn or to measure.
const FEWEST_CUSTOMERS: usize = 20;
const FEWEST_BUYERS: usize = 5;

/// The past: customers known at the cut, and what they spent in the horizon after it.
struct Past {
    snapshot: Snapshot,
    spend: Vec<f64>,
    fold: Vec<u32>,
}

/// Predictions for customers that the models have not seen. NaN where there is no baseline.
struct Unseen {
    rows: Vec<usize>,
    mean: f64,
    single: Vec<f64>,
    baseline: Vec<f64>,
    unblended: Vec<f64>,
    two_stage: Vec<f64>,
    few_buyers: bool,
}

pub(super) fn run(
    context: &mut Context,
    settings: &Settings,
    orders: &DataFrame,
    customers: &DataFrame,
) -> Result<Outcome, OpError> {
    let ledger = Ledger::read(orders)?;
    let (end, horizon) = (ledger.end(), i64::from(settings.horizon_days) * DAY);
    let cut = cut(settings, end, horizon)?;
    let snapshot = Snapshot::take(&ledger, cut);
    let spend = snapshot.spend_between(&ledger, cut, cut + horizon);
    let fold = snapshot.customers.iter().map(|&i| fold(&ledger.ids[i], settings.folds)).collect();
    let past = Past { snapshot, spend, fold };
    enough(&past, settings, cut)?;

    let (unseen, stages) = train(context, settings, &past)?;
    let (models, notes) = measure(&past, &unseen);
    let two_stage = models.last().cloned().unwrap_or_default();

    let now = Snapshot::take(&ledger, end);
    let everyone: Vec<usize> = (0..now.customers.len()).collect();
    // Refitted on the longer histories; the older one where that fails.
    let current = baseline::fit(&now, &everyone, settings.horizon_days).or(stages.model.baseline);
    let expected = baseline::columns(current.as_ref(), &now);
    let asked = rows_of(&ledger, &now, customers)?;
    let ids: Vec<String> = asked.iter().map(|&row| ledger.ids[now.customers[row]].clone()).collect();
    let matrix = stages::rows(&now.with_baseline(&expected), &asked);
    let scores = stages.scorer.score(matrix.view()).map_err(|e| failed("predicting", e))?;
    let mut model = stages.model;
    model.baseline = current.filter(|_| model.baseline.is_some());

    let metrics = summary::headline(&two_stage);
    let buyers = past.spend.iter().filter(|&&s| s > 0.0).count();
    let timing = &model.features[..TIMING.len()];
    let summary = json!({
        "mode": "holdout",
        "cut": date(cut),
        "horizon_days": settings.horizon_days,
        "predicted_from": date(end),
        "customers_known": past.spend.len(),
        "buyers_after": buyers,
        "spend_after": past.spend.iter().sum::<f64>(),
        "folds": settings.folds,
        "models": models,
        "importance": {
            "buys": stages.scorer.buys().map(|trees| summary::importance(trees, timing)),
            "spend": summary::importance(stages.scorer.spend(), &model.features),
        },
        "blend": {"baseline_weight": model.baseline_weight, "calibration": model.calibration},
        "baseline": model.baseline,
        "customers": ids.len(),
        "predicted_sum": scores.predicted.iter().sum::<f64>(),
        "histogram": summary::histogram(&scores.predicted),
        "notes": notes,
    });
    let predictions = vec![
        column("Predicted", scores.predicted),
        column("ProbabilityBuys", scores.buys.unwrap_or_default()),
        column("Baseline", asked.iter().map(|&row| expected[row][3])),
        column("Alive", asked.iter().map(|&row| expected[row][1])),
    ];
    let inputs = model.features.iter().enumerate().map(|(j, name)| column(name, matrix.column(j).iter().copied()));
    Ok(Outcome {
        predictions: table(&ids, predictions)?,
        features: table(&ids, inputs.collect())?,
        summary,
        model,
        metrics,
    })
}

/// Gives the midnight that parts what is known from what is to be predicted.
fn cut(settings: &Settings, end: i64, horizon: i64) -> Result<i64, OpError> {
    let Some(text) = &settings.cut_date else { return Ok(end - horizon) };
    let cut = midnight(text).ok_or_else(|| {
        OpError::user(format!("parameter `cut_date` cannot be `{text}`")).hint("write it as YYYY-MM-DD")
    })?;
    if cut + horizon > end {
        return Err(OpError::user(format!(
            "cut_date {text} leaves {} days of orders after it, horizon_days asks for {}",
            (end - cut) / DAY,
            settings.horizon_days
        ))
        .hint(format!("the last such date is {}", date(end - horizon))));
    }
    Ok(cut)
}

fn enough(past: &Past, settings: &Settings, cut: i64) -> Result<(), OpError> {
    let hint = "choose an earlier cut_date or another horizon_days, or mode in_sample, which needs no future";
    let known = past.spend.len();
    if known < FEWEST_CUSTOMERS {
        return Err(OpError::data(format!(
            "{known} customers have ordered before {}; at least {FEWEST_CUSTOMERS} are needed",
            date(cut)
        ))
        .hint(hint));
    }
    let buyers = past.spend.iter().filter(|&&s| s > 0.0).count();
    if buyers < FEWEST_BUYERS {
        return Err(OpError::data(format!(
            "{buyers} of {known} customers known before {} buy in the {} days after it; at least {FEWEST_BUYERS} are needed",
            date(cut),
            settings.horizon_days
        ))
        .hint(hint));
    }
    Ok(())
}

/// Trains a model for every fold and one on everybody, side by side, reporting rounds and stopping when told to.
fn train(context: &mut Context, settings: &Settings, past: &Past) -> Result<(Vec<Unseen>, Stages), OpError> {
    let folds: Vec<u32> = (0..settings.folds).filter(|k| past.fold.contains(k)).collect();
    let total = u64::from(settings.rounds) * (3 * folds.len() as u64 + 2);
    let cancelled = context.cancel_flag();
    let (sender, rounds) = mpsc::channel::<()>();
    let trained = thread::scope(|scope| {
        let (cancelled, folds) = (&*cancelled, &folds);
        let work = scope.spawn(move || {
            let all = Watch { rounds: sender.clone(), cancelled };
            rayon::join(
                || {
                    folds
                        .par_iter()
                        .map_with(Watch { rounds: sender, cancelled }, |watch, &k| unseen(settings, past, k, watch))
                        .collect::<Result<Vec<_>, _>>()
                },
                || final_model(settings, past, all),
            )
        });
        for (done, ()) in (1..).zip(&rounds) {
            if u64::is_multiple_of(done, 50) {
                context.progress(done, total, "training");
            }
        }
        work.join()
    });
    let (unseen, stages) = trained.map_err(|_| OpError::infra("a training thread ended unexpectedly"))?;
    let explain = |e| failed("training", e);
    Ok((unseen.map_err(explain)?, stages.map_err(explain)?))
}

/// Counts rounds and passes on the wish to stop.
#[derive(Clone)]
struct Watch<'a> {
    rounds: mpsc::Sender<()>,
    cancelled: &'a AtomicBool,
}

impl Watch<'_> {
    fn tick(&self) -> ControlFlow<()> {
        // Nobody listens only when everything is over.
        let _ = self.rounds.send(());
        if self.cancelled.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Trains on every customer known at the cut.
fn final_model(settings: &Settings, past: &Past, watch: Watch<'_>) -> Result<Stages, KernelError> {
    let everyone: Vec<usize> = (0..past.spend.len()).collect();
    let fitted = baseline::fit(&past.snapshot, &everyone, settings.horizon_days);
    let matrix = past.snapshot.with_baseline(&baseline::columns(fitted.as_ref(), &past.snapshot));
    stages::fit(settings, matrix.view(), &past.spend, fitted, &mut |_| watch.tick())
}

/// Trains on all folds but `k`, baseline included, and predicts the customers of `k`.
fn unseen(settings: &Settings, past: &Past, k: u32, watch: &Watch<'_>) -> Result<Unseen, KernelError> {
    let (test, training): (Vec<usize>, Vec<usize>) = (0..past.spend.len()).partition(|&i| past.fold[i] == k);
    let spend: Vec<f64> = training.iter().map(|&i| past.spend[i]).collect();
    let buyers = spend.iter().filter(|&&s| s > 0.0).count();
    let mean = spend.iter().sum::<f64>() / spend.len().max(1) as f64;
    if buyers == 0 {
        // All buyers are in this fold: from the others, nobody is expected to buy.
        let zero = vec![0.0; test.len()];
        return Ok(Unseen {
            mean: 0.0,
            single: zero.clone(),
            baseline: zero.clone(),
            unblended: zero.clone(),
            two_stage: zero,
            few_buyers: true,
            rows: test,
        });
    }
    let fitted = baseline::fit(&past.snapshot, &training, settings.horizon_days);
    let expected = baseline::columns(fitted.as_ref(), &past.snapshot);
    let matrix: Array2<f64> = past.snapshot.with_baseline(&expected);
    let (seen, held) = (stages::rows(&matrix, &training), matrix.select(Axis(0), &test));
    let stages = stages::fit(settings, seen.view(), &spend, fitted, &mut |_| watch.tick())?;
    let single = stages::fit_single(settings, seen.view(), &spend, &mut |_| watch.tick())?;
    let scores = stages.scorer.score(held.view())?;
    Ok(Unseen {
        mean,
        single: single.predict(held.view())?,
        baseline: test.iter().map(|&i| expected[i][3]).collect(),
        unblended: scores.stages,
        two_stage: scores.predicted,
        few_buyers: buyers < FEW_BUYERS,
        rows: test,
    })
}

/// Measures every model over all folds together; the two-stage model is the last.
fn measure(past: &Past, unseen: &[Unseen]) -> (Vec<Value>, Vec<String>) {
    let gather = |values: &dyn Fn(&Unseen, usize) -> f64| {
        let mut all = vec![0.0; past.spend.len()];
        for part in unseen {
            for (j, &row) in part.rows.iter().enumerate() {
                all[row] = values(part, j);
            }
        }
        all
    };
    let mut notes = vec![format!(
        "two-stage XGBoost: geometric mean of probability x spend and the baseline (weight {BASELINE_WEIGHT}), calibrated on the training folds"
    )];
    let mean = gather(&|part, _| part.mean);
    let mut measured = vec![summary::quality("train mean", &past.spend, &mean)];
    // The mean differs a little from fold to fold, which orders nobody.
    for name in ["spearman", "gini", "top_decile_share", "top_decile_lift"] {
        measured[0][name] = Value::Null;
    }
    measured.push(summary::quality("single squared-error XGBoost", &past.spend, &gather(&|part, j| part.single[j])));
    let expected = gather(&|part, j| part.baseline[j]);
    if expected.iter().all(|v| v.is_finite()) {
        measured.push(summary::quality("BG/NBD + Gamma-Gamma", &past.spend, &expected));
    } else {
        notes.push(
            "BG/NBD + Gamma-Gamma cannot be fitted: too few customers have bought twice; nothing is blended".into(),
        );
    }
    measured.push(summary::quality(
        "two stages without the baseline",
        &past.spend,
        &gather(&|part, j| part.unblended[j]),
    ));
    measured.push(summary::quality("two-stage XGBoost", &past.spend, &gather(&|part, j| part.two_stage[j])));
    if unseen.iter().any(|part| part.few_buyers) {
        notes.push(format!(
            "a training fold has fewer than {FEW_BUYERS} buyers: the mean spend of its buyers stands in for the second stage"
        ));
    }
    (measured, notes)
}

/// Finds the customers of the RFM table among those of the orders, in the table's order.
pub(super) fn rows_of(ledger: &Ledger, now: &Snapshot, customers: &DataFrame) -> Result<Vec<usize>, OpError> {
    let rows: HashMap<&str, usize> =
        now.customers.iter().enumerate().map(|(row, &i)| (ledger.ids[i].as_str(), row)).collect();
    let find = |id: &String| {
        rows.get(id.as_str()).copied().ok_or_else(|| {
            OpError::data(format!("customer `{id}` of input `customers` has no line in `orders`"))
                .hint("connect both inputs to the same retail.clean and the retail.rfm made from it")
        })
    };
    tables::texts(customers, "CustomerID")?.iter().map(find).collect()
}
