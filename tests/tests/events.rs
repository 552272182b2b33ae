//! The feed and what is built on it: followers, webhooks, command hooks, late runs, OpenLineage.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use segue_proto::v1::{RunState, TaskState};
use segue_tests::{
    Cli, TestCluster, WorkerPlan, program,
    receiver::{Delivery, Receiver},
    until, values,
    wait::PATIENCE,
};
use serde_json::Value;
use sha2::Sha256;

/// Long enough that no pause of a busy machine looks like a lost worker; nothing waits for it.
const LEASE: Duration = Duration::from_secs(20);

/// Thirty-two bytes, as `openssl rand -base64 32` gives them.
const KEY: &str = "c2lnbmluZy1rZXktb2YtdGhlLXRlc3QtMzItYnl0ZXM=";

/// Tries again quickly and often.
const RETRY: &str = r#"retry = { attempts = 100, initial = "10ms", max = "50ms" }"#;

/// Waits for the file `go`.
const GATED: &str = r#"["sh", "-c", "until [ -e go ]; do sleep 0.05; done"]"#;

/// Checks the signature of a webhook as a receiver does.
fn is_signed(delivery: &Delivery) -> bool {
    let key = STANDARD.decode(KEY).unwrap();
    let content =
        format!("{}.{}.{}", delivery.header("webhook-id"), delivery.header("webhook-timestamp"), delivery.body);
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(content.as_bytes());
    delivery.header("webhook-signature") == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Gives every event so far, or those that further arguments ask for.
fn events(cli: &Cli, args: &[&str]) -> Vec<Value> {
    let all = ["events", "-o", "json"].iter().chain(args);
    lines(&cli.ok(all).stdout)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn offsets(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["offset"].as_u64().unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

/// A `segue events -f` that goes on until it is dropped.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(cli: &Cli, args: &[&str]) -> Self {
        let mut command = cli.command(["events", "-f", "-o", "json"].iter().chain(args));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line); // The test may have seen enough.
            }
        });
        Self { child, lines }
    }

    /// Waits for the next event.
    #[track_caller]
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("an event comes");
        serde_json::from_str(&line).unwrap()
    }

    /// Reads on until an event of this kind has come, of this run where one is named.
    #[track_caller]
    fn until(&self, kind: &str, run: &str) -> Vec<Value> {
        let mut read = Vec::new();
        loop {
            let event = self.next();
            let found = event["kind"] == kind && (run.is_empty() || event["run"] == run);
            read.push(event);
            if found {
                return read;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_follower_that_resumes_by_offset_sees_every_event_exactly_once() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let file = cluster.pipeline(
        "three",
        "[pipeline]\nname = \"three\"\n[tasks.a]\ncommand = [\"true\"]\n[tasks.b]\ncommand = [\"true\"]\nafter = [\"a\"]\n\
         [tasks.c]\ncommand = [\"sh\", \"-c\", \"exit 3\"]\nafter = [\"b\"]\nretry = 1\n",
    );
    // One that is stopped again and again, and goes on from the `next` of its last line.
    let mut seen: Vec<Value> = Vec::new();
    let mut from = "begin".to_owned();
    for _ in 0..3 {
        let run = cluster.submit(&file, &[]);
        cluster.wait_ended(&run);
        let follower = Follower::start(&cluster.cli(), &["--from", &from]);
        seen.extend((0..5).map(|_| follower.next()));
        from = seen.last().unwrap()["next"].to_string();
    }
    // One that lives through a killed coordinator.
    let follower = Follower::start(&cluster.cli(), &["--from", &from]);
    let run = cluster.submit(&file, &[]);
    seen.extend(follower.until("run.failed", &run));
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.wait_worker("only", "connected");
    let run = cluster.submit(&file, &[]);
    seen.extend(follower.until("run.failed", &run));

    let all = events(&cluster.cli(), &[]);
    assert_eq!(offsets(&all), (1..=all.len() as u64).collect::<Vec<_>>(), "dense from 1");
    assert_eq!(offsets(&seen), offsets(&all[..seen.len()]), "each exactly once, in order");
    assert_eq!(seen, all[..seen.len()], "and the same whenever it is read");

    let of_run = events(&cluster.cli(), &["--run", &run]);
    let expected = [
        "run.submitted",
        "task.assigned",
        "run.started",
        "task.started",
        "task.succeeded",
        "task.assigned",
        "task.started",
        "task.succeeded",
        "task.assigned",
        "task.started",
        "task.failed",
        "run.failed",
    ];
    let mut told = kinds(&of_run);
    // After a store that stopped the coordinator, an attempt that never began may be handed back and assigned again.
    while let Some(at) = told.iter().position(|kind| *kind == "task.handed_back" && program::store_faults().is_some()) {
        assert_eq!(told[at - 1], "task.assigned");
        told.drain(at - 1..=at);
    }
    assert_eq!(told, expected);
    let failed = of_run.iter().find(|event| event["kind"] == "task.failed").unwrap();
    assert_eq!((failed["task"].as_str(), failed["class"].as_str()), (Some("c"), Some("user")));
    assert_eq!((&failed["details"]["exit_code"], &failed["task_ended"]), (&Value::from(3), &Value::from(true)));
    assert_eq!(events(&cluster.cli(), &["--pipeline", "three", "--kind", "run.failed"]).len(), 5);
    assert_eq!(events(&cluster.cli(), &["--pipeline", "other"]).len(), 0);
    assert!(kinds(&events(&cluster.cli(), &["--kind", "worker"])).contains(&"worker.connected"));
    assert!(cluster.cli().ok(["events", "--run", &run]).stdout.contains("task.failed"), "for people too");

    cluster.cli().run(["events", "--from", "1000000"]).refuses(2, &["has not happened yet"]);
    cluster.cli().run(["events", "--kind", "task.faild"]).refuses(2, &["task.failed"]);
    cluster.cli().run(["events", "--from", "monday"]).refuses(2, &["begin"]);
}

fn hooked(name: &str, task: &str, hooks: &str) -> String {
    format!("[pipeline]\nname = \"{name}\"\n[tasks.a]\ncommand = {task}\nretry = 1\n{hooks}")
}

#[test]
fn a_webhook_that_fails_twice_arrives_at_the_third_try_signed_and_is_not_sent_again() {
    let receiver = Receiver::start();
    let secrets = [("SEGUE_HOOK_KEY", KEY), ("SEGUE_HOOK_TOKEN", "canary-4711")];
    let mut cluster = TestCluster::start_with(LEASE, &[], &secrets);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let hook = format!(
        "[[hooks]]\non = [\"success\", \"failure\"]\nwebhook = \"{}\"\nsecret = {{ secret = \"env:SEGUE_HOOK_KEY\" }}\n\
         headers = {{ X-Team = \"data\", Authorization = {{ secret = \"env:SEGUE_HOOK_TOKEN\" }} }}\n{RETRY}\n",
        receiver.url("/told?by=segue")
    );
    receiver.answer_next(&[500, 302]);
    let file = cluster.pipeline("good", &hooked("good", "[\"true\"]", &hook));
    let run = cluster.submit(&file, &[]);
    cluster.wait_succeeded(&run);
    let got = receiver.wait_answered(3);
    assert_eq!(
        got.iter().map(|delivery| delivery.answered).collect::<Vec<_>>(),
        [500, 302, 200],
        "the faults happened"
    );
    for delivery in &got {
        assert!(is_signed(delivery), "{delivery:?}");
        assert_eq!(delivery.path, "/told?by=segue");
        assert_eq!((delivery.header("x-team"), delivery.header("authorization")), ("data", "canary-4711"));
        assert_eq!(delivery.header("content-type"), "application/json");
        assert_eq!(delivery.header("webhook-id"), got[0].header("webhook-id"), "a repeat can be told as one");
        assert_eq!(delivery.body, got[0].body);
    }
    let told = got[0].json();
    assert_eq!((values::text(&told, "type"), values::text(&told, "data.run")), ("run.succeeded", run.as_str()));
    assert_eq!((values::text(&told, "data.on"), values::text(&told, "data.state")), ("success", "succeeded"));
    let cause = &events(&cluster.cli(), &["--run", &run, "--kind", "run.succeeded"])[0];
    assert_eq!(told["data"]["offset"], cause["offset"]);

    let file = cluster.pipeline("bad", &hooked("bad", "[\"sh\", \"-c\", \"exit 3\"]", &hook));
    let failed = cluster.submit(&file, &[]);
    assert_eq!(cluster.wait_ended(&failed).state(), RunState::Failed);
    let got = receiver.wait_answered(4);
    assert_eq!(got.len(), 4, "what has arrived is not sent again");
    let told = got[3].json();
    assert_eq!((values::text(&told, "type"), values::text(&told, "data.run")), ("run.failed", failed.as_str()));
    assert!(values::text(&told, "data.message").contains("task `a` failed (user)"), "{told}");
    assert_ne!(got[3].header("webhook-id"), got[0].header("webhook-id"));

    // No secret is in the feed, in the log, or in the store.
    let all = cluster.cli().ok(["events", "-o", "json"]).stdout;
    assert!(!all.contains("canary-4711") && !all.contains(KEY));
    let log = cluster.coordinator_log();
    assert!(!log.contains("canary-4711") && !log.contains(KEY));
    cluster.stop_coordinator();
    let mut looked_at = 0;
    visit(&cluster.state_dir(), &mut |file| {
        let bytes = fs::read(file).unwrap();
        looked_at += bytes.len();
        for secret in ["canary-4711", KEY] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", file.display());
        }
    });
    assert!(looked_at > 1_000, "there was something to look at");
}

fn visit(dir: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { visit(&path, see) } else { see(&path) }
    }
}

