//! `retail.clv`: what each customer will spend.
//!
//! `holdout` learns on the past as it looked at a cut date, is measured on customers it has not seen, and predicts the time
//! after the data. `in_sample` reproduces the classic notebook: Monetary from the other RFM features of the same customers.

mod baseline;
mod features;
mod folds;
mod holdout;
mod in_sample;
mod ledger;
mod stages;
mod summary;

use polars::prelude::*;
use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::{Map, Value};

use super::super::{Context, OpError, Operator, tables};
use crate::{
    kernels::KernelError,
    models::{ClvModel, ModelDoc, doc::Body},
};

/// The operator.
#[derive(Debug)]
pub struct Clv;

/// Parameters, read once.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    cut_date: Option<String>,
    horizon_days: u32,
    folds: u32,
    rounds: u32,
    learning_rate: f64,
    max_depth: u32,
    seed: u32,
}

/// What either mode comes to.
struct Outcome {
    predictions: DataFrame,
    features: DataFrame,
    summary: Value,
    model: ClvModel,
    metrics: Map<String, Value>,
}

impl Operator for Clv {
    fn spec(&self) -> OperatorSpec {
        let int = |name, value: i64, min: f64, max: f64, help| {
            ParamSpec::default(name, ParamType::Int, value, help).range(min, max)
        };
        OperatorSpec::new("retail.clv", "1", "Predicts what each customer will spend, and measures how well")
            .input("orders", "table", "cleaned order lines, as of retail.clean")
            .input("customers", "table", "RFM features, as of retail.rfm")
            .output("predictions", "table", "expected spend by customer")
            .output(
                "features",
                "table",
                "what the model was given for these predictions; segue predict scores such a table",
            )
            .output("summary", "json", "quality against the baselines, importance of features, histogram")
            .output("model", "model", "the trained model")
            .param(
                ParamSpec::default(
                    "mode",
                    ParamType::String,
                    "holdout",
                    "measured on the future, or on the training data",
                )
                .one_of(&["holdout", "in_sample"]),
            )
            .param(ParamSpec::optional(
                "cut_date",
                ParamType::String,
                "YYYY-MM-DD; the model sees orders before it; default: horizon_days before the end of the data",
            ))
            .param(int("horizon_days", 90, 1.0, 3650.0, "days of spend to predict"))
            .param(int("folds", 5, 2.0, 50.0, "parts of the customers for cross-validation, by number modulo"))
            .param(int("rounds", 200, 1.0, 5000.0, "trees of each XGBoost model"))
            .param(
                ParamSpec::default("learning_rate", ParamType::Float, 0.05, "shrinkage of each tree").range(0.001, 1.0),
            )
            .param(int("max_depth", 6, 1.0, 16.0, "levels of a tree"))
            .param(int("seed", 42, 0.0, f64::from(i32::MAX), "seed of row and column sampling"))
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let settings = Settings {
            cut_date: context.params.optional("cut_date")?,
            horizon_days: context.params.get("horizon_days")?,
            folds: context.params.get("folds")?,
            rounds: context.params.get("rounds")?,
            learning_rate: context.params.get("learning_rate")?,
            max_depth: context.params.get("max_depth")?,
            seed: context.params.get("seed")?,
        };
        let customers = tables::read(context.input("customers")?)?;
        if customers.height() == 0 {
            return Err(OpError::data("input `customers` has no rows"));
        }
        let outcome = match context.params.get::<String>("mode")?.as_str() {
            "holdout" => {
                let orders = tables::read(context.input("orders")?)?;
                holdout::run(context, &settings, &orders, &customers)?
            }
            "in_sample" => in_sample::run(context, &settings, &customers)?,
            other => {
                return Err(
                    OpError::user(format!("parameter `mode` cannot be `{other}`")).hint("use holdout or in_sample")
                );
            }
        };
        write(context, outcome)
    }
}

fn write(context: &mut Context, outcome: Outcome) -> Result<(), OpError> {
    let Outcome { mut predictions, mut features, summary, model, metrics } = outcome;
    tables::write(context, "predictions", &mut predictions)?;
    tables::write(context, "features", &mut features)?;
    let text =
        serde_json::to_vec_pretty(&summary).map_err(|e| OpError::infra(format!("cannot write the summary: {e}")))?;
    context.write("summary", &text)?;
    let params = context.params.0.clone();
    context.write("model", &ModelDoc::new(Body::Clv(model), params, metrics.clone()).to_bytes())?;
    context.metrics.extend(metrics);
    Ok(())
}

/// Gives what `model` takes to predict from the end of `orders` on: one row for each of `customers`, in their order.
///
/// # Errors
/// Class `data` if a table lacks a column, or a customer has no orders.
pub fn features_of(orders: &DataFrame, customers: &DataFrame, model: &ClvModel) -> Result<DataFrame, OpError> {
    let ledger = ledger::Ledger::read(orders)?;
    let now = features::Snapshot::take(&ledger, ledger.end());
    let expected = baseline::columns(model.baseline.as_ref(), &now);
    let asked = holdout::rows_of(&ledger, &now, customers)?;
    let ids: Vec<String> = asked.iter().map(|&row| ledger.ids[now.customers[row]].clone()).collect();
    let matrix = stages::rows(&now.with_baseline(&expected), &asked);
    let names = features::names();
    table(&ids, names.iter().enumerate().map(|(j, name)| column(name, matrix.column(j).iter().copied())).collect())
}

/// Turns a kernel's refusal into a failure of the attempt.
fn failed(what: &str, error: KernelError) -> OpError {
    match error {
        KernelError::Cancelled => OpError::infra("stopped on request"),
        KernelError::Backend(_) => OpError::infra(format!("{what}: {error}")),
        _ => OpError::data(format!("{what}: {error}")),
    }
}

/// Makes a table of the customers' ids and further columns, which have the same length.
fn table(ids: &[String], columns: Vec<Column>) -> Result<DataFrame, OpError> {
    let mut all = vec![Column::new("CustomerID".into(), ids)];
    all.extend(columns);
    DataFrame::new(ids.len(), all).map_err(|e| OpError::infra(format!("cannot make a table: {e}")))
}

/// Makes a column of numbers; NaN becomes null.
fn column(name: &str, values: impl IntoIterator<Item = f64>) -> Column {
    let values: Vec<Option<f64>> = values.into_iter().map(|v| (!v.is_nan()).then_some(v)).collect();
    Column::new(name.into(), values)
}

#[cfg(test)]
mod tests;
