//! Cordons, labels and pools; why workers are idle; how deep the queue is.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    ids::{PoolName, RunId, WorkerName},
    resources::GpuPreference,
};

use super::support::{Bench, LEASE, failure, key, success, task};
use crate::{
    core::{
        Command, Event, Record, Refused, TaskState, Verdict,
        explain::{Reason, explain},
        fleet::{Class, Depth, Settings},
    },
    spec::BoundTask,
};

fn name(name: &str) -> WorkerName {
    name.parse().unwrap()
}

fn cordon(bench: &mut Bench, worker: &str, on: bool) -> Result<Verdict, Refused> {
    bench.tell(Event::Cordon { worker: name(worker), on })
}

fn label(bench: &mut Bench, worker: &str, set: &[(&str, &str)], remove: &[&str]) -> Result<Verdict, Refused> {
    bench.tell(Event::Label { worker: name(worker), set: labels(set), remove: words(remove) })
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn gpu(name: &str, preference: GpuPreference) -> BoundTask {
    let mut task = task(name, &[]);
    task.resources.gpu = preference;
    task.resources.amounts.gpu_milli = 1_000 * u32::from(preference == GpuPreference::Require);
    task
}

fn why(bench: &Bench, run: &RunId, task: u32) -> Reason {
    explain(&bench.core, bench.core.run(run).unwrap(), task).expect("it waits")
}

fn idle(bench: &Bench, worker: &str) -> Option<&'static str> {
    let worker = bench.core.workers().find(|known| known.key.name.as_str() == worker).unwrap();
    bench.core.idle(worker).map(|idle| idle.code())
}

/// Starts a coordinator anew with what the last event left in the store.
fn restarted(records: &[Record]) -> Bench {
    let mut after = Bench::with_epoch(2);
    for record in records {
        match record.clone() {
            Record::Worker { name, settings } if !settings.is_empty() => after.core.restore_settings(name, settings),
            Record::Pool { name, slots: Some(slots), description } => after.core.restore_pool(name, slots, description),
            _ => {}
        }
    }
    after
}

#[test]
fn a_cordoned_worker_keeps_what_it_has_and_gets_nothing_new() {
    let mut bench = Bench::new();
    bench.worker("w", 2);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0])]);
    bench.start(&run, 0);
    cordon(&mut bench, "w", true).unwrap();
    let held = bench.token(&run, 0);
    assert!(!bench.sent.iter().any(|(_, command)| matches!(command, Command::Drain | Command::Cancel { .. })));
    bench.finish(&run, 0, success("a"));
    assert_eq!(*bench.state(&run, 1), TaskState::Ready, "`{held}` was its last");
    let reason = why(&bench, &run, 1);
    assert_eq!(
        (reason.code, reason.hint.as_str()),
        ("workers_cordoned", "give one work again: segue workers uncordon w")
    );
    cordon(&mut bench, "w", false).unwrap();
    assert_eq!(bench.holder(&run, 1).name.as_str(), "w", "placed in the same turn");
}

#[test]
fn a_cordon_outlives_links_new_starts_and_the_coordinator() {
    let mut bench = Bench::new();
    let worker = bench.hello("w", "a", 1, 0, vec![]);
    cordon(&mut bench, "w", true).unwrap();
    let records = bench.last.records.clone();
    assert_eq!(
        records,
        [Record::Worker { name: name("w"), settings: Settings { cordoned: true, ..Settings::default() } }]
    );
    bench.tell(Event::LinkClosed { worker, link: 1 }).unwrap();
    assert_eq!(bench.core.workers().count(), 0, "gone and forgotten");
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.hello("w", "b", 1, 0, vec![]);
    assert_eq!(*bench.state(&run, 0), TaskState::Ready);

    let mut after = restarted(&records);
    after.hello("w", "b", 1, 0, vec![]);
    let run = after.submit(2, vec![task("a", &[])]);
    assert_eq!(*after.state(&run, 0), TaskState::Ready);
    cordon(&mut after, "w", false).unwrap();
    assert_eq!(after.last.records, [Record::Worker { name: name("w"), settings: Settings::default() }]);
    assert!(matches!(after.state(&run, 0), TaskState::Live(_)));
}

