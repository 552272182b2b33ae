//! Fan-outs in later generations: single children, failed ones, other items, other versions; and restarts in between.

use segue_proto::{failure::FailureClass, ids::RunId};
use serde_json::{Value, json};

use super::support::{Bench, LEASE, after, each, failure, fan_out, inline, paced, says, spec, success, task, when};
use crate::{
    core::{
        Event, Held, Outcome, Run, RunState, TaskState,
        rerun::{Selector, plan},
    },
    spec::{Concurrency, OnFull, OutputRef, Over, RunIf, RunSpec},
};

fn only(name: &str) -> Selector {
    Selector { only: vec![name.into()], ..Selector::default() }
}

fn from(name: &str) -> Selector {
    Selector { from: vec![name.into()], ..Selector::default() }
}

fn failed() -> Selector {
    Selector { failed: true, ..Selector::default() }
}

/// Children that were given out since `sent` was cleared, sorted.
fn executed(bench: &mut Bench) -> Vec<String> {
    let mut names = bench.assigned();
    names.sort();
    bench.sent.clear();
    names
}

fn keys(run: &Run, task: u32) -> Vec<String> {
    run.inputs_of(task).unwrap().iter().map(|input| input.key.as_ref().unwrap().to_string()).collect()
}

/// A list, a child for each of its items, and a join; everything succeeded.
fn done(bench: &mut Bench, items: Value) -> RunId {
    bench.worker("w", 8);
    let each = fan_out(task("each", &[]), Over::Output(OutputRef { task: 0, output: "out".into() }));
    let run = bench.submit(1, vec![inline(task("list", &[])), each, task("join", &[1])]);
    bench.end(&run, "list", says(items));
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
    bench.sent.clear();
    run
}

#[test]
fn one_child_executes_alone_and_the_others_keep_what_they_made() {
    let mut bench = Bench::new();
    let run = done(&mut bench, json!(["a", "b", "c"]));
    let before = bench.core.run(&run).unwrap().clone();
    let plan = bench.rerun(&run, &only("each[b]"), None);
    assert_eq!(plan.execute(), [false, true, false]);
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "assigned", "succeeded"]);
    bench.end(&run, "each[b]", success("new"));
    assert_eq!(executed(&mut bench), ["each[b]"]);
    let after = bench.core.run(&run).unwrap();
    assert_eq!(after.state, RunState::Succeeded);
    for child in [0, 2] {
        assert_eq!(after.children[child].outputs, before.children[child].outputs);
        assert_eq!(after.children[child].attempts, before.children[child].attempts);
    }
    assert_eq!(after.children[1].attempts.len(), 2, "the attempt of before is still there");
    assert_eq!(after.tasks[2].attempts, before.tasks[2].attempts, "the join was not asked for");
    assert_eq!(after.tasks[2].outputs, before.tasks[2].outputs);
}

#[test]
fn from_one_child_on_the_join_executes_with_all_outputs() {
    let mut bench = Bench::new();
    let run = done(&mut bench, json!(["a", "b"]));
    bench.rerun(&run, &from("each[a]"), None);
    bench.end(&run, "each[a]", success("new"));
    let inputs = bench.core.run(&run).unwrap().inputs_of(2).unwrap();
    assert_eq!(inputs[0].artifact.digest, segue_proto::ids::Digest::of(b"new"));
    assert_eq!(keys(bench.core.run(&run).unwrap(), 2), ["a", "b"]);
    bench.finish_all(&run);
    assert_eq!(executed(&mut bench), ["each[a]", "join"]);
}

