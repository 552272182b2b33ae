//! Which ends of its needs, and which conditions, let a task run.

use segue_proto::failure::FailureClass;
use serde_json::json;

use super::support::{Bench, after, each, failure, inline, paced, run_id, says, spec, success, task, when};
use crate::{
    core::{
        Event, Outcome, Run, RunState, TaskState,
        readiness::{News, Rule, rule},
    },
    spec::RunIf,
};

const RULES: [RunIf; 5] = [RunIf::AllSucceeded, RunIf::AnySucceeded, RunIf::AnyFailed, RunIf::AllDone, RunIf::Always];
const ENDS: [&str; 5] = ["succeeded", "failed", "upstream_failed", "skipped", "cancelled"];

/// What the pages say that becomes of a task whose needs have ended so. `assigned`: it runs.
fn promised(rule: RunIf, ends: [&str; 2]) -> &'static str {
    let any = |wanted: &[&str]| ends.iter().any(|end| wanted.contains(end));
    let lost = any(&["failed", "upstream_failed", "cancelled"]);
    match rule {
        RunIf::AllSucceeded if lost => "upstream_failed",
        RunIf::AllSucceeded if any(&["skipped"]) => "skipped",
        RunIf::AnySucceeded if any(&["succeeded"]) => "assigned",
        RunIf::AnySucceeded if lost => "upstream_failed",
        RunIf::AnySucceeded => "skipped",
        RunIf::AnyFailed if !any(&["failed", "upstream_failed"]) => "skipped",
        RunIf::AllSucceeded | RunIf::AnyFailed | RunIf::AllDone | RunIf::Always => "assigned",
    }
}

#[test]
fn every_rule_decides_by_the_ends_of_its_needs_whatever_their_order() {
    for rule in RULES {
        for (first, second) in ENDS.iter().flat_map(|a| ENDS.iter().map(move |b| (*a, *b))) {
            for order in [[0, 1], [1, 0]] {
                let mut bench = Bench::new();
                bench.worker("w", 8);
                // Each need has one before it, so that it can be kept from its end until its turn comes.
                let need = |name: &str, gate: usize, end: &str| match end {
                    "skipped" => when(task(name, &[gate]), "false"),
                    _ => task(name, &[gate]),
                };
                let tasks = vec![
                    task("gate-a", &[]),
                    task("gate-b", &[]),
                    need("a", 0, first),
                    need("b", 1, second),
                    after("judge", &[2, 3], rule),
                ];
                let run = bench.submit(1, tasks);
                for which in order {
                    let (gate, name, end) = [("gate-a", "a", first), ("gate-b", "b", second)][which];
                    let good = end != "upstream_failed";
                    bench.end(&run, gate, if good { success("g") } else { failure(FailureClass::User) });
                    match end {
                        "succeeded" => bench.end(&run, name, success("x")),
                        "failed" => bench.end(&run, name, failure(FailureClass::User)),
                        "cancelled" => {
                            bench.cancel_task(&run, name);
                            bench.end(&run, name, Outcome::Cancelled);
                        }
                        _ => {}
                    }
                    assert_eq!(bench.word(&run, name), end);
                }
                let expected = promised(rule, [first, second]);
                assert_eq!(bench.word(&run, "judge"), expected, "{rule:?} after {first} and {second}");
                bench.finish_all(&run);
                assert!(bench.run_state(&run).is_terminal());
            }
        }
    }
}

#[test]
fn a_failed_need_decides_at_once_what_must_have_all_succeed_and_nothing_else() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let mut tasks = vec![task("bad", &[]), task("slow", &[])];
    tasks.extend(RULES.map(|rule| after(&format!("{rule:?}").to_lowercase(), &[0, 1], rule)));
    let run = bench.submit(1, tasks);
    bench.end(&run, "bad", failure(FailureClass::User));
    assert_eq!(bench.words(&run, None)[2..], ["upstream_failed", "waiting", "waiting", "waiting", "waiting"]);
    bench.end(&run, "slow", success("s"));
    assert_eq!(bench.words(&run, None)[2..], ["upstream_failed", "assigned", "assigned", "assigned", "assigned"]);
}

#[test]
fn a_false_condition_skips_the_task_and_what_needs_it_and_the_run_succeeds() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let tasks = vec![
        when(task("maybe", &[]), "1 > 2"),
        task("then", &[0]),
        task("later", &[1]),
        after("report", &[0, 2], RunIf::AllDone),
    ];
    let run = bench.submit(1, tasks);
    assert_eq!(bench.words(&run, None), ["skipped", "skipped", "skipped", "assigned"]);
    assert_eq!([bench.why(&run, "maybe"), bench.why(&run, "then")], ["condition_false", "upstream_skipped"]);
    bench.end(&run, "report", success("r"));
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_skip_does_not_hide_a_failure() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![when(task("no", &[]), "false"), task("bad", &[]), task("both", &[0, 1])]);
    assert_eq!(bench.word(&run, "both"), "waiting", "the other need may still fail");
    bench.end(&run, "bad", failure(FailureClass::User));
    assert_eq!(bench.word(&run, "both"), "upstream_failed");
    assert_eq!(bench.run_state(&run), RunState::Failed);
}

