//! Rerun plans and their laws.

use std::sync::Arc;

use proptest::prelude::*;
use segue_proto::failure::FailureClass;

use super::support::{Bench, failure, spec, success, task};
use crate::core::{
    Event, Refused, Run, RunState, TaskState,
    rerun::{Selector, plan},
};

fn failed_run(bench: &mut Bench) -> segue_proto::ids::RunId {
    bench.worker("w", 4);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0]), task("c", &[1]), task("d", &[0])]);
    bench.finish(&run, 0, success("a"));
    bench.finish(&run, 1, failure(FailureClass::User));
    bench.finish(&run, 3, success("d"));
    assert_eq!(bench.core.run(&run).unwrap().state, RunState::Failed);
    run
}

fn ended(bench: &mut Bench, run: &segue_proto::ids::RunId) -> Run {
    let state = bench.core.run(run).unwrap().clone();
    bench.core.forget_terminal();
    state
}

fn execute(bench: &mut Bench, run: Run, selector: &Selector) -> Result<Vec<bool>, Refused> {
    let plan = plan(&run, selector, None).unwrap();
    let flags = plan.execute();
    bench.tell(Event::Rerun { run: Box::new(run), spec: Arc::clone(&plan.spec), plan: Box::new(plan) })?;
    Ok(flags)
}

#[test]
fn a_rerun_of_what_failed_executes_the_printed_plan_and_keeps_the_rest() {
    let mut bench = Bench::new();
    let id = failed_run(&mut bench);
    let run = ended(&mut bench, &id);
    let kept = run.tasks[0].outputs.clone();
    bench.sent.clear();
    let flags = execute(&mut bench, run, &Selector { failed: true, ..Selector::default() }).unwrap();
    assert_eq!(flags, [false, true, true, false]);
    bench.finish(&id, 1, success("b"));
    bench.finish(&id, 2, success("c"));
    assert_eq!(bench.assigned(), ["b", "c"], "exactly the plan");
    let state = bench.core.run(&id).unwrap();
    assert_eq!(state.state, RunState::Succeeded);
    assert_eq!(state.generation, 1);
    assert_eq!(state.tasks[0].outputs, kept);
    assert_eq!(state.tasks[1].attempts.len(), 2, "the attempt of before is still there");
    assert_eq!(state.tasks[1].attempts[0].state, crate::core::AttemptState::Failed);
}

#[test]
fn from_executes_a_task_and_what_comes_after_only_executes_it_alone() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let id = bench.submit(1, vec![task("a", &[]), task("b", &[0]), task("c", &[1])]);
    for (index, name) in ["a", "b", "c"].iter().enumerate() {
        bench.finish(&id, u32::try_from(index).unwrap(), success(name));
    }
    let run = ended(&mut bench, &id);
    let from = plan(&run, &Selector { from: vec!["b".into()], ..Selector::default() }, None).unwrap();
    assert_eq!(from.execute(), [false, true, true]);
    let only = plan(&run, &Selector { only: vec!["b".into()], ..Selector::default() }, None).unwrap();
    assert_eq!(only.execute(), [false, true, false]);
    assert_eq!(only.items[2].reason, "kept");
}

#[test]
fn from_reaches_through_a_task_that_was_asked_for_alone() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let id = bench.submit(1, vec![task("a", &[]), task("b", &[0]), task("c", &[1])]);
    bench.finish(&id, 0, failure(FailureClass::User));
    let run = ended(&mut bench, &id);
    let both = Selector { from: vec!["a".into()], only: vec!["b".into()], ..Selector::default() };
    assert_eq!(plan(&run, &both, None).unwrap().execute(), [true, true, true]);
}

#[test]
fn a_task_whose_input_was_never_made_brings_its_producers_along() {
    let mut bench = Bench::new();
    let id = failed_run(&mut bench);
    let run = ended(&mut bench, &id);
    let only = plan(&run, &Selector { only: vec!["c".into()], ..Selector::default() }, None).unwrap();
    assert_eq!(only.execute(), [false, true, true, false]);
    assert_eq!(only.items[1].reason, "needed by c");
}

