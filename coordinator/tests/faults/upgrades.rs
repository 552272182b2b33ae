//! Upgrades: what this release has written, on disk and on the wire, is kept as fixtures. A later release must read them,
//! bring the runs in them to their end, and understand the messages of workers that are not upgraded yet.
//!
//! The fixtures of a release are made once, by this command, and never changed after it:
//! `SEGUE_RECORD_FIXTURES=1 cargo test -p segue-coordinator --test faults upgrades::`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use prost::Message;
use segue_coordinator::{
    server::{Coordinator, Error as ServerError},
    store::{Batch, Code, Error, Key, MemoryStore, Row, SledStore, StateDir, Store, codec, keys::Meta},
};
use segue_proto::v1::{self, command::Command, finished::Outcome, worker_event::Event};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    crash_points,
    support::{
        audit::audit,
        host::{Host, blobs, config},
        worker::{Plan, Shop, Worker},
        workload::{evidence, settled},
    },
};

/// The release whose fixtures these are.
const RELEASE: &str = "0.1.0";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(RELEASE)
}

fn recording() -> bool {
    std::env::var_os("SEGUE_RECORD_FIXTURES").is_some()
}

/// Writes pairs of bytes, each with its length before it.
fn pack(pairs: &[Row]) -> Vec<u8> {
    let mut out = Vec::new();
    for bytes in pairs.iter().flat_map(|(key, value)| [key, value]) {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

fn unpack(mut bytes: &[u8]) -> Vec<Row> {
    let mut next = || {
        let (length, rest) = bytes.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (value, rest) = rest.split_at(length);
        bytes = rest;
        Some(value.to_vec())
    };
    std::iter::from_fn(|| Some((next()?, next()?))).collect()
}

/// Opens a fixture in a state directory: every record in a store, every blob in its place.
fn open(name: &str, state: &Path) -> Arc<SledStore> {
    let read = |kind: &str| {
        let path = fixtures().join(format!("{name}.{kind}"));
        unpack(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    };
    for (path, bytes) in read("blobs") {
        let path = blobs(state).join(String::from_utf8(path).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let store = Arc::new(SledStore::open(StateDir::new(state).store()).unwrap());
    let mut batch = Batch::new();
    for (key, value) in read("records") {
        // The layout and the id are those of the store that was just made.
        if !matches!(Key::decode(&key), Ok(Key::Meta(Meta::Schema | Meta::StoreId))) {
            batch.put_raw(key, value);
        }
    }
    store.apply(&batch).unwrap();
    store.flush().unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_this_release_wrote_is_read_and_its_runs_go_on() {
    let dir = tempfile::tempdir().unwrap();
    if recording() {
        let recorded = crash_points::record(dir.path()).await;
        std::fs::create_dir_all(fixtures()).unwrap();
        for (name, commits) in [("ended", recorded.disk.written()), ("under-way", recorded.disk.written() * 2 / 5)] {
            let root = dir.path().join(name);
            recorded.disk.restore_blobs(commits, &root);
            let blobs: Vec<Row> = crate::stranger::files(&root)
                .into_iter()
                .map(|path| {
                    let place = path.strip_prefix(&root).unwrap().to_str().unwrap().as_bytes().to_vec();
                    (place, std::fs::read(path).unwrap())
                })
                .collect();
            let rows = recorded.disk.prefix(commits).rows();
            std::fs::write(fixtures().join(format!("{name}.records")), pack(&rows)).unwrap();
            std::fs::write(fixtures().join(format!("{name}.blobs")), pack(&blobs)).unwrap();
        }
    }
    for name in ["ended", "under-way"] {
        let state = dir.path().join(format!("state-{name}"));
        let store = open(name, &state);
        for (key, value) in store.scan(&[], None, usize::MAX).unwrap() {
            let key = Key::decode(&key).unwrap_or_else(|e| panic!("{name}: {e}"));
            codec::decode_any(&key, &value).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let host = Host::start(store.clone(), config(&state), 0).await.unwrap();
        let client = host.client();
        let going = client.all_runs().await.iter().filter(|run| run.ended_ms == 0).count();
        assert_eq!(going > 0, name == "under-way", "{name}: {going} runs go on");
        let shop = Arc::new(Shop::default());
        shop.quick.store(true, Ordering::SeqCst);
        let workers = ["w1", "w2"].map(|name| Worker::start(client.clone(), Plan::new(name), Arc::clone(&shop)));
        settled(&client, Some(&*store as &dyn Store)).await;
        assert_eq!(audit(&evidence(&client, &*store, &shop, Vec::new()).await), Vec::<String>::new(), "{name}");
        // And what was done before can be done again.
        let ended = client.all_runs().await.into_iter().find(|run| run.pipeline == "main").unwrap();
        let request = v1::RerunRequest { run_id: ended.run_id, from: vec!["make".to_owned()], ..Default::default() };
        assert!(client.runs().rerun(request).await.unwrap().into_inner().items.iter().any(|item| item.execute));
        settled(&client, Some(&*store as &dyn Store)).await;
        for worker in workers {
            worker.kill().await;
        }
        host.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_of_a_later_release_is_refused_with_both_versions_and_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let place = StateDir::new(dir.path());
    let store = SledStore::open(place.store()).unwrap();
    let mut batch = Batch::new();
    batch.put_raw(Key::Meta(Meta::Schema).encode(), b"segue-store 7".to_vec());
    store.apply(&batch).unwrap();
    store.flush().unwrap();
    let before = store.scan(&[], None, usize::MAX).unwrap();
    drop(store);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    let refused = Coordinator::start(config(dir.path()), listener, None, stop).await.err().unwrap();
    let ServerError::Store(error @ Error::NewerSchema { .. }) = &refused else { panic!("{refused}") };
    assert_eq!(error.code(), Code::NewerSchema);
    let text = refused.to_string();
    for part in ["schema version 7", "reads version 2", "use the newer release"] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    let refused = SledStore::open(place.store()).unwrap_err();
    assert_eq!(refused.code(), Code::NewerSchema, "and again");
    let _ = before;
}

#[tokio::test]
async fn a_record_of_a_later_release_is_refused_by_name_and_not_taken_for_something_else() {
    let store = Arc::new(MemoryStore::new());
    let mut batch = Batch::new();
    let run = "run_01j8zk5m8w0000000000000000".parse().unwrap();
    batch.put_raw(Key::Run(run).encode(), vec![2, 1, 2, 3]);
    store.apply(&batch).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = Host::start(store, config(dir.path()), 0).await.err().unwrap().to_string();
    for part in ["run/run_01j8zk5m8w0000000000000000", "value version 2, this program reads 1", "segue store verify"] {
        assert!(refused.contains(part), "`{part}` is not in: {refused}");
    }
}

fn token() -> v1::Token {
    v1::Token {
        run_id: "run_01j8zk5m8w0000000000000000".to_owned(),
        task: "score[eu]".to_owned(),
        attempt: 3,
        epoch: 7,
        index: 1 << 31,
    }
}

fn resources() -> v1::Resources {
    v1::Resources {
        cpu_milli: 1_500,
        memory_bytes: 1 << 33,
        gpu_milli: 500,
        custom: BTreeMap::from([("licence".to_owned(), 2)]),
        gpu_memory_bytes: 1 << 34,
        devices: vec![0, 3],
    }
}

fn artifact() -> v1::Artifact {
    v1::Artifact { digest: "ab".repeat(32), size_bytes: 5, kind: "table".to_owned(), schema: "{}".to_owned() }
}

fn named() -> v1::NamedArtifact {
    v1::NamedArtifact { name: "out".to_owned(), artifact: Some(artifact()), key: "eu".to_owned() }
}

/// Every message of the link of a worker, each field filled in.
fn messages() -> Vec<(&'static str, v1::WorkerMessage, v1::CoordinatorMessage)> {
    let up = |event| v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(event) }] };
    let down = |command| v1::CoordinatorMessage { commands: vec![v1::Command { command: Some(command) }] };
    let none = || (v1::WorkerMessage::default(), v1::CoordinatorMessage::default());
    let said = |name, event| (name, up(event), none().1);
    let told = |name, command| (name, none().0, down(command));
    let token = || Some(token());
    let port = v1::Port {
        name: "in".to_owned(),
        kind: "table".to_owned(),
        optional: true,
        help: "rows".to_owned(),
        many: true,
    };
    let param = v1::Param {
        name: "k".to_owned(),
        r#type: v1::ParamType::Int.into(),
        required: true,
        default_json: "3".to_owned(),
        one_of: vec!["1".to_owned()],
        help: "how many".to_owned(),
        min: Some(1.0),
        max: Some(9.0),
    };
    let operator = v1::OperatorSpec {
        name: "ml.kmeans".to_owned(),
        version: "2".to_owned(),
        summary: "clusters".to_owned(),
        inputs: vec![port.clone()],
        outputs: vec![port.clone()],
        params: vec![param],
        pure: true,
        wants_run_facts: true,
    };
    let hello = v1::Hello {
        worker: "w".to_owned(),
        incarnation: "a1".to_owned(),
        version: RELEASE.to_owned(),
        capacity: Some(resources()),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        operators: vec![operator],
        held: vec![v1::Held { token: token(), started: true }],
        hostname: "host".to_owned(),
        pid: 42,
        draining: true,
        gpus: vec![v1::Gpu { index: 1, memory_bytes: 1 << 34, name: "gpu".to_owned() }],
    };
    let usage = Some(v1::Usage { wall_ms: 1, cpu_ms: 2, peak_memory_bytes: 3 });
    let end = |outcome| Event::Finished(v1::Finished { token: token(), usage, outcome: Some(outcome), log_bytes: 9 });
    let success = v1::Success {
        outputs: vec![named()],
        models: vec![v1::ModelRegistration {
            name: "m".to_owned(),
            kind: "kmeans".to_owned(),
            artifact_digest: "ab".repeat(32),
            metrics_json: "{}".to_owned(),
            params_json: "{}".to_owned(),
            signature_json: "{}".to_owned(),
            aliases: vec!["champion".to_owned()],
        }],
        metrics_json: "{\"a\":1}".to_owned(),
        inline_json: BTreeMap::from([("out".to_owned(), Bytes::from_static(b"[1]"))]),
    };
    let failure = v1::Failure {
        class: v1::FailureClass::Oom.into(),
        message: "killed".to_owned(),
        hint: "more memory".to_owned(),
        exit_code: Some(137),
        signal: Some(9),
    };
    let env = |value| v1::EnvValue { value: Some(value) };
    let assign = |work| {
        Command::Assign(v1::Assign {
            token: token(),
            pipeline: "p".to_owned(),
            work: Some(work),
            inputs: vec![named()],
            resources: Some(resources()),
            timeout_ms: 1,
            env: BTreeMap::from([
                ("A".to_owned(), env(v1::env_value::Value::Text("x".to_owned()))),
                ("B".to_owned(), env(v1::env_value::Value::Secret("env:B".to_owned()))),
            ]),
            run_facts_json: "{}".to_owned(),
            grace_ms: 2,
            heartbeat_timeout_ms: 3,
            inline: vec!["out".to_owned()],
            ahead: true,
            key: "eu".to_owned(),
            item_index: 4,
            item_json: "\"eu\"".to_owned(),
            memory_limit_bytes: 5,
            // Not yet there when the fixtures were made.
            makers: BTreeMap::new(),
        })
    };
    let operator_call =
        v1::OperatorCall { name: "ml.kmeans".to_owned(), version: "2".to_owned(), params_json: "{}".to_owned() };
    let command_call = v1::CommandCall {
        argv: vec!["sh".to_owned()],
        params_json: "{}".to_owned(),
        outputs: vec![port],
        working_dir: "/srv".to_owned(),
    };
    let welcome = v1::Welcome {
        epoch: 7,
        lease_ms: 30_000,
        heartbeat_ms: 10_000,
        blob_url: "file:///b".to_owned(),
        store_id: "id".to_owned(),
        unknown: token().into_iter().collect(),
        adopted: token().into_iter().collect(),
    };
    let tokens = || token().into_iter().collect::<Vec<_>>();
    vec![
        said("hello", Event::Hello(hello)),
        said("heartbeat", Event::Heartbeat(v1::Heartbeat { sequence: 5, tokens: tokens() })),
        said("started", Event::Started(v1::Started { token: token(), runner_pid: 6 })),
        said("progress", Event::Progress(v1::Progress { token: token(), done: 1, total: 2, message: "m".to_owned() })),
        said("success", end(Outcome::Success(success))),
        said("failure", end(Outcome::Failure(failure))),
        said("cancelled", end(Outcome::Cancelled(v1::Cancelled {}))),
        said("hand-back", Event::HandBack(v1::HandBack { token: token(), started: true })),
        said(
            "log",
            Event::Log(v1::LogChunk { token: token(), offset: 3, data: Bytes::from_static(b"x"), lost_before: 2 }),
        ),
        said("draining", Event::Draining(v1::Draining {})),
        told("welcome", Command::Welcome(welcome)),
        told("assign-operator", assign(v1::assign::Work::Operator(operator_call))),
        told("assign-command", assign(v1::assign::Work::Command(command_call))),
        told("cancel", Command::Cancel(v1::Cancel { token: token(), reason: v1::CancelReason::Timeout.into() })),
        told("heartbeat-ack", Command::HeartbeatAck(v1::HeartbeatAck { sequence: 5, lost: tokens() })),
        told("finished-ack", Command::FinishedAck(v1::FinishedAck { token: token() })),
        told("drain", Command::Drain(v1::Drain { grace_ms: 4 })),
        told("log-ack", Command::LogAck(v1::LogAck { token: token(), offset: 8 })),
        told("goodbye", Command::Goodbye(v1::Goodbye { reason: "r".to_owned() })),
        told("retract", Command::Retract(v1::Retract { tokens: tokens() })),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn messages_of_this_release_mean_what_they_meant() {
    let file = fixtures().join("worker-link.txt");
    if recording() {
        std::fs::create_dir_all(fixtures()).unwrap();
        let line = |(name, up, down): (&str, v1::WorkerMessage, v1::CoordinatorMessage)| {
            format!("{name} {} {}\n", hex(&up.encode_to_vec()), hex(&down.encode_to_vec()))
        };
        std::fs::write(&file, messages().into_iter().map(line).collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let mut seen = 0;
    for (name, up, down) in messages() {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{name}"));
        let (kept_up, kept_down) = line.split_once(' ').unwrap();
        assert_eq!(v1::WorkerMessage::decode(&from_hex(kept_up)[..]).unwrap(), up, "{name}");
        assert_eq!(v1::CoordinatorMessage::decode(&from_hex(kept_down)[..]).unwrap(), down, "{name}");
        // A field that a later release adds is passed over.
        let mut later = from_hex(kept_up);
        prost::encoding::encode_varint(999 << 3 | 2, &mut later);
        prost::encoding::encode_varint(3, &mut later);
        later.extend_from_slice(b"new");
        assert_eq!(v1::WorkerMessage::decode(&later[..]).unwrap(), up, "{name}");
        seen += 1;
    }
    assert_eq!(text.lines().count(), seen, "every message that was kept is looked at");
}
