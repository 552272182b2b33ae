//! What runs at the end, and what runs always: after success, after failure, after a cancel.

use segue_proto::failure::FailureClass;

use super::support::{Bench, after, each, failure, finally, paced, success, task, when};
use crate::{
    core::{Event, Outcome, RunState, Verdict},
    spec::{BoundTask, RunIf},
};

fn always(name: &str, needs: &[usize]) -> BoundTask {
    after(name, needs, RunIf::Always)
}

#[test]
fn what_runs_at_the_end_waits_for_everything_else_and_no_longer() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[]), task("b", &[1])]);
    bench.end(&run, "a", success("a"));
    assert_eq!((bench.word(&run, "clean"), bench.why(&run, "clean")), ("waiting", "waiting_finally"));
    bench.end(&run, "b", success("b"));
    assert_eq!(bench.word(&run, "clean"), "assigned");
    assert_eq!(bench.run_state(&run), RunState::Running, "it belongs to the run");
    bench.end(&run, "clean", success("c"));
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn what_runs_at_the_end_runs_after_a_failure_which_still_fails_the_run() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[]), task("b", &[1])]);
    bench.end(&run, "a", failure(FailureClass::User));
    assert_eq!(bench.words(&run, None), ["assigned", "failed", "upstream_failed"]);
    bench.end(&run, "clean", success("c"));
    assert_eq!(bench.run_state(&run), RunState::Failed);
}

#[test]
fn a_failure_at_the_end_fails_a_run_in_which_everything_else_succeeded() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[])]);
    bench.end(&run, "a", success("a"));
    bench.end(&run, "clean", failure(FailureClass::User));
    assert_eq!(bench.run_state(&run), RunState::Failed);
}

#[test]
fn what_runs_at_the_end_runs_after_a_cancel_once_the_workers_have_stopped() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[]), task("b", &[]), task("c", &[1])]);
    bench.cancel(&run);
    assert_eq!(bench.words(&run, None), ["waiting", "cancelling", "cancelled", "cancelled"]);
    bench.end(&run, "a", Outcome::Cancelled);
    assert_eq!(bench.word(&run, "clean"), "assigned");
    bench.end(&run, "clean", success("c"));
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}

#[test]
fn a_second_cancel_ends_what_runs_at_the_end_too() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[]), finally(task("more", &[0]))]);
    bench.cancel(&run);
    bench.end(&run, "a", Outcome::Cancelled);
    bench.start(&run, 0);
    bench.cancel(&run);
    assert_eq!(bench.words(&run, None), ["cancelling", "cancelled", "cancelled"]);
    bench.end(&run, "clean", Outcome::Cancelled);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
    assert!(
        bench.tell(Event::CancelRun { run, gently: false, why: String::new() }).is_err(),
        "there is nothing left to cancel"
    );
}

#[test]
fn a_cancel_while_only_the_end_runs_lets_it_run() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[])]);
    bench.end(&run, "a", success("a"));
    bench.cancel(&run);
    assert_eq!(bench.word(&run, "clean"), "assigned");
    bench.end(&run, "clean", success("c"));
    assert_eq!(bench.run_state(&run), RunState::Succeeded, "nothing was cancelled");
}

#[test]
fn what_runs_at_the_end_keeps_its_own_order() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let tasks = vec![finally(task("upload", &[2])), finally(task("drop", &[0])), task("a", &[]), task("b", &[])];
    let run = bench.submit(1, tasks);
    bench.end(&run, "a", success("a"));
    assert_eq!(bench.word(&run, "upload"), "waiting", "its need has ended, the rest has not");
    bench.end(&run, "b", success("b"));
    assert_eq!(bench.words(&run, None)[..2], ["assigned", "waiting"]);
    bench.end(&run, "upload", success("u"));
    assert_eq!(bench.word(&run, "drop"), "assigned");
}

#[test]
fn a_run_of_nothing_but_ends_begins_at_once() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![finally(task("a", &[])), finally(task("b", &[0]))]);
    assert_eq!(bench.words(&run, None), ["assigned", "waiting"]);
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_condition_at_the_end_reads_what_has_become_of_the_run() {
    let tasks = || {
        let told = |word: &str| finally(when(task(word, &[]), &format!("run.state == '{word}'")));
        vec![task("a", &[]), told("succeeded"), told("failed"), told("cancelled")]
    };
    for (word, states) in [
        ("succeeded", ["assigned", "skipped", "skipped"]),
        ("failed", ["skipped", "assigned", "skipped"]),
        ("cancelled", ["skipped", "skipped", "assigned"]),
    ] {
        let mut bench = Bench::new();
        bench.worker("w", 1);
        let run = bench.submit(1, tasks());
        match word {
            "succeeded" => bench.end(&run, "a", success("a")),
            "failed" => bench.end(&run, "a", failure(FailureClass::User)),
            _ => {
                bench.cancel(&run);
                bench.end(&run, "a", Outcome::Cancelled);
            }
        }
        assert_eq!(bench.words(&run, None)[1..], states, "{word}");
    }
}

