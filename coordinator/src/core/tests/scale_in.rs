//! Fewer workers: properties over generated fleets, and the arrows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use segue_proto::{ids::WorkerName, resources::GpuPreference};

use super::support::{Bench, key, task};
use crate::core::{
    Command, Event, Refused,
    fleet::scale_in::{Choice, Member, Why, choose},
};

const NEEDS: usize = 4;

fn label(zone: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("zone".to_owned(), zone.to_owned())])
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let member =
        (any::<bool>(), prop::bool::weighted(0.9), prop::bool::weighted(0.2), prop::option::of(0_u64..5), 0_u8..16);
    prop::collection::vec(member, 0..8).prop_map(|members| {
        let member =
            |(n, (zone, here, cordoned, busy_since, serves)): (usize, (bool, bool, bool, Option<u64>, u8))| Member {
                key: key(&format!("w{n}"), "a"),
                labels: label(if zone { "a" } else { "b" }),
                here,
                cordoned,
                busy_since,
                serves: (0..NEEDS).filter(|need| serves & (1 << need) != 0).collect(),
            };
        members.into_iter().enumerate().map(member).collect()
    })
}

/// The needs that somebody can serve.
fn served(members: &[Member], gone: &Choice<usize>) -> BTreeSet<usize> {
    members
        .iter()
        .filter(|member| member.here && !member.cordoned)
        .filter(|member| !gone.drain.iter().any(|(key, _)| *key == member.key))
        .flat_map(|member| member.serves.clone())
        .collect()
}

proptest! {
    #[test]
    fn no_more_go_than_were_asked_for_each_once_and_only_with_the_labels(members in members(), count in 0_usize..10) {
        let choice = choose(&members, count, &label("a"));
        prop_assert!(choice.drain.len() <= count);
        let names: BTreeSet<_> = choice.drain.iter().map(|(key, _)| key).collect();
        prop_assert_eq!(names.len(), choice.drain.len());
        for (key, why) in &choice.drain {
            let member = members.iter().find(|member| member.key == *key).unwrap();
            prop_assert!(member.here && member.labels == label("a"));
            prop_assert_eq!(*why == Why::Idle, member.busy_since.is_none());
        }
    }

    #[test]
    fn what_somebody_could_take_before_somebody_can_take_after(members in members(), count in 0_usize..10) {
        let none = Choice { drain: vec![], spared: vec![] };
        let choice = choose(&members, count, &BTreeMap::new());
        prop_assert_eq!(served(&members, &choice), served(&members, &none));
    }

    #[test]
    fn whoever_stays_was_spared_for_a_need_or_was_not_needed_to_go(members in members(), count in 0_usize..10) {
        let choice = choose(&members, count, &BTreeMap::new());
        for member in members.iter().filter(|member| member.here) {
            let gone = choice.drain.iter().any(|(key, _)| *key == member.key);
            let spared = choice.spared.iter().find(|(key, _)| *key == member.key);
            prop_assert!(!(gone && spared.is_some()));
            prop_assert!(gone || spared.is_some() || choice.drain.len() == count);
            if let Some((_, need)) = spared {
                prop_assert!(member.serves.contains(need) && !member.cordoned);
            }
        }
    }

    #[test]
    fn idle_workers_go_before_busy_ones_and_the_youngest_work_before_older(members in members(), count in 0_usize..10) {
        let choice = choose(&members, count, &BTreeMap::new());
        let since = |key: &crate::core::WorkerKey| members.iter().find(|member| member.key == *key).unwrap().busy_since;
        let order: Vec<Option<u64>> = choice.drain.iter().map(|(key, _)| since(key)).collect();
        for pair in order.windows(2) {
            // Idle ones first; then later starts before earlier ones.
            prop_assert!(pair[0].is_none() || (pair[1].is_some() && pair[0] >= pair[1]), "{:?}", order);
        }
        let gone = |member: &&Member| choice.drain.iter().any(|(key, _)| *key == member.key);
        let spared = |member: &&Member| choice.spared.iter().any(|(key, _)| *key == member.key);
        if order.iter().any(Option::is_some) {
            let mut idle = members.iter().filter(|member| member.here && member.busy_since.is_none());
            prop_assert!(idle.all(|member| gone(&member) || spared(&member)), "somebody works who goes while an idle one stays");
        }
    }

    #[test]
    fn equal_fleets_give_equal_choices_and_asking_for_more_only_adds(members in members(), count in 0_usize..8) {
        let choice = choose(&members, count, &BTreeMap::new());
        let mut turned = members.clone();
        turned.reverse();
        prop_assert_eq!(&choose(&turned, count, &BTreeMap::new()), &choice);
        let more = choose(&members, count + 1, &BTreeMap::new());
        prop_assert!(more.drain.starts_with(&choice.drain));
    }
}

