#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{super::*, *};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 2026-03-28T00:00:00Z: the day before clocks are set forward in Berlin.
const SATURDAY: u64 = 1_774_656_000_000;

fn decl(trigger: Trigger) -> ScheduleDecl {
    ScheduleDecl {
        trigger,
        timezone: "Europe/Berlin".to_owned(),
        start: None,
        end: None,
        catch_up: CatchUp::Last,
        catch_up_window_ms: 7 * DAY,
        overlap: Overlap::Skip,
        jitter_ms: 0,
        params: BTreeMap::new(),
    }
}

fn hourly(change: impl FnOnce(&mut ScheduleDecl)) -> Plan {
    let mut decl = decl(Trigger::Every(HOUR));
    change(&mut decl);
    Plan::new("hourly", decl).unwrap()
}

/// Gives the hours, counted from [`SATURDAY`], at which the intervals end that actions speak of.
fn hours(actions: &[Action]) -> Vec<(&'static str, u64)> {
    let hour = |interval: &Interval| (interval.end - SATURDAY) / HOUR;
    actions
        .iter()
        .map(|action| match action {
            Action::Start { interval, .. } => ("start", hour(interval)),
            Action::Skip { interval, why: Skipped::Overlap } => ("overlap", hour(interval)),
            Action::Skip { interval, why: Skipped::Replaced } => ("replaced", hour(interval)),
            Action::Skip { interval, .. } => ("full", hour(interval)),
            Action::Missed { count, .. } => ("missed", *count),
        })
        .collect()
}

/// Decides at an hour after [`SATURDAY`] and submits what is asked for; runs are named by the hour of their fire.
fn turn(state: &mut State, plan: &Plan, now: u64) -> Vec<(&'static str, u64)> {
    let actions = state.decide(plan, now);
    for action in &actions {
        if let Action::Start { interval, .. } = action {
            let run = ((interval.end - SATURDAY) / HOUR).to_string();
            state.started(*interval, run);
        }
    }
    hours(&actions)
}

/// Gives the runs that are to be told to stop.
fn cancelling(state: &State) -> Vec<(&'static str, u64)> {
    state.active.iter().filter(|run| run.cancelling).map(|active| ("cancel", active.run.parse().unwrap())).collect()
}

fn at(hour: u64) -> u64 {
    SATURDAY + hour * HOUR
}

#[test]
fn a_new_schedule_fires_from_now_on_and_each_time_once() {
    let plan = hourly(|_| {});
    let mut state = State::new(&plan, at(0) + 1);
    assert_eq!(turn(&mut state, &plan, at(0) + 1), []);
    assert_eq!(state.next_wakeup(&plan), Some(at(1)));
    assert_eq!(turn(&mut state, &plan, at(1)), [("start", 1)]);
    assert_eq!(turn(&mut state, &plan, at(1)), [], "decided once");
    assert!(state.ended("1") && !state.ended("1"));
    assert_eq!(turn(&mut state, &plan, at(2) + 59_000), [("start", 2)], "a little late is on time");
}

#[test]
fn what_was_missed_is_left_to_the_policy() {
    let missed = |catch_up| {
        let plan = hourly(|decl| decl.catch_up = catch_up);
        let mut state = State::new(&plan, at(0));
        turn(&mut state, &plan, at(5) + 10 * MINUTE)
    };
    assert_eq!(missed(CatchUp::None), [("missed", 5)]);
    assert_eq!(missed(CatchUp::Last), [("missed", 4), ("start", 5)]);
    assert_eq!(missed(CatchUp::All), [("start", 1)], "one after the other");
}

#[test]
fn a_fire_that_is_on_time_is_the_last_one_that_the_policy_wants() {
    for catch_up in [CatchUp::None, CatchUp::Last] {
        let plan = hourly(|decl| decl.catch_up = catch_up);
        let mut state = State::new(&plan, at(0));
        assert_eq!(turn(&mut state, &plan, at(5) + 10_000), [("missed", 4), ("start", 5)]);
    }
}

#[test]
fn missed_intervals_wait_for_one_another_even_where_fires_are_skipped() {
    let plan = hourly(|decl| decl.catch_up = CatchUp::All);
    let mut state = State::new(&plan, at(0));
    assert_eq!(turn(&mut state, &plan, at(3) + 10 * MINUTE), [("start", 1)]);
    assert_eq!(turn(&mut state, &plan, at(4)), [("overlap", 4)], "on time, and a run is going on");
    for hour in 1..=3 {
        assert!(state.ended(&hour.to_string()));
        let next = if hour < 3 { vec![("start", hour + 1)] } else { vec![] };
        assert_eq!(turn(&mut state, &plan, at(4) + 1), next);
    }
}

