//! A checked pipeline, and a run bound to parameters. Only the checker makes the first, only the binder the second.

use std::collections::BTreeMap;

use segue_proto::{
    failure::FailureClass,
    ids::{PipelineName, TaskName},
    operator::{ParamType, Port},
    resources::{GpuPreference, Resources},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hooks::Hooks;

/// A checked pipeline file. Tasks keep the order of the file; indices into `tasks` are stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub name: PipelineName,
    pub description: String,
    pub params: Vec<ParamDecl>,
    pub tasks: Vec<Task>,
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// A declared parameter of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamDecl {
    pub name: String,
    pub kind: ParamType,
    /// Absent: must be given at submission.
    pub default: Option<Value>,
    pub one_of: Vec<String>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub help: String,
}

/// A node of the DAG, before parameters are filled in: strings in `with`, `env` and commands may hold `${params.NAME}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub name: TaskName,
    pub work: Work,
    /// Data edges by input name.
    pub inputs: BTreeMap<String, OutputRef>,
    /// Control edges: indices of tasks, sorted.
    pub after: Vec<usize>,
    pub with: serde_json::Map<String, Value>,
    pub env: BTreeMap<String, EnvValue>,
    pub resources: ResourceRequest,
    pub timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
    /// Absent: the default of the operator (pure: yes; commands: no).
    pub cache: Option<bool>,
    /// Larger goes first.
    pub priority: i32,
    /// Declared outputs of a command; an operator's are in the catalogue.
    pub outputs: Vec<Port>,
    /// One line for people; may be empty.
    #[serde(default)]
    pub description: String,
}

/// What a task executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Name and version of an operator of the catalogue.
    Operator { name: String, version: String, pure: bool, wants_run_facts: bool },
    /// Program and arguments.
    Command { argv: Vec<String> },
}

/// An output of another task: index and output name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutputRef {
    pub task: usize,
    pub output: String,
}

/// A value of the environment of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    Text(String),
    /// A reference such as `env:CRM_TOKEN`, resolved on the worker and never here.
    Secret(String),
}

/// What a task takes from a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRequest {
    /// The amounts; `gpu` is 0 unless GPUs are required.
    pub amounts: Resources,
    pub gpu: GpuPreference,
    /// Labels that the worker must have.
    pub labels: BTreeMap<String, String>,
}

/// When and how often a failed task is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries in all, the first one included; at least 1.
    pub attempts: u32,
    pub backoff: Backoff,
    pub initial_ms: u64,
    pub max_ms: u64,
    /// Share of the delay that may be added or taken away, 0 to 1.
    pub jitter: f64,
    /// Classes that are tried again.
    pub on: Vec<FailureClass>,
}

/// How the delay between tries grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    Constant,
    Exponential,
}

impl Default for RetryPolicy {
    /// Three tries on faults that may pass: a fault of the user or the data fails at once.
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff::Exponential,
            initial_ms: 1_000,
            max_ms: 60_000,
            jitter: 0.2,
            on: vec![FailureClass::Infra, FailureClass::Timeout, FailureClass::Lost],
        }
    }
}

/// A pipeline with its parameters filled in: all that the core needs to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    pub pipeline: PipelineName,
    /// Digest of the normalised pipeline.
    pub version: String,
    /// Directory of the pipeline file, for commands; may be empty.
    pub working_dir: String,
    /// Every parameter with its value as text.
    pub params: BTreeMap<String, String>,
    pub tasks: Vec<BoundTask>,
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// A task whose parameters are filled in and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundTask {
    pub name: TaskName,
    pub work: Work,
    pub inputs: BTreeMap<String, OutputRef>,
    /// Control edges: indices of tasks.
    pub after: Vec<usize>,
    /// Parameters of the operator with every default filled in, or those of the command.
    pub params: serde_json::Map<String, Value>,
    /// Names of the parameters whose value is a path to an external input.
    pub path_params: Vec<String>,
    pub env: BTreeMap<String, EnvValue>,
    pub resources: ResourceRequest,
    pub timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
    /// Whether a committed result of the same key may be used.
    pub cache: bool,
    pub priority: i32,
    /// Outputs that a success must bring.
    pub outputs: Vec<Port>,
}

impl BoundTask {
    /// Iterates over the tasks that this one waits for, each once, in order.
    #[must_use]
    pub fn needs(&self) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.inputs.values().map(|input| input.task).chain(self.after.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
