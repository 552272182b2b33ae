//! `core.noop`: nothing.

use segue_proto::operator::OperatorSpec;

use crate::ops::{Context, OpError, Operator};

/// The operator.
#[derive(Debug, Clone, Copy)]
pub struct Noop;

impl Operator for Noop {
    fn spec(&self) -> OperatorSpec {
        // Never cached: who runs it wants to see it scheduled.
        OperatorSpec::new("core.noop", "1", "does nothing").impure()
    }

    fn run(&self, _: &mut Context) -> Result<(), OpError> {
        Ok(())
    }
}
