//! Many seeds: a process for each, as many at a time as there are cores.

use std::{
    collections::BTreeMap,
    io::Read as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{env, load::shape, mutants, world};

const SEEDS: u64 = 200;
/// One in so many seeds is played twice, and has to go the same way.
const TWICE: u64 = 20;
/// A long sweep says how far it is after so many seeds.
const TOLD_EVERY: usize = 1_000;
/// Seeds within which each deliberate defect has to be noticed.
const NOTICED_WITHIN: u64 = 500;
/// Names a deliberate defect to a process that plays a seed.
const DEFECT: &str = "SEGUE_SIM_DEFECT";
/// Processor time that one seed may take: some hundred times what it does. A busy machine may let it wait for longer.
const LIMIT_TICKS: u64 = 1_000;
/// How often somebody looks at that.
const LOOK: Duration = Duration::from_secs(1);

static PANICKED: AtomicBool = AtomicBool::new(false);

/// What one seed printed.
#[derive(Debug, Default, Clone)]
struct Line {
    digest: String,
    steps: u64,
    simulated_ms: u64,
    counts: BTreeMap<String, u64>,
    violations: Vec<String>,
}

pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    let defect = std::env::var(DEFECT).ok();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--one" => return one(number(arguments.next()).unwrap_or(1), false, defect.as_deref()),
            "--replay" => return one(number(arguments.next()).unwrap_or(1), true, defect.as_deref()),
            "--defects" => return defects(),
            // What `cargo test` passes on to every test program.
            "--list" => {
                println!("simulation: test");
                return ExitCode::SUCCESS;
            }
            flag if flag.starts_with('-') => {}
            filter if !"simulation".contains(filter) => return ExitCode::SUCCESS,
            _ => {}
        }
    }
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    sweep(setting("FROM").unwrap_or(1), setting("SEEDS").unwrap_or(SEEDS), setting("JOBS"))
}