fn drained(bench: &Bench) -> Vec<&str> {
    let drains = bench.sent.iter().filter(|(_, command)| *command == Command::Drain);
    drains.map(|(worker, _)| worker.name.as_str()).collect()
}

fn scale_in(bench: &mut Bench, count: usize) -> Choice<String> {
    let choice = bench.core.plan_scale_in(count, &BTreeMap::new());
    let expected = choice.drain.iter().map(|(key, _)| key.clone()).collect();
    bench.tell(Event::ScaleIn { count, labels: BTreeMap::new(), expected }).unwrap();
    choice
}

#[test]
fn the_idle_worker_is_drained_and_the_one_whose_task_nobody_else_could_take_is_spared() {
    let mut bench = Bench::new();
    bench.hello("gpu", "a", 1, 1, vec![]);
    let mut train = task("train", &[]);
    train.resources.gpu = GpuPreference::Require;
    train.resources.amounts.gpu_milli = 1_000;
    let run = bench.submit(1, vec![train]);
    bench.start(&run, 0);
    bench.worker("idle", 1);
    let choice = scale_in(&mut bench, 2);
    assert_eq!(drained(&bench), ["idle"]);
    assert_eq!(choice.drain, [(key("idle", "a"), Why::Idle)]);
    let [(spared, task)] = &choice.spared[..] else { panic!("{choice:?}") };
    assert_eq!(*spared, key("gpu", "a"));
    assert!(task.contains("`train`"), "{task}");
}

#[test]
fn of_busy_workers_the_one_with_the_youngest_work_goes() {
    let mut bench = Bench::new();
    for (n, name) in ["old", "young", "older"].into_iter().enumerate() {
        bench.hello(name, "a", 1, 0, vec![]);
        bench.submit(u32::try_from(n).unwrap(), vec![task("a", &[])]);
        bench.now += if name == "old" { 10 } else { 0 };
    }
    let since = |name: &str| {
        let choice = bench.core.plan_scale_in(2, &BTreeMap::new());
        choice.drain.iter().find(|(key, _)| key.name.as_str() == name).map(|(_, why)| *why)
    };
    // "young" and "older" began at one moment: the smaller name goes first.
    assert_eq!(since("older"), Some(Why::YoungestWork { since: 10_010 }));
    assert_eq!(since("young"), Some(Why::YoungestWork { since: 10_010 }));
    assert_eq!(since("old"), None);
}

#[test]
fn a_choice_that_was_shown_is_made_again_and_refused_if_it_is_another_one_now() {
    let mut bench = Bench::new();
    bench.worker("a", 1);
    bench.worker("b", 1);
    let shown = bench.core.plan_scale_in(1, &BTreeMap::new()).drain[0].0.clone();
    assert_eq!(shown.name, "a".parse::<WorkerName>().unwrap());
    bench.submit(1, vec![task("t", &[])]);
    let event = Event::ScaleIn { count: 1, labels: BTreeMap::new(), expected: vec![shown] };
    assert_eq!(bench.tell(event), Err(Refused::FleetChanged), "it has work now, and the other one has none");
    assert!(drained(&bench).is_empty());
}

#[test]
fn who_drains_already_is_not_counted_again() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.worker(name, 1);
    }
    scale_in(&mut bench, 1);
    scale_in(&mut bench, 1);
    assert_eq!(drained(&bench), ["a", "b"]);
    assert_eq!(scale_in(&mut bench, 9).drain.len(), 1, "nothing waits: the last one may go too");
}
