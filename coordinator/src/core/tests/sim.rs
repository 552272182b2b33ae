//! A worker as the core meets it: commands and reports that are on their way, two lines, and a lease of its own.

use std::collections::{BTreeMap, VecDeque};

use segue_proto::{artifact::Usage, ids::Token, resources::Resources};

use super::support::{Bench, LEASE, key};
use crate::core::{Command, Event, Held, Outcome, Refused, Verdict, Worker, WorkerKey};

/// Something that is on its way to the coordinator.
#[derive(Debug, Clone)]
pub enum Report {
    Started(Token),
    Finished(Token, Outcome),
    HandBack(Token),
    Heartbeat(u64),
    Draining,
}

/// A simulated worker. What it does follows the queue and the table of the real one.
#[derive(Debug)]
pub struct Sim {
    pub key: WorkerKey,
    pub capacity: Resources,
    link: Option<u64>,
    pub inbox: VecDeque<Command>,
    pub outbox: VecDeque<Report>,
    leased: VecDeque<(Token, Resources)>,
    ahead: VecDeque<(Token, Resources)>,
    pub running: BTreeMap<String, (Token, Resources)>,
    /// Running attempts that were told to stop.
    pub stopping: Vec<Token>,
    /// Ends that were not acknowledged.
    finished: Vec<(Token, Outcome)>,
    draining: bool,
    welcomed: bool,
    lease_until: u64,
    /// Of heartbeats that were not answered: number and time.
    asked: Vec<(u64, u64)>,
    beats: u64,
    /// How long its attempts say they took.
    pub took_ms: u64,
}

impl Sim {
    pub fn new(name: &str, start: u32, cpu: u32) -> Self {
        Self {
            key: key(name, &format!("s{start}")),
            capacity: Resources { cpu_milli: cpu * 1_000, memory_bytes: 1 << 30, ..Resources::default() },
            link: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            leased: VecDeque::new(),
            ahead: VecDeque::new(),
            running: BTreeMap::new(),
            stopping: Vec::new(),
            finished: Vec::new(),
            draining: false,
            welcomed: false,
            lease_until: 0,
            asked: Vec::new(),
            beats: 0,
            took_ms: 60_000,
        }
    }

    pub const fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    /// Everything that it holds, waiting ones first.
    pub fn held(&self) -> Vec<Held> {
        let waiting = self.leased.iter().chain(&self.ahead).map(|(token, _)| (token, false));
        let begun = self.running.values().map(|(token, _)| (token, true));
        let ended = self.finished.iter().map(|(token, _)| (token, true));
        let all = waiting.chain(begun).chain(ended);
        all.map(|(token, started)| Held { token: token.clone(), started }).collect()
    }

    /// Says hello over a new link.
    pub fn hello(&mut self, bench: &mut Bench) -> Result<Verdict, Refused> {
        let link = bench.next_link();
        self.link = Some(link);
        self.asked = vec![(0, bench.now)];
        let mut worker = Worker::awaited(self.key.clone());
        worker.link = Some(link);
        worker.capacity = self.capacity.clone();
        worker.draining = self.draining;
        worker.operators.insert(("core.noop".into(), "1".into()));
        bench.tell(Event::Hello { worker: Box::new(worker), held: self.held() })
    }

    /// It has been told to take no more work, and has none.
    pub fn is_drained(&self) -> bool {
        self.draining && self.held().is_empty()
    }

    /// The link breaks, because the coordinator is gone.
    pub fn drop_link(&mut self) {
        self.inbox.clear();
        // The rest is told anew after the next welcome. Nobody else remembers what was handed back.
        self.outbox.retain(|report| matches!(report, Report::HandBack(_)));
        self.welcomed = false;
        self.link = None;
        self.lease_until = if self.held().is_empty() { 0 } else { self.lease_until };
    }

    /// The link breaks: what is on its way is lost. `told`: the coordinator notices.
    pub fn cut(&mut self, bench: &mut Bench, told: bool) {
        let link = self.link;
        self.drop_link();
        if let (Some(link), true) = (link, told) {
            bench.tell(Event::LinkClosed { worker: self.key.clone(), link }).unwrap();
        }
    }

    /// Ends what waits and runs, and the link, when the lease is over. Reports of ends stay.
    pub fn pass(&mut self, now: u64) {
        if now >= self.lease_until && self.lease_until > 0 {
            self.leased.clear();
            self.ahead.clear();
            self.running.clear();
            self.stopping.clear();
            self.drop_link();
        }
    }

