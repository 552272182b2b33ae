#![allow(clippy::unwrap_used)]

use super::*;

fn figures(core: CoreFigures) -> Figures {
    Figures {
        core,
        epoch: 3,
        last_event: 11,
        now: 20_000,
        started: 10_000,
        commits: CommitStats { flushes: 7, batches: 9, ..CommitStats::default() },
        timings: Timings::default(),
    }
}

fn class(operator: Option<String>, gpu: GpuPreference) -> Class {
    let amounts = Resources { cpu_milli: 1_500, ..Resources::default() };
    Class { operator, gpu, amounts, labels: BTreeMap::from([("zone".to_owned(), "b\"\n".to_owned())]) }
}

fn worker(name: String, busy: bool) -> WorkerFigures {
    let has = Resources { cpu_milli: 4_000, memory_bytes: 1 << 30, gpu_milli: 1_000, ..Resources::default() };
    let leased = Resources { cpu_milli: if busy { 500 } else { 0 }, ..Resources::default() };
    WorkerFigures { name, state: "connected", capacity: has, leased, busy }
}

#[test]
fn depth_and_oldest_wait_are_shown_by_class() {
    let mut core = CoreFigures::default();
    let depth = Depth { waiting: 4, held: 3, running: 2, waiting_since: Some(17_500), per_worker: None };
    core.queue.classes.insert(class(None, GpuPreference::Require), depth);
    let body = render(figures(core)).unwrap();
    let label = r#"{work="command",gpu="require",cpu="1.5",labels="zone=b\"\n"}"#;
    for line in [
        format!("segue_queue_waiting{label} 4"),
        format!("segue_queue_held{label} 3"),
        format!("segue_queue_running{label} 2"),
        format!("segue_queue_oldest_wait_seconds{label} 2.5"),
        "segue_uptime_seconds 10".to_owned(),
        "segue_events 11".to_owned(),
        "segue_store_flushes_total 7".to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(body.lines().any(|found| found == line), "`{line}` is not in\n{body}");
    }
}

#[test]
fn what_workers_have_and_whether_they_are_busy_is_shown_by_name() {
    let core =
        CoreFigures { workers: vec![worker("a".into(), true), worker("b".into(), false)], ..CoreFigures::default() };
    let body = render(figures(core)).unwrap();
    for line in [
        r#"segue_worker_capacity{worker="a",resource="cpu"} 4.0"#,
        r#"segue_worker_leased{worker="a",resource="cpu"} 0.5"#,
        r#"segue_worker_leased{worker="b",resource="gpu"} 0.0"#,
        r#"segue_worker_busy{worker="a"} 1"#,
        r#"segue_worker_busy{worker="b"} 0"#,
        r#"segue_workers{state="connected"} 2"#,
        r#"segue_workers{state="draining"} 0"#,
        "segue_workers_connected 2",
    ] {
        assert!(body.lines().any(|found| found == line), "`{line}` is not in\n{body}");
    }
}

#[test]
fn attempts_and_runs_are_counted_by_outcome() {
    let mut core = CoreFigures::default();
    core.tally.attempts.insert(("failed", "oom"), 5);
    core.tally.leases_lost = 2;
    core.tally.retries = 3;
    core.tally.runs.insert("failed", 1);
    let body = render(figures(core)).unwrap();
    for line in [
        r#"segue_attempts_ended_total{outcome="failed",class="oom"} 5"#,
        "segue_leases_lost_total 2",
        "segue_retries_total 3",
        r#"segue_runs_ended_total{state="failed"} 1"#,
        r#"segue_runs_ended_total{state="succeeded"} 0"#,
    ] {
        assert!(body.lines().any(|found| found == line), "`{line}` is not in\n{body}");
    }
}

#[test]
fn a_thousand_operators_and_workers_do_not_make_a_thousand_series_each() {
    let mut core = CoreFigures::default();
    for n in 0..1_000_u64 {
        let depth = Depth { waiting: n, ..Depth::default() };
        core.queue.classes.insert(class(Some(format!("op.{n}")), GpuPreference::None), depth);
    }
    core.workers = (0..1_500).map(|n| worker(format!("w{n:04}"), n >= 1_000)).collect();
    let body = render(figures(core)).unwrap();
    let series = |name: &str| body.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
    assert_eq!(series("segue_queue_waiting"), MOST_CLASSES + 1);
    assert_eq!(series("segue_worker_busy"), MOST_WORKERS + 1);
    assert!(body.contains(r#"segue_queue_waiting{work="op.999""#), "those with most work are shown by themselves");
    assert!(body.contains(r#"segue_worker_busy{worker="(rest)"} 500"#), "what is beyond the bound is added up");
    let waiting: u64 = body
        .lines()
        .filter(|line| line.starts_with("segue_queue_waiting{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(waiting, (0..1_000).sum::<u64>(), "nothing is lost");
}

#[test]
fn every_help_and_type_is_written_once() {
    let body = render(figures(CoreFigures::default())).unwrap();
    let mut types: Vec<&str> = body.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert!(types.len() == all && all > 10, "{types:?}");
    assert!(body.contains("# TYPE segue_placement_seconds histogram"), "{body}");
}
