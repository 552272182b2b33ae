//! The worker against a coordinator in memory: real links, real runners, real processes.
#![allow(clippy::unwrap_used)]

mod fake;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::Stdio,
};

use fake::{DEADLINE, Fake, Settings, finished};
use nix::{errno::Errno, sys::signal::killpg, unistd::Pid};
use segue_proto::v1::{self, FailureClass, assign::Work, command::Command, finished::Outcome, worker_event::Event};
use segue_worker::{
    agent,
    runner::frame::{self, CommandJob, Reply},
};

fn token(task: &str) -> v1::Token {
    v1::Token { run_id: "run_01j8zk5m8w0000000000000000".into(), task: task.into(), attempt: 1, epoch: 1, index: 0 }
}

/// An assignment of a shell script that takes one core.
fn script(task: &str, text: &str) -> v1::Assign {
    v1::Assign {
        token: Some(token(task)),
        work: Some(Work::Command(v1::CommandCall {
            argv: ["sh", "-c", text].map(str::to_owned).to_vec(),
            ..Default::default()
        })),
        resources: Some(v1::Resources { cpu_milli: 1000, ..Default::default() }),
        grace_ms: 20_000,
        ..Default::default()
    }
}

/// An assignment of an operator of version 1 that takes nothing.
fn operator(task: &str, name: &str, params: &str) -> v1::Assign {
    let call = v1::OperatorCall { name: name.into(), version: "1".into(), params_json: params.into() };
    v1::Assign { token: Some(token(task)), work: Some(Work::Operator(call)), grace_ms: 20_000, ..Default::default() }
}

fn command(assign: &mut v1::Assign) -> &mut v1::CommandCall {
    match &mut assign.work {
        Some(Work::Command(call)) => call,
        other => panic!("no command: {other:?}"),
    }
}

fn port(name: &str) -> v1::Port {
    v1::Port { name: name.into(), kind: "file".into(), optional: false, help: String::new(), many: false }
}

fn failure(finished: &v1::Finished) -> &v1::Failure {
    match &finished.outcome {
        Some(Outcome::Failure(failure)) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

fn success(finished: &v1::Finished) -> &v1::Success {
    match &finished.outcome {
        Some(Outcome::Success(success)) => success,
        other => panic!("no success: {other:?}"),
    }
}

fn group_is_gone(group: u32) -> bool {
    killpg(Pid::from_raw(group.cast_signed()), None) == Err(Errno::ESRCH)
}

/// Looks at a condition of the system, which rings no bell, until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let look = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn a_command_reads_its_inputs_and_its_outputs_are_stored() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut assign = script(
        "copy",
        r#"cat "$SEGUE_INPUT_ORDERS" "$SEGUE_PARAM_EXTRA" > "$SEGUE_OUTPUT_DIR/all.txt"; echo "$SEGUE_TASK $SEGUE_ATTEMPT $SEGUE_PARAM_K $COLOUR""#,
    );
    assign.inputs =
        vec![v1::NamedArtifact { name: "orders".into(), artifact: Some(fake.put(b"orders,")), key: String::new() }];
    assign.env = BTreeMap::from([(
        "COLOUR".to_owned(),
        v1::EnvValue { value: Some(v1::env_value::Value::Text("blue".into())) },
    )]);
    let extra = fake.put(b"extra").digest;
    command(&mut assign).params_json = format!(r#"{{"k": 5, "extra": "blob:{extra}"}}"#);
    command(&mut assign).outputs = vec![port("all")];
    fake.send(Command::Assign(assign)).await;

    let end = fake.finished(&token("copy")).await;
    let [output] = &success(&end).outputs[..] else { panic!("{end:?}") };
    let artifact = output.artifact.as_ref().unwrap();
    assert_eq!(fake.blob(&artifact.digest).unwrap(), "orders,extra");
    assert_eq!(artifact.size_bytes, 12);
    assert_eq!(fake.log(&token("copy")), "copy 1 5 blue\n");
    assert!(end.usage.unwrap().peak_memory_bytes > 0);
    for attempt in fs::read_dir(fake.path("worker/attempts")).unwrap() {
        let names: Vec<_> =
            fs::read_dir(attempt.unwrap().path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["outputs"], "a directory that is kept for the next attempt is as it was made");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_store_on_the_same_disk_is_read_and_written_in_place() {
    let fake = Fake::start(Settings::default()).await;
    let root = fake.path("store");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("store-id"), "this-one\n").unwrap();
    fake.set(|settings| {
        settings.blob_url = format!("file://{}", root.display());
        settings.store_id = "this-one".into();
    });
    let worker = fake.worker(fake.config()).await;
    let input = segue_proto::ids::Digest::of(b"input");
    let place = root.join(segue_proto::blob_key(&input));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, b"input").unwrap();
    let mut assign = script(
        "direct",
        r#"cat "$SEGUE_INPUT_X" > "$SEGUE_OUTPUT_DIR/out"; echo ! >> "$SEGUE_OUTPUT_DIR/out"; echo "$SEGUE_INPUT_X""#,
    );
    let artifact = v1::Artifact { digest: input.to_string(), size_bytes: 5, ..Default::default() };
    assign.inputs = vec![v1::NamedArtifact { name: "x".into(), artifact: Some(artifact), key: String::new() }];
    command(&mut assign).outputs = vec![port("out")];
    fake.send(Command::Assign(assign)).await;

    let end = fake.finished(&token("direct")).await;
    let digest: segue_proto::ids::Digest = success(&end).outputs[0].artifact.clone().unwrap().digest.parse().unwrap();
    assert_eq!(fs::read(root.join(segue_proto::blob_key(&digest))).unwrap(), b"input!\n");
    assert!(fake.blob(digest.as_str()).is_none(), "nothing went through the coordinator");
    assert_eq!(fake.log(&token("direct")).trim(), place.to_str().unwrap());
    worker.drain().await;
}

#[tokio::test]
async fn a_long_log_arrives_whole_and_before_the_end() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    fake.send(Command::Assign(script("talk", "seq 1 30000; echo last >&2; exit 3"))).await;
    let end = fake.finished(&token("talk")).await;
    assert_eq!((failure(&end).class(), failure(&end).exit_code), (FailureClass::User, Some(3)));
    let log = fake.log(&token("talk"));
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).chain(["last\n".to_owned()]).collect();
    assert!(log == expected, "{} bytes instead of {}", log.len(), expected.len());
    assert_eq!(end.log_bytes, expected.len() as u64);
    worker.drain().await;
}

