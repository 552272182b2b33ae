//! Faults of a cluster of real processes: killed workers, killed coordinators, cut links.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::unistd::Pid;
use segue_proto::v1::{AttemptState, TaskState};
use segue_tests::{
    TestCluster, WorkerPlan,
    cluster::{attempts, is_alive, ranked, task, worker_of},
    data, program, tables, until,
};

/// For tests in which a lease runs out.
const SHORT: Duration = Duration::from_secs(3);
/// For tests in which none may.
const LONG: Duration = Duration::from_secs(30);

const RETRY: &str = "[defaults]\nretry = { attempts = 5, initial = \"10ms\", max = \"50ms\" }\n";

/// A command that notes its execution and its process, and then waits for the file `go-TASK`.
const GATED: &str = r#"["sh", "-c", "echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions; echo $$ > pid-$SEGUE_TASK-$SEGUE_ATTEMPT; until [ -e go-$SEGUE_TASK ]; do sleep 0.05; done"]"#;

fn executions(dir: &Path) -> Vec<String> {
    ranked(&fs::read_to_string(dir.join("executions")).unwrap_or_default())
}

fn open(dir: &Path, name: &str) {
    fs::write(dir.join(format!("go-{name}")), "").unwrap();
}

/// Waits for the process of an attempt. Over a store that fails, one that did not begin may come before it: there it is the
/// one of so many that began.
fn process(dir: &Path, task: &str, attempt: u32) -> Pid {
    let noted = |number: u32| fs::read_to_string(dir.join(format!("pid-{task}-{number}"))).ok()?.trim().parse().ok();
    let look = || match program::store_faults() {
        None => noted(attempt),
        Some(_) => (1..20).filter_map(noted).nth(attempt as usize - 1),
    };
    Pid::from_raw(until("the command notes its process", look))
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn a_killed_worker_is_replaced_within_its_lease_and_the_artifacts_are_the_same() {
    let mut cluster = TestCluster::start(SHORT);
    for name in ["east", "west"] {
        cluster.add_worker(&WorkerPlan::new(name).cpu(2.0));
    }
    let sample = data::sample(cluster.dir(), 8_000);
    let file = cluster.pipeline(
        "killed",
        &format!(
            r#"
[pipeline]
name = "killed"
{RETRY}
[tasks.clean]
op = "retail.clean"
with = {{ path = "{}" }}
[tasks.rfm]
op = "retail.rfm"
inputs = {{ orders = "clean.orders" }}
[tasks.gate]
command = ["sh", "-c", "echo $$ > pid-gate-$SEGUE_ATTEMPT; until [ -e go-gate ]; do sleep 0.05; done; cp $SEGUE_INPUT_IN $SEGUE_OUTPUT_DIR/out"]
inputs = {{ in = "rfm.customers" }}
outputs = {{ out = "table" }}
[tasks.scale]
op = "ml.scale"
inputs = {{ features = "gate.out" }}
with = {{ transform = "log1p" }}
[tasks.kmeans]
op = "ml.kmeans"
inputs = {{ features = "scale.scaled", scaler = "scale.model" }}
[tasks.clv]
op = "retail.clv"
inputs = {{ orders = "clean.orders", customers = "gate.out" }}
[tasks.segments]
op = "retail.segments"
inputs = {{ customers = "gate.out", clusters = "kmeans.customers", predictions = "clv.predictions" }}
"#,
            sample.display()
        ),
    );
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "gate", TaskState::Running);
    let victim = worker_of(&cluster.run(&run), "gate").to_owned();
    let command = process(cluster.dir(), "gate", 1);
    assert!(is_alive(command), "the kill must hit a live attempt");
    cluster.kill_worker(&victim);
    let killed = now_ms();
    until("the command dies with its worker", || (!is_alive(command)).then_some(()));
    open(cluster.dir(), "gate");
    let view = cluster.wait_succeeded(&run);
    assert_eq!(attempts(&view, "gate"), [AttemptState::Lost, AttemptState::Succeeded]);
    assert_ne!(worker_of(&view, "gate"), victim);
    let second = &task(&view, "gate").attempts[1];
    let waited = second.assigned_ms.saturating_sub(killed);
    // The lease counts from the last heartbeat before the kill. The other lease is for a busy machine.
    let limit = 2 * u64::try_from(SHORT.as_millis()).unwrap();
    assert!(waited <= limit, "rescheduled after {waited} ms, the lease is {} ms", SHORT.as_millis());

    let undisturbed = cluster.submit(&file, &["--no-cache"]);
    cluster.wait_succeeded(&undisturbed);
    let (disturbed, undisturbed) =
        (tables::digests(&cluster.cli(), &run), tables::digests(&cluster.cli(), &undisturbed));
    assert!(disturbed.len() > 10, "{disturbed:?}");
    assert_eq!(disturbed, undisturbed, "a kill must not change a byte");
}

