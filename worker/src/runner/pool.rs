//! The warm runners of a worker.

use std::{
    collections::BTreeMap,
    io,
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::process::Command;

use super::{child::Runner, spawner::Spawner};

/// Runners that wait for work, and the means to start more.
#[derive(Debug)]
pub struct Pool {
    spawner: Spawner,
    program: String,
    arguments: Vec<String>,
    /// Cores that one attempt may use in parallel.
    threads: u32,
    /// Idle runners that are kept.
    keep: usize,
    /// Longest idle first.
    idle: Mutex<Vec<Runner>>,
}

impl Pool {
    /// Makes an empty pool. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(program: String, arguments: Vec<String>, threads: u32, keep: usize) -> io::Result<Self> {
        Ok(Self { spawner: Spawner::start()?, program, arguments, threads, keep, idle: Mutex::default() })
    }

    /// Gives a runner for an operator: one that ran it before (its model may be loaded), any idle one, or a new one.
    ///
    /// # Errors
    /// If a new one cannot be started.
    pub async fn take(&self, operator: &str) -> io::Result<Runner> {
        let found = {
            let mut idle = self.lock();
            idle.retain_mut(Runner::is_alive);
            let warm = idle.iter().rposition(|runner| runner.knows(operator));
            warm.or_else(|| idle.len().checked_sub(1)).map(|index| idle.remove(index))
        };
        match found {
            Some(runner) => Ok(runner),
            None => self.fresh(&BTreeMap::new()).await,
        }
    }

    /// Starts a runner with these variables added to its environment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn fresh(&self, env: &BTreeMap<String, String>) -> io::Result<Runner> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(env);
        for variable in ["RAYON_NUM_THREADS", "POLARS_MAX_THREADS"] {
            if std::env::var_os(variable).is_none() && !env.contains_key(variable) {
                command.env(variable, self.threads.to_string());
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        Runner::new(self.spawner.spawn(command).await?)
    }

    /// Takes a runner back. Above the limit the one that was idle longest ends.
    pub fn give_back(&self, runner: Runner) {
        let mut idle = self.lock();
        idle.push(runner);
        let excess = idle.len().saturating_sub(self.keep);
        idle.drain(..excess);
    }

    /// Ends every idle runner and waits until they are gone.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.lock());
        for mut runner in idle {
            runner.kill().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Runner>> {
        // Nothing in here can panic half way.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