#[tokio::test]
async fn a_missing_program_and_a_missing_output_are_the_fault_of_the_task() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut absent = script("absent", "");
    command(&mut absent).argv = vec!["no-such-program".into()];
    let mut silent = script("silent", "true");
    command(&mut silent).outputs = vec![port("table")];
    fake.send(Command::Assign(absent)).await;
    fake.send(Command::Assign(silent)).await;
    let end = fake.finished(&token("absent")).await;
    assert_eq!(failure(&end).class(), FailureClass::User);
    assert!(failure(&end).message.contains("no-such-program") && !failure(&end).hint.is_empty());
    let end = fake.finished(&token("silent")).await;
    assert_eq!(failure(&end).class(), FailureClass::User);
    assert!(failure(&end).message.contains("table"), "{end:?}");
    worker.drain().await;
}

/// A script that ignores SIGTERM, has a child that does too, and one that leaves the process group.
const STUBBORN: &str =
    r#"trap "" TERM; (trap "" TERM; sleep 600) & setsid sleep 600 & echo "escaped $!"; sleep 600; sleep 600"#;

async fn escaped_pid(fake: &Fake, task: &str) -> u32 {
    let token = token(task);
    fake.wait("log line", |events| {
        events.iter().find_map(|event| match event {
            Event::Log(log) if log.token.as_ref() == Some(&token) => {
                String::from_utf8_lossy(&log.data).trim().strip_prefix("escaped ")?.parse().ok()
            }
            _ => None,
        })
    })
    .await
}

fn process_is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group_and_those_who_left_it() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut assign = script("stubborn", STUBBORN);
    assign.timeout_ms = 3000;
    assign.grace_ms = 200;
    fake.send(Command::Assign(assign)).await;
    let group = fake.started(&token("stubborn")).await;
    let escaped = escaped_pid(&fake, "stubborn").await;
    assert!(!group_is_gone(group) && !process_is_gone(escaped), "the fault must hit something that lives");
    let end = fake.finished(&token("stubborn")).await;
    assert_eq!(failure(&end).class(), FailureClass::Timeout);
    assert!(group_is_gone(group), "the end was reported before the group was gone");
    assert!(process_is_gone(escaped));
    worker.drain().await;
}

