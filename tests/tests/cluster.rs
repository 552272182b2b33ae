//! A cluster of real processes: where work lands, and what users ask of running work.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use segue_proto::v1::{AttemptState, RunState, TaskState};
use segue_tests::{
    TestCluster, WorkerPlan,
    cluster::{attempts, is_alive, ranked, task, worker_of},
    data, program, tables, until, values,
};

/// Long enough that no pause of a busy machine looks like a lost worker; nothing waits for it.
const LEASE: Duration = Duration::from_secs(20);

/// A command that notes its execution, and then waits for the file `go-TASK`.
const GATED: &str = r#"["sh", "-c", "echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions; until [ -e go-$SEGUE_TASK ]; do sleep 0.05; done"]"#;

fn executions(dir: &Path) -> Vec<String> {
    ranked(&fs::read_to_string(dir.join("executions")).unwrap_or_default())
}

fn open(dir: &Path, name: &str) {
    fs::write(dir.join(format!("go-{name}")), "").unwrap();
}

#[test]
fn the_embedding_lands_on_the_gpu_worker_and_a_changed_horizon_executes_the_prediction_and_what_follows() {
    if !data::has_embedding_model() {
        return;
    }
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("north").cpu(8.0));
    cluster.add_worker(&WorkerPlan::new("south").cpu(8.0));
    cluster.add_worker(&WorkerPlan::new("gpu").cpu(8.0).gpus(1).label("gpu=simulated"));
    let sample = data::sample(cluster.dir(), 8_000);
    let input = format!("input={}", sample.display());
    let run = cluster.submit(&program::shipped("customer-segmentation.toml"), &["-p", &input]);
    let view = cluster.wait_succeeded(&run);
    assert_eq!(view.tasks.len(), 13);
    for task in &view.tasks {
        let worker = worker_of(&view, &task.name);
        assert_eq!(worker == "gpu", task.name == "embed", "`{}` ran on `{worker}`", task.name);
    }
    let page = tables::bytes(&cluster.cli(), &run, "report.page", cluster.dir());
    assert!(String::from_utf8_lossy(&page).contains("<html"), "the report is a page");

    // Another horizon concerns the prediction alone: what does not come after it is taken from the first run.
    let again =
        cluster.submit(&program::shipped("customer-segmentation.toml"), &["-p", &input, "-p", "horizon_days=60"]);
    let view = cluster.wait_succeeded(&again);
    let executed: Vec<&str> = view.tasks.iter().filter(|task| !task.cached).map(|task| task.name.as_str()).collect();
    if program::store_faults().is_none() {
        assert_eq!(executed, ["clv", "segments", "register", "report"]);
    } else {
        // A result that could not be read, or noted, is made again: that costs time and nothing else.
        assert!(executed.ends_with(&["clv", "segments", "register", "report"]), "{executed:?}");
    }
}

#[test]
fn a_task_that_prefers_a_gpu_falls_back_and_one_that_requires_it_waits_and_says_why() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("plain").cpu(4.0));
    let file = cluster.pipeline(
        "gpu",
        r#"
[pipeline]
name = "gpu"
[tasks.prefers]
command = ["true"]
resources = { gpu = "prefer" }
[tasks.requires]
command = ["true"]
resources = { gpu = 1 }
[tasks.labelled]
command = ["true"]
resources = { labels = { zone = "b" } }
"#,
    );
    let run = cluster.submit(&file, &[]);
    let view = cluster.wait_run(&run, "the first task is done", |view| {
        (task(view, "prefers").state() == TaskState::Succeeded).then(|| view.clone())
    });
    assert_eq!(worker_of(&view, "prefers"), "plain", "no GPU worker is registered");
    for waiting in ["requires", "labelled"] {
        assert_eq!(task(&view, waiting).state(), TaskState::Ready);
        let said = cluster.cli().json(["explain", &run, waiting]);
        assert!(!values::text(&said, "tasks.0.code").is_empty(), "{said}");
    }
    cluster.add_worker(&WorkerPlan::new("gpu").gpus(1).label("zone=b"));
    let view = cluster.wait_succeeded(&run);
    assert_eq!((worker_of(&view, "requires"), worker_of(&view, "labelled")), ("gpu", "gpu"));
}

