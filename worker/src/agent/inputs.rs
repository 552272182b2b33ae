//! What an attempt reads: artifacts, external inputs, and the variables that lead a command to them.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, TryStreamExt as _};
use segue_proto::{
    failure::{Failure, FailureClass},
    ids::{Digest, ItemKey, PortName},
    operator::{OperatorSpec, ParamType},
    v1,
};
use serde_json::{Map, Value};
use url::Url;

use super::{attempt::Shared, blobs, cache::Pinned};

/// How a parameter names an uploaded file.
const BLOB: &str = "blob:";

/// Inputs of one attempt that are fetched at a time.
const FETCHES: usize = 16;

/// The files of an attempt's inputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// By input.
    pub single: BTreeMap<String, PathBuf>,
    /// By input that joins the children of a task, then by the key of the child.
    pub joined: BTreeMap<String, BTreeMap<String, PathBuf>>,
}

impl Inputs {
    /// Adds a file. Names and keys become names of files: they were checked before.
    fn add(&mut self, name: &PortName, key: Option<&ItemKey>, file: PathBuf) -> Result<(), Failure> {
        let before = match key {
            None if self.joined.contains_key(name.as_str()) => Some(file),
            None => self.single.insert(name.to_string(), file),
            Some(_) if self.single.contains_key(name.as_str()) => Some(file),
            Some(key) => self.joined.entry(name.to_string()).or_default().insert(key.to_string(), file),
        };
        if before.is_some() {
            let message = format!("the assignment gives input `{name}` twice");
            return Err(Failure::new(FailureClass::Infra, message));
        }
        Ok(())
    }

    /// Makes a directory of links for each joined input under `directory`: one for each child, named by its key.
    ///
    /// # Errors
    /// Class `infra` if the disk refuses.
    pub fn lay_out(&self, directory: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let link = |name: &str, files: &BTreeMap<String, PathBuf>| -> io::Result<PathBuf> {
            let place = directory.join(name);
            fs::create_dir_all(&place)?;
            for (key, file) in files {
                symlink(file, place.join(key))?;
            }
            Ok(place)
        };
        let mut places = BTreeMap::new();
        for (name, files) in &self.joined {
            let place = link(name, files).map_err(|e| {
                Failure::new(FailureClass::Infra, format!("cannot lay out the files of input `{name}`: {e}"))
                    .hint("see to the space and the permissions of the worker's directory")
            })?;
            places.insert(name.clone(), place);
        }
        Ok(places)
    }
}

/// An input as the assignment names it.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: PortName,
    key: Option<ItemKey>,
    digest: Digest,
}

/// Brings the input artifacts here and gives their files.
///
/// # Errors
/// Class `infra` where bytes cannot be had, `data` where they are lost or damaged.
pub async fn artifacts(shared: &Shared, assign: &v1::Assign, pins: &mut Vec<Pinned>) -> Result<Inputs, Failure> {
    let inputs = &assign.inputs;
    let mut found = Inputs::default();
    let wanted = wanted(inputs, &mut found)?;
    if wanted.is_empty() {
        return Ok(found);
    }
    let fetch = |one: &Wanted| {
        let (name, digest) = (one.name.clone(), one.digest.clone());
        async move { blob(shared, &digest).await.map_err(|failure| lost(failure, assign, name.as_str())) }
    };
    let fetches: Vec<_> = wanted.iter().map(fetch).collect();
    let files: Vec<Local> = futures::stream::iter(fetches).buffered(FETCHES).try_collect().await?;
    for (one, Local { file, pinned }) in wanted.iter().zip(files) {
        pins.extend(pinned);
        found.add(&one.name, one.key.as_ref(), file)?;
    }
    Ok(found)
}

/// Says which input it is that is lost, and who makes it again.
fn lost(failure: Failure, assign: &v1::Assign, input: &str) -> Failure {
    if failure.class != FailureClass::Data {
        return failure;
    }
    let run = assign.token.as_ref().map(|token| token.run_id.as_str()).unwrap_or_default();
    let hint = match assign.makers.get(input) {
        Some(maker) => format!("task `{maker}` makes it again: segue rerun {run} --from {maker}"),
        None => {
            "`segue artifacts lineage` names the task that makes it, and `segue rerun` has it made again".to_owned()
        }
    };
    Failure { message: format!("input `{input}`: {}", failure.message), ..failure }.hint(hint)
}

