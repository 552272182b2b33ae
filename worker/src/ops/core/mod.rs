//! Operators for probes, examples and benches.

pub mod noop;
pub mod sleep;

use super::Operator;

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![Box::new(noop::Noop), Box::new(sleep::Sleep)]
}
