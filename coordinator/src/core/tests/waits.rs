//! What a task waits for besides its needs: a worker, the next try, a condition outside.

use segue_proto::failure::FailureClass;
use serde_json::json;

use super::support::{Bench, LEASE, each, exit, failure, paced, spec, success, task};
use crate::{
    core::{AttemptState, Event, RunState, Sight, TaskState, Verdict, rerun::Selector},
    spec::{Backoff, BoundTask, Concurrency, OnFull, RetryPolicy, RetryRule, RunSpec, Work},
};

fn impatient(mut task: BoundTask, ms: u64) -> BoundTask {
    task.flow.queue_timeout_ms = Some(ms);
    task
}

#[test]
fn a_task_that_waits_too_long_for_a_worker_fails_and_says_so() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![impatient(task("a", &[]), 5_000), task("b", &[0])]);
    bench.pass(4_999);
    assert_eq!(bench.word(&run, "a"), "ready");
    bench.pass(1);
    assert_eq!(bench.words(&run, None), ["failed", "upstream_failed"]);
    let failure = bench.core.run(&run).unwrap().tasks[0].failure.clone().unwrap();
    assert_eq!(failure.class, FailureClass::Timeout);
    assert!(failure.message.contains("5 s"), "{}", failure.message);
    assert_eq!(bench.core.next_wakeup(), None);
}

#[test]
fn each_wait_for_a_worker_is_counted_anew_and_running_is_no_waiting() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![impatient(task("a", &[]), 5_000)]);
    let token = bench.token(&run, 0);
    for _ in 0..10 {
        bench.now += LEASE - 1;
        bench.beat(&worker, vec![token.clone()]);
        bench.pass(0);
    }
    assert_eq!(bench.word(&run, "a"), "assigned", "it waits no longer");
    bench.tell(Event::Drain { worker: "w".parse().unwrap() }).unwrap();
    bench.end(&run, "a", failure(FailureClass::Infra));
    bench.pass(100);
    assert_eq!(bench.word(&run, "a"), "ready");
    bench.pass(4_999);
    assert_eq!(bench.word(&run, "a"), "ready", "the second wait began with the second try");
    bench.pass(1);
    assert_eq!(bench.word(&run, "a"), "failed");
}

#[test]
fn a_child_that_its_fan_out_holds_back_does_not_wait_for_a_worker() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![impatient(paced(each("each", &[], &["a", "b"]), Some(1), 2, false), 1_000)]);
    bench.pass(1_000);
    assert_eq!(bench.words(&run, Some("each")), ["failed", "ready"]);
    bench.pass(999);
    assert_eq!(bench.words(&run, Some("each")), ["failed", "ready"], "its own wait began when it was let go");
    bench.pass(1);
    assert_eq!(bench.words(&run, Some("each")), ["failed", "failed"]);
}

#[test]
fn a_task_that_was_taken_from_the_queue_leaves_no_timer() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![impatient(task("a", &[]), 5_000), impatient(task("b", &[]), 5_000)]);
    bench.cancel_task(&run, "a");
    bench.worker("w", 1);
    bench.end(&run, "b", success("b"));
    assert_eq!(bench.core.next_wakeup(), None);
}

fn rule(on: &[FailureClass], exit_codes: &[i32], attempts: u32, initial_ms: u64) -> RetryRule {
    RetryRule {
        on: on.to_vec(),
        exit_codes: exit_codes.to_vec(),
        attempts,
        backoff: Backoff::Constant,
        initial_ms,
        max_ms: initial_ms,
        jitter: 0.0,
    }
}

