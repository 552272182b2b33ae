//! What an attempt reads: artifacts, external inputs, and the variables that lead a command to them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::{Digest, Token},
    operator::{OperatorSpec, ParamType},
    v1,
};
use serde_json::{Map, Value};
use url::Url;

use super::{attempt::Shared, blobs, cache::Pinned};

/// How a parameter names an uploaded file.
const BLOB: &str = "blob:";

/// Brings the input artifacts here and gives their files by input name.
///
/// # Errors
/// Class `infra` where bytes cannot be had.
pub async fn artifacts(
    shared: &Shared,
    inputs: &[v1::NamedArtifact],
    pins: &mut Vec<Pinned>,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut files = BTreeMap::new();
    for input in inputs {
        let digest = input.artifact.as_ref().and_then(|artifact| artifact.digest.parse::<Digest>().ok());
        let digest = digest.ok_or_else(|| {
            Failure::new(FailureClass::Infra, format!("the assignment gives input `{}` without a digest", input.name))
        })?;
        files.insert(input.name.clone(), blob(shared, &digest, pins).await?);
    }
    Ok(files)
}

/// Reads the parameters and replaces what lies elsewhere by local files: `blob:DIGEST` anywhere, URLs in path parameters.
///
/// # Errors
/// Class `infra` where bytes cannot be had, `user` where an address cannot be.
pub async fn params(
    shared: &Shared,
    text: &str,
    spec: Option<&OperatorSpec>,
    pins: &mut Vec<Pinned>,
) -> Result<Map<String, Value>, Failure> {
    let mut params = match json("params_json", text)? {
        Value::Object(params) => params,
        Value::Null => Map::new(),
        _ => return Err(Failure::new(FailureClass::Infra, "the parameters of the assignment are no object")),
    };
    for (name, value) in &mut params {
        let is_path = spec.is_some_and(|spec| spec.params.iter().any(|p| p.name == *name && p.kind == ParamType::Path));
        let texts: Vec<&mut Value> = match value {
            Value::Array(items) => items.iter_mut().collect(),
            single => vec![single],
        };
        for text in texts {
            if let Some(file) = local(shared, text, is_path, pins).await? {
                *text = Value::from(file);
            }
        }
    }
    Ok(params)
}

/// Gives the local file for a value that names something elsewhere.
async fn local(
    shared: &Shared,
    value: &Value,
    is_path: bool,
    pins: &mut Vec<Pinned>,
) -> Result<Option<String>, Failure> {
    let Value::String(text) = value else { return Ok(None) };
    let file = if let Some(digest) = text.strip_prefix(BLOB).and_then(|digest| digest.parse::<Digest>().ok()) {
        blob(shared, &digest, pins).await?
    } else if is_path && text.contains("://") {
        let url = Url::parse(text)
            .map_err(|e| Failure::new(FailureClass::User, format!("`{text}` is neither a path nor a URL: {e}")))?;
        if url.scheme() == "file" {
            url.to_file_path()
                .map_err(|()| Failure::new(FailureClass::User, format!("`{text}` names no local file")))?
        } else {
            let (key, found) = blobs::external(&url).await?;
            let pinned = shared.cache.get(&key, |to| async move { found.download(&to).await }).await?;
            let file = pinned.path().to_owned();
            pins.push(pinned);
            file
        }
    } else {
        return Ok(None);
    };
    Ok(Some(file.to_string_lossy().into_owned()))
}

async fn blob(shared: &Shared, digest: &Digest, pins: &mut Vec<Pinned>) -> Result<PathBuf, Failure> {
    if let Some(file) = shared.blobs.in_place(digest) {
        return Ok(file);
    }
    let pinned = shared.cache.get(digest, |to| async move { shared.blobs.fetch(digest, &to).await }).await?;
    let file = pinned.path().to_owned();
    pins.push(pinned);
    Ok(file)
}

/// Reads a JSON field of an assignment; an empty one is null.
///
/// # Errors
/// Class `infra`: the coordinator made it.
pub fn json(field: &str, text: &str) -> Result<Value, Failure> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text)
        .map_err(|e| Failure::new(FailureClass::Infra, format!("field `{field}` of the assignment is not JSON: {e}")))
}

/// Gives the variables that tell a command where everything is.
pub fn variables(
    token: &Token,
    inputs: &BTreeMap<String, PathBuf>,
    params: &Map<String, Value>,
    outputs: &Path,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("SEGUE_RUN_ID".to_owned(), token.run.to_string()),
        ("SEGUE_TASK".to_owned(), token.task.to_string()),
        ("SEGUE_ATTEMPT".to_owned(), token.attempt.to_string()),
        ("SEGUE_OUTPUT_DIR".to_owned(), outputs.to_string_lossy().into_owned()),
    ]);
    for (name, file) in inputs {
        env.insert(variable("SEGUE_INPUT", name), file.to_string_lossy().into_owned());
    }
    for (name, value) in params {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        env.insert(variable("SEGUE_PARAM", name), text);
    }
    env
}

/// Makes a name that every shell takes.
fn variable(prefix: &str, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{prefix}_{}", name.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_finds_everything_in_its_variables() {
        let token = Token {
            run: "run_01j8zk5m8w0000000000000000".parse().unwrap(),
            index: 0,
            task: "publish".parse().unwrap(),
            attempt: 2,
            epoch: 1,
        };
        let inputs = BTreeMap::from([("top-customers".to_owned(), PathBuf::from("/cache/1"))]);
        let params = Map::from_iter([("name".to_owned(), Value::from("a b")), ("k".to_owned(), Value::from(5))]);
        let env = variables(&token, &inputs, &params, Path::new("/out"));
        assert_eq!(env["SEGUE_INPUT_TOP_CUSTOMERS"], "/cache/1");
        assert_eq!(env["SEGUE_PARAM_NAME"], "a b", "a string without quotes");
        assert_eq!(env["SEGUE_PARAM_K"], "5");
        assert_eq!(env["SEGUE_OUTPUT_DIR"], "/out");
        assert_eq!(env["SEGUE_ATTEMPT"], "2");
    }

    #[test]
    fn broken_json_of_an_assignment_names_its_field() {
        assert!(json("params_json", "{").unwrap_err().message.contains("params_json"));
        assert_eq!(json("params_json", "").unwrap(), Value::Null);
    }
}
