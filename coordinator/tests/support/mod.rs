//! What tests of the coordinator under faults share: stores that fail, a coordinator in this process, a worker made by
//! hand that speaks the whole link, a workload that touches every feature, and the auditor that judges what came of it.
//!
//! The auditor knows nothing of how the evidence was gathered: whoever has events, views and executions can ask it.
#![allow(dead_code)] // Each test crate uses a part of it.

pub mod audit;
pub mod client;
pub mod disk;
pub mod host;
pub mod worker;
pub mod workload;

use std::time::Duration;

/// Nothing waits for it: it only keeps a broken test from hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator, so that a seed is all that a failure needs to be seen again.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// SplitMix64, after Steele, Lea and Flood.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Gives a number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
