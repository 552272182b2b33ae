//! Limits: full disks, disks that fall read-only, slow ones, logs and artifacts of any size. Each ends in a state that is
//! bounded and explained, and memory stays bounded.
//!
//! `SEGUE_FAULTS=all` takes the sizes that people ask about, a gigabyte of log and an artifact of five: some minutes, and
//! room on the disk. Tests that mount file systems need root, and are skipped with a message elsewhere.
#![allow(clippy::unwrap_used)]

mod artifacts;
mod disk;
mod full;
mod full_worker;
mod logs;
mod memory;
mod read_only;
mod slow;

/// Says whether the large sizes are wanted.
fn thorough() -> bool {
    std::env::var("SEGUE_FAULTS").is_ok_and(|wanted| wanted == "all")
}
