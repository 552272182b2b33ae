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
use crate::schedule::ScheduleDecl;

/// A checked pipeline file. Tasks keep the order of the file; indices into `tasks` are stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub name: PipelineName,
    pub description: String,
    pub params: Vec<ParamDecl>,
    pub tasks: Vec<Task>,
    /// Larger goes first among the runs that wait; one step is worth a minute of waiting.
    #[serde(default)]
    pub priority: i32,
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    /// When it runs by itself.
    #[serde(default)]
    pub schedule: Option<ScheduleDecl>,
    /// Of every version of this name, as long as this one is the newest.
    #[serde(default)]
    pub retention: super::Retention,
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// How many runs may go on at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    pub max: u32,
    /// Runs count together that have the same key; may hold `${params.NAME}`. Empty: all runs of the pipeline.
    pub key: String,
    pub on_full: OnFull,
}

/// What becomes of a run that finds no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It ends at once, skipped.
    Skip,
    /// The runs that go on are cancelled, and it starts when they have ended.
    CancelRunning,
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
    #[serde(flatten, default)]
    pub flow: Flow,
}

/// When a task runs, how often, and what it holds besides resources. The same before and after binding, except that
/// binding fills parameters into its texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    pub run_if: RunIf,
    /// An expression over `params`, `tasks` and `item`; false skips the task.
    pub when: Option<String>,
    /// Runs once everything that is not `finally` has ended, whatever came of it.
    pub finally: bool,
    pub fan_out: Option<FanOut>,
    /// Slots of named pools that each attempt holds.
    pub pools: BTreeMap<String, u32>,
    /// At most so many attempts at a time of all tasks, of all runs, with the same key.
    pub limit: Option<Limit>,
    /// How long the task may wait for a worker.
    pub queue_timeout_ms: Option<u64>,
    /// How long a command may be silent: it must touch the file `$SEGUE_HEARTBEAT` more often.
    pub heartbeat_timeout_ms: Option<u64>,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: Option<u32>,
    /// Memory of its own that an attempt may take: one that takes more is killed.
    pub memory_limit_bytes: Option<u64>,
}

/// Which ends of its needs let a task run. It is decided once all of them have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunIf {
    /// The default, and the only one that is decided as soon as one need has failed.
    #[default]
    AllSucceeded,
    AnySucceeded,
    AnyFailed,
    /// Whatever came of them, unless the run was cancelled.
    AllDone,
    /// Whatever came of them, even when the run was cancelled.
    Always,
}

/// A limit by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// May hold `${params.NAME}`, `${item}` and `${key}`.
    pub key: String,
    pub max: u32,
}

/// `foreach` or `matrix`: one task becomes a child for each item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FanOut {
    pub over: Over,
    /// Template of a child's key, such as `${item.id}`. Absent: the item's own text; for a combination of a matrix its
    /// values with `+` between them; for any other table or list its number.
    pub key: Option<String>,
    /// Children that may be live at a time.
    pub max_parallel: Option<u32>,
    /// Children that may fail while the whole still succeeds.
    pub tolerate: u32,
    /// The first failure beyond that cancels the other children.
    pub fail_fast: bool,
}

/// Where the items come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    Items(Vec<Value>),
    /// A list parameter, `${params.NAME}`; binding makes it `Items`.
    Param(String),
    /// Files, by a pattern that may hold parameters; submission makes it `Items`, sorted.
    Glob(String),
    /// From `from`, below `to`.
    Range {
        from: i64,
        to: i64,
        step: i64,
    },
    /// A range of which parameters say something; binding makes it `Range`.
    RangeOf {
        from: Number,
        to: Number,
        step: Number,
    },
    /// A JSON array that another task puts out.
    Output(OutputRef),
    /// Every combination: an item is a table with one value of each list. The last name changes fastest.
    Matrix(Vec<(String, Vec<Value>)>),
}

