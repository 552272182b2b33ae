//! Operators of this family.

use super::Operator;

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    Vec::new()
}
