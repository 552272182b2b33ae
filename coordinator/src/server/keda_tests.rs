#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use segue_proto::resources::Resources;

use super::*;
use crate::core::fleet::Depth;

fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn trigger(pairs: &[(&str, &str)]) -> Trigger {
    Trigger::parse(&metadata(pairs)).unwrap()
}

fn class(operator: Option<&str>, gpu: GpuPreference) -> Class {
    let amounts = Resources {
        cpu_milli: 1_000,
        gpu_milli: 1_000 * u32::from(gpu == GpuPreference::Require),
        ..Resources::default()
    };
    Class { operator: operator.map(str::to_owned), gpu, amounts, labels: BTreeMap::new() }
}

fn queue(classes: impl IntoIterator<Item = (Class, u64, u64)>) -> QueueSummary {
    let depth = |(class, waiting, running)| (class, Depth { waiting, running, ..Depth::default() });
    QueueSummary { classes: classes.into_iter().map(depth).collect(), capacities: Vec::new() }
}

#[test]
fn work_without_gpus_never_activates_the_gpu_scaler() {
    let queue = queue([
        (class(Some("retail.rfm"), GpuPreference::None), 500, 20),
        (class(None, GpuPreference::None), 7, 0),
        (class(Some("text.embed"), GpuPreference::Prefer), 3, 1),
    ]);
    for gpu in [trigger(&[("class", "gpu")]), trigger(&[("class", "gpu"), ("prefer", "false")])] {
        assert_eq!(gpu.demand(&queue), Demand::default());
        assert!(!gpu.demand(&queue).is_active());
    }
    let willing = trigger(&[("class", "gpu"), ("prefer", "true")]);
    assert_eq!(willing.demand(&queue), Demand { waiting: 3, running: 1 }, "only what prefers a GPU, where it is said");
}

#[test]
fn a_preference_is_work_of_the_cpu_scaler_unless_the_gpu_scaler_takes_it() {
    let queue = queue([
        (class(None, GpuPreference::None), 2, 1),
        (class(None, GpuPreference::Prefer), 4, 0),
        (class(None, GpuPreference::Require), 8, 8),
    ]);
    assert_eq!(trigger(&[("class", "cpu")]).demand(&queue), Demand { waiting: 6, running: 1 });
    assert_eq!(trigger(&[("class", "cpu"), ("prefer", "false")]).demand(&queue), Demand { waiting: 2, running: 1 });
    assert_eq!(trigger(&[("class", "gpu")]).demand(&queue), Demand { waiting: 8, running: 8 });
}

#[test]
fn a_worker_that_works_is_still_wanted() {
    let gpu = trigger(&[("class", "gpu")]);
    let demand = gpu.demand(&queue([(class(None, GpuPreference::Require), 0, 1)]));
    assert!(demand.is_active());
    assert_eq!(demand.total(), 1);
    assert!(!gpu.demand(&queue([(class(None, GpuPreference::Require), 0, 0)])).is_active());
}

#[test]
fn what_waits_for_a_pool_or_a_limit_wants_no_worker() {
    let mut queue = queue([(class(None, GpuPreference::Require), 0, 0)]);
    queue.classes.values_mut().for_each(|depth| depth.held = 50);
    assert!(!trigger(&[("class", "gpu")]).demand(&queue).is_active());
}

#[test]
fn a_class_may_be_an_operator_commands_or_labels() {
    let mut zoned = class(Some("core.sleep"), GpuPreference::None);
    zoned.labels = metadata(&[("zone", "b"), ("disk", "fast")]);
    let queue = queue([
        (class(Some("text.embed"), GpuPreference::Prefer), 1, 0),
        (class(None, GpuPreference::None), 10, 0),
        (zoned, 100, 0),
    ]);
    let waiting = |class: &str| trigger(&[("class", class)]).demand(&queue).waiting;
    assert_eq!(waiting("operator=text.embed"), 1);
    assert_eq!(waiting("operator=text.similar"), 0);
    assert_eq!(waiting("command"), 10);
    assert_eq!(waiting("label.zone=b"), 100);
    assert_eq!(waiting("label.zone=b, label.disk=fast"), 100);
    assert_eq!(waiting("label.zone=b,label.disk=slow"), 0);
}

