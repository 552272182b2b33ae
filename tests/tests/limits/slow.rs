//! A disk that takes its time for every flush: nothing is lost, no lease ends, everything is only later.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use segue_proto::v1::TaskState;
use segue_tests::{TestCluster, WorkerPlan, cluster::task, until, values};
use serde_json::json;

use crate::thorough;

/// Puts itself before the flushes of the program that loads it, and lets each take as many milliseconds as a file says.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static void wait_first(void) {
    long ms = 0;
    const char *path = getenv("SEGUE_TEST_SLOW_FLUSH");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    if (fscanf(file, "%ld", &ms) != 1) ms = 0;
    fclose(file);
    struct timespec span = { ms / 1000, (ms % 1000) * 1000000L };
    nanosleep(&span, NULL);
}
int fdatasync(int fd) { wait_first(); return (int)syscall(SYS_fdatasync, fd); }
int fsync(int fd) { wait_first(); return (int)syscall(SYS_fsync, fd); }
"#;

/// Builds the shim. None, with a message, where there is no C compiler.
fn shim(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("slow.c"), dir.join("slow.so"));
    fs::write(&source, SHIM).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no C compiler `cc`");
        return None;
    }
    Some(library)
}

/// Gives the commits so far, and the seconds that they took in all.
fn commits(address: SocketAddr) -> (f64, f64) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    let figure = |name: &str| {
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no `{name}` in\n{body}")).parse::<f64>().unwrap()
    };
    (figure("segue_commit_seconds_count"), figure("segue_commit_seconds_sum"))
}

#[test]
fn slow_flushes_delay_everything_and_cost_neither_a_lease_nor_a_report() {
    let place = tempfile::tempdir().unwrap();
    let Some(library) = shim(place.path()) else { return };
    // Answers to heartbeats wait for two flushes at the most, and each heartbeat for the answer to the one before it: a
    // flush may take a quarter of the lease.
    let (lease_s, flush_ms) = if thorough() { (10, 2_400) } else { (6, 1_000) };
    let slow = place.path().join("slow");
    fs::write(&slow, "0").unwrap();
    let env = [
        ("LD_PRELOAD", library.to_string_lossy().into_owned()),
        ("SEGUE_TEST_SLOW_FLUSH", slow.to_string_lossy().into_owned()),
    ];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut cluster = TestCluster::start_with(Duration::from_secs(lease_s), &[], &env);
    cluster.add_worker(&WorkerPlan::new("w").cpu(3.0));
    let file = cluster.pipeline(
        "slow",
        r#"
[pipeline]
name = "slow"
[tasks.long]
command = ["sh", "-c", "echo $SEGUE_RUN_ID >> executions; until [ -e go ]; do sleep 0.05; done"]
[tasks.short]
foreach = { range = 12 }
command = ["true"]
"#,
    );
    let first = cluster.submit(&file, &[]);
    cluster.wait_task(&first, "long", TaskState::Running);
    let (before, took_before) = commits(cluster.http_address());
    fs::write(&slow, flush_ms.to_string()).unwrap();
    let second = cluster.submit(&file, &[]);
    // Long enough that every lease of before is over, were it not renewed.
    let wanted = 3.0 * lease_s as f64 * 1_000.0 / f64::from(flush_ms) / 2.0;
    let explained = cluster.cli().json(["explain", &second]);
    for waiting in values::list(&explained, "tasks") {
        assert!(!values::text(waiting, "code").is_empty() && !values::text(waiting, "text").is_empty(), "{waiting}");
    }
    let (after, took_after) = until("commits were slow for longer than a lease", || {
        if commits(cluster.http_address()).0 - before < wanted {
            // Something to flush.
            let _ = cluster.submit(&file, &[]);
        }
        let now = commits(cluster.http_address());
        (now.0 - before >= wanted).then_some(now)
    });
    let each = (took_after - took_before) / (after - before);
    assert!(each * 1_000.0 > f64::from(flush_ms) * 0.9, "each commit took {each} s only");
    assert_eq!(cluster.run(&first).ended_ms, 0, "it must have been running all the time");

    // One that takes too long is said.
    fs::write(&slow, (lease_s * 1_000 / 2).to_string()).unwrap();
    let last = cluster.submit(&file, &[]);
    let log = until("the coordinator says that its disk is slow", || {
        Some(cluster.coordinator_log()).filter(|log| log.contains("the disk of the store is slow"))
    });
    assert!(log.contains("--lease"), "{log}");
    fs::write(&slow, "0").unwrap();
    fs::write(cluster.dir().join("go"), "").unwrap();
    for run in [&first, &second, &last] {
        let view = cluster.wait_succeeded(run);
        assert_eq!(task(&view, "long").attempts.len(), 1, "no lease was lost: {view:?}");
        assert!(view.tasks.iter().all(|task| task.attempts.len() <= 1), "{view:?}");
    }
    let log = fs::read_to_string(cluster.dir().join("worker-w.log")).unwrap();
    assert!(!log.contains("lease has passed"), "{log}");
    let executed = fs::read_to_string(cluster.dir().join("executions")).unwrap();
    assert_eq!(executed.lines().filter(|line| *line == first).count(), 1);
    assert_eq!(cluster.cli().json(["store", "verify"])["problems"], json!([]));
}
