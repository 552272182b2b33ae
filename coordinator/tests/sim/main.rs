//! Deterministic simulation of a whole cluster in one thread: the real coordinator, model workers and clients that speak
//! to it over real gRPC, a network and a disk that fail, and an auditor. One seed is one process, so that a seed goes the
//! same way wherever and beside whatever it runs.
//!
//! ```text
//! cargo test -p segue-coordinator --test sim                     200 seeds; SEEDS=N and FROM=N choose others
//! cargo test -p segue-coordinator --test sim -- --replay SEED    one seed, step by step
//! cargo test -p segue-coordinator --test sim --features defects -- --defects
//!                                                                does the auditor notice deliberate defects?
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[cfg(target_os = "linux")]
mod auditor;
#[cfg(target_os = "linux")]
mod chance;
#[cfg(target_os = "linux")]
mod clockwork;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod env;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod mutants;
#[cfg(target_os = "linux")]
mod net;
#[cfg(target_os = "linux")]
mod sweep;
#[cfg(target_os = "linux")]
mod trace;
#[cfg(target_os = "linux")]
mod worker;
#[cfg(target_os = "linux")]
mod world;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    sweep::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the simulation stands in for the C library of Linux: nothing is simulated here");
}
