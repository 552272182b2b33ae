//! `text.embed`: a vector for each text.

use std::{path::PathBuf, time::Instant};

use polars::prelude::*;
use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::json;

use super::{Target, load, refused};
use crate::ops::{Context, OpError, Operator, arrays, tables};

/// Columns that go from the texts to the index where they exist.
const CARRIED: [&str; 3] = ["StockCode", "Lines", "Sales"];

/// The operator.
#[derive(Debug)]
pub struct Embed;

impl Operator for Embed {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("text.embed", "1", "sentence embeddings with all-MiniLM-L6-v2")
            .input("texts", "table", "one text per row")
            .output("vectors", "matrix", "(rows, 384) float32, rows of length 1")
            .output("index", "table", "the text of each row of the vectors")
            .param(ParamSpec::default("column", ParamType::String, "Description", "the column of texts"))
            .param(ParamSpec::optional(
                "model_dir",
                ParamType::String,
                "directory of the model on the worker; else where it is found or fetched",
            ))
            .param(
                ParamSpec::default(
                    "device",
                    ParamType::String,
                    "auto",
                    "auto: the GPU that the task holds, else the CPU",
                )
                .one_of(&["auto", "cpu", "cuda"]),
            )
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let column: String = context.params.get("column")?;
        let model_dir = context.params.optional::<String>("model_dir")?.filter(|dir| !dir.is_empty());
        let target = match context.params.optional::<String>("device")?.as_deref() {
            None | Some("auto") => Target::choose(candle_core::utils::cuda_is_available(), context.gpus),
            Some("cpu") => Target::Cpu,
            Some("cuda") => Target::Cuda,
            Some(other) => return Err(OpError::user(format!("parameter `device` cannot be `{other}`"))),
        };
        let table = tables::read(context.input("texts")?)?;
        let texts = tables::texts(&table, &column)?;
        if texts.is_empty() {
            return Err(OpError::data("the table `texts` has no rows: there is nothing to embed")
                .hint("look at what the task before it kept"));
        }
        let total = texts.len() as u64;
        context.progress(0, total, "loading the embedding model");
        let loaded = load(model_dir.map(PathBuf::from), target)?;
        let stop = context.cancel_flag();
        let started = Instant::now();
        let embedded = loaded
            .model
            .embed(&texts, &stop, &mut |done, all| context.progress(done as u64, all as u64, "embedding"))
            .map_err(refused)?;
        let seconds = started.elapsed().as_secs_f64();
        arrays::write(context, "vectors", &embedded.vectors)?;
        tables::write(context, "index", &mut index(&table, texts)?)?;
        let metrics = &mut context.metrics;
        metrics.insert("rows".into(), json!(total));
        metrics.insert("tokens".into(), json!(embedded.tokens));
        metrics.insert("device".into(), json!(loaded.target.name()));
        metrics.insert("model_source".into(), json!(loaded.files.source));
        metrics.insert("model_was_warm".into(), json!(loaded.warm));
        metrics.insert("tokens_per_second".into(), json!((embedded.tokens as f64 / seconds.max(1e-9)).round()));
        Ok(())
    }
}

fn index(table: &DataFrame, texts: Vec<String>) -> Result<DataFrame, OpError> {
    let row = Column::new("Row".into(), (0..texts.len() as i64).collect::<Vec<_>>());
    let mut columns = vec![row, Column::new("Text".into(), texts)];
    columns.extend(CARRIED.iter().filter_map(|name| table.column(name).ok().cloned()));
    DataFrame::new(table.height(), columns).map_err(|e| OpError::data(format!("cannot make the index: {e}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ops::text::testing::{Attempt, model_is_here};
    use segue_proto::failure::FailureClass;

    fn products() -> DataFrame {
        df!(
            "Description" => [Some("WHITE HEART"), None, Some("PARTY BUNTING")],
            "StockCode" => ["1", "2", "3"],
            "Sales" => [1.5, 2.5, 3.5],
        )
        .unwrap()
    }

    #[test]
    fn texts_become_vectors_and_an_index_with_what_the_table_carries() {
        if !model_is_here() {
            return;
        }
        let mut attempt = Attempt::new(&Embed);
        attempt.table("texts", products());
        let context = attempt.run(&Embed).unwrap();
        let vectors = arrays::read::<f32>(&context.output("vectors")).unwrap();
        assert_eq!(vectors.dim(), (3, 384));
        assert!((vectors.row(0).dot(&vectors.row(0)) - 1.0).abs() < 1e-5);
        let index = tables::read(&context.output("index")).unwrap();
        let names: Vec<_> = index.get_column_names().iter().map(|n| n.to_string()).collect();
        assert_eq!(names, ["Row", "Text", "StockCode", "Sales"]);
        assert_eq!(tables::texts(&index, "Text").unwrap(), ["WHITE HEART", "", "PARTY BUNTING"]);
        assert_eq!(tables::numbers(&index, "Row").unwrap(), [0.0, 1.0, 2.0]);
        assert_eq!(context.metrics["rows"], json!(3));
        assert_eq!(context.metrics["device"], json!("cpu"));
        let again = attempt.run(&Embed).unwrap();
        assert_eq!(again.metrics["model_was_warm"], json!(true));
        assert_eq!(arrays::read::<f32>(&again.output("vectors")).unwrap(), vectors);
    }

    #[test]
    fn no_rows_a_missing_column_and_a_corrupt_model_are_data_errors() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "tokenizer.json", "config.json"] {
            std::fs::write(dir.path().join(name), "garbage").unwrap();
        }
        let class_of = |table: DataFrame, params: &[(&str, &str)], part: &str| {
            let mut attempt = Attempt::new(&Embed);
            attempt.table("texts", table);
            for (name, value) in params {
                attempt.param(name, json!(value));
            }
            let error = attempt.run(&Embed).unwrap_err();
            assert!(error.0.message.contains(part), "{error}");
            error.0.class
        };
        assert_eq!(class_of(products().head(Some(0)), &[], "no rows"), FailureClass::Data);
        assert_eq!(class_of(products(), &[("column", "Nope")], "`Nope` is missing"), FailureClass::Data);
        let model_dir = dir.path().to_str().unwrap();
        assert_eq!(class_of(products(), &[("model_dir", model_dir)], "corrupt"), FailureClass::Data);
        assert_eq!(class_of(products(), &[("device", "tpu")], "`tpu`"), FailureClass::User);
    }
}