#[test]
fn a_coordinator_killed_between_event_and_delivery_delivers_after_its_restart() {
    let receiver = Receiver::start();
    let mut cluster = TestCluster::start_with(LEASE, &[], &[("SEGUE_HOOK_KEY", KEY)]);
    cluster.add_worker(&WorkerPlan::new("only"));
    let hook = format!(
        "[[hooks]]\non = [\"success\"]\nwebhook = \"{}\"\nsecret = {{ secret = \"env:SEGUE_HOOK_KEY\" }}\ntimeout = \"60s\"\n",
        receiver.url("/")
    );
    receiver.hang();
    let file = cluster.pipeline("killed", &hooked("killed", "[\"true\"]", &hook));
    let run = cluster.submit(&file, &[]);
    cluster.wait_succeeded(&run);
    until("the webhook is under way", || (receiver.got().len() == 1).then_some(()));
    cluster.kill_coordinator();
    assert_eq!(receiver.got()[0].answered, 0, "the kill must hit a delivery that has not arrived");
    receiver.answer(204);
    cluster.start_coordinator();
    let got = until("the webhook arrives", || {
        let got = receiver.got();
        (got.len() == 2 && got[1].answered == 204).then_some(got)
    });
    assert!(is_signed(&got[1]));
    assert_eq!(got[1].header("webhook-id"), got[0].header("webhook-id"), "the receiver can tell it is the same");
    assert_eq!(values::text(&got[1].json(), "data.run"), run);
}

