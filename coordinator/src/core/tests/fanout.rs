//! Children of a fan-out: how many go on, what becomes of the whole, what comes after them.

use proptest::prelude::*;
use segue_proto::{artifact::Usage, failure::FailureClass};
use serde_json::{Value, json};

use super::support::{Bench, LEASE, each, failure, fan_out, few, inline, paced, says, success, task, when};
use crate::{
    core::{Command, Event, FIRST_CHILD, Outcome, RunState, TaskState, Verdict, cache},
    spec::{BoundTask, OutputRef, Over},
};

/// A fan-out over what another task puts out.
fn over_output(name: &str, from: usize) -> BoundTask {
    fan_out(task(name, &[]), Over::Output(OutputRef { task: from, output: "out".into() }))
}

fn keys(bench: &Bench, run: &segue_proto::ids::RunId, task: &str) -> Vec<String> {
    let state = bench.core.run(run).unwrap();
    let inputs = state.inputs_of(bench.at(run, task)).unwrap();
    inputs.iter().map(|input| input.key.as_ref().map_or_else(String::new, ToString::to_string)).collect()
}

#[test]
fn each_item_is_a_child_of_its_own_and_the_next_task_gets_their_outputs_by_key() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![each("score", &[], &["eu", "us", "asia"]), task("join", &[0])]);
    assert_eq!(bench.assigned(), ["score[eu]", "score[us]", "score[asia]"]);
    assert_eq!((bench.word(&run, "score"), bench.why(&run, "score")), ("expanded", "waiting_children"));
    let us = bench.at(&run, "score[us]");
    assert!(us >= FIRST_CHILD);
    assert_eq!(bench.core.run(&run).unwrap().item_of(us).unwrap().value, json!("us"));
    for key in ["us", "asia", "eu"] {
        bench.end(&run, &format!("score[{key}]"), success(key));
    }
    assert_eq!(keys(&bench, &run, "join"), ["eu", "us", "asia"], "in the order of the items, not of the ends");
    let Some((_, Command::Assign { inputs, .. })) = bench.sent.last() else { panic!("join was not given out") };
    assert_eq!(inputs[1].artifact.digest, segue_proto::ids::Digest::of(b"us"));
    bench.end(&run, "join", success("j"));
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_fan_out_without_items_succeeds_and_the_next_task_gets_nothing() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![each("none", &[], &[]), task("join", &[0])]);
    assert_eq!(bench.words(&run, None), ["succeeded", "assigned"]);
    assert!(keys(&bench, &run, "join").is_empty());
}

#[test]
fn a_fan_out_that_gives_the_run_too_many_children_fails_and_says_so() {
    let mut bench = Bench::new();
    bench.core.most_children = 4;
    bench.worker("w", 8);
    let tasks = vec![inline(task("list", &[])), each("first", &[], &["a", "b", "c"]), over_output("second", 0)];
    let run = bench.submit(1, tasks);
    bench.end(&run, "list", says(json!(["a", "b"])));
    assert_eq!(bench.word(&run, "second"), "failed");
    let state = bench.core.run(&run).unwrap();
    let failure = state.tasks[2].failure.as_ref().unwrap();
    assert_eq!(failure.class, FailureClass::User);
    assert!(failure.message.contains("the run would have 5 children, and at most 4"), "{}", failure.message);
    assert!(failure.hint.contains("let each child do several items"), "{}", failure.hint);
    assert_eq!(bench.word(&run, "first"), "expanded", "the others go on");

    let run =
        bench.submit(2, vec![inline(task("list", &[])), each("first", &[], &["a", "b"]), over_output("second", 0)]);
    bench.end(&run, "list", says(json!(["a", "b"])));
    assert_eq!(bench.word(&run, "second"), "expanded", "just as many as are allowed, and runs count alone");
}

