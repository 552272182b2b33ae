//! The planner against a naive reference, collections over a real store with a real actor, and what makes a result of
//! the cache usable.
#![allow(clippy::unwrap_used)]

mod collections;
mod crashes;
mod keys;
mod laws;
mod records;
mod support;
