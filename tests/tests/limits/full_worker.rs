//! A full disk under a worker: outputs and inputs of attempts.

use std::{fs, time::Duration};

use segue_proto::v1::{Failure, FailureClass, RunView};
use segue_tests::{
    TestCluster, WorkerPlan,
    cluster::{is_alive, task, worker_of},
    until, values,
};

use crate::disk::Disk;

const LEASE: Duration = Duration::from_secs(60);

/// One task makes some megabytes, the other takes them elsewhere.
const PASS: &str = r#"
[pipeline]
name = "pass"
[params]
seed = 1
[defaults]
retry = { attempts = 100, initial = "100ms", max = "300ms", on = ["infra"] }
[tasks.make]
command = ["sh", "-c", "echo ${params.seed} > $SEGUE_OUTPUT_DIR/made && dd if=/dev/zero bs=1M count=5 2>&1 >> $SEGUE_OUTPUT_DIR/made"]
outputs = ["made"]
resources = { labels = { side = "east" } }
[tasks.take]
command = ["sh", "-c", "cksum < $SEGUE_INPUT_MADE"]
inputs = { made = "make.made" }
resources = { labels = { side = "west" } }
"#;

/// Starts a cluster whose worker `small` has its directory on a small disk.
fn with_small(side: &str, mib: u32, args: impl FnOnce(&mut TestCluster)) -> Option<(TestCluster, Disk)> {
    let mut cluster = TestCluster::start(LEASE);
    args(&mut cluster);
    let disk = Disk::in_memory(&cluster.dir().join("cache-small"), mib)?;
    cluster.add_worker(&WorkerPlan::new("small").cpu(2.0).label(&format!("side={side}")));
    let other = if side == "east" { "west" } else { "east" };
    cluster.add_worker(&WorkerPlan::new("large").cpu(2.0).label(&format!("side={other}")));
    Some((cluster, disk))
}

/// Waits for the first failure of a task.
fn failure_of(cluster: &TestCluster, run: &str, name: &str) -> Failure {
    let look = |view: &RunView| task(view, name).attempts.iter().find_map(|attempt| attempt.failure.clone());
    cluster.wait_run(run, "an attempt fails", look)
}

#[test]
fn a_command_that_finds_no_room_for_its_output_fails_as_infra_and_is_tried_again() {
    let Some((mut cluster, disk)) = with_small("east", 8, |_| {}) else { return };
    let file = cluster.pipeline("pass", PASS);
    disk.fill();
    let run = cluster.submit(&file, &[]);
    let failure = failure_of(&cluster, &run, "make");
    assert_eq!(failure.class(), FailureClass::Infra, "the fault is not the command's: {failure:?}");
    assert!(failure.message.contains("is full") || failure.message.contains("No space left"), "{failure:?}");
    assert!(failure.hint.contains("make room") && failure.hint.contains("--cache-dir"), "{failure:?}");

    // With room for the directory of the attempt, but not for all of the output, the command itself finds out.
    let tried = task(&cluster.run(&run), "make").attempts.len();
    disk.leave(3);
    let by_command = cluster.wait_run(&run, "the command itself fails", |view| {
        let later = task(view, "make").attempts.iter().skip(tried + 1);
        later.filter_map(|attempt| attempt.failure.clone()).find(|failure| failure.exit_code.is_some())
    });
    assert_eq!(by_command.class(), FailureClass::Infra, "{by_command:?}");
    assert!(by_command.message.contains("exited with code 1; the disk of "), "{by_command:?}");
    until("`segue explain` says why it waits", || {
        let why = cluster.cli().json(["explain", &run, "make"]);
        let why = values::list(&why, "tasks").first()?.clone();
        (values::text(&why, "code") == "backoff" && values::text(&why, "text").contains(" is full")).then_some(())
    });

    disk.make_room();
    let view = cluster.wait_succeeded(&run);
    assert_eq!(worker_of(&view, "make"), "small", "the worker lives and works");
    let small = cluster.worker("small").id();
    assert!(is_alive(small));
    assert_eq!(fs::read_dir(cluster.dir().join("cache-small/attempts")).unwrap().count(), 0, "nothing is left there");
}

/// Takes away the sign by which a worker knows that it sees the blobs themselves: it then fetches them into its cache, as
/// on a machine of its own.
fn hide_the_blobs(cluster: &mut TestCluster) {
    fs::remove_file(cluster.state_dir().join("store-id")).unwrap();
}

#[test]
fn an_input_that_finds_no_room_in_the_cache_fails_as_infra_and_comes_when_there_is_some() {
    let Some((mut cluster, disk)) = with_small("west", 12, hide_the_blobs) else { return };
    let file = cluster.pipeline("pass", PASS);
    disk.fill();
    let run = cluster.submit(&file, &[]);
    let failure = failure_of(&cluster, &run, "take");
    assert_eq!(failure.class(), FailureClass::Infra, "{failure:?}");
    assert!(failure.message.contains("cannot fetch the artifact"), "{failure:?}");
    assert!(failure.message.contains("No space left on device"), "{failure:?}");
    assert!(failure.hint.contains("make room") && failure.hint.contains("--cache-limit"), "{failure:?}");
    disk.make_room();
    let view = cluster.wait_succeeded(&run);
    assert!(task(&view, "take").attempts.len() > 1);
    let cached = fs::read_dir(cluster.dir().join("cache-small/blobs")).unwrap().count();
    assert_eq!(cached, 1, "it went through the cache");
    let small = cluster.worker("small").id();
    assert!(is_alive(small));
}

#[test]
fn a_cache_that_may_be_larger_than_its_disk_gives_way_to_what_is_needed_now() {
    // Room for two of them, and a limit of many.
    let Some((cluster, _disk)) = with_small("west", 14, hide_the_blobs) else { return };
    let file = cluster.pipeline("pass", PASS);
    for seed in 1..=4 {
        let run = cluster.submit(&file, &["-p", &format!("seed={seed}")]);
        let view = cluster.wait_succeeded(&run);
        assert_eq!(task(&view, "take").attempts.len(), 1, "no try was lost for want of room");
    }
    let log = until("the worker says what it did", || {
        let log = fs::read_to_string(cluster.dir().join("worker-small.log")).ok()?;
        Some(log).filter(|log| log.contains("the disk is full: cached blobs that nobody uses were removed"))
    });
    assert!(!log.contains("panicked"), "{log}");
}