#[test]
fn the_items_may_come_from_another_task() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![inline(task("list", &[])), over_output("each", 0), task("join", &[1])]);
    assert_eq!(bench.word(&run, "each"), "waiting");
    bench.end(&run, "list", says(json!(["a", "b"])));
    assert_eq!(bench.words(&run, Some("each")), ["assigned", "assigned"]);
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn items_that_make_no_fan_out_fail_it_by_the_fault_of_its_author() {
    for (wrong, told) in [(json!(3), "array"), (json!(["x", "x"]), "`x`")] {
        let mut bench = Bench::new();
        bench.worker("w", 8);
        let run = bench.submit(1, vec![inline(task("list", &[])), over_output("each", 0), task("join", &[1])]);
        bench.end(&run, "list", says(wrong));
        assert_eq!(bench.words(&run, None), ["succeeded", "failed", "upstream_failed"]);
        let failure = bench.core.run(&run).unwrap().tasks[1].failure.clone().unwrap();
        assert_eq!(failure.class, FailureClass::User);
        assert!(failure.message.contains(told), "{}", failure.message);
    }
}

#[test]
fn children_of_a_fan_out_after_a_fan_out_each_get_all_outputs() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![each("one", &[], &["a", "b"]), each("two", &[0], &["x", "y"])]);
    bench.end(&run, "one[a]", success("a"));
    bench.end(&run, "one[b]", success("b"));
    assert_eq!(keys(&bench, &run, "two[y]"), ["a", "b"]);
}

#[test]
fn no_more_children_go_on_than_may_and_each_end_lets_the_next_one_go() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c", "d", "e"]), Some(2), 0, false)]);
    assert_eq!(bench.assigned(), ["each[a]", "each[b]"]);
    assert_eq!(bench.why(&run, "each[c]"), "max_parallel");
    bench.end(&run, "each[b]", success("b"));
    assert_eq!(bench.assigned().last().unwrap(), "each[c]");
    bench.end(&run, "each[a]", success("a"));
    bench.end(&run, "each[c]", success("c"));
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "succeeded", "succeeded", "assigned", "assigned"]);
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn children_that_never_took_a_place_give_none_back() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let mut some = paced(fan_out(task("some", &[]), Over::Range { from: 0, to: 9, step: 1 }), Some(2), 0, false);
    some.flow.when = Some("item % 3 != 0".to_owned());
    let run = bench.submit(1, vec![some]);
    assert_eq!(bench.assigned(), ["some[1]", "some[2]"], "three were skipped, and two go on");
    bench.end(&run, "some[1]", success("1"));
    assert_eq!(bench.live(&run).len(), 2);
}

#[test]
fn children_whose_results_are_known_take_no_place() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let mut some = paced(each("each", &[], &["a", "b", "c", "d"]), Some(1), 0, false);
    some.cache = true;
    // The keys of the children are found out from a run that is never submitted.
    let spec = super::support::spec(vec![some.clone()]);
    let mut other = Bench::new();
    other.worker("w", 8);
    let probe = other.submit_spec(1, (*spec).clone());
    for key in ["a", "c"] {
        let key = cache::key_of(other.core.run(&probe).unwrap(), other.at(&probe, &format!("each[{key}]"))).unwrap();
        bench.cache.insert(key, super::support::cached("known"));
    }
    let run = bench.submit(1, vec![some]);
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "assigned", "succeeded", "ready"]);
    assert_eq!(bench.cache.len(), 2, "each item has a key of its own");
}

#[test]
fn a_child_that_is_cancelled_while_it_is_held_back_gives_no_place_back_and_never_runs() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c", "d"]), Some(1), 4, false)]);
    bench.cancel_task(&run, "each[b]");
    bench.cancel_task(&run, "each[c]");
    assert_eq!(bench.words(&run, Some("each")), ["assigned", "cancelled", "cancelled", "ready"]);
    bench.end(&run, "each[a]", success("a"));
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "cancelled", "cancelled", "assigned"]);
    bench.end(&run, "each[d]", success("d"));
    assert_eq!(bench.words(&run, None), ["succeeded"], "what was cancelled is tolerated like what failed");
}

