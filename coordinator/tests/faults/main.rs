//! The coordinator under faults: stores that fail, crashes at every commit, peers that mean ill, limits, upgrades,
//! secrets. Everything happens in this process, over loopback, with the real server and a worker made by hand.
//!
//! `SEGUE_FAULTS=all` plays every crash point and many more seeds than a normal test does.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod crash_points;
mod damage;
mod hostile;
mod killed;
mod limits;
mod raw;
mod secrets;
mod store_faults;
mod stranger;
mod upgrades;

/// Says whether the long sweeps are wanted.
fn thorough() -> bool {
    std::env::var("SEGUE_FAULTS").is_ok_and(|wanted| wanted == "all")
}
