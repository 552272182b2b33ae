//! Random pipelines in a small world of faults, against the rules applied naively. After each event the states of all
//! tasks are those of the naive rules, every count is that of a naive count, everything that waits can say why, and what
//! was written is what is there.

mod draft;
mod reference;
mod world;

use std::{cell::RefCell, collections::BTreeMap};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use segue_proto::failure::FailureClass;
use world::{Step, World};

use super::support::few;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![Just(FailureClass::User), Just(FailureClass::Infra)];
    let step = prop_oneof![
        12 => (0_usize..2).prop_map(Step::Obey),
        12 => (0_usize..2).prop_map(Step::Report),
        16 => (0_usize..8, 0_usize..6).prop_map(|(pick, draw)| Step::Succeed(pick, draw)),
        4 => (0_usize..8, class).prop_map(|(pick, class)| Step::Fail(pick, class)),
        6 => (0_usize..2).prop_map(Step::Beat),
        2 => (0_usize..2, any::<bool>()).prop_map(|(at, told)| Step::Link(at, told)),
        1 => (0_usize..2).prop_map(Step::Crash),
        1 => (0_usize..2).prop_map(Step::Drain),
        4 => (1_u64..350).prop_map(Step::Time),
        12 => (1_u64..700).prop_map(Step::Calm),
        3 => (0_usize..8, 0_u8..6).prop_map(|(pick, what)| Step::Look(pick, what)),
        1 => (0_usize..2).prop_map(Step::CancelRun),
        2 => (0_usize..2, 0_usize..32).prop_map(|(run, task)| Step::CancelTask(run, task)),
        2 => Just(Step::Restart),
        4 => (0_usize..2, 0_u8..3, 0_usize..32).prop_map(|(run, what, pick)| Step::Rerun(run, what, pick)),
    ];
    prop::collection::vec(step, 0..160)
}

/// What must have happened in some of the worlds, or the test tests nothing.
const WANTED: [&str; 37] = [
    "cut",
    "crash",
    "restart",
    "rerun",
    "cancel run",
    "cancel task",
    "cancel child",
    "retract",
    "ahead",
    "one child",
    "succeeded",
    "failed",
    "upstream_failed",
    "skipped",
    "cancelled",
    "dropped",
    "Succeeded",
    "Failed",
    "TimedOut or lost",
    "HandedBack",
    "Cancelled",
    "waiting_upstream",
    "waiting_finally",
    "waiting_children",
    "sensing",
    "backoff",
    "starting",
    "cancelling",
    "given_ahead",
    "max_parallel",
    "pool_full",
    "limit_reached",
    "workers_busy",
    "no_worker_fits",
    "no_workers",
    "condition_false",
    "upstream_skipped",
];

#[test]
fn whatever_happens_every_task_is_where_the_rules_say_and_every_run_can_end() {
    let pipelines = prop::collection::vec(draft::pipelines(), 1..3);
    let took_ms = prop_oneof![Just(60_000_u64), Just(20), Just(1)];
    let worlds = (pipelines, steps(), (1_u32..4, 1_u32..5), took_ms);
    // The same worlds each time, or some of what is wanted might not happen; other ones when many are asked for.
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    let seen = RefCell::new(BTreeMap::<&str, u32>::new());
    let (config, rng) = (few(96), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut runner = if told { TestRunner::new(config) } else { TestRunner::new_with_rng(config, rng) };
    runner
        .run(&worlds, |(pipelines, steps, cpus, took_ms)| {
            let mut world = World::new(&pipelines, [cpus.0, cpus.1], took_ms);
            for step in steps {
                world.step(step);
            }
            world.finish();
            world.nothing_is_left();
            for (what, times) in world.seen {
                *seen.borrow_mut().entry(what).or_default() += times;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    let missing: Vec<&str> = WANTED.into_iter().filter(|what| !seen.contains_key(what)).collect();
    assert!(missing.is_empty(), "none of these has happened: {missing:?} in {seen:?}");
}
