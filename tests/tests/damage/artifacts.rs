//! Damaged artifacts in the blob store: the task that takes one does not read it as good, and the one that makes it is named,
//! and mends it. The cache of results does not give it out.

use std::{fs, path::Path, time::Duration};

use segue_proto::v1::{FailureClass, TaskState};
use segue_tests::{TestCluster, WorkerPlan, cluster::task, tables};
use serde_json::json;

use crate::{Damage, EACH, blob, damage};

const LONG: Duration = Duration::from_secs(30);

/// `take` waits for `gate`, so that there is time for damage between `make` and it.
const PIPELINE: &str = r#"
[pipeline]
name = "damaged"
[tasks.make]
command = ["sh", "-c", "echo once >> made; printf 'the orders of the year' > $SEGUE_OUTPUT_DIR/orders"]
outputs = ["orders"]
cache = true
[tasks.gate]
command = ["sh", "-c", "until [ -e go ]; do sleep 0.05; done"]
after = ["make"]
[tasks.take]
command = ["sh", "-c", "cat $SEGUE_INPUT_ORDERS > taken"]
inputs = { orders = "make.orders" }
after = ["gate"]
retry = { attempts = 3, initial = "10ms" }
"#;

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn a_damaged_artifact_is_not_read_as_good_and_the_task_that_makes_it_again_is_named() {
    let mut cluster = TestCluster::start(LONG);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let dir = cluster.dir().to_owned();
    let (made, taken, go) = (dir.join("made"), dir.join("taken"), dir.join("go"));
    let file = cluster.pipeline("damaged", PIPELINE);
    for how in EACH {
        let _ = fs::remove_file(&go);
        let _ = fs::remove_file(&taken);
        let before = lines(&made);
        let run = cluster.submit(&file, &["--no-cache"]);
        cluster.wait_task(&run, "gate", TaskState::Running);
        let digest = tables::digests(&cluster.cli(), &run)["make.orders"].clone();
        let place = blob(&cluster.state_dir(), &digest);
        let whole = damage(&place, how);
        fs::write(&go, "").unwrap();

        let view = cluster.wait_ended(&run);
        let take = task(&view, "take");
        assert_eq!(take.state(), TaskState::Failed, "{how:?}");
        let failure = take.failure.clone().unwrap();
        assert_eq!(failure.class(), FailureClass::Data, "{how:?}: {failure:?}");
        for part in ["input `orders`", digest.as_str()] {
            assert!(failure.message.contains(part), "{how:?}: `{part}` is not in: {}", failure.message);
        }
        let next = format!("segue rerun {run} --from make");
        assert!(failure.hint.contains(&next) && failure.hint.contains("`make`"), "{how:?}: {}", failure.hint);
        assert_eq!(take.attempts.len(), 1, "{how:?}: another try reads the same bytes");
        assert!(!taken.exists(), "{how:?}: nobody has read it");
        assert_eq!(lines(&made), before + 1, "{how:?}");

        // Nobody else is given it either.
        let out = dir.join("out").to_string_lossy().into_owned();
        let got = cluster.cli().run(["artifacts", "get", &run, "make.orders", "--out", &out]);
        assert!(got.code != 0 && got.stderr.contains(&digest), "{how:?}: {} {}", got.code, got.stderr);
        assert!(!Path::new(&out).exists());
        let verified = cluster.cli().run(["store", "verify", "-o", "json"]);
        assert_eq!(verified.code, 3, "{how:?}: {}", verified.stdout);
        let problems = verified.json()["problems"].to_string();
        assert!(problems.contains(&digest) && problems.contains("make.orders"), "{how:?}: {problems}");

        // The next step helps.
        cluster.cli().ok(["rerun", &run, "--from", "make", "--no-wait"]);
        cluster.wait_succeeded(&run);
        assert_eq!(lines(&made), before + 2, "{how:?}: made again");
        assert_eq!(fs::read(&place).unwrap(), whole, "{how:?}: and mended");
        assert_eq!(fs::read(&taken).unwrap(), whole, "{how:?}");
        assert_eq!(cluster.cli().json(["store", "verify"])["problems"], json!([]), "{how:?}");
    }
}