#[test]
fn fires_that_were_missed_in_a_short_gap_do_not_skip_each_other() {
    let mut decl = decl(Trigger::Every(5_000));
    decl.catch_up = CatchUp::All;
    let plan = Plan::new("often", decl).unwrap();
    let mut state = State::new(&plan, SATURDAY);
    let mut executed = Vec::new();
    // Away for 16 s: three fires, all of them less than a minute ago.
    for step in 0..3 {
        for action in state.decide(&plan, SATURDAY + 16_000 + step) {
            match action {
                Action::Start { interval, late } => {
                    assert!(late, "{interval:?}");
                    executed.push((interval.end - SATURDAY) / 1_000);
                    state.started(interval, step.to_string());
                }
                other => panic!("nothing is left out: {other:?}"),
            }
        }
        assert!(state.ended(&step.to_string()));
    }
    assert_eq!(executed, [5, 10, 15]);
    // One that comes while the coordinator is there is on time.
    let actions = state.decide(&plan, SATURDAY + 20_000);
    assert!(matches!(actions.as_slice(), [Action::Start { late: false, .. }]), "{actions:?}");
}

#[test]
fn intervals_older_than_the_window_are_missed_and_none_ages_while_it_waits() {
    let plan = hourly(|decl| {
        decl.catch_up = CatchUp::All;
        decl.catch_up_window_ms = 3 * HOUR;
    });
    let mut state = State::new(&plan, at(0));
    let now = at(10) + 10 * MINUTE;
    assert_eq!(turn(&mut state, &plan, now), [("missed", 7), ("start", 8)]);
    for hour in 8..10 {
        assert!(state.ended(&hour.to_string()));
        let later = turn(&mut state, &plan, now + (hour - 7) * 100 * HOUR);
        assert!(later.contains(&("start", hour + 1)), "long after it was noticed: {later:?}");
    }
    let plan = hourly(|decl| decl.catch_up_window_ms = HOUR);
    let mut state = State::new(&plan, at(0));
    state.decided = at(0);
    assert_eq!(turn(&mut state, &plan, at(2) + 30 * MINUTE), [("missed", 1), ("start", 2)]);
    let plan = hourly(|decl| decl.catch_up_window_ms = 20 * MINUTE);
    let mut state = State::new(&plan, at(0));
    assert_eq!(turn(&mut state, &plan, at(2) + 30 * MINUTE), [("missed", 2)]);
}

#[test]
fn a_fire_during_a_run_is_skipped_or_waits_or_takes_its_place_or_goes_beside_it() {
    let going = |overlap| {
        let plan = hourly(|decl| decl.overlap = overlap);
        let mut state = State::new(&plan, at(0));
        assert_eq!(turn(&mut state, &plan, at(1)), [("start", 1)]);
        let mut said = turn(&mut state, &plan, at(2));
        said.extend(cancelling(&state));
        said.extend(turn(&mut state, &plan, at(3)));
        state.ended("1");
        said.extend(turn(&mut state, &plan, at(3) + 1));
        said
    };
    assert_eq!(going(Overlap::Skip), [("overlap", 2), ("overlap", 3)]);
    assert_eq!(going(Overlap::Queue), [("start", 2)]);
    assert_eq!(going(Overlap::CancelRunning), [("cancel", 1), ("replaced", 2), ("start", 3)]);
    assert_eq!(going(Overlap::Allow), [("start", 2), ("start", 3)]);
}

