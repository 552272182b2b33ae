//! The cache of a worker: what is damaged there is noticed before a task reads it, and fetched again.

use std::{fs, time::Duration};

use segue_proto::v1::TaskState;
use segue_tests::{TestCluster, WorkerPlan, tables};

use crate::{EACH, damage};

/// Passes for each worker that is killed.
const LEASE: Duration = Duration::from_secs(5);

const PIPELINE: &str = r#"
[pipeline]
name = "cached"
[defaults]
retry = { attempts = 3, initial = "10ms" }
[tasks.make]
command = ["sh", "-c", "printf 'the orders of the year' > $SEGUE_OUTPUT_DIR/orders"]
outputs = ["orders"]
[tasks.gate]
command = ["sh", "-c", "until [ -e go ]; do sleep 0.05; done"]
after = ["make"]
[tasks.take]
command = ["sh", "-c", "cat $SEGUE_INPUT_ORDERS > taken; echo $SEGUE_INPUT_ORDERS > read-from"]
inputs = { orders = "make.orders" }
after = ["gate"]
"#;

#[test]
fn a_damaged_file_in_the_cache_of_a_worker_is_fetched_again_before_it_is_read() {
    let mut cluster = TestCluster::start(LEASE);
    // A worker that sees another directory than that of the store keeps copies.
    fs::write(cluster.state_dir().join("store-id"), "another\n").unwrap();
    let plan = WorkerPlan::new("far").cpu(4.0);
    cluster.add_worker(&plan);
    let dir = cluster.dir().to_owned();
    let file = cluster.pipeline("cached", PIPELINE);
    // A start knows nothing of what was read before it.
    let again = [EACH[0], EACH[1]].map(|how| (true, how));
    for (restarted, how) in EACH.map(|how| (false, how)).into_iter().chain(again) {
        let _ = fs::remove_file(dir.join("go"));
        let run = cluster.submit(&file, &[]);
        cluster.wait_task(&run, "gate", TaskState::Running);
        let digest = tables::digests(&cluster.cli(), &run)["make.orders"].clone();
        let copy = dir.join("cache-far/blobs").join(&digest);
        let whole = damage(&copy, how);
        if restarted {
            // The gate ends with it, and is tried again by the next start.
            cluster.kill_worker("far");
            cluster.add_worker(&plan);
        }
        fs::write(dir.join("go"), "").unwrap();
        cluster.wait_succeeded(&run);
        let read = fs::read_to_string(dir.join("read-from")).unwrap();
        assert_eq!(read.trim(), copy.to_str().unwrap(), "it was read from the cache");
        assert_eq!(fs::read(dir.join("taken")).unwrap(), whole, "{how:?}");
        assert_eq!(fs::read(&copy).unwrap(), whole, "{how:?}: and it is mended");
        fs::remove_file(dir.join("taken")).unwrap();
    }
    let log = fs::read_to_string(dir.join("worker-far.log")).unwrap();
    assert!(log.contains("a cached file is damaged"), "the log names it:\n{log}");
}
