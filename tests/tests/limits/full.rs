//! A full disk under the coordinator: its store, its logs, its blobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use segue_proto::v1::{FailureClass, RunState};
use segue_tests::{
    Cli, Said, TestCluster, WorkerPlan,
    cluster::{is_alive, task},
    process::Process,
    until, values,
};
use serde_json::json;

use crate::{disk::Disk, memory};

/// Longer than any of these tests: no lease runs out by the clock.
const LEASE: Duration = Duration::from_secs(60);

/// Each task notes its execution.
const WORK: &str = r#"
[pipeline]
name = "work"
[tasks.step]
foreach = { range = 8 }
command = ["sh", "-c", "echo $SEGUE_RUN_ID $SEGUE_TASK $SEGUE_ATTEMPT >> executions"]
"#;

/// Submissions after which the disk must have said no.
const MOST: usize = 2_000;

/// Moves the state directory of a cluster, or a part of it, to a small file system.
fn on_small_disk(cluster: &mut TestCluster, part: &str, mib: u32) -> Option<Disk> {
    assert!(cluster.stop_coordinator().success());
    let disk = Disk::in_memory(&cluster.state_dir().join(part), mib)?;
    cluster.start_coordinator();
    Some(disk)
}

/// Submits one run after another until that is refused, and has the disk filled meanwhile. Gives the runs that were
/// acknowledged, and the refusal.
fn submit_until_refused(cluster: &TestCluster, file: &Path, disk: &Disk) -> (Vec<String>, Said) {
    let file = file.to_string_lossy().into_owned();
    let mut taken = Vec::new();
    for n in 0..MOST {
        if n == 3 {
            disk.fill();
        }
        let said = cluster.cli().run(["submit", &file, "--idempotency-key", &format!("key-{n}"), "-o", "json"]);
        if said.code != 0 {
            return (taken, said);
        }
        taken.push(values::text(&said.json(), "run").to_owned());
    }
    panic!("{MOST} submissions fit on a full disk");
}

/// Starts a coordinator that cannot run and gives what it says.
fn refused_start(cluster: &TestCluster) -> Said {
    let cli = Cli::state_dir(&cluster.state_dir(), cluster.dir());
    let log = cluster.dir().join("refused.log");
    let mut command = cli.command(["coordinator", "--listen", "127.0.0.1:0", "--http", "off"]);
    let mut process = Process::start("the coordinator without room", &mut command, &log);
    let code = process.wait().code().unwrap_or(-1);
    Said { code, repeated: false, stdout: String::new(), stderr: process.log() }
}