#[test]
fn a_run_that_is_submitted_while_a_later_fire_takes_its_place_is_cancelled() {
    let plan = hourly(|decl| decl.overlap = Overlap::CancelRunning);
    let mut state = State::new(&plan, at(0));
    let actions = state.decide(&plan, at(1));
    let [Action::Start { interval, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(hours(&state.decide(&plan, at(2))), [("start", 1)], "asked for again, in case nobody answered");
    state.started(*interval, "1".to_owned());
    assert_eq!(cancelling(&state), [("cancel", 1)]);
    assert_eq!(hours(&state.decide(&plan, at(2))), [], "the later one waits for its end");
    state.ended("1");
    assert_eq!(hours(&state.decide(&plan, at(2))), [("start", 2)]);
}

#[test]
fn a_queue_has_an_end_and_a_backlog_that_is_all_to_be_caught_up_has_none() {
    let plan = hourly(|decl| decl.overlap = Overlap::Queue);
    let mut state = State::new(&plan, at(0));
    let count = MOST_WAITING as u64 + 2;
    let mut full = 0;
    for hour in 1..=count {
        let actions = state.decide(&plan, at(hour));
        full += hours(&actions).iter().filter(|(what, _)| *what == "full").count();
    }
    assert_eq!((state.waiting.len(), full), (MOST_WAITING, 2));

    let plan = hourly(|decl| {
        decl.catch_up = CatchUp::All;
        decl.catch_up_window_ms = 365 * DAY;
    });
    let mut state = State::new(&plan, at(0));
    let mut started = Vec::new();
    let now = at(3_000) + 10 * MINUTE;
    while let [("start", hour)] = turn(&mut state, &plan, now).as_slice() {
        started.push(*hour);
        assert!(state.waiting.len() <= MOST_WAITING);
        assert!(state.ended(&hour.to_string()));
    }
    assert_eq!(started, (1..=3_000).collect::<Vec<_>>());
}

#[test]
fn a_paused_schedule_does_nothing_and_what_it_missed_is_left_to_the_policy_or_passed_over() {
    let plan = hourly(|decl| decl.catch_up = CatchUp::All);
    let mut state = State::new(&plan, at(0));
    state.paused = true;
    assert_eq!((turn(&mut state, &plan, at(3)), state.next_wakeup(&plan)), (vec![], None));
    let mut other = state.clone();
    assert_eq!(hours(&state.resume(&plan, false, at(3) + 1)), []);
    assert_eq!(turn(&mut state, &plan, at(3) + 1), [("start", 1)]);
    for hour in 1..=3 {
        assert!(state.ended(&hour.to_string()));
        let next = if hour < 3 { vec![("start", hour + 1)] } else { vec![] };
        assert_eq!(turn(&mut state, &plan, at(3) + 2), next, "the third was missed with the others");
    }
    assert_eq!(hours(&other.resume(&plan, true, at(3) + 1)), [("missed", 3)]);
    assert_eq!(turn(&mut other, &plan, at(4)), [("start", 4)]);
}

#[test]
fn no_interval_starts_before_the_start_or_ends_after_the_end() {
    let plan = hourly(|decl| {
        decl.start = Some(at(2) + 1);
        decl.end = Some(at(5) + 1);
        decl.catch_up = CatchUp::All;
        decl.overlap = Overlap::Allow;
    });
    let mut state = State::new(&plan, at(0));
    assert_eq!(state.next_wakeup(&plan), Some(at(3) + 1), "spans are counted from the start");
    assert_eq!(turn(&mut state, &plan, at(9)), [("start", 3), ("start", 4), ("start", 5)]);
    assert_eq!(state.next_wakeup(&plan), None);
    // A start in the past counts as missed since then.
    let plan = hourly(|decl| decl.start = Some(at(2)));
    let mut state = State::new(&plan, at(6) + 30 * MINUTE);
    assert_eq!(turn(&mut state, &plan, at(6) + 30 * MINUTE), [("missed", 3), ("start", 6)]);
}

#[test]
fn years_of_missed_seconds_are_counted_and_not_walked_through() {
    let plan = Plan::new("seconds", decl(Trigger::Every(1_000))).unwrap();
    let mut state = State { decided: SATURDAY, ..State::default() };
    let actions = state.decide(&plan, SATURDAY + 3 * 365 * DAY);
    let Some(Action::Missed { count, .. }) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(*count, MOST_COUNTED);
    assert!(actions.len() < 100);
}

/// What happens to a coordinator.
#[derive(Debug, Clone)]
enum Step {
    /// Time passes, in seconds.
    Pass(u64),
    Turn,
    /// It is killed once its decision is on disk.
    KilledBeforeSubmitting,
    /// It is killed after some submissions, before any is noted.
    KilledAfterSubmitting(usize),
    /// The nth run that goes on ends.
    Ends(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..8_000).prop_map(Step::Pass),
        1 => (50_000_u64..400_000).prop_map(Step::Pass),
        6 => Just(Step::Turn),
        1 => Just(Step::KilledBeforeSubmitting),
        2 => (1_usize..4).prop_map(Step::KilledAfterSubmitting),
        4 => (0_usize..4).prop_map(Step::Ends),
    ]
}

/// A coordinator that can be killed: what it has on disk, and the runs, which are kept by their key.
#[derive(Debug, Default)]
struct World {
    now: u64,
    disk: State,
    /// In the order of submission, and whether it goes on.
    runs: Vec<(Interval, bool)>,
    noted: BTreeSet<Interval>,
    skipped: BTreeSet<Interval>,
    missed: Vec<(Interval, Interval)>,
}

impl World {
    fn submit(&mut self, interval: Interval) {
        if !self.runs.iter().any(|(known, _)| *known == interval) {
            self.runs.push((interval, true));
        }
    }

    fn cancel(&mut self, run: &str) {
        for (interval, goes_on) in &mut self.runs {
            *goes_on &= interval.end.to_string() != run;
        }
    }

    fn turn(&mut self, plan: &Plan, submissions: Option<usize>) {
        let mut state = self.disk.clone();
        for (interval, _) in self.runs.iter().filter(|(_, goes_on)| !goes_on) {
            state.ended(&interval.end.to_string());
        }
        let actions = state.decide(plan, self.now);
        self.disk = state.clone();
        let mut left = submissions.unwrap_or(usize::MAX);
        for action in actions {
            match action {
                Action::Skip { interval, .. } => assert!(self.skipped.insert(interval), "skipped twice"),
                Action::Missed { first, last, .. } => self.missed.push((first, last)),
                Action::Start { interval, .. } if left > 0 => {
                    left -= 1;
                    self.submit(interval);
                    if submissions.is_none() {
                        assert!(self.noted.insert(interval), "started twice");
                        state.started(interval, interval.end.to_string());
                    }
                }
                Action::Start { .. } => {}
            }
        }
        for active in state.active.iter().filter(|active| active.cancelling) {
            self.cancel(&active.run);
        }
        if submissions.is_none() {
            self.disk = state;
        }
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let trigger = prop_oneof![
        (600_u64..20_000).prop_map(|seconds| Trigger::Every(seconds * 1_000)),
        Just(Trigger::Cron("*/20 * * * *".to_owned())),
        Just(Trigger::Cron("0 1,2,3 * * *".to_owned())),
        Just(Trigger::Cron("30 * * * *".to_owned())),
    ];
    (
        trigger,
        prop::sample::select(CatchUp::ALL.to_vec()),
        prop::sample::select(Overlap::ALL.to_vec()),
        0_u64..900,
        1_u64..100,
    )
        .prop_map(|(trigger, catch_up, overlap, jitter, window)| {
            let mut decl = decl(trigger);
            decl.catch_up = catch_up;
            decl.overlap = overlap;
            decl.jitter_ms = jitter * 1_000;
            // With `all`, nothing is to be lost.
            decl.catch_up_window_ms = if catch_up == CatchUp::All { 365 * DAY } else { window * HOUR };
            Plan::new("any", decl).unwrap()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over the days on which clocks are set, with kills at any point: each interval is executed once or has a reason not
    /// to be, and with `catch_up = "all"` only a run that overlaps is one.
    #[test]
    fn no_interval_is_doubled_or_lost_wherever_the_coordinator_is_killed(plan in plan(), steps in prop::collection::vec(step(), 0..60)) {
        let begin = SATURDAY;
        let mut world = World { now: begin, disk: State::new(&plan, begin), ..World::default() };
        let sequential = plan.decl.overlap != Overlap::Allow;
        for step in steps {
            match step {
                Step::Pass(seconds) => world.now += seconds * 1_000,
                Step::Turn => world.turn(&plan, None),
                Step::KilledBeforeSubmitting => world.turn(&plan, Some(0)),
                Step::KilledAfterSubmitting(some) => world.turn(&plan, Some(some)),
                Step::Ends(nth) => {
                    if let Some(run) = world.runs.iter_mut().filter(|(_, goes_on)| *goes_on).nth(nth) {
                        run.1 = false;
                    }
                }
            }
            let going = world.runs.iter().filter(|(_, goes_on)| *goes_on).count();
            prop_assert!(!sequential || going <= 1, "{going} runs at the same time");
        }
        // In the end everything that waits gets its turn.
        world.now += ON_TIME_MS;
        for _ in 0..10_000 {
            world.turn(&plan, None);
            if world.disk.waiting.is_empty() && world.disk.active.is_empty() {
                break;
            }
            world.runs.iter_mut().for_each(|run| run.1 = false);
        }
        prop_assert!(world.disk.waiting.is_empty() && world.disk.active.is_empty());

        let submitted: BTreeSet<Interval> = world.runs.iter().map(|(interval, _)| *interval).collect();
        if sequential {
            prop_assert!(world.runs.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
        }
        let mut expected = BTreeMap::new();
        let mut at = begin;
        while let Some(interval) = plan.after(at).filter(|interval| plan.starts(*interval) <= world.now) {
            expected.insert(interval.end, interval);
            at = interval.end;
        }
        // A later fire whose jitter is over waits for an earlier one whose jitter is not.
        prop_assert_eq!(world.disk.decided, expected.keys().last().copied().unwrap_or(world.disk.decided));
        for interval in expected.values() {
            let missed = world.missed.iter().filter(|(first, last)| first <= interval && interval <= last).count();
            let reasons = usize::from(submitted.contains(interval)) + usize::from(world.skipped.contains(interval)) + missed;
            prop_assert_eq!(reasons, 1, "{:?}", interval);
            if plan.decl.catch_up == CatchUp::All {
                prop_assert_eq!(missed, 0);
                if matches!(plan.decl.overlap, Overlap::Queue | Overlap::Allow) {
                    prop_assert!(submitted.contains(interval));
                }
            }
        }
        prop_assert!(submitted.iter().all(|interval| expected.contains_key(&interval.end)));
        prop_assert_eq!(&world.noted, &submitted, "every run is noted in the end");
    }
}
