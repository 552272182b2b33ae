//! Tasks that need more than is ever free at a time: room is kept for them, and for nobody else.

use std::collections::BTreeMap;

use proptest::prelude::*;
use segue_proto::{
    ids::{RunId, Token},
    resources::GpuPreference,
};

use super::support::{Bench, few, run_id, success, task};
use crate::{
    core::{Config, Core, Event, OVERDUE_MS, TaskState, WorkerKey, explain},
    spec::BoundTask,
};

const DAY: u64 = 86_400_000;

/// A cluster whose leases outlast every test.
fn patient() -> Bench {
    let mut bench = Bench::new();
    bench.core = Core::new(Config { epoch: 1, lease_ms: DAY });
    bench
}

fn wants(name: &str, cpu: u32) -> BoundTask {
    let mut made = task(name, &[]);
    made.resources.amounts.cpu_milli = cpu * 1_000;
    made
}

fn alike(count: u32, of: impl Fn(&str) -> BoundTask) -> Vec<BoundTask> {
    (0..count).map(|n| of(&format!("t{n}"))).collect()
}

/// Submits tasks a moment later than what was there before.
fn then(bench: &mut Bench, n: u32, tasks: Vec<BoundTask>) -> RunId {
    bench.now += 1;
    bench.submit(n, tasks)
}

#[test]
fn a_worker_is_kept_for_a_wide_task_that_small_ones_behind_it_would_hold_back_for_ever() {
    let mut bench = patient();
    bench.worker("w", 8);
    let first = bench.submit(1, alike(8, |name| wants(name, 1)));
    let wide = then(&mut bench, 2, vec![wants("wide", 8)]);
    let ready = bench.now;
    let behind = then(&mut bench, 3, alike(20, |name| wants(name, 1)));
    assert_eq!(bench.why(&wide, "wide"), "workers_busy");
    assert_eq!(bench.core.next_wakeup(), Some(ready + OVERDUE_MS));
    bench.end(&first, "t0", success("x"));
    bench.now = ready + OVERDUE_MS - 1;
    bench.end(&first, "t1", success("x"));
    assert_eq!(bench.live(&behind).len(), 2, "until it is overdue, nothing lies idle");
    bench.pass(1);
    bench.end(&first, "t2", success("x"));
    assert_eq!(bench.live(&behind).len(), 2, "what is free is kept");
    assert!(bench.core.next_wakeup() > Some(bench.now), "nobody waits for what has come already");
    let why = |bench: &Bench, run: &RunId, name: &str| {
        explain::explain(&bench.core, bench.core.run(run).unwrap(), bench.at(run, name)).unwrap()
    };
    let reason = why(&bench, &behind, "t2");
    assert_eq!(reason.code, "room_kept");
    assert!(reason.text.contains(&format!("wide of {wide}")), "{}", reason.text);
    let reason = why(&bench, &wide, "wide");
    assert!(reason.code == "workers_busy" && reason.text.contains("`w` begins nothing"), "{reason:?}");
    // What stands before it goes before it still.
    let mut urgent = wants("urgent", 1);
    urgent.priority = 5;
    let urgent = then(&mut bench, 4, vec![urgent]);
    assert_eq!(bench.word(&urgent, "urgent"), "assigned");
    for run in [urgent, behind, first] {
        for index in bench.live(&run) {
            assert_eq!(bench.word(&wide, "wide"), "ready");
            bench.finish(&run, index, success("x"));
        }
    }
    assert_eq!(bench.word(&wide, "wide"), "assigned");
    bench.end(&wide, "wide", success("x"));
    assert_eq!(bench.live(&behind).len(), 8, "and the others go on");
}

