//! One attempt from its assignment to its end: fetch the inputs, run, store the outputs.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::{Digest, Token},
    operator::Catalogue,
    v1::{self, assign::Work},
};
use serde_json::{Map, Value};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    blobs::Blobs,
    cache::{Cache, Pinned},
    devices,
    feed::{Feed, FeedSink},
    files,
    inline::Inline,
    inputs::{self, Inputs},
    redact::Redactor,
    room,
    scratch::{Ground, Scratch},
    secrets::{self, Environment},
};
use crate::runner::{
    Duty, Exit, Heartbeat, Limits, Pool, StopKind, Supervision, Wanted,
    frame::{CommandJob, JobResult, JobUsage, OperatorJob, Produced, Request},
};

/// What attempts share.
#[derive(Debug)]
pub struct Shared {
    pub catalogue: Catalogue,
    pub cache: Arc<Cache>,
    pub blobs: Blobs,
    pub pool: Pool,
    /// The working directories of attempts.
    pub ground: Arc<Ground>,
    /// What commands inherit from this process.
    pub inherited: BTreeMap<String, String>,
    /// The GPUs that this process itself may see, where something restricts them.
    pub visible_devices: Option<String>,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Outcome {
    Succeeded(v1::Success),
    Failed(Failure),
    /// It was told to stop and no process of it is left.
    Stopped,
}

/// The end of an attempt.
#[derive(Debug)]
pub struct Ended {
    pub token: Token,
    pub outcome: Outcome,
    pub usage: v1::Usage,
}

/// Why an attempt does not go on.
enum Halt {
    Failed(Failure),
    Stopped,
    TimedOut,
    Silent,
    TooLarge,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// An attempt that is being executed.
pub struct Attempt {
    pub shared: Arc<Shared>,
    pub token: Token,
    pub assign: v1::Assign,
    pub feed: Arc<Feed>,
    pub stop: watch::Receiver<StopKind>,
    /// When the lease of this worker ends.
    pub lease: watch::Receiver<Option<std::time::Instant>>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").field("token", &self.token).finish_non_exhaustive()
    }
}

/// What a job needs beside its request.
struct Prepared {
    job: Job,
    scratch: Scratch,
    environment: Environment,
    ports: Vec<v1::Port>,
    /// Keeps the inputs in the cache.
    _pins: Vec<Pinned>,
}

/// The work with its inputs at hand.
enum Job {
    Operator { call: v1::OperatorCall, params: Map<String, Value>, inputs: Inputs },
    Command { argv: Vec<String>, working_dir: PathBuf, env: BTreeMap<String, String> },
}

impl Attempt {
    /// Executes the attempt. When it returns, no process of it is left, and nothing in its working directory.
    pub async fn execute(mut self) -> Ended {
        let begun = Instant::now();
        let limit = Duration::from_millis(self.assign.timeout_ms);
        let deadline = (!limit.is_zero()).then(|| begun + limit);
        let mut cost = JobUsage::default();
        let outcome = match self.work(deadline, &mut cost).await {
            Ok(success) => Outcome::Succeeded(success),
            Err(Halt::Failed(failure)) => Outcome::Failed(failure),
            Err(Halt::Stopped) => Outcome::Stopped,
            Err(Halt::TimedOut) => Outcome::Failed(
                Failure::new(FailureClass::Timeout, format!("stopped after its time of {} s", limit.as_secs_f64()))
                    .hint("raise the timeout of the task if it needs longer"),
            ),
            Err(Halt::TooLarge) => {
                let mib = self.assign.memory_limit_bytes.div_ceil(1 << 20);
                let message = format!("killed because it took more memory than its `memory_limit` of {mib} MiB");
                Outcome::Failed(
                    Failure::new(FailureClass::Oom, message).hint("raise the limit, or let the task do less at a time"),
                )
            }
            Err(Halt::Silent) => {
                let limit = Duration::from_millis(self.assign.heartbeat_timeout_ms);
                let silence = format!("stopped because it gave no sign of life for {} s", limit.as_secs_f64());
                Outcome::Failed(Failure::new(FailureClass::Timeout, silence).hint(
                    "the command must touch the file $SEGUE_HEARTBEAT more often than the task's `heartbeat_timeout`",
                ))
            }
        };
        let usage = v1::Usage {
            wall_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            cpu_ms: cost.cpu_ms,
            peak_memory_bytes: cost.peak_memory_bytes,
        };
        Ended { token: self.token, outcome, usage }
    }

    /// Prepares the attempt and undoes it, for the fuzz targets.
    ///
    /// # Errors
    /// Why it could not be started.
    pub async fn rehearse(mut self) -> Result<(), Failure> {
        let work = self.assign.work.take();
        let prepared = self.prepare(work).await?;
        Inline::wanted(&self.assign.inline, &prepared.ports)?;
        inputs::json("run_facts_json", &self.assign.run_facts_json)?;
        match prepared.job {
            Job::Operator { .. } => Ok(()),
            Job::Command { .. } => self.heartbeat(&prepared.scratch).map(drop),
        }
    }

