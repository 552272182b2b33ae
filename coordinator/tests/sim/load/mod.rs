//! The load: clients that submit, cancel, rerun, drain and look, as people and their scripts do. They know nothing of the
//! faults, and judge nothing: what they asked and what they were answered goes into the ledger.

mod client;
pub mod shape;

pub use client::{Client, channel_of};
