//! Tasks that do nothing, through real processes: what is left is the cost of Segue itself.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    bare,
    cluster::Cluster,
    measure::{Machine, percentile, steps, unix_ms},
    query::QUERIES,
    report::{Figures, Group, Target},
    say,
    workload::{self, Mode},
};

/// Tasks of the comparison in which each is written out.
const EXPLICIT: u32 = 10_000;

/// The size that the targets for large runs speak of, and the one that growth is measured from.
const LARGE: u32 = 100_000;
const SMALL: u32 = 1_000;

/// Least part of the processes that a machine can start that must be left for commands: 1,500 where the target was set,
/// on two cores that started 3,080.
const OF_BARE: f64 = 1_500.0 / 3_080.0;

/// Steps in one window where the clock is of milliseconds.
const WINDOW: usize = 10;

/// How each figure is made: printed below them.
const HOW: [&str; 10] = [
    "Each measurement has a coordinator and a worker of its own, started on an empty state directory; 200 tasks warm them up.",
    "chain, schedule: gaps between successive assignments as the worker receives them, in nanoseconds: report, decision, flush, assignment.",
    "chain, mean: the time from the Submit call to the recorded end of the run, over the steps.",
    "chain, runner and command: from `started` of each task, which is in milliseconds: p50 over windows of 10 steps, p99 over single steps.",
    "tasks per second: the tasks over the time from the Submit call to the end that the coordinator records (milliseconds).",
    "bare starts: what the command starts, started and awaited by a loop on every core for 2 s, just before the fan-out.",
    "accepted: the Submit call, from the pipeline text to the run id, by when the run is flushed.",
    "memory: VmRSS and VmHWM of /proc/PID/status; idle is after the warm-up, from where the peak is counted; runners are not in it.",
    "A run is watched by asking for the newest run without its tasks, four times a second; nobody streams it.",
    "show, explain, rerun --dry-run: the command from its start to its end, its table into a pipe; the run is in schedule mode if that is measured.",
];

/// What is measured, and how large.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Who answers
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Schedule, Mode::Runner, Mode::Command])]
    modes: Vec<Mode>,
    /// Independent tasks of each fan-out
    #[arg(long, value_delimiter = ',', value_name = "TASKS", default_values_t = [SMALL, 10_000, LARGE],
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sizes: Vec<u32>,
    /// Tasks that wait for one another
    #[arg(long, value_name = "TASKS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    chain: u32,
    /// Cores that the real worker offers; all of this machine unless told
    #[arg(long, value_name = "CORES")]
    cpu: Option<f64>,
    /// Directory for state, on the disk to be measured; beside this program unless told
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The figures, and where they were made.
#[derive(Debug)]
pub struct Measured {
    machine: Machine,
    runs: u32,
    pub figures: Figures,
}

impl Measured {
    /// Gives them to scripts.
    pub fn json(&self) -> Value {
        let mut all = self.figures.json();
        all["machine"] = self.machine.json();
        all["runs"] = json!(self.runs);
        all["how"] = json!(HOW);
        all
    }

    /// Shows them to people.
    pub fn table(&self) -> String {
        let Machine { cores, processor, load, file_system, flush } = &self.machine;
        format!(
            "orchestration: {} run(s) of each, {cores} cores ({processor}), load {load} before\n\
             state on {file_system}, where a write of 4 KiB with fdatasync takes {:.3} ms (p50), {:.3} ms (p99)\n\
             {}\nhow each figure is made\n{}",
            self.runs,
            flush.0,
            flush.1,
            self.figures.table(),
            HOW.iter().map(|line| format!("  {line}\n")).collect::<String>()
        )
    }
}