#[test]
fn the_rule_that_fits_a_failure_says_how_often_and_when_it_is_tried_again() {
    let policy = RetryPolicy {
        never: vec![2],
        rules: vec![rule(&[], &[75], 3, 10), rule(&[FailureClass::Oom], &[], 2, 500)],
        ..task("a", &[]).retry
    };
    let retried = |outcome| {
        let mut bench = Bench::new();
        bench.worker("w", 1);
        let mut a = task("a", &[]);
        a.retry = policy.clone();
        let run = bench.submit(1, vec![a]);
        bench.end(&run, "a", outcome);
        match bench.state(&run, 0) {
            TaskState::Backoff { until } => Some(until - bench.now),
            state => {
                assert_eq!(*state, TaskState::Failed);
                None
            }
        }
    };
    assert_eq!(retried(exit(FailureClass::User, 75)), Some(10), "by its exit code");
    assert_eq!(retried(failure(FailureClass::Oom)), Some(500), "by its class");
    assert_eq!(retried(failure(FailureClass::Infra)), Some(100), "by the policy itself");
    assert_eq!(retried(failure(FailureClass::Timeout)), Some(100));
    assert_eq!(retried(exit(FailureClass::Infra, 2)), None, "some exit codes are final");
    assert_eq!(retried(failure(FailureClass::User)), None);
    assert_eq!(retried(failure(FailureClass::Data)), None);
}

#[test]
fn the_tries_of_all_rules_are_counted_together() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let mut a = task("a", &[]);
    a.retry.rules = vec![rule(&[], &[75], 3, 10)];
    let run = bench.submit(1, vec![a]);
    for _ in 0..2 {
        bench.end(&run, "a", exit(FailureClass::User, 75));
        bench.pass(10);
    }
    bench.end(&run, "a", failure(FailureClass::Infra));
    assert_eq!(bench.word(&run, "a"), "failed", "two tries are all that the policy gives to this class");
    let states: Vec<AttemptState> = bench.core.run(&run).unwrap().tasks[0].attempts.iter().map(|a| a.state).collect();
    assert_eq!(states, [AttemptState::Failed; 3]);
}

#[test]
fn a_try_that_timed_out_and_one_that_was_lost_say_so() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let mut a = task("a", &[]);
    a.retry.attempts = 3;
    let run = bench.submit(1, vec![a]);
    bench.end(&run, "a", failure(FailureClass::Timeout));
    bench.pass(100);
    bench.start(&run, 0);
    bench.pass(LEASE);
    bench.beat(&worker, vec![]);
    bench.pass(100);
    bench.end(&run, "a", crate::core::Outcome::Cancelled);
    let states: Vec<AttemptState> = bench.core.run(&run).unwrap().tasks[0].attempts.iter().map(|a| a.state).collect();
    assert_eq!(states, [AttemptState::TimedOut, AttemptState::Lost, AttemptState::Lost]);
    assert_eq!(bench.word(&run, "a"), "failed");
}

#[test]
fn a_backoff_outlives_a_restart() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.end(&run, "a", failure(FailureClass::Infra));
    bench.now += 40;
    bench.restart();
    bench.worker("w", 1);
    bench.pass(59);
    assert_eq!(bench.word(&run, "a"), "backoff");
    bench.pass(1);
    assert_eq!(bench.token(&run, 0).attempt, 2);
    bench.end(&run, "a", failure(FailureClass::Infra));
    assert_eq!(bench.word(&run, "a"), "failed", "the tries of before the restart count");
}

fn sensor(name: &str, timeout_ms: Option<u64>) -> BoundTask {
    let mut made = task(name, &[]);
    made.work = Work::Sensor { sensor: json!({ "file": "x" }), every_ms: 1_000 };
    made.timeout_ms = timeout_ms;
    made.outputs.clear();
    made
}

fn seen(bench: &mut Bench, run: segue_proto::ids::RunId, since: u64, seen: Sight) -> Verdict {
    bench.tell(Event::Sensed { run, task: 0, since, seen }).unwrap()
}

