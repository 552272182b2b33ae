//! The command line as a user meets it: what it shows, what it waits for, and what it refuses.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use segue_proto::v1::TaskState;
use segue_tests::{
    Cli, TestCluster, WorkerPlan,
    cluster::task,
    until,
    values::{list, text},
};
use serde_json::json;
use tempfile::TempDir;

const LEASE: Duration = Duration::from_secs(30);

const FAN_OUT: &str = r#"
[pipeline]
name = "fan"
[tasks.prepare]
command = ["true"]
[tasks.score]
command = ["sh", "-c", "echo scored $SEGUE_TASK"]
foreach = ["eu", "us"]
after = ["prepare"]
"#;

struct Place {
    dir: TempDir,
    cli: Cli,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
        Self { dir, cli }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command whose standard error is read until `word` comes, and by nobody after that.
fn with_a_deaf_reader(mut command: Command, word: &str) -> Running {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut running = Running(child);
    let mut errors = running.0.stderr.take().unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 1]);
    while !String::from_utf8_lossy(&said).contains(word) {
        assert_eq!(errors.read(&mut piece).unwrap(), 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.extend(piece);
    }
    running
}

fn ends_on_sigterm(running: &mut Running) {
    assert!(running.0.try_wait().unwrap().is_none(), "it must still go on when it is told to stop");
    kill(Pid::from_raw(running.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = until("the process ends", || running.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn coordinator_and_worker_stop_when_told_though_nobody_reads_their_log_any_more() {
    let place = Place::new();
    let coordinator = place.cli.command(["coordinator", "--listen", "127.0.0.1:0", "--http", "off"]);
    let mut coordinator = with_a_deaf_reader(coordinator, "127.0.0.1:");
    let address = until("the coordinator leaves its address", || {
        let text = fs::read_to_string(place.dir.path().join("state/coordinator.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(value["address"].as_str()?.to_owned())
    });
    let cache = place.dir.path().join("cache").to_string_lossy().into_owned();
    let worker = Cli::server(&address, place.dir.path()).command(["worker", "--name", "deaf", "--cache-dir", &cache]);
    let mut worker = with_a_deaf_reader(worker, "worker starts");
    until("the worker is connected", || {
        list(&place.cli.json(["workers", "list"]), "").iter().find(|worker| worker["state"] == "connected").map(drop)
    });
    ends_on_sigterm(&mut worker);
    ends_on_sigterm(&mut coordinator);
}

#[test]
fn one_task_and_one_child_are_shown_with_their_attempts() {
    let place = Place::new();
    let file = place.file("fan.toml", FAN_OUT);
    place.cli.ok(["run", &file.to_string_lossy()]);
    for name in ["prepare", "score[us]"] {
        let shown = place.cli.json(["show", "latest", name]);
        let tasks = list(&shown, "tasks");
        assert_eq!(tasks.len(), 1, "{shown}");
        assert_eq!((text(&shown, "tasks.0.name"), text(&shown, "tasks.0.state")), (name, "succeeded"));
        assert_eq!(list(&shown, "tasks.0.attempts").len(), 1, "{shown}");
    }
    assert_eq!(list(&place.cli.json(["show", "latest", "score"]), "tasks").len(), 2, "of a fan-out, its children");
    let attempts = place.cli.ok(["show", "latest", "--attempts"]).stdout;
    for name in ["prepare", "score[eu]", "score[us]"] {
        assert!(attempts.contains(name), "no attempt of {name}:\n{attempts}");
    }
    place.cli.run(["show", "latest", "skore"]).refuses(2, &["no task `skore`"]);
}

#[test]
fn a_local_run_that_waits_for_a_pool_says_how_to_make_it() {
    let place = Place::new();
    let pooled = "[pipeline]\nname = \"pooled\"\n[tasks.a]\ncommand = [\"true\"]\npools = { db = 1 }\n";
    let file = place.file("pooled.toml", pooled);
    let run = ["run", &file.to_string_lossy()];
    place.cli.run(run).refuses(1, &["a waits: there is no pool `db`", "segue pools set db"]);
    place.cli.ok(["pools", "set", "db", "1"]);
    place.cli.ok(run);
}

#[test]
fn a_local_run_has_the_labels_that_it_is_given() {
    let place = Place::new();
    let zoned =
        "[pipeline]\nname = \"zoned\"\n[tasks.a]\ncommand = [\"true\"]\nresources = { labels = { zone = \"b\" } }\n";
    let file = place.file("zoned.toml", zoned).to_string_lossy().into_owned();
    place.cli.run(["run", &file]).refuses(1, &["a waits", "--label KEY=VALUE"]);
    place.cli.ok(["run", &file, "--label", "zone=b"]);
}

#[test]
fn nobody_waits_for_a_run_that_nobody_executes() {
    let mut cluster = TestCluster::start(LEASE);
    let file = cluster.pipeline("idle", "[pipeline]\nname = \"idle\"\n[tasks.a]\ncommand = [\"true\"]\n");
    let run = cluster.submit(&file, &[]);
    cluster.stop_coordinator();
    let alone = Cli::state_dir(&cluster.state_dir(), cluster.dir());
    for args in [&["wait"][..], &["watch"], &["logs", "-f"]] {
        alone.run(args).refuses(3, &["nobody executes", &run, "segue dev"]);
    }
    alone.run(["events", "-f"]).refuses(3, &["no coordinator is running"]);
    // The store is free again: a coordinator starts and goes on with the run.
    cluster.start_coordinator();
    cluster.add_worker(&WorkerPlan::new("only"));
    cluster.wait_succeeded(&run);
}

fn touch(dir: &Path, name: &str) {
    fs::write(dir.join(name), "").unwrap();
}

#[test]
fn a_log_is_followed_over_a_restart_of_the_coordinator_and_each_line_comes_once() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only"));
    let talk = r#"
[pipeline]
name = "talk"
[tasks.talk]
command = ["sh", "-c", "echo before; until [ -e go ]; do sleep 0.05; done; echo after"]
"#;
    let file = cluster.pipeline("talk", talk);
    let run = cluster.submit(&file, &[]);
    let out = cluster.dir().join("followed");
    let mut command = cluster.cli().command(["logs", &run, "talk", "-f"]);
    let stdout = fs::File::create(&out).unwrap();
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn().unwrap();
    let mut follower = Running(child);
    let followed = || fs::read_to_string(&out).unwrap_or_default();
    until("the first line is followed", || followed().contains("before").then_some(()));
    cluster.stop_coordinator();
    cluster.start_coordinator();
    assert!(follower.0.try_wait().unwrap().is_none(), "the follower must outlive the restart");
    touch(cluster.dir(), "go");
    cluster.wait_succeeded(&run);
    let status = until("the follower ends with the run", || follower.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert_eq!(followed(), "before\nafter\n");
}

#[test]
fn a_cancel_names_the_run_and_what_became_of_the_task() {
    let cluster = TestCluster::start(LEASE);
    let two = "[pipeline]\nname = \"two\"\n[tasks.a]\ncommand = [\"true\"]\n[tasks.b]\ncommand = [\"true\"]\n";
    let file = cluster.pipeline("two", two);
    let run = cluster.submit(&file, &[]);
    let said = cluster.cli().ok(["cancel", "latest", "a"]).stdout;
    assert_eq!(said, format!("a is cancelled; {run} is running\n"), "no worker is there that would have to stop it");
    cluster.wait_run(&run, "a is cancelled", |view| (task(view, "a").state() == TaskState::Cancelled).then_some(()));
    let said = cluster.cli().ok(["cancel", "latest"]).stdout;
    assert!(said.starts_with(&run), "{said}");
}

#[test]
fn runs_are_listed_by_state_with_what_they_were_given() {
    let cluster = TestCluster::start(LEASE);
    let file = cluster.pipeline("idle", "[pipeline]\nname = \"idle\"\n[tasks.a]\ncommand = [\"true\"]\n");
    let ended = cluster.submit(&file, &[]);
    cluster.cli().ok(["cancel", &ended]);
    let going = cluster.submit(&file, &["--tag", "team=growth", "--priority", "7"]);
    let runs = cluster.cli().json(["runs", "--state", "running"]);
    assert_eq!((list(&runs, "").len(), text(&runs, "0.run")), (1, going.as_str()), "{runs}");
    assert_eq!((&runs[0]["tags"], &runs[0]["priority"]), (&json!({"team": "growth"}), &json!(7)));
    assert_eq!((&runs[0]["tasks_done"], &runs[0]["tasks"]), (&json!(0), &json!(1)));
    assert_eq!(text(&cluster.cli().json(["runs", "--state", "cancelled"]), "0.run"), ended);
    cluster.cli().run(["runs", "--state", "broken"]).refuses(2, &["no state `broken`", "cancelled"]);
    let shown = cluster.cli().ok(["show", &going]).stdout;
    assert!(shown.contains("team=growth") && shown.contains("priority 7"), "{shown}");
}

#[test]
fn a_file_that_no_request_takes_is_refused_with_its_code() {
    let cluster = TestCluster::start(LEASE);
    let file = cluster.pipeline("long", &" ".repeat(17 << 20)).to_string_lossy().into_owned();
    for command in ["submit", "run", "validate"] {
        cluster.cli().run([command, &file]).refuses(2, &["P030"]);
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let place = Place::new();
    place.cli.clone().env("SEGUE_SERVER", "").run(["runs"]).refuses(3, &["there is no coordinator"]);
    place.cli.run(["runs", "--server", ""]).refuses(2, &["http://"]);
}

#[test]
fn a_plan_shows_children_conditions_and_pools() {
    let place = Place::new();
    let file = place.file(
        "matrix.toml",
        r#"
[pipeline]
name = "matrix"
[params]
mode = { type = "string", default = "full" }
[tasks.train]
command = ["true"]
matrix = { size = [1, 2], kind = ["a", "b"] }
pools = { db = 1 }
when = "params.mode == 'full'"
"#,
    );
    let plan = place.cli.json(["plan", &file.to_string_lossy()]);
    let train = &list(&plan, "tasks")[0];
    assert_eq!((&train["children"], &train["keys"]), (&json!(4), &json!(["1+a", "1+b", "2+a", "2+b"])));
    assert_eq!((&train["pools"], &train["when"]), (&json!({"db": 1}), &json!("params.mode == 'full'")));
}