#[tokio::test]
async fn a_cancel_is_confirmed_when_the_process_is_gone() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    fake.send(Command::Assign(script(
        "polite",
        r#"trap "echo bye; exit 0" TERM; echo ready; while :; do sleep 0.05; done"#,
    )))
    .await;
    let group = fake.started(&token("polite")).await;
    fake.wait("log", |events| events.iter().any(|e| matches!(e, Event::Log(_))).then_some(())).await;
    let cancel = |task| Command::Cancel(v1::Cancel { token: Some(token(task)), reason: v1::CancelReason::User.into() });
    fake.send(cancel("polite")).await;
    let end = fake.finished(&token("polite")).await;
    assert!(matches!(end.outcome, Some(Outcome::Cancelled(_))), "{end:?}");
    assert!(group_is_gone(group));
    // Shells may note in between that the signal ended their child.
    let log = fake.log(&token("polite"));
    assert!(log.starts_with("ready\n") && log.ends_with("bye\n"), "it had its grace: {log}");

    fake.send(cancel("never-heard-of")).await;
    let end = fake.finished(&token("never-heard-of")).await;
    assert!(matches!(end.outcome, Some(Outcome::Cancelled(_))), "what is not here does not run");
    worker.drain().await;
}

#[tokio::test]
async fn a_waiting_attempt_is_cancelled_without_ever_running() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let (gate, mark) = (fake.path("gate"), fake.path("mark"));
    let mut wide = script("wide", &format!("while ! [ -e {} ]; do sleep 0.02; done", gate.display()));
    wide.resources = Some(v1::Resources { cpu_milli: 2000, ..Default::default() });
    fake.send(Command::Assign(wide)).await;
    fake.send(Command::Assign(script("waiting", &format!("touch {}", mark.display())))).await;
    fake.started(&token("wide")).await;
    fake.send(Command::Cancel(v1::Cancel { token: Some(token("waiting")), reason: v1::CancelReason::User.into() }))
        .await;
    let end = fake.finished(&token("waiting")).await;
    assert!(matches!(end.outcome, Some(Outcome::Cancelled(_))));
    fs::write(gate, "").unwrap();
    success(&fake.finished(&token("wide")).await);
    assert!(!mark.exists());
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_that_hears_nothing_kills_what_it_runs_when_the_lease_passes() {
    let fake = Fake::start(Settings { lease_ms: 3000, ..Settings::default() }).await;
    let worker = fake.worker(fake.config()).await;
    fake.send(Command::Assign(script("stubborn", STUBBORN))).await;
    let group = fake.started(&token("stubborn")).await;
    let escaped = escaped_pid(&fake, "stubborn").await;
    assert!(!group_is_gone(group));
    fake.set(|settings| {
        settings.answer_heartbeats = false;
        settings.refuse_links = true;
    });
    until("the group is killed", || group_is_gone(group) && process_is_gone(escaped)).await;
    fake.set(|settings| {
        settings.answer_heartbeats = true;
        settings.refuse_links = false;
    });
    let hellos = fake.hellos(2).await;
    assert!(hellos[1].held.is_empty(), "it is forgotten");
    assert!(finished(&fake.events(), &token("stubborn")).is_empty(), "and not reported");
    worker.drain().await;
}

#[tokio::test]
async fn an_attempt_survives_a_broken_link_and_ends_once() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let (gate, count) = (fake.path("gate"), fake.path("count"));
    let text = format!(
        "echo once >> {}; echo before; while ! [ -e {} ]; do sleep 0.02; done; echo after",
        count.display(),
        gate.display()
    );
    fake.send(Command::Assign(script("long", &text))).await;
    fake.wait("log", |events| events.iter().any(|e| matches!(e, Event::Log(_))).then_some(())).await;
    fake.break_link().await;
    let hellos = fake.hellos(2).await;
    let [held] = &hellos[1].held[..] else { panic!("{hellos:?}") };
    assert!(held.started && held.token == Some(token("long")));
    assert_eq!(hellos[0].incarnation, hellos[1].incarnation);
    fs::write(gate, "").unwrap();
    success(&fake.finished(&token("long")).await);
    worker.drain().await;
    assert_eq!(fs::read_to_string(count).unwrap(), "once\n");
    assert_eq!(fake.log(&token("long")), "before\nafter\n");
    assert_eq!(finished(&fake.events(), &token("long")).len(), 1, "{:#?}", fake.events());
}