#[test]
fn a_condition_that_cannot_be_decided_fails_the_task_by_the_fault_of_its_author() {
    for text in ["tasks.a.outputs.nothing.n > 1", "1 + 1", "((("] {
        let mut bench = Bench::new();
        bench.worker("w", 8);
        let run = bench.submit(1, vec![task("a", &[]), when(task("b", &[0]), text), task("c", &[1])]);
        bench.end(&run, "a", success("a"));
        let b = &bench.core.run(&run).unwrap().tasks[1];
        assert_eq!(b.failure.as_ref().unwrap().class, FailureClass::User);
        assert!(b.failure.as_ref().unwrap().message.contains("condition"), "{:?}", b.failure);
        assert!(b.attempts.is_empty(), "nothing was executed");
        assert_eq!(bench.words(&run, None), ["succeeded", "failed", "upstream_failed"]);
    }
}

#[test]
fn a_condition_reads_the_json_that_a_need_has_put_out() {
    for (rows, state) in [(10, "assigned"), (0, "skipped")] {
        let mut bench = Bench::new();
        bench.worker("w", 8);
        let tasks = vec![inline(task("a", &[])), when(task("b", &[0]), "tasks.a.outputs.out.rows > 5")];
        let run = bench.submit(1, tasks);
        bench.end(&run, "a", says(json!({ "rows": rows })));
        assert_eq!(bench.word(&run, "b"), state);
    }
}

#[test]
fn json_that_a_condition_reads_is_kept_through_a_restart() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let tasks = vec![
        inline(task("a", &[])),
        task("slow", &[]),
        when(after("b", &[0, 1], RunIf::AllSucceeded), "tasks.a.outputs.out[1] == 'x'"),
    ];
    let run = bench.submit(1, tasks);
    bench.end(&run, "a", says(json!([1, "x"])));
    bench.restart();
    bench.worker("w", 8);
    bench.end(&run, "slow", success("s"));
    assert_eq!(bench.word(&run, "b"), "assigned");
}

#[test]
fn a_success_without_the_json_that_somebody_reads_is_tried_again() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![inline(task("a", &[])), when(task("b", &[0]), "tasks.a.outputs.out.ok")]);
    bench.end(&run, "a", success("a"));
    assert_eq!(bench.word(&run, "a"), "backoff");
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].failure.as_ref().unwrap().class, FailureClass::Infra);
    bench.pass(100);
    bench.end(&run, "a", says(json!({ "ok": true })));
    assert_eq!(bench.words(&run, None), ["succeeded", "assigned"]);
}

#[test]
fn json_that_nobody_asked_for_is_not_kept() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.end(&run, "a", says(json!({ "large": "x".repeat(1000) })));
    assert!(bench.core.run(&run).unwrap().tasks[0].inline.is_empty());
}

#[test]
fn a_condition_reads_how_its_needs_and_their_children_have_ended() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let tasks = vec![
        task("a", &[]),
        paced(each("each", &[], &["x", "y"]), None, 1, false),
        when(after("alarm", &[0, 1], RunIf::AllDone), "tasks.a.state == 'failed'"),
        when(after("look", &[1], RunIf::AllDone), "tasks.each.children.exists(k, tasks.each.children[k] == 'failed')"),
    ];
    let run = bench.submit(1, tasks);
    bench.end(&run, "each[x]", failure(FailureClass::User));
    bench.end(&run, "each[y]", success("y"));
    assert_eq!(bench.words(&run, None), ["assigned", "succeeded", "waiting", "assigned"]);
    bench.end(&run, "a", success("a"));
    assert_eq!(bench.word(&run, "alarm"), "skipped");
}

#[test]
fn a_condition_that_speaks_of_items_is_asked_for_each_child() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let over = crate::spec::Over::Range { from: 0, to: 5, step: 1 };
    let odd = when(super::support::fan_out(task("odd", &[]), over), "item % 2 == 1");
    let run = bench.submit(1, vec![odd, task("join", &[0])]);
    assert_eq!(bench.words(&run, Some("odd")), ["skipped", "assigned", "skipped", "assigned", "skipped"]);
    assert_eq!(bench.why(&run, "odd[2]"), "condition_false");
    bench.end(&run, "odd[1]", success("1"));
    bench.end(&run, "odd[3]", success("3"));
    let inputs = bench.core.run(&run).unwrap().inputs_of(1).unwrap();
    let keys: Vec<&str> = inputs.iter().map(|input| input.key.as_ref().unwrap().as_str()).collect();
    assert_eq!(keys, ["1", "3"], "the join takes those that ran");
}