#[test]
fn a_rerun_of_what_failed_executes_the_failed_and_cancelled_children_and_what_comes_after() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let tasks = vec![paced(each("each", &[], &["a", "b", "c", "d"]), Some(2), 0, true), task("join", &[0])];
    let run = bench.submit(1, tasks);
    bench.end(&run, "each[a]", success("a"));
    bench.end(&run, "each[b]", failure(FailureClass::User));
    bench.end(&run, "each[c]", Outcome::Cancelled);
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "failed", "cancelled", "cancelled"]);
    bench.sent.clear();
    let plan = bench.rerun(&run, &failed(), None);
    assert_eq!(plan.items[0].children.as_ref().unwrap().len(), 3);
    assert_eq!(bench.words(&run, Some("each")), ["succeeded", "assigned", "assigned", "ready"]);
    bench.finish_all(&run);
    assert_eq!(executed(&mut bench), ["each[b]", "each[c]", "each[d]", "join"]);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn a_rerun_of_one_child_beside_a_failed_one_fails_again() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c"]), None, 0, true)]);
    bench.end(&run, "each[a]", failure(FailureClass::User));
    bench.end(&run, "each[b]", Outcome::Cancelled);
    bench.end(&run, "each[c]", Outcome::Cancelled);
    bench.rerun(&run, &Selector { only: vec!["each[b]".into(), "each[c]".into()], ..Selector::default() }, None);
    bench.end(&run, "each[b]", success("b"));
    assert_eq!(bench.words(&run, Some("each")), ["failed", "succeeded", "assigned"], "a success stops nobody");
    bench.end(&run, "each[c]", success("c"));
    assert_eq!(bench.word(&run, "each"), "failed", "`each[a]` is as it was");
}

#[test]
fn a_whole_fan_out_executes_every_child_again_past_the_cache() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let mut cached = each("each", &[], &["a", "b"]);
    cached.cache = true;
    let run = bench.submit(1, vec![cached]);
    for key in ["a", "b"] {
        let index = bench.at(&run, &format!("each[{key}]"));
        let key = crate::core::cache::key_of(bench.core.run(&run).unwrap(), index).unwrap();
        bench.cache.insert(key, super::support::cached("known"));
    }
    bench.finish_all(&run);
    bench.sent.clear();
    bench.rerun(&run, &only("each"), None);
    bench.finish_all(&run);
    assert_eq!(executed(&mut bench), ["each[a]", "each[b]"]);
    let attempts: Vec<usize> = bench.core.run(&run).unwrap().children.iter().map(|c| c.attempts.len()).collect();
    assert_eq!(attempts, [2, 2]);
}

#[test]
fn with_other_items_known_keys_keep_their_child_gone_ones_are_dropped_and_new_ones_come_after() {
    let mut bench = Bench::new();
    let run = done(&mut bench, json!(["a", "b", "c"]));
    let before = bench.core.run(&run).unwrap().clone();
    bench.rerun(&run, &from("list"), None);
    assert_eq!(bench.words(&run, Some("each")), ["dropped"; 3], "it has no items until the list is there");
    bench.end(&run, "list", says(json!(["d", "c", "a"])));
    assert_eq!(bench.words(&run, Some("each")), ["assigned", "dropped", "assigned", "assigned"]);
    for key in ["a", "b", "c"] {
        assert_eq!(bench.at(&run, &format!("each[{key}]")), before.find(&format!("each[{key}]")).unwrap());
    }
    assert_eq!(bench.why(&run, "each[b]"), "not_among_items");
    bench.finish_all(&run);
    let after = bench.core.run(&run).unwrap();
    assert_eq!(keys(after, 2), ["a", "c", "d"], "what is gone is not joined, though its artifacts are still there");
    assert_eq!(after.children[1].outputs, before.children[1].outputs);
    assert_eq!(after.children[1].attempts, before.children[1].attempts);
    assert_eq!(after.children[0].attempts.len(), 2);
    // An item that comes back gets its child back.
    bench.rerun(&run, &from("list"), None);
    bench.end(&run, "list", says(json!(["b"])));
    assert_eq!(bench.words(&run, Some("each")), ["dropped", "assigned", "dropped", "dropped"]);
    assert_eq!(bench.token(&run, before.find("each[b]").unwrap()).attempt, 2);
    bench.finish_all(&run);
    assert_eq!(keys(bench.core.run(&run).unwrap(), 2), ["b"]);
}

