//! Placement: properties over generated workers and tasks, and named cases.

use std::collections::BTreeMap;

use proptest::prelude::*;
use segue_proto::resources::{Gpu, GpuPreference, Resources};

use super::support::{Bench, each, key, success, task};
use crate::{
    core::{
        TaskState, WorkerKey,
        placement::{Candidate, Free, Unplaced, choose, idle},
    },
    spec::{Limit, ResourceRequest},
};

fn amounts(cpu: u32, gpu: u32) -> Resources {
    Resources { cpu_milli: cpu * 1_000, gpu_milli: gpu * 1_000, ..Resources::default() }
}

#[derive(Debug)]
struct Fleet(Vec<(WorkerKey, Resources, Resources)>);

impl Fleet {
    /// Chooses for a request; gives the worker and what is reserved.
    fn choose(&self, request: &ResourceRequest, gpu_open: bool) -> Result<(WorkerKey, Resources), Unplaced> {
        let labels = BTreeMap::new();
        let gpus: Vec<Vec<Gpu>> = self
            .0
            .iter()
            .map(|(_, capacity, _)| {
                (0..capacity.gpu_milli / 1_000)
                    .map(|index| Gpu { index, memory_bytes: 1 << 30, name: String::new() })
                    .collect()
            })
            .collect();
        let candidates: Vec<Candidate<'_>> = self
            .0
            .iter()
            .zip(&gpus)
            .map(|((key, capacity, _), gpus)| Candidate { key, capacity, gpus, labels: &labels, offers: true })
            .collect();
        let free: Vec<Free> = self
            .0
            .iter()
            .zip(&gpus)
            .map(|((_, _, free), gpus)| {
                let mut devices = idle(gpus);
                devices.truncate((free.gpu_milli / 1_000) as usize);
                Free { amounts: free.clone(), devices }
            })
            .collect();
        let (at, reserved) = choose(request, &candidates, &free, gpu_open)?;
        Ok((candidates[at].key.clone(), reserved))
    }

    fn turned(&self) -> Self {
        Self(self.0.iter().rev().cloned().collect())
    }
}

fn request(cpu: u32, gpu: GpuPreference) -> ResourceRequest {
    let needed = u32::from(gpu == GpuPreference::Require);
    ResourceRequest { amounts: amounts(cpu, needed), gpu, ..ResourceRequest::default() }
}

fn fleets() -> impl Strategy<Value = Fleet> {
    prop::collection::vec((1_u32..8, 0_u32..3, 0_u32..8, 0_u32..3), 0..6).prop_map(|workers| {
        Fleet(
            workers
                .into_iter()
                .enumerate()
                .map(|(n, (cpu, gpu, used_cpu, used_gpu))| {
                    let free = amounts(cpu.saturating_sub(used_cpu), gpu.saturating_sub(used_gpu));
                    (key(&format!("w{n}"), "a"), amounts(cpu, gpu), free)
                })
                .collect(),
        )
    })
}

fn preferences() -> impl Strategy<Value = GpuPreference> {
    prop_oneof![Just(GpuPreference::None), Just(GpuPreference::Prefer), Just(GpuPreference::Require)]
}

