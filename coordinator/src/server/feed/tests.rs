//! The feed over a core and a store, commit by commit. Time stands still unless a test moves it: events must not depend
//! on it.
#![allow(clippy::unwrap_used)]

mod reading;

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::{
    artifact::{Artifact, NamedArtifact, Usage},
    failure::{Failure, FailureClass},
    ids::{Digest, RunId, Token},
    operator::Catalogue,
    store::v1::{CursorRecord, DeliveryRecord},
    v1::{self, EventKind as Kind, FeedEvent},
};

use super::{Ends, Feed, Filter, Part, expired, json, oldest, page, shape};
use crate::{
    core::{
        CachedResult, Config, Core, Event, FIRST_CHILD, Held, Outcome, Past, Run, Worker, WorkerKey,
        rerun::{self, Selector},
    },
    server::Error,
    spec,
    store::{
        Batch, Key, MemoryStore, Store, Write,
        keys::{DeliveryKey, prefix},
    },
};

const CHAIN: &str = r#"
[pipeline]
name = "chain"
[defaults]
retry = { attempts = 2, initial = "100ms", max = "100ms", jitter = 0 }
[tasks.a]
command = ["a"]
outputs = ["out"]
[tasks.b]
command = ["b"]
inputs = { in = "a.out" }
"#;

const LEASE: u64 = 1_000;

/// A coordinator without a network: what it decides is committed as the actor does it.
struct Scene {
    core: Core,
    store: MemoryStore,
    feed: Feed,
    ends: Ends,
    cache: Cached,
    now: u64,
    /// Commits that were not empty.
    commits: usize,
}

/// A past that knows a result for every task, or for none.
struct Cached(bool);

impl Past for Cached {
    fn cached(&self, _: &str) -> Option<CachedResult> {
        self.0.then(|| CachedResult { outputs: vec![output("cached")], ..CachedResult::default() })
    }
}

fn output(content: &str) -> NamedArtifact {
    let artifact = Artifact {
        digest: Digest::of(content.as_bytes()),
        size_bytes: 3,
        kind: "file".to_owned(),
        schema: String::new(),
    };
    NamedArtifact::new("out", artifact)
}

fn run_id(n: u32) -> RunId {
    format!("run_{n:026}").parse().unwrap()
}

fn key(incarnation: &str) -> WorkerKey {
    WorkerKey { name: "w".parse().unwrap(), incarnation: incarnation.parse().unwrap() }
}

fn success(outputs: Vec<NamedArtifact>) -> Outcome {
    Outcome::Success { outputs, models: Vec::new(), metrics_json: String::new(), inline: BTreeMap::new() }
}

fn kinds(events: &[FeedEvent]) -> Vec<String> {
    let name = |event: &FeedEvent| json::kind_name(event.kind()).to_owned();
    events.iter().map(|e| if e.task.is_empty() { name(e) } else { format!("{} {}", name(e), e.task) }).collect()
}

impl Scene {
    fn new() -> Self {
        let core = Core::new(Config { epoch: 1, lease_ms: LEASE });
        let store = MemoryStore::new();
        let (feed, ends) = Feed::open(&store, &core).unwrap();
        Self { core, store, feed, ends, cache: Cached(false), now: 10_000, commits: 0 }
    }

    /// Decides an event, places, commits, and gives what the feed says of it.
    fn tell(&mut self, event: Event) -> Vec<FeedEvent> {
        self.feed.look_at(&event);
        self.core.decide(event, self.now, &self.cache).unwrap();
        self.core.place(self.now);
        self.commit()
    }

    fn commit(&mut self) -> Vec<FeedEvent> {
        let dirty = self.core.take();
        let mut batch = Batch::new();
        let before = *self.ends.flushed.borrow();
        self.feed.add(&dirty, &self.core, &mut batch, self.now);
        let parts = batch.writes().iter().filter(|write| write.key().starts_with(&prefix::events())).count();
        assert!(parts <= 1, "one record holds all events of a commit");
        self.commits += parts;
        self.store.apply(&batch).unwrap();
        assert_eq!(self.read(before), [], "nothing is seen before it is flushed");
        self.feed.flushed();
        self.core.forget_terminal();
        self.read(before)
    }

    /// Reads from an offset to the flushed end.
    fn read(&self, from: u64) -> Vec<FeedEvent> {
        page(&self.store, from, *self.ends.flushed.borrow(), &Filter::default()).unwrap().events
    }