#[test]
fn a_killed_coordinator_comes_back_and_no_attempt_is_executed_twice() {
    let mut cluster = TestCluster::start(LONG);
    for name in ["east", "west"] {
        cluster.add_worker(&WorkerPlan::new(name).cpu(2.0));
    }
    let mut text = format!("[pipeline]\nname = \"restart\"\n{RETRY}");
    for name in ["a", "b", "c", "d"] {
        text.push_str(&format!("[tasks.{name}]\ncommand = {GATED}\n"));
    }
    text.push_str(&format!("[tasks.e]\ncommand = {GATED}\nafter = [\"a\", \"b\", \"c\", \"d\"]\n"));
    let file = cluster.pipeline("restart", &text);
    let run = cluster.submit(&file, &[]);
    for name in ["a", "b", "c", "d"] {
        cluster.wait_task(&run, name, TaskState::Running);
    }
    let before: Vec<Pid> = ["a", "b", "c", "d"].map(|name| process(cluster.dir(), name, 1)).to_vec();
    open(cluster.dir(), "a");
    cluster.wait_task(&run, "a", TaskState::Succeeded);
    let epoch = cluster.rpc().status().unwrap().epoch;

    cluster.kill_coordinator();
    assert!(cluster.rpc().status().is_err(), "nobody answers");
    // One ends while there is nobody to tell.
    open(cluster.dir(), "b");
    until("`b` ends", || (!is_alive(before[1])).then_some(()));
    cluster.start_coordinator();
    assert_eq!(cluster.rpc().status().unwrap().epoch, epoch + 1, "a new start of the coordinator");

    cluster.wait_task(&run, "b", TaskState::Succeeded);
    assert!(is_alive(before[2]) && is_alive(before[3]), "what ran goes on");
    // Once more, with nothing in between.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    for name in ["c", "d", "e"] {
        open(cluster.dir(), name);
    }
    let view = cluster.wait_succeeded(&run);
    assert_eq!(executions(cluster.dir()), ["a 1", "b 1", "c 1", "d 1", "e 1"], "each attempt once");
    for task in &view.tasks {
        assert_eq!(task.attempts.len(), 1, "`{}` was adopted, not started again", task.name);
    }
    assert_eq!(cluster.cli().ok(["store", "verify"]).code, 0);
}

#[test]
fn many_short_tasks_are_each_executed_once_however_often_the_coordinator_is_killed() {
    const WIDTH: usize = 12;
    const DEPTH: usize = 5;
    const KILLS: usize = 4;
    let mut cluster = TestCluster::start(LONG);
    for name in ["east", "west"] {
        cluster.add_worker(&WorkerPlan::new(name).cpu(2.0));
    }
    let mut text = format!("[pipeline]\nname = \"many\"\n{RETRY}");
    for level in 0..DEPTH {
        for column in 0..WIDTH {
            text.push_str(&format!(
                "[tasks.t{level}-{column}]\ncommand = [\"sh\", \"-c\", \"echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions\"]\n"
            ));
            if level > 0 {
                text.push_str(&format!("after = [\"t{}-{column}\"]\n", level - 1));
            }
        }
    }
    let file = cluster.pipeline("many", &text);
    let run = cluster.submit(&file, &[]);
    let mut kills = 0;
    for kill in 1..=KILLS {
        // At another point of the run each time, and never after its end.
        let done = until("a part of the run is done", || {
            let done = executions(cluster.dir()).len();
            (done >= kill * WIDTH * DEPTH / (KILLS + 2)).then_some(done)
        });
        if done < WIDTH * DEPTH {
            cluster.kill_coordinator();
            cluster.start_coordinator();
            kills += 1;
        }
    }
    assert!(kills > 0, "the kills must have come before the end");
    let view = cluster.wait_succeeded(&run);
    let mut expected: Vec<String> = view.tasks.iter().map(|task| task.name.clone()).collect();
    expected.sort();
    let mut executed: Vec<String> =
        executions(cluster.dir()).iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
    executed.sort();
    assert_eq!(executed, expected, "every task once, after {kills} kills");
    assert_eq!(cluster.cli().ok(["store", "verify"]).code, 0);
}

