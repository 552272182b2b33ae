//! Child processes that execute one attempt at a time.
//!
//! A runner is a process of its own group, so that a crash, an exhausted memory or a kill costs one attempt. It speaks
//! [`frame`]s over stdin and stdout; its stderr is the log of the attempt. Runners stay warm between attempts: one that
//! runs operators keeps their models loaded, one that supervises commands starts each as a child of its own. If the worker
//! dies, the end of its stdin tells a runner to kill what it runs, so that no attempt outlives its worker; and if the worker
//! is stopped or starved, the runner ends it when the lease passes that it was told of last.

pub mod frame;

mod child;
mod command;
mod ending;
mod heartbeat;
mod memory;
mod oom;
mod operator;
mod pool;
mod requests;
mod serve;
mod spawner;
mod usage;

pub(crate) use child::{Duty, Exit, Limits, LogSink, StopKind, Supervision};
pub(crate) use heartbeat::Heartbeat;
pub(crate) use pool::{Pool, Wanted};
pub use serve::{runner_main, serve};