/// Reads what the assignment names. An input without an artifact is a join without children: it is there and empty.
fn wanted(inputs: &[v1::NamedArtifact], found: &mut Inputs) -> Result<Vec<Wanted>, Failure> {
    let bad = |name: &str, why: String| {
        let message = format!("the assignment gives input `{}` {why}", name.escape_debug());
        Failure::new(FailureClass::Infra, message)
    };
    let mut wanted = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name: PortName = input.name.parse().map_err(|e| bad(&input.name, format!("by a bad name: {e}")))?;
        let Some(artifact) = &input.artifact else {
            found.joined.entry(name.to_string()).or_default();
            continue;
        };
        let key = match input.key.as_str() {
            "" => None,
            key => Some(key.parse().map_err(|e| bad(&input.name, format!("with a bad key: {e}")))?),
        };
        let digest = artifact.digest.parse().map_err(|e| bad(&input.name, format!("without a digest: {e}")))?;
        wanted.push(Wanted { name, key, digest });
    }
    Ok(wanted)
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
        let Local { file, pinned } = blob(shared, &digest).await?;
        pins.extend(pinned);
        file
    } else if is_path && text.contains("://") {
        let url = Url::parse(text)
            .map_err(|e| Failure::new(FailureClass::User, format!("`{text}` is neither a path nor a URL: {e}")))?;
        if url.scheme() == "file" {
            url.to_file_path()
                .map_err(|()| Failure::new(FailureClass::User, format!("`{text}` names no local file")))?
        } else {
            let (key, found) = blobs::external(&url).await?;
            let download = |to: PathBuf| {
                let found = &found;
                async move { found.download(&to).await }
            };
            let pinned = shared.cache.get(&key, download).await?;
            let file = pinned.path().to_owned();
            pins.push(pinned);
            file
        }
    } else {
        return Ok(None);
    };
    Ok(Some(file.to_string_lossy().into_owned()))
}

/// A blob that is here.
struct Local {
    file: PathBuf,
    /// Keeps it in the cache, where it is there.
    pinned: Option<Pinned>,
}