#[test]
fn a_failed_node_is_rerun_as_printed_and_nothing_else_executes() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let file = cluster.pipeline(
        "fails",
        r#"
[pipeline]
name = "fails"
[tasks.before]
command = ["sh", "-c", "echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions; date +%N > $SEGUE_OUTPUT_DIR/made"]
outputs = ["made"]
[tasks.beside]
command = ["sh", "-c", "echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions"]
[tasks.fails]
command = ["sh", "-c", "echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions; echo attempt $SEGUE_ATTEMPT looks; cat go-fails; cp $SEGUE_INPUT_MADE $SEGUE_OUTPUT_DIR/passed"]
inputs = { made = "before.made" }
outputs = ["passed"]
[tasks.after]
command = ["sh", "-c", "echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions"]
inputs = { passed = "fails.passed" }
"#,
    );
    // Without `set -e` the copy would hide the failure of the look.
    let text = fs::read_to_string(&file).unwrap().replace("cat go-fails;", "cat go-fails || exit 3;");
    fs::write(&file, text).unwrap();
    let (dir, cli) = (cluster.dir(), cluster.cli());
    let run = cluster.submit(&file, &[]);
    assert_eq!(cli.run(["wait", &run]).code, 1, "a failed run is exit code 1");
    let view = cluster.run(&run);
    assert_eq!(view.state(), RunState::Failed);
    assert_eq!(task(&view, "fails").failure.as_ref().unwrap().exit_code, Some(3), "the fault was the one planned");
    assert_eq!(task(&view, "after").state(), TaskState::UpstreamFailed);
    assert_eq!(executions(dir), ["before 1", "beside 1", "fails 1"]);
    let kept = tables::digests(&cli, &run);

    let plan = cli.json(["rerun", &run, "--failed", "--dry-run"]);
    let chosen: Vec<&str> = values::list(&plan, "tasks")
        .iter()
        .filter(|item| item["execute"] == true)
        .map(|item| item["task"].as_str().unwrap())
        .collect();
    assert_eq!(chosen, ["fails", "after"]);
    assert_eq!(cluster.run(&run).generation, 0, "a dry run changes nothing");
    assert_eq!(executions(dir).len(), 3);

    open(dir, "fails");
    let outcome = cli.json(["rerun", &run, "--failed"]);
    assert_eq!(outcome["state"], "succeeded");
    assert_eq!(executions(dir), ["after 1", "before 1", "beside 1", "fails 1", "fails 2"], "exactly the plan");
    let view = cluster.run(&run);
    assert_eq!(attempts(&view, "fails"), [AttemptState::Failed, AttemptState::Succeeded]);
    let now = tables::digests(&cli, &run);
    assert_eq!(now["before.made"], kept["before.made"], "kept tasks keep their artifacts");
    assert_eq!(now["fails.passed"], kept["before.made"], "made from the artifact that was kept");
    let first = cli.ok(["logs", &run, "fails", "--attempt", "1"]).stdout;
    assert!(first.contains("attempt 1 looks") && first.contains("go-fails"), "the first log is still there: {first}");
    assert!(cli.ok(["logs", &run, "fails"]).stdout.contains("attempt 2 looks"));

    // From a succeeded run too: one task alone, then one with what comes after it.
    assert_eq!(cli.json(["rerun", &run, "--only", "beside"])["state"], "succeeded");
    assert_eq!(executions(dir).len(), 6);
    assert_eq!(cli.json(["rerun", &run, "--from", "fails"])["state"], "succeeded");
    let expected = ["after 1", "after 2", "before 1", "beside 1", "beside 2", "fails 1", "fails 2", "fails 3"];
    assert_eq!(executions(dir), expected);
    cli.run(["rerun", &run, "--from", "fial"]).refuses(2, &["has no task `fial`"]);
}

