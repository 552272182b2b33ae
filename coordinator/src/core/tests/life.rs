//! The arrows of a task's life.

use segue_proto::failure::FailureClass;

use super::support::{Bench, cached, failure, output, spec, success, task};
use crate::core::{AttemptState, Command, Event, Refused, Run, RunState, TaskState, Verdict, cache};

fn diamond() -> Vec<crate::spec::BoundTask> {
    vec![task("a", &[]), task("b", &[0]), task("c", &[0]), task("d", &[1, 2])]
}

#[test]
fn a_diamond_runs_in_dependency_order_and_ends_succeeded() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let run = bench.submit(1, diamond());
    assert_eq!(bench.assigned(), ["a"], "only the root is ready at first");
    bench.finish(&run, 0, success("a"));
    assert_eq!(bench.assigned(), ["a", "b", "c"]);
    bench.finish(&run, 1, success("b"));
    assert_eq!(*bench.state(&run, 3), TaskState::Waiting { needs_left: 1 });
    bench.finish(&run, 2, success("c"));
    bench.finish(&run, 3, success("d"));
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Succeeded);
}

#[test]
fn an_input_that_two_names_share_counts_as_one_need() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let mut b = task("b", &[0]);
    b.inputs.insert("again".into(), crate::spec::OutputRef { task: 0, output: "out".into() });
    b.after = vec![0];
    let run = bench.submit(1, vec![task("a", &[]), b]);
    bench.finish(&run, 0, success("a"));
    assert!(matches!(bench.state(&run, 1), TaskState::Live(_)));
}

#[test]
fn a_failure_of_the_user_fails_at_once_and_skips_what_comes_after() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let run = bench.submit(1, diamond());
    bench.finish(&run, 0, success("a"));
    bench.finish(&run, 1, failure(FailureClass::User));
    assert_eq!(*bench.state(&run, 1), TaskState::Failed);
    assert_eq!(*bench.state(&run, 3), TaskState::UpstreamFailed, "not the same as failed, cancelled or skipped");
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Running, "the other branch goes on");
    bench.finish(&run, 2, success("c"));
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Failed);
}

#[test]
fn a_failure_that_may_pass_is_tried_again_after_its_backoff_and_no_earlier() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.finish(&run, 0, failure(FailureClass::Infra));
    assert!(matches!(bench.state(&run, 0), TaskState::Backoff { .. }));
    bench.pass(99);
    assert!(matches!(bench.state(&run, 0), TaskState::Backoff { .. }), "the timer is not due");
    bench.pass(1);
    assert_eq!(bench.token(&run, 0).attempt, 2);
    bench.finish(&run, 0, failure(FailureClass::Infra));
    assert_eq!(*bench.state(&run, 0), TaskState::Failed, "two tries are all it has");
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].attempts.len(), 2);
}

#[test]
fn a_report_of_an_older_attempt_is_acknowledged_and_ignored() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    let old = bench.token(&run, 0);
    bench.finish(&run, 0, failure(FailureClass::Infra));
    bench.pass(100);
    bench.sent.clear();
    assert_eq!(bench.report(&worker, &old, success("late")), Ok(Verdict::Stale));
    assert!(matches!(bench.state(&run, 0), TaskState::Live(_)), "the new attempt goes on");
    assert!(bench.sent.contains(&(worker, Command::FinishedAck { token: old })), "or it would be sent for ever");
}

#[test]
fn a_report_with_the_token_of_another_epoch_is_ignored() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    let mut forged = bench.token(&run, 0);
    forged.epoch += 1;
    assert_eq!(bench.report(&worker, &forged, success("x")), Ok(Verdict::Stale));
    assert!(matches!(bench.state(&run, 0), TaskState::Live(_)));
}

#[test]
fn a_worker_cannot_finish_the_attempt_of_another_worker() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    let thief = bench.worker("thief", 1);
    let token = bench.token(&run, 0);
    assert!(matches!(bench.report(&thief, &token, success("x")), Err(Refused::NotYours { .. })));
    assert!(matches!(bench.state(&run, 0), TaskState::Live(_)));
}

#[test]
fn a_success_without_a_declared_output_is_a_failure_that_names_it() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    let nothing = crate::core::Outcome::Success {
        outputs: vec![],
        models: vec![],
        metrics_json: String::new(),
        inline: Default::default(),
    };
    bench.finish(&run, 0, nothing);
    let entry = &bench.core.run(&run).unwrap().tasks[0];
    assert_eq!(entry.state, TaskState::Failed);
    assert!(entry.failure.as_ref().unwrap().message.contains("`out`"));
}

#[test]
fn outputs_that_nobody_declared_or_that_come_twice_are_a_failure_of_the_attempt() {
    for names in [vec!["out", "A b"], vec!["out", ""], vec!["out", "out"]] {
        let mut bench = Bench::new();
        bench.worker("w", 1);
        let run = bench.submit(1, vec![task("a", &[])]);
        let outputs =
            names.iter().map(|name| segue_proto::artifact::NamedArtifact { name: (*name).to_owned(), ..output("a") });
        let outcome = crate::core::Outcome::Success {
            outputs: outputs.collect(),
            models: vec![],
            metrics_json: String::new(),
            inline: Default::default(),
        };
        bench.finish(&run, 0, outcome);
        assert_eq!(*bench.state(&run, 0), TaskState::Failed, "{names:?}");
        assert!(bench.last.records.is_empty(), "nothing of it is kept");
    }
}