#[test]
fn a_sensor_looks_at_once_and_again_at_each_interval_until_its_condition_is_met() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![sensor("s", None), task("b", &[])]);
    let since = bench.now;
    bench.pass(0);
    assert_eq!(bench.looks(), [(0, since)], "it takes no worker: there is none");
    assert_eq!(bench.why(&run, "s"), "sensing");
    bench.now += 20;
    seen(&mut bench, run, since, Sight::NotYet("no file".into()));
    bench.pass(999);
    assert!(bench.looks().is_empty());
    bench.pass(1);
    assert_eq!(bench.looks(), [(0, since)]);
    bench.pass(5_000);
    assert!(bench.looks().is_empty(), "one look at a time");
    seen(&mut bench, run, since, Sight::Met("12 rows".into()));
    let s = &bench.core.run(&run).unwrap().tasks[0];
    assert_eq!((s.state.clone(), s.metrics_json.as_str()), (TaskState::Succeeded, r#"{"seen":"12 rows"}"#));
    assert_eq!(bench.core.next_wakeup(), None);
}

#[test]
fn a_sensor_whose_condition_is_not_met_in_time_fails_with_what_it_saw_last() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![sensor("s", Some(2_500))]);
    let since = bench.now;
    for _ in 0..3 {
        bench.pass(0);
        assert_eq!(bench.looks().len(), 1);
        seen(&mut bench, run, since, Sight::NotYet("no file".into()));
        let next = bench.core.next_wakeup().unwrap();
        bench.now = next;
    }
    assert_eq!(bench.now, since + 2_500, "the last interval is cut short");
    bench.pass(0);
    let failure = bench.core.run(&run).unwrap().tasks[0].failure.clone().unwrap();
    assert_eq!(failure.class, FailureClass::Timeout);
    assert!(failure.message.contains("no file"), "{}", failure.message);
    assert_eq!(bench.run_state(&run), RunState::Failed);
}

#[test]
fn a_look_that_nobody_answers_keeps_no_sensor_from_its_end_nor_from_another_look() {
    let mut bench = Bench::new();
    let mut patient = sensor("patient", None);
    patient.timeout_ms = None;
    let run = bench.submit(1, vec![sensor("s", Some(2_500)), patient]);
    bench.pass(0);
    assert_eq!(bench.looks().len(), 2);
    bench.pass(2_500);
    assert_eq!(bench.words(&run, None), ["failed", "sensing"]);
    bench.pass(3_600_000);
    assert_eq!(bench.looks().len(), 1, "somebody else looks");
}

#[test]
fn a_sensor_that_makes_no_sense_fails_by_the_fault_of_its_author() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![sensor("s", None)]);
    let since = bench.now;
    bench.pass(0);
    seen(&mut bench, run, since, Sight::Fault("no such scheme".into()));
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].failure.as_ref().unwrap().class, FailureClass::User);
}

#[test]
fn what_was_there_first_is_kept_through_a_restart() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![sensor("s", Some(60_000))]);
    let since = bench.now;
    bench.pass(0);
    seen(&mut bench, run, since, Sight::Baseline("version 3".into()));
    bench.now += 10_000;
    bench.restart();
    assert_eq!(bench.word(&run, "s"), "sensing");
    bench.pass(0);
    assert_eq!(bench.looks(), [(0, since)], "the wait goes on, it does not begin anew");
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].metrics_json, r#"{"seen":"version 3"}"#);
    bench.pass(50_000);
    assert_eq!(bench.word(&run, "s"), "failed", "its time went on while the coordinator was away");
}

#[test]
fn an_answer_that_speaks_of_an_earlier_wait_means_nothing() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![sensor("s", None)]);
    let since = bench.now;
    bench.pass(0);
    assert_eq!(seen(&mut bench, run, since - 1, Sight::Met("old".into())), Verdict::Stale);
    assert_eq!(bench.word(&run, "s"), "sensing");
    bench.cancel(&run);
    assert_eq!(bench.word(&run, "s"), "cancelled");
    assert_eq!(seen(&mut bench, run, since, Sight::Met("late".into())), Verdict::Stale);
    assert_eq!(bench.word(&run, "s"), "cancelled");
    let stranger = Event::Sensed { run, task: 77, since, seen: Sight::Met(String::new()) };
    assert_eq!(bench.tell(stranger), Ok(Verdict::Stale));
}

