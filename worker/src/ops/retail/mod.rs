//! Operators on order lines: clean them, look at them, and describe customers by them.

pub mod clean;
pub mod clv;
pub mod csv;
pub mod eda;
pub mod orders;
pub mod products;
pub mod rfm;
pub mod rules;
pub mod score_input;
#[cfg(test)]
pub(crate) mod testing;

mod segments;

use super::Operator;

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![Box::new(clean::Clean), Box::new(eda::Eda), Box::new(rfm::Rfm), Box::new(clv::Clv), segments::operator()]
}
