//! A small cluster to test with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segue_proto::{
    artifact::{Artifact, NamedArtifact, Usage},
    failure::{Failure, FailureClass},
    ids::{Digest, RunId, Token},
    operator::Port,
    resources::{GpuPreference, Resources},
};

use proptest::prelude::ProptestConfig;
use serde_json::Value;

use crate::{
    core::{
        CachedResult, Command, Config, Core, Dirty, Effect, Event, Held, Outcome, Refused, Run, RunState, TaskState,
        Verdict, Worker, WorkerKey, explain,
        rerun::{self, Plan, Selector},
    },
    spec::{BoundTask, FanOut, OutputRef, Over, ResourceRequest, RetryPolicy, RunIf, RunSpec, Work},
    store::MemoryStore,
};

pub type Cache = BTreeMap<String, CachedResult>;

/// A result in the cache with one output.
pub fn cached(content: &str) -> CachedResult {
    CachedResult { outputs: vec![output(content)], ..CachedResult::default() }
}

pub const LEASE: u64 = 1_000;

/// Has a property tried on so many cases, or as many as `PROPTEST_CASES` says.
pub fn few(cases: u32) -> ProptestConfig {
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig { max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() };
    if told { config } else { ProptestConfig { cases, ..config } }
}

/// A cluster under test: the core, what it last did, and the time.
#[derive(Debug)]
pub struct Bench {
    pub core: Core,
    pub cache: Cache,
    pub now: u64,
    pub sent: Vec<(WorkerKey, Command)>,
    pub last: Dirty,
    pub store: Arc<MemoryStore>,
    /// Runs that were submitted here, and so must be in the store.
    pub submitted: BTreeSet<RunId>,
    /// Each event is followed by a look at the reasons of every task, and at the store.
    pub looks_closely: bool,
    /// Every child of a fan-out begins in the decision that expands it, however many they are.
    pub begins_all: bool,
    /// A test has taken slots away from a pool.
    pub pools_may_be_over: bool,
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

/// Makes a task that waits for others and takes nothing from them.
pub fn after(name: &str, needs: &[usize], rule: RunIf) -> BoundTask {
    let mut made = task(name, &[]);
    made.after = needs.to_vec();
    made.flow.run_if = rule;
    made
}

/// Gives a task a condition.
pub fn when(mut task: BoundTask, text: &str) -> BoundTask {
    task.flow.when = Some(text.to_owned());
    task
}

/// Has a task run at the end.
pub fn finally(mut task: BoundTask) -> BoundTask {
    task.flow.finally = true;
    task
}

/// Has a task put out JSON that conditions and fan-outs read.
pub fn inline(mut task: BoundTask) -> BoundTask {
    task.inline = vec!["out".into()];
    task
}

/// Makes a task into a fan-out.
pub fn fan_out(mut task: BoundTask, over: Over) -> BoundTask {
    task.flow.fan_out = Some(FanOut { over, key: None, max_parallel: None, tolerate: 0, fail_fast: false });
    task
}

/// Makes a fan-out over texts.
pub fn each(name: &str, needs: &[usize], items: &[&str]) -> BoundTask {
    fan_out(task(name, needs), Over::Items(items.iter().map(|item| Value::from(*item)).collect()))
}

/// Changes how a fan-out goes on.
pub fn paced(mut task: BoundTask, max_parallel: Option<u32>, tolerate: u32, fail_fast: bool) -> BoundTask {
    let fan_out = task.flow.fan_out.as_mut().expect("a fan-out");
    (fan_out.max_parallel, fan_out.tolerate, fan_out.fail_fast) = (max_parallel, tolerate, fail_fast);
    task
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
        hooks: crate::spec::Hooks::default(),
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

/// A success whose output is JSON that comes along.
pub fn says(value: Value) -> Outcome {
    Outcome::Success {
        outputs: vec![output(&value.to_string())],
        models: Vec::new(),
        metrics_json: String::new(),
        inline: BTreeMap::from([("out".to_owned(), value)]),
    }
}

pub fn exit(class: FailureClass, code: i32) -> Outcome {
    Outcome::Failure(Failure { exit_code: Some(code), ..Failure::new(class, "as told") })
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
            store: Arc::new(MemoryStore::new()),
            submitted: BTreeSet::new(),
            looks_closely: true,
            begins_all: true,
            pools_may_be_over: false,
            links: 0,
            took_ms: 60_000,
        }
    }