#[test]
fn children_begin_in_the_order_of_the_new_items_and_say_why_they_are_held_back() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let over = Over::Output(OutputRef { task: 0, output: "out".into() });
    let run =
        bench.submit(1, vec![inline(task("list", &[])), paced(fan_out(task("each", &[]), over), Some(1), 0, false)]);
    bench.end(&run, "list", says(json!(["a", "b", "c"])));
    bench.finish_all(&run);
    bench.rerun(&run, &from("list"), None);
    bench.end(&run, "list", says(json!(["c", "b", "a"])));
    assert_eq!(bench.words(&run, Some("each")), ["ready", "ready", "assigned"]);
    assert_eq!([bench.why(&run, "each[a]"), bench.why(&run, "each[b]")], ["max_parallel"; 2]);
    bench.end(&run, "each[c]", success("c"));
    assert_eq!(bench.words(&run, Some("each")), ["ready", "assigned", "succeeded"]);
}

#[test]
fn a_child_whose_item_is_gone_cannot_be_asked_for() {
    let mut bench = Bench::new();
    let run = done(&mut bench, json!(["a", "b"]));
    bench.rerun(&run, &from("list"), None);
    bench.end(&run, "list", says(json!(["a"])));
    bench.finish_all(&run);
    let state = bench.load(&run).unwrap();
    assert!(plan(&state, &only("each[b]"), None).is_err());
    assert!(plan(&state, &only("each[x]"), None).is_err());
    assert!(plan(&state, &only("each[a"), None).is_err());
    assert!(plan(&state, &only("list[a]"), None).is_err());
    assert!(plan(&state, &only("each[a]"), None).is_ok());
}

#[test]
fn nothing_of_an_earlier_generation_passes_for_a_result_of_a_fan_out_that_was_skipped() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let over = Over::Output(OutputRef { task: 0, output: "out".into() });
    let mut report = task("report", &[1]);
    report.flow.run_if = RunIf::AllDone;
    let tasks = vec![
        inline(task("list", &[])),
        when(fan_out(task("each", &[]), over), "size(tasks.list.outputs.out) > 1"),
        report,
        when(after("look", &[1], RunIf::AllDone), "size(tasks.each.children) == 0"),
    ];
    let run = bench.submit(1, tasks);
    bench.end(&run, "list", says(json!(["a", "b"])));
    bench.end(&run, "each[a]", success("a"));
    bench.end(&run, "each[b]", success("b"));
    assert_eq!(keys(bench.core.run(&run).unwrap(), 2), ["a", "b"]);
    bench.finish_all(&run);
    bench.rerun(&run, &from("list"), None);
    bench.end(&run, "list", says(json!(["a"])));
    assert_eq!(bench.words(&run, None), ["succeeded", "skipped", "assigned", "assigned"]);
    assert!(bench.core.run(&run).unwrap().inputs_of(2).unwrap().is_empty());
}

#[test]
fn items_that_make_no_sense_any_more_leave_no_children() {
    let mut bench = Bench::new();
    let run = done(&mut bench, json!(["a"]));
    bench.rerun(&run, &from("list"), None);
    bench.end(&run, "list", says(json!(7)));
    assert_eq!(bench.words(&run, None), ["succeeded", "failed", "upstream_failed"]);
    assert_eq!(bench.words(&run, Some("each")), ["dropped"]);
    bench.rerun(&run, &failed(), None);
    assert_eq!(bench.words(&run, None), ["succeeded", "failed", "upstream_failed"], "the list is as it was");
}

fn other_version(tasks: Vec<crate::spec::BoundTask>) -> RunSpec {
    RunSpec { version: "v2".into(), ..(*spec(tasks)).clone() }
}

#[test]
fn a_fan_out_that_becomes_one_task_gives_its_own_output_and_those_of_its_children_no_more() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![each("each", &[], &["a", "b"]), task("join", &[0])]);
    bench.finish_all(&run);
    bench.sent.clear();
    let latest = other_version(vec![task("each", &[]), task("join", &[0])]);
    bench.rerun(&run, &Selector::default(), Some(&latest));
    bench.end(&run, "each", success("one"));
    let inputs = bench.core.run(&run).unwrap().inputs_of(1).unwrap();
    assert_eq!((inputs.len(), inputs[0].key.is_none()), (1, true));
    bench.finish_all(&run);
    assert_eq!(executed(&mut bench), ["each", "join"]);
    assert_eq!(bench.core.run(&run).unwrap().children.iter().filter(|c| c.state == TaskState::Dropped).count(), 2);
}