#[test]
fn a_receiver_that_hangs_does_not_hold_back_another_one() {
    let (hanging, fine) = (Receiver::start(), Receiver::start());
    hanging.hang();
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let hook = |receiver: &Receiver| {
        format!("[[hooks]]\non = [\"success\"]\nwebhook = \"{}\"\ntimeout = \"60s\"\n", receiver.url("/"))
    };
    let text = hooked("both", "[\"true\"]", &format!("{}{}", hook(&hanging), hook(&fine)));
    let file = cluster.pipeline("both", &text);
    let runs: Vec<String> = (0..12).map(|_| cluster.submit(&file, &[])).collect();
    // A coordinator that stops in the middle tells some of them twice.
    let told = |got: &[Delivery]| -> BTreeSet<String> {
        got.iter().map(|one| values::text(&one.json(), "data.run").to_owned()).collect()
    };
    let expected: BTreeSet<String> = runs.into_iter().collect();
    until("all runs are told", || (told(&fine.got()) == expected).then_some(()));
    let waiting = hanging.got();
    assert!(!waiting.is_empty() && waiting.iter().all(|delivery| delivery.answered == 0), "the other one still hangs");
    assert!(told(&waiting).len() < 12, "and is not swamped");
}

#[test]
fn a_hook_that_is_refused_for_good_is_given_up_with_an_event() {
    let receiver = Receiver::start();
    receiver.answer(410);
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only"));
    let hook = format!("[[hooks]]\non = [\"success\"]\nwebhook = \"{}\"\n", receiver.url("/"));
    let file = cluster.pipeline("gone", &hooked("gone", "[\"true\"]", &hook));
    let run = cluster.submit(&file, &[]);
    let follower = Follower::start(&cluster.cli(), &["--run", &run]);
    let told = follower.until("hook.gave_up", &run);
    let last = told.last().unwrap();
    assert!(values::text(last, "message").contains("answered 410"), "{last}");
    assert_eq!(receiver.got().len(), 1, "nobody asks again");
}