/// Measures everything, all modes and sizes in each round, so that a disturbance does not fall on one of them alone.
///
/// # Errors
/// If there is no place for the state. A measurement that breaks off is told in the figures, and the next one goes on.
pub fn measure(plan: &Plan, runs: u32) -> Result<Measured, String> {
    let site = site(plan)?;
    let machine = Machine::look(site.path()).map_err(|e| format!("cannot use {}: {e}", site.path().display()))?;
    let mut bench = Bench::new(plan, site);
    for round in 1..=runs {
        for mode in bench.modes.clone() {
            bench.attempt(&format!("{}: chain, run {round} of {runs}", mode.name()), |bench| bench.chain(mode));
            for size in bench.sizes.clone() {
                let what = format!("{}: fan-out of {size}, run {round} of {runs}", mode.name());
                bench.attempt(&what, |bench| bench.fan_out(mode, size));
            }
            if mode == Mode::Schedule && bench.sizes.contains(&EXPLICIT) {
                let what = format!("{}: {EXPLICIT} tasks written out, run {round} of {runs}", mode.name());
                bench.attempt(&what, |bench| bench.written_out(mode));
            }
        }
        bench.attempt(&format!("questions about a large run, run {round} of {runs}"), Bench::questions);
    }
    bench.growth();
    Ok(Measured { machine, runs, figures: bench.figures })
}

/// Makes the directory for all state: beside this program, so that it is on the disk of the build and not in memory.
///
/// # Errors
/// If there is no place for it.
pub fn site(plan: &Plan) -> Result<TempDir, String> {
    let parent = match &plan.dir {
        // Processes work elsewhere, so that a relative path would lead them astray.
        Some(dir) => dir.canonicalize().map_err(|e| format!("cannot use {}: {e}", dir.display()))?,
        None => {
            let this = std::env::current_exe().map_err(|e| format!("this program cannot be found: {e}"))?;
            this.parent().map(PathBuf::from).unwrap_or_default()
        }
    };
    let made = tempfile::Builder::new().prefix("segue-bench-").tempdir_in(&parent);
    made.map_err(|e| format!("cannot make a directory in {}: {e}; --dir names another place", parent.display()))
}

struct Bench {
    modes: Vec<Mode>,
    /// Ascending, each once.
    sizes: Vec<u32>,
    steps: u32,
    cores: Option<f64>,
    site: TempDir,
    figures: Figures,
}

impl Bench {
    fn new(plan: &Plan, site: TempDir) -> Self {
        let mut modes = Vec::new();
        for mode in &plan.modes {
            if !modes.contains(mode) {
                modes.push(*mode);
            }
        }
        let mut sizes = plan.sizes.clone();
        sizes.sort_unstable();
        sizes.dedup();
        Self { modes, sizes, steps: plan.chain, cores: plan.cpu, site, figures: Figures::default() }
    }

    fn attempt(&mut self, what: &str, measure: impl FnOnce(&mut Self) -> Result<(), String>) {
        say(what);
        if let Err(reason) = measure(self) {
            say(&format!("broke off: {reason}"));
            self.figures.broke(format!("{what}: {reason}"));
        }
    }

    fn add(&mut self, group: Group, name: &str, unit: &'static str, target: Option<Target>, value: f64) {
        self.figures.add(group, name, unit, target, Ok(value));
    }

    /// Starts a cluster and warms it up.
    fn cluster(&self, mode: Mode) -> Result<Cluster, String> {
        let mut cluster = Cluster::start(self.site.path(), mode, self.cores)?;
        cluster.warm_up(mode)?;
        Ok(cluster)
    }

    fn chain(&mut self, mode: Mode) -> Result<(), String> {
        let mut cluster = self.cluster(mode)?;
        let submitted = cluster.submit(&workload::chain(mode, self.steps))?;
        let wall = cluster.wait_ended(&submitted, patience(self.steps, 100))?;
        let (times, window) = if mode == Mode::Schedule {
            cluster.stop_worker()?;
            (cluster.assigned_ms(&submitted.run)?, 1)
        } else {
            let times = cluster.started_ms(&submitted.run)?;
            cluster.stop_worker()?;
            (times, WINDOW)
        };
        if times.len() != self.steps as usize {
            return Err(format!("{} starts were seen of {} tasks: some was tried twice", times.len(), self.steps));
        }
        let share = |width, share| percentile(&steps(&times, width), share).ok_or("the chain has no steps");
        let (p50, p99) = (share(window, 0.5)?, share(1, 0.99)?);
        let (group, chain) = (group(mode), format!("chain of {}", self.steps));
        self.add(group, &format!("{chain}, p50"), "ms per step", step_target(mode), p50);
        self.add(group, &format!("{chain}, p99"), "ms per step", None, p99);
        self.add(group, &format!("{chain}, mean"), "ms per step", None, wall * 1_000.0 / f64::from(self.steps));
        self.add(group, &format!("{chain}, from submit to end"), "s", None, wall);
        Ok(())
    }