    fn submit(&mut self, n: u32, text: &str) -> Vec<FeedEvent> {
        let run = self.run(n, text);
        self.tell(Event::Submit(Box::new(run)))
    }

    fn run(&self, n: u32, text: &str) -> Run {
        let checked = spec::check(text, "p.toml", &Catalogue::default());
        let pipeline = checked.pipeline.clone().unwrap_or_else(|| panic!("{}", checked.render("p.toml", text, false)));
        let spec = spec::bind(&pipeline, &Catalogue::default(), &BTreeMap::new(), "", false).unwrap();
        Run::new(run_id(n), Arc::new(spec), "/srv/p.toml".to_owned(), self.now)
    }

    fn hello(&mut self, incarnation: &str, link: u64, held: Vec<Held>) -> Vec<FeedEvent> {
        let mut worker = Worker::awaited(key(incarnation));
        worker.link = Some(link);
        worker.capacity.cpu_milli = 4_000;
        self.tell(Event::Hello { worker: Box::new(worker), held })
    }

    fn token(&self, n: u32, task: usize) -> Token {
        self.core.run(&run_id(n)).unwrap().live_token(u32::try_from(task).unwrap()).unwrap()
    }

    fn started(&mut self, n: u32, task: usize) -> Vec<FeedEvent> {
        let token = self.token(n, task);
        self.tell(Event::Started { worker: key("1"), token })
    }

    fn finished(&mut self, n: u32, task: usize, outcome: Outcome) -> Vec<FeedEvent> {
        let token = self.token(n, task);
        let usage = Usage { wall_ms: 7, ..Usage::default() };
        self.tell(Event::Finished { worker: key("1"), token, usage, outcome, log_bytes: 0 })
    }

    /// Opens the feed anew, as a restarted coordinator does.
    fn restart(&mut self) {
        (self.feed, self.ends) = Feed::open(&self.store, &self.core).unwrap();
    }
}

#[test]
fn a_run_is_told_from_its_submission_to_its_end_each_step_once() {
    let mut scene = Scene::new();
    assert_eq!(kinds(&scene.submit(1, CHAIN)), ["run.submitted"]);
    assert_eq!(kinds(&scene.hello("1", 1, Vec::new())), ["worker.connected", "task.assigned a"]);
    let started = scene.started(1, 0);
    assert_eq!(kinds(&started), ["run.started", "task.started a"]);
    assert_eq!((started[1].attempt, started[1].worker.as_str()), (1, "w"));
    let ended = scene.finished(1, 0, success(vec![output("x")]));
    assert_eq!(kinds(&ended), ["task.succeeded a", "task.assigned b"]);
    assert!(ended[0].task_ended && !ended[0].cached && ended[0].details_json.contains("\"wall_ms\":7"));
    assert_eq!(ended[0].outputs[0].artifact.as_ref().unwrap().digest, Digest::of(b"x").as_str());
    let started = scene.started(1, 1);
    assert_eq!(kinds(&started), ["task.started b"]);
    let input = &started[0].inputs[0];
    assert_eq!((input.name.as_str(), input.task.as_str(), input.output.as_str()), ("in", "a", "out"));
    // A report that comes twice tells nothing twice.
    assert_eq!(scene.started(1, 1), []);
    let ended = scene.finished(1, 1, success(Vec::new()));
    assert_eq!(kinds(&ended), ["task.succeeded b", "run.succeeded"]);
    assert!(ended[1].details_json.contains("\"succeeded\":2"), "{}", ended[1].details_json);

    let all = scene.read(1);
    let offsets: Vec<u64> = all.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, (1..=all.len() as u64).collect::<Vec<_>>(), "dense from 1");
    assert!(all.iter().all(|event| event.time_ms == scene.now));
    let of_run = all.iter().filter(|event| !event.run_id.is_empty());
    assert!(of_run.clone().count() > 5);
    for event in of_run {
        assert_eq!((event.run_id.as_str(), event.pipeline.as_str()), (run_id(1).to_string().as_str(), "chain"));
        assert_eq!(event.version.len(), 64);
    }
    let records = scene.store.scan(&prefix::events(), None, 100).unwrap();
    assert_eq!(records.len(), scene.commits, "one record for each commit");
    assert!(records.len() < all.len());
}

