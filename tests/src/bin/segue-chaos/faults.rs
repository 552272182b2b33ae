//! What is done to the cluster. Every fault is seen to have happened before it is counted.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use segue_tests::{
    TestCluster,
    cluster::{COORDINATOR, is_alive},
    draw::Draw,
    hosts::Way,
    process::Process,
    until, wait,
};

use crate::{
    kind::{Budget, Kind},
    plan,
};

/// The longest time that a process is stopped, or a host cut off: both longer and shorter than a lease.
const AWAY: Duration = Duration::from_secs(5);

/// How much later packets of a slow host arrive, and how many of 100 a lossy one loses.
const SLOW: Duration = Duration::from_millis(200);
const LOSSY: u8 = 5;

/// How long one fault may look for something to hit.
const SEARCH: Duration = Duration::from_secs(120);

/// Injects faults as a seed draws them.
#[derive(Debug)]
pub struct Faults {
    /// What is left of the budget; the next one is the last.
    deck: Vec<Kind>,
    workers: Vec<String>,
    /// The longest time between two faults.
    pause: Duration,
    draw: Draw,
    done: Done,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Done {
    pub counts: BTreeMap<Kind, u32>,
    /// How long coordinators took to serve again after they were killed.
    pub back: Vec<Duration>,
}

impl Faults {
    /// Draws an order of the budget.
    pub fn new(budget: &Budget, workers: Vec<String>, pause: Duration, mut draw: Draw) -> Self {
        Self { deck: budget.deck(&mut draw), workers, pause, draw, done: Done::default() }
    }

    /// Waits a little and injects the next fault; says whether there was one. Processes are there again when it returns;
    /// the link of a host heals at its own time.
    ///
    /// # Panics
    /// If there is nothing that the fault could hit, for long.
    pub fn inject(&mut self, cluster: &mut TestCluster) -> bool {
        let Some(kind) = self.deck.pop() else { return false };
        let begun = Instant::now();
        loop {
            thread::sleep(self.draw.time(self.pause));
            if self.happened(kind, cluster).is_some() {
                *self.done.counts.entry(kind).or_default() += 1;
                return true;
            }
            assert!(begun.elapsed() < SEARCH, "{} finds nothing to hit", kind.name());
        }
    }

    /// Injects one fault; none where there was nothing to hit.
    fn happened(&mut self, kind: Kind, cluster: &mut TestCluster) -> Option<()> {
        let worker = self.draw.one_of(&self.workers).cloned().unwrap_or_default();
        let away = self.draw.time(AWAY);
        match kind {
            Kind::KillCoordinator => {
                cluster.kill_coordinator();
                let begun = Instant::now();
                cluster.start_coordinator();
                self.done.back.push(begun.elapsed());
            }
            Kind::EndCoordinator => {
                let status = cluster.stop_coordinator();
                assert!(status.success(), "a coordinator that is told to end ends well: {status}");
                cluster.start_coordinator();
            }
            Kind::StopCoordinator => stop(cluster.coordinator(), away),
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
            Kind::StopWorker => stop(cluster.worker(&worker), away),
            Kind::CutWorker => {
                let open = cluster.relay(&worker).cut();
                thread::sleep(away);
                cluster.relay(&worker).mend();
                // It had just lost its connection by itself: nothing was cut.
                (open > 0).then_some(())?;
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
                until("the killed command is gone", || (!is_alive(command)).then_some(()));
            }
            Kind::HostDown => {
                let host = self.whole_host(cluster)?;
                cluster.network().unplug(&host, away);
            }
            Kind::HostSilent => self.change(cluster, Way::Silent, away)?,
            Kind::HostDeaf => self.change(cluster, Way::Deaf, away)?,
            Kind::HostMute => self.change(cluster, Way::Mute, away)?,
            Kind::HostSlow => self.change(cluster, Way::Slow(SLOW), away)?,
            Kind::HostLossy => self.change(cluster, Way::Lossy(LOSSY), away)?,
        }
        Some(())
    }

    /// Changes the way of some host for a time, and waits until a packet has felt it.
    fn change(&mut self, cluster: &TestCluster, way: Way, time: Duration) -> Option<()> {
        let host = self.whole_host(cluster)?;
        let network = cluster.network();
        let before = network.counts(&host);
        network.set(&host, way, Some(Instant::now() + time));
        wait::within(time, || {
            let now = network.counts(&host);
            (now.lost > before.lost || now.delayed > before.delayed).then_some(())
        })
    }

    /// Draws a host that nothing is wrong with.
    fn whole_host(&mut self, cluster: &TestCluster) -> Option<String> {
        let network = cluster.network();
        let hosts: Vec<String> = self.workers.iter().cloned().chain([COORDINATOR.to_owned()]).collect();
        let host = self.draw.one_of(&hosts)?;
        (network.way(host) == Way::Whole && network.is_up(host)).then(|| host.clone())
    }

    /// Gives what was done.
    pub fn done(&self) -> Done {
        self.done.clone()
    }
}

/// Stops a process for a time.
fn stop(process: &Process, time: Duration) {
    process.signal(Signal::SIGSTOP);
    until("the stopped process stands still", || (state(process.id()) == Some('T')).then_some(()));
    thread::sleep(time);
    process.signal(Signal::SIGCONT);
}

/// Gives the state of a process in the letter of /proc.
fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Lists the children of a process.
pub fn children(parent: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}