#[test]
fn a_cancelled_run_can_be_rerun() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let id = bench.submit(1, vec![task("a", &[]), task("b", &[0])]);
    bench.tell(Event::CancelRun { run: id, gently: false, why: String::new() }).unwrap();
    bench.finish(&id, 0, crate::core::Outcome::Cancelled);
    let run = ended(&mut bench, &id);
    assert_eq!(run.state, RunState::Cancelled);
    execute(&mut bench, run, &Selector { failed: true, ..Selector::default() }).unwrap();
    bench.finish(&id, 0, success("a"));
    bench.finish(&id, 1, success("b"));
    assert_eq!(bench.core.run(&id).unwrap().state, RunState::Succeeded);
}

#[test]
fn a_rerun_does_not_take_an_asked_for_task_from_the_cache() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let mut a = task("a", &[]);
    a.cache = true;
    let key = crate::core::cache::key(&a, &[], &Default::default()).unwrap();
    bench.cache.insert(key, super::support::cached("a"));
    let id = bench.submit(1, vec![a]);
    let run = ended(&mut bench, &id);
    execute(&mut bench, run, &Selector { only: vec!["a".into()], ..Selector::default() }).unwrap();
    assert!(matches!(bench.state(&id, 0), TaskState::Live(_)));
}

#[test]
fn a_run_that_is_going_cannot_be_rerun() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let id = bench.submit(1, vec![task("a", &[])]);
    let run = bench.core.run(&id).unwrap().clone();
    let plan = plan(&run, &Selector { only: vec!["a".into()], ..Selector::default() }, None).unwrap();
    let spec = Arc::clone(&run.spec);
    let refused = bench.tell(Event::Rerun { run: Box::new(run), spec, plan: Box::new(plan) });
    assert_eq!(refused, Err(Refused::RunGoing(id)));
}

#[test]
fn the_latest_version_executes_what_changed_and_what_is_new_and_skips_what_is_gone() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let id = bench.submit(1, vec![task("a", &[]), task("gone", &[0]), task("b", &[0])]);
    for index in [0, 1, 2] {
        bench.finish(&id, index, success(&index.to_string()));
    }
    let run = ended(&mut bench, &id);
    let mut changed = task("b", &[0]);
    changed.params.insert("k".into(), 1.into());
    // In the new file `new` stands before `a`: old tasks keep their places all the same.
    let latest = spec(vec![
        task("new", &[]),
        {
            let mut a = task("a", &[]);
            a.inputs.clear();
            a
        },
        {
            for input in changed.inputs.values_mut() {
                input.task = 1;
            }
            changed
        },
    ]);
    let plan = plan(&run, &Selector::default(), Some(&latest)).unwrap();
    let names: Vec<&str> = plan.spec.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["a", "gone", "b", "new"]);
    assert_eq!(plan.execute(), [false, false, true, true]);
    assert_eq!(plan.items[1].reason, "not in this version");
    let spec = Arc::clone(&plan.spec);
    bench.tell(Event::Rerun { run: Box::new(run), spec, plan: Box::new(plan) }).unwrap();
    bench.finish(&id, 2, success("b"));
    bench.finish(&id, 3, success("new"));
    assert_eq!(bench.core.run(&id).unwrap().state, RunState::Succeeded);
}

#[test]
fn a_failed_task_that_the_version_dropped_decides_nothing_and_does_not_come_back() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    let id = bench.submit(1, vec![task("a", &[]), task("bad", &[0]), task("after", &[1])]);
    bench.finish(&id, 0, success("a"));
    bench.finish(&id, 1, failure(FailureClass::User));
    let run = ended(&mut bench, &id);
    let latest = spec(vec![task("a", &[]), task("new", &[0])]);
    let first = plan(&run, &Selector { failed: true, ..Selector::default() }, Some(&latest)).unwrap();
    assert_eq!(first.execute(), [false, false, false, true]);
    let spec = Arc::clone(&first.spec);
    bench.tell(Event::Rerun { run: Box::new(run), spec, plan: Box::new(first) }).unwrap();
    bench.finish(&id, 3, success("new"));
    let run = ended(&mut bench, &id);
    assert_eq!(run.state, RunState::Succeeded, "what is gone has no say");
    let again = plan(&run, &Selector { failed: true, ..Selector::default() }, None).unwrap();
    assert_eq!(again.execute(), [false; 4], "and is not executed by a later rerun");
}

