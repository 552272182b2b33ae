//! What may happen to the core, and everything the core may do to the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segue_proto::{
    artifact::{ModelRegistration, NamedArtifact, Usage},
    failure::Failure,
    ids::{PoolName, RunId, Token, WorkerName},
    resources::Resources,
};
use serde_json::Value;

use super::{Run, UnixMillis, WorkerKey, fleet::Settings, rerun::Plan};
use crate::spec::RunSpec;

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// A client submitted a run that was bound and checked.
    Submit(Box<Run>),
    /// A client asked for a rerun; `run` is as stored.
    Rerun {
        run: Box<Run>,
        spec: Arc<RunSpec>,
        plan: Box<Plan>,
    },
    CancelRun {
        run: RunId,
        /// Not by a person: a run that is being cancelled already goes on as it does, with what runs `always` or `finally`.
        gently: bool,
        /// In words, for people who find it cancelled.
        why: String,
    },
    CancelTask {
        run: RunId,
        task: u32,
    },
    /// A worker opened a link.
    Hello {
        worker: Box<super::Worker>,
        held: Vec<Held>,
    },
    /// The link of a worker closed. Its leases go on until they expire.
    LinkClosed {
        worker: WorkerKey,
        link: u64,
    },
    Heartbeat {
        worker: WorkerKey,
        sequence: u64,
        tokens: Vec<Token>,
    },
    Started {
        worker: WorkerKey,
        token: Token,
    },
    Progress {
        worker: WorkerKey,
        token: Token,
        progress: super::Progress,
    },
    Finished {
        worker: WorkerKey,
        token: Token,
        usage: Usage,
        outcome: Outcome,
        log_bytes: u64,
    },
    HandBack {
        worker: WorkerKey,
        token: Token,
        started: bool,
    },
    /// The worker says that it takes no more work.
    Draining {
        worker: WorkerKey,
    },
    /// A client asked a worker to take no more work.
    Drain {
        worker: WorkerName,
    },
    /// A client asked that a worker gets no new work, or work again.
    Cordon {
        worker: WorkerName,
        on: bool,
    },
    /// A client changed labels of a worker.
    Label {
        worker: WorkerName,
        set: BTreeMap<String, String>,
        remove: BTreeSet<String>,
    },
    /// A client asked for fewer workers. `expected` is what it was shown: the choice is made again, and must be the same.
    ScaleIn {
        count: usize,
        labels: BTreeMap<String, String>,
        expected: Vec<WorkerKey>,
    },
    /// A client set the slots of a pool, or deleted it.
    SetPool {
        name: PoolName,
        slots: Option<u32>,
        /// Absent: as it was.
        description: Option<String>,
    },
    /// A sensor of a task that senses since then looked.
    Sensed {
        run: RunId,
        task: u32,
        since: UnixMillis,
        seen: Sight,
    },
    /// Time passed: leases and backoffs are looked at.
    Tick,
}

/// What a sensor saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    Met(String),
    NotYet(String),
    /// What is there now: the condition speaks of a change from it.
    Baseline(String),
    /// It can never be met as it is written.
    Fault(String),
}

/// An attempt that a worker says it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub token: Token,
    pub started: bool,
}

/// How an attempt ended, in the words of its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success {
        outputs: Vec<NamedArtifact>,
        models: Vec<ModelRegistration>,
        metrics_json: String,
        /// JSON outputs that the assignment asked for, by name; each is checked against its digest before it gets here.
        inline: BTreeMap<String, Value>,
    },
    Failure(Failure),
    Cancelled,
}

/// Everything that the core may do to the world, after its cause was flushed.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Goes down the link of a worker, if that link is still open.
    Send { worker: WorkerKey, link: u64, command: Command },
    /// Watchers of the run look again.
    RunChanged(RunId),
    /// A run has ended.
    RunEnded(RunId),
    /// Somebody looks at the condition of a sensor, and says what he saw.
    Probe { run: RunId, task: u32, since: UnixMillis },
}