#[test]
fn a_child_keeps_its_place_between_two_tries_and_when_it_is_handed_back() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 8);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b"]), Some(1), 0, false)]);
    bench.end(&run, "each[a]", failure(FailureClass::Infra));
    assert_eq!(bench.words(&run, Some("each")), ["backoff", "ready"]);
    bench.pass(100);
    assert_eq!(bench.words(&run, Some("each")), ["assigned", "ready"]);
    let token = bench.token(&run, bench.at(&run, "each[a]"));
    bench.tell(Event::HandBack { worker, token, started: false }).unwrap();
    assert_eq!(bench.words(&run, Some("each")), ["assigned", "ready"]);
    bench.end(&run, "each[a]", success("a"));
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "assigned"]);
}

#[test]
fn failures_are_tolerated_up_to_the_number_that_was_said() {
    for (tolerate, state) in [(0, "failed"), (1, "failed"), (2, "succeeded"), (9, "succeeded")] {
        let mut bench = Bench::new();
        bench.worker("w", 8);
        let run = bench
            .submit(1, vec![paced(each("each", &[], &["a", "b", "c"]), None, tolerate, false), task("join", &[0])]);
        bench.end(&run, "each[a]", failure(FailureClass::Data));
        bench.end(&run, "each[b]", failure(FailureClass::User));
        assert_eq!(bench.word(&run, "each"), "expanded", "the others go on");
        bench.end(&run, "each[c]", success("c"));
        assert_eq!(bench.word(&run, "each"), state, "{tolerate}");
        let entry = &bench.core.run(&run).unwrap().tasks[0];
        if state == "failed" {
            let failure = entry.failure.as_ref().unwrap();
            assert_eq!(failure.class, FailureClass::Data, "the class of the first");
            assert!(failure.message.starts_with("2 of 3 children failed, first `each[a]`"), "{}", failure.message);
            assert_eq!(bench.word(&run, "join"), "upstream_failed");
        } else {
            assert_eq!(keys(&bench, &run, "join"), ["c"]);
        }
    }
}

#[test]
fn one_failure_too_many_stops_the_other_children_of_a_fan_out_that_fails_fast() {
    let mut bench = Bench::new();
    bench.worker("w", 3);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c", "d", "e"]), Some(3), 1, true)]);
    bench.start(&run, bench.at(&run, "each[c]"));
    bench.end(&run, "each[a]", failure(FailureClass::User));
    assert_eq!(
        bench.words(&run, Some("each")),
        ["failed", "assigned", "running", "assigned", "ready"],
        "one is tolerated"
    );
    bench.end(&run, "each[b]", failure(FailureClass::User));
    assert_eq!(bench.words(&run, Some("each")), ["failed", "failed", "cancelling", "cancelling", "cancelled"]);
    bench.end(&run, "each[c]", success("too late"));
    bench.end(&run, "each[d]", Outcome::Cancelled);
    assert_eq!(bench.words(&run, None), ["failed"], "it failed: that the rest was cancelled follows from it");
    assert_eq!(bench.run_state(&run), RunState::Failed);
}

#[test]
fn what_fails_fast_still_stops_its_children_after_a_restart() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c"]), None, 0, true)]);
    bench.start(&run, bench.at(&run, "each[a]"));
    bench.restart();
    bench.pass(LEASE);
    bench.worker("v", 1);
    bench.pass(100);
    let first = bench.live(&run)[0];
    bench.finish(&run, first, failure(FailureClass::User));
    assert_eq!(bench.word(&run, "each"), "failed");
    assert!(bench.live(&run).is_empty());
}

