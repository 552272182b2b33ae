//! The warm runners of a worker.

use std::{
    collections::BTreeMap,
    io,
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::process::Command;

use super::{
    child::{Duty, Runner},
    spawner::Spawner,
};

/// How long an idle runner above the number that is kept waits for a job: the gaps of a busy worker are shorter.
const LINGER: Duration = Duration::from_secs(10);

/// Idle runners of which there are never more.
const MOST_IDLE: usize = 256;

/// Runners that wait for work, and the means to start more.
#[derive(Debug)]
pub struct Pool {
    spawner: Spawner,
    program: String,
    arguments: Vec<String>,
    /// Cores that one attempt may use in parallel.
    threads: u32,
    /// Idle runners of each duty that are kept for ever.
    keep: usize,
    /// Longest idle first.
    idle: Mutex<Vec<Idle>>,
}

/// What an operator needs of its runner.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub operator: &'a str,
    /// GPUs of its lease.
    pub devices: &'a [u32],
    /// Variables that make it see those and no others.
    pub hardware: &'a BTreeMap<String, String>,
    /// Variables of its task. Those are of a process, so that a task with some gets a process of its own.
    pub env: &'a BTreeMap<String, String>,
}

#[derive(Debug)]
struct Idle {
    runner: Runner,
    since: Instant,
}

impl Pool {
    /// Makes an empty pool. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(program: String, arguments: Vec<String>, threads: u32, keep: usize) -> io::Result<Self> {
        Ok(Self { spawner: Spawner::start()?, program, arguments, threads, keep, idle: Mutex::default() })
    }

    /// Gives a runner for an operator that sees the GPUs that it holds: one that ran it before (its model may be loaded),
    /// any idle one, or a new one. A task with variables of its own always gets a new one.
    ///
    /// # Errors
    /// If a new one cannot be started.
    pub async fn for_operator(&self, wanted: Wanted<'_>) -> io::Result<Runner> {
        if wanted.env.is_empty()
            && let Some(runner) = self.idle(Duty::Operators, wanted.devices, |runner| runner.knows(wanted.operator))
        {
            return Ok(runner);
        }
        // What the task itself says about GPUs counts more than what its lease says.
        let mut env = wanted.hardware.clone();
        env.extend(wanted.env.clone());
        self.start(Duty::Operators, wanted.devices, &env).await
    }

    /// Gives a runner that supervises a command.
    ///
    /// # Errors
    /// If a new one cannot be started.
    pub async fn for_command(&self) -> io::Result<Runner> {
        match self.idle(Duty::Commands, &[], |_| true) {
            Some(runner) => Ok(runner),
            None => self.start(Duty::Commands, &[], &BTreeMap::new()).await,
        }
    }

    /// Takes an idle runner of this duty that is alive and sees these GPUs, the latest preferred one if there is any.
    fn idle(&self, duty: Duty, devices: &[u32], preferred: impl Fn(&Runner) -> bool) -> Option<Runner> {
        let fits = |runner: &Runner| runner.duty() == duty && runner.devices() == devices;
        loop {
            let mut runner = {
                let mut idle = self.lock();
                let found = idle.iter().rposition(|one| fits(&one.runner) && preferred(&one.runner));
                let found = found.or_else(|| idle.iter().rposition(|one| fits(&one.runner)));
                idle.remove(found?).runner
            };
            if runner.is_alive() {
                return Some(runner);
            }
        }
    }

    async fn start(&self, duty: Duty, devices: &[u32], env: &BTreeMap<String, String>) -> io::Result<Runner> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(env);
        for variable in ["RAYON_NUM_THREADS", "POLARS_MAX_THREADS"] {
            if duty == Duty::Operators && std::env::var_os(variable).is_none() && !env.contains_key(variable) {
                command.env(variable, self.threads.to_string());
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        Runner::new(self.spawner.spawn(command).await?, duty, devices.to_vec())
    }

    /// Takes a runner back.
    pub fn give_back(&self, runner: Runner) {
        let mut idle = self.lock();
        idle.push(Idle { runner, since: Instant::now() });
        let excess = idle.len().saturating_sub(MOST_IDLE);
        idle.drain(..excess);
    }

    /// Ends runners that nobody needed for a while, above the number that is kept.
    pub fn trim(&self, now: Instant) {
        let gone: Vec<Idle> = {
            let mut idle = self.lock();
            let too_many = |duty| idle.iter().filter(|one| one.runner.duty() == duty).count().saturating_sub(self.keep);
            let (mut operators, mut commands) = (too_many(Duty::Operators), too_many(Duty::Commands));
            let is_over = |one: &mut Idle| {
                let left = match one.runner.duty() {
                    Duty::Operators => &mut operators,
                    Duty::Commands => &mut commands,
                };
                let over = *left > 0 && now.saturating_duration_since(one.since) >= LINGER;
                *left -= usize::from(over);
                over
            };
            idle.extract_if(.., is_over).collect()
        };
        drop(gone);
    }

    /// Ends every idle runner and waits until they are gone.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.lock());
        for mut one in idle {
            one.runner.kill().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        // Nothing in here can panic half way.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