#[tokio::test]
async fn an_attempt_that_the_coordinator_does_not_know_any_more_is_killed_unreported() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    fake.send(Command::Assign(script("stubborn", STUBBORN))).await;
    let group = fake.started(&token("stubborn")).await;
    fake.set(|settings| settings.forget_held = true);
    fake.break_link().await;
    fake.hellos(2).await;
    until("the group is killed", || group_is_gone(group)).await;
    worker.drain().await;
    assert!(finished(&fake.events(), &token("stubborn")).is_empty());
}

#[tokio::test]
async fn the_end_is_told_again_until_it_is_acknowledged() {
    let fake =
        Fake::start(Settings { acknowledge_finished: false, acknowledge_logs: false, ..Settings::default() }).await;
    let worker = fake.worker(fake.config()).await;
    fake.send(Command::Assign(script("quick", "echo hello"))).await;
    fake.finished(&token("quick")).await;
    fake.break_link().await;
    let hellos = fake.hellos(2).await;
    assert_eq!(hellos[1].held.len(), 1, "it is still held");
    fake.wait("second report", |events| (finished(events, &token("quick")).len() == 2).then_some(())).await;
    let logs = fake.events().iter().filter(|e| matches!(e, Event::Log(l) if l.offset == 0)).count();
    assert_eq!(logs, 2, "the unconfirmed log is sent again too");
    fake.send(Command::FinishedAck(v1::FinishedAck { token: Some(token("quick")) })).await;
    worker.drain().await;
    assert_eq!(finished(&fake.events(), &token("quick")).len(), 2);
}

#[tokio::test]
async fn a_drain_hands_back_what_waits_and_lets_what_runs_finish() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let gate = fake.path("gate");
    let mut wide = script("wide", &format!("while ! [ -e {} ]; do sleep 0.02; done", gate.display()));
    wide.resources = Some(v1::Resources { cpu_milli: 2000, ..Default::default() });
    fake.send(Command::Assign(wide)).await;
    fake.send(Command::Assign(script("waiting", "true"))).await;
    fake.started(&token("wide")).await;
    worker.stop.cancel();
    let started = fake.wait("hand-back", |events| hand_back(events, "waiting")).await;
    assert!(!started);
    assert!(fake.events().iter().any(|e| matches!(e, Event::Draining(_))));
    fake.send(Command::Assign(script("late", "true"))).await;
    assert!(!fake.wait("hand-back", |events| hand_back(events, "late")).await);
    fs::write(gate, "").unwrap();
    worker.ended().await.unwrap();
    success(&fake.finished(&token("wide")).await);
}

#[tokio::test]
async fn what_was_given_ahead_waits_for_room_and_can_be_taken_back() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let (gate, mark) = (fake.path("gate"), fake.path("mark"));
    let mut wide = script("wide", &format!("while ! [ -e {} ]; do sleep 0.02; done", gate.display()));
    wide.resources = Some(v1::Resources { cpu_milli: 2000, ..Default::default() });
    fake.send(Command::Assign(wide)).await;
    fake.started(&token("wide")).await;
    let ahead = |task: &str, text: &str| Command::Assign(v1::Assign { ahead: true, ..script(task, text) });
    fake.send(ahead("taken", &format!("touch {}", mark.display()))).await;
    fake.send(ahead("kept", "true")).await;
    let tokens = ["taken", "wide", "never-heard-of"].map(token).to_vec();
    fake.send(Command::Retract(v1::Retract { tokens })).await;
    assert!(!fake.wait("hand-back", |events| hand_back(events, "taken")).await, "it had not started");
    fs::write(gate, "").unwrap();
    success(&fake.finished(&token("wide")).await);
    success(&fake.finished(&token("kept")).await);
    assert!(!mark.exists(), "what was taken back never ran");
    assert_eq!(hand_back(&fake.events(), "wide"), None, "what had started stays");
    worker.drain().await;
}