#[test]
fn a_failure_among_many_children_is_dealt_with_once() {
    const MANY: i64 = 30_000;
    let mut bench = Bench::new();
    let each = fan_out(task("each", &[]), Over::Range { from: 0, to: MANY, step: 1 });
    let run = bench.submit(1, vec![task("gate", &[]), paced(with_need(each, 0), None, 0, true)]);
    bench.worker("w", 1);
    // Past the checks of the bench, which look at every child after each event.
    let finish = |bench: &mut Bench, index: u32, outcome: Outcome| {
        let (worker, token) = (bench.holder(&run, index), bench.token(&run, index));
        let usage = Usage { wall_ms: 60_000, ..Usage::default() };
        let event = Event::Finished { worker, token, usage, outcome, log_bytes: 0 };
        assert_eq!(bench.core.decide(event, bench.now, &bench.cache), Ok(Verdict::Done));
        bench.core.place(bench.now);
        let dirty = bench.core.take();
        bench.persist(&dirty);
        dirty.tasks.len()
    };
    finish(&mut bench, 0, success("g"));
    assert_eq!(finish(&mut bench, FIRST_CHILD, success("0")), 2, "the child, and the one that gets its room");
    let written = finish(&mut bench, FIRST_CHILD + 1, failure(FailureClass::User));
    assert_eq!(written as i64, MANY, "all but the first, and the fan-out");
    assert_eq!(bench.word(&run, "each"), "failed");
}

fn with_need(mut task: BoundTask, need: usize) -> BoundTask {
    task.after = vec![need];
    task
}

#[test]
fn a_cancelled_fan_out_is_cancelled_and_not_failed() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![each("each", &[], &["a", "b", "c"]), task("join", &[0]), task("other", &[])]);
    bench.cancel_task(&run, "each");
    assert_eq!(bench.words(&run, Some("each")), ["cancelling", "cancelling", "cancelled"]);
    bench.end(&run, "each[a]", Outcome::Cancelled);
    assert_eq!(bench.word(&run, "each"), "expanded");
    bench.end(&run, "each[b]", success("late"));
    assert_eq!(bench.words(&run, None), ["cancelled", "upstream_failed", "assigned"]);
}

#[test]
fn a_cancelled_run_ends_its_fan_outs_with_their_children() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c"]), Some(2), 0, true), task("join", &[0])]);
    bench.end(&run, "each[a]", success("a"));
    bench.cancel(&run);
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "cancelling", "cancelled"]);
    bench.pass(LEASE);
    assert_eq!(bench.words(&run, None), ["cancelled", "cancelled"]);
    assert_eq!(bench.run_state(&run), RunState::Cancelled);
}

#[test]
fn a_fan_out_whose_children_were_all_done_when_the_run_was_cancelled_has_succeeded() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![each("each", &[], &["a"]), task("slow", &[])]);
    bench.end(&run, "each[a]", success("a"));
    bench.cancel(&run);
    bench.end(&run, "slow", Outcome::Cancelled);
    assert_eq!(bench.words(&run, None), ["succeeded", "cancelled"]);
}

#[test]
fn a_lost_worker_costs_each_of_its_children_a_try_and_nothing_else() {
    let mut bench = Bench::new();
    bench.worker("w", 3);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c", "d"]), Some(3), 0, false)]);
    for key in ["a", "b"] {
        bench.start(&run, bench.at(&run, &format!("each[{key}]")));
    }
    bench.worker("v", 3);
    bench.pass(LEASE);
    assert_eq!(bench.words(&run, Some("each")), ["backoff", "backoff", "assigned", "ready"]);
    let tries: Vec<u32> = bench.core.run(&run).unwrap().children.iter().map(|child| child.tries).collect();
    assert_eq!(tries, [1, 1, 0, 0], "what never began burns none");
    bench.pass(100);
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_token_that_names_a_child_by_the_name_of_another_task_is_forged() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 3);
    let run = bench.submit(1, vec![each("each", &[], &["a"]), task("t", &[])]);
    for name in ["t", "each", "t[a]"] {
        let mut token = bench.token(&run, FIRST_CHILD);
        token.task = name.parse().unwrap();
        assert_eq!(bench.report(&worker, &token, success("x")), Ok(Verdict::Stale), "{name}");
    }
    let mut token = bench.token(&run, 1);
    token.task = "t[a]".parse().unwrap();
    assert_eq!(bench.report(&worker, &token, success("x")), Ok(Verdict::Stale));
    for index in [FIRST_CHILD + 1, u32::MAX, 2] {
        let token = segue_proto::ids::Token { index, ..bench.token(&run, 1) };
        assert_eq!(bench.report(&worker, &token, success("x")), Ok(Verdict::Stale), "{index}");
    }
    assert_eq!(bench.live(&run).len(), 2);
}