async fn blob(shared: &Shared, digest: &Digest) -> Result<Local, Failure> {
    if let Some(file) = shared.blobs.in_place(digest) {
        shared.blobs.check_in_place(digest, &file).await?;
        return Ok(Local { file, pinned: None });
    }
    let pinned = shared.cache.get(digest, |to| async move { shared.blobs.fetch(digest, &to).await }).await?;
    Ok(Local { file: pinned.path().to_owned(), pinned: Some(pinned) })
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

/// Gives the variables that tell a command who it is and where everything is. An input is a file, or the directory of a
/// joined one.
pub fn variables(
    assign: &v1::Assign,
    inputs: &BTreeMap<String, PathBuf>,
    params: &Map<String, Value>,
    outputs: &Path,
) -> BTreeMap<String, String> {
    let token = assign.token.clone().unwrap_or_default();
    let mut env = BTreeMap::from([
        ("SEGUE_RUN_ID".to_owned(), token.run_id),
        ("SEGUE_TASK".to_owned(), token.task),
        ("SEGUE_ATTEMPT".to_owned(), token.attempt.to_string()),
        ("SEGUE_OUTPUT_DIR".to_owned(), outputs.to_string_lossy().into_owned()),
    ]);
    if !assign.key.is_empty() {
        env.insert("SEGUE_KEY".to_owned(), assign.key.clone());
        env.insert("SEGUE_INDEX".to_owned(), assign.item_index.to_string());
        env.insert("SEGUE_ITEM".to_owned(), assign.item_json.clone());
    }
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

    fn assign() -> v1::Assign {
        let token = v1::Token {
            run_id: "run_01j8zk5m8w0000000000000000".into(),
            index: 0,
            task: "publish".into(),
            attempt: 2,
            epoch: 1,
        };
        v1::Assign { token: Some(token), ..Default::default() }
    }

    fn input(name: &str, key: &str) -> v1::NamedArtifact {
        let artifact = v1::Artifact { digest: Digest::of(key.as_bytes()).to_string(), ..Default::default() };
        v1::NamedArtifact { name: name.into(), artifact: Some(artifact), key: key.into() }
    }

    #[test]
    fn a_command_finds_everything_in_its_variables() {
        let inputs = BTreeMap::from([("top-customers".to_owned(), PathBuf::from("/cache/1"))]);
        let params = Map::from_iter([("name".to_owned(), Value::from("a b")), ("k".to_owned(), Value::from(5))]);
        let env = variables(&assign(), &inputs, &params, Path::new("/out"));
        assert_eq!(env["SEGUE_INPUT_TOP_CUSTOMERS"], "/cache/1");
        assert_eq!(env["SEGUE_PARAM_NAME"], "a b", "a string without quotes");
        assert_eq!(env["SEGUE_PARAM_K"], "5");
        assert_eq!(env["SEGUE_OUTPUT_DIR"], "/out");
        assert_eq!((env["SEGUE_TASK"].as_str(), env["SEGUE_ATTEMPT"].as_str()), ("publish", "2"));
        assert!(!env.contains_key("SEGUE_KEY"), "it is no child of a fan-out");
    }

    #[test]
    fn a_child_of_a_fan_out_is_told_which() {
        let assign = v1::Assign { key: "eu".into(), item_index: 3, item_json: r#"{"a":1}"#.into(), ..assign() };
        let env = variables(&assign, &BTreeMap::new(), &Map::new(), Path::new("/out"));
        assert_eq!(env["SEGUE_KEY"], "eu");
        assert_eq!(env["SEGUE_INDEX"], "3");
        assert_eq!(env["SEGUE_ITEM"], r#"{"a":1}"#);
    }

    #[test]
    fn a_joined_input_is_a_directory_with_a_file_for_each_key() {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blob");
        fs::write(&blob, "bytes").unwrap();
        let mut inputs = Inputs::default();
        let name: PortName = "parts".parse().unwrap();
        for key in ["eu", "a=b@c"] {
            inputs.add(&name, Some(&key.parse().unwrap()), blob.clone()).unwrap();
        }
        assert!(inputs.add(&name, None, blob.clone()).is_err(), "one input is not both");
        assert!(inputs.add(&name, Some(&"eu".parse().unwrap()), blob.clone()).is_err(), "a key comes once");
        inputs.joined.insert("none".into(), BTreeMap::new());
        let places = inputs.lay_out(&directory.path().join("inputs")).unwrap();
        assert_eq!(fs::read(places["parts"].join("eu")).unwrap(), b"bytes");
        assert_eq!(fs::read_dir(&places["parts"]).unwrap().count(), 2);
        assert_eq!(fs::read_dir(&places["none"]).unwrap().count(), 0, "no child, no file");
    }

    #[test]
    fn inputs_are_read_from_the_assignment_and_hostile_ones_are_refused() {
        let mut found = Inputs::default();
        let empty = v1::NamedArtifact { name: "none".into(), ..Default::default() };
        let read = wanted(&[input("x", ""), input("parts", "eu"), empty], &mut found).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].key.as_ref(), read[1].key.as_ref().map(ItemKey::as_str)), (None, Some("eu")));
        assert_eq!(found.joined["none"], BTreeMap::new());
        for bad in [input("../x", ""), input("parts", "../../etc"), input("parts", "..")] {
            assert_eq!(wanted(&[bad], &mut found).unwrap_err().class, FailureClass::Infra);
        }
    }

    #[test]
    fn broken_json_of_an_assignment_names_its_field() {
        assert!(json("params_json", "{").unwrap_err().message.contains("params_json"));
        assert_eq!(json("params_json", "").unwrap(), Value::Null);
    }
}
