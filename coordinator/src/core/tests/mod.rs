//! Tests of the core: no sleep, no socket, time is a number.

#![allow(clippy::unwrap_used)]

mod audit;
mod fanout;
mod fanout_rerun;
mod finally;
mod fleet;
mod flow;
mod gpu_load;
mod items;
mod keep;
mod leases;
mod life;
mod model;
mod overdue;
mod placement;
mod reasons;
mod rerun;
mod scale_in;
mod sim;
pub(crate) mod support;
mod waits;
