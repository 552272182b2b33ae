//! What holds in a coordinator whatever strangers have said to it, looked at from outside.

use std::collections::BTreeSet;

use segue_coordinator::{
    core::{Config, Core, Run, TaskState, explain},
    server::desk::Desk,
};
use segue_proto::ids::RunId;

/// Checks the state in memory. A worker that lies says that it has less than what it was given already.
///
/// # Panics
/// If a rule is broken.
pub fn check(core: &Core, with_liars: bool) {
    let mut given: BTreeSet<(RunId, u32)> = BTreeSet::new();
    for worker in core.workers() {
        let fits = with_liars || worker.link.is_none() || worker.capacity.fits(&worker.in_use());
        assert!(fits, "worker {} is over its capacity", worker.key);
        for place in worker.leased.keys().chain(&worker.ahead) {
            assert!(given.insert(*place), "given out twice");
            let live = core.run(&place.0).and_then(|run| run.task(place.1)).and_then(|task| task.state.live());
            assert!(live.is_some_and(|live| live.worker == worker.key), "a lease without its attempt");
        }
    }
    for run in core.runs() {
        let mut open = 0;
        for index in run.indices() {
            let Some(task) = run.task(index) else { continue };
            let live = task.state.live();
            assert_eq!(live.is_some(), given.contains(&(run.id, index)), "live attempts and leases");
            open += u32::from(!task.state.is_terminal());
            let goes = live.is_some_and(|live| live.started && !live.cancelling);
            if !task.state.is_terminal() && !goes {
                let reason = explain::explain(core, run, index);
                assert!(reason.is_some_and(|reason| !reason.text.is_empty()), "{:?} does not say why", task.state);
            }
        }
        assert_eq!(run.state.is_terminal(), open == 0, "run {} is {:?} with {open} open tasks", run.id, run.state);
    }
}

/// Checks that what is in memory is what a restart would find, and that people get their answers.
///
/// # Panics
/// If a rule is broken.
pub fn check_kept(desk: &Desk) {
    for run in desk.core().runs() {
        let stored = desk.stored(&run.id).unwrap_or_else(|e| panic!("run {}: {e}", run.id));
        let stored = stored.unwrap_or_else(|| panic!("run {} is not in the store", run.id));
        // What follows from the rest is not kept: a start finds it again.
        let mut after = Core::new(Config { epoch: u64::MAX, lease_ms: 1 });
        after.restore(stored, desk.now());
        assert_eq!(after.run(&run.id).map(states), Some(states(run)));
    }
    // Each is made whole: that is all that is asked of them.
    let _ = desk.answers();
    if let Err(e) = desk.kept() {
        panic!("{e}");
    }
}

/// Names the state of each task and child, and the worker that has it.
fn states(run: &Run) -> Vec<(u32, &'static str, Option<String>)> {
    let state = |state: &TaskState| (state.word(), state.live().map(|live| live.worker.to_string()));
    let all = run.indices().filter_map(|index| Some((index, state(&run.task(index)?.state))));
    all.map(|(index, (word, worker))| (index, word, worker)).collect()
}