#[test]
fn a_report_that_starts_and_ends_an_attempt_tells_both() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    assert_eq!(kinds(&scene.submit(1, CHAIN)), ["run.submitted", "task.assigned a"]);
    let told = scene.finished(1, 0, success(vec![output("x")]));
    assert_eq!(kinds(&told), ["run.started", "task.started a", "task.succeeded a", "task.assigned b"]);
}

#[test]
fn a_failure_says_whose_fault_it_is_and_when_it_is_tried_again() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, CHAIN);
    let mut failure = Failure::new(FailureClass::Infra, "disk full").hint("make room");
    failure.exit_code = Some(3);
    let told = scene.finished(1, 0, Outcome::Failure(failure.clone()));
    assert_eq!(kinds(&told), ["run.started", "task.started a", "task.failed a", "task.retrying a"]);
    let (failed, retrying) = (&told[2], &told[3]);
    assert_eq!((failed.failure_class(), failed.message.as_str()), (v1::FailureClass::Infra, "disk full"));
    assert!(!failed.task_ended && failed.details_json.contains("\"exit_code\":3"), "{}", failed.details_json);
    assert_eq!((retrying.retry_at_ms, retrying.attempt), (scene.now + 100, 1));
    scene.now += 100;
    assert_eq!(kinds(&scene.tell(Event::Tick)), ["task.assigned a"], "becoming ready is no event");
    let told = scene.finished(1, 0, Outcome::Failure(failure));
    assert_eq!(kinds(&told), ["task.started a", "task.failed a", "task.upstream_failed b", "run.failed"]);
    assert!(told[1].task_ended && told[1].attempt == 2 && told[2].task_ended);
    assert!(told[3].message.contains("task `a` failed (infra): disk full"), "{}", told[3].message);
    assert!(told[3].details_json.contains("\"class\":\"infra\""), "{}", told[3].details_json);
}

#[test]
fn a_long_message_is_cut_and_no_credential_of_an_address_is_told() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, CHAIN);
    let told = scene.finished(1, 0, Outcome::Failure(Failure::new(FailureClass::User, "é".repeat(100_000))));
    assert!(told.iter().all(|event| event.message.chars().count() <= 2_001), "an event stays small");
    let plain = shape::without_credentials("s3://key:secret@bucket/orders.csv?X-Amz-Signature=abc#x");
    assert_eq!(plain, "s3://bucket/orders.csv");
    assert_eq!(shape::without_credentials("/data/orders.csv"), "/data/orders.csv");
}

#[test]
fn a_worker_is_told_when_it_comes_drains_goes_and_is_lost() {
    let mut scene = Scene::new();
    assert_eq!(kinds(&scene.hello("1", 1, Vec::new())), ["worker.connected"]);
    scene.submit(1, CHAIN);
    scene.started(1, 0);
    let heartbeat = Event::Heartbeat { worker: key("1"), sequence: 1, tokens: vec![scene.token(1, 0)] };
    assert_eq!(scene.tell(heartbeat), [], "a heartbeat is no event");
    assert_eq!(kinds(&scene.tell(Event::Draining { worker: key("1") })), ["worker.draining"]);
    assert_eq!(kinds(&scene.tell(Event::LinkClosed { worker: key("1"), link: 1 })), ["worker.disconnected"]);
    scene.now += LEASE;
    let told = scene.tell(Event::Tick);
    assert_eq!(kinds(&told), ["worker.lost", "task.lost a", "task.retrying a"]);
    assert_eq!((told[1].worker.as_str(), told[1].failure_class()), ("w", v1::FailureClass::Lost));
    assert_eq!(kinds(&scene.hello("2", 2, Vec::new())), ["worker.connected"]);
    // One that holds nothing is not awaited.
    assert_eq!(kinds(&scene.tell(Event::LinkClosed { worker: key("2"), link: 2 })), ["worker.disconnected"]);
    assert_eq!(scene.tell(Event::Tick), []);
}