#[test]
fn slots_of_a_pool_are_kept_for_a_task_that_wants_many_of_them() {
    let mut bench = patient();
    bench.worker("w", 64);
    bench.tell(Event::SetPool { name: "db".parse().unwrap(), slots: Some(4), description: None }).unwrap();
    let slots = |name: &str, slots: u32| {
        let mut made = task(name, &[]);
        made.flow.pools = BTreeMap::from([("db".to_owned(), slots)]);
        made
    };
    let first = bench.submit(1, alike(4, |name| slots(name, 1)));
    let wide = then(&mut bench, 2, vec![slots("wide", 3)]);
    let behind = then(&mut bench, 3, alike(9, |name| slots(name, 1)));
    bench.end(&first, "t0", success("x"));
    assert_eq!((bench.why(&wide, "wide"), bench.live(&behind).len()), ("pool_full", 1));
    bench.pass(OVERDUE_MS);
    bench.end(&first, "t1", success("x"));
    assert_eq!((bench.why(&wide, "wide"), bench.live(&behind).len()), ("pool_full", 1));
    assert_eq!(bench.why(&behind, "t1"), "pool_kept");
    let other = then(&mut bench, 4, vec![task("other", &[])]);
    assert_eq!(bench.word(&other, "other"), "assigned", "the worker is kept for nobody");
    bench.end(&first, "t2", success("x"));
    bench.end(&first, "t3", success("x"));
    assert_eq!((bench.word(&wide, "wide"), bench.live(&behind).len()), ("assigned", 1));
    assert_eq!(bench.why(&behind, "t1"), "pool_full");
}

#[test]
fn a_gpu_is_kept_whole_for_a_task_that_shares_of_it_would_hold_back() {
    let mut bench = patient();
    bench.hello("gpu", "a", 64, 2, vec![]);
    let share = |name: &str, gpu_milli: u32| {
        let mut made = task(name, &[]);
        made.resources.gpu = GpuPreference::Require;
        made.resources.amounts.gpu_milli = gpu_milli;
        made
    };
    let first = bench.submit(1, alike(6, |name| share(name, 300)));
    let wide = then(&mut bench, 2, vec![share("wide", 1_000)]);
    let behind = then(&mut bench, 3, alike(9, |name| share(name, 300)));
    bench.pass(OVERDUE_MS);
    let on = |bench: &Bench, device: u32| -> Vec<u32> {
        let run = bench.core.run(&first).unwrap();
        let here = |index: &u32| run.task(*index).unwrap().state.live().unwrap().reserved.devices == [device];
        bench.live(&first).into_iter().filter(here).collect()
    };
    assert_eq!((on(&bench, 0).len(), on(&bench, 1).len()), (3, 3));
    for index in on(&bench, 1) {
        assert_eq!((bench.word(&wide, "wide"), bench.live(&behind).len()), ("ready", 0));
        bench.finish(&first, index, success("x"));
    }
    assert_eq!(bench.state(&wide, 0).live().unwrap().reserved.devices, [1]);
}

#[test]
fn nothing_is_kept_for_a_task_that_can_never_have_it() {
    let mut bench = patient();
    bench.worker("w", 2);
    for (pool, slots) in [("db", 2), ("crm", 1)] {
        bench.tell(Event::SetPool { name: pool.parse().unwrap(), slots: Some(slots), description: None }).unwrap();
    }
    let slots = |name: &str, cpu: u32, pools: &[(&str, u32)]| {
        let mut made = wants(name, cpu);
        made.flow.pools = pools.iter().map(|(name, slots)| ((*name).to_owned(), *slots)).collect();
        made
    };
    // Too large for the worker, for one of its pools, for a pool that there is not.
    let never = vec![
        slots("large", 3, &[("db", 2)]),
        slots("wide", 1, &[("crm", 2), ("db", 2)]),
        slots("lost", 1, &[("no", 1), ("db", 2)]),
    ];
    let never = bench.submit(1, never);
    let others = then(&mut bench, 2, alike(6, |name| slots(name, 1, &[("db", 1)])));
    bench.pass(OVERDUE_MS);
    bench.finish_all(&others);
    assert_eq!(bench.words(&never, None), ["ready"; 3]);
}

