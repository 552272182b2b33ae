//! `core.sleep`: waiting.

use std::{
    thread,
    time::{Duration, Instant},
};

use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};

use crate::ops::{Context, OpError, Operator};

/// The longest wait, a day: no pipeline means more.
const MAX_SECONDS: f64 = 86_400.0;
/// How often a wait looks whether it should stop.
const STEP: Duration = Duration::from_millis(20);

/// The operator.
#[derive(Debug, Clone, Copy)]
pub struct Sleep;

impl Operator for Sleep {
    fn spec(&self) -> OperatorSpec {
        OperatorSpec::new("core.sleep", "1", "waits")
            .param(ParamSpec::default("seconds", ParamType::Float, 1.0, "how long to wait").range(0.0, MAX_SECONDS))
            .impure()
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let seconds = context.params.optional::<f64>("seconds")?.unwrap_or(1.0);
        if !(0.0..=MAX_SECONDS).contains(&seconds) {
            return Err(OpError::user(format!("`seconds` cannot be {seconds}")).hint("use 0 to 86400"));
        }
        let (start, wanted) = (Instant::now(), Duration::from_secs_f64(seconds));
        let mut told = None;
        while let Some(left) = wanted.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            if context.is_cancelled() {
                return Err(OpError::infra("stopped on request"));
            }
            // Once a second is enough for a progress bar.
            let done = start.elapsed().as_secs();
            if told.replace(done) != Some(done) {
                context.progress(done, wanted.as_secs(), "waiting");
            }
            thread::sleep(left.min(STEP));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        collections::BTreeMap,
        path::PathBuf,
        sync::{Arc, atomic::AtomicBool},
    };

    use serde_json::{Value, json};

    use super::*;

    fn context(seconds: Value) -> Context {
        let params = [("seconds".to_owned(), seconds)].into_iter().collect();
        Context::new(BTreeMap::new(), PathBuf::new(), params)
    }

    #[test]
    fn no_time_is_over_at_once() {
        Sleep.run(&mut context(json!(0))).unwrap();
    }

    #[test]
    fn a_stopped_wait_ends_with_an_error() {
        let mut context = context(json!(80_000)).with_cancel(Arc::new(AtomicBool::new(true)));
        assert!(Sleep.run(&mut context).unwrap_err().0.message.contains("stopped"));
    }

    #[test]
    fn times_that_are_no_times_are_refused() {
        for seconds in [json!(-1), json!(1e9), json!("long")] {
            assert!(Sleep.run(&mut context(seconds)).is_err());
        }
    }
}