#[tokio::test]
async fn a_command_joins_the_children_of_a_task_and_is_told_which_child_it_is() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut assign = script(
        "merge",
        r#"cd "$SEGUE_INPUT_PARTS" && for key in *; do echo "$key $(cat "$key")"; done; ls "$SEGUE_INPUT_NONE" | wc -l
           echo "$SEGUE_KEY $SEGUE_INDEX $SEGUE_ITEM""#,
    );
    assign.token = Some(token("merge[a=b]"));
    assign.inputs = ["eu", "us"]
        .map(|key| v1::NamedArtifact {
            name: "parts".into(),
            artifact: Some(fake.put(format!("part of {key}").as_bytes())),
            key: key.into(),
        })
        .to_vec();
    assign.inputs.push(v1::NamedArtifact { name: "none".into(), ..Default::default() });
    assign.key = "a=b".into();
    assign.item_index = 7;
    assign.item_json = r#"{"shop": "a=b"}"#.into();
    fake.send(Command::Assign(assign)).await;
    success(&fake.finished(&token("merge[a=b]")).await);
    let expected = "eu part of eu\nus part of us\n0\na=b 7 {\"shop\": \"a=b\"}\n";
    assert_eq!(fake.log(&token("merge[a=b]")), expected);
    worker.drain().await;
}

#[tokio::test]
async fn an_operator_collects_the_children_of_a_task() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut assign = operator("collect", "core.collect", "{}");
    assign.inputs = [("us", "[2]"), ("eu", "1")]
        .map(|(key, text)| v1::NamedArtifact {
            name: "parts".into(),
            artifact: Some(fake.put(text.as_bytes())),
            key: key.into(),
        })
        .to_vec();
    fake.send(Command::Assign(assign)).await;
    let end = fake.finished(&token("collect")).await;
    let [output] = &success(&end).outputs[..] else { panic!("{end:?}") };
    let bytes = fake.blob(&output.artifact.as_ref().unwrap().digest).unwrap();
    assert_eq!(bytes, "{\n\"eu\": 1,\n\"us\": [2]\n}\n");
    worker.drain().await;
}

#[tokio::test]
async fn a_number_reaches_the_parameter_of_an_operator_as_a_number() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    for (task, params) in [("short", r#"{"seconds": 0}"#), ("shorter", r#"{"seconds": 0.01}"#)] {
        fake.send(Command::Assign(operator(task, "core.sleep", params))).await;
        success(&fake.finished(&token(task)).await);
    }
    worker.drain().await;
}