#[test]
fn nothing_is_written_for_a_cordon_that_changes_nothing_and_an_unknown_name_is_a_slip() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    cordon(&mut bench, "w", false).unwrap();
    assert!(bench.last.records.is_empty());
    cordon(&mut bench, "w", true).unwrap();
    cordon(&mut bench, "w", true).unwrap();
    assert!(bench.last.records.is_empty());
    assert_eq!(cordon(&mut bench, "v", true), Err(Refused::NoSuchWorker(name("v"))));
    assert_eq!(label(&mut bench, "v", &[("a", "b")], &[]), Err(Refused::NoSuchWorker(name("v"))));
    // A name for which something is set is known, connected or not.
    bench.tell(Event::LinkClosed { worker: key("w", "a"), link: 1 }).unwrap();
    cordon(&mut bench, "w", false).unwrap();
    assert_eq!(cordon(&mut bench, "w", true), Err(Refused::NoSuchWorker(name("w"))));
}

#[test]
fn a_label_that_is_set_live_lets_the_waiting_task_run_at_once() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let mut zoned = task("a", &[]);
    zoned.resources.labels = labels(&[("zone", "b")]);
    let run = bench.submit(1, vec![zoned]);
    assert_eq!(why(&bench, &run, 0).code, "no_labels");
    label(&mut bench, "w", &[("zone", "b")], &[]).unwrap();
    assert_eq!(bench.holder(&run, 0).name.as_str(), "w");
    // Taking it away ends nothing that runs.
    label(&mut bench, "w", &[], &["zone"]).unwrap();
    assert!(matches!(bench.state(&run, 0), TaskState::Live(_)));
    assert_eq!(bench.last.records, [Record::Worker { name: name("w"), settings: Settings::default() }]);
}

#[test]
fn labels_that_were_set_lie_over_those_of_the_hello_and_can_hide_them() {
    let mut bench = Bench::new();
    let hello = |bench: &mut Bench, incarnation: &str| {
        let mut worker = crate::core::Worker::awaited(key("w", incarnation));
        worker.link = Some(100);
        worker.labels = labels(&[("zone", "a"), ("disk", "fast")]);
        bench.tell(Event::Hello { worker: Box::new(worker), held: vec![] }).unwrap();
    };
    let shown = |bench: &Bench| {
        let worker = bench.core.workers().find(|worker| worker.link.is_some()).unwrap();
        (worker.labels.clone(), worker.own_labels.clone())
    };
    hello(&mut bench, "a");
    label(&mut bench, "w", &[("zone", "b"), ("team", "x")], &["disk", "absent"]).unwrap();
    let own = labels(&[("zone", "a"), ("disk", "fast")]);
    assert_eq!(shown(&bench), (labels(&[("zone", "b"), ("team", "x")]), own.clone()));
    let records = bench.last.records.clone();
    hello(&mut bench, "b");
    assert_eq!(shown(&bench).0, labels(&[("zone", "b"), ("team", "x")]), "a new start of the worker");

    let mut after = restarted(&records);
    hello(&mut after, "b");
    assert_eq!(shown(&after), (labels(&[("zone", "b"), ("team", "x")]), own.clone()), "and of the coordinator");
    label(&mut after, "w", &[("disk", "slow")], &["team"]).unwrap();
    assert_eq!(shown(&after).0, labels(&[("zone", "b"), ("disk", "slow")]));
    // While it is away, what was set is taken back, and its own labels count again.
    after.tell(Event::LinkClosed { worker: key("w", "b"), link: 100 }).unwrap();
    label(&mut after, "w", &[], &["zone", "disk"]).unwrap();
    assert_eq!(after.last.records, [Record::Worker { name: name("w"), settings: Settings::default() }]);
    hello(&mut after, "b");
    assert_eq!(shown(&after).0, own);
}

#[test]
fn a_worker_bears_only_so_many_labels_of_people() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let many: BTreeMap<String, String> = (0..65).map(|n| (format!("l{n}"), String::new())).collect();
    let refused = bench.tell(Event::Label { worker: name("w"), set: many, remove: BTreeSet::new() });
    assert_eq!(refused, Err(Refused::TooManyLabels(name("w"))));
    assert!(bench.core.settings().is_empty() && bench.last.records.is_empty());
}