#[test]
fn what_was_given_ahead_and_finds_no_room_at_its_worker_gets_it_as_well() {
    let mut bench = patient();
    (bench.took_ms, bench.looks_closely) = (1, false);
    bench.worker("w", 4);
    // Both kinds are known to be short from now on.
    let known = bench.submit(1, vec![wants("small", 1), wants("wide", 4)]);
    bench.finish_all(&known);
    let first = bench.submit(2, alike(4, |name| wants(name, 1)));
    let wide = then(&mut bench, 3, vec![wants("wide", 4)]);
    let ready = bench.now;
    assert!(bench.state(&wide, 0).live().unwrap().ahead);
    let behind = then(&mut bench, 4, alike(1_000, |name| wants(name, 1)));
    let mut held = Vec::new();
    while bench.state(&wide, 0).live().unwrap().ahead {
        let going = [first, behind].into_iter().find_map(|run| {
            let here = |index: &u32| !bench.state(&run, *index).live().unwrap().ahead;
            Some((run, bench.live(&run).into_iter().find(here)?))
        });
        let (run, index) = going.expect("somebody is at work");
        bench.now += 500;
        bench.finish(&run, index, success("x"));
        held.push(bench.core.workers().next().unwrap().ahead.len());
    }
    assert!(bench.now >= ready + OVERDUE_MS, "before that nothing is held back");
    assert!(
        (0..1_000).any(|n| *bench.state(&behind, n) == TaskState::Ready),
        "it came before the last of them: {held:?}"
    );
}

/// Lets time pass in steps of a second, ends what has run for as long as it lasts, and keeps small work waiting.
struct Stream {
    bench: Bench,
    small: u32,
    lasts: Vec<u64>,
    ends: BTreeMap<String, (u64, WorkerKey, Token)>,
    runs: u32,
}

impl Stream {
    fn note(&mut self) {
        let live = |run: &crate::core::Run| {
            let live = run.indices().filter_map(|index| Some((run.task(index)?.state.live()?.worker.clone(), index)));
            live.filter_map(|(worker, index)| Some((worker, run.live_token(index)?))).collect::<Vec<_>>()
        };
        for (worker, token) in self.bench.core.runs().flat_map(live) {
            let lasts = self.lasts[self.ends.len() % self.lasts.len()];
            self.ends.entry(token.to_string()).or_insert((self.bench.now + lasts, worker, token));
        }
    }

    fn step(&mut self) {
        self.bench.now += 1_000;
        let now = self.bench.now;
        let over: Vec<String> =
            self.ends.iter().filter(|(_, (at, ..))| *at <= now).map(|(name, _)| name.clone()).collect();
        for name in over {
            let (_, worker, token) = self.ends.remove(&name).unwrap();
            self.bench.report(&worker, &token, success("x")).unwrap();
        }
        self.bench.tell(Event::Tick).unwrap();
        if self.bench.core.ready_count() < 20 {
            self.runs += 1;
            let small = self.small;
            self.bench.submit(self.runs, alike(20, |name| wants(name, small)));
        }
        self.note();
        self.bench.core.forget_terminal();
        self.bench.check_reasons();
    }
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn every_task_that_a_worker_could_take_is_begun_whatever_comes_behind_it(
        cpus in prop::collection::vec(2_u32..9, 1..4),
        wides in prop::collection::vec(2_u32..9, 1..4),
        small in 1_u32..3,
        lasts in prop::collection::vec(1_000_u64..20_000, 1..8),
    ) {
        let mut bench = patient();
        bench.looks_closely = false;
        for (n, cpu) in cpus.iter().enumerate() {
            bench.worker(&format!("w{n}"), *cpu);
        }
        let most = *cpus.iter().max().unwrap();
        bench.submit(1, alike(cpus.iter().sum::<u32>() / small, |name| wants(name, small)));
        let wides: Vec<BoundTask> =
            wides.iter().enumerate().map(|(n, cpu)| wants(&format!("wide{n}"), (*cpu).min(most))).collect();
        let count = wides.len() as u64;
        then(&mut bench, 2, wides);
        let longest = *lasts.iter().max().unwrap();
        // One after the other, each on a worker that lacks one core less each time.
        let latest = bench.now + OVERDUE_MS + 8 * count * (longest + 1_000);
        let mut stream = Stream { bench, small, lasts, ends: BTreeMap::new(), runs: 2 };
        stream.note();
        let waits = |stream: &Stream| {
            let run = stream.bench.core.run(&run_id(2));
            run.is_some_and(|run| run.tasks.iter().any(|task| task.state == TaskState::Ready))
        };
        while waits(&stream) {
            prop_assert!(stream.bench.now < latest, "it waits for longer than everything that was there");
            stream.step();
        }
    }
}
