//! A small cluster to test with.

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::{
    artifact::{Artifact, NamedArtifact, Usage},
    failure::{Failure, FailureClass},
    ids::{Digest, RunId, Token},
    operator::Port,
    resources::{GpuPreference, Resources},
};

use crate::{
    core::{
        CachedResult, Command, Config, Core, Dirty, Effect, Event, Held, Outcome, Refused, Run, TaskState, Verdict,
        Worker, WorkerKey,
    },
    spec::{BoundTask, OutputRef, ResourceRequest, RetryPolicy, RunSpec, Work},
};

pub type Cache = BTreeMap<String, CachedResult>;

/// A result in the cache with one output.
pub fn cached(content: &str) -> CachedResult {
    CachedResult { outputs: vec![output(content)], ..CachedResult::default() }
}

pub const LEASE: u64 = 1_000;

/// A cluster under test: the core, what it last did, and the time.
pub struct Bench {
    pub core: Core,
    pub cache: Cache,
    pub now: u64,
    pub sent: Vec<(WorkerKey, Command)>,
    pub last: Dirty,
    links: u64,
    /// What attempts say they took: a minute, so that nothing is given ahead unless a test wants it.
    pub took_ms: u64,
}

/// Makes a task of the operator `core.noop` that needs the given tasks.
pub fn task(name: &str, needs: &[usize]) -> BoundTask {
    BoundTask {
        name: name.parse().unwrap(),
        work: Work::Operator { name: "core.noop".into(), version: "1".into(), pure: true, wants_run_facts: false },
        inputs: needs
            .iter()
            .map(|need| (format!("in{need}"), OutputRef { task: *need, output: "out".into() }))
            .collect(),
        after: Vec::new(),
        params: serde_json::Map::new(),
        path_params: Vec::new(),
        env: BTreeMap::new(),
        resources: ResourceRequest {
            amounts: Resources { cpu_milli: 1_000, ..Resources::default() },
            gpu: GpuPreference::None,
            ..ResourceRequest::default()
        },
        timeout_ms: None,
        retry: RetryPolicy { attempts: 2, initial_ms: 100, max_ms: 100, jitter: 0.0, ..RetryPolicy::default() },
        cache: false,
        priority: 0,
        outputs: vec![Port {
            name: "out".into(),
            kind: "json".into(),
            optional: false,
            help: String::new(),
            many: false,
        }],
        flow: crate::spec::Flow::default(),
        inline: Vec::new(),
    }
}

pub fn spec(tasks: Vec<BoundTask>) -> Arc<RunSpec> {
    Arc::new(RunSpec {
        pipeline: "p".parse().unwrap(),
        version: "v".into(),
        working_dir: String::new(),
        params: BTreeMap::new(),
        values: serde_json::Map::new(),
        priority: 0,
        concurrency: None,
        tasks,
    })
}

pub fn run_id(n: u32) -> RunId {
    format!("run_{n:026}").parse().unwrap()
}

pub fn key(name: &str, incarnation: &str) -> WorkerKey {
    WorkerKey { name: name.parse().unwrap(), incarnation: incarnation.parse().unwrap() }
}

pub fn output(content: &str) -> NamedArtifact {
    let artifact = Artifact {
        digest: Digest::of(content.as_bytes()),
        size_bytes: content.len() as u64,
        kind: "json".into(),
        schema: String::new(),
    };
    NamedArtifact::new("out", artifact)
}

pub fn success(content: &str) -> Outcome {
    Outcome::Success {
        outputs: vec![output(content)],
        models: Vec::new(),
        metrics_json: String::new(),
        inline: BTreeMap::new(),
    }
}

pub fn failure(class: FailureClass) -> Outcome {
    Outcome::Failure(Failure::new(class, "as told"))
}

impl Bench {
    pub fn new() -> Self {
        Self::with_epoch(1)
    }

    pub fn with_epoch(epoch: u64) -> Self {
        Self {
            core: Core::new(Config { epoch, lease_ms: LEASE }),
            cache: Cache::new(),
            now: 10_000,
            sent: Vec::new(),
            last: Dirty::default(),
            links: 0,
            took_ms: 60_000,
        }
    }

    /// Decides an event, places, and collects what goes out. Ended runs stay in memory, to be looked at.
    pub fn tell(&mut self, event: Event) -> Result<Verdict, Refused> {
        let verdict = self.core.decide(event, self.now, &self.cache);
        self.core.place(self.now);
        self.last = self.core.take();
        for effect in &self.last.effects {
            if let Effect::Send { worker, command, .. } = effect {
                self.sent.push((worker.clone(), command.clone()));
            }
        }
        self.check();
        verdict
    }

