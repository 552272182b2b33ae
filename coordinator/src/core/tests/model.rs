//! Random DAGs against a naive model, with events in random order, lost workers and restarts.

use proptest::prelude::*;
use segue_proto::failure::FailureClass;

use super::support::{Bench, LEASE, failure, success, task};
use crate::core::{Event, Held, RunState, TaskState};

#[derive(Debug, Clone)]
enum Step {
    Succeed(usize),
    Fail(usize),
    Lose,
    Restart,
    Time(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..8).prop_map(Step::Succeed),
        1 => (0_usize..8).prop_map(Step::Fail),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
        2 => (1_u64..300).prop_map(Step::Time),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn readiness_equals_a_naive_scan_and_every_run_ends_whatever_happens(
        edges in prop::collection::vec((0_usize..8, 0_usize..8), 0..16), steps in steps(),
    ) {
        let tasks: Vec<_> = (0..8).map(|n| {
            let mut needs: Vec<usize> = edges.iter().filter(|(a, b)| a.max(b) == &n && a != b).map(|(a, b)| *a.min(b)).collect();
            needs.sort_unstable();
            needs.dedup();
            task(&format!("t{n}"), &needs)
        }).collect();
        let needs: Vec<Vec<usize>> = tasks.iter().map(|task| task.needs()).collect();
        let mut bench = Bench::new();
        let mut epoch = 1;
        let mut incarnation = 0;
        bench.hello("w", "i0", 2, 0, vec![]);
        let id = bench.submit(1, tasks);
        let live = |bench: &Bench| -> Vec<usize> {
            (0..8).filter(|&n| matches!(bench.state(&id, n as u32), TaskState::Live(_))).collect()
        };
        for step in steps {
            if bench.core.run(&id).unwrap().state.is_terminal() { break; }
            match step {
                Step::Succeed(pick) => {
                    let all = live(&bench);
                    if !all.is_empty() {
                        bench.finish(&id, all[pick % all.len()] as u32, success("x"));
                    }
                }
                Step::Fail(pick) => {
                    let all = live(&bench);
                    if !all.is_empty() {
                        bench.finish(&id, all[pick % all.len()] as u32, failure(FailureClass::User));
                    }
                }
                Step::Lose => {
                    bench.pass(LEASE);
                    incarnation += 1;
                    bench.hello("w", &format!("i{incarnation}"), 2, 0, vec![]);
                    bench.pass(LEASE);
                }
                Step::Restart => {
                    epoch += 1;
                    let held = live(&bench)
                        .into_iter()
                        .filter(|&n| bench.holder(&id, n as u32).incarnation.as_str() == format!("i{incarnation}"))
                        .map(|n| Held { token: bench.token(&id, n as u32), started: true })
                        .collect();
                    let mut after = Bench::with_epoch(epoch);
                    after.now = bench.now + 1;
                    after.store = std::sync::Arc::clone(&bench.store);
                    after.core.restore(bench.core.run(&id).unwrap().clone(), after.now);
                    bench = after;
                    bench.hello("w", &format!("i{incarnation}"), 2, 0, held);
                }
                Step::Time(ms) => {
                    let worker = super::support::key("w", &format!("i{incarnation}"));
                    let tokens = live(&bench).into_iter().map(|n| bench.token(&id, n as u32)).collect();
                    bench.now += ms;
                    let _ = bench.tell(Event::Heartbeat { worker, sequence: 1, tokens });
                    bench.pass(0);
                }
            }
            let run = bench.core.run(&id).unwrap();
            for (n, needed) in needs.iter().enumerate() {
                let open = needed.iter().filter(|&&need| run.tasks[need].state != TaskState::Succeeded).count();
                match &run.tasks[n].state {
                    TaskState::Waiting { needs_left } => {
                        prop_assert_eq!(*needs_left as usize, open);
                        prop_assert!(open > 0);
                    }
                    TaskState::UpstreamFailed => prop_assert!(open > 0),
                    TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => {}
                    _ => prop_assert_eq!(open, 0, "t{} is past waiting with an open need", n),
                }
            }
        }
        // From any point the run can be brought to its end.
        for _ in 0..200 {
            if bench.core.run(&id).unwrap().state.is_terminal() { break; }
            match live(&bench).first() {
                Some(&n) => bench.finish(&id, n as u32, success("x")),
                None => bench.pass(LEASE),
            }
        }
        let run = bench.core.run(&id).unwrap();
        prop_assert!(run.state.is_terminal(), "stuck: {:?}", run.tasks.iter().map(|t| t.state.clone()).collect::<Vec<_>>());
        let any_failed = run.tasks.iter().any(|t| t.state == TaskState::Failed);
        prop_assert_eq!(run.state == RunState::Failed, any_failed);
        prop_assert_eq!(bench.core.workers().map(|w| w.leased.len()).sum::<usize>(), 0);
    }
}
