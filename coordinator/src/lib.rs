//! The coordinator: checks pipelines, decides what runs where, and keeps runs, artifacts and models in one store.
//!
//! `core` is pure: it maps (state, event, now) to changes and effects. `server` is the thin shell around it that
//! persists before it acts.

pub mod blobs;
pub mod core;
pub mod defect;
pub mod expr;
pub mod gc;
pub mod logs;
pub mod registry;
pub mod schedule;
pub mod sensor;
pub mod server;
pub mod spec;
pub mod store;
