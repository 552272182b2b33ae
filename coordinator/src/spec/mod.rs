//! TOML text to a checked [`Pipeline`], with every fault reported at its place; and a pipeline bound to parameters.
//!
//! [`check`] reads in three steps: `toml` gives a tree that knows where everything stands, `params`, `policy` and
//! `tasks` (with `flow`, `fanout`, `retry`, `resources`, `sensors`) read each table by itself, `resolve`, `cycles` and
//! `conditions` look at what tasks say of each other. Every step reports what it finds and goes on with the rest, so that
//! all faults are shown at once. The keys that a table may have are those of `keys`.

pub mod code;
pub mod diagnostic;
pub mod diff;
pub mod graph;
pub mod keys;
pub mod model;
pub mod retention;
pub mod schema;

mod bind;
mod check;
mod conditions;
mod cycles;
mod fanout;
mod faults;
mod fields;
mod flow;
mod hooks;
mod items;
mod params;
mod policy;
mod resolve;
mod resources;
mod retry;
mod schedule;
mod secrets;
mod sensors;
mod strings;
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
pub use items::{
    Items, MOST as MOST_CHILDREN, MOST_OF_RUN as MOST_CHILDREN_OF_RUN, ResolvedChild, child_key, fill_item, items_of,
    resolve_child,
};
pub use model::{
    Backoff, BoundTask, Concurrency, EnvValue, FanOut, Flow, Limit, Number, OnFull, OutputRef, Over, ParamDecl,
    Pipeline, ResourceRequest, RetryPolicy, RetryRule, RunIf, RunSpec, Task, Work,
};
pub use retention::Retention;
pub use schedule::interval_params;
pub use units::{age_ms, duration_ms, rfc3339_ms};

#[cfg(test)]
pub(crate) mod tests;
