//! `ml.pca`: the directions in which customers differ most.

use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::{Value, json};

use super::features::{Features, column, id_param, write_json};
use crate::{
    kernels::pca,
    ops::{Context, OpError, Operator, tables},
};

/// Projects rows on their principal components.
#[derive(Debug)]
pub struct Pca;

impl Operator for Pca {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("ml.pca", "1", "Projects features on their principal components")
            .input("features", "table", "id and scaled features")
            .output("coordinates", "table", "id and PC1, PC2, ...")
            .output("summary", "json", "explained variance, its share of all features, loadings")
            .param(id_param())
            .param(
                ParamSpec::default("components", ParamType::Int, 3, "number of components; at most that of features")
                    .range(1.0, 1000.0),
            )
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let components: usize = context.params.get("components")?;
        let features = Features::read(context, None)?;
        features.at_least(2, "a projection")?;
        let found = pca::fit(features.values.view(), components).map_err(|e| features.explain(e))?;
        let columns = found
            .coordinates
            .columns()
            .into_iter()
            .enumerate()
            .map(|(j, values)| column(&format!("PC{}", j + 1), values))
            .collect();
        tables::write(context, "coordinates", &mut features.table(columns)?)?;
        let loadings: Vec<Value> = found
            .components
            .rows()
            .into_iter()
            .map(|axis| Value::Object(features.names.iter().cloned().zip(axis.iter().map(|x| json!(x))).collect()))
            .collect();
        let summary = json!({
            "explained_variance": found.explained_variance,
            "ratio": found.ratio,
            "components": loadings,
            "features": features.names,
        });
        write_json(context, "summary", &summary)?;
        context.metrics.insert("components".to_owned(), json!(found.ratio.len()));
        context.metrics.insert("explained_ratio".to_owned(), json!(found.ratio.iter().sum::<f64>()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ops::ml::testing::{Bench, customers, groups};

    #[test]
    fn coordinates_and_loadings_are_written_for_as_many_components_as_there_are() {
        let mut bench = Bench::new(&Pca).table("features", groups());
        bench.run().unwrap();
        let names: Vec<String> = bench.read("coordinates").get_column_names().iter().map(|n| n.to_string()).collect();
        assert_eq!(names, ["CustomerID", "PC1", "PC2"]);
        let summary = bench.json("summary");
        let total: f64 = summary["ratio"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert!(summary["components"][0]["Monetary"].is_f64());
    }

    #[test]
    fn one_customer_is_a_data_error() {
        let error = Bench::new(&Pca).table("features", customers(&[("1", 1.0, 2.0)])).run().unwrap_err();
        assert!(error.to_string().contains("needs at least 2 rows; the table has 1 row"), "{error}");
    }
}
