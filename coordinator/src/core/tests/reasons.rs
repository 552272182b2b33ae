//! What people are told of what does not go on, and of what was stopped.

use segue_proto::failure::FailureClass;

use super::support::{Bench, each, failure, paced, spec, success, task};
use crate::{
    core::{
        Event, Outcome, RunState, Sight,
        explain::{self, Reason},
        rerun::{Selector, plan},
    },
    spec::{BoundTask, Concurrency, OnFull, RunSpec, Work},
};

fn with_slots(mut task: BoundTask, slots: u32) -> BoundTask {
    task.flow.pools.insert("db".into(), slots);
    task
}

fn pool(bench: &mut Bench, slots: u32) {
    bench.tell(Event::SetPool { name: "db".parse().unwrap(), slots: Some(slots), description: None }).unwrap();
}

fn reason(bench: &Bench, run: &segue_proto::ids::RunId, name: &str) -> Reason {
    let index = bench.at(run, name);
    explain::explain(&bench.core, bench.core.run(run).unwrap(), index).unwrap()
}

fn of_run(bench: &Bench, run: &segue_proto::ids::RunId) -> Reason {
    explain::explain_run(&bench.core, bench.core.run(run).unwrap()).unwrap()
}

#[test]
fn a_pool_that_can_never_hold_a_task_is_told_apart_from_a_full_one() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    pool(&mut bench, 3);
    let tasks = vec![with_slots(task("wide", &[]), 9), with_slots(task("a", &[]), 3), with_slots(task("b", &[]), 3)];
    let run = bench.submit(1, tasks);
    let wide = reason(&bench, &run, "wide");
    assert_eq!((wide.code, wide.text.as_str()), ("pool_too_small", "it asks for 9 slots of pool `db`, which has 3"));
    assert!(wide.hint.contains("segue pools set db 9"), "{}", wide.hint);
    let full = reason(&bench, &run, "b");
    assert_eq!(full.code, "pool_full");
    assert!(full.text.contains("held by a of run_"), "{}", full.text);
    bench.end(&run, "a", success("a"));
    bench.end(&run, "b", success("b"));
    pool(&mut bench, 0);
    assert_eq!(reason(&bench, &run, "wide").text, "it asks for 9 slots of pool `db`, which has 0");
    pool(&mut bench, 9);
    assert_eq!(bench.word(&run, "wide"), "assigned");
}

#[test]
fn a_task_between_two_tries_says_when_the_next_one_is() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    bench.now = 1_795_406_069_080;
    let mut slow = task("a", &[]);
    (slow.retry.initial_ms, slow.retry.max_ms) = (27_000, 27_000);
    let run = bench.submit(1, vec![slow]);
    bench.end(&run, "a", failure(FailureClass::Infra));
    let told = reason(&bench, &run, "a");
    assert_eq!(told.text, "tried once; next try at 2026-11-23T03:54:56Z; last failure: as told");
}

#[test]
fn a_fan_out_that_fails_fast_counts_what_failed_apart_from_what_was_cancelled() {
    let mut bench = Bench::new();
    bench.worker("w", 3);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c", "d", "e", "f"]), Some(3), 1, true)]);
    bench.end(&run, "each[a]", success("a"));
    bench.end(&run, "each[b]", failure(FailureClass::User));
    bench.end(&run, "each[c]", failure(FailureClass::User));
    bench.end(&run, "each[d]", Outcome::Cancelled);
    bench.end(&run, "each[e]", Outcome::Cancelled);
    assert_eq!(
        bench.words(&run, Some("each")),
        ["succeeded", "failed", "failed", "cancelled", "cancelled", "cancelled"]
    );
    let failure = bench.core.run(&run).unwrap().tasks[0].failure.clone().unwrap();
    assert_eq!(failure.message, "2 of 6 children failed and 3 were cancelled, first `each[b]`: as told");
    let why = reason(&bench, &run, "each[f]").text;
    assert_eq!(why, "it was cancelled, because another child failed and `fail_fast` is set");
}

