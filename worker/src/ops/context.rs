//! What an operator sees of its attempt: inputs, parameters, outputs, progress, cancellation.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use segue_proto::{
    failure::{Failure, FailureClass},
    v1,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Why an operator gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpError(pub Failure);

impl OpError {
    /// The task or its parameters are wrong.
    pub fn user(message: impl Into<String>) -> Self {
        Self(Failure::new(FailureClass::User, message))
    }

    /// The input data is wrong.
    pub fn data(message: impl Into<String>) -> Self {
        Self(Failure::new(FailureClass::Data, message))
    }

    /// Disk, network or the like; may pass.
    pub fn infra(message: impl Into<String>) -> Self {
        Self(Failure::new(FailureClass::Infra, message))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = hint.into();
        self
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if !self.0.hint.is_empty() {
            write!(f, " (hint: {})", self.0.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for OpError {}

/// Parameters of an attempt. Their types were checked before dispatch, and are checked again here.
#[derive(Debug, Clone, Default)]
pub struct Params(pub Map<String, Value>);

impl Params {
    /// Gives a parameter that has a value.
    ///
    /// # Errors
    /// Class `user` if it is missing or of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, OpError> {
        let value = self.0.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value.clone())
            .map_err(|e| OpError::user(format!("parameter `{name}` cannot be {value}: {e}")))
    }

    /// Gives a parameter that may be left out.
    ///
    /// # Errors
    /// Class `user` if it is of another type.
    pub fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, OpError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.get(name).map(Some),
        }
    }
}

/// Where progress goes: done, total (0: unknown), message.
pub type ProgressSink = Box<dyn FnMut(u64, u64, &str) + Send>;

/// One attempt, as an operator sees it.
pub struct Context {
    inputs: BTreeMap<String, PathBuf>,
    /// By key of the child that made each.
    joined: BTreeMap<String, BTreeMap<String, PathBuf>>,
    output_dir: PathBuf,
    /// Parameters with every default filled in.
    pub params: Params,
    /// Facts of the run (JSON object), for operators that ask for them.
    pub run_facts: Value,
    /// GPUs that the attempt holds; 0 where it must stay on the CPU.
    pub gpus: u32,
    /// Numbers and short strings shown with the task.
    pub metrics: Map<String, Value>,
    /// Models to register when this attempt commits.
    pub models: Vec<v1::ModelRegistration>,
    schemas: BTreeMap<String, Value>,
    progress: ProgressSink,
    cancelled: Arc<AtomicBool>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("inputs", &self.inputs).field("params", &self.params).finish_non_exhaustive()
    }
}

impl Context {
    /// Makes the context of an attempt. `output_dir` exists and is empty.
    #[must_use]
    pub fn new(inputs: BTreeMap<String, PathBuf>, output_dir: PathBuf, params: Map<String, Value>) -> Self {
        Self {
            inputs,
            joined: BTreeMap::new(),
            output_dir,
            params: Params(params),
            run_facts: Value::Null,
            gpus: 0,
            metrics: Map::new(),
            models: Vec::new(),
            schemas: BTreeMap::new(),
            progress: Box::new(|_, _, _| {}),
            cancelled: Arc::default(),
        }
    }

    /// Adds inputs that join the children of a task, by key.
    #[must_use]
    pub fn with_joined(mut self, joined: BTreeMap<String, BTreeMap<String, PathBuf>>) -> Self {
        self.joined = joined;
        self
    }

    /// Sends progress to `sink`.
    #[must_use]
    pub fn with_progress(mut self, sink: ProgressSink) -> Self {
        self.progress = sink;
        self
    }

    /// Stops when `flag` is set.
    #[must_use]
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancelled = flag;
        self
    }

    /// Gives the file of an input.
    ///
    /// # Errors
    /// Class `user` if the input is not connected, or joins the children of a task.
    pub fn input(&self, name: &str) -> Result<&Path, OpError> {
        self.optional_input(name).ok_or_else(|| match self.joined.get(name) {
            None => OpError::user(format!("input `{name}` is not connected")),
            Some(files) => OpError::user(format!(
                "input `{name}` takes one file and is connected to a fan-out that made {}",
                files.len()
            ))
            .hint("bring its children together first, for example with core.collect"),
        })
    }

    /// Gives the files of an input that joins the children of a task, by key: none where there was no child. A single
    /// output has the name of the input for a key.
    #[must_use]
    pub fn many(&self, name: &str) -> BTreeMap<&str, &Path> {
        let joined = self.joined.get(name).into_iter().flatten();
        let files = joined.map(|(key, file)| (key.as_str(), file.as_path()));
        let single = self.inputs.get_key_value(name).map(|(name, file)| (name.as_str(), file.as_path()));
        files.chain(single).collect()
    }

    /// Gives the file of an input that may be left out.
    #[must_use]
    pub fn optional_input(&self, name: &str) -> Option<&Path> {
        self.inputs.get(name).map(PathBuf::as_path)
    }

    /// Gives the file that an output must be written to. An output is a single file named like its port.
    #[must_use]
    pub fn output(&self, name: &str) -> PathBuf {
        self.output_dir.join(name)
    }

    /// Writes an output that is at hand.
    ///
    /// # Errors
    /// Class `infra` if the disk refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OpError> {
        std::fs::write(self.output(name), bytes)
            .map_err(|e| OpError::infra(format!("cannot write output `{name}`: {e}")))
    }

    /// Describes the columns of a table or the shape of a matrix, for people and for lineage.
    pub fn describe(&mut self, output: &str, schema: Value) {
        self.schemas.insert(output.to_owned(), schema);
    }

    /// Gives the descriptions made so far.
    #[must_use]
    pub const fn schemas(&self) -> &BTreeMap<String, Value> {
        &self.schemas
    }

    /// Reports progress; `total` 0 means unknown.
    pub fn progress(&mut self, done: u64, total: u64, message: &str) {
        (self.progress)(done, total, message);
    }

    /// Says whether the attempt was told to stop. Long loops ask between chunks.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Gives the flag that says stop, for kernels that run on other threads.
    #[must_use]
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn context() -> Context {
        let parts = BTreeMap::from([("eu".to_owned(), PathBuf::from("/1")), ("us".to_owned(), PathBuf::from("/2"))]);
        Context::new(BTreeMap::from([("one".to_owned(), PathBuf::from("/0"))]), PathBuf::new(), Map::new())
            .with_joined(BTreeMap::from([("parts".to_owned(), parts)]))
    }

    #[test]
    fn a_joined_input_is_given_by_key_and_a_single_one_under_its_own_name() {
        let context = context();
        assert_eq!(context.many("parts"), BTreeMap::from([("eu", Path::new("/1")), ("us", Path::new("/2"))]));
        assert_eq!(context.many("one"), BTreeMap::from([("one", Path::new("/0"))]));
        assert!(context.many("absent").is_empty(), "a fan-out without children leaves nothing");
    }

    #[test]
    fn an_operator_that_takes_one_file_says_so_when_it_is_given_many() {
        let error = context().input("parts").unwrap_err();
        assert_eq!(error.0.class, FailureClass::User);
        assert!(error.0.message.contains("parts") && error.0.hint.contains("core.collect"), "{error}");
    }
}