#[test]
fn absurd_sizes_from_a_worker_overflow_nothing() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[]), task("c", &[0, 1])]);
    for index in [0, 1] {
        let mut huge = output("x");
        huge.artifact.size_bytes = u64::MAX;
        let outcome = crate::core::Outcome::Success {
            outputs: vec![huge],
            models: vec![],
            metrics_json: String::new(),
            inline: Default::default(),
        };
        bench.finish(&run, index, outcome);
    }
    assert!(matches!(bench.state(&run, 2), TaskState::Live(_)));
}

#[test]
fn a_cancel_waits_for_the_word_of_the_worker_before_the_run_is_cancelled() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0])]);
    bench.start(&run, 0);
    bench.tell(Event::CancelRun { run, gently: false, why: String::new() }).unwrap();
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Cancelling);
    assert_eq!(*bench.state(&run, 1), TaskState::Cancelled, "what has not started is cancelled at once");
    let token = bench.token(&run, 0);
    assert!(bench.sent.contains(&(worker, Command::Cancel { token })));
    bench.finish(&run, 0, crate::core::Outcome::Cancelled);
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Cancelled);
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].attempts[0].state, AttemptState::Cancelled);
}

#[test]
fn a_cancelled_backoff_is_not_revived_by_its_timer() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.finish(&run, 0, failure(FailureClass::Infra));
    bench.tell(Event::CancelRun { run, gently: false, why: String::new() }).unwrap();
    bench.pass(10_000);
    assert_eq!(*bench.state(&run, 0), TaskState::Cancelled);
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Cancelled);
}

#[test]
fn a_task_whose_key_has_a_committed_result_succeeds_without_a_lease() {
    let mut bench = Bench::new();
    let mut a = task("a", &[]);
    a.cache = true;
    let mut b = task("b", &[0]);
    b.cache = true;
    let tasks = vec![a.clone(), b.clone(), task("c", &[1])];
    let key_a = cache::key(&a, &[], &Default::default()).unwrap();
    let in_b = vec![segue_proto::artifact::NamedArtifact { name: "in0".into(), ..output("a") }];
    let key_b = cache::key(&b, &in_b, &Default::default()).unwrap();
    bench.cache.insert(key_a, cached("a"));
    bench.cache.insert(key_b, cached("b"));
    bench.worker("w", 4);
    let run = bench.submit(1, tasks);
    assert_eq!(bench.assigned(), ["c"], "a and b come from the cache, c executes");
    let state = bench.core.run(&run).unwrap();
    assert!(state.tasks[0].cached && state.tasks[1].cached && state.tasks[0].attempts.is_empty());
}

#[test]
fn a_cache_key_changes_with_parameters_inputs_and_the_content_behind_a_path() {
    let mut a = task("a", &[]);
    a.cache = true;
    let key = |task: &crate::spec::BoundTask, digest: &str| {
        cache::key(task, &[], &[("data.csv".to_owned(), digest.to_owned())].into())
    };
    let plain = key(&a, "1").unwrap();
    let mut other = a.clone();
    other.params.insert("k".into(), 3.into());
    assert_ne!(key(&other, "1").unwrap(), plain);
    let mut path = a.clone();
    path.params.insert("path".into(), "data.csv".into());
    path.path_params = vec!["path".into()];
    assert_ne!(key(&path, "1"), key(&path, "2"), "the same path may hold other bytes");
    path.params.insert("path".into(), "unreadable.csv".into());
    assert_eq!(key(&path, "1"), None, "without a digest there is no key");
}

#[test]
fn every_waiting_task_says_why_by_code() {
    let mut bench = Bench::new();
    let mut gpu = task("gpu", &[]);
    gpu.resources.amounts.gpu_milli = 1_000;
    gpu.resources.gpu = segue_proto::resources::GpuPreference::Require;
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0]), gpu, task("c", &[])]);
    let code = |bench: &Bench, task: u32| {
        let run: &Run = bench.core.run(&run).unwrap();
        crate::core::explain::explain(&bench.core, run, task).map(|reason| reason.code)
    };
    assert_eq!(code(&bench, 0), Some("no_workers"));
    bench.worker("w", 1);
    assert_eq!(code(&bench, 0), Some("starting"));
    assert_eq!(code(&bench, 1), Some("waiting_upstream"));
    assert_eq!(code(&bench, 2), Some("no_worker_fits"));
    assert_eq!(code(&bench, 3), Some("workers_busy"));
    bench.start(&run, 0);
    assert_eq!(code(&bench, 0), None, "it runs");
}

#[test]
fn an_empty_run_of_cached_tasks_ends_at_once() {
    let mut bench = Bench::new();
    let mut a = task("a", &[]);
    a.cache = true;
    let key = cache::key(&a, &[], &Default::default()).unwrap();
    bench.cache.insert(key, cached("a"));
    let run = bench.submit(1, vec![a]);
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Succeeded);
    let _ = spec(Vec::new());
}

#[test]
fn an_optional_output_may_be_there_or_not() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let mut optional = task("a", &[]);
    optional.outputs[0].optional = true;
    let mut also = optional.clone();
    also.name = "b".parse().unwrap();
    let run = bench.submit(1, vec![optional, also]);
    bench.finish(&run, 0, success("x"));
    let without = crate::core::Outcome::Success {
        outputs: vec![],
        models: vec![],
        metrics_json: String::new(),
        inline: Default::default(),
    };
    bench.finish(&run, 1, without);
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Succeeded);
}