#[test]
fn a_drain_that_the_worker_never_heard_is_said_again_when_it_comes_back() {
    let mut bench = Bench::new();
    let worker = bench.hello("w", "a", 1, 0, vec![]);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    bench.tell(Event::LinkClosed { worker: worker.clone(), link: 1 }).unwrap();
    bench.tell(Event::Drain { worker: name("w") }).unwrap();
    assert!(!bench.sent.contains(&(worker.clone(), Command::Drain)), "there was no link");
    let held = crate::core::Held { token: bench.token(&run, 0), started: true };
    bench.hello("w", "a", 1, 0, vec![held]);
    let sent: Vec<&Command> = bench.sent.iter().map(|(_, command)| command).collect();
    let welcome = sent.iter().rposition(|command| matches!(command, Command::Welcome { .. }));
    let drain = sent.iter().rposition(|command| matches!(command, Command::Drain));
    assert!(drain > welcome, "before the welcome a command means nothing: {sent:?}");
}

#[test]
fn an_idle_worker_says_why_by_code() {
    let mut bench = Bench::new();
    bench.hello("cpu", "a", 1, 0, vec![]);
    bench.hello("gpu", "a", 8, 1, vec![]);
    assert_eq!((idle(&bench, "cpu"), idle(&bench, "gpu")), (Some("no_work"), Some("no_work")));
    // GPU work to come keeps the GPU worker free of the rest.
    let mut later = gpu("later", GpuPreference::Require);
    later.after = vec![0];
    let run = bench.submit(1, vec![task("a", &[]), later, task("b", &[])]);
    assert_eq!((idle(&bench, "cpu"), idle(&bench, "gpu")), (None, Some("kept_for_gpu")));
    assert_eq!(why(&bench, &run, 2).code, "workers_busy");
    cordon(&mut bench, "gpu", true).unwrap();
    assert_eq!(idle(&bench, "gpu"), Some("cordoned"));
    bench.tell(Event::Drain { worker: name("gpu") }).unwrap();
    assert_eq!(idle(&bench, "gpu"), Some("draining"));

    let mut bench = Bench::new();
    bench.worker("small", 1);
    let mut large = task("large", &[]);
    large.resources.amounts.cpu_milli = 2_000;
    bench.submit(1, vec![large]);
    assert_eq!(idle(&bench, "small"), Some("nothing_fits"));
}

#[test]
fn a_task_names_the_workers_that_are_held_back_only_where_no_other_could_take_it() {
    let mut bench = Bench::new();
    bench.hello("gpu", "a", 1, 1, vec![]);
    bench.worker("cpu", 1);
    cordon(&mut bench, "gpu", true).unwrap();
    let run = bench.submit(1, vec![gpu("a", GpuPreference::Require), task("b", &[]), task("c", &[])]);
    let reason = why(&bench, &run, 0);
    assert_eq!(reason.code, "workers_cordoned");
    assert!(reason.text.contains("gpu (cordoned)"), "{}", reason.text);
    assert_eq!(why(&bench, &run, 2).code, "workers_busy", "another one could take it later");
    bench.tell(Event::Drain { worker: name("gpu") }).unwrap();
    assert_eq!(why(&bench, &run, 0).code, "workers_draining");
}