#[test]
fn a_task_that_failed_because_its_worker_was_lost_says_so() {
    let mut scene = Scene::new();
    let once = CHAIN.replace("attempts = 2", "attempts = 1");
    scene.hello("1", 1, Vec::new());
    scene.submit(1, &once);
    scene.started(1, 0);
    scene.tell(Event::LinkClosed { worker: key("1"), link: 1 });
    scene.now += LEASE;
    let told = scene.tell(Event::Tick);
    assert_eq!(kinds(&told), ["worker.lost", "task.lost a", "task.upstream_failed b", "run.failed"]);
    let lost = &told[1];
    assert!(lost.task_ended && lost.message.contains("worker `w` was silent"), "{lost:?}");
    assert_eq!(
        (lost.failure_class(), lost.details_json.as_str()),
        (v1::FailureClass::Lost, r#"{"reason":"worker_lost"}"#)
    );
    assert_eq!(told[2].details_json, r#"{"reason":"upstream_failed"}"#);
    assert!(told[2].message.contains("because a did not succeed"), "{}", told[2].message);
    assert!(told[3].message.contains("task `a` failed (lost)"), "{}", told[3].message);
}

#[test]
fn an_attempt_that_is_lost_before_it_began_says_so_too() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, CHAIN);
    scene.tell(Event::LinkClosed { worker: key("1"), link: 1 });
    scene.now += LEASE;
    let told = scene.tell(Event::Tick);
    assert_eq!(kinds(&told), ["worker.lost", "task.lost a"]);
    let lost = &told[1];
    assert!(!lost.task_ended && lost.message.contains("`w` was lost before the attempt began"), "{lost:?}");
    assert_eq!(
        (lost.failure_class(), lost.details_json.as_str()),
        (v1::FailureClass::Lost, r#"{"reason":"worker_lost"}"#)
    );
}

#[test]
fn a_run_that_is_left_out_says_why_and_so_do_its_tasks() {
    let mut scene = Scene::new();
    let one = LATE.replace("[pipeline]", "[pipeline]\nconcurrency = { max = 1, on_full = \"skip\" }");
    scene.hello("1", 1, Vec::new());
    scene.submit(1, &one);
    let late = scene.feed.next_wakeup();
    let told = scene.submit(2, &one);
    assert_eq!(kinds(&told), ["run.submitted", "task.skipped a", "run.skipped"]);
    for event in &told[1..] {
        assert!(event.details_json.contains(r#""reason":"concurrency_skip""#), "{event:?}");
        assert!(!event.message.is_empty(), "{event:?}");
    }
    assert!(told[1].task_ended && told[2].details_json.contains(r#""skipped":1"#), "{:?}", told[2]);
    assert_eq!(scene.store.scan(&prefix::slas(), None, 9).unwrap().len(), 1, "it cannot be late any more");
    assert_eq!(scene.feed.next_wakeup(), late);
}

#[test]
fn a_task_that_is_skipped_says_why() {
    let mut scene = Scene::new();
    let text = CHAIN.replace("outputs =", "when = \"1 > 2\"\noutputs =");
    scene.hello("1", 1, Vec::new());
    let told = scene.submit(1, &text);
    assert_eq!(kinds(&told), ["run.submitted", "task.skipped a", "task.skipped b", "run.succeeded"]);
    assert_eq!(
        (told[1].message.as_str(), told[1].details_json.as_str()),
        ("its condition was false: 1 > 2", r#"{"reason":"condition_false"}"#)
    );
    assert_eq!(
        (told[2].message.as_str(), told[2].details_json.as_str()),
        ("skipped, because a was", r#"{"reason":"upstream_skipped"}"#)
    );
}

#[test]
fn a_newer_start_of_a_worker_replaces_the_older_one_which_is_not_lost() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, CHAIN);
    scene.started(1, 0);
    assert_eq!(kinds(&scene.hello("2", 2, Vec::new())), ["worker.disconnected", "worker.connected"]);
    scene.now += LEASE;
    let told = kinds(&scene.tell(Event::Tick));
    assert!(told.contains(&"task.lost a".to_owned()) && !told.contains(&"worker.lost".to_owned()), "{told:?}");
}

#[test]
fn work_that_is_handed_back_or_cancelled_is_told_as_that() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, CHAIN);
    let token = scene.token(1, 0);
    let back = scene.tell(Event::HandBack { worker: key("1"), token, started: false });
    assert_eq!(kinds(&back), ["task.handed_back a", "task.assigned a"]);
    assert_eq!((back[0].attempt, back[1].attempt), (1, 2));
    let told = scene.tell(Event::CancelRun { run: run_id(1), gently: false, why: String::new() });
    assert_eq!(kinds(&told), ["task.cancelled b"], "the other one still has to stop");
    let told = scene.finished(1, 0, Outcome::Cancelled);
    assert_eq!(kinds(&told), ["run.started", "task.started a", "task.cancelled a", "run.cancelled"]);
    assert_eq!(told[2].attempt, 2);
}

#[test]
fn what_the_cache_knows_succeeds_in_the_commit_of_its_submission() {
    let mut scene = Scene::new();
    scene.cache = Cached(true);
    let text = CHAIN.replace("[tasks.b]", "cache = true\n[tasks.b]").replace("inputs =", "cache = true\ninputs =");
    let told = scene.submit(1, &text);
    let expected = ["run.submitted", "run.started", "task.succeeded a", "task.succeeded b", "run.succeeded"];
    assert_eq!(kinds(&told), expected);
    assert!(told[2].cached && told[2].attempt == 0 && told[2].outputs.len() == 1);
    assert_eq!(told[3].inputs.len(), 1, "what it would have taken");
    assert_eq!(scene.commits, 1);
}

const FAN_OUT: &str = r#"
[pipeline]
name = "fans"
[tasks.grid]
command = ["a", "${item}"]
foreach = ["a", "b"]
outputs = ["out"]
[tasks.early]
command = ["b"]
after   = ["join"]
when    = "false"
[tasks.join]
command = ["b"]
inputs  = { in = "grid.out" }
"#;

#[test]
fn what_follows_from_an_end_is_told_after_it_whatever_the_order_of_the_file() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, FAN_OUT);
    let first = FIRST_CHILD as usize;
    scene.finished(1, first, success(vec![output("x")]));
    let told = kinds(&scene.finished(1, first + 1, success(vec![output("y")])));
    let last = ["task.started grid[b]", "task.succeeded grid[b]", "task.succeeded grid", "task.assigned join"];
    assert_eq!(told, last);
    let told = kinds(&scene.finished(1, 2, success(Vec::new())));
    assert_eq!(told, ["task.started join", "task.succeeded join", "task.skipped early", "run.succeeded"]);

    scene.cache = Cached(true);
    let text = FAN_OUT.replace("command = ", "cache = true\ncommand = ");
    let told = kinds(&scene.submit(2, &text));
    let ends = ["grid[a]", "grid[b]", "grid", "join"].map(|task| format!("task.succeeded {task}"));
    assert_eq!(told[2..6], ends);
    assert_eq!(told[6..], ["task.skipped early", "run.succeeded"]);
}

#[test]
fn the_end_of_a_run_in_which_nothing_failed_says_what_stopped_it() {
    let mut scene = Scene::new();
    scene.submit(1, CHAIN);
    let told = scene.tell(Event::CancelTask { run: run_id(1), task: 0 });
    assert_eq!(kinds(&told), ["task.cancelled a", "task.upstream_failed b", "run.cancelled"]);
    assert_eq!(
        (told[0].message.as_str(), told[2].message.as_str()),
        ("it was cancelled on request", "of its tasks, these were cancelled: a")
    );
    scene.submit(2, CHAIN);
    let told = scene.tell(Event::CancelRun { run: run_id(2), gently: false, why: "no room".to_owned() });
    assert_eq!(told.last().unwrap().message, "the run was cancelled: no room");
}

/// Something that happens to a scene, and what is told of it.
type Step = Box<dyn FnMut(&mut Scene) -> Vec<FeedEvent>>;

#[test]
fn a_restart_neither_repeats_nor_forgets_an_event() {
    let mut scene = Scene::new();
    let mut told = Vec::new();
    let mut steps: Vec<Step> = vec![
        Box::new(|scene| scene.submit(1, CHAIN)),
        Box::new(|scene| scene.hello("1", 1, Vec::new())),
        Box::new(|scene| scene.started(1, 0)),
        Box::new(|scene| scene.finished(1, 0, success(vec![output("x")]))),
        Box::new(|scene| scene.finished(1, 1, success(Vec::new()))),
    ];
    for step in &mut steps {
        told.extend(step(&mut scene));
        scene.restart();
    }
    let mut undisturbed = Scene::new();
    let expected: Vec<FeedEvent> = steps.iter_mut().flat_map(|step| step(&mut undisturbed)).collect();
    assert_eq!(kinds(&told), kinds(&expected));
    assert_eq!(told, expected);
}

#[test]
fn a_rerun_tells_what_it_executes_and_nothing_of_what_it_keeps() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, CHAIN);
    scene.finished(1, 0, success(vec![output("x")]));
    let token = scene.token(1, 1);
    let outcome = Outcome::Failure(Failure::new(FailureClass::User, "no"));
    scene
        .core
        .decide(
            Event::Finished { worker: key("1"), token, usage: Usage::default(), outcome, log_bytes: 0 },
            scene.now,
            &scene.cache,
        )
        .unwrap();
    let ended = scene.core.run(&run_id(1)).unwrap().clone();
    assert!(kinds(&scene.commit()).contains(&"run.failed".to_owned()));
    scene.now += 1;
    let spec = Arc::clone(&ended.spec);
    let selector = Selector { only: vec!["b".to_owned()], ..Selector::default() };
    let plan = Box::new(rerun::plan(&ended, &selector, None).unwrap());
    let event = Event::Rerun { run: Box::new(ended), spec, plan };
    let told = scene.tell(event);
    assert_eq!(kinds(&told), ["run.rerun", "task.assigned b"]);
    assert!(told.iter().all(|event| event.generation == 1));
    let told = scene.finished(1, 1, success(Vec::new()));
    assert_eq!(kinds(&told), ["run.started", "task.started b", "task.succeeded b", "run.succeeded"]);
}

