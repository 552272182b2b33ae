//! The pure state machine: runs, tasks, attempts, readiness, leases, placement, rerun plans, cache keys.
//!
//! Nothing here knows tokio, tonic, sled, a clock or randomness: `now` is a parameter. [`Core::decide`] maps
//! (state, event, now) to the next state, what must be persisted, and the effects that may leave afterwards.

pub mod cache;
mod cluster;
mod event;
pub mod explain;
pub mod fleet;
mod lifecycle;
pub mod placement;
pub mod rerun;
pub mod retry;
mod run;
mod worker;

#[cfg(test)]
mod tests;

pub use cluster::{Config, Core, Dirty};
pub use event::{Command, Effect, Event, Held, Outcome, Past, Record, Refused, Verdict};
pub use run::{Attempt, AttemptState, Live, Progress, Run, RunState, Task, TaskState};
pub use worker::{Worker, WorkerKey};

/// Milliseconds since 1970.
pub type UnixMillis = u64;