#[test]
fn a_stopped_coordinator_ends_well_and_resumes_where_it_was() {
    let mut cluster = TestCluster::start(LONG);
    cluster.add_worker(&WorkerPlan::new("only"));
    let file = cluster.pipeline(
        "stop",
        &format!(
            "[pipeline]\nname = \"stop\"\n[tasks.a]\ncommand = {GATED}\n[tasks.b]\ncommand = {GATED}\nafter = [\"a\"]\n"
        ),
    );
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    assert!(cluster.state_dir().join("coordinator.json").is_file());
    assert_eq!(cluster.stop_coordinator().code(), Some(0), "a stop on request is no failure");
    assert!(!cluster.state_dir().join("coordinator.json").exists(), "nobody is sent to an address that is gone");
    cluster.start_coordinator();
    open(cluster.dir(), "a");
    open(cluster.dir(), "b");
    let view = cluster.wait_succeeded(&run);
    assert_eq!(executions(cluster.dir()), ["a 1", "b 1"]);
    assert!(view.tasks.iter().all(|task| task.attempts.len() == 1));
}

#[test]
fn a_worker_that_is_cut_off_stops_before_another_one_begins() {
    let mut cluster = TestCluster::start(SHORT);
    cluster.add_worker(&WorkerPlan::new("far"));
    let file = cluster.pipeline(
        "cut",
        &format!(
            r#"[pipeline]
name = "cut"
{RETRY}
[tasks.a]
command = ["sh", "-c", """
if mkdir first 2>/dev/null; then echo $$ > pid-a-1; while :; do sleep 0.05; done; fi
if kill -0 $(cat pid-a-1) 2>/dev/null; then echo both > overlap; fi
echo $SEGUE_TASK $SEGUE_ATTEMPT >> executions
"""]
"#
        ),
    );
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    let first = process(cluster.dir(), "a", 1);
    cluster.relay("far").cut();
    cluster.add_worker(&WorkerPlan::new("near"));
    let view = cluster.wait_succeeded(&run);
    assert_eq!(
        attempts(&view, "a"),
        [AttemptState::Lost, AttemptState::Succeeded],
        "the cut must have cost an attempt"
    );
    assert_eq!(worker_of(&view, "a"), "near");
    assert!(!is_alive(first), "the worker that was cut off killed its attempt by itself");
    assert!(!cluster.dir().join("overlap").exists(), "two attempts of one task ran at the same time");
    // It comes back as if nothing had been, and works.
    cluster.relay("far").mend();
    cluster.wait_worker("far", "connected");
    let executions = executions(cluster.dir());
    assert!(executions == ["a 2"] || (program::store_faults().is_some() && executions.len() == 1), "{executions:?}");
    assert_eq!(attempts(&cluster.run(&run), "a"), attempts(&view, "a"), "what came back changed nothing");
}

#[test]
fn a_link_that_breaks_for_a_moment_costs_no_attempt() {
    let mut cluster = TestCluster::start(LONG);
    cluster.add_worker(&WorkerPlan::new("only"));
    let file = cluster.pipeline("moment", &format!("[pipeline]\nname = \"moment\"\n[tasks.a]\ncommand = {GATED}\n"));
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    cluster.relay("only").cut();
    cluster.wait_worker("only", "disconnected");
    open(cluster.dir(), "a");
    let first = process(cluster.dir(), "a", 1);
    until("the command ends", || (!is_alive(first)).then_some(()));
    cluster.relay("only").mend();
    let view = cluster.wait_succeeded(&run);
    assert_eq!(attempts(&view, "a"), [AttemptState::Succeeded]);
    assert_eq!(executions(cluster.dir()), ["a 1"]);
}

#[test]
fn a_stopped_worker_leaves_nothing_alive_when_its_work_begins_elsewhere() {
    let mut cluster = TestCluster::start(SHORT);
    cluster.add_worker(&WorkerPlan::new("east"));
    let text = format!("[pipeline]\nname = \"stopped\"\n{RETRY}[tasks.long]\ncommand = {GATED}\n");
    let file = cluster.pipeline("stopped", &text);
    let run = cluster.submit(&file, &[]);
    let first = process(cluster.dir(), "long", 1);
    cluster.worker("east").signal(nix::sys::signal::Signal::SIGSTOP);
    cluster.add_worker(&WorkerPlan::new("west"));
    let second = process(cluster.dir(), "long", 2);
    assert!(!is_alive(first), "the worker is stopped, and its runner has ended the attempt without it");
    assert!(is_alive(second));
    cluster.worker("east").signal(nix::sys::signal::Signal::SIGCONT);
    open(cluster.dir(), "long");
    let view = cluster.wait_succeeded(&run);
    assert_eq!(attempts(&view, "long"), [AttemptState::Lost, AttemptState::Succeeded]);
    assert_eq!(executions(cluster.dir()), ["long 1", "long 2"]);
}