const LATE: &str = r#"
[pipeline]
name = "late"
sla  = "10s"
[tasks.a]
command = ["a"]
"#;

#[test]
fn a_rerun_of_a_fan_out_tells_nothing_again_of_what_its_children_did_before() {
    const FAN: &str = r#"
[pipeline]
name = "fan"
[tasks.first]
command = ["a"]
[tasks.each]
command = ["b"]
foreach = ["x"]
after = ["first"]
"#;
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, FAN);
    scene.finished(1, 0, success(Vec::new()));
    let child = |scene: &Scene| scene.core.run(&run_id(1)).unwrap().live_token(FIRST_CHILD).unwrap();
    let (token, usage, outcome) = (child(&scene), Usage::default(), success(Vec::new()));
    let last = Event::Finished { worker: key("1"), token, usage, outcome, log_bytes: 0 };
    scene.core.decide(last, scene.now, &scene.cache).unwrap();
    let ended = scene.core.run(&run_id(1)).unwrap().clone();
    assert!(kinds(&scene.commit()).contains(&"run.succeeded".to_owned()));
    scene.now += 1;
    let spec = Arc::clone(&ended.spec);
    let selector = Selector { from: vec!["first".to_owned()], ..Selector::default() };
    let plan = Box::new(rerun::plan(&ended, &selector, None).unwrap());
    scene.tell(Event::Rerun { run: Box::new(ended), spec, plan });
    // The children are reset only when the fan-out expands again, commits after the rerun was told.
    let again = scene.finished(1, 0, success(Vec::new()));
    assert_eq!(child(&scene).attempt, 2);
    let of_child: Vec<(Kind, u32)> =
        again.iter().filter(|event| event.task == "each[x]").map(|event| (event.kind(), event.attempt)).collect();
    assert_eq!(of_child, [(Kind::TaskAssigned, 2)], "told in its own commit, and nothing of the attempt before it");
}

