//! The environment: which machines there are, and what befalls them. It draws faults and undoes them; it judges nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::memory::InMemory;
use tokio::time::sleep;

use crate::{
    chance::Chance,
    clockwork::{self, now_ms, now_us},
    host::Host,
    ledger::Ledger,
    net::{Net, Way},
    say,
    worker::{self, Machine, Running},
};

/// A kind of fault. Each seed draws which of them it has, so that rare ones meet as well as common ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    CrashInRecovery,
    Restart,
    WorkerCrash,
    WorkerDrain,
    Partition,
    OneWay,
    Slow,
    Freeze,
    ClockJump,
    FlushFails,
    SlowDisk,
    Reset,
    Silence,
}

const ALL: [Fault; 14] = [
    Fault::Crash,
    Fault::CrashInRecovery,
    Fault::Restart,
    Fault::WorkerCrash,
    Fault::WorkerDrain,
    Fault::Partition,
    Fault::OneWay,
    Fault::Slow,
    Fault::Freeze,
    Fault::ClockJump,
    Fault::FlushFails,
    Fault::SlowDisk,
    Fault::Reset,
    Fault::Silence,
];

/// Names every kind of fault.
pub fn kinds() -> Vec<&'static str> {
    ALL.iter().map(|fault| fault.name()).collect()
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::CrashInRecovery => "crash_in_recovery",
            Self::Restart => "restart",
            Self::WorkerCrash => "worker_crash",
            Self::WorkerDrain => "worker_drain",
            Self::Partition => "partition",
            Self::OneWay => "one_way",
            Self::Slow => "slow",
            Self::Freeze => "freeze",
            Self::ClockJump => "clock_jump",
            Self::FlushFails => "flush_fails",
            Self::SlowDisk => "slow_disk",
            Self::Reset => "reset",
            Self::Silence => "silence",
        }
    }
}

/// A worker's machine, and the worker on it while there is one.
struct Place {
    machine: Machine,
    running: Option<Running>,
    starts: u32,
    /// When it is started again.
    back_at: u64,
}

pub struct Environment {
    seed: u64,
    net: Net,
    host: Host,
    ledger: Ledger,
    blobs: Arc<InMemory>,
    chance: Chance,
    places: Vec<Place>,
    hosts: Vec<String>,
    faults: Vec<Fault>,
    /// Least and most time between two faults.
    pace: (u64, u64),
    coordinator_back_at: u64,
    /// A second crash soon after the next start.
    crash_again: bool,
    /// What is taken back later: when, and what.
    undo: Vec<(u64, Undo)>,
}

enum Undo {
    Heal(String, Way),
    Fast(String),
    FastDisk,
}

impl Environment {
    pub fn new(seed: u64, net: Net, host: Host, ledger: Ledger, blobs: Arc<InMemory>, clients: &[String]) -> Self {
        let mut chance = Chance::of(seed, "environment");
        let count = chance.between(2, 4);
        let places: Vec<Place> = (0..count)
            .map(|at| {
                // The first one is large enough for every task and has every label that there is.
                let zone = if at == 0 || chance.percent(40) { "a" } else { "b" };
                let cpu_milli = if at == 0 { 3_000 } else { *chance.pick(&[1_000, 2_000, 4_000]) };
                let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
                let machine = Machine { name: format!("worker-{at}"), cpu_milli, labels };
                Place { machine, running: None, starts: 0, back_at: 0 }
            })
            .collect();
        let faults: Vec<Fault> = ALL.into_iter().filter(|_| chance.percent(55)).collect();
        let pace = *chance.pick(&[(20, 600), (100, 2_000), (500, 5_000)]);
        let hosts = places.iter().map(|place| place.machine.name.clone()).chain(clients.iter().cloned()).collect();
        Self {
            seed,
            net,
            host,
            ledger,
            blobs,
            chance,
            places,
            hosts,
            faults,
            pace,
            coordinator_back_at: 0,
            crash_again: false,
            undo: Vec::new(),
        }
    }

    pub fn workers(&self) -> Vec<String> {
        self.places.iter().map(|place| place.machine.name.clone()).collect()
    }

    /// Brings faults until a time, and tends what they did.
    pub async fn trouble(&mut self, until_ms: u64) {
        let mut next = now_ms() + self.chance.between(self.pace.0, self.pace.1);
        while now_ms() < until_ms {
            self.tend();
            if now_ms() >= next {
                if !self.faults.is_empty() {
                    let fault = *self.chance.pick(&self.faults.clone());
                    self.bring(fault).await;
                }
                next = now_ms() + self.chance.between(self.pace.0, self.pace.1);
            }
            sleep(Duration::from_millis(self.chance.between(5, 40))).await;
        }
    }

    /// Takes every fault back.
    pub fn calm(&mut self) {
        say!(self.ledger.trace, "environment", "calms down");
        self.undo.clear();
        self.crash_again = false;
        self.net.calm();
        self.host.slow_disk(0);
        self.host.disk.heal();
        self.coordinator_back_at = 0;
        for place in &mut self.places {
            place.back_at = 0;
        }
        self.tend();
    }

