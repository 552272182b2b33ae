//! Kills, stops and cuts off the processes of a real cluster at random while it works, and audits what is left: nothing
//! lost, nothing doubled, nothing stuck.
//!
//! Three parts that know nothing of each other: the load ([`load`]), the faults ([`faults`]) and the auditor ([`audit`]).
//! Two more programs are made of them: every process is restarted in turn as an operator would ([`rolling`]), and a worker
//! is lost in each way there is, with a clock beside it ([`lost`]).

mod audit;
mod faults;
mod kind;
mod load;
mod lost;
mod report;
mod rolling;

use std::{process::ExitCode, sync::Arc, thread, time::Duration};

use clap::{Parser, ValueEnum as _};
use segue_tests::{
    TestCluster, WorkerPlan,
    cluster::Setting,
    draw::Draw,
    hosts::{self, Network},
    rpc::Rpc,
};

use crate::{
    audit::Auditor,
    faults::Faults,
    kind::{Budget, Kind},
    load::Load,
    report::{Found, Report},
};

/// Silence that workers are allowed under random faults: short, so that leases pass often.
const LEASE: f64 = 2.0;

/// Kills processes of a cluster while it works, and audits what is left
#[derive(Debug, Clone, Parser)]
#[command(name = "segue-chaos", max_term_width = 100)]
struct Args {
    /// Faults to inject, shared out evenly among the kinds
    #[arg(long, default_value_t = 100, value_name = "N")]
    cycles: u32,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Which faults; all that fit unless told
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<Kind>,
    /// How many faults of each kind, such as kill-worker=30,host-slow=5, in place of --cycles and --kinds
    #[arg(long, value_delimiter = ',', value_name = "KIND=N", value_parser = kind::share, conflicts_with_all = ["cycles", "kinds"])]
    budget: Vec<(Kind, u32)>,
    /// A network namespace for each process, with an address and a link of its own
    #[arg(long)]
    netns: bool,
    /// Restart the coordinator and every worker one by one under load, as an operator does
    #[arg(long, conflicts_with_all = ["lost", "netns"])]
    rolling: bool,
    /// Lose a worker in each way, and take the time until its tasks run elsewhere
    #[arg(long)]
    lost: bool,
    /// How often each process is restarted, or each way to lose a worker is taken
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Workers
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    workers: u8,
    /// Runs that go on at a time; 6 unless told, 3 with --rolling
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Tasks of each run, with --rolling
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=1_000))]
    tasks: u32,
    /// Longest pause between two faults, in seconds
    #[arg(long, default_value_t = 0.4, value_name = "SECONDS")]
    pause: f64,
    /// Seconds that the longest commands take; 4 unless told, 0.2 with --rolling
    #[arg(long, value_name = "SECONDS")]
    longest: Option<f64>,
    /// Seconds that a worker may be silent; 2 unless told, the default of the coordinator with --rolling and --lost
    #[arg(long, value_name = "SECONDS")]
    lease: Option<f64>,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = report::Output::Table, value_name = "FORMAT")]
    output: report::Output,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(misplaced) = args.misplaced() {
        eprintln!("{} does not go {} --netns", misplaced.name(), if args.netns { "with" } else { "without" });
        return ExitCode::from(2);
    }
    if args.netns
        && let Err(reason) = hosts::enter()
    {
        eprintln!("skipped: {reason}");
        return ExitCode::from(3);
    }
    let found = if args.rolling {
        rolling::run(&args)
    } else if args.lost {
        lost::run(&args)
    } else {
        faults_and_audit(&args)
    };
    match found.print(args.output) {
        Ok(()) if found.sound => ExitCode::SUCCESS,
        Ok(()) => {
            eprintln!("not as it has to be: the seed {} draws the same choices again", args.seed);
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("cannot write the result: {e}");
            ExitCode::from(3)
        }
    }
}

impl Args {
    /// Finds a kind that cannot happen here.
    fn misplaced(&self) -> Option<Kind> {
        let budget = self.budget.iter().map(|(kind, _)| *kind);
        self.kinds.iter().copied().chain(budget).find(|kind| !kind.fits(self.netns))
    }