#[test]
fn an_unknown_task_is_refused_with_the_names_that_are_there() {
    let mut bench = Bench::new();
    let id = failed_run(&mut bench);
    let run = ended(&mut bench, &id);
    let error = plan(&run, &Selector { from: vec!["bb".into()], ..Selector::default() }, None).unwrap_err();
    assert_eq!((error.task.as_str(), error.known.len()), ("bb", 4));
}

proptest! {
    #[test]
    fn what_executes_has_results_to_start_from_and_what_was_asked_for_executes(
        edges in prop::collection::vec((0_usize..8, 0_usize..8), 0..16),
        outcomes in prop::collection::vec(any::<bool>(), 8),
        failed: bool,
        from in prop::collection::vec(0_usize..8, 0..3),
        only in prop::collection::vec(0_usize..8, 0..3),
    ) {
        let tasks = (0..8).map(|n| {
            let mut needs: Vec<usize> = edges.iter().filter(|(a, b)| a.max(b) == &n && a != b).map(|(a, b)| *a.min(b)).collect();
            needs.sort_unstable();
            needs.dedup();
            task(&format!("t{n}"), &needs)
        }).collect();
        let mut bench = Bench::new();
        bench.worker("w", 8);
        let id = bench.submit(1, tasks);
        // Runs to the end: every live task succeeds or fails as drawn.
        while let Some(live) = (0..8).find(|&n| matches!(bench.state(&id, n as u32), TaskState::Live(_))) {
            let outcome = if outcomes[live] { success("x") } else { failure(FailureClass::User) };
            bench.finish(&id, live as u32, outcome);
        }
        let run = ended(&mut bench, &id);
        let name = |n: &usize| format!("t{n}");
        let selector = Selector { failed, from: from.iter().map(name).collect(), only: only.iter().map(name).collect() };
        let first = plan(&run, &selector, None).unwrap();
        prop_assert_eq!(&first, &plan(&run, &selector, None).unwrap());
        let flags = first.execute();
        for n in 0..8 {
            let succeeded = run.tasks[n].state == TaskState::Succeeded;
            prop_assert!(!(from.contains(&n) || only.contains(&n)) || flags[n], "asked for");
            prop_assert!(!failed || succeeded || flags[n], "what failed executes");
            if flags[n] {
                for need in run.spec.tasks[n].needs() {
                    let there = run.tasks[need].state == TaskState::Succeeded;
                    prop_assert!(there || flags[need], "t{} needs t{}", n, need);
                }
            }
            if from.iter().any(|&start| run.downstream([start])[n]) {
                prop_assert!(flags[n], "downstream of --from");
            }
        }
        if flags.contains(&true) {
            let before = run.clone();
            let asked: Vec<usize> = (0..8).filter(|&n| flags[n]).collect();
            bench.sent.clear();
            let rerun = Event::Rerun { run: Box::new(run), spec: Arc::clone(&first.spec), plan: Box::new(first) };
            bench.tell(rerun).unwrap();
            while let Some(live) = (0..8).find(|&n| matches!(bench.state(&id, n as u32), TaskState::Live(_))) {
                bench.finish(&id, live as u32, success("again"));
            }
            let mut executed = bench.assigned();
            executed.sort();
            let mut wanted: Vec<String> = asked.iter().map(name).collect();
            wanted.sort();
            prop_assert_eq!(executed, wanted, "exactly the plan");
            let after = bench.core.run(&id).unwrap();
            prop_assert!(after.state.is_terminal());
            for n in (0..8).filter(|&n| !flags[n]) {
                prop_assert_eq!(&after.tasks[n].outputs, &before.tasks[n].outputs, "kept byte for byte");
            }
        }
    }
}
