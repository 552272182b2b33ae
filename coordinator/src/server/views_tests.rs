#![allow(clippy::unwrap_used)]

use super::*;
use crate::core::tests::support::{Bench, each, paced, task};

/// Tells every reason of a run as a look tells it, and as each task would tell it alone.
fn told(bench: &Bench, run: &Run) -> (usize, Vec<Option<Reason>>, Vec<Option<Reason>>) {
    let mut reasons = Reasons::new(&bench.core);
    let together = run.indices().map(|index| reasons.of(run, index)).collect();
    let alone = run.indices().map(|index| explain::explain(&bench.core, run, index)).collect();
    (reasons.ready.len(), together, alone)
}

#[test]
fn why_tasks_that_want_the_same_wait_is_found_out_once_in_a_look() {
    let mut bench = Bench::new();
    bench.worker("small", 1);
    let mut tasks: Vec<_> = (0..200).map(|n| task(&format!("plain-{n}"), &[])).collect();
    let mut large = task("large", &[]);
    large.resources.amounts.cpu_milli = 64_000;
    tasks.push(large);
    let id = bench.submit(1, tasks);
    let run = bench.core.run(&id).unwrap();
    let (asked, together, alone) = told(&bench, run);
    assert_eq!(together, alone);
    assert_eq!(asked, 2, "one class that is busy, one that no worker has room for");
    let view = run_view(run, Some(&bench.core), true);
    let told: Vec<&str> = view.tasks.iter().map(|task| task.reason_code.as_str()).collect();
    assert_eq!((told.iter().filter(|code| **code == "workers_busy").count(), told[200]), (199, "no_worker_fits"));
}

#[test]
fn children_that_are_held_back_name_their_own_fan_out() {
    let mut bench = Bench::new();
    bench.worker("small", 1);
    let items = ["a", "b", "c", "d"];
    let slow = |name: &str| paced(each(name, &[], &items), Some(1), 0, false);
    let id = bench.submit(1, vec![slow("first"), slow("second")]);
    let (_, together, alone) = told(&bench, bench.core.run(&id).unwrap());
    assert_eq!(together, alone);
    let texts: Vec<&str> = together.iter().flatten().map(|reason| reason.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("`first`")) && texts.iter().any(|text| text.contains("`second`")));
}