#[test]
fn a_condition_without_items_is_asked_once_for_the_whole_fan_out() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![when(each("each", &[], &["x", "y"]), "false"), task("join", &[0])]);
    assert_eq!(bench.words(&run, None), ["skipped", "skipped"]);
    assert!(bench.core.run(&run).unwrap().groups.is_empty(), "it has no children");
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_condition_that_fails_for_one_child_fails_that_child_alone() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let over = crate::spec::Over::Items(vec![json!({ "n": 1 }), json!({ "m": 2 })]);
    let run = bench
        .submit(1, vec![paced(when(super::support::fan_out(task("each", &[]), over), "item.n == 1"), None, 1, false)]);
    assert_eq!(bench.words(&run, Some("each")), ["assigned", "failed"]);
    bench.end(&run, "each[0]", success("0"));
    assert_eq!(bench.run_state(&run), RunState::Succeeded, "one failure is tolerated");
}

#[test]
fn a_task_after_a_rule_runs_without_what_was_not_made() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let mut report = task("report", &[0, 1]);
    report.flow.run_if = RunIf::AllDone;
    let run = bench.submit(1, vec![task("good", &[]), task("bad", &[]), report]);
    bench.end(&run, "good", success("g"));
    bench.end(&run, "bad", failure(FailureClass::User));
    let inputs = &bench.core.run(&run).unwrap().tasks[2].attempts[0].inputs;
    assert_eq!(inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["in0"]);
}

#[test]
fn cancelling_one_task_fails_what_needs_it_and_lets_the_rest_go_on() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let tasks =
        vec![task("live", &[]), task("ready", &[]), task("needs", &[1]), task("waiting", &[0]), task("last", &[3])];
    let run = bench.submit(1, tasks);
    bench.start(&run, 0);
    bench.cancel_task(&run, "ready");
    assert_eq!(bench.words(&run, None), ["running", "cancelled", "upstream_failed", "waiting", "waiting"]);
    bench.cancel_task(&run, "waiting");
    assert_eq!(bench.words(&run, None)[3..], ["cancelled", "upstream_failed"]);
    bench.cancel_task(&run, "live");
    assert_eq!((bench.word(&run, "live"), bench.why(&run, "live")), ("cancelling", "cancelling"));
    bench.end(&run, "live", success("too late"));
    assert_eq!(bench.word(&run, "live"), "cancelled", "a cancelled attempt stays cancelled");
    assert_eq!(bench.run_state(&run), RunState::Cancelled, "what needed it did not run, and nothing failed");
}

#[test]
fn a_task_that_has_ended_or_is_not_there_cannot_be_cancelled() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0])]);
    bench.end(&run, "a", success("a"));
    for index in [0, 2, 99, crate::core::FIRST_CHILD, u32::MAX] {
        assert!(bench.tell(Event::CancelTask { run, task: index }).is_err(), "{index}");
    }
    assert!(bench.tell(Event::CancelTask { run: super::support::run_id(9), task: 0 }).is_err());
    assert!(matches!(bench.state(&run, 1), TaskState::Live(_)));
}

#[test]
fn a_single_cancelled_task_cancels_a_run_in_which_nothing_failed() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[])]);
    bench.end(&run, "a", success("a"));
    bench.cancel_task(&run, "b");
    bench.end(&run, "b", Outcome::Cancelled);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}

#[test]
fn an_attempt_whose_cancel_is_asked_for_twice_is_told_once() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.cancel_task(&run, "a");
    bench.sent.clear();
    bench.cancel_task(&run, "a");
    bench.cancel(&run);
    assert!(bench.sent.is_empty());
}

#[test]
fn while_needs_are_left_an_end_costs_one_look_however_many_needs_there_are() {
    let needs: Vec<usize> = (0..1_000).collect();
    let mut tasks: Vec<_> = needs.iter().map(|need| task(&format!("t{need}"), &[])).collect();
    tasks.push(after("join", &needs, RunIf::AllSucceeded));
    let mut run = Run::new(run_id(1), spec(tasks), String::new(), 0);
    for need in 1..999 {
        run.tasks[need].state = TaskState::Succeeded;
    }
    // The rule was told of no failure: that it sees none shows that it looks nowhere else.
    run.tasks[0].state = TaskState::Failed;
    run.tasks[1_000].state = TaskState::Waiting { needs_left: 1 };
    assert_eq!(rule(&run, 1_000, News::Ended(998)), Rule::Wait);
    assert_eq!(rule(&run, 1_000, News::AllElse), Rule::Wait);
    assert_eq!(rule(&run, 1_000, News::Ended(0)), Rule::UpstreamFailed, "at once, before the others have ended");
    assert_eq!(rule(&run, 1_000, News::Any), Rule::UpstreamFailed);
    run.tasks[999].state = TaskState::Succeeded;
    run.tasks[1_000].state = TaskState::Waiting { needs_left: 0 };
    assert_eq!(rule(&run, 1_000, News::Ended(999)), Rule::UpstreamFailed, "the last one looks at all of them once");
    run.tasks[0].state = TaskState::Skipped;
    assert_eq!(rule(&run, 1_000, News::Ended(999)), Rule::Skip);
}
