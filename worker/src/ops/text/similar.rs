//! `text.similar`: the nearest texts of each text.

use std::sync::Mutex;

use polars::prelude::*;
use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::json;

use super::refused;
use crate::{
    kernels::similar,
    ops::{Context, OpError, Operator, arrays, tables},
};

/// The operator.
#[derive(Debug)]
pub struct Similar;

impl Operator for Similar {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("text.similar", "1", "the most similar texts by cosine, exact")
            .input("vectors", "matrix", "a row per text, as text.embed writes it")
            .input("index", "table", "the text of each row, in column Text")
            .output("neighbours", "table", "Text, Rank from 1, Neighbour, Cosine; a text is not its own neighbour")
            .param(ParamSpec::default("k", ParamType::Int, 5, "neighbours of each text").range(1.0, 1000.0))
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let k: u16 = context.params.get("k")?;
        if k == 0 {
            return Err(OpError::user("parameter `k` must be at least 1"));
        }
        let vectors = arrays::read::<f32>(context.input("vectors")?)?;
        let texts = tables::texts(&tables::read(context.input("index")?)?, "Text")?;
        let stop = context.cancel_flag();
        let total = texts.len() as u64;
        let progress = Mutex::new((0, &mut *context));
        let found = similar::nearest(vectors.view(), &texts, k.into(), &stop, &|rows| {
            if let Ok(mut progress) = progress.lock() {
                progress.0 += rows as u64;
                let done = progress.0;
                progress.1.progress(done, total, "comparing");
            }
        })
        .map_err(refused)?;
        tables::write(context, "neighbours", &mut neighbours(&texts, &found)?)?;
        context.metrics.insert("rows".into(), json!(total));
        context.metrics.insert("neighbours".into(), json!(found.iter().map(Vec::len).sum::<usize>()));
        Ok(())
    }
}

fn neighbours(texts: &[String], found: &[Vec<similar::Neighbour>]) -> Result<DataFrame, OpError> {
    let all = || texts.iter().zip(found).flat_map(|(text, list)| list.iter().zip(1i64..).map(move |hit| (text, hit)));
    let text: Vec<&str> = all().map(|(text, _)| text.as_str()).collect();
    let rank: Vec<i64> = all().map(|(_, (_, rank))| rank).collect();
    let neighbour: Vec<&str> = all().map(|(_, (hit, _))| texts[hit.row].as_str()).collect();
    let cosine: Vec<f64> = all().map(|(_, (hit, _))| f64::from(hit.cosine)).collect();
    df!("Text" => text, "Rank" => rank, "Neighbour" => neighbour, "Cosine" => cosine)
        .map_err(|e| OpError::data(format!("cannot make the table of neighbours: {e}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ndarray::{Array2, array};
    use segue_proto::failure::FailureClass;

    use super::*;
    use crate::ops::text::testing::Attempt;

    fn attempt(vectors: &Array2<f32>, texts: &[&str]) -> Attempt {
        let mut attempt = Attempt::new(&Similar);
        attempt.matrix("vectors", vectors);
        attempt.table("index", df!("Text" => texts).unwrap());
        attempt
    }

    #[test]
    fn neighbours_are_written_by_rank_in_the_order_of_the_index() {
        let mut attempt = attempt(&array![[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], &["a", "b", "c"]);
        attempt.param("k", json!(1));
        let context = attempt.run(&Similar).unwrap();
        let table = tables::read(&context.output("neighbours")).unwrap();
        assert_eq!(tables::texts(&table, "Text").unwrap(), ["a", "b", "c"]);
        assert_eq!(tables::texts(&table, "Neighbour").unwrap(), ["b", "c", "b"]);
        assert_eq!(tables::numbers(&table, "Rank").unwrap(), [1.0; 3]);
        for (cosine, expected) in tables::numbers(&table, "Cosine").unwrap().iter().zip([0.6, 0.8, 0.8]) {
            assert!((cosine - expected).abs() < 1e-6);
        }
        assert_eq!(context.metrics["neighbours"], json!(3));
    }

    #[test]
    fn a_single_text_has_an_empty_table_of_neighbours() {
        let attempt = attempt(&array![[1.0, 0.0]], &["a"]);
        let context = attempt.run(&Similar).unwrap();
        let table = tables::read(&context.output("neighbours")).unwrap();
        assert_eq!((table.height(), table.width()), (0, 4));
    }

    #[test]
    fn vectors_that_do_not_fit_the_index_are_a_data_error() {
        let error = attempt(&array![[1.0, 0.0]], &["a", "b"]).run(&Similar).unwrap_err();
        assert_eq!(error.0.class, FailureClass::Data);
        assert!(error.0.message.contains("1 vectors, but 2 texts"), "{error}");
    }
}
