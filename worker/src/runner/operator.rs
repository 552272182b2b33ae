//! Runs one operator inside the runner.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use segue_proto::failure::{Failure, FailureClass};

use super::{
    frame::{JobResult, JobUsage, OperatorJob, Produced, Reply},
    serve::Replies,
    usage::Meter,
};
use crate::ops::{Context, Operator};

/// Progress is reported at most this often: people do not read faster.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The operators of a runner, by name. Their contracts are made once and not for each job.
pub struct Operators<'a>(HashMap<String, (String, &'a dyn Operator)>);

impl fmt::Debug for Operators<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl<'a> Operators<'a> {
    /// Takes these operators.
    pub fn new(operators: &'a [Box<dyn Operator>]) -> Self {
        let entry = |operator: &'a dyn Operator| {
            let spec = operator.spec();
            (spec.name, (spec.version, operator))
        };
        Self(operators.iter().map(|operator| entry(&**operator)).collect())
    }

    fn find(&self, name: &str, version: &str) -> Option<&'a dyn Operator> {
        self.0.get(name).filter(|(found, _)| found == version).map(|(_, operator)| *operator)
    }
}

/// Runs the operator that the job names and gives what came of it.
pub fn run(
    job: OperatorJob,
    operators: &Operators<'_>,
    meter: &mut Meter,
    stop: Arc<AtomicBool>,
    replies: &Arc<Replies>,
) -> (JobResult, JobUsage) {
    meter.start();
    let Some(operator) = operators.find(&job.name, &job.version) else {
        let message = format!("this worker has no operator `{}` of version {}", job.name, job.version);
        let failure =
            Failure::new(FailureClass::User, message).hint("worker and coordinator are of different versions?");
        return (JobResult::Failed(failure), meter.stop());
    };
    let mut context = Context::new(job.inputs, job.output_dir, job.params)
        .with_joined(job.joined)
        .with_progress(progress_sink(Arc::clone(replies)))
        .with_cancel(stop);
    context.run_facts = job.run_facts;
    context.gpus = job.gpus;
    // An operator holds no state of a run, so nothing half done outlives the panic but the context, which is dropped.
    let result = match catch_unwind(AssertUnwindSafe(|| operator.run(&mut context))) {
        Ok(Ok(())) => JobResult::Succeeded(Produced {
            schemas: context.schemas().clone(),
            metrics: std::mem::take(&mut context.metrics),
            models: std::mem::take(&mut context.models).into_iter().map(Into::into).collect(),
        }),
        Ok(Err(error)) => JobResult::Failed(error.0),
        Err(panic) => JobResult::Failed(
            Failure::new(FailureClass::User, format!("operator `{}` panicked: {}", job.name, panic_text(&*panic)))
                .hint("this is a bug of the operator; the log of the attempt says where"),
        ),
    };
    (result, meter.stop())
}

fn progress_sink(replies: Arc<Replies>) -> crate::ops::context::ProgressSink {
    let mut last: Option<Instant> = None;
    Box::new(move |done, total, message| {
        let complete = total != 0 && done >= total;
        if complete || last.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            last = Some(Instant::now());
            replies.send(&Reply::Progress { done, total, message: message.to_owned() });
        }
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::BTreeMap, path::Path};

    use segue_proto::operator::OperatorSpec;
    use serde_json::{Map, Value};

    use super::*;
    use crate::ops::OpError;

    struct Probe;

    impl Operator for Probe {
        fn spec(&self) -> OperatorSpec {
            OperatorSpec::new("test.probe", "1", "").output("out", "file", "")
        }

        fn run(&self, context: &mut Context) -> Result<(), OpError> {
            match context.params.get::<String>("do")?.as_str() {
                "panic" => panic!("index out of range"),
                "fail" => Err(OpError::data("a hole in the data")),
                _ => {
                    context.progress(1, 1, "writing");
                    context.metrics.insert("rows".into(), Value::from(3));
                    context.describe("out", Value::from("shape"));
                    context.write("out", b"bytes")
                }
            }
        }
    }

    fn call(directory: &Path, version: &str, what: &str) -> JobResult {
        let job = OperatorJob {
            name: "test.probe".into(),
            version: version.into(),
            params: Map::from_iter([("do".to_owned(), Value::from(what))]),
            inputs: BTreeMap::new(),
            joined: BTreeMap::new(),
            output_dir: directory.to_owned(),
            run_facts: Value::Null,
            gpus: 0,
        };
        let replies = Arc::new(Replies::to(std::io::sink()));
        let operators: [Box<dyn Operator>; 1] = [Box::new(Probe)];
        run(job, &Operators::new(&operators), &mut Meter::open(), Arc::default(), &replies).0
    }

    #[test]
    fn an_operator_gives_outputs_metrics_and_schemas() {
        let directory = tempfile::tempdir().unwrap();
        let JobResult::Succeeded(produced) = call(directory.path(), "1", "work") else { panic!("it must succeed") };
        assert_eq!(produced.metrics["rows"], 3);
        assert_eq!(produced.schemas["out"], "shape");
        assert_eq!(std::fs::read(directory.path().join("out")).unwrap(), b"bytes");
    }

    #[test]
    fn a_panic_of_an_operator_is_a_failure_and_the_runner_lives() {
        let directory = tempfile::tempdir().unwrap();
        let JobResult::Failed(failure) = call(directory.path(), "1", "panic") else { panic!("it must fail") };
        assert_eq!(failure.class, FailureClass::User);
        assert!(failure.message.contains("index out of range") && failure.hint.contains("bug"), "{failure:?}");
    }

    #[test]
    fn a_failure_keeps_the_class_that_the_operator_gave_it() {
        let directory = tempfile::tempdir().unwrap();
        let JobResult::Failed(failure) = call(directory.path(), "1", "fail") else { panic!("it must fail") };
        assert_eq!(failure.class, FailureClass::Data);
    }

    #[test]
    fn an_operator_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let JobResult::Failed(failure) = call(directory.path(), "2", "work") else { panic!("it must fail") };
        assert!(failure.message.contains("test.probe") && failure.message.contains('2'), "{failure:?}");
    }
}
