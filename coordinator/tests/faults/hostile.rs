//! Hostile workers: stale and forged tokens, replays, somebody else's attempts, unknown numbers, absurd sizes, floods,
//! early and late messages. The coordinator never falls, and never believes them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use segue_proto::v1::{self, TaskState, command::Command, finished::Outcome, worker_event::Event};
use tonic::Code;

use crate::{
    stranger::{Stranger, World, event, files, finished, hello, success},
    support::client::until,
};

const TASK: &str = "[tasks.a]\ncommand = [\"ok\"]\nretry = { attempts = 1 }\n";
const WITH_OUTPUT: &str = "[tasks.a]\ncommand = [\"ok\"]\noutputs = { out = \"json\" }\nretry = { attempts = 1 }\n";

/// Every report that names an attempt.
fn reports(token: &v1::Token) -> Vec<Event> {
    let failure = v1::Failure { class: v1::FailureClass::User.into(), ..v1::Failure::default() };
    let chunk = v1::LogChunk { token: Some(token.clone()), data: Bytes::from_static(b"forged"), ..Default::default() };
    vec![
        Event::Started(v1::Started { token: Some(token.clone()), runner_pid: 1 }),
        Event::Progress(v1::Progress { token: Some(token.clone()), done: 1, total: 2, message: "forged".to_owned() }),
        success(token),
        finished(token, Outcome::Failure(failure)),
        finished(token, Outcome::Cancelled(v1::Cancelled {})),
        Event::HandBack(v1::HandBack { token: Some(token.clone()), started: true }),
        Event::Log(chunk),
    ]
}

#[tokio::test]
async fn nobody_but_its_worker_says_anything_about_an_attempt() {
    let world = World::new().await;
    let mut owner = Stranger::connect(&world.client, "owner").await;
    let run = world.submit(TASK).await;
    let token = owner.assigned().await.token.unwrap();
    let mut thief = Stranger::connect(&world.client, "thief").await;
    for report in reports(&token) {
        thief.say(report).await;
    }
    assert_eq!(
        thief.heard(vec![token.clone()]).await,
        std::slice::from_ref(&token),
        "it is told that the attempt is not its own"
    );
    let task = world.task(&run, "a").await;
    assert_eq!((task.state(), task.attempts.len()), (TaskState::Assigned, 1));
    assert_eq!(world.client.log(&run, "a", 1).await.0, b"");
    // Another start of the owner's own name has no more right to it.
    let mut later = Stranger::open(&world.client, event(Event::Hello(hello("owner", "b2")))).await.unwrap();
    for report in reports(&token) {
        later.say(report).await;
    }
    assert_eq!(later.heard(vec![token.clone()]).await, std::slice::from_ref(&token));
    assert_eq!(world.task(&run, "a").await.state(), TaskState::Assigned);
    assert!(owner.end().await.contains("newer start"), "the old one is told why it goes");
    world.close().await;
}

#[tokio::test]
async fn a_forged_token_is_worth_nothing_even_from_the_worker_of_the_attempt() {
    let world = World::new().await;
    let mut owner = Stranger::connect(&world.client, "owner").await;
    let run = world.submit(&format!("{TASK}[tasks.b]\ncommand = [\"ok\"]\nafter = [\"a\"]\n")).await;
    let token = owner.assigned().await.token.unwrap();
    let forged = [
        v1::Token { epoch: token.epoch + 1, ..token.clone() },
        v1::Token { epoch: 0, ..token.clone() },
        v1::Token { attempt: token.attempt + 1, ..token.clone() },
        v1::Token { attempt: u32::MAX, ..token.clone() },
        v1::Token { index: token.index + 1, ..token.clone() },
        v1::Token { index: u32::MAX, ..token.clone() },
        v1::Token { index: 1 << 31, ..token.clone() },
        v1::Token { task: "b".to_owned(), ..token.clone() },
        v1::Token { task: "a[x]".to_owned(), ..token.clone() },
        v1::Token { run_id: "run_7zzzzzzzzzzzzzzzzzzzzzzzzz".to_owned(), ..token.clone() },
    ];
    for forged in &forged {
        for report in reports(forged) {
            owner.say(report).await;
        }
    }
    assert_eq!(owner.heard(forged.to_vec()).await, forged);
    let task = world.task(&run, "a").await;
    assert_eq!((task.state(), task.attempts.len()), (TaskState::Assigned, 1));
    assert_eq!(files(&world.state().join("logs")), Vec::<std::path::PathBuf>::new(), "no log of what was made up");
    owner.say(success(&token)).await;
    assert_eq!(owner.heard(vec![]).await, []);
    assert_eq!(world.task(&run, "a").await.state(), TaskState::Succeeded, "the true one counts");
    world.close().await;
}

