//! GPUs under a mixed load, in simulated time: while work waits for them, they work.

use std::collections::BTreeMap;

use segue_proto::resources::{GpuPreference, Resources, WHOLE_GPU};

use super::{
    sim::Sim,
    support::{Bench, LEASE, success, task},
};
use crate::{core::TaskState, spec::BoundTask};

const CORE: u32 = 1_000;

/// What makes up a cluster, and when each attempt that runs will end.
struct World {
    bench: Bench,
    sims: Vec<Sim>,
    ends: BTreeMap<String, u64>,
    beat_at: u64,
}

impl World {
    /// One worker with two GPUs and two without, of eight cores each.
    fn new() -> Self {
        let mut bench = Bench::new();
        bench.looks_closely = false;
        let mut sims = vec![Sim::new("gpu", 1, 8), Sim::new("north", 1, 8), Sim::new("south", 1, 8)];
        sims[0].capacity.gpu_milli = 2 * WHOLE_GPU;
        for sim in &mut sims {
            sim.hello(&mut bench).unwrap();
        }
        let beat_at = bench.now;
        let mut world = Self { bench, sims, ends: BTreeMap::new(), beat_at };
        world.settle();
        world
    }

    /// Carries commands and reports until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            for (worker, command) in std::mem::take(&mut self.bench.sent) {
                self.sims
                    .iter_mut()
                    .filter(|sim| sim.key == worker)
                    .for_each(|sim| sim.inbox.push_back(command.clone()));
            }
            for sim in &mut self.sims {
                while !sim.inbox.is_empty() {
                    sim.obey();
                }
            }
            let events: Vec<_> = self.sims.iter_mut().flat_map(|sim| std::iter::from_fn(|| sim.next_event())).collect();
            if events.is_empty() && self.bench.sent.is_empty() {
                break;
            }
            for event in events {
                self.bench.tell(event).unwrap();
            }
        }
        for (name, (token, _)) in self.sims.iter().flat_map(|sim| &sim.running) {
            // From 20 to 419 ms, whatever the order in which they begin.
            let lasts = 20 + u64::from(token.index) * 7_919 % 400;
            self.ends.entry(name.clone()).or_insert(self.bench.now + lasts);
        }
    }

    /// Lets time pass to the next end of an attempt or the next heartbeat; says how much.
    fn pass(&mut self) -> u64 {
        let before = self.bench.now;
        let next_end = self.ends.values().copied().min().unwrap_or(u64::MAX);
        self.bench.now = next_end.min(self.beat_at);
        if self.bench.now == self.beat_at {
            self.beat_at += LEASE / 3;
            let now = self.bench.now;
            self.sims.iter_mut().for_each(|sim| sim.beat(now));
        }
        let over: Vec<String> =
            self.ends.iter().filter(|(_, at)| **at <= self.bench.now).map(|(name, _)| name.clone()).collect();
        for name in over {
            self.ends.remove(&name);
            for sim in &mut self.sims {
                if let Some((token, _)) = sim.running.get(&name).cloned() {
                    sim.end(token, success("x"));
                }
            }
        }
        self.settle();
        self.bench.now - before
    }
}

fn tasks(name: &str, count: u32, needs: &Resources) -> Vec<BoundTask> {
    (0..count)
        .map(|number| {
            let mut made = task(&format!("{name}-{number}"), &[]);
            made.resources.amounts = needs.clone();
            // Between one core and four.
            made.resources.amounts.cpu_milli = CORE + number % 4 * CORE;
            if needs.gpu_milli > 0 {
                made.resources.gpu = GpuPreference::Require;
            }
            made
        })
        .collect()
}

#[test]
fn gpus_are_idle_for_less_than_a_twentieth_of_the_time_in_which_work_waits_for_them() {
    let mut world = World::new();
    // Other work is there first, and has taken every core.
    world.bench.submit(1, tasks("cores", 1_500, &Resources::default()));
    world.settle();
    assert!(world.sims.iter().all(|sim| sim.used().cpu_milli > 4 * CORE), "the fleet is full of other work");
    let gpu = Resources { gpu_milli: WHOLE_GPU, ..Resources::default() };
    let run = world.bench.submit(2, tasks("gpu", 300, &gpu));
    world.settle();
    let (mut idle, mut all, mut elsewhere) = (0, 0, 0);
    loop {
        let waiting = (0..300).any(|index| *world.bench.state(&run, index) == TaskState::Ready);
        if !waiting {
            break;
        }
        let used = world.sims[0].used().gpu_milli;
        let busy_cores = world.sims[1].used().cpu_milli + world.sims[2].used().cpu_milli;
        let passed = world.pass();
        idle += u64::from(2 * WHOLE_GPU - used) * passed;
        all += u64::from(2 * WHOLE_GPU) * passed;
        elsewhere += u64::from(busy_cores) * passed;
    }
    assert!(all > u64::from(WHOLE_GPU) * 30_000, "the load must last: {all}");
    assert!(idle * 20 < all, "idle for {idle} of {all}");
    assert!(elsewhere * 2 > all * 7, "the other workers went on with the other work: {elsewhere} of {}", all * 8);
}