#[test]
fn a_command_hook_runs_on_a_worker_with_the_facts_of_its_event() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let hook = r#"
[[hooks]]
on = ["success", "failure"]
command = ["sh", "-c", "echo $SEGUE_PARAM_EVENT $SEGUE_PARAM_RUN $SEGUE_PARAM_STATE $SEGUE_PARAM_PIPELINE $${LEVEL} >> told; echo $SEGUE_PARAM_MESSAGE > message"]
env = { LEVEL = "high" }
"#;
    let file = cluster.pipeline("work", &hooked("work", "[\"sh\", \"-c\", \"exit 3\"]", hook));
    let run = cluster.submit(&file, &[]);
    assert_eq!(cluster.wait_ended(&run).state(), RunState::Failed);
    let told = cluster.dir().join("told");
    let text = until("the hook is told", || fs::read_to_string(&told).ok().filter(|text| text.ends_with('\n')));
    assert_eq!(text, format!("failure {run} failed work high\n"));
    let runs = cluster.cli().json(["runs", "--pipeline", "work-hooks"]);
    let hook_run = values::text(&runs, "0.run").to_owned();
    let view = cluster.wait_succeeded(&hook_run);
    assert_eq!((view.tasks.len(), view.tasks[0].name.as_str()), (1, "hook-1"));
    assert_eq!(view.tasks[0].attempts[0].worker, "only");
    assert_eq!(view.params["run"], run);
    assert!(fs::read_to_string(cluster.dir().join("message")).unwrap().contains("task `a` failed (user)"));

    // A restart submits nothing twice, and the end of the hook's own run tells nobody.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.wait_worker("only", "connected");
    let again = cluster.submit(&file, &[]);
    until("the second one is told", || (fs::read_to_string(&told).ok()?.lines().count() == 2).then_some(()));
    assert!(fs::read_to_string(&told).unwrap().contains(&again));
    assert_eq!(values::list(&cluster.cli().json(["runs", "--pipeline", "work-hooks"]), "").len(), 2);
    assert_eq!(values::list(&cluster.cli().json(["runs", "--pipeline", "work-hooks-hooks"]), "").len(), 0);
    let file = file.to_string_lossy();
    cluster.cli().run(["submit", &file, "--idempotency-key", "hook/1/0"]).refuses(2, &["those of hooks"]);
}

#[test]
fn a_late_run_is_told_once_also_over_a_restart() {
    let receiver = Receiver::start();
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let hook = format!("[[hooks]]\non = [\"sla_miss\"]\nwebhook = \"{}\"\n", receiver.url("/late"));
    let text = hooked("late", GATED, &hook).replace("[tasks.a]", "sla = \"2s\"\n[tasks.a]");
    let file = cluster.pipeline("late", &text);
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    // The time goes on while nobody is there.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let got = receiver.wait_answered(1);
    let told = got[0].json();
    assert_eq!((values::text(&told, "type"), values::text(&told, "data.run")), ("sla.missed", run.as_str()));
    assert_eq!(values::text(&told, "data.state"), "running");
    let submitted = &events(&cluster.cli(), &["--run", &run, "--kind", "run.submitted"])[0];
    let waited = told["data"]["time_ms"].as_u64().unwrap() - submitted["time_ms"].as_u64().unwrap();
    assert!(waited >= 2_000, "told after {waited} ms");
    cluster.kill_coordinator();
    cluster.start_coordinator();
    fs::write(cluster.dir().join("go"), "").unwrap();
    cluster.wait_succeeded(&run);
    assert_eq!(events(&cluster.cli(), &["--kind", "sla.missed"]).len(), 1, "late once is late enough");
    assert_eq!(receiver.got().len(), 1);
}

