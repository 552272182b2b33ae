//! Operators that know nothing of any trade: probes, waiting, the end of a fan-out.

pub mod collect;
pub mod noop;
pub mod sleep;

use super::Operator;

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![Box::new(collect::Collect), Box::new(noop::Noop), Box::new(sleep::Sleep)]
}
