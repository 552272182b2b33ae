//! Kills, stops and cuts off the processes of a real cluster at random while it works, and audits what is left: nothing
//! lost, nothing doubled, nothing stuck.
//!
//! Three parts that know nothing of each other: the load ([`load`]), the faults ([`faults`]) and the auditor ([`audit`]).

mod audit;
mod draw;
mod faults;
mod load;
mod report;

use std::{process::ExitCode, sync::Arc, thread, time::Duration};

use clap::Parser;
use segue_tests::{TestCluster, WorkerPlan, rpc::Rpc};

use crate::{
    audit::Auditor,
    draw::Draw,
    faults::{Faults, Kind},
    load::{Load, Shape},
};

/// Kills processes of a cluster while it works, and audits what is left
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Faults to inject
    #[arg(long, default_value_t = 100, value_name = "N")]
    cycles: u32,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Which faults; all unless told
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Workers
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    workers: u8,
    /// Runs that go on at a time
    #[arg(long, default_value_t = 6, value_name = "N")]
    runs: usize,
    /// Longest pause between two faults, in seconds
    #[arg(long, default_value_t = 0.4, value_name = "SECONDS")]
    pause: f64,
    /// Seconds that the longest commands take
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS")]
    longest: f64,
    /// Seconds that a worker may be silent
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    lease: f64,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = report::Output::Table, value_name = "FORMAT")]
    output: report::Output,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let found = run(&args);
    let sound = found.is_sound();
    match found.print(args.output) {
        Ok(()) if sound => ExitCode::SUCCESS,
        Ok(()) => {
            eprintln!("the audit failed: the seed {} draws the same faults again", args.seed);
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("cannot write the result: {e}");
            ExitCode::from(3)
        }
    }
}

fn run(args: &Args) -> report::Report {
    let mut cluster = TestCluster::start(Duration::from_secs_f64(args.lease));
    let names: Vec<String> = (1..=args.workers).map(|number| format!("w{number}")).collect();
    for name in &names {
        cluster.add_worker(&plan(name));
    }
    let auditor = Arc::new(Auditor::new(cluster.dir()));
    let shape = Shape { runs: args.runs, longest: Duration::from_secs_f64(args.longest) };
    let load = Load::start(cluster.grpc_address(), cluster.dir(), shape, Draw::new(args.seed ^ 1), &auditor);
    let observer = {
        let (auditor, rpc) = (Arc::clone(&auditor), Rpc::new(cluster.grpc_address()));
        thread::spawn(move || auditor.observe(&rpc))
    };
    let mut faults = Faults::new(&args.kinds, names, Duration::from_secs_f64(args.pause), Draw::new(args.seed));
    for cycle in 1..=args.cycles {
        faults.inject(&mut cluster);
        if cycle % 100 == 0 {
            eprintln!("{cycle} faults, {} runs submitted", auditor.submitted());
        }
    }
    let submitted = load.stop();
    auditor.settle();
    auditor.stop();
    let _ = observer.join();
    let violations = auditor.verdict(cluster.rpc(), submitted);
    report::Report { faults: faults.done(), figures: auditor.figures(), violations }
}

/// What every worker is: two cores, and a short grace so that a drain is over soon.
pub fn plan(name: &str) -> WorkerPlan {
    WorkerPlan::new(name).cpu(2.0).grace(1.0)
}
