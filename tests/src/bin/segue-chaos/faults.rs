//! What is done to the cluster. Every fault is seen to have happened before it is counted.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use segue_tests::{TestCluster, cluster::is_alive, until};

use crate::{draw::Draw, plan};

/// The longest time that a process is stopped, or a worker cut off: both longer and shorter than a lease.
const AWAY: Duration = Duration::from_secs(5);

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// SIGKILL of the coordinator
    KillCoordinator,
    /// SIGKILL of a worker
    KillWorker,
    /// SIGKILL of a runner
    KillRunner,
    /// SIGKILL of a command
    KillCommand,
    /// SIGSTOP of the coordinator, and SIGCONT after a while
    StopCoordinator,
    /// SIGSTOP of a worker, and SIGCONT after a while
    StopWorker,
    /// SIGTERM of the coordinator, and a new one
    EndCoordinator,
    /// SIGTERM of a worker, which drains, and a new one
    EndWorker,
    /// A worker loses its connection and finds no way for a while
    CutWorker,
}

/// Injects faults as a seed draws them.
#[derive(Debug)]
pub struct Faults {
    kinds: Vec<Kind>,
    workers: Vec<String>,
    /// The longest time between two faults.
    pause: Duration,
    draw: Draw,
    done: BTreeMap<Kind, u32>,
    /// How long coordinators took to serve again after they were killed.
    back: Vec<Duration>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Done {
    pub counts: BTreeMap<Kind, u32>,
    pub back: Vec<Duration>,
}

impl Faults {
    /// Draws from these kinds, or from all where none is named.
    pub fn new(kinds: &[Kind], workers: Vec<String>, pause: Duration, draw: Draw) -> Self {
        let kinds = if kinds.is_empty() { Kind::value_variants().to_vec() } else { kinds.to_vec() };
        Self { kinds, workers, pause, draw, done: BTreeMap::new(), back: Vec::new() }
    }

    /// Waits a little and injects one fault. The cluster is whole again when it returns.
    pub fn inject(&mut self, cluster: &mut TestCluster) {
        loop {
            thread::sleep(self.draw.time(self.pause));
            if let Some(kind) = self.happened(cluster) {
                *self.done.entry(kind).or_default() += 1;
                return;
            }
        }
    }

    /// Injects one fault and says which; none where there was nothing to hit.
    fn happened(&mut self, cluster: &mut TestCluster) -> Option<Kind> {
        let kind = self.draw.one_of(&self.kinds).copied().unwrap_or(Kind::KillCoordinator);
        let worker = self.draw.one_of(&self.workers).cloned().unwrap_or_default();
        let away = self.draw.time(AWAY);
        match kind {
            Kind::KillCoordinator => {
                cluster.kill_coordinator();
                let begun = Instant::now();
                cluster.start_coordinator();
                self.back.push(begun.elapsed());
            }
            Kind::EndCoordinator => {
                let status = cluster.stop_coordinator();
                assert!(status.success(), "a coordinator that is told to end ends well: {status}");
                cluster.start_coordinator();
            }
            Kind::StopCoordinator => {
                let stopped = cluster.coordinator();
                stopped.signal(Signal::SIGSTOP);
                thread::sleep(away);
                stopped.signal(Signal::SIGCONT);
            }
            Kind::KillWorker => {
                cluster.kill_worker(&worker);
                cluster.add_worker(&plan(&worker));
            }
            Kind::EndWorker => {
                cluster.worker(&worker).signal(Signal::SIGTERM);
                let status = cluster.worker(&worker).wait();
                assert!(status.success(), "a worker that is told to end ends well: {status}");
                cluster.add_worker(&plan(&worker));
            }
            Kind::StopWorker => {
                cluster.worker(&worker).signal(Signal::SIGSTOP);
                thread::sleep(away);
                cluster.worker(&worker).signal(Signal::SIGCONT);
            }
            Kind::CutWorker => {
                cluster.relay(&worker).cut();
                thread::sleep(away);
                cluster.relay(&worker).mend();
            }
            Kind::KillRunner => {
                let runners = children(cluster.worker(&worker).id());
                let runner = self.draw.one_of(&runners).copied()?;
                kill(runner, Signal::SIGKILL).ok()?;
                until("the killed runner is gone", || (!is_alive(runner)).then_some(()));
            }
            Kind::KillCommand => {
                let runners = children(cluster.worker(&worker).id());
                let commands: Vec<Pid> = runners.into_iter().flat_map(children).collect();
                let command = self.draw.one_of(&commands).copied()?;
                killpg(command, Signal::SIGKILL).ok()?;
            }
        }
        Some(kind)
    }

    /// Gives what was done.
    pub fn done(&self) -> Done {
        Done { counts: self.done.clone(), back: self.back.clone() }
    }
}

/// Lists the children of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}
