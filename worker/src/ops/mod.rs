//! Operators: what a worker can do. One file per operator; the numerics behind them are in `kernels`.

pub mod arrays;
pub mod context;
pub mod core;
pub mod ml;
pub mod report;
pub mod retail;
pub mod tables;
pub mod text;

use segue_proto::operator::{Catalogue, OperatorSpec};

pub use context::{Context, OpError, Params};

/// A kind of work. An operator holds no state of a run: warm state (a loaded model) lives in the implementation.
pub trait Operator: Send + Sync {
    /// Describes name, version, ports and parameters.
    fn spec(&self) -> OperatorSpec;

    /// Reads the inputs, writes every output, or says why it cannot.
    ///
    /// # Errors
    /// An [`OpError`] whose class decides whether the attempt is retried.
    fn run(&self, context: &mut Context) -> Result<(), OpError>;
}

/// Gives every built-in operator.
#[must_use]
pub fn all() -> Vec<Box<dyn Operator>> {
    let mut operators: Vec<Box<dyn Operator>> = Vec::new();
    operators.extend(core::operators());
    operators.extend(retail::operators());
    operators.extend(ml::operators());
    operators.extend(text::operators());
    operators.extend(report::operators());
    operators
}

/// Gives the contracts of every built-in operator, for offline checks.
#[must_use]
pub fn catalogue() -> Catalogue {
    all().iter().map(|operator| operator.spec()).collect()
}