#[tokio::test]
async fn the_bytes_of_an_output_come_with_the_success_where_they_are_asked_for() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let asked = |task: &str, text: &str| {
        let mut assign = script(task, text);
        command(&mut assign).outputs = vec![port("items"), port("rest")];
        assign.inline = vec!["items".into()];
        Command::Assign(assign)
    };
    fake.send(asked("good", r#"echo '["eu"]' > $SEGUE_OUTPUT_DIR/items.json; echo x > $SEGUE_OUTPUT_DIR/rest"#)).await;
    let end = fake.finished(&token("good")).await;
    let inline = &success(&end).inline_json;
    assert_eq!(inline.len(), 1);
    assert_eq!(inline["items"], "[\"eu\"]\n");
    assert_eq!(success(&end).outputs.len(), 2, "it is an artifact all the same");

    fake.send(asked("text", r#"echo eu > $SEGUE_OUTPUT_DIR/items; echo x > $SEGUE_OUTPUT_DIR/rest"#)).await;
    let end = fake.finished(&token("text")).await;
    assert_eq!(failure(&end).class(), FailureClass::User);
    assert!(failure(&end).message.contains("`items`") && failure(&end).message.contains("JSON"), "{end:?}");
    worker.drain().await;
}

#[tokio::test]
async fn a_drain_kills_what_does_not_finish_in_its_grace_and_hands_it_back() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut assign = script("stubborn", STUBBORN);
    assign.grace_ms = 100;
    fake.send(Command::Assign(assign)).await;
    let group = fake.started(&token("stubborn")).await;
    fake.send(Command::Drain(v1::Drain { grace_ms: 100 })).await;
    assert!(fake.wait("hand-back", |events| hand_back(events, "stubborn")).await, "it had started");
    assert!(group_is_gone(group));
    worker.ended().await.unwrap();
}

fn hand_back(events: &[Event], task: &str) -> Option<bool> {
    events.iter().find_map(|event| match event {
        Event::HandBack(back) if back.token == Some(token(task)) => Some(back.started),
        _ => None,
    })
}

#[tokio::test]
async fn secrets_reach_the_command_and_nobody_else() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let secret = fake.path("token");
    fs::write(&secret, "pa55-w0rd-pa55\n").unwrap();
    let reference = |text: String| v1::EnvValue { value: Some(v1::env_value::Value::Secret(text)) };
    let mut assign = script(
        "publish",
        r#"printf "token=%s\n" "$TOKEN"; printf "half pa55-w0"; sleep 0.1; echo rd-pa55; echo cGE1NS13MHJkLXBhNTU=; echo "${#TOKEN}""#,
    );
    assign.env = BTreeMap::from([("TOKEN".to_owned(), reference(format!("file:{}", secret.display())))]);
    fake.send(Command::Assign(assign)).await;
    success(&fake.finished(&token("publish")).await);
    assert_eq!(fake.log(&token("publish")), "token=***\nhalf ***\n***=\n14\n");

    let mut assign = script("missing", "echo ran");
    assign.env = BTreeMap::from([("TOKEN".to_owned(), reference("env:SEGUE_TEST_NO_SUCH_VARIABLE".into()))]);
    fake.send(Command::Assign(assign)).await;
    let end = fake.finished(&token("missing")).await;
    assert_eq!(failure(&end).class(), FailureClass::User);
    assert!(failure(&end).message.contains("env:SEGUE_TEST_NO_SUCH_VARIABLE"), "{end:?}");
    assert_eq!(fake.log(&token("missing")), "");
    assert!(!format!("{:?}", fake.events()).contains("pa55-w0rd"));
    worker.drain().await;
}

#[tokio::test]
async fn an_unknown_operator_is_refused_and_a_known_one_runs_warm() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let call = |task: &str, name: &str, version: &str| v1::Assign {
        token: Some(token(task)),
        work: Some(Work::Operator(v1::OperatorCall {
            name: name.into(),
            version: version.into(),
            params_json: "{}".into(),
        })),
        ..Default::default()
    };
    fake.send(Command::Assign(call("strange", "no.such", "1"))).await;
    let end = fake.finished(&token("strange")).await;
    assert_eq!(failure(&end).class(), FailureClass::User);
    let Some(noop) = segue_worker::ops::catalogue().get("core.noop").cloned() else {
        eprintln!("skipped: this build has no core.noop");
        return worker.drain().await;
    };
    for task in ["first", "second"] {
        fake.send(Command::Assign(call(task, &noop.name, &noop.version))).await;
        success(&fake.finished(&token(task)).await);
    }
    assert_eq!(fake.started(&token("first")).await, fake.started(&token("second")).await, "one runner did both");
    worker.drain().await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_gone_before_the_next_one_begins() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let left = r#"(sleep 600; echo late) & setsid sh -c 'sleep 600; echo later' & echo "escaped $!""#;
    fake.send(Command::Assign(script("careless", left))).await;
    let group = fake.started(&token("careless")).await;
    let escaped = escaped_pid(&fake, "careless").await;
    success(&fake.finished(&token("careless")).await);
    assert!(group_is_gone(group), "the end was reported before the group was gone");
    assert!(process_is_gone(escaped));
    fake.send(Command::Assign(script("next", "echo next"))).await;
    success(&fake.finished(&token("next")).await);
    assert_eq!(fake.log(&token("next")), "next\n");
    worker.drain().await;
}

#[tokio::test]
async fn each_command_is_told_its_own_cost() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut peaks = Vec::new();
    // The shell holds what it reads in memory.
    for (task, text) in [("large", r#"x=$(head -c 100000000 /dev/zero | tr "\0" x); [ -n "$x" ]"#), ("small", "true")] {
        fake.send(Command::Assign(script(task, text))).await;
        let end = fake.finished(&token(task)).await;
        success(&end);
        peaks.push(end.usage.unwrap().peak_memory_bytes);
    }
    assert!(peaks[0] >= 100_000_000, "{peaks:?}");
    assert!(peaks[1] > 0 && peaks[1] < peaks[0] / 2, "{peaks:?}");
    worker.drain().await;
}

#[tokio::test]
async fn many_short_attempts_share_a_few_runners() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let tasks: Vec<String> = (0..200).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        let resources = Some(v1::Resources { cpu_milli: 1000, ..Default::default() });
        fake.send(Command::Assign(v1::Assign { resources, ahead: true, ..operator(task, "core.noop", "{}") })).await;
    }
    let mut runners = BTreeSet::new();
    for task in &tasks {
        success(&fake.finished(&token(task)).await);
        runners.insert(fake.started(&token(task)).await);
    }
    assert!((1..=2).contains(&runners.len()), "two cores, two runners: {runners:?}");
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_whose_name_was_taken_over_stops_and_kills() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    fake.send(Command::Assign(script("stubborn", STUBBORN))).await;
    let group = fake.started(&token("stubborn")).await;
    fake.send(Command::Goodbye(v1::Goodbye { reason: format!("a {} said hello", agent::SUPERSEDED) })).await;
    assert!(matches!(worker.ended().await, Err(agent::Error::Superseded(_))));
    assert!(group_is_gone(group));
}

