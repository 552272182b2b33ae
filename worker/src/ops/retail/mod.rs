//! Operators of this family.

mod segments;

use super::Operator;

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![segments::operator()]
}
