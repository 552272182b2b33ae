//! The chaos program in small: every kind of fault, on real processes, and an audit that finds nothing; restarts in turn,
//! a lost worker, and a coordinator that is killed under load.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use serde_json::{Value, json};

/// Executes the chaos program; none where this machine lacks what it needs.
fn chaos(args: &[&str]) -> Option<(Value, Output)> {
    let said = Command::new(env!("CARGO_BIN_EXE_segue-chaos")).args(args).args(["-o", "json"]).output().unwrap();
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    if let Some(reason) = told.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        eprintln!("skipped: {reason}");
        return None;
    }
    let found = serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{e}: {told}"));
    Some((found, said))
}

/// Checks that exactly this many faults of each kind have happened, and that nothing came of them.
fn budget_is_spent_and_nothing_is_wrong(found: &Value, said: &Output, budget: &[(&str, u32)]) {
    assert_eq!(found["violations"], json!([]), "{found:#}");
    let budget: BTreeMap<&str, u32> = budget.iter().copied().collect();
    assert_eq!(found["faults"], json!(budget), "each of them has happened, and no other");
    assert!(found["executions_begun"].as_u64().unwrap() > 50, "while there was work: {found:#}");
    assert!(said.status.success());
}

fn told(budget: &[(&str, u32)]) -> String {
    budget.iter().map(|(kind, share)| format!("{kind}={share}")).collect::<Vec<_>>().join(",")
}

#[test]
fn a_cluster_that_is_killed_stopped_and_cut_at_random_loses_doubles_and_forgets_nothing() {
    let budget = [
        ("cut-worker", 2),
        ("end-coordinator", 1),
        ("end-worker", 1),
        ("kill-command", 2),
        ("kill-coordinator", 3),
        ("kill-runner", 2),
        ("kill-worker", 2),
        ("stop-coordinator", 1),
        ("stop-worker", 2),
    ];
    let (found, said) = chaos(&["--budget", &told(&budget), "--seed", "5"]).unwrap();
    budget_is_spent_and_nothing_is_wrong(&found, &said, &budget);
}

#[test]
fn hosts_that_are_unplugged_half_open_slow_and_lossy_lose_double_and_forget_nothing() {
    let budget = [
        ("host-deaf", 1),
        ("host-down", 2),
        ("host-lossy", 1),
        ("host-mute", 1),
        ("host-silent", 1),
        ("host-slow", 1),
        ("kill-coordinator", 1),
        ("kill-worker", 1),
    ];
    let Some((found, said)) = chaos(&["--netns", "--budget", &told(&budget), "--seed", "3"]) else { return };
    budget_is_spent_and_nothing_is_wrong(&found, &said, &budget);
}

#[test]
fn a_cluster_whose_processes_are_restarted_in_turn_fails_nothing_and_executes_nothing_twice() {
    let args = ["--rolling", "--rounds", "2", "--workers", "2", "--runs", "2", "--tasks", "120", "--longest", "0.3"];
    let (found, said) = chaos(&args).unwrap();
    assert_eq!(found["violations"], json!([]), "{found:#}");
    assert_eq!((&found["failed"], &found["attempts_in_vain"]), (&json!(0), &json!(0)), "{found:#}");
    let mut restarts: Vec<&str> =
        found["restarts"].as_array().unwrap().iter().map(|restart| restart["process"].as_str().unwrap()).collect();
    restarts.sort_unstable();
    assert_eq!(restarts, ["coordinator", "coordinator", "w1", "w1", "w2", "w2"]);
    assert_eq!(found["executions_begun"], found["executions_ended"], "what began came to its end: {found:#}");
    assert!(said.status.success());
}

/// Loses a worker in each of these ways. Times are only held against the lease, with much room for a loaded machine.
fn lost(args: &[&str], kinds: &[&str]) {
    const LEASE: f64 = 1.5;
    let (lease, ways) = (LEASE.to_string(), kinds.join(","));
    let all = [&["--lost", "--rounds", "1", "--lease", &lease, "--kinds", &ways], args].concat();
    let Some((found, said)) = chaos(&all) else { return };
    assert_eq!(found["violations"], json!([]), "{found:#}");
    let losses = found["losses"].as_array().unwrap();
    let ways: Vec<&str> = losses.iter().map(|loss| loss["kind"].as_str().unwrap()).collect();
    assert_eq!(ways, kinds);
    for loss in losses {
        let [elsewhere, gone] = ["elsewhere_s", "gone_s"].map(|name| loss[name].as_f64().unwrap());
        assert!(gone < elsewhere, "two attempts are never alive at the same time: {loss}");
        assert!(elsewhere > LEASE / 2.0, "nothing is given away while the lease goes on: {loss}");
        assert!(elsewhere < LEASE * 20.0, "and it does not stay where it is: {loss}");
    }
    assert!(said.status.success());
}

#[test]
fn the_tasks_of_a_lost_worker_run_elsewhere_after_its_lease_and_nothing_of_them_is_left_behind() {
    lost(&[], &["kill-worker", "stop-worker", "cut-worker"]);
}

#[test]
fn the_tasks_of_a_host_that_is_unplugged_or_half_open_run_elsewhere_after_its_lease() {
    lost(&["--netns"], &["host-down", "host-deaf"]);
}

#[test]
fn a_coordinator_that_is_killed_under_a_large_run_adopts_what_its_workers_hold_and_gives_out_more() {
    let said = Command::new(env!("CARGO_BIN_EXE_segue-bench"))
        .args(["restart", "--in-flight", "2000", "--holders", "5", "--kills", "2", "-o", "json"])
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&said.stderr)));
    let restart = &found["restart"];
    assert_eq!(restart["broken"], json!([]), "{restart:#}");
    let figures = restart["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 5, "{restart:#}");
    for figure in figures {
        assert_eq!(figure["values"].as_array().unwrap().len(), 2, "after each kill: {figure}");
    }
    assert!(said.status.success());
}