#[test]
fn a_task_that_becomes_a_fan_out_gives_the_outputs_of_its_children() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![task("each", &[]), task("join", &[0])]);
    bench.finish_all(&run);
    let latest = other_version(vec![each("each", &[], &["a", "b"]), task("join", &[0])]);
    bench.rerun(&run, &Selector::default(), Some(&latest));
    bench.end(&run, "each[a]", success("a"));
    bench.end(&run, "each[b]", success("b"));
    assert_eq!(keys(bench.core.run(&run).unwrap(), 1), ["a", "b"]);
    bench.finish_all(&run);
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].attempts.len(), 1, "what the one task did is still there");
}

#[test]
fn a_fan_out_that_the_version_drops_drops_its_children() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let run = bench.submit(1, vec![each("each", &[], &["a", "b"]), task("b", &[])]);
    bench.end(&run, "each[a]", failure(FailureClass::User));
    bench.finish_all(&run);
    let mut changed = task("b", &[]);
    changed.params.insert("k".into(), 1.into());
    bench.rerun(&run, &Selector::default(), Some(&other_version(vec![changed])));
    bench.finish_all(&run);
    assert_eq!(bench.words(&run, None), ["dropped", "succeeded"]);
    assert_eq!(bench.run_state(&run), RunState::Succeeded, "what is gone has no say");
    let read = bench.load(&run).unwrap();
    assert!(read.children.iter().all(|child| child.state == TaskState::Dropped));
}

/// A run whose fan-out is done, and another one of the same pipeline that goes on: only one may.
fn full_lane(bench: &mut Bench) -> (RunId, RunId) {
    bench.worker("w", 8);
    let made = |tasks| RunSpec {
        concurrency: Some(Concurrency { max: 1, key: String::new(), on_full: OnFull::Queue }),
        ..(*spec(tasks)).clone()
    };
    let first = bench.submit_spec(1, made(vec![each("each", &[], &["a", "b", "c"]), task("join", &[0])]));
    bench.finish_all(&first);
    bench.core.forget_terminal();
    let second = bench.submit_spec(2, made(vec![task("slow", &[])]));
    bench.sent.clear();
    (first, second)
}

#[test]
fn what_was_asked_of_single_children_outlives_a_restart_while_the_run_waits_for_its_turn() {
    let mut bench = Bench::new();
    let (first, second) = full_lane(&mut bench);
    bench.rerun(&first, &only("each[b]"), None);
    assert_eq!(bench.run_state(&first), RunState::Queued);
    bench.restart();
    assert_eq!(bench.words(&first, Some("each")), ["succeeded"; 3]);
    let held = vec![Held { token: bench.token(&second, 0), started: true }];
    bench.hello("w", "a", 8, 0, held);
    bench.end(&second, "slow", success("s"));
    bench.finish_all(&first);
    assert_eq!(executed(&mut bench), ["each[b]"]);
    assert_eq!(bench.run_state(&first), RunState::Succeeded);
}

#[test]
fn what_was_asked_of_single_children_is_forgotten_with_the_rerun_that_was_cancelled() {
    let mut bench = Bench::new();
    let (first, second) = full_lane(&mut bench);
    bench.rerun(&first, &only("each[b]"), None);
    bench.cancel(&first);
    assert_eq!(bench.run_state(&first), RunState::Cancelled);
    bench.end(&second, "slow", success("s"));
    bench.sent.clear();
    bench.rerun(&first, &only("each"), None);
    bench.finish_all(&first);
    assert_eq!(executed(&mut bench), ["each[a]", "each[b]", "each[c]"]);
}