#[test]
fn a_late_run_is_told_once_and_one_that_ended_in_time_never() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, LATE);
    scene.submit(2, LATE);
    assert_eq!(scene.feed.next_wakeup(), Some(20_000));
    scene.finished(2, 0, success(Vec::new()));
    scene.now = 19_999;
    assert_eq!(scene.commit(), []);
    scene.now = 20_000;
    let told = scene.commit();
    assert_eq!(kinds(&told), ["sla.missed"]);
    assert_eq!(
        (told[0].run_id.as_str(), told[0].message.as_str()),
        (&*run_id(1).to_string(), "still going after 10 s")
    );
    assert_eq!(scene.feed.next_wakeup(), None);
    scene.now = 99_000;
    scene.restart();
    assert_eq!(scene.commit(), [], "not again, and not after a restart");
    assert_eq!(kinds(&scene.finished(1, 0, success(Vec::new()))).last().unwrap(), "run.succeeded");
    assert_eq!(scene.store.scan(&prefix::slas(), None, 9).unwrap(), []);
}

#[test]
fn a_run_that_became_late_while_nobody_looked_is_told_before_its_end() {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    scene.submit(1, LATE);
    scene.started(1, 0);
    scene.restart();
    assert_eq!(scene.feed.next_wakeup(), Some(20_000), "a restart goes on waiting");
    scene.now = 30_000;
    assert_eq!(kinds(&scene.finished(1, 0, success(Vec::new()))), ["sla.missed", "task.succeeded a", "run.succeeded"]);
}