/// Plays one seed in this process.
fn one(seed: u64, aloud: bool, defect: Option<&str>) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        PANICKED.store(true, Relaxed);
        println!("violation panic: {panic}");
    }));
    let base = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    // Not by `tempfile`: what draws random numbers before the simulation is on draws real ones.
    let base: std::path::PathBuf = base;
    let dir = base.join(format!("segue-sim-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder for logs");
    let verdict = world::play(seed, aloud, defect, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    for violation in &verdict.violations {
        println!("violation {violation}");
    }
    println!("digest {:016x}", verdict.digest);
    println!("steps {}", verdict.steps);
    println!("simulated {}", verdict.simulated_ms);
    for (name, count) in &verdict.counts {
        println!("count {count} {name}");
    }
    if verdict.violations.is_empty() && !PANICKED.load(Relaxed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sweep(from: u64, seeds: u64, jobs: Option<u64>) -> ExitCode {
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64));
    let next = AtomicU64::new(from);
    let found: Mutex<BTreeMap<u64, Line>> = Mutex::default();
    let failing = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let mut line = spawn(seed, None);
                    if seed.is_multiple_of(TWICE) && line.violations.is_empty() {
                        let again = spawn(seed, None);
                        if again.digest != line.digest {
                            line.violations.push("determinism: played twice, it went two ways".to_owned());
                        }
                    }
                    if !line.violations.is_empty() {
                        failing.fetch_add(1, Relaxed);
                        report(seed, &line);
                    }
                    let mut found = found.lock().expect("no panic under the lock");
                    found.insert(seed, line);
                    if found.len().is_multiple_of(TOLD_EVERY) {
                        println!("{} seeds after {:.0} s", found.len(), begun.elapsed().as_secs_f64());
                    }
                    drop(found);
                    // A few are enough to work on.
                    if failing.load(Relaxed) >= 10 && std::env::var_os("KEEP_GOING").is_none() {
                        return;
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let found = found.into_inner().expect("no panic under the lock");
    let counts = summary(&found, seconds, jobs);
    // A fault that never comes proves nothing.
    let never = |kind: &&str| !counts.contains_key(&format!("fault {kind}"));
    let missing: Vec<&str> = env::kinds().into_iter().filter(never).collect();
    let all_came = seeds < SEEDS || missing.is_empty();
    if !all_came {
        println!("FAILED: in {seeds} seeds there was no {}", missing.join(", "));
    }
    if failing.into_inner() == 0 && all_came { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays seeds with each deliberate defect until it is noticed.
fn defects() -> ExitCode {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let mut missed = 0;
    for defect in mutants::all() {
        let (next, first) = (AtomicU64::new(1), AtomicU64::new(u64::MAX));
        let why: Mutex<BTreeMap<u64, String>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Relaxed);
                        if seed > NOTICED_WITHIN || seed > first.load(Relaxed) {
                            return;
                        }
                        let line = spawn(seed, Some(&defect));
                        if let Some(violation) = line.violations.into_iter().next() {
                            first.fetch_min(seed, Relaxed);
                            why.lock().expect("no panic under the lock").insert(seed, violation);
                        }
                    }
                });
            }
        });
        match why.into_inner().expect("no panic under the lock").pop_first() {
            Some((seed, why)) => println!("{defect:<18} noticed at seed {seed}: {why}"),
            None => {
                missed += 1;
                println!("{defect:<18} NOT NOTICED within {NOTICED_WITHIN} seeds");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(seed: u64, line: &Line) {
    println!("seed {seed} FAILED");
    for violation in &line.violations {
        println!("    {violation}");
    }
    println!("    replay it: make sim SEED={seed}");
}

fn summary(found: &BTreeMap<u64, Line>, seconds: f64, jobs: u64) -> BTreeMap<String, u64> {
    let count = found.len();
    let simulated: u64 = found.values().map(|line| line.simulated_ms).sum();
    let steps: u64 = found.values().map(|line| line.steps).sum();
    let failed = found.values().filter(|line| !line.violations.is_empty()).count();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in found.values().flat_map(|line| &line.counts) {
        *counts.entry(name.clone()).or_default() += count;
    }
    let rate = count as f64 / seconds.max(0.001);
    println!(
        "{count} seeds in {seconds:.1} s: {rate:.1} seeds/s on {jobs} cores; {failed} failed; {:.1} h simulated, {steps} steps",
        simulated as f64 / 3_600_000.0
    );
    let listed: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{}", listed.join(", "));
    counts
}

/// Plays a seed in a process of its own.
fn spawn(seed: u64, defect: Option<&str>) -> Line {
    let program = std::env::current_exe().expect("this program has a file");
    let child = Command::new(program)
        .args(["--one", &seed.to_string()])
        .env(shape::CANARY_NAME, shape::CANARY)
        .envs(defect.map(|defect| (DEFECT, defect)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut line = Line::default();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            line.violations.push(format!("harness: no process: {e}"));
            return line;
        }
    };
    let (mut text, mut errors) = (String::new(), String::new());
    let status = wait(&mut child);
    if let Some(mut out) = child.stdout.take() {
        let _ = out.read_to_string(&mut text);
    }
    if let Some(mut out) = child.stderr.take() {
        let _ = out.read_to_string(&mut errors);
    }
    for row in text.lines() {
        match row.split_once(' ') {
            Some(("violation", what)) => line.violations.push(what.to_owned()),
            Some(("digest", digest)) => digest.clone_into(&mut line.digest),
            Some(("steps", steps)) => line.steps = steps.parse().unwrap_or(0),
            Some(("simulated", ms)) => line.simulated_ms = ms.parse().unwrap_or(0),
            Some(("count", rest)) => {
                if let Some((count, name)) = rest.split_once(' ') {
                    line.counts.insert(name.to_owned(), count.parse().unwrap_or(0));
                }
            }
            _ => {}
        }
    }
    match status {
        Some(true) => {}
        Some(false) if line.violations.is_empty() => {
            let last: String = errors.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
            line.violations.push(format!("the process failed: {last}"));
        }
        Some(false) => {}
        None => line.violations.push("liveness: the process does not end".to_owned()),
    }
    line
}

/// Waits for a process, for a while. What it prints fits into the pipe.
fn wait(child: &mut Child) -> Option<bool> {
    let mut looked = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if looked.elapsed() > LOOK => {
                looked = Instant::now();
                if ticks(child.id()) > LIMIT_TICKS {
                    let _ = child.kill();
                    let _ = child.wait();
                    return None;
                }
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return Some(false),
        }
    }
}

/// Gives the processor time that a process has had, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything, come the state and ten numbers; then the times.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}
