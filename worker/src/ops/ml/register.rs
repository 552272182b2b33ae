//! `model.register`: puts models into the registry when the attempt commits.

use segue_proto::{
    ids::{AliasName, Digest, ModelName},
    operator::{OperatorSpec, ParamSpec, ParamType},
    v1,
};
use serde_json::{Value, json};

use super::features::write_json;
use crate::{
    models::{ModelDoc, doc::Body},
    ops::{Context, OpError, Operator},
};

/// The kinds it takes: each is an input, a kind of document and the end of a name.
const KINDS: [&str; 3] = ["scaler", "kmeans", "clv"];

/// Registers the models of a run as new versions and moves an alias to them.
#[derive(Debug)]
pub struct Register;

impl Operator for Register {
    fn spec(&self) -> OperatorSpec {
        // Not pure: every run makes new versions, even of the same bytes.
        let spec =
            OperatorSpec::new("model.register", "1", "Registers models as new versions and moves an alias").impure();
        KINDS
            .iter()
            .fold(spec, |spec, kind| spec.optional_input(kind, "model", &format!("model to register as PREFIX-{kind}")))
            .output("registered", "json", "names, kinds and digests of what is registered")
            .param(ParamSpec::default("prefix", ParamType::String, "customer", "first part of the model names"))
            .param(ParamSpec::default(
                "alias",
                ParamType::String,
                "champion",
                "alias that moves to the new versions; empty: none",
            ))
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let prefix: String = context.params.get("prefix")?;
        let alias: String = context.params.get("alias")?;
        let aliases: Vec<String> = if alias.is_empty() {
            Vec::new()
        } else {
            let alias: AliasName = alias.parse().map_err(|e| OpError::user(format!("parameter `alias`: {e}")))?;
            vec![alias.into()]
        };
        let mut listing = Vec::new();
        for kind in KINDS {
            let Some(path) = context.optional_input(kind) else { continue };
            let name: ModelName =
                format!("{prefix}-{kind}").parse().map_err(|e| OpError::user(format!("parameter `prefix`: {e}")))?;
            let bytes = std::fs::read(path).map_err(|e| OpError::infra(format!("cannot read input `{kind}`: {e}")))?;
            let document = ModelDoc::parse(&bytes).map_err(|e| OpError::data(format!("input `{kind}`: {e}")))?;
            if document.kind() != kind {
                return Err(OpError::user(format!("input `{kind}` is a model of kind {}", document.kind())));
            }
            let digest = Digest::of(&bytes);
            let signature = signature(&document);
            listing.push(json!({
                "name": name,
                "kind": kind,
                "digest": digest,
                "aliases": aliases,
                "metrics": document.metrics,
                "signature": signature,
            }));
            context.models.push(v1::ModelRegistration {
                name: name.into(),
                kind: kind.to_owned(),
                artifact_digest: digest.into(),
                metrics_json: Value::Object(document.metrics).to_string(),
                params_json: Value::Object(document.params).to_string(),
                signature_json: signature.to_string(),
                aliases: aliases.clone(),
            });
        }
        if listing.is_empty() {
            return Err(OpError::user("no model is connected").hint("connect `scaler`, `kmeans` or `clv`"));
        }
        context.metrics.insert("registered".to_owned(), json!(listing.len()));
        write_json(context, "registered", &json!({ "models": listing }))
    }
}

/// Gives what a model takes and gives, by name and type.
fn signature(document: &ModelDoc) -> Value {
    let column = |name: &str, kind: &str| json!({"name": name, "type": kind});
    let inputs: Vec<Value> = document.features().iter().map(|name| column(name, "f64")).collect();
    let outputs = match &document.body {
        Body::Scaler(model) => model.features.iter().map(|name| column(name, "f64")).collect(),
        Body::KMeans(_) => vec![column("Cluster", "i64")],
        Body::Clv(model) => {
            let mut outputs = vec![column("Predicted", "f64")];
            if model.buys.is_some() {
                outputs.push(column("ProbabilityBuys", "f64"));
            }
            outputs
        }
    };
    json!({"inputs": inputs, "outputs": outputs})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Map;

    use super::*;
    use crate::{
        models::{KMeansModel, ScalerModel, Transform},
        ops::ml::testing::Bench,
    };

    fn document(body: Body) -> Vec<u8> {
        let pair = |name: &str, value: Value| Map::from_iter([(name.to_owned(), value)]);
        ModelDoc::new(body, pair("seed", json!(42)), pair("silhouette", json!(0.27))).to_bytes()
    }

    fn kmeans() -> Vec<u8> {
        let centroids = vec![vec![0.0], vec![1.0]];
        document(Body::KMeans(KMeansModel { features: vec!["Recency".to_owned()], centroids, scaler: None }))
    }

    fn scaler() -> Vec<u8> {
        let features = vec!["Recency".to_owned()];
        document(Body::Scaler(ScalerModel { features, transform: Transform::Log1p, mean: vec![1.0], scale: vec![2.0] }))
    }

    #[test]
    fn connected_models_are_registered_with_digest_metrics_and_signature() {
        let mut bench = Bench::new(&Register).file("kmeans", &kmeans()).file("scaler", &scaler());
        bench.run().unwrap();
        let [first, second] = bench.context.models.as_slice() else { panic!("two models were connected") };
        assert_eq!((first.name.as_str(), second.name.as_str()), ("customer-scaler", "customer-kmeans"));
        assert_eq!(second.artifact_digest, Digest::of(&kmeans()).as_str());
        assert_eq!(second.metrics_json, r#"{"silhouette":0.27}"#);
        assert_eq!(second.params_json, r#"{"seed":42}"#);
        assert_eq!(second.aliases, ["champion"]);
        assert_eq!(
            second.signature_json,
            r#"{"inputs":[{"name":"Recency","type":"f64"}],"outputs":[{"name":"Cluster","type":"i64"}]}"#
        );
        assert_eq!(bench.json("registered")["models"][1]["name"], "customer-kmeans");
    }

    #[test]
    fn wrong_names_kinds_and_documents_are_refused() {
        let refused = |mut bench: Bench<'_>| bench.run().unwrap_err().to_string();
        assert!(refused(Bench::new(&Register)).contains("no model is connected"));
        assert!(refused(Bench::new(&Register).file("clv", &kmeans())).contains("is a model of kind kmeans"));
        assert!(refused(Bench::new(&Register).file("clv", b"\x00garbage")).contains("input `clv`: not a Segue model"));
        let named = |name, value: &str| Bench::new(&Register).file("kmeans", &kmeans()).param(name, json!(value));
        assert!(refused(named("prefix", "Größe")).contains("parameter `prefix`"));
        assert!(refused(named("alias", "3")).contains("parameter `alias`"));
    }

    #[test]
    fn an_empty_alias_moves_none() {
        let mut bench = Bench::new(&Register).file("scaler", &scaler()).param("alias", json!(""));
        bench.run().unwrap();
        assert!(bench.context.models[0].aliases.is_empty());
    }
}