    /// Starts again what is down and due, and undoes what is due.
    pub fn tend(&mut self) {
        let now = now_ms();
        if self.host.has_given_up() {
            say!(self.ledger.trace, "coordinator", "has given up");
            self.host.crash(true);
            self.coordinator_back_at = now + self.chance.between(20, 1_000);
        }
        if !self.host.is_up() && now >= self.coordinator_back_at {
            self.host.boot();
            // Connections that nobody was told about are reset by the new process, in time.
            if self.chance.percent(60) {
                self.net.break_all(None, true);
            }
            if std::mem::take(&mut self.crash_again) {
                let host = self.host.clone();
                let after = self.chance.between(0, 8_000);
                tokio::spawn(async move {
                    sleep(Duration::from_micros(after)).await;
                    host.crash(true);
                });
            }
        }
        for at in 0..self.places.len() {
            let place = &mut self.places[at];
            if place.running.as_ref().is_some_and(Running::is_over) {
                place.running = None;
                place.back_at = now + self.chance.between(50, 2_000);
            }
            if place.running.is_none() && now >= place.back_at {
                place.starts += 1;
                let incarnation = format!("i{}", place.starts);
                let chance = Chance::of(self.seed, &format!("{}/{}", place.machine.name, place.starts));
                let running = worker::start(&place.machine, incarnation, &self.net, &self.ledger, &self.blobs, chance);
                place.running = Some(running);
            }
        }
        let (due, later) = std::mem::take(&mut self.undo).into_iter().partition(|(at, _)| *at <= now);
        self.undo = later;
        for (_, undo) in due {
            match undo {
                Undo::Heal(host, way) => self.net.heal(&host, way),
                Undo::Fast(host) => self.net.slow(&host, 0),
                Undo::FastDisk => self.host.slow_disk(0),
            }
        }
    }

    async fn bring(&mut self, fault: Fault) {
        let now = now_ms();
        let host = self.chance.pick(&self.hosts.clone()).clone();
        let place = self.chance.below(self.places.len());
        let told = self.chance.percent(60);
        say!(self.ledger.trace, "environment", "fault: {}", fault.name());
        match fault {
            Fault::Crash | Fault::CrashInRecovery => {
                if !self.host.is_up() {
                    return;
                }
                self.host.crash(told);
                self.crash_again = fault == Fault::CrashInRecovery;
                let away = if self.chance.percent(20) { 6_000 } else { 900 };
                self.coordinator_back_at = now + self.chance.between(5, away);
            }
            Fault::Restart => {
                if !self.host.is_up() {
                    return;
                }
                self.host.stop().await;
                self.coordinator_back_at = now_ms() + self.chance.between(5, 800);
            }
            Fault::WorkerCrash => {
                let place = &mut self.places[place];
                let Some(running) = place.running.take() else { return };
                say!(self.ledger.trace, place.machine.name, "is killed");
                running.kill(&place.machine, &self.ledger);
                self.net.break_all(Some(&place.machine.name), told);
                let away = if self.chance.percent(25) { 8_000 } else { 1_500 };
                place.back_at = now + self.chance.between(5, away);
            }
            Fault::WorkerDrain => match &self.places[place].running {
                Some(running) => running.drain(),
                None => return,
            },
            Fault::Partition | Fault::OneWay => {
                let ways: &[Way] = match (fault, self.chance.percent(50)) {
                    (Fault::Partition, _) => &[Way::Up, Way::Down],
                    (_, true) => &[Way::Up],
                    (_, false) => &[Way::Down],
                };
                let until = now + self.chance.between(50, 7_000);
                say!(self.ledger.trace, "environment", "{host} is cut off {ways:?} until {until}");
                for way in ways {
                    self.net.cut(&host, *way);
                    self.undo.push((until, Undo::Heal(host.clone(), *way)));
                }
            }
            Fault::Slow => {
                self.net.slow(&host, self.chance.between(5_000, 700_000));
                self.undo.push((now + self.chance.between(200, 6_000), Undo::Fast(host)));
            }
            Fault::Freeze => match &self.places[place].running {
                Some(running) => {
                    let until = now_us() + self.chance.between(50_000, 7_000_000);
                    running.freeze(&self.places[place].machine, until, &self.ledger);
                }
                None => return,
            },
            Fault::ClockJump => {
                let by = self.chance.between(1, 20_000) as i64;
                let by = if self.chance.percent(50) { by } else { -by };
                say!(self.ledger.trace, "environment", "the wall clock jumps by {by} ms");
                clockwork::shift_wall(by);
            }
            Fault::FlushFails => self.host.disk.fail_next_flush(),
            Fault::SlowDisk => {
                self.host.slow_disk(self.chance.between(10_000, 900_000));
                self.undo.push((now + self.chance.between(200, 3_000), Undo::FastDisk));
            }
            Fault::Reset | Fault::Silence => {
                say!(self.ledger.trace, "environment", "connections of {host} break");
                self.net.break_all(Some(&host), fault == Fault::Reset);
            }
        }
        self.ledger.fault(fault.name());
    }
}