#[tokio::test]
async fn a_report_that_is_sent_again_changes_nothing() {
    let world = World::new().await;
    let mut owner = Stranger::connect(&world.client, "owner").await;
    let run = world.submit(TASK).await;
    let token = owner.assigned().await.token.unwrap();
    owner.say(success(&token)).await;
    owner.heard(vec![]).await;
    let before = (world.task(&run, "a").await, world.client.all_events().await);
    for report in reports(&token).into_iter().chain(reports(&token)) {
        if !matches!(report, Event::Log(_)) {
            owner.say(report).await;
        }
    }
    owner.heard(vec![]).await;
    assert_eq!((world.task(&run, "a").await, world.client.all_events().await), before);
    world.close().await;
}

#[tokio::test]
async fn an_old_attempt_has_no_say_when_another_one_is_under_way() {
    let world = World::new().await;
    let mut first = Stranger::connect(&world.client, "first").await;
    let run = world.submit(TASK).await;
    let old = first.assigned().await.token.unwrap();
    first.say(Event::HandBack(v1::HandBack { token: Some(old.clone()), started: false })).await;
    let new = first.assigned().await.token.unwrap();
    assert_eq!((old.attempt, new.attempt), (1, 2));
    for report in reports(&old) {
        first.say(report).await;
    }
    assert_eq!(first.heard(vec![old.clone(), new.clone()]).await, [old]);
    let task = world.task(&run, "a").await;
    assert_eq!((task.state(), task.attempts.len()), (TaskState::Assigned, 2));
    world.close().await;
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_replaced_and_its_late_report_ignored() {
    let world = World::with(|config| config.lease = Duration::from_millis(400)).await;
    let mut silent = Stranger::connect(&world.client, "silent").await;
    let run = world
        .submit("[tasks.a]\ncommand = [\"ok\"]\nretry = { attempts = 5, initial = \"1ms\", max = \"1ms\" }\n")
        .await;
    let token = silent.assigned().await.token.unwrap();
    silent.say(Event::Started(v1::Started { token: Some(token.clone()), runner_pid: 1 })).await;
    // Its link is open all the time; it only says nothing any more.
    until("the end of the lease", || async {
        let task = world.task(&run, "a").await;
        let lost = task.attempts[0].state() == v1::AttemptState::Lost;
        if lost { Ok(()) } else { Err(format!("{:?}", task.attempts)) }
    })
    .await;
    silent.say(success(&token)).await;
    silent.say(Event::Draining(v1::Draining {})).await;
    assert_eq!(silent.heard(vec![token.clone()]).await, [token]);
    let honest = world.worker("honest-too");
    let view = world.ended(&run).await;
    assert_eq!(view.tasks[0].attempts[0].state(), v1::AttemptState::Lost);
    assert_eq!(view.state(), v1::RunState::Succeeded);
    honest.kill().await;
    world.close().await;
}

#[tokio::test]
async fn logs_of_runs_that_nobody_made_and_of_others_are_not_kept() {
    let world = World::new().await;
    let mut owner = Stranger::connect(&world.client, "owner").await;
    let run = world.submit(TASK).await;
    let token = owner.assigned().await.token.unwrap();
    let chunk = |token: &v1::Token, offset, data: &'static [u8]| {
        let (token, data) = (Some(token.clone()), Bytes::from_static(data));
        Event::Log(v1::LogChunk { token, offset, data, lost_before: 0 })
    };
    owner.say(chunk(&token, 0, b"mine\n")).await;
    owner.say(success(&token)).await;
    owner.heard(vec![]).await;
    world.ended(&run).await;
    let mut thief = Stranger::connect(&world.client, "thief").await;
    thief.say(chunk(&token, 5, b"not mine\n")).await;
    for n in 0..50 {
        let run_id = format!("run_{n:026}");
        thief.say(chunk(&v1::Token { run_id, ..token.clone() }, 0, b"made up\n")).await;
    }
    thief.heard(vec![]).await;
    assert_eq!(world.client.log(&run, "a", 1).await, (b"mine\n".to_vec(), 0), "the log of an ended run is its own");
    assert_eq!(files(&world.state().join("logs")).len(), 1);
    // Its own worker may still bring the rest.
    owner.say(chunk(&token, 5, b"late\n")).await;
    owner.next("log ack", |command| matches!(command, Command::LogAck(ack) if ack.offset == 10)).await;
    assert_eq!(world.client.log(&run, "a", 1).await.0, b"mine\nlate\n");
    world.close().await;
}