    fn fan_out(&mut self, mode: Mode, size: u32) -> Result<(), String> {
        // Before the cluster is there, which would share the cores.
        let bare = (mode == Mode::Command).then(|| bare::starts_per_second(workload::COMMAND)).transpose()?;
        let mut cluster = self.cluster(mode)?;
        let idle = cluster.memory();
        cluster.reset_peaks();
        let submitted = cluster.submit(&workload::mapped(mode, size))?;
        let after_submit = cluster.memory();
        let wall = cluster.wait_ended(&submitted, patience(size, 20))?;
        let end = cluster.memory();
        cluster.stop_worker()?;

        let group = group(mode);
        self.add(group, &fan_out_name(size), "tasks per second", rate_target(mode, size), f64::from(size) / wall);
        if let Some(bare) = bare {
            let target = rate_target(mode, size).map(|_| Target::AtLeast(OF_BARE));
            let name = format!("{}, of the bare starts", fan_out_name(size));
            self.add(group, "bare starts of the same command", "per second", None, bare);
            self.add(group, &name, "ratio", target, f64::from(size) / wall / bare);
        }
        if self.sizes.last() != Some(&size) {
            return Ok(());
        }
        let large = |target| (size >= LARGE).then_some(target);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let each = |bytes: u64| bytes.saturating_sub(idle.coordinator.resident) as f64 / f64::from(size);
        let of = |what: &str| format!("{size} tasks, {what}");
        self.add(group, &of("accepted after"), "s", large(Target::Below(2.0)), submitted.accepted);
        self.add(group, &of("coordinator idle"), "MiB", None, mib(idle.coordinator.resident));
        self.add(group, &of("coordinator peak"), "MiB", None, mib(end.coordinator.peak));
        self.add(group, &of("coordinator at the end"), "MiB", None, mib(end.coordinator.resident));
        let accepted = each(after_submit.coordinator.resident);
        self.add(group, &of("above idle once accepted"), "bytes per task", None, accepted);
        let peak = each(end.coordinator.peak);
        self.add(group, &of("peak above idle"), "bytes per task", large(Target::Below(1_000.0)), peak);
        self.add(group, &of("worker peak"), "MiB", None, mib(end.worker.peak));
        Ok(())
    }

    /// The same fan-out as a file of many tables.
    fn written_out(&mut self, mode: Mode) -> Result<(), String> {
        let mut cluster = self.cluster(mode)?;
        let submitted = cluster.submit(&workload::explicit(mode, EXPLICIT))?;
        let wall = cluster.wait_ended(&submitted, patience(EXPLICIT, 20))?;
        cluster.stop_worker()?;
        let (group, name) = (group(mode), format!("{EXPLICIT} tasks, each written out"));
        self.add(group, &name, "tasks per second", None, f64::from(EXPLICIT) / wall);
        self.add(group, &format!("{name}, accepted after"), "s", None, submitted.accepted);
        Ok(())
    }

    /// What people ask about the largest run, while it goes and after it. A run of its own: answers take memory and time
    /// that must not be in the other figures.
    fn questions(&mut self) -> Result<(), String> {
        const GROUP: Group = Group { key: "questions", title: "questions about the largest run, by the command line" };
        let mode = if self.modes.contains(&Mode::Schedule) { Mode::Schedule } else { self.modes[0] };
        let Some(&size) = self.sizes.last() else { return Ok(()) };
        let target = (size >= LARGE).then_some(Target::Below(1.0));
        let mut cluster = self.cluster(mode)?;
        let submitted = cluster.submit(&workload::mapped(mode, size))?;
        cluster.wait_begun(&submitted)?;
        for query in QUERIES {
            let asked_ms = unix_ms();
            let answer = cluster.query(query, &submitted.run);
            let refused = answer.as_ref().is_ok_and(|answer| query.refused(answer));
            let answer = answer.and_then(|answer| query.seconds(&answer, true));
            let late = cluster.look(&submitted.run).ok().flatten().is_some_and(|seen| seen.had_ended(asked_ms));
            let value = if late { Err("the run had ended before it could be asked".to_owned()) } else { answer };
            let when = if refused { "refused while going" } else { "going" };
            self.figures.add(GROUP, &format!("{} of {size} tasks, {when}", query.name), "s", target, value);
        }
        cluster.wait_ended(&submitted, patience(size, 20))?;
        for query in QUERIES {
            let value = cluster.query(query, &submitted.run).and_then(|answer| query.seconds(&answer, false));
            self.figures.add(GROUP, &format!("{} of {size} tasks, ended", query.name), "s", target, value);
        }
        cluster.stop_worker()
    }