#[test]
fn metadata_that_makes_no_sense_is_answered_with_the_fix() {
    for (pairs, words) in [
        (&[][..], "has no `class`"),
        (&[("class", "GPU")], "write one such as gpu"),
        (&[("class", "operator=")], "operator=NAME"),
        (&[("class", "label.zone")], "label.NAME=VALUE"),
        (&[("class", "label.=b")], "label.NAME=VALUE"),
        (&[("class", "gpu"), ("prefer", "yes")], "\"true\" or \"false\""),
        (&[("class", "command"), ("prefer", "true")], "leave it out"),
        (&[("class", "gpu"), ("tasksPerWorker", "0")], "above 0"),
        (&[("class", "gpu"), ("tasksPerWorker", "NaN")], "above 0"),
        (&[("class", "gpu"), ("tasksPerWorker", "many")], "above 0"),
        (&[("class", "gpu"), ("taskPerWorker", "4")], "did you mean `tasksPerWorker`?"),
        (&[("Class", "gpu")], "did you mean `class`?"),
    ] {
        let said = Trigger::parse(&metadata(pairs)).unwrap_err().to_string();
        assert!(said.contains(words), "{pairs:?}: {said}");
    }
    // What KEDA itself puts there is not ours to judge.
    trigger(&[("class", "gpu"), ("scalerAddress", "segue:7400"), ("enableTLS", "true"), ("unsafeSsl", "false")]);
}

#[test]
fn a_worker_is_believed_to_take_what_was_told_or_what_its_slots_say() {
    let mut some = queue([(class(None, GpuPreference::None), 9, 0)]);
    some.capacities = vec![
        Resources { cpu_milli: 4_000, ..Resources::default() },
        Resources { cpu_milli: 16_000, gpu_milli: 2_000, ..Resources::default() },
    ];
    assert!((trigger(&[("class", "cpu"), ("tasksPerWorker", "2.5")]).per_worker(&some) - 2.5).abs() < 1e-9);
    let slots = |class: &str, queue: &QueueSummary| trigger(&[("class", class)]).per_worker(queue) as u32;
    assert_eq!(slots("cpu", &some), 4, "a core each, where nothing says how much the tasks take");
    assert_eq!(slots("gpu", &some), 2, "a GPU each");
    some.classes.values_mut().for_each(|depth| depth.per_worker = Some(3));
    assert_eq!(slots("cpu", &some), 3);
    assert_eq!(slots("gpu", &QueueSummary::default()), 1, "nothing is known before the first worker");
}

#[test]
fn the_name_of_a_metric_is_plain_and_of_the_class_alone() {
    assert_eq!(trigger(&[("class", "gpu"), ("prefer", "true")]).metric(), "segue-gpu");
    assert_eq!(trigger(&[("class", "operator=text.embed")]).metric(), "segue-operator-text-embed");
    assert_eq!(trigger(&[("class", "label.zone=B_1")]).metric(), "segue-label-zone-b-1");
}

proptest! {
    #[test]
    fn no_metadata_makes_the_reader_panic(class: String, per: String, key: String, value: String) {
        let mut given = metadata(&[("class", &class), ("tasksPerWorker", &per)]);
        let _ = Trigger::parse(&given);
        given.insert(key, value);
        if let Err(e) = Trigger::parse(&given) {
            prop_assert!(e.to_string().len() < 1_000);
        }
    }

    #[test]
    fn every_task_is_work_of_exactly_one_of_the_gpu_and_the_cpu_scaler(waiting: [u16; 3], running: [u16; 3], to_gpu: bool) {
        let preferences = [GpuPreference::None, GpuPreference::Prefer, GpuPreference::Require];
        let queue = queue((0..3).map(|n| (class(None, preferences[n]), u64::from(waiting[n]), u64::from(running[n]))));
        let prefer = |on: bool| if on { "true" } else { "false" };
        let gpu = trigger(&[("class", "gpu"), ("prefer", prefer(to_gpu))]).demand(&queue);
        let cpu = trigger(&[("class", "cpu"), ("prefer", prefer(!to_gpu))]).demand(&queue);
        let all: u64 = waiting.iter().chain(&running).map(|n| u64::from(*n)).sum();
        prop_assert_eq!(gpu.total() + cpu.total(), all);
    }
}