/// A whole number, or the whole-number parameter that gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Number {
    Int(i64),
    Param(String),
}

/// What a task executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Name and version of an operator of the catalogue.
    Operator { name: String, version: String, pure: bool, wants_run_facts: bool },
    /// Program and arguments.
    Command { argv: Vec<String> },
    /// A condition outside that the coordinator looks at. It takes no worker and no slot. One of `{"file": "s3://…"}`,
    /// `{"http": "https://…", "status": 200}`, `{"time": "2026-01-01T00:00:00Z"}`, `{"artifact": "pipeline/task.output"}`;
    /// a path is absolute once bound.
    Sensor { sensor: Value, every_ms: u64 },
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
    /// Labels that the worker must not have; an empty value stands for any.
    #[serde(default)]
    pub not_labels: BTreeMap<String, String>,
    /// What may be taken instead, in order, where the amounts above find no room now.
    #[serde(default)]
    pub alternatives: Vec<Resources>,
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
    /// Exit codes that are never tried again, whatever else is said.
    #[serde(default)]
    pub never: Vec<i32>,
    /// What holds for single classes and exit codes instead; the first that fits counts.
    #[serde(default)]
    pub rules: Vec<RetryRule>,
}

/// How often and when one kind of failure is tried again: where its class is in `on` or its exit code in `exit_codes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryRule {
    pub on: Vec<FailureClass>,
    pub exit_codes: Vec<i32>,
    pub attempts: u32,
    pub backoff: Backoff,
    pub initial_ms: u64,
    pub max_ms: u64,
    pub jitter: f64,
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
            never: Vec::new(),
            rules: Vec::new(),
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
    /// Every parameter with its value and type, for expressions.
    #[serde(default)]
    pub values: serde_json::Map<String, Value>,
    #[serde(default)]
    pub priority: i32,
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    pub tasks: Vec<BoundTask>,
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

impl RunSpec {
    /// Checks what everything else takes for granted and binding makes sure of: every edge leads to a task, none leads
    /// back, and names differ. For a spec that was kept, and may have been damaged since.
    ///
    /// # Errors
    /// Says what does not add up.
    pub fn adds_up(&self) -> Result<(), String> {
        let needs: Vec<Vec<usize>> = self.tasks.iter().map(BoundTask::needs).collect();
        let mut dependants = vec![Vec::new(); needs.len()];
        for (task, needed) in needs.iter().enumerate() {
            for &need in needed {
                let known: Option<&mut Vec<usize>> = dependants.get_mut(need);
                known.ok_or_else(|| format!("task {task} needs task {need}, and there is none"))?.push(task);
            }
        }
        let mut left: Vec<usize> = needs.iter().map(Vec::len).collect();
        let mut ready: Vec<usize> = (0..left.len()).filter(|&task| left[task] == 0).collect();
        let mut reached = 0;
        while let Some(task) = ready.pop() {
            reached += 1;
            for &next in &dependants[task] {
                left[next] -= 1;
                if left[next] == 0 {
                    ready.push(next);
                }
            }
        }
        if reached < needs.len() {
            return Err("its tasks wait for each other".to_owned());
        }
        let names: std::collections::BTreeSet<&TaskName> = self.tasks.iter().map(|task| &task.name).collect();
        if names.len() < needs.len() { Err("two tasks have the same name".to_owned()) } else { Ok(()) }
    }
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
    #[serde(flatten, default)]
    pub flow: Flow,
    /// Outputs whose JSON must come with a success, because a condition or a `foreach` reads them.
    #[serde(default)]
    pub inline: Vec<String>,
}

impl BoundTask {
    /// Iterates over the tasks that this one waits for, each once, in order.
    #[must_use]
    pub fn needs(&self) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.inputs.values().map(|input| input.task).chain(self.after.iter().copied()).collect();
        if let Some(FanOut { over: Over::Output(from), .. }) = &self.flow.fan_out {
            all.push(from.task);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}