#[tokio::test]
async fn an_end_that_is_not_understood_ends_the_attempt_with_the_reason() {
    let world = World::new().await;
    let mut owner = Stranger::connect(&world.client, "owner").await;
    let object = |size: usize| format!("{{\"a\": \"{}\"}}", "x".repeat(size));
    let schema = v1::Artifact { digest: "a".repeat(64), schema: "x".repeat(1 << 20), ..v1::Artifact::default() };
    let output = v1::NamedArtifact { name: "out".to_owned(), artifact: Some(schema), key: String::new() };
    let no_digest = v1::NamedArtifact { artifact: Some(v1::Artifact::default()), ..output.clone() };
    let inline = BTreeMap::from([("out".to_owned(), Bytes::from(vec![b'1'; 4 << 20]))]);
    let model = v1::ModelRegistration { name: "No Model".to_owned(), ..v1::ModelRegistration::default() };
    let of = |success: v1::Success| Some(Outcome::Success(success));
    let cases = [
        (None, "finished.outcome"),
        (Some(Outcome::Failure(v1::Failure { class: 99, ..v1::Failure::default() })), "unknown number 99"),
        (Some(Outcome::Failure(v1::Failure::default())), "unknown number 0"),
        (of(v1::Success { metrics_json: object(1 << 20), ..Default::default() }), "success.metrics_json"),
        (of(v1::Success { metrics_json: "[1]".to_owned(), ..Default::default() }), "not a JSON object"),
        (of(v1::Success { outputs: vec![output], ..Default::default() }), "artifact.schema"),
        (of(v1::Success { outputs: vec![no_digest], ..Default::default() }), "artifact.digest"),
        (
            of(v1::Success { outputs: vec![v1::NamedArtifact::default()], ..Default::default() }),
            "named_artifact.artifact",
        ),
        (of(v1::Success { inline_json: inline, ..Default::default() }), "success.inline_json"),
        (of(v1::Success { models: vec![model], ..Default::default() }), "model.name"),
    ];
    for (outcome, reason) in cases {
        let run = world.submit(TASK).await;
        let token = owner.assigned().await.token;
        owner.say(Event::Finished(v1::Finished { token, outcome, ..v1::Finished::default() })).await;
        let task = &world.ended(&run).await.tasks[0];
        let failure = task.failure.clone().unwrap();
        assert_eq!(failure.class(), v1::FailureClass::Infra, "{reason}");
        assert!(failure.message.contains(reason) && failure.message.len() < 500, "{reason}: {}", failure.message);
    }
    world.close().await;
}

#[tokio::test]
async fn a_success_whose_bytes_nobody_has_is_not_believed() {
    let world = World::new().await;
    let mut owner = Stranger::connect(&world.client, "owner").await;
    let bytes = b"{\"a\": 1}";
    let put = v1::PutBlobRequest { digest: String::new(), data: Bytes::from_static(bytes) };
    let stored = world.client.blobs().put(tokio_stream::iter([put])).await.unwrap().into_inner();
    let artifact = |digest: &str, size_bytes| v1::Artifact {
        digest: digest.to_owned(),
        size_bytes,
        kind: "json".to_owned(),
        schema: String::new(),
    };
    let cases = [
        (artifact(&"0".repeat(64), 8), Some("are not in the blob store")),
        (artifact(&stored.digest, 7), Some("has 8 bytes in the blob store, not 7")),
        (artifact(&stored.digest, 8), None),
    ];
    for (artifact, wrong) in cases {
        let run = world.submit(WITH_OUTPUT).await;
        let token = owner.assigned().await.token.unwrap();
        let output = v1::NamedArtifact { name: "out".to_owned(), artifact: Some(artifact), key: String::new() };
        let outcome = Outcome::Success(v1::Success { outputs: vec![output], ..v1::Success::default() });
        owner.say(finished(&token, outcome)).await;
        let task = &world.ended(&run).await.tasks[0];
        match (wrong, &task.failure) {
            (None, None) => assert_eq!(task.state(), TaskState::Succeeded),
            (Some(wrong), Some(failure)) => {
                assert!(failure.message.contains(wrong), "{}", failure.message);
                let listed = v1::ListArtifactsRequest { run_id: run.clone(), ..Default::default() };
                assert_eq!(world.client.runs().list_artifacts(listed).await.unwrap().into_inner().artifacts, []);
            }
            other => panic!("{other:?}"),
        }
    }
    world.close().await;
}