    /// Obeys the next command.
    pub fn obey(&mut self) {
        let Some(command) = self.inbox.pop_front() else { return };
        match command {
            Command::Welcome { unknown, .. } => {
                self.welcomed = true;
                self.answered(0);
                unknown.iter().for_each(|token| self.forget(token));
                let ends =
                    self.finished.iter().map(|(token, outcome)| Report::Finished(token.clone(), outcome.clone()));
                self.outbox.extend(ends);
            }
            Command::Goodbye { .. } => self.link = None,
            _ if !self.welcomed => {}
            Command::Assign { token, reserved, ahead, .. } => {
                if self.draining {
                    self.outbox.push_back(Report::HandBack(token));
                } else if ahead {
                    self.ahead.push_back((token, reserved));
                } else {
                    self.leased.push_back((token, reserved));
                }
            }
            Command::Retract { tokens } => {
                for token in tokens {
                    if self.take_waiting(&token) {
                        self.outbox.push_back(Report::HandBack(token));
                    }
                }
            }
            Command::Cancel { token } => {
                if self.running.contains_key(&token.to_string()) {
                    self.stopping.push(token);
                } else if !self.finished.iter().any(|(ended, _)| *ended == token) {
                    self.take_waiting(&token);
                    self.end(token, Outcome::Cancelled);
                }
            }
            Command::HeartbeatAck { sequence, lost } => {
                self.answered(sequence);
                lost.iter().for_each(|token| self.forget(token));
            }
            Command::FinishedAck { token } => self.finished.retain(|(ended, _)| *ended != token),
            Command::Drain => self.drain(),
        }
        self.start();
    }

    /// Takes no more work, and gives back what has not begun.
    pub fn drain(&mut self) {
        self.draining = true;
        self.outbox.push_back(Report::Draining);
        for (token, _) in self.leased.drain(..).chain(self.ahead.drain(..)) {
            self.outbox.push_back(Report::HandBack(token));
        }
    }

    fn answered(&mut self, sequence: u64) {
        if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == sequence) {
            self.lease_until = self.lease_until.max(self.asked[at].1 + LEASE);
            self.asked.remove(at);
        }
    }

    fn forget(&mut self, token: &Token) {
        self.take_waiting(token);
        self.running.remove(&token.to_string());
        self.stopping.retain(|stopping| stopping != token);
        self.finished.retain(|(ended, _)| ended != token);
    }

    fn take_waiting(&mut self, token: &Token) -> bool {
        let before = self.leased.len() + self.ahead.len();
        self.leased.retain(|(waiting, _)| waiting != token);
        self.ahead.retain(|(waiting, _)| waiting != token);
        before > self.leased.len() + self.ahead.len()
    }

    pub fn used(&self) -> Resources {
        self.running.values().fold(Resources::default(), |sum, (_, needs)| sum.plus(needs))
    }

    /// Starts what has room: the line of the leased ones in order, then whatever fits of what was given ahead.
    fn start(&mut self) {
        loop {
            let free = self.capacity.checked_sub(&self.used()).expect("a worker never runs more than it can");
            let next = match self.leased.front() {
                Some((_, needs)) if free.fits(needs) => self.leased.pop_front(),
                Some(_) => None,
                None => {
                    let place = self.ahead.iter().position(|(_, needs)| free.fits(needs));
                    place.and_then(|place| self.ahead.remove(place))
                }
            };
            let Some((token, needs)) = next else { return };
            self.outbox.push_back(Report::Started(token.clone()));
            self.running.insert(token.to_string(), (token, needs));
        }
    }

    /// An attempt that runs here ends.
    pub fn end(&mut self, token: Token, outcome: Outcome) {
        let stopped = self.stopping.contains(&token);
        let outcome = if stopped { Outcome::Cancelled } else { outcome };
        self.forget(&token);
        self.finished.push((token.clone(), outcome.clone()));
        self.outbox.push_back(Report::Finished(token, outcome));
        self.start();
    }

    pub fn beat(&mut self, now: u64) {
        self.beats += 1;
        self.asked.push((self.beats, now));
        self.outbox.push_front(Report::Heartbeat(self.beats));
    }

    /// Gives the next report as the event that it is to the coordinator.
    pub fn next_event(&mut self) -> Option<Event> {
        if self.link.is_none() || !self.welcomed {
            return None;
        }
        let worker = self.key.clone();
        Some(match self.outbox.pop_front()? {
            Report::Started(token) => Event::Started { worker, token },
            Report::Finished(token, outcome) => {
                let usage = Usage { wall_ms: self.took_ms, ..Usage::default() };
                Event::Finished { worker, token, usage, outcome, log_bytes: 0 }
            }
            Report::HandBack(token) => Event::HandBack { worker, token, started: false },
            Report::Heartbeat(sequence) => {
                // What it holds when it is sent; nothing between the two is lost by that.
                let tokens = self.held().into_iter().map(|held| held.token).collect();
                Event::Heartbeat { worker, sequence, tokens }
            }
            Report::Draining => Event::Draining { worker },
        })
    }
}