    async fn work(&mut self, deadline: Option<Instant>, cost: &mut JobUsage) -> Result<v1::Success, Halt> {
        let mut stop = self.stop.clone();
        let work = self.assign.work.take();
        let mut prepared = interruptible(self.prepare(work), &mut stop, deadline).await?;
        let produced = self.run(&mut prepared, deadline, cost).await?;
        let mut inline = Inline::wanted(&self.assign.inline, &prepared.ports)?;
        let redactor = prepared.environment.redactor();
        let stored = self.store(&prepared, produced.schemas, &mut inline, &redactor);
        let outputs = interruptible(stored, &mut stop, deadline).await;
        // A file may be named after a secret.
        let outputs = outputs.map_err(|halt| match halt {
            Halt::Failed(failure) => Halt::Failed(redactor.mask_failure(failure)),
            other => other,
        })?;
        let metrics_json =
            if produced.metrics.is_empty() { String::new() } else { Value::Object(produced.metrics).to_string() };
        Ok(v1::Success {
            outputs,
            models: produced.models.into_iter().map(Into::into).collect(),
            metrics_json,
            inline_json: inline.bytes(),
        })
    }

    async fn prepare(&self, work: Option<Work>) -> Result<Prepared, Failure> {
        let environment = secrets::resolve(&self.assign.env)?;
        let mut scratch = self.shared.ground.scratch();
        let mut pins = Vec::new();
        let inputs = inputs::artifacts(&self.shared, &self.assign, &mut pins).await?;
        let (job, ports) = match work {
            Some(Work::Operator(call)) => {
                let Some(spec) = self.shared.catalogue.get(&call.name) else {
                    return Err(Failure::new(
                        FailureClass::User,
                        format!("this worker has no operator `{}`", call.name),
                    ));
                };
                let params = inputs::params(&self.shared, &call.params_json, Some(spec), &mut pins).await?;
                let ports: Vec<v1::Port> = spec.outputs.iter().cloned().map(Into::into).collect();
                if !ports.is_empty() {
                    scratch.make()?;
                }
                (Job::Operator { call, params, inputs }, ports)
            }
            Some(Work::Command(call)) => {
                let params = inputs::params(&self.shared, &call.params_json, None, &mut pins).await?;
                scratch.make()?;
                let given = PathBuf::from(&call.working_dir);
                let working_dir =
                    if !call.working_dir.is_empty() && given.is_dir() { given } else { scratch.directory().to_owned() };
                let mut places = inputs.lay_out(&scratch.inputs())?;
                places.extend(inputs.single);
                let mut env = self.shared.inherited.clone();
                env.extend(inputs::variables(&self.assign, &places, &params, &scratch.outputs()));
                if self.assign.heartbeat_timeout_ms > 0 {
                    env.insert("SEGUE_HEARTBEAT".to_owned(), scratch.heartbeat().to_string_lossy().into_owned());
                }
                env.extend(self.hardware());
                env.extend(environment.variables.clone());
                (Job::Command { argv: call.argv, working_dir, env }, call.outputs)
            }
            None => return Err(Failure::new(FailureClass::Infra, "the assignment names no work")),
        };
        Ok(Prepared { job, scratch, environment, ports, _pins: pins })
    }

    /// Gives the variables that make a process see the GPUs of the lease, and no others.
    fn hardware(&self) -> BTreeMap<String, String> {
        let own = self.shared.visible_devices.as_deref();
        devices::leased(self.assign.resources.as_ref())
            .map(|devices| devices::variables(&devices, own))
            .unwrap_or_default()
    }

    /// Begins to listen for signs of life, where the command must give some.
    fn heartbeat(&self, scratch: &Scratch) -> Result<Option<Heartbeat>, Failure> {
        let limit = Duration::from_millis(self.assign.heartbeat_timeout_ms);
        if limit.is_zero() {
            return Ok(None);
        }
        Heartbeat::begin(scratch.heartbeat(), limit, Instant::now()).map(Some).map_err(|e| {
            Failure::new(FailureClass::Infra, format!("cannot make the file $SEGUE_HEARTBEAT: {e}"))
                .hint("see to the space and the permissions of the worker's directory")
        })
    }