#[tokio::test]
async fn a_wrong_address_is_refused_with_an_example() {
    let fake = Fake::start(Settings::default()).await;
    for server in ["localhost:7400", "not an address", "ftp://host"] {
        let config = agent::WorkerConfig { server: server.into(), ..fake.config() };
        let error = agent::run(config, tokio_util::sync::CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("http://127.0.0.1:7400"), "{error}");
    }
}

#[test]
fn a_command_dies_with_the_worker_even_if_the_worker_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut runner = std::process::Command::new(env!("CARGO_BIN_EXE_segue-worker-runner"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let job = CommandJob {
        argv: ["sh", "-c", STUBBORN].map(str::to_owned).to_vec(),
        working_dir: directory.path().to_owned(),
        env: BTreeMap::new(),
    };
    let mut stdin = runner.stdin.take().unwrap();
    stdin.write_all(&frame::encode(&frame::Request::Command(job)).unwrap()).unwrap();
    let Some(Reply::Started { group }) = frame::read(runner.stdout.as_mut().unwrap()).unwrap() else {
        panic!("it must start")
    };
    let group = u32::try_from(group).unwrap();
    assert!(!group_is_gone(group));
    // What a killed worker leaves of its end of the pipe.
    drop(stdin);
    runner.wait().unwrap();
    assert!(group_is_gone(group));
}

#[tokio::test]
async fn a_command_that_gives_no_sign_of_life_is_stopped_and_nothing_of_it_is_left() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let mut silent = script("silent", STUBBORN);
    silent.heartbeat_timeout_ms = 2_000;
    silent.grace_ms = 200;
    // It lives longer than it may be silent, because it is not.
    let mut alive = script("alive", r#"for i in $(seq 60); do touch "$SEGUE_HEARTBEAT"; sleep 0.05; done; echo done"#);
    alive.heartbeat_timeout_ms = 2_000;
    fake.send(Command::Assign(silent)).await;
    fake.send(Command::Assign(alive)).await;
    let group = fake.started(&token("silent")).await;
    let escaped = escaped_pid(&fake, "silent").await;
    assert!(!group_is_gone(group) && !process_is_gone(escaped), "the fault must hit something that lives");
    let end = fake.finished(&token("silent")).await;
    assert_eq!(failure(&end).class(), FailureClass::Timeout);
    assert!(failure(&end).message.contains("2 s") && failure(&end).hint.contains("SEGUE_HEARTBEAT"), "{end:?}");
    assert!(group_is_gone(group), "the end was reported before the group was gone");
    assert!(process_is_gone(escaped));
    success(&fake.finished(&token("alive")).await);
    assert_eq!(fake.log(&token("alive")), "done\n");
    worker.drain().await;
}

#[tokio::test]
async fn a_command_inherits_what_programs_need_and_what_it_was_passed() {
    let fake = Fake::start(Settings::default()).await;
    let config = agent::WorkerConfig { pass_env: vec!["CARGO_PKG_*".into()], ..fake.config() };
    assert!(std::env::var_os("CARGO_PKG_NAME").is_some() && std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let worker = fake.worker(config).await;
    fake.send(Command::Assign(script("look", "env"))).await;
    success(&fake.finished(&token("look")).await);
    let log = fake.log(&token("look"));
    let has = |name: &str| log.lines().any(|line| line.starts_with(&format!("{name}=")));
    assert!(has("PATH") && has("SEGUE_TASK") && has("CARGO_PKG_NAME"), "{log}");
    assert!(!has("CARGO_MANIFEST_DIR"), "{log}");
    worker.drain().await;
}

/// A worker that offers two GPUs of 80 GiB, whatever this machine has.
fn with_gpus(config: agent::WorkerConfig) -> agent::WorkerConfig {
    agent::WorkerConfig { machine: config.machine.gpu_count(2).gpu_memory(80 << 30), ..config }
}

fn on_devices(devices: &[u32], assign: v1::Assign) -> v1::Assign {
    let gpu_milli = 1000 * u32::try_from(devices.len()).unwrap();
    v1::Assign {
        resources: Some(v1::Resources { gpu_milli, devices: devices.to_vec(), ..Default::default() }),
        ..assign
    }
}

#[tokio::test]
async fn a_command_sees_the_gpus_of_its_lease_and_no_others() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(with_gpus(fake.config())).await;
    let hello = fake.hellos(1).await.remove(0);
    assert_eq!(
        hello.gpus.iter().map(|gpu| (gpu.index, gpu.memory_bytes >> 30)).collect::<Vec<_>>(),
        [(0, 80), (1, 80)]
    );
    assert_eq!(hello.capacity.unwrap().gpu_milli, 2_000);
    let show = |task: &str| script(task, r#"echo "${CUDA_VISIBLE_DEVICES-unset}""#);
    let cases = [
        ("both", on_devices(&[0, 1], show("both")), "0,1"),
        ("one", on_devices(&[1], show("one")), "1"),
        ("none", show("none"), ""),
    ];
    for (task, assign, seen) in cases {
        fake.send(Command::Assign(assign)).await;
        success(&fake.finished(&token(task)).await);
        assert_eq!(fake.log(&token(task)).trim_end(), seen);
    }
    worker.drain().await;
}

#[tokio::test]
async fn operators_on_different_gpus_never_share_a_runner() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(with_gpus(fake.config())).await;
    let mut runners = Vec::new();
    for (task, devices) in [("a", &[0][..]), ("b", &[1]), ("c", &[0]), ("d", &[])] {
        fake.send(Command::Assign(on_devices(devices, operator(task, "core.noop", "{}")))).await;
        success(&fake.finished(&token(task)).await);
        let pid = fake.started(&token(task)).await;
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let seen =
            environment.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(b"CUDA_VISIBLE_DEVICES=")).unwrap();
        let expected: Vec<String> = devices.iter().map(u32::to_string).collect();
        assert_eq!(String::from_utf8_lossy(seen), expected.join(","));
        runners.push(pid);
    }
    assert_eq!(runners[0], runners[2], "the same GPU, the same warm runner");
    assert_eq!(runners.iter().collect::<BTreeSet<_>>().len(), 3);
    worker.drain().await;
}