#[test]
fn a_worker_told_to_stop_finishes_its_work_takes_no_more_and_ends() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("first"));
    let file = cluster.pipeline(
        "drain",
        &format!("[pipeline]\nname = \"drain\"\n[tasks.a]\ncommand = {GATED}\n[tasks.b]\ncommand = {GATED}\n"),
    );
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    assert_eq!(task(&cluster.run(&run), "b").state(), TaskState::Ready, "one core runs one task");
    cluster.worker("first").signal(Signal::SIGTERM);
    cluster.wait_worker("first", "draining");
    cluster.add_worker(&WorkerPlan::new("second"));
    cluster.wait_task(&run, "b", TaskState::Running);
    open(cluster.dir(), "a");
    assert_eq!(cluster.worker("first").wait().code(), Some(0), "a drained worker ends well");
    open(cluster.dir(), "b");
    let view = cluster.wait_succeeded(&run);
    assert_eq!((worker_of(&view, "a"), worker_of(&view, "b")), ("first", "second"));
    assert_eq!(executions(cluster.dir()), ["a 1", "b 1"]);
}

#[test]
fn work_that_outlasts_the_grace_is_handed_back_and_burns_no_retry() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("hasty").grace(0.1));
    let file =
        cluster.pipeline("grace", &format!("[pipeline]\nname = \"grace\"\n[tasks.a]\ncommand = {GATED}\nretry = 1\n"));
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    cluster.cli().ok(["workers", "drain", "hasty"]);
    assert_eq!(cluster.worker("hasty").wait().code(), Some(0));
    assert_eq!(task(&cluster.run(&run), "a").state(), TaskState::Ready, "one try was allowed, and none is burnt");
    open(cluster.dir(), "a");
    cluster.add_worker(&WorkerPlan::new("patient"));
    let view = cluster.wait_succeeded(&run);
    assert_eq!(attempts(&view, "a"), [AttemptState::HandedBack, AttemptState::Succeeded]);
}

#[test]
fn a_cancel_ends_every_process_of_the_task() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only"));
    let file = cluster.pipeline(
        "cancel",
        r#"
[pipeline]
name = "cancel"
[tasks.long]
command = ["sh", "-c", "sleep 1000 & echo $! > child; setsid sleep 1000 & echo $! > stray; echo $$ > shell; wait"]
[tasks.never]
command = ["true"]
after = ["long"]
"#,
    );
    let run = cluster.submit(&file, &[]);
    let pids: Vec<Pid> = ["child", "stray", "shell"]
        .map(|name| {
            let pid = until(name, || fs::read_to_string(cluster.dir().join(name)).ok()?.trim().parse().ok());
            Pid::from_raw(pid)
        })
        .to_vec();
    assert!(pids.iter().all(|pid| is_alive(*pid)), "there must be something to end");
    cluster.cli().ok(["cancel", &run]);
    let view = cluster.wait_ended(&run);
    assert_eq!(view.state(), RunState::Cancelled);
    assert_eq!(task(&view, "long").state(), TaskState::Cancelled);
    assert_eq!(task(&view, "never").state(), TaskState::Cancelled);
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "a cancelled run holds no process");
    assert_eq!(cluster.cli().run(["wait", &run]).code, 1);
    cluster.cli().run(["cancel", &run]).refuses(2, &["ended"]);
}

#[test]
fn the_same_key_gives_the_same_run_and_another_key_another_one() {
    let mut cluster = TestCluster::start(LEASE);
    let file = cluster.pipeline(
        "once",
        "[pipeline]\nname = \"once\"\n[tasks.a]\ncommand = [\"sh\", \"-c\", \"echo $SEGUE_TASK >> executions\"]\n",
    );
    let first = cluster.submit(&file, &["--idempotency-key", "monday"]);
    cluster.add_worker(&WorkerPlan::new("only"));
    cluster.wait_succeeded(&first);
    let again = cluster.cli().json(["submit", &file.to_string_lossy(), "--idempotency-key", "monday"]);
    assert_eq!((values::text(&again, "run"), &again["existing"]), (first.as_str(), &serde_json::json!(true)));
    let other = cluster.submit(&file, &["--idempotency-key", "tuesday"]);
    assert_ne!(other, first);
    cluster.wait_succeeded(&other);
    assert_eq!(executions(cluster.dir()).len(), 2, "the repeated submission executed nothing");
    assert_eq!(values::list(&cluster.cli().json(["runs"]), "").len(), 2);
}