    async fn run(
        &self,
        prepared: &mut Prepared,
        deadline: Option<Instant>,
        cost: &mut JobUsage,
    ) -> Result<Produced, Halt> {
        let redactor = prepared.environment.redactor();
        let (request, runner) = match &mut prepared.job {
            Job::Operator { call, params, inputs } => {
                let run_facts = inputs::json("run_facts_json", &self.assign.run_facts_json)?;
                let request = Request::Operator(Box::new(OperatorJob {
                    name: call.name.clone(),
                    version: call.version.clone(),
                    params: std::mem::take(params),
                    inputs: std::mem::take(&mut inputs.single),
                    joined: std::mem::take(&mut inputs.joined),
                    output_dir: prepared.scratch.outputs(),
                    run_facts,
                    gpus: self.assign.resources.as_ref().map_or(0, |reserved| reserved.gpu_milli.div_ceil(1_000)),
                }));
                let wanted = Wanted {
                    operator: &call.name,
                    devices: &devices::leased(self.assign.resources.as_ref()).unwrap_or_default(),
                    hardware: &self.hardware(),
                    env: &prepared.environment.variables,
                };
                (request, self.shared.pool.for_operator(wanted).await)
            }
            Job::Command { argv, working_dir, env } => {
                let request = Request::Command(CommandJob {
                    argv: std::mem::take(argv),
                    working_dir: std::mem::take(working_dir),
                    env: std::mem::take(env),
                });
                (request, self.shared.pool.for_command().await)
            }
        };
        let mut runner =
            runner.map_err(|e| Failure::new(FailureClass::Infra, format!("the worker cannot start a runner: {e}")))?;
        let mut sink = FeedSink(Arc::clone(&self.feed));
        let limits = Limits {
            deadline,
            grace: Duration::from_millis(self.assign.grace_ms.into()),
            memory_bytes: Some(self.assign.memory_limit_bytes).filter(|bytes| *bytes > 0),
        };
        let heartbeat = match request {
            Request::Command(_) => self.heartbeat(&prepared.scratch)?,
            _ => None,
        };
        let (stop, lease, room) = (self.stop.clone(), self.lease.clone(), self.feed.room());
        let supervision = Supervision { limits, stop, lease, heartbeat, room, redactor, sink: &mut sink };
        let exit = runner.run(&request, supervision).await;
        let (result, usage, reusable) = match exit {
            Exit::Ended { result: JobResult::Succeeded(produced), usage, reusable } => (Ok(produced), usage, reusable),
            Exit::Ended { result: JobResult::Failed(failure), usage, reusable } => {
                (Err(room::blame(failure, prepared.scratch.directory()).into()), usage, reusable)
            }
            Exit::Crashed(failure) => (Err(failure.into()), JobUsage::default(), false),
            Exit::Stopped { usage, reusable } => (Err(Halt::Stopped), usage, reusable),
            Exit::TimedOut { usage, reusable } => (Err(Halt::TimedOut), usage, reusable),
            Exit::Silent { usage, reusable } => (Err(Halt::Silent), usage, reusable),
            Exit::TooLarge { usage, reusable } => (Err(Halt::TooLarge), usage, reusable),
        };
        *cost = usage;
        if !reusable {
            prepared.scratch.spoil();
        }
        if reusable && (runner.duty() == Duty::Commands || prepared.environment.variables.is_empty()) {
            self.shared.pool.give_back(runner);
        }
        result
    }

    async fn store(
        &self,
        prepared: &Prepared,
        mut schemas: BTreeMap<String, Value>,
        inline: &mut Inline,
        secrets: &Redactor,
    ) -> Result<Vec<v1::NamedArtifact>, Failure> {
        let directory = prepared.scratch.outputs();
        let mut stored = Vec::with_capacity(prepared.ports.len());
        for port in &prepared.ports {
            let Some(file) = files::find_output(&directory, &port.name)? else {
                if port.optional {
                    continue;
                }
                return Err(files::missing(&directory, &port.name));
            };
            // Before it is stored, which may take the file away.
            inline.read(&port.name, &file, secrets)?;
            let (digest, size_bytes) = self.store_file(&port.name, file).await?;
            let schema = schemas.remove(&port.name).map(|schema| schema.to_string()).unwrap_or_default();
            let artifact = v1::Artifact { digest: digest.into(), size_bytes, kind: port.kind.clone(), schema };
            stored.push(v1::NamedArtifact { name: port.name.clone(), artifact: Some(artifact), key: String::new() });
        }
        Ok(stored)
    }

    async fn store_file(&self, port: &str, file: PathBuf) -> Result<(Digest, u64), Failure> {
        let unreadable = |e: String| Failure::new(FailureClass::Infra, format!("cannot read output `{port}`: {e}"));
        let path = file.clone();
        let (digest, size) = tokio::task::spawn_blocking(move || files::digest(&path))
            .await
            .map_err(|e| unreadable(e.to_string()))?
            .map_err(|e| unreadable(e.to_string()))?;
        self.shared.blobs.store(&file, &digest, size).await?;
        // Where the store is far away the file is still here, and the next task may want it. It is no loss if not.
        if self.shared.blobs.in_place(&digest).is_none() && files::is_own(&file) {
            let _ = self.shared.cache.adopt(&file, &digest, size);
        }
        Ok((digest, size))
    }
}

/// Does a part of the work that can be dropped at any point.
async fn interruptible<T>(
    work: impl Future<Output = Result<T, Failure>>,
    stop: &mut watch::Receiver<StopKind>,
    deadline: Option<Instant>,
) -> Result<T, Halt> {
    let out_of_time = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        Ok(_) = stop.wait_for(|kind| *kind != StopKind::GoOn) => Err(Halt::Stopped),
        result = work => result.map_err(Halt::Failed),
        () = out_of_time => Err(Halt::TimedOut),
    }
}