#[tokio::test]
async fn a_hello_that_asks_for_too_much_is_refused_with_the_reason() {
    let world = World::new().await;
    let operator =
        |n: usize| v1::OperatorSpec { name: format!("op.{n}"), version: "1".to_owned(), ..Default::default() };
    let labels =
        |n: usize, word: &str| (0..n).map(|n| (format!("{word}{n}"), String::new())).collect::<BTreeMap<_, _>>();
    let huge = v1::OperatorSpec { summary: "x".repeat(1 << 20), ..operator(1) };
    let amounts = |n| (0..n).map(|n| (format!("r{n}"), 1)).collect();
    let base = || hello("w", "a1");
    let cases = [
        (v1::Hello { operators: (0..2_000).map(operator).collect(), ..base() }, "2000 operators"),
        (v1::Hello { operators: vec![huge], ..base() }, "an operator of"),
        (v1::Hello { labels: labels(65, "l"), ..base() }, "labels"),
        (v1::Hello { labels: labels(1, &"l".repeat(300)), ..base() }, "labels"),
        (v1::Hello { capacity: Some(v1::Resources { custom: amounts(65), ..Default::default() }), ..base() }, "labels"),
        (v1::Hello { capacity: None, ..base() }, "hello.capacity"),
        (v1::Hello { worker: "../w".to_owned(), ..base() }, "hello.worker"),
        (v1::Hello { incarnation: String::new(), ..base() }, "hello.incarnation"),
        (v1::Hello { held: vec![v1::Held::default()], ..base() }, "held.token"),
    ];
    for (hello, reason) in cases {
        let refused = Stranger::open(&world.client, event(Event::Hello(hello))).await.err().expect(reason);
        assert_eq!(refused.code(), Code::InvalidArgument, "{reason}");
        assert!(refused.message().contains(reason) && refused.message().len() < 500, "{reason}: {refused}");
    }
    // Over and over, with operators that nobody knows yet.
    let mut refused = None;
    for round in 0..4 {
        let operators = (0..500).map(|n| operator(10_000 * (round + 1) + n)).collect();
        let hello = v1::Hello { operators, ..hello("w", &format!("a{round}")) };
        refused = refused.or(Stranger::open(&world.client, event(Event::Hello(hello))).await.err());
    }
    let refused = refused.expect("the operators of all workers together are bounded");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let known = world.client.admin().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().operators;
    assert!(known.len() <= 1_024, "{} operators are kept", known.len());
    world.client.admin().get_status(v1::GetStatusRequest {}).await.unwrap();
    world.host.stop().await.unwrap();
}