    /// How the cost of one task grows with their number: by the medians of all rounds.
    fn growth(&mut self) {
        let (Some(&small), Some(&large)) = (self.sizes.first(), self.sizes.last()) else { return };
        if small == large {
            return;
        }
        let target = (small <= SMALL && large >= LARGE).then_some(Target::AtLeast(0.8));
        for mode in self.modes.clone() {
            let rate = |size| self.figures.value(group(mode), &fan_out_name(size));
            if let (Some(few), Some(many)) = (rate(small), rate(large)) {
                let name = format!("tasks per second at {large} over those at {small}");
                self.add(group(mode), &name, "ratio", target, many / few);
            }
        }
    }
}

const fn group(mode: Mode) -> Group {
    Group { key: mode.name(), title: mode.title() }
}

fn fan_out_name(size: u32) -> String {
    format!("fan-out of {size}")
}

/// A minute, and so many milliseconds for each task: far more than anything that is worth measuring takes.
fn patience(tasks: u32, each_ms: u64) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(each_ms) * tasks
}

const fn step_target(mode: Mode) -> Option<Target> {
    match mode {
        Mode::Schedule => Some(Target::AtMost(1.2)),
        Mode::Runner => Some(Target::AtMost(2.0)),
        Mode::Command => None,
    }
}

fn rate_target(mode: Mode, size: u32) -> Option<Target> {
    let least = match mode {
        Mode::Schedule => 10_000.0,
        Mode::Runner => 3_000.0,
        Mode::Command => 1_500.0,
    };
    // Smaller runs are over before a rate means much.
    (size >= 10_000).then_some(Target::AtLeast(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(modes: &[Mode], sizes: &[u32]) -> Bench {
        let plan = Plan { modes: modes.to_vec(), sizes: sizes.to_vec(), chain: 2, cpu: None, dir: None };
        Bench::new(&plan, tempfile::tempdir().expect("a temporary directory"))
    }

    #[test]
    fn modes_and_sizes_that_are_named_twice_are_measured_once() {
        let bench = bench(&[Mode::Runner, Mode::Schedule, Mode::Runner], &[9, 3, 9]);
        assert_eq!(bench.modes, [Mode::Runner, Mode::Schedule]);
        assert_eq!(bench.sizes, [3, 9]);
    }

    #[test]
    fn growth_is_of_the_medians_and_has_its_target_only_at_the_sizes_it_speaks_of() {
        for (sizes, judged) in [([1_000, 100_000], true), ([1_000, 10_000], false)] {
            let mut bench = bench(&[Mode::Schedule], &sizes);
            for (size, rate) in [(sizes[0], 10_000.0), (sizes[1], 7_000.0)] {
                bench.add(group(Mode::Schedule), &fan_out_name(size), "tasks per second", None, rate);
            }
            bench.growth();
            let name = format!("tasks per second at {} over those at {}", sizes[1], sizes[0]);
            assert_eq!(bench.figures.value(group(Mode::Schedule), &name), Some(0.7));
            assert_eq!(bench.figures.all_met(), !judged);
        }
    }

    #[test]
    fn a_measurement_that_breaks_off_does_not_stop_the_next_one() {
        let mut bench = bench(&[Mode::Schedule], &[1]);
        bench.attempt("first", |_| Err("no".to_owned()));
        bench.attempt("second", |bench| {
            bench.add(group(Mode::Schedule), "x", "s", None, 1.0);
            Ok(())
        });
        assert!(!bench.figures.is_whole());
        assert_eq!(bench.figures.value(group(Mode::Schedule), "x"), Some(1.0));
    }
}