#[test]
fn a_full_disk_stops_the_coordinator_with_its_reason_and_nothing_acknowledged_is_lost() {
    let mut cluster = TestCluster::start(LEASE);
    let Some(disk) = on_small_disk(&mut cluster, "", 24) else { return };
    cluster.add_worker(&WorkerPlan::new("w").cpu(4.0));
    let file = cluster.pipeline("work", WORK);
    let coordinator = cluster.coordinator().id();
    let (taken, refusal) = submit_until_refused(&cluster, &file, &disk);
    assert!(taken.len() >= 3, "{taken:?}");
    refusal.refuses(3, &["hint"]);
    memory::gone("the coordinator", coordinator);
    let log = fs::read_to_string(cluster.dir().join("coordinator.log")).unwrap();
    assert_eq!(cluster.stop_coordinator().code(), Some(3), "{log}");
    for words in ["No space left on device", "make room on that disk", "start the coordinator again"] {
        assert!(log.contains(words), "nothing says `{words}`\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(disk.free() < 64 << 10, "the disk was full when it stopped");

    // As long as there is no room it says so, and breaks nothing.
    disk.fill();
    refused_start(&cluster).refuses(3, &["No space left on device", "make room"]);
    disk.make_room();
    cluster.start_coordinator();
    for run in &taken {
        cluster.wait_succeeded(run);
    }
    // Whether the refused one is there or not: the same request comes to the same run, once.
    let key = format!("key-{}", taken.len());
    let again = cluster.submit(&file, &["--idempotency-key", &key]);
    assert!(!taken.contains(&again));
    cluster.wait_succeeded(&again);
    let known: BTreeSet<String> = values::list(&cluster.cli().json(["runs", "--limit", "5000"]), "")
        .iter()
        .map(|run| values::text(run, "run").to_owned())
        .collect();
    assert_eq!(known, taken.iter().chain([&again]).cloned().collect(), "no more and no less than was acknowledged");
    let mut executed: BTreeMap<String, u32> = BTreeMap::new();
    for line in fs::read_to_string(cluster.dir().join("executions")).unwrap().lines() {
        *executed.entry(line.to_owned()).or_default() += 1;
    }
    assert!(executed.values().all(|&times| times == 1), "an attempt was executed twice: {executed:?}");
    assert_eq!(executed.len(), 8 * known.len(), "each task once");
    assert_eq!(cluster.cli().json(["store", "verify"])["problems"], json!([]));
}

/// Says a few megabytes, and the end when it is told.
const TALK: &str = r#"
[pipeline]
name = "talk"
[tasks.talk]
command = ["sh", "-c", "yes 'one of very many lines' | head -c 4000000; until [ -e go ]; do sleep 0.05; done; echo the end"]
"#;

#[test]
fn a_full_disk_of_logs_costs_lines_that_are_counted_and_neither_the_attempt_nor_its_worker() {
    let mut cluster = TestCluster::start(LEASE);
    let Some(disk) = on_small_disk(&mut cluster, "logs", 8) else { return };
    cluster.add_worker(&WorkerPlan::new("w").cpu(2.0));
    let file = cluster.pipeline("talk", TALK);
    disk.fill();
    let noted = || fs::read_to_string(cluster.dir().join("coordinator.log")).unwrap();
    let run = cluster.submit(&file, &[]);
    let said = until("the coordinator says that logs are not kept", || {
        Some(noted()).filter(|log| log.contains("logs of a worker are not kept"))
    });
    assert!(said.contains("No space left on device") && said.contains("; make room on that disk"), "{said}");
    assert_eq!(said.matches("are not kept").count(), 1, "once, not for each piece:\n{said}");
    disk.make_room();
    fs::write(cluster.dir().join("go"), "").unwrap();
    let view = cluster.wait_succeeded(&run);
    let attempts = &task(&view, "talk").attempts;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    let shown = cluster.cli().ok(["logs", &run, "talk"]).stdout;
    assert!(shown.contains(" bytes lost …]\n") && shown.ends_with("the end\n"), "{shown}");
    assert_eq!(crate::logs::accounted(&shown), attempts[0].log_bytes, "every byte is there or counted");
    assert!(noted().contains("logs are kept again"));

    // Of one that has ended before there was room, the end is missing, which shows too.
    disk.fill();
    let run = cluster.submit(&file, &[]);
    let view = cluster.wait_succeeded(&run);
    let shown = cluster.cli().ok(["logs", &run, "talk"]).stdout;
    assert!(shown.ends_with(" bytes lost …]\n"), "{shown}");
    assert_eq!(crate::logs::accounted(&shown), task(&view, "talk").attempts[0].log_bytes);
    assert_eq!(noted().matches("worker connected").count(), 1, "its link was never lost");
}

/// Makes an artifact of some megabytes.
const MAKE: &str = r#"
[pipeline]
name = "make"
[params]
given = { type = "string", default = "" }
[defaults]
retry = { attempts = 100, initial = "100ms", max = "300ms", on = ["infra"] }
[tasks.make]
command = ["sh", "-c", "dd if=/dev/urandom of=$SEGUE_OUTPUT_DIR/made bs=1M count=4 2>&1"]
with = { given = "${params.given}" }
outputs = ["made"]
"#;

#[test]
fn a_full_disk_of_blobs_fails_attempts_as_infra_and_refuses_uploads_until_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::in_memory(&place.path().join("blobs"), 16) else { return };
    let url = format!("file://{}", place.path().join("blobs").display());
    let mut cluster = TestCluster::start_with(LEASE, &["--blobs", &url], &[]);
    cluster.add_worker(&WorkerPlan::new("w").cpu(2.0));
    let file = cluster.pipeline("make", MAKE);
    disk.fill();
    let run = cluster.submit(&file, &[]);
    let failure = cluster.wait_run(&run, "an attempt fails", |view| {
        task(view, "make").attempts.iter().find_map(|attempt| attempt.failure.clone())
    });
    assert_eq!(failure.class(), FailureClass::Infra, "{failure:?}");
    assert!(failure.message.contains("cannot store the artifact"), "{failure:?}");
    assert!(failure.message.contains("No space left on device"), "{failure:?}");
    assert!(failure.hint.contains("make room") && failure.hint.contains("blobs"), "{failure:?}");
    let given = cluster.dir().join("given");
    fs::write(&given, vec![7; 3 << 20]).unwrap();
    let upload = format!("given=@{}", given.display());
    let refused = cluster.cli().run(["submit", &file.to_string_lossy(), "-p", &upload]);
    refused.refuses(3, &["No space left on device", "make room"]);
    assert!(is_alive(cluster.coordinator().id()), "the store has room and goes on");

    disk.make_room();
    let view = cluster.wait_succeeded(&run);
    assert!(task(&view, "make").attempts.len() > 1, "it was tried again by itself");
    let run = cluster.submit(&file, &["-p", &upload]);
    assert_eq!(cluster.wait_ended(&run).state(), RunState::Succeeded);
    let staged = fs::read_dir(place.path().join("blobs/staging")).unwrap().count();
    assert_eq!(staged, 0, "what was refused has left nothing");
    assert_eq!(cluster.cli().json(["store", "verify"])["problems"], json!([]));
}