#[test]
fn a_delivery_is_in_the_commit_of_its_event_and_only_for_what_the_hook_waits_for() {
    let hooks = format!(
        "{LATE}{}",
        r#"
[[hooks]]
on = ["failure", "sla_miss"]
webhook = "https://one.example/a"
[[hooks]]
on = ["success"]
webhook = "https://one.example/b"
[[hooks]]
on = ["success"]
command = ["notify"]
"#
    );
    let mut scene = Scene::new();
    let deliveries = |scene: &Scene| -> Vec<(u64, u64, u32)> {
        let rows = scene.store.scan(&prefix::deliveries(), None, 9).unwrap();
        let keys = rows.iter().map(|(key, _)| Key::decode(key).unwrap());
        keys.map(|key| match key {
            Key::Delivery(key) => (key.lane, key.offset, key.hook),
            other => panic!("{other}"),
        })
        .collect()
    };
    scene.hello("1", 1, Vec::new());
    scene.submit(1, &hooks);
    scene.started(1, 0);
    assert_eq!(deliveries(&scene), []);
    assert!(!scene.ends.deliveries.has_changed().unwrap());
    scene.now = 20_000;
    let late = scene.commit();
    let found = deliveries(&scene);
    assert_eq!(found.iter().map(|(_, offset, hook)| (*offset, *hook)).collect::<Vec<_>>(), [(late[0].offset, 0)]);
    assert!(scene.ends.deliveries.has_changed().unwrap(), "whoever delivers is woken");
    let ended = scene.finished(1, 0, success(Vec::new()));
    let end = ended.last().unwrap().offset;
    let found = deliveries(&scene);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], (super::queue::COMMANDS, end, 2));
    assert!(found.contains(&(found[1].0, end, 1)) && found[1].0 == found[2].0, "one host, one line: {found:?}");
}

#[test]
fn models_and_aliases_are_told_whoever_wrote_them() {
    let mut scene = Scene::new();
    let mut batch = Batch::new();
    let name: segue_proto::ids::ModelName = "kmeans".parse().unwrap();
    let version = v1::ModelVersion {
        version: 3,
        kind: "kmeans".to_owned(),
        run_id: run_id(1).to_string(),
        task: "register".to_owned(),
        ..v1::ModelVersion::default()
    };
    batch.put(&Key::ModelVersion { name: name.clone(), version: 3 }, &version);
    let alias = v1::SetAliasRequest { name: "kmeans".to_owned(), alias: "champion".to_owned(), version: 3 };
    batch.put(&Key::Alias { name, alias: "champion".parse().unwrap() }, &alias);
    scene.feed.add(&scene.core.take(), &scene.core, &mut batch, scene.now);
    scene.store.apply(&batch).unwrap();
    scene.feed.flushed();
    let told = scene.read(1);
    assert_eq!(kinds(&told), ["model.registered register", "alias.moved"]);
    assert_eq!(told[0].message, "kmeans version 3 (kmeans)");
    assert_eq!(told[1].message, "kmeans@champion is version 3");
}

#[test]
fn every_kind_has_a_name_of_its_own_and_a_word_may_mean_a_group() {
    let names: std::collections::BTreeSet<&str> = json::KINDS.iter().map(|(_, name)| *name).collect();
    assert_eq!(names.len(), json::KINDS.len());
    assert_eq!(json::kinds_of("run.failed"), [Kind::RunFailed]);
    assert_eq!(json::kinds_of("worker").len(), 4);
    assert!(json::kinds_of("nothing").is_empty() && json::kinds_of("").is_empty());
    assert_eq!(json::nearest_kind("run.faild"), Some("run.failed"));
}

#[test]
fn an_event_is_shown_without_what_it_does_not_have() {
    let event = FeedEvent {
        offset: 3,
        time_ms: 5,
        kind: Kind::TaskFailed.into(),
        run_id: run_id(1).to_string(),
        task: "a".to_owned(),
        attempt: 1,
        failure_class: v1::FailureClass::Oom.into(),
        details_json: "{\"exit_code\":137}".to_owned(),
        ..FeedEvent::default()
    };
    let shown = serde_json::json!({
        "offset": 3, "time_ms": 5, "kind": "task.failed", "run": run_id(1).to_string(), "generation": 0, "task": "a",
        "attempt": 1, "class": "oom", "details": { "exit_code": 137 },
    });
    assert_eq!(json::event(&event), shown);
}
