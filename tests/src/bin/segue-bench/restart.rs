//! A coordinator that is killed while a very large run is under way, and what passes until it serves again.

use std::{
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    cluster::Cluster,
    holder::Holders,
    query::QUERIES,
    report::{Figures, Group, Target},
    say,
    workload::{self, Mode},
};

/// The number of tasks that the target speaks of.
const LARGE: u32 = 100_000;

/// Tasks beyond those in flight: some are given out whenever the coordinator is back, one for each worker.
const SPARE: u32 = 1_000;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often something is looked at.
const STEP: Duration = Duration::from_millis(2);

const GROUP: Group =
    Group { key: "restart", title: "SIGKILL of the coordinator, and a new one; seconds from its start" };

/// How large, and how often.
#[derive(Debug, Clone, Args)]
pub struct Kills {
    /// Tasks in flight when the coordinator is killed
    #[arg(long, value_name = "TASKS", default_value_t = LARGE, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    in_flight: u32,
    /// Workers that hold them, in equal parts
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    holders: u32,
    /// How often the coordinator is killed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    kills: u32,
}

/// Kills the coordinator so often, with one run all the time.
pub fn measure(plan: &Kills, site: &Path) -> Figures {
    let mut figures = Figures::default();
    if let Err(reason) = kills(plan, site, &mut figures) {
        say(&format!("broke off: {reason}"));
        figures.broke(reason);
    }
    figures
}

/// Shows the figures to people.
pub fn table(plan: &Kills, figures: &Figures) -> String {
    format!(
        "restart: {} tasks under way on {} workers, killed {} times\n{}",
        plan.in_flight,
        plan.holders,
        plan.kills,
        figures.table()
    )
}

fn kills(plan: &Kills, site: &Path, figures: &mut Figures) -> Result<(), String> {
    let room = plan.in_flight.div_ceil(plan.holders);
    let whole = room * plan.holders;
    let mut cluster = Cluster::start_alone(site)?;
    let holders = Holders::start(cluster.address(), plan.holders, room)?;
    wait(&mut cluster, "every holder is welcomed", || holders.seen().welcomes.len() >= plan.holders as usize)?;
    // What has a limit is not given ahead of its room: every task beyond those in flight waits in the coordinator.
    let text = workload::mapped(Mode::Schedule, whole + SPARE + plan.holders * plan.kills);
    let run = cluster.submit(&format!("{text}max_parallel = {whole}\n"))?.run;
    for kill in 1..=plan.kills {
        wait(&mut cluster, "the holders are full", || holders.seen().held >= whole as usize)?;
        let seen = full(&mut cluster, &run, whole)?;
        say(&format!("kill {kill} of {}: {} tasks under way, {} open", plan.kills, seen.0, seen.1));
        holders.forget();
        let started = cluster.restart_coordinator()?;
        once(&mut cluster, &holders, plan, &run, started, figures)?;
        if holders.seen().refused > 0 {
            return Err(format!("{} held attempts were not adopted", holders.seen().refused));
        }
    }
    Ok(())
}

/// Waits until the coordinator says itself that the holders are full: what they report may still be on its way.
fn full(cluster: &mut Cluster, run: &str, whole: u32) -> Result<(u32, u32), String> {
    let begun = Instant::now();
    loop {
        cluster.check()?;
        let (running, open) = cluster.children(run)?;
        if running >= whole {
            return Ok((running, open));
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("waited in vain for {whole} running tasks: {running} of {open} run"));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn once(
    cluster: &mut Cluster,
    holders: &Holders,
    plan: &Kills,
    run: &str,
    started: Instant,
    figures: &mut Figures,
) -> Result<(), String> {
    let address = cluster.address();
    wait(cluster, "the port accepts", || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())?;
    let accepts = started.elapsed();
    let [show, ..] = QUERIES;
    let answered = loop {
        let said = cluster.query(show, run).and_then(|answer| show.seconds(&answer, true));
        if said.is_ok() {
            break started.elapsed();
        }
        cluster.check()?;
        if started.elapsed() > PATIENCE {
            return Err(format!("`segue show` gives no answer: {}", said.err().unwrap_or_default()));
        }
    };
    wait(cluster, "every holder is welcomed and one has got a task", || {
        let seen = holders.seen();
        seen.welcomes.len() >= plan.holders as usize && seen.assigned.is_some()
    })?;
    let seen = holders.seen();
    let after = |at: Option<Instant>| at.map(|at| at.duration_since(started).as_secs_f64()).ok_or("nothing".to_owned());
    let target = (plan.in_flight >= LARGE).then_some(Target::Below(3.0));
    let mut add = |name: &str, target: Option<Target>, value: Result<f64, String>| {
        figures.add(GROUP, &format!("{name}, {} tasks in flight", plan.in_flight), "s", target, value);
    };
    add("the port accepts", target, Ok(accepts.as_secs_f64()));
    add("`segue show` has answered", target, Ok(answered.as_secs_f64()));
    add("the first worker is welcomed", target, after(seen.welcomes.iter().min().copied()));
    add("the last worker is welcomed", None, after(seen.welcomes.iter().max().copied()));
    add("the first task is assigned again", target, after(seen.assigned));
    Ok(())
}

fn wait(cluster: &mut Cluster, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("waited {} s in vain: {what}", PATIENCE.as_secs()));
        }
        cluster.check()?;
        thread::sleep(STEP);
    }
    Ok(())
}
