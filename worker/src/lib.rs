//! The worker: a link to the coordinator, runner processes, operators, and the kernels behind them.

pub mod agent;
pub mod kernels;
pub mod models;
pub mod ops;
pub mod runner;
pub mod sample;