#[test]
fn an_item_that_does_not_fit_the_texts_of_its_task_costs_no_attempt() {
    // What fills texts in is tested with the texts; here a child that ends before it begins ends the fan-out.
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![when(each("each", &[], &["a", "b"]), "item.n > 1")]);
    assert_eq!(bench.words(&run, Some("each")), ["failed", "failed"]);
    assert_eq!(bench.run_state(&run), RunState::Failed);
    assert!(bench.core.run(&run).unwrap().tasks[0].failure.as_ref().unwrap().message.contains("each[a]"));
}

proptest! {
    #![proptest_config(few(96))]

    #[test]
    fn places_are_never_exceeded_and_always_refilled_whatever_becomes_of_the_children(
        children in 1_i64..9, most in 1_u32..4, cpus in 1_u32..5, skipped in 0_i64..4, tolerate in 0_u32..4, fail_fast: bool,
        steps in prop::collection::vec((0_u8..9, any::<prop::sample::Index>()), 0..40),
    ) {
        let mut bench = Bench::new();
        let worker = bench.worker("w", cpus);
        let over = Over::Range { from: 0, to: children, step: 1 };
        let mut each = paced(fan_out(task("each", &[]), over), Some(most), tolerate, fail_fast);
        each.flow.when = Some(format!("item >= {skipped}"));
        let run = bench.submit(1, vec![each]);
        for (step, pick) in steps {
            if bench.run_state(&run).is_terminal() {
                break;
            }
            // The checks of the bench after each event are the point.
            let live = bench.live(&run);
            if step < 6 && live.is_empty() {
                bench.pass(100);
                continue;
            }
            match step {
                0..=2 => bench.finish(&run, *pick.get(&live), says(Value::Null)),
                3 => bench.finish(&run, *pick.get(&live), failure(FailureClass::User)),
                4 => bench.finish(&run, *pick.get(&live), failure(FailureClass::Infra)),
                5 => {
                    let token = bench.token(&run, *pick.get(&live));
                    bench.tell(Event::HandBack { worker: worker.clone(), token, started: false }).unwrap();
                }
                6 => {
                    let child = FIRST_CHILD + pick.index(children as usize) as u32;
                    let _ = bench.tell(Event::CancelTask { run, task: child });
                }
                7 => bench.pass(60),
                _ => {
                    bench.restart();
                    let held = bench.live(&run).into_iter();
                    let held = held.map(|index| crate::core::Held { token: bench.token(&run, index), started: false });
                    let held = held.collect();
                    bench.hello("w", "a", cpus, 0, held);
                }
            }
        }
        for _ in 0..100 {
            bench.finish_all(&run);
            if bench.run_state(&run).is_terminal() {
                break;
            }
            bench.pass(100);
        }
        let state = bench.core.run(&run).unwrap();
        prop_assert!(state.state.is_terminal());
        let (failed, all) = (state.groups[&0].failed, state.groups[&0].cancelled == state.groups[&0].failed);
        let expected = match (failed > tolerate, all) {
            (false, _) => TaskState::Succeeded,
            (true, true) => TaskState::Cancelled,
            (true, false) => TaskState::Failed,
        };
        prop_assert_eq!(&state.tasks[0].state, &expected);
    }
}

