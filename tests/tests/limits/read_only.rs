//! A disk that cannot be written any more under the coordinator.

use std::{fs, time::Duration};

use segue_tests::{Cli, Said, TestCluster, WorkerPlan, cluster::task, process::Process, values};
use serde_json::json;

use crate::{disk::Disk, memory};

const LEASE: Duration = Duration::from_secs(60);

/// Notes its execution and waits for the file `go`.
const GATED: &str = r#"
[pipeline]
name = "gated"
[tasks.gate]
command = ["sh", "-c", "echo $SEGUE_RUN_ID $SEGUE_ATTEMPT >> executions; until [ -e go ]; do sleep 0.05; done"]
[tasks.after]
command = ["true"]
after = ["gate"]
"#;

/// Starts a coordinator that cannot run, and gives what it says.
fn refused_start(cluster: &TestCluster) -> Said {
    let cli = Cli::state_dir(&cluster.state_dir(), cluster.dir());
    let log = cluster.dir().join("refused.log");
    let mut command = cli.command(["coordinator", "--listen", "127.0.0.1:0", "--http", "off"]);
    let mut process = Process::start("the coordinator without a disk", &mut command, &log);
    let code = process.wait().code().unwrap_or(-1);
    Said { code, repeated: false, stdout: String::new(), stderr: process.log() }
}

#[test]
fn a_disk_that_falls_read_only_stops_the_coordinator_which_says_so_and_goes_on_when_it_is_mended() {
    let mut cluster = TestCluster::start(LEASE);
    assert!(cluster.stop_coordinator().success());
    let image = cluster.dir().join("image");
    let Some(disk) = Disk::in_file(&cluster.state_dir(), &image, 64) else { return };
    cluster.start_coordinator();
    cluster.add_worker(&WorkerPlan::new("w").cpu(2.0));
    let file = cluster.pipeline("gated", GATED);
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "gate", segue_proto::v1::TaskState::Running);
    let coordinator = cluster.coordinator().id();
    disk.fall_read_only();

    let refusal = cluster.cli().run(["submit", &file.to_string_lossy()]);
    refusal.refuses(3, &["hint"]);
    memory::gone("the coordinator", coordinator);
    let log = fs::read_to_string(cluster.dir().join("coordinator.log")).unwrap();
    assert_eq!(cluster.stop_coordinator().code(), Some(3), "{log}");
    for words in ["Read-only file system", "mount that disk for writing", "start the coordinator again"] {
        assert!(log.contains(words), "nothing says `{words}`\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    refused_start(&cluster).refuses(3, &["Read-only file system", "mount its disk for writing"]);

    disk.mend();
    cluster.start_coordinator();
    cluster.wait_worker("w", "connected");
    fs::write(cluster.dir().join("go"), "").unwrap();
    let view = cluster.wait_succeeded(&run);
    assert_eq!(task(&view, "gate").attempts.len(), 1, "what ran went on meanwhile");
    let executed = fs::read_to_string(cluster.dir().join("executions")).unwrap();
    assert_eq!(executed.lines().filter(|line| line.starts_with(run.as_str())).count(), 1, "{executed}");
    let again = cluster.submit(&file, &[]);
    cluster.wait_succeeded(&again);
    assert_eq!(cluster.cli().json(["store", "verify"])["problems"], json!([]));
}

#[test]
fn a_start_on_a_read_only_disk_is_refused_with_the_reason_and_changes_nothing() {
    let mut cluster = TestCluster::start(LEASE);
    assert!(cluster.stop_coordinator().success());
    let Some(disk) = Disk::in_memory(&cluster.state_dir(), 32) else { return };
    disk.make_read_only();
    refused_start(&cluster).refuses(3, &["Read-only file system", "mount its disk for writing"]);
    disk.make_writable();
    cluster.start_coordinator();
    cluster.add_worker(&WorkerPlan::new("w").cpu(2.0));
    fs::write(cluster.dir().join("go"), "").unwrap();
    let file = cluster.pipeline("gated", GATED);
    let run = cluster.submit(&file, &[]);
    cluster.wait_succeeded(&run);
    assert!(cluster.stop_coordinator().success());
    // With a store on it.
    disk.make_read_only();
    refused_start(&cluster).refuses(3, &["Read-only file system", "mount its disk for writing"]);
    let offline = Cli::state_dir(&cluster.state_dir(), cluster.dir()).run(["runs"]);
    offline.refuses(3, &["Read-only file system"]);
    disk.make_writable();
    cluster.start_coordinator();
    assert_eq!(cluster.run(&run).run_id, run);
    assert_eq!(values::list(&cluster.cli().json(["runs"]), "").len(), 1);
}
