//! The chaos program in small: every kind of fault, on real processes, and an audit that finds nothing.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn a_cluster_that_is_killed_stopped_and_cut_at_random_loses_doubles_and_forgets_nothing() {
    const CYCLES: u64 = 16;
    let said = Command::new(env!("CARGO_BIN_EXE_segue-chaos"))
        .args(["--cycles", &CYCLES.to_string(), "--seed", "5", "-o", "json"])
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&said.stderr)));
    assert_eq!(found["violations"], Value::Array(Vec::new()), "{found:#}");
    assert!(said.status.success());
    let faults = found["faults"].as_object().unwrap();
    assert_eq!(faults.values().filter_map(Value::as_u64).sum::<u64>(), CYCLES, "each of them has happened: {faults:?}");
    assert!(faults.len() >= 4, "of several kinds: {faults:?}");
    assert!(found["executions_begun"].as_u64().unwrap() > 50, "while there was work: {found:#}");
}
