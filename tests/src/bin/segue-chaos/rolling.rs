//! Every process is restarted in turn under load, as an operator does it: SIGTERM, which drains a worker and ends a
//! coordinator in order, then the same command again. Tasks are not tried twice here, so that nothing hides a failure.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use segue_proto::v1::AttemptState;
use segue_tests::{TestCluster, WorkerPlan, draw::Draw, until};
use serde_json::{Value, json};

use crate::{Args, Work, audit::Figures, load, report};

/// Executions that must have begun between two restarts: the cluster works again.
const BETWEEN: usize = 50;

/// Seconds that running work may take to finish, longer than any of the load.
const GRACE: f64 = 30.0;

/// How one process was away, in seconds since it was told to end.
#[derive(Debug, Clone)]
struct Away {
    process: String,
    ended: f64,
    back: f64,
}

/// Restarts everything so many rounds, and audits.
pub fn run(args: &Args) -> report::Found {
    let mut cluster = TestCluster::start_in(args.setting(args.lease), &[], &[]);
    for name in args.names() {
        cluster.add_worker(&plan(&name));
    }
    let (longest, mut draw) = (Duration::from_secs_f64(args.longest.unwrap_or(0.2)), Draw::new(args.seed));
    let tasks = args.tasks;
    let work = Work::begin(&cluster, args.runs.unwrap_or(3), move || load::wide(tasks, longest, &mut draw));
    let mut away = Vec::new();
    for round in 1..=args.rounds {
        settled(&work);
        away.push(coordinator(&mut cluster));
        for name in args.names() {
            settled(&work);
            away.push(worker(&mut cluster, &name));
        }
        eprintln!("round {round} of {}: each process was restarted", args.rounds);
    }
    let (figures, violations) = work.end(&cluster);
    found(&away, &figures, violations)
}

fn settled(work: &Work) {
    let before = work.auditor.executions();
    until("the cluster works", || (work.auditor.executions() >= before + BETWEEN).then_some(()));
}

fn coordinator(cluster: &mut TestCluster) -> Away {
    let told = Instant::now();
    let status = cluster.stop_coordinator();
    let ended = told.elapsed().as_secs_f64();
    assert!(status.success(), "a coordinator that is told to end ends well: {status}");
    cluster.start_coordinator();
    Away { process: "coordinator".to_owned(), ended, back: told.elapsed().as_secs_f64() }
}

fn worker(cluster: &mut TestCluster, name: &str) -> Away {
    let told = Instant::now();
    let process = cluster.worker(name);
    process.signal(Signal::SIGTERM);
    let status = process.wait();
    let ended = told.elapsed().as_secs_f64();
    assert!(status.success(), "a worker that is told to end ends well: {status}");
    cluster.add_worker(&plan(name));
    Away { process: name.to_owned(), ended, back: told.elapsed().as_secs_f64() }
}

fn plan(name: &str) -> WorkerPlan {
    WorkerPlan::new(name).cpu(8.0).grace(GRACE)
}

fn found(away: &[Away], figures: &Figures, violations: Vec<String>) -> report::Found {
    let of = |state: AttemptState| figures.attempts.get(&state).copied().unwrap_or(0);
    // What was handed back never began: it is no second execution.
    let tried = [AttemptState::Failed, AttemptState::Lost, AttemptState::TimedOut, AttemptState::Cancelled];
    let in_vain: usize = tried.into_iter().map(of).sum();
    let Figures { runs, tasks, begun, ended, failed, .. } = figures;
    let mut table = format!("{:<14} {:>12} {:>12}\n", "", "ended after", "back after");
    for Away { process, ended, back } in away {
        table += &format!("{process:<14} {ended:>10.2} s {back:>10.2} s\n");
    }
    table += &format!(
        "{runs} runs with {tasks} tasks ended; {begun} executions began, {ended} came to their end\n\
         {failed} tasks failed, {in_vain} attempts in vain, {} handed back before they began\n{}",
        of(AttemptState::HandedBack),
        report::listed(&violations),
    );
    let shown: Vec<Value> = away
        .iter()
        .map(|Away { process, ended, back }| json!({ "process": process, "ended_s": ended, "back_s": back }))
        .collect();
    let json = json!({
        "restarts": shown,
        "runs": runs,
        "tasks": tasks,
        "executions_begun": begun,
        "executions_ended": ended,
        "failed": failed,
        "attempts_in_vain": in_vain,
        "handed_back": of(AttemptState::HandedBack),
        "violations": violations,
    });
    report::Found { sound: violations.is_empty() && *failed == 0 && in_vain == 0, table, json }
}