#[test]
fn a_wide_fan_out_begins_over_many_turns_and_goes_on_where_it_was_after_a_restart() {
    let mut bench = Bench::new();
    bench.begins_all = false;
    bench.worker("w", 2);
    let wide = fan_out(task("wide", &[]), Over::Range { from: 0, to: 2_500, step: 1 });
    let run = bench.submit(1, vec![when(wide, "item % 2 == 1"), task("join", &[])]);
    let count = |bench: &Bench, word: &str| {
        let words = bench.words(&run, Some("wide"));
        words.into_iter().filter(|known| *known == word).count()
    };
    let counts = |bench: &Bench| (count(bench, "skipped"), count(bench, "waiting"));
    assert_eq!(counts(&bench), (500, 1_500));
    assert_eq!(bench.why(&run, "wide[2000]"), "expanding");
    assert_eq!(bench.core.next_wakeup(), Some(0), "the next turn is due at once");
    bench.restart();
    assert_eq!(counts(&bench), (500, 1_500));
    bench.pass(0);
    assert_eq!(counts(&bench), (1_000, 500));
    bench.pass(0);
    assert_eq!((counts(&bench), count(&bench, "ready")), ((1_250, 0), 1_250 - bench.live(&run).len() + 1));
    assert!(bench.core.next_wakeup() > Some(0));
}

#[test]
fn a_fan_out_that_is_stopped_while_it_expands_begins_no_more_children() {
    let wide = || fan_out(task("wide", &[]), Over::Range { from: 0, to: 2_500, step: 1 });
    let stopped = |stop: &dyn Fn(&mut Bench, &segue_proto::ids::RunId), tasks: Vec<BoundTask>| {
        let mut bench = Bench::new();
        bench.begins_all = false;
        let run = bench.submit(1, tasks);
        stop(&mut bench, &run);
        assert_eq!(bench.run_state(&run), RunState::Cancelled);
        assert_eq!(bench.words(&run, Some("wide")), ["cancelled"; 2_500]);
        bench.pass(0);
        assert_eq!(bench.core.next_wakeup(), None);
    };
    stopped(&|bench, run| bench.cancel(run), vec![wide()]);
    stopped(&|bench, run| bench.cancel_task(run, "wide"), vec![wide()]);
}

#[test]
fn two_wide_fan_outs_take_turns() {
    let mut bench = Bench::new();
    (bench.begins_all, bench.looks_closely) = (false, false);
    let wide = |name: &str| fan_out(task(name, &[]), Over::Range { from: 0, to: 3_000, step: 1 });
    let run = bench.submit(1, vec![wide("a"), wide("b")]);
    let ready =
        |bench: &Bench| ["a", "b"].map(|name| bench.words(&run, Some(name)).iter().filter(|w| **w == "ready").count());
    assert_eq!(ready(&bench), [1_000, 1_000]);
    bench.pass(0);
    bench.pass(0);
    assert_eq!(ready(&bench), [2_000, 2_000]);
    bench.pass(0);
    bench.pass(0);
    assert_eq!(ready(&bench), [3_000, 3_000]);
    assert_eq!(bench.core.next_wakeup(), None);
}

#[test]
fn kept_fan_outs_whose_children_have_gaps_twins_or_no_task_are_not_adopted() {
    let mut bench = Bench::new();
    let run = bench.submit(1, vec![each("first", &[], &["a", "b"]), each("second", &[], &["c"])]);
    let sound = bench.core.run(&run).unwrap().groups.clone();
    assert_eq!(sound.values().map(|group| group.members.len()).collect::<Vec<_>>(), [2, 1]);
    let mut adopted = |groups| bench.core.runs.get_mut(&run).unwrap().adopt_groups(groups);
    assert_eq!(adopted(sound.clone()), Ok(()));
    let twin = sound[&1].members[0];
    for (node, member, why) in [
        (0, twin, "and so has another one"),
        (0, FIRST_CHILD + 3, "of 3 children"),
        (0, u32::MAX, "of 3 children"),
        (0, 0, "of 3 children"),
    ] {
        let mut damaged = sound.clone();
        damaged.get_mut(&node).unwrap().members[0] = member;
        let (_, reason) = adopted(damaged).unwrap_err();
        assert!(reason.contains(why), "{member}: {reason}");
    }
    let mut stray = sound.clone();
    let group = stray.remove(&1).unwrap();
    stray.insert(7, group);
    assert_eq!(adopted(stray), Err((7, "the run has no task 7".to_owned())));
}