#[test]
fn openlineage_events_go_to_the_catalogue_in_order_and_are_those_that_the_command_prints() {
    let catalogue = Receiver::start();
    catalogue.answer_next(&[503]);
    let args = ["--openlineage", &catalogue.url("/"), "--openlineage-namespace", "test"];
    let mut cluster = TestCluster::start_with(LEASE, &args, &[("OPENLINEAGE_API_KEY", "canary-4712")]);
    cluster.add_worker(&WorkerPlan::new("only"));
    let file = cluster.pipeline(
        "lineage",
        r#"
[pipeline]
name = "lineage"
[tasks.make]
command = ["sh", "-c", "echo 1 > $SEGUE_OUTPUT_DIR/made"]
outputs = ["made"]
[tasks.take]
command = ["sh", "-c", "cat $SEGUE_INPUT_MADE"]
inputs = { made = "make.made" }
"#,
    );
    let run = cluster.submit(&file, &[]);
    cluster.wait_succeeded(&run);
    let sent = until("the end of the run is sent", || {
        let sent: Vec<Value> = catalogue.got().iter().filter(|one| one.answered == 200).map(Delivery::json).collect();
        let over = sent.last().is_some_and(|last| last["eventType"] == "COMPLETE" && last["job"]["name"] == "lineage");
        over.then_some(sent)
    });
    assert_eq!(catalogue.got()[0].answered, 503, "the fault happened");
    for delivery in catalogue.got() {
        assert_eq!(delivery.path, "/api/v1/lineage");
        assert_eq!(delivery.header("authorization"), "Bearer canary-4712");
    }
    let shown =
        |document: &Value| format!("{} {}", values::text(document, "eventType"), values::text(document, "job.name"));
    let expected = [
        "START lineage",
        "START lineage.make",
        "COMPLETE lineage.make",
        "START lineage.take",
        "COMPLETE lineage.take",
        "COMPLETE lineage",
    ];
    assert_eq!(sent.iter().map(shown).collect::<Vec<_>>(), expected);
    assert_eq!(values::text(&sent[2], "outputs.0.name"), "lineage.make.made");
    assert_eq!(values::text(&sent[3], "inputs.0.name"), "lineage.make.made");
    assert_eq!(sent[3]["inputs"][0]["facets"]["version"], sent[2]["outputs"][0]["facets"]["version"]);
    assert_eq!(sent[1]["run"]["facets"]["parent"]["run"], serde_json::json!({ "runId": sent[0]["run"]["runId"] }));
    let printed = cluster.cli().ok(["events", "--openlineage", "--openlineage-namespace", "test"]).stdout;
    assert_eq!(lines(&printed), sent);
    assert!(!cluster.coordinator_log().contains("canary-4712"));

    // The next coordinator goes on; what it sends a second time it sends before.
    let before = catalogue.got().len();
    cluster.stop_coordinator();
    cluster.start_coordinator();
    cluster.wait_worker("only", "connected");
    let run = cluster.submit(&file, &["--no-cache"]);
    cluster.wait_succeeded(&run);
    let of_run = until("the end of the second run is sent", || {
        let later: Vec<Value> = catalogue.got()[before..].iter().map(Delivery::json).collect();
        let of_run = later.iter().filter(|document| document["run"]["facets"]["segue"]["run"] == run.as_str());
        let sent: Vec<String> = of_run.map(shown).collect();
        (sent.last().map(String::as_str) == Some("COMPLETE lineage")).then_some(sent)
    });
    assert_eq!(of_run, expected);
}

#[test]
fn hooks_of_a_run_without_a_server_are_done_before_the_command_ends() {
    let receiver = Receiver::start();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("local.toml");
    let hooks = format!(
        "[[hooks]]\non = [\"success\"]\nwebhook = \"{}\"\n\
         [[hooks]]\non = [\"success\"]\ncommand = [\"sh\", \"-c\", \"echo $SEGUE_PARAM_STATE > told\"]\n",
        receiver.url("/")
    );
    fs::write(&file, hooked("local", "[\"true\"]", &hooks)).unwrap();
    let cli = Cli::state_dir(&home.path().join("state"), home.path());
    let outcome = cli.run_pipeline(&file, &[]);
    assert_eq!(outcome["state"], "succeeded");
    assert_eq!(receiver.got().len(), 1);
    assert_eq!(values::text(&receiver.got()[0].json(), "data.run"), values::text(&outcome, "run"));
    assert_eq!(fs::read_to_string(home.path().join("told")).unwrap(), "succeeded\n");
    let ends = events(&cli, &["--kind", "run.succeeded"]);
    assert_eq!(ends.iter().map(|end| end["pipeline"].as_str().unwrap()).collect::<Vec<_>>(), ["local", "local-hooks"]);
}

#[test]
fn a_reader_of_what_was_forgotten_is_told_how_to_go_on() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("short.toml");
    fs::write(&file, hooked("short", "[\"true\"]", "")).unwrap();
    let cli = Cli::state_dir(&home.path().join("state"), home.path());
    cli.run_pipeline(&file, &[]);
    let before = events(&cli, &[]);
    assert_eq!(before[0]["offset"], 1);
    let planned = cli.json(["gc", "--keep-events", "1ms", "--dry-run"]);
    let planned = planned["totals"]["events"].as_u64().unwrap();
    assert!(planned > 0 && events(&cli, &["--from", "1"]) == before, "a dry run changes nothing");
    assert_eq!(cli.json(["gc", "--keep-events", "1ms"])["totals"]["events"], planned);
    let oldest = planned + 1;
    cli.run(["events", "--from", "1"]).refuses(2, &["not kept any more", &format!("--from {oldest}")]);
    assert_eq!(events(&cli, &["--from", &oldest.to_string()])[0]["offset"], oldest);
    assert_eq!(events(&cli, &[])[0]["offset"], oldest, "`begin` is the oldest that is kept");
}
