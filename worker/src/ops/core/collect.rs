//! `core.collect`: the JSON outputs of the children of a fan-out in one document.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
};

use segue_proto::operator::OperatorSpec;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::ops::{Context, OpError, Operator};

/// The operator.
#[derive(Debug, Clone, Copy)]
pub struct Collect;

impl Operator for Collect {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("core.collect", "1", "brings the JSON outputs of a fan-out together")
            .joined_input("parts", "json", "output of each child")
            .output("all", "json", "one object: the value of each child under its key, sorted by key")
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let parts = context.many("parts");
        let count = parts.len();
        let refused = |e: io::Error| OpError::infra(format!("cannot write output `all`: {e}"));
        let mut all = BufWriter::new(File::create(context.output("all")).map_err(refused)?);
        let mut before = "{";
        for (key, file) in parts {
            if context.is_cancelled() {
                return Err(OpError::infra("stopped on request"));
            }
            // Copied and not parsed into values: a number keeps every digit.
            let bytes = fs::read(file).map_err(|e| OpError::infra(format!("cannot read the part of `{key}`: {e}")))?;
            serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|e| {
                OpError::data(format!("the part of `{key}` is not JSON: {e}"))
                    .hint("see to what that child wrote to its output")
            })?;
            write!(all, "{before}\n{}: ", Value::from(key)).map_err(refused)?;
            all.write_all(bytes.trim_ascii()).map_err(refused)?;
            before = ",";
        }
        all.write_all(if count == 0 { b"{}\n" } else { b"\n}\n" }).map_err(refused)?;
        all.flush().map_err(refused)?;
        context.describe("all", json!({ "keys": count }));
        context.metrics.insert("parts".into(), Value::from(count));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeMap, path::PathBuf};

    use segue_proto::failure::FailureClass;
    use serde_json::Map;

    use super::*;

    fn collect(parts: &[(&str, &str)]) -> Result<String, OpError> {
        let directory = tempfile::tempdir().unwrap();
        let files: BTreeMap<String, PathBuf> = parts
            .iter()
            .map(|(key, text)| {
                let file = directory.path().join(format!("in-{key}"));
                fs::write(&file, text).unwrap();
                ((*key).to_owned(), file)
            })
            .collect();
        let mut context = Context::new(BTreeMap::new(), directory.path().to_owned(), Map::new())
            .with_joined(BTreeMap::from([("parts".to_owned(), files)]));
        Collect.run(&mut context)?;
        assert_eq!(context.metrics["parts"], parts.len());
        Ok(fs::read_to_string(context.output("all")).unwrap())
    }

    #[test]
    fn every_part_stands_under_its_key_with_every_digit() {
        let all = collect(&[("us", " [1, 2]\n"), ("eu", r#"{"n": 12345678901234567890.5}"#)]).unwrap();
        assert_eq!(all, "{\n\"eu\": {\"n\": 12345678901234567890.5},\n\"us\": [1, 2]\n}\n");
        let value: Value = serde_json::from_str(&all).unwrap();
        assert_eq!(value["us"], json!([1, 2]));
    }

    #[test]
    fn no_children_make_an_empty_object() {
        assert_eq!(collect(&[]).unwrap(), "{}\n");
    }

    #[test]
    fn a_part_that_is_no_json_is_named_by_its_key() {
        for text in ["", "{", "1 2"] {
            let error = collect(&[("eu", "1"), ("us", text)]).unwrap_err();
            assert_eq!(error.0.class, FailureClass::Data);
            assert!(error.0.message.contains("`us`"), "{error}");
        }
    }
}