#[test]
fn the_queue_is_summed_up_by_what_tasks_want() {
    let mut bench = Bench::new();
    let embed = |name: &str| {
        let mut embed = gpu(name, GpuPreference::Require);
        embed.resources.labels = labels(&[("zone", "b")]);
        embed
    };
    let tasks = vec![task("a", &[]), task("b", &[]), task("c", &[]), embed("d"), embed("e"), task("later", &[0])];
    let run = bench.submit(1, tasks.clone());
    bench.now += 500;
    bench.hello("w", "a", 2, 0, vec![]);
    let class = |task: &BoundTask| Class::of(&task.work, &task.resources);
    let (plain, wants_gpu) = (class(&tasks[0]), class(&tasks[3]));
    let summary = |bench: &Bench| {
        let mut queue = bench.core.queue_summary();
        bench.core.add_waits(&mut queue);
        bench.core.add_slots(&mut queue);
        queue
    };
    let queue = summary(&bench);
    assert_eq!(queue.classes.len(), 2, "what waits for others is not in the queue");
    assert_eq!(
        queue.classes[&plain],
        Depth { waiting: 1, held: 0, running: 2, waiting_since: Some(10_000), per_worker: Some(2) }
    );
    assert_eq!(
        queue.classes[&wants_gpu],
        Depth { waiting: 2, held: 0, running: 0, waiting_since: Some(10_000), per_worker: None }
    );
    assert_eq!(queue.capacities.len(), 1);
    // A task that is tried again waits anew, not since the beginning.
    bench.finish(&run, 0, failure(segue_proto::failure::FailureClass::Infra));
    bench.pass(100);
    assert_eq!(summary(&bench).classes[&plain].waiting_since, Some(10_600));
    bench.tell(Event::CancelRun { run, gently: false, why: String::new() }).unwrap();
    let queue = summary(&bench);
    assert!(!queue.classes.contains_key(&wants_gpu), "nothing of it waits any more");
    assert_eq!(queue.classes[&plain].waiting, 0);
}

#[test]
fn what_ends_is_counted_by_outcome() {
    use segue_proto::failure::FailureClass::{Infra, Oom};
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.finish(&run, 0, failure(Infra));
    bench.pass(100);
    bench.start(&run, 0);
    bench.pass(LEASE);
    bench.beat(&worker, vec![]);
    let tally = bench.core.tally().clone();
    assert_eq!((tally.retries, tally.leases_lost), (1, 1), "two tries in all");
    assert_eq!(tally.attempts, BTreeMap::from([(("failed", "infra"), 1), (("lost", "lost"), 1)]));
    assert_eq!(tally.runs, BTreeMap::from([("failed", 1)]));
    let run = bench.submit(2, vec![task("a", &[]), task("b", &[])]);
    bench.finish(&run, 0, success("a"));
    bench.finish(&run, 1, failure(Oom));
    let tally = bench.core.tally();
    assert_eq!((tally.attempts[&("succeeded", "")], tally.attempts[&("failed", "oom")]), (1, 1));
    assert_eq!(tally.runs["failed"], 2);
}

#[test]
fn a_pool_is_made_changed_and_deleted_and_outlives_the_coordinator() {
    let mut bench = Bench::new();
    let pool: PoolName = "crm-api".parse().unwrap();
    let set = |slots, description: Option<&str>| Event::SetPool {
        name: "crm-api".parse().unwrap(),
        slots,
        description: description.map(str::to_owned),
    };
    assert_eq!(bench.tell(set(None, None)), Err(Refused::NoSuchPool(pool.clone())));
    bench.tell(set(Some(3), Some("calls to the CRM"))).unwrap();
    bench.tell(set(Some(0), None)).unwrap();
    let kept = Record::Pool { name: pool.clone(), slots: Some(0), description: "calls to the CRM".into() };
    assert_eq!(bench.last.records, std::slice::from_ref(&kept), "without a description the old one stays");
    let mut after = restarted(&[kept]);
    assert_eq!(after.core.pools(), &BTreeMap::from([(pool.to_string(), 0)]));
    assert_eq!(after.core.pool_description("crm-api"), "calls to the CRM");
    after.tell(set(Some(1), Some(""))).unwrap();
    assert_eq!(after.core.pool_description("crm-api"), "");
    after.tell(set(None, None)).unwrap();
    assert_eq!(after.last.records, [Record::Pool { name: pool, slots: None, description: String::new() }]);
    assert!(after.core.pools().is_empty());
}