#[test]
fn a_restart_at_any_point_changes_neither_what_is_executed_nor_what_comes_of_it() {
    // List, fan-out with skipped items and two places, join; then a rerun with other items, then one of a single child.
    let run_through = |restart_at: Option<usize>| -> (Vec<String>, Vec<Vec<&'static str>>) {
        let mut bench = Bench::new();
        bench.worker("w", 8);
        let over = Over::Output(OutputRef { task: 0, output: "out".into() });
        let each = paced(when(fan_out(task("each", &[]), over), "item != 'b'"), Some(2), 1, false);
        let run = bench.submit(1, vec![inline(task("list", &[])), each, task("join", &[1])]);
        let mut events = 0;
        let mut words = Vec::new();
        for generation in 0..3 {
            match generation {
                0 => {}
                1 => drop(bench.rerun(&run, &from("list"), None)),
                _ => drop(bench.rerun(&run, &only("each[d]"), None)),
            }
            while !bench.run_state(&run).is_terminal() {
                if restart_at == Some(events) {
                    bench.restart();
                    let held = bench.live(&run).into_iter();
                    let held = held.map(|index| Held { token: bench.token(&run, index), started: false }).collect();
                    bench.hello("w", "a", 8, 0, held);
                }
                events += 1;
                let Some(&next) = bench.live(&run).last() else {
                    bench.pass(100);
                    continue;
                };
                let name = bench.core.run(&run).unwrap().name_of(next).unwrap().to_string();
                let tried = bench.token(&run, next).attempt > 1;
                let outcome = match name.as_str() {
                    "list" if generation == 0 => says(json!(["a", "b", "c", "d", "e"])),
                    "list" => says(json!(["e", "f", "d", "b", "a"])),
                    "each[a]" => failure(FailureClass::User),
                    "each[e]" if !tried => failure(FailureClass::Infra),
                    _ => success(&name),
                };
                bench.finish(&run, next, outcome);
            }
            words.push(bench.words(&run, None));
            words.push(bench.words(&run, Some("each")));
        }
        (executed(&mut bench), words)
    };
    let plain = run_through(None);
    assert_eq!(plain.1[1], ["failed", "skipped", "succeeded", "succeeded", "succeeded"]);
    assert_eq!(plain.1[3], ["failed", "skipped", "dropped", "succeeded", "succeeded", "succeeded"]);
    for at in 0..18 {
        assert_eq!(run_through(Some(at)), plain, "restarted before event {at}");
    }
}

#[test]
fn children_of_a_worker_that_stays_away_after_a_restart_are_tried_again() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![paced(each("each", &[], &["a", "b", "c"]), Some(2), 0, false)]);
    bench.start(&run, bench.at(&run, "each[a]"));
    bench.restart();
    bench.worker("v", 2);
    assert_eq!(bench.words(&run, Some("each")), ["running", "assigned", "ready"], "their leases go on");
    bench.pass(LEASE);
    assert_eq!(bench.words(&run, Some("each")), ["backoff", "assigned", "ready"]);
    bench.pass(100);
    bench.finish_all(&run);
    assert_eq!(bench.run_state(&run), RunState::Succeeded);
}

#[test]
fn an_expansion_that_is_missing_in_the_store_is_damage_and_no_panic() {
    let mut bench = Bench::new();
    let run = done(&mut bench, json!(["a", "b"]));
    let mut state = bench.load(&run).unwrap();
    state.groups.clear();
    state.state = RunState::Running;
    state.children[0].state = TaskState::Waiting { needs_left: 1 };
    state.homes[0] = (u32::MAX, 0);
    let mut core = crate::core::Core::new(crate::core::Config { epoch: 5, lease_ms: LEASE });
    core.restore(state, bench.now);
    // What is damaged beyond use has no task that is open, so that its run has ended; anything else is cancelled.
    let cancelled = core.decide(Event::CancelRun { run, gently: false, why: String::new() }, bench.now, &bench.cache);
    assert!(matches!(cancelled, Ok(_) | Err(crate::core::Refused::RunEnded(_))), "{cancelled:?}");
}