proptest! {
    #[test]
    fn a_choice_fits_what_is_free_and_equal_input_gives_the_equal_choice(
        fleet in fleets(), cpu in 1_u32..8, gpu in preferences(), gpu_open: bool,
    ) {
        let request = request(cpu, gpu);
        let first = fleet.choose(&request, gpu_open);
        if let Ok((worker, reserved)) = &first {
            let (_, _, free) = fleet.0.iter().find(|(key, ..)| key == worker).unwrap();
            prop_assert!(free.fits(reserved));
            prop_assert!(reserved.fits(&request.amounts), "what is reserved covers what was asked for");
        }
        prop_assert_eq!(first, fleet.turned().choose(&request, gpu_open), "the order of workers does not matter");
    }

    #[test]
    fn nothing_stays_unplaced_that_would_still_fit(fleet in fleets(), cpu in 1_u32..8) {
            let request = request(cpu, GpuPreference::None);
        let chosen = fleet.choose(&request, false);
        let fits = fleet.0.iter().any(|(_, _, free)| free.fits(&request.amounts));
        prop_assert_eq!(chosen.is_ok(), fits);
    }

    #[test]
    fn planning_again_after_the_plan_was_applied_places_nothing(
        cpus in prop::collection::vec(1_u32..5, 1..5), wants in prop::collection::vec(1_u32..5, 1..20),
    ) {
        let mut bench = Bench::new();
        for (n, cpu) in cpus.iter().enumerate() {
            bench.worker(&format!("w{n}"), *cpu);
        }
        let tasks = wants.iter().enumerate().map(|(n, cpu)| {
            let mut task = task(&format!("t{n}"), &[]);
            task.resources.amounts.cpu_milli = cpu * 1_000;
            task
        }).collect();
        let run = bench.submit(1, tasks);
        let placed = bench.assigned().len();
        bench.core.stirred = true;
        bench.pass(0);
        prop_assert_eq!(bench.assigned().len(), placed);
        // Work-conserving: a task that waits fits nowhere.
        for (n, want) in wants.iter().enumerate() {
            if *bench.state(&run, n as u32) == TaskState::Ready {
                let fits = bench.core.workers().any(|worker| worker.free().amounts.cpu_milli >= want * 1_000);
                prop_assert!(!fits);
            }
        }
    }
}

#[test]
fn a_gpu_is_preferred_where_one_is_registered_and_waited_for_when_it_is_busy() {
    let prefer = request(1, GpuPreference::Prefer);
    let idle =
        Fleet(vec![(key("cpu", "a"), amounts(8, 0), amounts(8, 0)), (key("gpu", "a"), amounts(8, 1), amounts(8, 1))]);
    assert_eq!(idle.choose(&prefer, true).unwrap().0.name.as_str(), "gpu");
    let busy =
        Fleet(vec![(key("cpu", "a"), amounts(8, 0), amounts(8, 0)), (key("gpu", "a"), amounts(8, 1), amounts(8, 0))]);
    assert_eq!(busy.choose(&prefer, true), Err(Unplaced::Busy));
    let none = Fleet(vec![(key("cpu", "a"), amounts(8, 0), amounts(8, 0))]);
    assert_eq!(none.choose(&prefer, true).unwrap().0.name.as_str(), "cpu");
}

#[test]
fn work_without_gpus_stays_off_gpu_workers_while_there_is_gpu_work() {
    let plain = request(1, GpuPreference::None);
    let fleet =
        Fleet(vec![(key("cpu", "a"), amounts(1, 0), amounts(0, 0)), (key("gpu", "a"), amounts(8, 1), amounts(8, 1))]);
    assert_eq!(fleet.choose(&plain, true), Err(Unplaced::Busy));
    assert_eq!(fleet.choose(&plain, false).unwrap().0.name.as_str(), "gpu");
    let only_gpu = Fleet(vec![(key("gpu", "a"), amounts(8, 1), amounts(8, 1))]);
    assert_eq!(only_gpu.choose(&plain, true).unwrap().0.name.as_str(), "gpu");
}

#[test]
fn the_tightest_fit_wins_and_ties_go_to_the_smaller_name() {
    let fleet = Fleet(vec![
        (key("b", "a"), amounts(4, 0), amounts(2, 0)),
        (key("a", "a"), amounts(4, 0), amounts(2, 0)),
        (key("c", "a"), amounts(8, 0), amounts(8, 0)),
    ]);
    assert_eq!(fleet.choose(&request(2, GpuPreference::None), false).unwrap().0.name.as_str(), "a");
}