#[test]
fn a_pool_says_who_holds_it_and_who_waits_and_is_not_deleted_under_them() {
    let mut bench = Bench::new();
    bench.worker("w", 8);
    let set = |slots| Event::SetPool { name: "db".parse().unwrap(), slots, description: None };
    bench.tell(set(Some(3))).unwrap();
    let tasks = ["a", "b", "c"].map(|name| {
        let mut task = task(name, &[]);
        task.flow.pools = BTreeMap::from([("db".to_owned(), 2)]);
        task
    });
    let class = Class::of(&tasks[0].work, &tasks[0].resources);
    let run = bench.submit(1, tasks.to_vec());
    assert_eq!(bench.core.pool_use("db"), [(run, 0, 2)]);
    assert_eq!(bench.core.pool_waits("db", 1), (vec![(run, 1, 2)], 2));
    let depth = bench.core.queue_summary().classes[&class].clone();
    assert_eq!((depth.waiting, depth.held, depth.running), (0, 2, 1), "no further worker would begin them");
    assert_eq!(bench.core.workers().map(|worker| bench.core.idle(worker)).collect::<Vec<_>>(), [None]);
    bench.worker("idle", 1);
    assert_eq!(idle(&bench, "idle"), Some("no_work"), "what waits for a pool waits for no worker");
    assert_eq!(bench.tell(set(None)), Err(Refused::PoolInUse { pool: "db".parse().unwrap(), tasks: 3 }));
    // One more slot is enough for one more task.
    bench.tell(set(Some(4))).unwrap();
    assert_eq!(bench.core.pool_use("db").len(), 2);
    bench.finish(&run, 0, success("a"));
    bench.finish(&run, 1, success("b"));
    bench.finish(&run, 2, success("c"));
    bench.tell(set(None)).unwrap();
}

#[test]
fn slots_that_classes_share_are_counted_once_for_those_that_come_first() {
    let mut bench = Bench::new();
    for (pool, slots) in [("db", 5), ("crm", 100)] {
        bench.tell(Event::SetPool { name: pool.parse().unwrap(), slots: Some(slots), description: None }).unwrap();
    }
    let of = |name: &str, cpu: u32, pools: &[(&str, u32)]| {
        let mut task = task(name, &[]);
        task.resources.amounts.cpu_milli = cpu * 1_000;
        task.flow.pools = pools.iter().map(|(name, slots)| ((*name).to_owned(), *slots)).collect();
        task
    };
    // Ten classes of ten tasks each want the five slots of one pool; that of the largest priority goes first.
    let tasks: Vec<BoundTask> = (1..=10)
        .flat_map(|cpu| (0..10).map(move |n| (cpu, n)))
        .map(|(cpu, n)| {
            let mut task = of(&format!("t{cpu}-{n}"), cpu, &[("db", 1), ("crm", 1)]);
            task.priority = if cpu == 7 { 1 } else { 0 };
            task
        })
        .collect();
    let seventh = Class::of(&tasks[60].work, &tasks[60].resources);
    let run = bench.submit(1, tasks);
    let queue = bench.core.queue_summary();
    let total = |count: fn(&Depth) -> u64| queue.classes.values().map(count).sum::<u64>();
    assert_eq!((total(|depth| depth.waiting), total(|depth| depth.held)), (5, 95));
    assert_eq!(queue.classes[&seventh].waiting, 5);
    bench.cancel(&run);

    // A limit is shared in the same way, and a class that takes two slots leaves the odd one to the next.
    let limited = |mut task: BoundTask, max: u32| {
        task.flow.limit = Some(crate::spec::Limit { key: "k".into(), max });
        task
    };
    let two = |name: &str| limited(of(name, 1, &[("db", 2)]), 3);
    let one = |name: &str| limited(of(name, 2, &[("db", 1)]), 3);
    bench.submit(2, vec![two("a"), two("b"), two("c"), one("d"), one("e"), one("f")]);
    let queue = bench.core.queue_summary();
    let counts: Vec<_> = queue.classes.values().map(|depth| (depth.waiting, depth.held)).collect();
    assert_eq!(counts, [(2, 1), (1, 2)], "two of two slots and one of one, which is all that pool and limit let in");
}

#[test]
fn a_gpu_that_a_task_can_do_without_is_a_preference() {
    let mut either = gpu("a", GpuPreference::Require);
    assert_eq!(Class::of(&either.work, &either.resources).gpu, GpuPreference::Require);
    either.resources.alternatives.push(segue_proto::resources::Resources { cpu_milli: 8_000, ..Default::default() });
    assert_eq!(Class::of(&either.work, &either.resources).gpu, GpuPreference::Prefer);
}
