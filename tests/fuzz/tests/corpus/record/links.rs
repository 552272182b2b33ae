//! What is said on links, and between a worker and its runners.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use prost::Message as _;
use segue_fuzz::{
    honest::{self, LEASE_MS},
    targets::worker_message::{GUEST, hello},
};
use segue_proto::{
    ids::Digest,
    v1::{self, command::Command, finished::Outcome, worker_event::Event},
};
use segue_worker::runner::frame;
use serde_json::json;

use super::{Seed, seed};

/// Names an attempt of the run that strangers work on. Its tasks: list, score, train, embed, join, last.
fn token(index: u32, task: &str, attempt: u32) -> Option<v1::Token> {
    Some(v1::Token { run_id: GUEST.to_string(), index, task: task.to_owned(), attempt, epoch: 1 })
}

fn up_message(events: Vec<Event>) -> Vec<u8> {
    let events = events.into_iter().map(|event| v1::WorkerEvent { event: Some(event) }).collect();
    v1::WorkerMessage { events }.encode_to_vec()
}

fn down_message(commands: Vec<Command>) -> Vec<u8> {
    let commands = commands.into_iter().map(|command| v1::Command { command: Some(command) }).collect();
    v1::CoordinatorMessage { commands }.encode_to_vec()
}

fn end(token: Option<v1::Token>, outcome: Outcome) -> Event {
    let usage = Some(v1::Usage { wall_ms: 5, cpu_ms: 4, peak_memory_bytes: 3 });
    Event::Finished(v1::Finished { token, usage, outcome: Some(outcome), log_bytes: 7 })
}

fn artifact(name: &str, kind: &str, bytes: &[u8]) -> v1::NamedArtifact {
    let (digest, size_bytes) = (Digest::of(bytes).to_string(), bytes.len() as u64);
    let artifact = v1::Artifact { digest, size_bytes, kind: kind.to_owned(), schema: "{}".to_owned() };
    v1::NamedArtifact { name: name.to_owned(), artifact: Some(artifact), key: String::new() }
}

/// The success of `list`, which says of which children `score` consists.
fn listed(items: &'static [u8]) -> Event {
    let report: &'static [u8] = br#"{"rows":12}"#;
    let success = v1::Success {
        outputs: vec![artifact("items", "json", items), artifact("report", "json", report)],
        metrics_json: r#"{"rows": 2}"#.to_owned(),
        inline_json: BTreeMap::from(
            [("items", items), ("report", report)].map(|(n, bytes)| (n.to_owned(), Bytes::from_static(bytes))),
        ),
        ..Default::default()
    };
    end(token(0, "list", 1), Outcome::Success(success))
}

fn succeeded(token: Option<v1::Token>, outputs: Vec<v1::NamedArtifact>) -> Event {
    end(token, Outcome::Success(v1::Success { outputs, ..Default::default() }))
}

fn failed(token: Option<v1::Token>, class: v1::FailureClass) -> Event {
    let failure = v1::Failure {
        class: class.into(),
        message: "it broke".to_owned(),
        hint: "mend it".to_owned(),
        exit_code: Some(1),
        signal: None,
    };
    end(token, Outcome::Failure(failure))
}

fn beat(sequence: u64, tokens: Vec<v1::Token>) -> Event {
    Event::Heartbeat(v1::Heartbeat { sequence, tokens })
}

fn started(token: Option<v1::Token>) -> Event {
    Event::Started(v1::Started { token, runner_pid: 42 })
}

fn registration() -> v1::ModelRegistration {
    v1::ModelRegistration {
        name: "churn".to_owned(),
        kind: "clv".to_owned(),
        artifact_digest: Digest::of(b"model").to_string(),
        metrics_json: r#"{"mae":1.5}"#.to_owned(),
        params_json: "{}".to_owned(),
        signature_json: "{}".to_owned(),
        aliases: vec!["champion".to_owned()],
    }
}

