//! Tests of the core: no sleep, no socket, time is a number.

#![allow(clippy::unwrap_used)]

mod audit;
mod finally;
mod fleet;
mod flow;
mod keep;
mod leases;
mod life;
mod model;
mod placement;
mod rerun;
mod scale_in;
mod support;
mod waits;