#[test]
fn a_sensor_that_is_cancelled_and_one_that_is_done_leave_no_timer() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![sensor("s", Some(60_000)), sensor("t", None), sensor("u", None)]);
    let since = bench.now;
    bench.cancel_task(&run, "u");
    bench.pass(0);
    seen(&mut bench, run, since, Sight::Met(String::new()));
    bench.cancel_task(&run, "t");
    assert!(bench.run_state(&run).is_terminal());
    assert_eq!(bench.core.next_wakeup(), None);
}

#[test]
fn each_child_of_a_fan_out_of_sensors_senses_for_itself_without_a_place() {
    let mut bench = Bench::new();
    let mut each = paced(each("each", &[], &["a", "b", "c"]), Some(1), 0, false);
    each.work = sensor("s", None).work;
    each.outputs.clear();
    let run = bench.submit(1, vec![each]);
    let since = bench.now;
    bench.pass(0);
    assert_eq!(bench.looks().len(), 3, "looking takes no place");
    for key in ["a", "b", "c"] {
        let task = bench.at(&run, &format!("each[{key}]"));
        bench.tell(Event::Sensed { run, task, since, seen: Sight::Met(key.into()) }).unwrap();
    }
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_rerun_waits_from_when_it_was_asked_for_and_not_since_the_run_was_made() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let old = bench.submit(1, vec![task("a", &[])]);
    bench.end(&old, "a", failure(FailureClass::User));
    bench.now += 3_600_000;
    let busy = bench.submit(2, vec![task("busy", &[])]);
    bench.now += 1_000;
    let before = bench.submit(3, vec![task("before", &[])]);
    bench.now += 1_000;
    bench.rerun(&old, &Selector { failed: true, ..Selector::default() }, None);
    bench.restart();
    bench.pass(LEASE);
    bench.pass(100);
    let worker = bench.hello("w", "b", 1, 0, Vec::new());
    assert_eq!(bench.live(&busy).len() + bench.live(&before).len(), 1, "the hour before the rerun does not count");
    assert_eq!(bench.word(&old, "a"), "ready");
    bench.cancel(&busy);
    bench.cancel(&before);
    for run in [busy, before] {
        bench.finish_all(&run);
    }
    assert_eq!(bench.holder(&old, 0), worker);
}

#[test]
fn a_rerun_takes_its_turn_in_the_lane_behind_those_that_wait_already() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let lane = || RunSpec {
        concurrency: Some(Concurrency { key: String::new(), max: 1, on_full: OnFull::Queue }),
        ..(*spec(vec![task("a", &[])])).clone()
    };
    let old = bench.submit_spec(1, lane());
    bench.end(&old, "a", failure(FailureClass::User));
    bench.now += 3_600_000;
    let going = bench.submit_spec(2, lane());
    bench.now += 1_000;
    let waiting = bench.submit_spec(3, lane());
    bench.now += 1_000;
    bench.rerun(&old, &Selector { failed: true, ..Selector::default() }, None);
    bench.restart();
    let states = |bench: &Bench| [old, going, waiting].map(|run| bench.core.run(&run).map(|run| run.state));
    use RunState::{Queued, Running};
    assert_eq!(states(&bench), [Some(Queued), Some(Running), Some(Queued)]);
    bench.cancel(&going);
    bench.finish_all(&going);
    assert_eq!(states(&bench)[0], Some(Queued), "it was asked for last");
    assert_eq!(states(&bench)[2], Some(Running));
}

#[test]
fn the_time_in_a_lane_does_not_count_as_waiting_for_a_worker() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let lane = |name: &str| RunSpec {
        concurrency: Some(Concurrency { key: String::new(), max: 1, on_full: OnFull::Queue }),
        ..(*spec(vec![task(name, &[])])).clone()
    };
    let first = bench.submit_spec(1, lane("first"));
    let second = bench.submit_spec(2, lane("second"));
    bench.now += 3_600_000;
    let other = bench.submit(3, vec![task("other", &[])]);
    bench.now += 1_000;
    bench.finish_all(&first);
    assert_eq!(bench.run_state(&second), RunState::Running);
    assert_eq!((bench.live(&other).len(), bench.live(&second).len()), (1, 0), "it began to wait a second ago");
    bench.finish_all(&other);
    assert_eq!(bench.live(&second).len(), 1);
}
