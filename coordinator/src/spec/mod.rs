//! TOML text to a checked [`Pipeline`], with every fault reported at its place.

pub mod model;

pub use model::{
    Backoff, BoundTask, EnvValue, OutputRef, ParamDecl, Pipeline, ResourceRequest, RetryPolicy, RunSpec, Task, Work,
};