#[tokio::test]
async fn the_largest_numbers_of_every_field_break_nothing() {
    let world = World::new().await;
    let custom = BTreeMap::from([("licence".to_owned(), u64::MAX)]);
    let most = v1::Resources {
        cpu_milli: u32::MAX,
        memory_bytes: u64::MAX,
        gpu_milli: 3_000,
        gpu_memory_bytes: u64::MAX,
        devices: vec![u32::MAX],
        custom,
    };
    let gpus = vec![v1::Gpu { index: u32::MAX, memory_bytes: u64::MAX, name: "x".repeat(1 << 16) }; 3];
    let giant = v1::Hello {
        capacity: Some(most),
        gpus,
        pid: u32::MAX,
        hostname: "x".repeat(1 << 20),
        version: "\u{1b}[31m".repeat(1 << 16),
        ..hello("giant", "a1")
    };
    let mut giant = Stranger::open(&world.client, event(Event::Hello(giant))).await.unwrap();
    let run = world.submit(TASK).await;
    let token = giant.assigned().await.token.unwrap();
    let progress = v1::Progress { token: Some(token.clone()), done: u64::MAX, total: 1, message: "x".repeat(1 << 20) };
    giant.say(Event::Progress(progress)).await;
    for offset in [u64::MAX, u64::MAX - 3, 1 << 62] {
        let data = Bytes::from_static(b"far");
        let chunk = v1::LogChunk { token: Some(token.clone()), offset, data, lost_before: u64::MAX };
        let far = Stranger::connect(&world.client, "far").await;
        far.say(Event::Log(chunk)).await;
    }
    giant.heard(vec![token.clone(); 1_000]).await;
    let usage = v1::Usage { wall_ms: u64::MAX, cpu_ms: u64::MAX, peak_memory_bytes: u64::MAX };
    let outcome = Some(Outcome::Success(v1::Success::default()));
    let end = v1::Finished { token: Some(token), usage: Some(usage), outcome, log_bytes: u64::MAX };
    giant.say(Event::Finished(end)).await;
    world.ended(&run).await;
    let shown =
        world.client.fleet().describe_workers(v1::DescribeWorkersRequest::default()).await.unwrap().into_inner();
    let sizes = shown.workers.iter().filter_map(|worker| worker.worker.as_ref()).map(|worker| worker.hostname.len());
    assert!(sizes.max().unwrap() < 1_000, "what a worker says of itself is clipped");
    giant.say(Event::Draining(v1::Draining {})).await;
    giant.heard(vec![]).await;
    world.close().await;
}

#[tokio::test]
async fn words_at_the_wrong_time_end_the_link_with_the_reason() {
    let world = World::new().await;
    let beat = || Event::Heartbeat(v1::Heartbeat::default());
    for early in [event(beat()), event(Event::Draining(v1::Draining {})), v1::WorkerMessage::default()] {
        let refused = Stranger::open(&world.client, early).await.err().expect("the first word is a hello");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("hello"), "{refused}");
    }
    let nobody = v1::WorkerMessage { events: vec![v1::WorkerEvent { event: None }] };
    let twice = event(Event::Hello(hello("w", "a1")));
    let zero = event(Event::Started(v1::Started { token: Some(v1::Token::default()), runner_pid: 0 }));
    for (late, reason) in [(nobody, "event"), (twice, "hello comes once"), (zero, "token.attempt")] {
        let mut stranger = Stranger::connect(&world.client, "w").await;
        stranger.up.send(late).await.unwrap();
        let said = stranger.end().await;
        assert!(said.contains(reason), "{reason}: {said}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_slows_its_worker_and_nobody_else() {
    let world = World::new().await;
    let mut flood = Stranger::connect(&world.client, "flood").await;
    let token =
        |n: u32| v1::Token { run_id: format!("run_{n:026}"), task: "a".to_owned(), attempt: 1, epoch: 1, index: n };
    let before = resident_bytes();
    let up = flood.up.clone();
    let pouring = tokio::spawn(async move {
        for n in 0..3_000_u32 {
            let tokens = (0..50).map(|m| token(n * 50 + m)).collect();
            let events = vec![
                v1::WorkerEvent { event: Some(Event::Heartbeat(v1::Heartbeat { sequence: n.into(), tokens })) },
                v1::WorkerEvent { event: Some(success(&token(n))) },
            ];
            if up.send(v1::WorkerMessage { events }).await.is_err() {
                return;
            }
        }
    });
    // It reads nothing meanwhile, and others are served.
    world.is_well().await;
    world.is_well().await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "{grown} bytes more than before");
    // It is cut off when its answers pile up, or keeps up; it never takes anybody along.
    pouring.await.unwrap();
    let (nowhere, _) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(&mut flood.up, nowhere));
    flood.end().await;
    world.close().await;
}

#[tokio::test]
async fn starts_of_one_worker_without_end_do_not_fill_the_memory() {
    let world = World::new().await;
    let mut last = None;
    for n in 0..100 {
        let stranger = Stranger::open(&world.client, event(Event::Hello(hello("w", &format!("a{n}"))))).await.unwrap();
        last = Some(stranger);
    }
    let mut last = last.unwrap();
    last.heard(vec![]).await;
    let listed = world.client.admin().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert!(listed.len() <= 20, "{} starts are remembered", listed.len());
    assert!(listed.iter().any(|worker| worker.incarnation == "a99" && worker.state == "connected"));
    world.close().await;
}

/// Gives the memory that this process has now; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