    /// Gives the faults to inject.
    fn budget(&self) -> Budget {
        if !self.budget.is_empty() {
            return Budget::told(&self.budget);
        }
        let all = Kind::value_variants().iter().copied().filter(|kind| kind.fits(self.netns));
        let kinds = if self.kinds.is_empty() { all.collect() } else { self.kinds.clone() };
        Budget::even(&kinds, self.cycles)
    }

    fn names(&self) -> Vec<String> {
        (1..=self.workers).map(|number| format!("w{number}")).collect()
    }

    fn setting(&self, lease: Option<f64>) -> Setting {
        let network = self.netns.then(|| Network::start(self.seed ^ 2));
        Setting { lease: lease.map(Duration::from_secs_f64), network }
    }
}

/// Injects random faults under load.
fn faults_and_audit(args: &Args) -> Found {
    let budget = args.budget();
    let mut cluster = TestCluster::start_in(args.setting(args.lease.or(Some(LEASE))), &[], &[]);
    for name in args.names() {
        cluster.add_worker(&plan(&name));
    }
    let (longest, mut draw) = (Duration::from_secs_f64(args.longest.unwrap_or(4.0)), Draw::new(args.seed ^ 1));
    let work = Work::begin(&cluster, args.runs.unwrap_or(6), move || load::mixed(longest, &mut draw));
    let pause = Duration::from_secs_f64(args.pause);
    let mut faults = Faults::new(&budget, args.names(), pause, Draw::new(args.seed));
    for cycle in 1.. {
        if !faults.inject(&mut cluster) {
            break;
        }
        if cycle % 100 == 0 {
            eprintln!("{cycle} faults, {} runs submitted", work.auditor.submitted());
        }
    }
    let (figures, violations) = work.end(&cluster);
    Report { budget, faults: faults.done(), figures, violations }.found()
}

/// Runs that go on, and whoever watches them.
struct Work {
    auditor: Arc<Auditor>,
    load: Load,
    observer: thread::JoinHandle<()>,
}

impl Work {
    fn begin(cluster: &TestCluster, runs: usize, pipeline: impl FnMut() -> String + Send + 'static) -> Self {
        let auditor = Arc::new(Auditor::new(cluster.dir()));
        let load = Load::start(cluster.grpc_address(), cluster.dir(), runs, pipeline, &auditor);
        let (watching, rpc) = (Arc::clone(&auditor), Rpc::new(cluster.grpc_address()));
        let observer = thread::spawn(move || watching.observe(&rpc));
        Self { auditor, load, observer }
    }

    /// Submits no more, waits for the end of every run, and gives what was counted and what is wrong.
    fn end(self, cluster: &TestCluster) -> (audit::Figures, Vec<String>) {
        let submitted = self.load.stop();
        self.auditor.settle();
        self.auditor.stop();
        let _ = self.observer.join();
        let violations = self.auditor.verdict(cluster.rpc(), submitted);
        (self.auditor.figures(), violations)
    }
}

/// What every worker is: two cores, and a short grace so that a drain is over soon.
pub fn plan(name: &str) -> WorkerPlan {
    WorkerPlan::new(name).cpu(2.0).grace(1.0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn args(line: &[&str]) -> Args {
        Args::try_parse_from(["segue-chaos"].iter().chain(line)).expect("a good command line")
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Args::command().debug_assert();
        let told = args(&["--budget", "kill-worker=3,cut-worker=1"]).budget();
        assert_eq!(told.shares().values().sum::<u32>(), 4);
        assert!(Args::try_parse_from(["segue-chaos", "--budget", "kill-worker=3", "--cycles", "9"]).is_err());
    }

    #[test]
    fn each_fault_is_drawn_only_where_it_can_happen() {
        let loopback = args(&[]).budget();
        assert!(loopback.shares().contains_key(&Kind::CutWorker) && !loopback.shares().contains_key(&Kind::HostSlow));
        let hosts = args(&["--netns"]).budget();
        assert!(!hosts.shares().contains_key(&Kind::CutWorker) && hosts.shares().contains_key(&Kind::HostSlow));
        assert_eq!(args(&["--kinds", "host-deaf"]).misplaced(), Some(Kind::HostDeaf));
    }
}