#[test]
fn a_run_in_which_somebody_cancelled_a_task_and_none_failed_is_cancelled() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0])]);
    bench.cancel_task(&run, "a");
    assert_eq!(bench.words(&run, None), ["cancelled", "upstream_failed"]);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
    assert_eq!(of_run(&bench, &run).text, "of its tasks, these were cancelled: a");
    assert_eq!(reason(&bench, &run, "a").text, "it was cancelled on request");

    bench.worker("w", 2);
    let run = bench.submit(2, vec![task("a", &[]), task("b", &[0]), task("c", &[])]);
    bench.end(&run, "c", failure(FailureClass::User));
    bench.cancel_task(&run, "a");
    bench.end(&run, "a", Outcome::Cancelled);
    assert_eq!(bench.run_state(&run), RunState::Failed, "one did fail");
}

fn replacing() -> RunSpec {
    let concurrency = Concurrency { max: 1, key: String::new(), on_full: OnFull::CancelRunning };
    RunSpec { concurrency: Some(concurrency), ..(*spec(vec![task("a", &[])])).clone() }
}

#[test]
fn who_stopped_a_run_is_known_after_its_end_and_a_restart_until_it_runs_again() {
    let mut bench = Bench::new();
    let replaced = bench.submit_spec(1, replacing());
    let next = bench.submit_spec(2, replacing());
    let expected = format!("the run was cancelled: run {next} took its place (`on_full = \"cancel_running\"`)");
    assert_eq!(of_run(&bench, &replaced).text, expected);
    assert!(reason(&bench, &replaced, "a").text.starts_with("it was cancelled with its run: run run_"));
    let why = "no worker of this command could ever take it".to_owned();
    bench.tell(Event::CancelRun { run: next, gently: false, why: why.clone() }).unwrap();
    assert!(of_run(&bench, &next).text.ends_with(&why));
    let stored = bench.load(&next).unwrap();
    assert_eq!(stored.cancelled_for, why);
    bench.worker("w", 1);
    bench.rerun(&next, &Selector { failed: true, ..Selector::default() }, None);
    bench.end(&next, "a", success("a"));
    assert_eq!(
        (bench.run_state(&next), bench.core.run(&next).unwrap().cancelled_for.as_str()),
        (RunState::Succeeded, "")
    );
}

#[test]
fn a_sensor_of_changes_says_after_its_first_look_what_it_waits_for() {
    for (there, words) in [("digest", "it is noted what was there when the wait began"), ("", "nothing was there when")]
    {
        let mut bench = Bench::new();
        let mut sensor = task("s", &[]);
        sensor.work = Work::Sensor { sensor: serde_json::json!({ "artifact": "a/b.c" }), every_ms: 30_000 };
        sensor.outputs.clear();
        let run = bench.submit(1, vec![sensor]);
        let since = bench.now;
        bench.pass(0);
        bench.tell(Event::Sensed { run, task: 0, since, seen: Sight::Baseline(there.to_owned()) }).unwrap();
        let told = reason(&bench, &run, "s").text;
        assert!(told.contains(words) && told.ends_with("it looks for a change every 30 s"), "{told}");
    }
}

#[test]
fn a_rerun_of_what_failed_names_the_children_whose_failure_is_tolerated() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![paced(each("score", &[], &["eu", "us"]), None, 1, false)]);
    bench.end(&run, "score[eu]", success("x"));
    bench.end(&run, "score[us]", failure(FailureClass::User));
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
    let selector = Selector { failed: true, ..Selector::default() };
    let plan = plan(bench.core.run(&run).unwrap(), &selector, None).unwrap();
    assert!(!plan.executes());
    assert_eq!(plan.items[0].reason, "kept, although it tolerates score[us]: ask for them with --only");
}
