//! TOML text to a checked [`Pipeline`], with every fault reported at its place; and a pipeline bound to parameters.
//!
//! [`check`] reads in three steps: `toml` gives a tree that knows where everything stands, `params`, `policy` and
//! `tasks` read each table by itself, `resolve` and `cycles` look at what tasks say of each other. Every step reports
//! what it finds and goes on with the rest, so that all faults are shown at once.

pub mod code;
pub mod diagnostic;
pub mod graph;
pub mod model;

mod bind;
mod check;
mod cycles;
mod faults;
mod fields;
mod params;
mod policy;
mod resolve;
mod schedule;
mod secrets;
mod syntax;
mod tasks;
mod template;
mod toml;
mod units;
mod value;
mod version;

pub mod items;
pub use bind::bind;
pub use check::{Checked, LONGEST, check};
pub use code::Code;
pub use diagnostic::{Diagnostic, Place, Severity};
pub use faults::nearest;
pub use items::{ResolvedChild, child_key, fill_item, resolve_child};
pub use model::{
    Backoff, BoundTask, Concurrency, EnvValue, FanOut, Flow, Limit, OnFull, OutputRef, Over, ParamDecl, Pipeline,
    ResourceRequest, RetryPolicy, RetryRule, RunIf, RunSpec, Task, Work,
};
pub use schedule::interval_params;

#[cfg(test)]
mod tests;