    /// Invariants that hold after each event.
    fn check(&self) {
        for worker in self.core.workers() {
            if worker.link.is_some() {
                assert!(worker.capacity.fits(&worker.in_use()), "worker {} is over its capacity", worker.key);
            }
            for (run, task) in worker.leased.keys().chain(&worker.ahead) {
                let run = self.core.run(run).expect("a lease belongs to a run in memory");
                let state = &run.task(*task).expect("a task of the run").state;
                let TaskState::Live(live) = state else { panic!("a lease without a live attempt: {state:?}") };
                assert_eq!(live.worker, worker.key);
                assert_eq!(live.ahead, worker.ahead.contains(&(run.id, *task)));
            }
            let mut devices: BTreeMap<u32, u32> = BTreeMap::new();
            for reserved in worker.leased.values() {
                for device in &reserved.devices {
                    *devices.entry(*device).or_default() += reserved.gpu_milli.min(1_000);
                }
            }
            assert!(devices.values().all(|milli| *milli <= 1_000), "a GPU of {} is given out twice", worker.key);
        }
        for run in self.core.runs() {
            if run.state.is_terminal() {
                let open = |task: &crate::core::Task| !task.state.is_terminal();
                assert!(!run.tasks.iter().chain(&run.children).any(open), "an ended run has an open task");
            }
        }
    }

    pub fn submit(&mut self, n: u32, tasks: Vec<BoundTask>) -> RunId {
        let id = run_id(n);
        let run = Run::new(id, spec(tasks), String::new(), self.now);
        self.tell(Event::Submit(Box::new(run))).unwrap();
        id
    }

    pub fn worker(&mut self, name: &str, cpu: u32) -> WorkerKey {
        self.hello(name, "a", cpu, 0, Vec::new())
    }

    pub fn hello(&mut self, name: &str, incarnation: &str, cpu: u32, gpu: u32, held: Vec<Held>) -> WorkerKey {
        self.links += 1;
        let mut worker = Worker::awaited(key(name, incarnation));
        worker.link = Some(self.links);
        worker.capacity =
            Resources { cpu_milli: cpu * 1_000, memory_bytes: 1 << 30, gpu_milli: gpu * 1_000, ..Resources::default() };
        worker.operators.insert(("core.noop".into(), "1".into()));
        let key = worker.key.clone();
        self.tell(Event::Hello { worker: Box::new(worker), held }).unwrap();
        key
    }

    pub fn state(&self, run: &RunId, task: u32) -> &TaskState {
        &self.core.run(run).unwrap().task(task).unwrap().state
    }

    pub fn token(&self, run: &RunId, task: u32) -> Token {
        self.core.run(run).unwrap().live_token(task).expect("the task has a live attempt")
    }

    pub fn holder(&self, run: &RunId, task: u32) -> WorkerKey {
        match self.state(run, task) {
            TaskState::Live(live) => live.worker.clone(),
            state => panic!("task {task} is not live: {state:?}"),
        }
    }

    pub fn start(&mut self, run: &RunId, task: u32) {
        let (worker, token) = (self.holder(run, task), self.token(run, task));
        self.tell(Event::Started { worker, token }).unwrap();
    }

    pub fn finish(&mut self, run: &RunId, task: u32, outcome: Outcome) {
        let (worker, token) = (self.holder(run, task), self.token(run, task));
        self.report(&worker, &token, outcome).unwrap();
    }

    pub fn report(&mut self, worker: &WorkerKey, token: &Token, outcome: Outcome) -> Result<Verdict, Refused> {
        self.tell(Event::Finished {
            worker: worker.clone(),
            token: token.clone(),
            usage: Usage { wall_ms: self.took_ms, ..Usage::default() },
            outcome,
            log_bytes: 0,
        })
    }

    pub fn beat(&mut self, worker: &WorkerKey, tokens: Vec<Token>) {
        self.tell(Event::Heartbeat { worker: worker.clone(), sequence: 1, tokens }).unwrap();
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.tell(Event::Tick).unwrap();
    }

    pub fn assigned(&self) -> Vec<String> {
        self.sent
            .iter()
            .filter_map(|(_, command)| match command {
                Command::Assign { token, .. } => Some(token.task.to_string()),
                _ => None,
            })
            .collect()
    }
}