    /// Decides an event, places, and collects what goes out. Ended runs stay in memory, to be looked at.
    pub fn tell(&mut self, event: Event) -> Result<Verdict, Refused> {
        if let Event::Submit(run) = &event {
            self.submitted.insert(run.id);
        }
        let verdict = self.core.decide(event, self.now, &self.cache);
        while self.begins_all && !self.core.expanding.is_empty() {
            self.core.decide(Event::Tick, self.now, &self.cache).unwrap();
        }
        self.turn();
        verdict
    }

    /// Places, persists and collects, as the server does after each group of events.
    pub fn turn(&mut self) {
        self.core.place(self.now);
        self.last = self.core.take();
        self.persist(&self.last);
        for effect in &self.last.effects {
            if let Effect::Send { worker, command, .. } = effect {
                self.sent.push((worker.clone(), command.clone()));
            }
        }
        self.check();
        if self.looks_closely {
            self.check_store();
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

    pub const fn next_link(&mut self) -> u64 {
        self.links += 1;
        self.links
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

    /// Gives the index of a task, or of a child by `task[key]`.
    pub fn at(&self, run: &RunId, name: &str) -> u32 {
        self.core.run(run).unwrap().find(name).unwrap_or_else(|| panic!("there is no `{name}`"))
    }

    /// Names the state of a task or child.
    pub fn word(&self, run: &RunId, name: &str) -> &'static str {
        self.state(run, self.at(run, name)).word()
    }

    /// Names the states of all tasks of the spec, or of all children of one.
    pub fn words(&self, run: &RunId, of: Option<&str>) -> Vec<&'static str> {
        let state = self.core.run(run).unwrap();
        match of {
            None => state.tasks.iter().map(|task| task.state.word()).collect(),
            Some(name) => {
                let members = &state.groups[&self.at(run, name)].members;
                members.iter().map(|&member| self.state(run, member).word()).collect()
            }
        }
    }

    /// Gives the code of the reason why a task is not going.
    pub fn why(&self, run: &RunId, name: &str) -> &'static str {
        let state = self.core.run(run).unwrap();
        explain::explain(&self.core, state, self.at(run, name)).map_or("", |reason| reason.code)
    }

    pub fn run_state(&self, run: &RunId) -> RunState {
        self.core.run(run).unwrap().state
    }

    pub fn end(&mut self, run: &RunId, name: &str, outcome: Outcome) {
        self.finish(run, self.at(run, name), outcome);
    }

    pub fn cancel(&mut self, run: &RunId) {
        self.tell(Event::CancelRun { run: *run, gently: false, why: String::new() }).unwrap();
    }

    pub fn cancel_task(&mut self, run: &RunId, name: &str) {
        let task = self.at(run, name);
        self.tell(Event::CancelTask { run: *run, task }).unwrap();
    }

    /// Gives the live tasks and children of a run.
    pub fn live(&self, run: &RunId) -> Vec<u32> {
        let Some(run) = self.core.run(run) else { return Vec::new() };
        run.indices().filter(|index| run.task(*index).is_some_and(|task| task.state.live().is_some())).collect()
    }

    /// Lets everything that is live, and what follows from it, succeed.
    pub fn finish_all(&mut self, run: &RunId) {
        while let Some(live) = self.live(run).first().copied() {
            let cancelling = self.state(run, live).is_cancelling();
            self.finish(run, live, if cancelling { Outcome::Cancelled } else { says(Value::from(live)) });
        }
    }

    /// Submits a run of a spec.
    pub fn submit_spec(&mut self, n: u32, spec: RunSpec) -> RunId {
        let id = run_id(n);
        self.tell(Event::Submit(Box::new(Run::new(id, Arc::new(spec), String::new(), self.now)))).unwrap();
        id
    }

    /// Starts an ended run again, as the server does: from the store, by a plan.
    pub fn rerun(&mut self, run: &RunId, selector: &Selector, latest: Option<&RunSpec>) -> Plan {
        self.core.forget_terminal();
        let run = self.load(run).expect("the run is in the store");
        let plan = rerun::plan(&run, selector, latest).unwrap();
        let event = Event::Rerun { run: Box::new(run), spec: Arc::clone(&plan.spec), plan: Box::new(plan.clone()) };
        self.tell(event).unwrap();
        plan
    }

    /// Gives the looks that the last decision asked for.
    pub fn looks(&self) -> Vec<(u32, u64)> {
        let look = |effect: &Effect| match effect {
            Effect::Probe { task, since, .. } => Some((*task, *since)),
            _ => None,
        };
        self.last.effects.iter().filter_map(look).collect()
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
