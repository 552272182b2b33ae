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
mod hooks;
mod params;
mod policy;
mod resolve;
mod secrets;
mod syntax;
mod tasks;
mod template;
mod toml;
mod units;
mod value;
mod version;

pub use bind::bind;
pub use check::{Checked, LONGEST, check};
pub use code::Code;
pub use diagnostic::{Diagnostic, Place, Severity};
pub use faults::nearest;
pub use hooks::{Hook, HookAction, HookCommand, Hooks, On, SECRET_PREFIX, Webhook, is_reference as is_hook_secret};
pub use model::{
    Backoff, BoundTask, EnvValue, OutputRef, ParamDecl, Pipeline, ResourceRequest, RetryPolicy, RunSpec, Task, Work,
};

#[cfg(test)]
mod tests;