#[test]
fn the_longest_remaining_path_goes_first_and_priority_before_it() {
    let mut bench = Bench::new();
    let mut urgent = task("urgent", &[]);
    urgent.priority = 5;
    bench.submit(1, vec![task("short", &[]), task("long", &[]), task("after", &[1]), urgent]);
    bench.worker("w", 1);
    assert_eq!(bench.assigned(), ["urgent"]);
    let run = super::support::run_id(1);
    bench.finish(&run, 3, success("u"));
    assert_eq!(bench.assigned(), ["urgent", "long"]);
}

#[test]
fn a_turn_that_can_place_nothing_looks_at_nothing_however_many_limits_there_are() {
    let mut bench = Bench::new();
    bench.looks_closely = false;
    let worker = bench.worker("w", 2);
    let items: Vec<String> = (0..2_000).map(|n| format!("host-{n}")).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let mut calls = each("calls", &[], &items);
    calls.flow.limit = Some(Limit { key: "api-${item}".into(), max: 1 });
    let run = bench.submit(1, vec![calls, task("other", &[])]);
    assert_eq!(bench.live(&run).len(), 2);
    assert_eq!(bench.core.queue.ready.len(), 1_999, "a class for each limit");
    let looks = bench.core.looks;
    let tokens: Vec<_> = bench.live(&run).into_iter().map(|task| bench.token(&run, task)).collect();
    for _ in 0..10 {
        bench.beat(&worker, tokens.clone());
        bench.start(&run, tokens[0].index);
        bench.pass(1);
    }
    assert_eq!(bench.core.looks, looks, "nothing changed that a placement depends on");
    let first = bench.live(&run)[0];
    bench.finish(&run, first, success("a"));
    assert_eq!(bench.live(&run).len(), 2, "the room is used in the same turn");
    assert!(bench.core.looks <= looks + 2, "one look for what was placed, one for what comes next in its shape");
}

#[test]
fn a_limit_that_is_full_opens_again_for_the_first_of_those_that_share_it() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let limited = |name: &str, cpu: u32, max: u32| {
        let mut task = task(name, &[]);
        task.resources.amounts.cpu_milli = cpu * 1_000;
        task.flow.limit = Some(Limit { key: "k".into(), max });
        task
    };
    // Three classes share the key; to one of them it lets two go on.
    let run = bench.submit(1, vec![limited("a", 1, 1), limited("b", 2, 1), limited("c", 3, 2), limited("d", 3, 2)]);
    assert_eq!(bench.words(&run, None), ["assigned", "ready", "assigned", "ready"]);
    bench.end(&run, "a", success("a"));
    assert_eq!(bench.words(&run, None), ["succeeded", "ready", "assigned", "assigned"]);
    bench.end(&run, "c", success("c"));
    assert_eq!(bench.words(&run, None), ["succeeded", "ready", "succeeded", "assigned"]);
    bench.end(&run, "d", success("d"));
    assert_eq!(bench.word(&run, "b"), "assigned");
}

#[test]
fn no_work_is_given_ahead_that_would_take_a_gpu_by_one_of_its_ways() {
    let mut bench = Bench::new();
    bench.took_ms = 1;
    bench.hello("gpu", "a", 8, 1, vec![]);
    let either = |name: &str| {
        let mut made = task(name, &[]);
        made.resources.amounts = amounts(64, 0);
        made.resources.alternatives = vec![amounts(1, 1)];
        made
    };
    let run = bench.submit(1, vec![either("a"), either("b"), either("c")]);
    // From now on its class is known to be short.
    bench.finish(&run, 0, success("a"));
    let state = bench.core.run(&run).unwrap();
    let live: Vec<_> = state.tasks.iter().filter_map(|task| task.state.live()).collect();
    assert_eq!(live.len(), 1, "the one GPU is taken, and nothing waits at it without a device");
    assert_eq!((live[0].ahead, live[0].reserved.devices.as_slice()), (false, &[0][..]));
}
