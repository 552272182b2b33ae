//! `ml.scale`: features of equal weight.

use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::{Map, json};

use super::features::{Features, column, id_param, trained_with};
use crate::{
    kernels::{
        KernelError,
        scale::{Standardiser, log1p},
    },
    models::{ModelDoc, ScalerModel, Transform, doc::Body},
    ops::{Context, OpError, Operator, tables},
};

/// Standardises features, after a logarithm if asked.
#[derive(Debug)]
pub struct Scale;

impl Operator for Scale {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("ml.scale", "1", "Brings features to mean 0 and deviation 1")
            .input("features", "table", "one row per id, numeric features")
            .output("scaled", "table", "id and scaled features")
            .output("model", "model", "the scaler")
            .param(ParamSpec::optional("columns", ParamType::List, "features to scale; left out: all numeric columns"))
            .param(id_param())
            .param(
                ParamSpec::default(
                    "transform",
                    ParamType::String,
                    "none",
                    "applied first: log1p is ln(1 + x), for skewed features",
                )
                .one_of(&["none", "log1p"]),
            )
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let features = Features::read(context, context.params.optional("columns")?)?;
        features.at_least(1, "scaling")?;
        let transform: Transform = context.params.get("transform")?;
        let (values, logged) = match transform {
            Transform::None => (features.values.clone(), 0),
            Transform::Log1p => {
                let values = log1p(features.values.view()).map_err(|e| undefined(&features, e))?;
                (values, features.names.len())
            }
        };
        let scaler = Standardiser::fit(values.view()).map_err(|e| features.explain(e))?;
        let scaled = scaler.apply(values.view()).map_err(|e| features.explain(e))?;

        let columns = features.names.iter().zip(scaled.columns()).map(|(name, values)| column(name, values)).collect();
        tables::write(context, "scaled", &mut features.table(columns)?)?;
        let constant = scaled.columns().into_iter().filter(|c| c.iter().all(|x| x.abs() < 1e-9)).count();
        let metrics = Map::from_iter([
            ("rows".to_owned(), json!(features.ids.len())),
            ("features".to_owned(), json!(features.names.len())),
            ("constant_features".to_owned(), json!(constant)),
            ("log1p_features".to_owned(), json!(logged)),
        ]);
        let body =
            Body::Scaler(ScalerModel { features: features.names, transform, mean: scaler.mean, scale: scaler.scale });
        let document = ModelDoc::new(body, trained_with(context), metrics.clone());
        context.write("model", &document.to_bytes())?;
        context.metrics.extend(metrics);
        Ok(())
    }
}

/// The data, not the pipeline, is at fault where a logarithm does not exist; unless the pipeline need not have asked.
fn undefined(features: &Features, error: KernelError) -> OpError {
    let cell = features.values.indexed_iter().find(|(_, x)| **x <= -1.0);
    match (error, cell) {
        (KernelError::Invalid(_), Some(((row, column), x))) => OpError::data(format!(
            "row {} ({} {}), column `{}` is {x}: ln(1 + x) needs x > -1",
            row + 1,
            features.id,
            features.ids[row],
            features.names[column]
        ))
        .hint("use transform = \"none\", or name the columns to scale"),
        (error, _) => features.explain(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ops::ml::testing::{Bench, customers};

    #[test]
    fn columns_are_scaled_and_the_scaler_is_kept() {
        let mut bench = Bench::new(&Scale).table("features", customers(&[("2", 2.0, 5.0), ("1", 4.0, 5.0)]));
        bench.run().unwrap();
        let table = bench.read("scaled");
        assert_eq!(tables::texts(&table, "CustomerID").unwrap(), ["2", "1"]);
        assert_eq!(tables::numbers(&table, "Recency").unwrap(), [-1.0, 1.0]);
        assert_eq!(tables::numbers(&table, "Monetary").unwrap(), [0.0, 0.0]);
        let Body::Scaler(scaler) = bench.model("model").body else { panic!("not a scaler") };
        assert_eq!((scaler.mean, scaler.scale), (vec![3.0, 5.0], vec![1.0, 1.0]));
        assert_eq!(bench.context.metrics["constant_features"], 1);
    }

    #[test]
    fn the_logarithm_comes_first_and_columns_can_be_chosen() {
        let mut bench = Bench::new(&Scale)
            .table("features", customers(&[("1", 0.0, -9.0), ("2", 3.0, 0.0)]))
            .param("transform", json!("log1p"))
            .param("columns", json!(["Recency"]));
        bench.run().unwrap();
        let Body::Scaler(scaler) = bench.model("model").body else { panic!("not a scaler") };
        assert_eq!(scaler.features, ["Recency"]);
        assert_eq!(scaler.mean, [2.0_f64.ln()], "half of ln 4");
    }

    #[test]
    fn a_bad_cell_is_named_by_row_id_and_column() {
        let mut bench = Bench::new(&Scale).table("features", customers(&[("17", 1.0, 1.0), ("18", 2.0, f64::NAN)]));
        let message = bench.run().unwrap_err().to_string();
        assert!(message.contains("row 2 (CustomerID 18), column `Monetary`"), "{message}");
        let mut bench =
            Bench::new(&Scale).table("features", customers(&[("17", 1.0, -4.0)])).param("transform", json!("log1p"));
        let message = bench.run().unwrap_err().to_string();
        assert!(message.contains("row 1 (CustomerID 17), column `Monetary` is -4"), "{message}");
    }

    #[test]
    fn missing_columns_and_empty_tables_are_told_apart() {
        let mut bench =
            Bench::new(&Scale).table("features", customers(&[("1", 1.0, 1.0)])).param("columns", json!(["Recencyy"]));
        assert!(bench.run().unwrap_err().to_string().contains("`Recencyy` is missing"));
        let mut bench = Bench::new(&Scale).table("features", customers(&[]));
        assert!(bench.run().unwrap_err().to_string().contains("at least 1 row; the table has 0 rows"));
        let mut bench = Bench::new(&Scale).table("features", customers(&[("1", 1.0, 1.0)])).param("id", json!("Id"));
        assert!(bench.run().unwrap_err().to_string().contains("`Id` is missing"));
    }
}
