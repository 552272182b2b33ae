//! Child processes that execute one attempt at a time.
//!
//! A runner is a process of its own group, so that a crash, an exhausted memory or a kill costs one attempt. It speaks
//! [`frame`]s over stdin and stdout; its stderr is the log of the attempt. Runners of operators stay warm between
//! attempts. A command gets a fresh runner that supervises it: if the worker dies, the end of its stdin tells the
//! runner to kill the command's group, so that no attempt outlives its worker.

pub mod frame;

mod child;
mod command;
mod oom;
mod operator;
mod pool;
mod serve;
mod spawner;
mod stop;
mod usage;

pub(crate) use child::{Exit, Limits, LogSink, StopKind, Supervision};
pub(crate) use pool::Pool;
pub use serve::{runner_main, serve};