#[test]
fn a_condition_at_the_end_sees_every_task() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let alarm = finally(when(task("alarm", &[]), "tasks.exists(t, tasks[t].state == 'upstream_failed')"));
    let run = bench.submit(1, vec![alarm, task("a", &[]), task("b", &[1])]);
    bench.end(&run, "a", failure(FailureClass::User));
    assert_eq!(bench.word(&run, "alarm"), "assigned");
}

#[test]
fn what_is_ready_at_the_end_stays_ready_through_a_restart_whatever_fails_beside_it() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let good = finally(when(task("good", &[]), "run.state == 'succeeded'"));
    let run = bench.submit(1, vec![task("a", &[]), finally(task("first", &[])), good]);
    bench.end(&run, "a", success("a"));
    assert_eq!(bench.words(&run, None)[1..], ["assigned", "ready"]);
    bench.tell(Event::Drain { worker: "w".parse().unwrap() }).unwrap();
    bench.end(&run, "first", failure(FailureClass::User));
    assert_eq!(bench.word(&run, "good"), "ready");
    bench.restart();
    assert_eq!(bench.word(&run, "good"), "ready", "its condition was decided when everything else had ended");
}

#[test]
fn after_a_cancel_what_runs_always_has_its_turn_and_what_runs_when_all_is_done_has_not() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let tasks = vec![task("a", &[]), always("save", &[0]), after("sum", &[0], RunIf::AllDone), always("log", &[1])];
    let run = bench.submit(1, tasks);
    bench.cancel(&run);
    assert_eq!(bench.words(&run, None), ["cancelling", "waiting", "cancelled", "waiting"]);
    bench.end(&run, "a", Outcome::Cancelled);
    assert_eq!(bench.words(&run, None)[1..], ["assigned", "cancelled", "waiting"]);
    bench.finish_all(&run);
    assert_eq!(bench.words(&run, None), ["cancelled", "succeeded", "cancelled", "succeeded"]);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}

#[test]
fn what_runs_always_is_tried_again_in_a_cancelled_run_and_nothing_else_is() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![task("a", &[]), always("save", &[])]);
    bench.cancel(&run);
    assert_eq!(bench.words(&run, None), ["cancelling", "assigned"], "it goes on");
    bench.end(&run, "a", failure(FailureClass::Infra));
    bench.end(&run, "save", failure(FailureClass::Infra));
    assert_eq!(bench.words(&run, None), ["cancelled", "backoff"]);
    bench.pass(100);
    assert_eq!(bench.words(&run, None), ["cancelled", "assigned"]);
    bench.cancel(&run);
    bench.end(&run, "save", failure(FailureClass::Infra));
    assert_eq!(bench.words(&run, None), ["cancelled", "cancelled"], "the second cancel spares nothing");
}

#[test]
fn a_cancel_spares_all_children_of_a_fan_out_that_runs_always_those_held_back_included() {
    for spare in [
        |task| finally(task),
        |mut task: BoundTask| {
            task.flow.run_if = RunIf::Always;
            task
        },
    ] {
        let mut bench = Bench::new();
        bench.worker("w", 4);
        let run = bench.submit(1, vec![spare(paced(each("each", &[], &["a", "b", "c", "d"]), Some(2), 0, false))]);
        bench.cancel(&run);
        assert_eq!(bench.words(&run, Some("each")), ["assigned", "assigned", "ready", "ready"]);
        bench.finish_all(&run);
        assert_eq!(bench.words(&run, Some("each")), ["succeeded"; 4], "the ones held back had their turn");
        assert!(bench.run_state(&run).is_terminal());
    }
}

#[test]
fn a_second_cancel_ends_a_spared_fan_out_with_the_children_that_are_held_back() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let run = bench.submit(1, vec![finally(paced(each("each", &[], &["a", "b", "c"]), Some(1), 0, false))]);
    bench.cancel(&run);
    bench.cancel(&run);
    assert_eq!(bench.words(&run, Some("each")), ["cancelling", "cancelled", "cancelled"]);
    bench.end(&run, "each[a]", Outcome::Cancelled);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}

#[test]
fn the_end_runs_after_a_restart_in_the_middle_of_a_cancel() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[]), finally(task("clean", &[])), always("save", &[0])]);
    bench.start(&run, 0);
    bench.cancel(&run);
    bench.restart();
    assert_eq!(bench.words(&run, None), ["cancelling", "waiting", "waiting"]);
    bench.pass(super::support::LEASE);
    bench.worker("other", 1);
    assert_eq!(bench.words(&run, None), ["cancelled", "waiting", "assigned"]);
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}

#[test]
fn a_cancel_that_nobody_asked_for_twice_lets_the_end_run() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![finally(task("clean", &[])), task("a", &[])]);
    let remind = Event::CancelRun { run, gently: true, why: String::new() };
    bench.tell(remind).unwrap();
    bench.end(&run, "a", Outcome::Cancelled);
    bench.start(&run, 0);
    // A schedule says it again at each of its turns.
    assert_eq!(bench.tell(Event::CancelRun { run, gently: true, why: String::new() }), Ok(Verdict::Stale));
    assert_eq!(bench.words(&run, None), ["running", "cancelled"]);
    bench.end(&run, "clean", success("c"));
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}
