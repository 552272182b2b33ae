//! `ml.tsne`: a map on which similar customers are neighbours.

use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::json;

use super::features::{Features, column, id_param, write_json};
use crate::{
    kernels::tsne::{self, Settings},
    ops::{Context, OpError, Operator, tables},
};

/// Iterations between two reports of progress.
const REPORT_EVERY: usize = 10;

/// Draws a two-dimensional map.
#[derive(Debug)]
pub struct Tsne;

impl Operator for Tsne {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("ml.tsne", "1", "Draws a map on which similar rows are neighbours")
            .input("features", "table", "id and scaled features")
            .output("coordinates", "table", "id, X and Y")
            .output("summary", "json", "Kullback-Leibler divergence, perplexity, iterations")
            .param(id_param())
            .param(
                ParamSpec::default(
                    "perplexity",
                    ParamType::Float,
                    30.0,
                    "effective number of neighbours; less where there are few rows",
                )
                .range(1.0, 10_000.0),
            )
            .param(
                ParamSpec::default(
                    "iterations",
                    ParamType::Int,
                    1000,
                    "steps of the descent; the first quarter, at most 250, with exaggeration",
                )
                .range(1.0, 1_000_000.0),
            )
            .param(ParamSpec::default("seed", ParamType::Int, 42, "same seed, same map").range(0.0, 9e15))
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let features = Features::read(context, None)?;
        features.at_least(1, "a map")?;
        let asked: f64 = context.params.get("perplexity")?;
        let (perplexity, reason) = tsne::usable_perplexity(asked, features.ids.len());
        let iterations: usize = context.params.get("iterations")?;
        let settings = Settings { perplexity, iterations, seed: context.params.get("seed")? };
        let map = tsne::draw(features.values.view(), &settings, &mut |iteration| {
            if iteration % REPORT_EVERY == 0 || iteration == iterations {
                context.progress(iteration as u64, iterations as u64, "descending");
            }
            !context.is_cancelled()
        })
        .map_err(|e| features.explain(e))?;
        let columns = vec![column("X", map.coordinates.column(0)), column("Y", map.coordinates.column(1))];
        tables::write(context, "coordinates", &mut features.table(columns)?)?;
        let summary = json!({
            "kl": map.divergence,
            "perplexity": perplexity,
            "perplexity_reason": reason,
            "iterations": iterations,
            "rows": features.ids.len(),
        });
        write_json(context, "summary", &summary)?;
        context.metrics.insert("kl".to_owned(), json!(map.divergence));
        context.metrics.insert("perplexity".to_owned(), json!(perplexity));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, atomic::AtomicBool};

    use super::*;
    use crate::ops::ml::testing::{Bench, customers, groups};

    #[test]
    fn a_map_is_drawn_with_the_perplexity_that_the_rows_allow() {
        let run = || {
            let mut bench = Bench::new(&Tsne).table("features", groups()).param("iterations", json!(200));
            bench.run().unwrap();
            let summary = bench.json("summary");
            assert_eq!(summary["perplexity"], 59.0 / 3.0);
            assert!(summary["perplexity_reason"].as_str().unwrap().contains("too large for 60 rows"), "{summary}");
            assert!(summary["kl"].as_f64().unwrap() > 0.0);
            [bench.bytes("coordinates"), bench.bytes("summary")]
        };
        assert_eq!(run(), run(), "equal runs write equal bytes");
    }

    #[test]
    fn one_customer_is_a_map_and_none_is_a_data_error() {
        Bench::new(&Tsne).table("features", customers(&[("1", 1.0, 2.0)])).run().unwrap();
        let error = Bench::new(&Tsne).table("features", customers(&[])).run().unwrap_err();
        assert!(error.to_string().contains("the table has 0 rows"), "{error}");
    }

    #[test]
    fn a_cancelled_attempt_stops() {
        let bench = Bench::new(&Tsne).table("features", groups());
        let mut context = bench.context().with_cancel(Arc::new(AtomicBool::new(true)));
        assert!(Tsne.run(&mut context).unwrap_err().to_string().contains("stopped on request"));
    }
}