#[test]
fn a_cached_result_whose_bytes_are_damaged_is_made_again() {
    let mut cluster = TestCluster::start(LONG);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let dir = cluster.dir().to_owned();
    fs::write(dir.join("go"), "").unwrap();
    let file = cluster.pipeline("damaged", PIPELINE);
    let made = |cluster: &TestCluster| {
        let run = cluster.submit(&file, &[]);
        let view = cluster.wait_succeeded(&run);
        assert_eq!(fs::read(dir.join("taken")).unwrap(), b"the orders of the year");
        (run, task(&view, "make").cached)
    };
    let (first, cached) = made(&cluster);
    assert!(!cached);
    let digest = tables::digests(&cluster.cli(), &first)["make.orders"].clone();
    let place = blob(&cluster.state_dir(), &digest);
    // What is known of files is known to one start of the coordinator, and both must look.
    for restarted in [false, true] {
        for how in EACH {
            assert!(made(&cluster).1, "{how:?}: without damage, it is there already");
            let executions = lines(&dir.join("made"));
            let whole = damage(&place, how);
            if restarted {
                assert_eq!(cluster.stop_coordinator().code(), Some(0));
                cluster.start_coordinator();
                cluster.wait_worker("only", "connected");
            }
            assert!(!made(&cluster).1, "{how:?}: a damaged result was taken from the cache");
            assert_eq!(lines(&dir.join("made")), executions + 1, "{how:?}");
            assert_eq!(fs::read(&place).unwrap(), whole, "{how:?}: mended");
        }
    }
    assert_eq!(cluster.cli().json(["store", "verify"])["problems"], json!([]));
}

#[test]
fn a_damaged_artifact_that_comes_over_the_network_is_noticed_at_once_too() {
    let mut cluster = TestCluster::start(LONG);
    // A worker that sees another directory than that of the store goes through the coordinator.
    fs::write(cluster.state_dir().join("store-id"), "another\n").unwrap();
    cluster.add_worker(&WorkerPlan::new("far").cpu(4.0));
    let dir = cluster.dir().to_owned();
    let file = cluster.pipeline("damaged", PIPELINE);
    for how in [Damage::Flipped(0.2), Damage::Cut(0.5), Damage::Gone] {
        let _ = fs::remove_file(dir.join("go"));
        let run = cluster.submit(&file, &["--no-cache"]);
        cluster.wait_task(&run, "gate", TaskState::Running);
        let digest = tables::digests(&cluster.cli(), &run)["make.orders"].clone();
        let place = blob(&cluster.state_dir(), &digest);
        let whole = damage(&place, how);
        // Its own copy would do.
        let copy = dir.join("cache-far/blobs").join(&digest);
        fs::remove_file(&copy).unwrap();
        fs::write(dir.join("go"), "").unwrap();
        let view = cluster.wait_ended(&run);
        let failure = task(&view, "take").failure.clone().unwrap();
        assert_eq!(failure.class(), FailureClass::Data, "{how:?}: {failure:?}");
        assert!(failure.message.contains(&digest) && failure.message.contains("`orders`"), "{how:?}: {failure:?}");
        assert!(failure.hint.contains("--from make"), "{how:?}: {failure:?}");
        assert_eq!(task(&view, "take").attempts.len(), 1, "{how:?}");
        cluster.cli().ok(["rerun", &run, "--from", "make", "--no-wait"]);
        cluster.wait_succeeded(&run);
        assert_eq!(fs::read(&place).unwrap(), whole, "{how:?}: the worker sent it again");
        let _ = fs::remove_file(dir.join("taken"));
    }
}