/// A command to a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Welcome {
        unknown: Vec<Token>,
        adopted: Vec<Token>,
    },
    Assign {
        token: Token,
        inputs: Vec<NamedArtifact>,
        reserved: Resources,
        /// There is no room yet: the worker starts it when there is.
        ahead: bool,
    },
    /// Gives back what was given ahead and has not started.
    Retract {
        tokens: Vec<Token>,
    },
    /// The reason is always a user's: timeouts and lost leases end an attempt on the worker's own account.
    Cancel {
        token: Token,
    },
    HeartbeatAck {
        sequence: u64,
        lost: Vec<Token>,
    },
    FinishedAck {
        token: Token,
    },
    Drain,
    Goodbye {
        reason: &'static str,
    },
}

/// A result that another task of the same key may use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CachedResult {
    pub outputs: Vec<NamedArtifact>,
    pub metrics_json: String,
    /// JSON outputs that conditions and fan-outs read.
    pub inline: BTreeMap<String, Value>,
}

/// What must be in the store besides the states of runs, tasks and attempts.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Outputs that an attempt committed.
    Produced { run: RunId, task: u32, attempt: u32, outputs: Vec<NamedArtifact>, cached: bool },
    /// A result that later tasks of the same key may use.
    Cached { key: String, run: RunId, task: u32, attempt: u32, result: CachedResult },
    /// Models that a committed attempt registers.
    Models { run: RunId, task: u32, attempt: u32, models: Vec<ModelRegistration>, inputs: Vec<NamedArtifact> },
    /// What people have set for a worker; nothing is set any more where it is empty.
    Worker { name: WorkerName, settings: Settings },
    /// A pool; deleted without slots.
    Pool { name: PoolName, slots: Option<u32>, description: String },
}

/// Says what became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// A late or repeated report: acknowledged and ignored.
    Stale,
}

/// An event that no arrow allows. Logged and answered, never a panic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no run `{0}`")]
    NoSuchRun(RunId),
    #[error("run `{0}` has ended already")]
    RunEnded(RunId),
    #[error("run `{0}` is still going: cancel it or wait for it before a rerun")]
    RunGoing(RunId),
    #[error("the plan of run `{0}` executes nothing")]
    NothingToDo(RunId),
    #[error("run `{run}` has no task of index {index}")]
    NoSuchTask { run: RunId, index: u32 },
    #[error("task `{task}` of run `{run}` has ended already")]
    TaskEnded { run: RunId, task: String },
    #[error("there is no worker `{0}`")]
    NoSuchWorker(WorkerName),
    #[error("worker `{0}` would have more than {most} labels of its own", most = super::fleet::MOST_LABELS)]
    TooManyLabels(WorkerName),
    #[error("the workers changed while some were being chosen: try again")]
    FleetChanged,
    #[error("there is no pool `{0}`")]
    NoSuchPool(PoolName),
    #[error(
        "pool `{pool}` is in use by {tasks} task(s): `segue pools set {pool} 0` lets nothing new in; delete it when it is free"
    )]
    PoolInUse { pool: PoolName, tasks: usize },
    #[error("worker `{0}` is not connected under this incarnation")]
    UnknownWorker(WorkerKey),
    #[error("worker `{worker}` reported `{token}`, which is not its own")]
    NotYours { worker: WorkerKey, token: Token },
}

/// Ids whose records changed since the last commit.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub runs: BTreeSet<RunId>,
    pub tasks: BTreeSet<(RunId, u32)>,
    pub attempts: BTreeSet<(RunId, u32, u32)>,
    pub groups: BTreeSet<(RunId, u32)>,
}

/// What earlier runs left behind, read by the core through the shell.
pub trait Past {
    /// Finds the committed result of a cache key whose bytes are still there.
    fn cached(&self, key: &str) -> Option<CachedResult>;
}

impl Past for BTreeMap<String, CachedResult> {
    fn cached(&self, key: &str) -> Option<CachedResult> {
        self.get(key).cloned()
    }
}
