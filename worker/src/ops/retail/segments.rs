//! `retail.segments`: gives clusters names, lists the customers worth a call, and says what the numbers say.

mod insights;
mod lists;
mod naming;
mod profile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use polars::prelude::*;
use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::{Map, Value, json};

use self::{
    lists::Rules,
    profile::{Clusters, Customers},
};
use crate::ops::{Context, OpError, Operator, tables};

/// Gives the operator.
pub(super) fn operator() -> Box<dyn Operator> {
    Box::new(Segments)
}

struct Segments;

impl Operator for Segments {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("retail.segments", "1", "names clusters, lists high-value and churn-prone customers")
            .input("customers", "table", "features by customer: retail.rfm customers")
            .input("clusters", "table", "cluster by customer: ml.kmeans customers")
            .optional_input("predictions", "table", "expected spend by customer: retail.clv predictions")
            .output("segments", "table", "customers with cluster, segment name, features and flags")
            .output("summary", "json", "profiles of the segments, rules, lists and insights")
            .param(
                ParamSpec::default("high_value_share", ParamType::Float, 0.1, "share of customers called high-value")
                    .range(0.0, 1.0),
            )
            .param(
                ParamSpec::default(
                    "churn_factor",
                    ParamType::Float,
                    2.0,
                    "churn-prone after this many of the customer's own mean gaps between orders",
                )
                .range(0.0, 1000.0),
            )
            .param(
                ParamSpec::default(
                    "churn_min_days",
                    ParamType::Int,
                    60,
                    "nobody is churn-prone before this many days without an order",
                )
                .range(0.0, 100_000.0),
            )
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let rules = Rules {
            high_value_share: context.params.get("high_value_share")?,
            churn_factor: context.params.get("churn_factor")?,
            churn_min_days: context.params.optional("churn_min_days")?.unwrap_or(60.0),
        };
        rules.check()?;
        let table = tables::read(context.input("customers")?)?;
        let labels = tables::read(context.input("clusters")?)?;
        let predicted = match context.optional_input("predictions") {
            Some(path) => Some(by_customer(&tables::read(path)?, "Predicted")?),
            None => None,
        };
        let customers = Customers::load(&table, &labels, predicted.as_ref())?;
        let clusters = Clusters::of(&customers);
        let names = naming::names(&clusters);
        let high_value = lists::high_value(&customers, &rules);
        let churn = lists::churn_prone(&customers, &rules);
        let told = insights::tell(&customers, &clusters, &names, &high_value, &churn);

        write_table(context, &table, &customers, &names, &high_value, &churn)?;
        let summary = json!({
            "clusters": clusters.to_json(&names),
            "naming_rule": naming::RULE,
            "heatmap": clusters.heatmap(&names),
            "high_value": high_value.to_json(&customers, &names),
            "churn_prone": churn.to_json(&customers, &names),
            "silhouette": customers.mean_silhouette(),
            "warnings": told.warnings,
            "insights": told.insights,
        });
        let bytes = serde_json::to_vec_pretty(&summary)
            .map_err(|e| OpError::data(format!("the summary cannot be written as JSON: {e}")))?;
        context.write("summary", &bytes)?;
        context.metrics = Map::from_iter([
            ("segments".to_owned(), json!(names.len())),
            ("high_value".to_owned(), json!(high_value.rows.len())),
            ("churn_prone".to_owned(), json!(churn.rows.len())),
        ]);
        Ok(())
    }
}

/// Maps CustomerID to the numbers of one column; nulls and NaN are left out.
fn by_customer(table: &DataFrame, column: &str) -> Result<BTreeMap<String, f64>, OpError> {
    let ids = tables::texts(table, "CustomerID")?;
    let values = tables::numbers(table, column)?;
    Ok(ids.into_iter().zip(values).filter(|(_, value)| value.is_finite()).collect())
}

fn write_table(
    context: &mut Context,
    features: &DataFrame,
    customers: &Customers,
    names: &[String],
    high_value: &lists::Chosen,
    churn: &lists::Chosen,
) -> Result<(), OpError> {
    let cluster: Vec<i64> = customers.label.clone();
    let segment: Vec<&str> = customers.cluster.iter().map(|&c| names[c].as_str()).collect();
    let mut columns: Vec<Column> = vec![
        Column::new("CustomerID".into(), &customers.id),
        Column::new("Cluster".into(), cluster),
        Column::new("Segment".into(), segment),
    ];
    columns.extend(features.columns().iter().filter(|c| c.name().as_str() != "CustomerID").cloned());
    if let Some(predicted) = &customers.predicted {
        columns.push(Column::new("Predicted".into(), predicted));
    }
    columns.push(Column::new("HighValue".into(), high_value.flags(customers.len())));
    columns.push(Column::new("ChurnRisk".into(), churn.flags(customers.len())));
    let mut table = DataFrame::new(customers.len(), columns)
        .map_err(|e| OpError::data(format!("the segments do not form a table: {e}")))?;
    tables::write(context, "segments", &mut table)
}

/// Rounds for people: 4 decimals; JSON has no NaN, so it becomes null.
fn rounded(value: f64) -> Value {
    if value.is_finite() { json!((value * 1e4).round() / 1e4) } else { Value::Null }
}