pub fn up() -> Vec<Seed> {
    let (list, train, embed) = (token(0, "list", 1), token(2, "train", 1), token(3, "embed", 1));
    let log = |offset, data: &'static [u8], lost_before| {
        Event::Log(v1::LogChunk { token: token(2, "train", 1), offset, data: data.into(), lost_before })
    };
    let child = |ordinal: u32, key: &str| token((1 << 24) + ordinal, &format!("score[{key}]"), 1);
    let whole = vec![
        Event::Hello(hello()),
        started(list.clone()),
        listed(br#"["eu","us","asia"]"#),
        started(train.clone()),
        Event::Progress(v1::Progress { token: train.clone(), done: 1, total: 2, message: "half".to_owned() }),
        succeeded(train.clone(), vec![artifact("model", "model", b"model")]),
        succeeded(embed.clone(), Vec::new()),
        succeeded(child(0, "eu"), vec![artifact("score", "json", b"1")]),
        failed(child(1, "us"), v1::FailureClass::User),
        succeeded(child(2, "asia"), vec![artifact("score", "json", b"3")]),
        beat(200, Vec::new()),
        failed(token((1 << 24) + 1, "score[us]", 2), v1::FailureClass::User),
        succeeded(token(4, "join", 1), Vec::new()),
        succeeded(token(5, "last", 1), Vec::new()),
    ];
    let models = end(
        train.clone(),
        Outcome::Success(v1::Success {
            outputs: vec![artifact("model", "model", b"model")],
            models: vec![registration(), registration()],
            ..Default::default()
        }),
    );
    let held = |token: &Option<v1::Token>, started| v1::Held { token: token.clone(), started };
    let back = v1::Hello { held: vec![held(&list, true), held(&train, false)], ..hello() };
    let other = v1::Hello { incarnation: "g2".to_owned(), held: vec![held(&list, true)], ..hello() };
    let usurper = v1::Hello { worker: "steady".to_owned(), incarnation: "x".to_owned(), ..hello() };
    let classes = [
        v1::FailureClass::Data,
        v1::FailureClass::Infra,
        v1::FailureClass::Timeout,
        v1::FailureClass::Oom,
        v1::FailureClass::Lost,
        v1::FailureClass::Unspecified,
    ];
    let failures = classes.iter().flat_map(|class| {
        [failed(token(2, "train", 1), *class), beat(150, Vec::new()), failed(token(2, "train", 2), *class)]
    });
    let foreign =
        v1::Token { run_id: segue_fuzz::targets::worker_message::STEADY.to_string(), ..embed.clone().unwrap() };
    let foreign = Some(v1::Token { index: 0, task: "work".to_owned(), ..foreign });
    let recorded = fixtures().into_iter().filter(|(_, up, _)| !up.is_empty());
    let mut seeds = vec![
        seed("a-whole-run", up_message(whole)),
        seed("no-items", up_message(vec![listed(b"[]"), beat(1, Vec::new())])),
        seed("items-of-every-kind", up_message(vec![listed(br#"[1,1.5,"a",null,true,{"a":1},[2],"a b/../c",""]"#)])),
        seed("items-that-are-no-list", up_message(vec![listed(br#"{"a":[1]}"#)])),
        seed("items-twice", up_message(vec![listed(br#"["eu","eu"]"#)])),
        seed("two-models-of-one-name", up_message(vec![models])),
        seed("every-failure", up_message(failures.collect())),
        seed(
            "logs",
            up_message(vec![log(0, b"one\n", 0), log(10, b"two\n", 6), log(2, b"e\nxx", 0), log(u64::MAX, b"x", 9)]),
        ),
        seed("a-lease-passes", up_message(vec![started(list.clone()), beat(999, Vec::new()), beat(999, Vec::new())])),
        seed("heartbeats", up_message((0..6).map(|n| beat(300 + n, list.clone().into_iter().collect())).collect())),
        seed("comes-back", up_message(vec![started(list.clone()), Event::Hello(back), beat(400, Vec::new())])),
        seed("starts-anew", up_message(vec![started(list.clone()), Event::Hello(other), beat(999, Vec::new())])),
        seed("takes-another-name", up_message(vec![Event::Hello(usurper), beat(500, Vec::new())])),
        seed("work-of-others", up_message(vec![started(foreign.clone()), succeeded(foreign, Vec::new())])),
        seed(
            "hands-back",
            up_message(vec![
                Event::HandBack(v1::HandBack { token: list.clone(), started: false }),
                Event::HandBack(v1::HandBack { token: train.clone(), started: true }),
                Event::Draining(v1::Draining {}),
                beat(100, Vec::new()),
            ]),
        ),
        seed(
            "outputs-that-nobody-asked-for",
            up_message(vec![succeeded(list, vec![artifact("../x", "", b""), artifact("items", "table", b"")])]),
        ),
    ];
    seeds.extend(recorded.map(|(name, up, _)| seed(&format!("recorded-{name}"), up)));
    seeds
}

/// Reads the messages that a release has recorded: name, up, down.
fn fixtures() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../coordinator/tests/fixtures/0.1.0/worker-link.txt");
    let text = std::fs::read_to_string(place).unwrap();
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let line = |line: &str| {
        let mut parts = line.split(' ');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        (next(), bytes(&next()), bytes(&next()))
    };
    text.lines().map(line).collect()
}

/// What a real coordinator says to a worker that takes its first work.
fn assigned() -> Vec<Command> {
    use segue_coordinator::server::desk::Desk;
    let mut desk = Desk::start(Vec::new(), LEASE_MS, honest::BEGINNING).unwrap();
    let spec = honest::spec(
        r#"
        [pipeline]
        name = "p"
        [tasks.list]
        command = ["list", "-v"]
        outputs = { items = "json" }
        env     = { A = "x", TOKEN = { secret = "env:HOME" } }
        timeout = "5s"
        heartbeat_timeout = "1s"
        [tasks.each]
        op      = "core.sleep"
        foreach = { range = 3 }
        with    = { seconds = "${item}" }
        [tasks.gpu]
        op        = "core.noop"
        resources = { gpu = 0.5, memory = "1GiB" }
        [tasks.score]
        command = ["score", "${item}"]
        foreach = { output = "list.items" }
        "#,
    );
    desk.submit(GUEST, &spec).unwrap().unwrap();
    let _link = desk.open(honest::hello("w", &[])).unwrap().unwrap();
    desk.said().into_iter().flat_map(|(_, message)| message.commands).filter_map(|command| command.command).collect()
}

pub fn down() -> Vec<Seed> {
    let real = assigned();
    let assigns: Vec<v1::Assign> = real
        .iter()
        .filter_map(|command| match command {
            Command::Assign(assign) => Some(assign.clone()),
            _ => None,
        })
        .collect();
    assert!(assigns.len() >= 4, "{real:?}");
    let first = assigns[0].clone();
    let token = || first.token.clone();
    let ack = |sequence, lost: Vec<v1::Token>| Command::HeartbeatAck(v1::HeartbeatAck { sequence, lost });
    let with = |change: &dyn Fn(&mut v1::Assign)| {
        let mut assign = first.clone();
        change(&mut assign);
        Command::Assign(assign)
    };
    let every = |change: &dyn Fn(&mut v1::Assign)| -> Vec<Command> {
        let mut assigns = assigns.clone();
        assigns.iter_mut().for_each(change);
        assigns.into_iter().map(Command::Assign).collect()
    };
    let cancel = |reason: v1::CancelReason| Command::Cancel(v1::Cancel { token: token(), reason: reason.into() });
    let finished = Command::FinishedAck(v1::FinishedAck { token: token() });
    let goodbye = |reason: &str| Command::Goodbye(v1::Goodbye { reason: reason.to_owned() });
    let welcome = |lease_ms, heartbeat_ms, unknown| {
        Command::Welcome(v1::Welcome { epoch: 2, lease_ms, heartbeat_ms, unknown, ..Default::default() })
    };
    let tokens = || assigns.iter().filter_map(|assign| assign.token.clone()).collect::<Vec<_>>();
    let joined = |key: &str, digest: &str| v1::NamedArtifact {
        name: "parts".to_owned(),
        artifact: Some(v1::Artifact { digest: digest.to_owned(), ..Default::default() }),
        key: key.to_owned(),
    };
    let digest = Digest::of(b"x").to_string();
    let params = |json: &str| {
        let json = json.to_owned();
        with(&move |assign| {
            if let Some(v1::assign::Work::Command(call)) = &mut assign.work {
                call.params_json.clone_from(&json);
            }
        })
    };
    let mut seeds = vec![
        seed("real", down_message([real.clone(), vec![ack(2, Vec::new()), finished.clone()]].concat())),
        seed("given-ahead-and-taken-back", {
            let mut said = every(&|assign| assign.ahead = true);
            said.extend([Command::Retract(v1::Retract { tokens: tokens() }), ack(4, Vec::new())]);
            down_message(said)
        }),
        seed(
            "cancelled",
            down_message([real.clone(), vec![cancel(v1::CancelReason::User), ack(2, Vec::new())]].concat()),
        ),
        seed(
            "timed-out",
            down_message([real.clone(), vec![cancel(v1::CancelReason::Timeout), ack(2, Vec::new())]].concat()),
        ),
        seed("fenced", down_message([real.clone(), vec![ack(1, tokens()), ack(2, Vec::new())]].concat())),
        seed(
            "drained",
            down_message([real.clone(), vec![Command::Drain(v1::Drain { grace_ms: 5 }), ack(2, tokens())]].concat()),
        ),
        seed("assigned-twice", down_message([real.clone(), real.clone(), vec![ack(2, Vec::new())]].concat())),
        seed(
            "too-large",
            down_message(every(&|assign| {
                assign.resources = Some(v1::Resources { cpu_milli: u32::MAX, ..Default::default() });
            })),
        ),
        seed(
            "a-link-breaks",
            down_message([real.clone(), vec![goodbye("stopping"), welcome(1, 0, tokens()), finished]].concat()),
        ),
        seed("superseded", down_message(vec![goodbye("a newer start of this worker said hello")])),
        seed(
            "odd-welcomes",
            down_message(vec![welcome(0, u32::MAX, Vec::new()), goodbye(""), welcome(u32::MAX, 1, tokens())]),
        ),
        seed(
            "joined-inputs",
            down_message(vec![with(&|assign| {
                assign.inputs = vec![joined("eu", &digest), joined("us", &digest), joined("", "nonsense")];
            })]),
        ),
        seed("bad-inputs", down_message(vec![with(&|assign| assign.inputs = vec![joined("../../etc", &digest)])])),
        seed("parameters", down_message(vec![params(r#"{"a": [1, "blob:x"], "b": {"c": null}, "path": "s3://b/k"}"#)])),
        seed("parameters-that-are-none", down_message(vec![params("[1]"), params("{")])),
        seed("outputs-that-nobody-has", down_message(vec![with(&|assign| assign.inline = vec!["nothing".to_owned()])])),
        seed("no-work", down_message(vec![with(&|assign| assign.work = None)])),
    ];
    seeds.extend(fixtures().into_iter().filter(|(_, _, down)| !down.is_empty()).map(|(name, _, down)| {
        // The command alone would come before the welcome.
        seed(&format!("recorded-{name}"), down)
    }));
    seeds
}

pub fn frames() -> Vec<Seed> {
    let framed = |messages: &[serde_json::Value]| -> Vec<u8> {
        messages.iter().flat_map(|message| frame::encode(message).unwrap()).collect()
    };
    let usage = json!({"cpu_ms": 5, "peak_memory_bytes": 1024});
    let produced = json!({
        "schemas": {"out": {"rows": 1}}, "metrics": {"rows": 3},
        "models": [{"name": "m", "kind": "clv", "artifact_digest": "ab", "metrics_json": "{}", "params_json": "{}",
                    "signature_json": "{}", "aliases": ["champion"]}],
    });
    let failure = json!({"class": "data", "message": "a hole", "hint": "mend it", "exit_code": 1, "signal": null});
    let job = json!({"operator": {"name": "core.noop", "version": "1", "params": {"a": [1]}, "inputs": {"x": "/in"},
                     "joined": {"parts": {"eu": "/eu"}}, "output_dir": "/out", "run_facts": null, "gpus": 1}});
    let command = json!({"command": {"argv": ["sh", "-c", "true"], "working_dir": "/", "env": {"A": "b"}}});
    let ended = |result: serde_json::Value| json!({"ended": {"result": result, "usage": usage}});
    let (lease, stop) = (json!({"lease": {"left_ms": 10_000}}), json!({"stop": {"grace_ms": 5}}));
    let progress = json!({"progress": {"done": 1, "total": 2, "message": "half"}});
    let whole = [json!({"started": {"group": 42}}), progress, ended(json!({"succeeded": produced}))];
    let (mut cut, mut long) = (framed(&whole), framed(std::slice::from_ref(&stop)));
    cut.truncate(cut.len() - 9);
    long[0] = 0xff;
    let haunted = json!({"ended": {"result": {"failed": failure}, "usage": usage, "haunted": true}});
    vec![
        seed("replies", framed(&whole)),
        seed("cut-off", cut),
        seed("failed", framed(&[ended(json!({"failed": failure}))])),
        seed("haunted", framed(&[haunted])),
        seed("requests", framed(&[job, lease, command, stop])),
        seed("too-long", long),
        seed("empty-frame", framed(&[json!(null)])),
        seed("not-json", vec![0, 0, 0, 3, b'{', b'"', 0xff]),
        seed("deep", [vec![0, 0, 1, 0], vec![b'['; 256]].concat()),
        seed("numbers", framed(&[json!({"progress": {"done": u64::MAX, "total": 1.5e300, "message": ""}})])),
        seed("keys-twice", {
            let body = br#"{"stop":{"grace_ms":1,"grace_ms":2}}"#;
            [&(body.len() as u32).to_be_bytes()[..], body].concat()
        }),
    ]
}

/// An assumption of the seeds: what runs when nobody has said anything yet.
#[test]
fn the_first_work_of_a_stranger_is_what_the_inputs_name() {
    let mut desk = segue_coordinator::server::desk::Desk::start(Vec::new(), LEASE_MS, honest::BEGINNING).unwrap();
    desk.submit(GUEST, &segue_fuzz::targets::worker_message::guests()).unwrap().unwrap();
    desk.open(hello()).unwrap().unwrap();
    let commands = desk.said().into_iter().flat_map(|(_, message)| message.commands);
    let given: BTreeMap<String, v1::Token> = commands
        .filter_map(|command| match command.command {
            Some(Command::Assign(assign)) => assign.token.map(|token| (token.task.clone(), token)),
            _ => None,
        })
        .collect();
    assert_eq!(given.keys().map(String::as_str).collect::<Vec<_>>(), ["embed", "list", "train"]);
    assert_eq!(given.get("list").cloned(), token(0, "list", 1));
}
