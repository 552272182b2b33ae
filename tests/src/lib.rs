//! What the end-to-end tests and the bench are made of: real processes, the program's own command line, waiting for
//! conditions.
//!
//! Everything here serves tests, so that a broken expectation panics with what is known about it, at the place that asked.

pub mod canary;
pub mod cli;
pub mod cluster;
pub mod data;
pub mod draw;
pub mod hosts;
pub mod process;
pub mod program;
pub mod receiver;
pub mod relay;
pub mod rpc;
pub mod tables;
pub mod values;
pub mod wait;

pub use cli::{Cli, Said};
pub use cluster::{TestCluster, WorkerPlan};
pub use wait::until;
