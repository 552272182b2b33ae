//! The pure state machine: runs, tasks, attempts, readiness, leases, placement, rerun plans, cache keys.
//!
//! Nothing here knows tokio, tonic, sled, a clock or randomness: `now` is a parameter. [`Core::decide`] maps
//! (state, event, now) to the next state, what must be persisted, and the effects that may leave afterwards.

mod admission;
pub mod cache;
mod cluster;
mod event;
pub mod explain;
pub mod fleet;
mod flow;
mod graph;
mod group;
mod kept;
mod lifecycle;
mod links;
pub mod place;
pub mod placement;
mod queue;
mod readiness;
pub mod rerun;
pub mod retry;
mod run;
mod timers;
mod worker;

#[cfg(test)]
pub(crate) mod tests;

pub use cluster::{Config, Core, Dirty};
pub use event::{CachedResult, Command, Effect, Event, Held, Outcome, Past, Record, Refused, Sight, Verdict};
pub use group::{Group, Items, MOST_CHILDREN};
pub use kept::{Kept, OVERDUE_MS};
pub use queue::{AGEING_MS, Class, Queue, Shut};
pub use run::{Attempt, AttemptState, FIRST_CHILD, Item, Live, Progress, Run, RunState, Task, TaskState};
pub use worker::{Worker, WorkerKey};

/// Milliseconds since 1970.
pub type UnixMillis = u64;