#[test]
fn a_command_ends_with_the_lease_even_if_the_worker_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let mut runner = std::process::Command::new(env!("CARGO_BIN_EXE_segue-worker-runner"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let job = CommandJob {
        argv: ["sh", "-c", STUBBORN].map(str::to_owned).to_vec(),
        working_dir: directory.path().to_owned(),
        env: BTreeMap::new(),
    };
    // What a worker says before it is stopped: its pipes stay open.
    let mut stdin = runner.stdin.take().unwrap();
    for request in [frame::Request::Lease { left_ms: 700 }, frame::Request::Command(job)] {
        stdin.write_all(&frame::encode(&request).unwrap()).unwrap();
    }
    let stdout = runner.stdout.as_mut().unwrap();
    let Some(Reply::Started { group }) = frame::read(stdout).unwrap() else { panic!("it must start") };
    let group = u32::try_from(group).unwrap();
    assert!(!group_is_gone(group));
    let Some(Reply::Ended { .. }) = frame::read(stdout).unwrap() else { panic!("it must end") };
    assert!(group_is_gone(group));
    drop(stdin);
    runner.wait().unwrap();
}

#[tokio::test]
async fn an_attempt_that_takes_too_much_memory_is_killed_and_no_other() {
    let fake = Fake::start(Settings::default()).await;
    let worker = fake.worker(fake.config()).await;
    let gate = fake.path("gate");
    // A child of the command takes it, a little at a time, and would go on for ever.
    let grows = r#"x=a; (while :; do x="$x$x"; sleep 0.02; done) & wait"#;
    let limit = 64 << 20;
    let large = v1::Assign { memory_limit_bytes: limit, ..script("large", grows) };
    let small = script("small", &format!("while ! [ -e {} ]; do sleep 0.02; done", gate.display()));
    fake.send(Command::Assign(v1::Assign { memory_limit_bytes: limit, ..small })).await;
    fake.send(Command::Assign(large)).await;
    let group = fake.started(&token("large")).await;
    let end = fake.finished(&token("large")).await;
    assert_eq!(failure(&end).class(), FailureClass::Oom);
    assert!(failure(&end).message.contains("64 MiB"), "{end:?}");
    assert!(group_is_gone(group), "the end was reported before the group was gone");
    fs::write(gate, "").unwrap();
    success(&fake.finished(&token("small")).await);
    worker.drain().await;
}
