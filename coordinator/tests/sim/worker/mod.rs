//! A model worker: it speaks the worker protocol over real gRPC and keeps its rules (leases, heartbeats, fencing, reports
//! that are sent until they are acknowledged), but its processes are timers. A crash forgets everything.

mod attempt;
mod lease;
mod link;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path as ObjectPath};
use segue_proto::{
    ids::{Digest, Token},
    v1::{self, command::Command, finished, worker_event::Event},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use self::attempt::log_bytes;
use self::{
    attempt::{Ends, Script},
    lease::Lease,
    link::News,
};
use crate::{
    chance::Chance,
    clockwork::now_us,
    ledger::{Ledger, Report},
    net::Net,
    say,
};

/// Longest time that a process takes to die when it is asked politely.
const GRACE_US: u64 = 400_000;

/// What a worker is.
#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    pub cpu_milli: u32,
    pub labels: BTreeMap<String, String>,
}

/// The switches of a worker that runs.
#[derive(Debug)]
pub struct Running {
    pub incarnation: String,
    tasks: Vec<JoinHandle<()>>,
    frozen_until: Arc<AtomicU64>,
    frozen: Arc<Notify>,
    ended: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Running {
    /// Dies: everything that it held is forgotten.
    pub fn kill(&self, machine: &Machine, ledger: &Ledger) {
        for task in &self.tasks {
            task.abort();
        }
        ledger.died(&machine.name, &self.incarnation);
    }

    /// Stands still, as a process that is stopped or a machine that is paused.
    pub fn freeze(&self, machine: &Machine, until_us: u64, ledger: &Ledger) {
        let before = self.frozen_until.fetch_max(until_us, Relaxed);
        ledger.freeze(&machine.name, until_us.max(before));
        self.frozen.notify_one();
    }

    /// Ends in order: hands back, finishes, reports.
    pub fn drain(&self) {
        self.stop.cancel();
    }

    /// Says whether it has ended by itself.
    pub fn is_over(&self) -> bool {
        self.ended.load(Relaxed)
    }
}

/// Starts a worker.
pub fn start(
    machine: &Machine,
    incarnation: String,
    net: &Net,
    ledger: &Ledger,
    blobs: &Arc<InMemory>,
    chance: Chance,
) -> Running {
    let (news, inbox) = mpsc::channel(256);
    let (frozen_until, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (stop, frozen) = (CancellationToken::new(), Arc::new(Notify::new()));
    say!(ledger.trace, machine.name, "starts as {incarnation}");
    let worker = Worker {
        machine: machine.clone(),
        incarnation: incarnation.clone(),
        ledger: ledger.clone(),
        blobs: Arc::clone(blobs),
        chance: chance.clone(),
        held: BTreeMap::new(),
        leased: VecDeque::new(),
        ahead: VecDeque::new(),
        lease: Lease::default(),
        outbox: VecDeque::new(),
        link: Link::Down,
        draining: None,
        frozen_until: Arc::clone(&frozen_until),
        frozen: Arc::clone(&frozen),
    };
    let (flag, wish) = (Arc::clone(&ended), stop.clone());
    let tasks = vec![
        tokio::spawn(link::maintain(net.clone(), machine.name.clone(), news, chance)),
        tokio::spawn(async move {
            worker.run(inbox, wish).await;
            flag.store(true, Relaxed);
        }),
    ];
    Running { incarnation, tasks, frozen_until, frozen, ended, stop }
}

struct Worker {
    machine: Machine,
    incarnation: String,
    ledger: Ledger,
    blobs: Arc<InMemory>,
    chance: Chance,
    held: BTreeMap<Token, Held>,
    /// Waiting, with room reserved by the coordinator.
    leased: VecDeque<Token>,
    /// Waiting, without.
    ahead: VecDeque<Token>,
    lease: Lease,
    outbox: VecDeque<Outgoing>,
    link: Link,
    /// Since when, and until when what runs may finish.
    draining: Option<u64>,
    frozen_until: Arc<AtomicU64>,
    frozen: Arc<Notify>,
}

struct Held {
    cpu_milli: u32,
    is_ahead: bool,
    state: State,
    announce: bool,
    log_end: u64,
    log_sent: u64,
    log_acked: u64,
}

enum State {
    Waiting(Box<Script>),
    Running { script: Box<Script>, since: u64, ends_at: u64, why: Why },
    Finished(Box<v1::Finished>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    NotAtAll,
    Cancelled,
    Drained,
}

enum Link {
    Down,
    Greeting { messages: mpsc::Sender<v1::WorkerMessage>, give_up: CancellationToken, asked: u64 },
    Open { messages: mpsc::Sender<v1::WorkerMessage>, give_up: CancellationToken },
}

enum Outgoing {
    Event(Box<v1::WorkerEvent>),
    End(Token),
}

impl Worker {
    async fn run(mut self, mut inbox: mpsc::Receiver<News>, stop: CancellationToken) {
        let mut news = Vec::new();
        let mut thawed = false;
        loop {
            let frozen = self.frozen_until.load(Relaxed);
            if frozen > now_us() {
                tokio::time::sleep(Duration::from_micros(frozen - now_us())).await;
                thawed = true;
                continue;
            }
            self.pass_time().await;
            if std::mem::take(&mut thawed) {
                self.ledger.thawed(&self.machine.name);
            }
            self.start_waiting();
            if self.draining.is_some() && self.held.is_empty() && self.outbox.is_empty() {
                say!(self.ledger.trace, self.machine.name, "is drained and ends");
                if let Link::Open { give_up, .. } = &self.link {
                    // What was sent is given time to arrive.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    give_up.cancel();
                }
                return;
            }
            let wake = self.next_wake();
            let way_up = match &self.link {
                Link::Open { messages, .. } if self.has_news() => Some(messages.clone()),
                _ => None,
            };
            tokio::select! {
                biased;
                () = self.frozen.notified() => {}
                () = stop.cancelled(), if self.draining.is_none() => self.drain(),
                got = inbox.recv_many(&mut news, 256) => {
                    if got == 0 {
                        return;
                    }
                    // What came while it stood still is read only now: time first.
                    self.pass_time().await;
                    for one in news.drain(..) {
                        if !self.take(one) {
                            say!(self.ledger.trace, self.machine.name, "is superseded and ends");
                            self.fence_all("superseded");
                            return;
                        }
                    }
                }
                Ok(permit) = async { way_up.as_ref().expect("checked by the condition").reserve().await }, if way_up.is_some() => {
                    let message = self.message();
                    if !message.events.is_empty() {
                        permit.send(message);
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn next_wake(&self) -> Option<u64> {
        let ends = self.held.values().filter_map(|held| match held.state {
            State::Running { ends_at, .. } => Some(ends_at),
            _ => None,
        });
        ends.chain(self.lease.next_wake()).chain(self.draining.filter(|at| *at > now_us())).min()
    }

    async fn pass_time(&mut self) {
        let now = now_us();
        if self.lease.expired(now) {
            self.fence_all("its lease is over");
            self.lease.forget();
            self.drop_link();
        } else if self.lease.beat_due(now) && matches!(self.link, Link::Open { .. }) {
            let sequence = self.lease.beat(now);
            let tokens = self.held.keys().map(|token| token.clone().into()).collect();
            self.outbox.push_front(event(Event::Heartbeat(v1::Heartbeat { sequence, tokens })));
        }
        if self.draining.is_some_and(|at| at <= now) {
            for held in self.held.values_mut() {
                if let State::Running { ends_at, why: why @ Why::NotAtAll, .. } = &mut held.state {
                    *why = Why::Drained;
                    *ends_at = (*ends_at).min(now);
                }
            }
        }
        let over: Vec<Token> = self
            .held
            .iter()
            .filter(|(_, held)| matches!(held.state, State::Running { ends_at, .. } if ends_at <= now))
            .map(|(token, _)| token.clone())
            .collect();
        for token in over {
            self.process_ends(&token).await;
        }
    }

    /// A process has come to its end, in one way or another.
    async fn process_ends(&mut self, token: &Token) {
        let Some(held) = self.held.get_mut(token) else { return };
        let State::Running { script, since, why, .. } = &mut held.state else { return };
        let (script, since, why) = (script.clone(), *since, *why);
        held.log_end += 30 + (now_us() - since) / 20_000;
        let stopped = why != Why::NotAtAll;
        let outcome = match script.ends {
            _ if why == Why::Drained => {
                self.ledger.ended(token, &self.machine.name, "handed back");
                self.held.remove(token);
                self.outbox.push_back(hand_back(token.clone(), true));
                return;
            }
            _ if stopped => finished::Outcome::Cancelled(v1::Cancelled {}),
            Ends::Well => {
                let mut success = v1::Success::default();
                for (artifact, bytes) in script.outputs(token) {
                    let digest: Digest = Digest::of(&bytes);
                    let path = ObjectPath::from(segue_proto::blob_key(&digest));
                    let put = self.blobs.put(&path, bytes.clone().into()).await;
                    assert!(put.is_ok(), "memory takes every blob");
                    if script.wants_inline(&artifact.name) {
                        success.inline_json.insert(artifact.name.clone(), bytes);
                    }
                    success.outputs.push(artifact);
                }
                finished::Outcome::Success(success)
            }
            Ends::Fails(class) => failure(class, "as its command says"),
            Ends::TimedOut => failure(v1::FailureClass::Timeout, "it took longer than its timeout"),
        };
        let how = match &outcome {
            finished::Outcome::Success(_) => "success",
            finished::Outcome::Failure(_) => "failure",
            finished::Outcome::Cancelled(_) => "cancelled",
        };
        self.ledger.ended(token, &self.machine.name, how);
        self.finish(token.clone(), outcome);
    }

    fn finish(&mut self, token: Token, outcome: finished::Outcome) {
        let outputs = match &outcome {
            finished::Outcome::Success(success) => success
                .outputs
                .iter()
                .map(|output| (output.name.clone(), output.artifact.clone().unwrap_or_default().digest))
                .collect(),
            _ => Vec::new(),
        };
        let success = matches!(outcome, finished::Outcome::Success(_));
        self.ledger.reported(&token, Report { worker: self.machine.name.clone(), success, outputs });
        let held =
            self.held.entry(token.clone()).or_insert_with(|| Held::new(0, false, State::Finished(Box::default())));
        self.ledger.book().logs.insert(token.clone(), held.log_end);
        held.state = State::Finished(Box::new(v1::Finished {
            token: Some(token.clone().into()),
            usage: Some(v1::Usage { wall_ms: 1, cpu_ms: 1, peak_memory_bytes: 1 }),
            outcome: Some(outcome),
            log_bytes: held.log_end,
        }));
        self.outbox.push_back(Outgoing::End(token));
    }

    fn free_milli(&self) -> u32 {
        let running = self.held.values().filter(|held| matches!(held.state, State::Running { .. }));
        self.machine.cpu_milli.saturating_sub(running.map(|held| held.cpu_milli).sum())
    }

    fn start_waiting(&mut self) {
        loop {
            let free = self.free_milli();
            let needs = |token: &Token| self.held.get(token).map_or(0, |held| held.cpu_milli);
            let token = match self.leased.front() {
                Some(first) if needs(first) <= free => self.leased.pop_front(),
                Some(_) => None,
                None => {
                    let at = self.ahead.iter().position(|token| needs(token) <= free);
                    at.and_then(|at| self.ahead.remove(at))
                }
            };
            let Some(token) = token else { return };
            let Some(held) = self.held.get_mut(&token) else { continue };
            let State::Waiting(script) = &held.state else { continue };
            let now = now_us();
            held.state = State::Running {
                script: script.clone(),
                since: now,
                ends_at: now + script.takes_us,
                why: Why::NotAtAll,
            };
            held.announce = true;
            held.log_end += 25;
            self.ledger.started(&token, &self.machine.name, &self.incarnation);
        }
    }

    fn has_news(&self) -> bool {
        !self.outbox.is_empty() || self.held.values().any(|held| held.announce || held.log_sent < held.log_end)
    }

    fn message(&mut self) -> v1::WorkerMessage {
        let mut events = Vec::new();
        while let Some(out) = self.outbox.pop_front() {
            match out {
                Outgoing::Event(event) => events.push(*event),
                Outgoing::End(token) => {
                    let Some(held) = self.held.get_mut(&token) else { continue };
                    held.tell(&token, &mut events);
                    if let State::Finished(report) = &held.state {
                        events.push(v1::WorkerEvent { event: Some(Event::Finished((**report).clone())) });
                    }
                }
            }
        }
        for (token, held) in &mut self.held {
            held.tell(token, &mut events);
        }
        v1::WorkerMessage { events }
    }

    /// Takes what the link says. False: another start of this worker has taken over.
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Up { messages, give_up } => {
                let hello = v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(self.hello()) }] };
                let asked = now_us();
                self.link = match messages.try_send(hello) {
                    Ok(()) => Link::Greeting { messages, give_up, asked },
                    Err(_) => Link::Down,
                };
            }
            News::Down => self.link_lost(),
            News::Commands(commands) => {
                return commands.into_iter().filter_map(|command| command.command).all(|command| self.obey(command));
            }
        }
        true
    }

    fn hello(&self) -> Event {
        let held = self.held.iter().map(|(token, held)| v1::Held {
            token: Some(token.clone().into()),
            started: !matches!(held.state, State::Waiting(_)),
        });
        Event::Hello(v1::Hello {
            worker: self.machine.name.clone(),
            incarnation: self.incarnation.clone(),
            version: "sim".to_owned(),
            capacity: Some(v1::Resources {
                cpu_milli: self.machine.cpu_milli,
                memory_bytes: 1 << 36,
                ..v1::Resources::default()
            }),
            labels: self.machine.labels.clone().into_iter().collect(),
            held: held.collect(),
            draining: self.draining.is_some(),
            ..v1::Hello::default()
        })
    }

    fn link_lost(&mut self) {
        self.link = Link::Down;
        self.lease.link_lost();
        let is_hand_back = |event: &v1::WorkerEvent| matches!(event.event, Some(Event::HandBack(_)));
        self.outbox.retain(|waiting| matches!(waiting, Outgoing::Event(event) if is_hand_back(event)));
    }

    fn drop_link(&mut self) {
        if let Link::Greeting { give_up, .. } | Link::Open { give_up, .. } = &self.link {
            give_up.cancel();
        }
        self.link_lost();
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Welcome(welcome) => self.welcome(welcome),
            Command::Goodbye(goodbye) if goodbye.reason.contains("newer start") => return false,
            Command::Goodbye(_) => self.drop_link(),
            _ if !matches!(self.link, Link::Open { .. }) => {}
            Command::Assign(assign) => self.assign(assign),
            Command::Cancel(cancel) => {
                if let Some(token) = token(cancel.token) {
                    self.cancel(token);
                }
            }
            Command::HeartbeatAck(ack) => {
                self.lease.answered(ack.sequence);
                for token in ack.lost.into_iter().filter_map(|lost| token(Some(lost))) {
                    self.fence(&token, "lost, says the coordinator");
                }
            }
            Command::FinishedAck(ack) => {
                if let Some(token) = token(ack.token)
                    && matches!(self.held.get(&token).map(|held| &held.state), Some(State::Finished(_)))
                {
                    self.held.remove(&token);
                    self.ledger.report_acked(&token);
                }
            }
            Command::Retract(retract) => {
                for token in retract.tokens.into_iter().filter_map(|taken| token(Some(taken))) {
                    if matches!(self.held.get(&token).map(|held| &held.state), Some(State::Waiting(_))) {
                        self.forget_waiting(&token);
                        self.outbox.push_back(hand_back(token, false));
                    }
                }
            }
            Command::Drain(_) => self.drain(),
            Command::LogAck(ack) => {
                if let Some(held) = token(ack.token).and_then(|token| self.held.get_mut(&token)) {
                    held.log_acked = held.log_acked.max(ack.offset);
                }
            }
        }
        true
    }

    fn welcome(&mut self, welcome: v1::Welcome) {
        let before = std::mem::replace(&mut self.link, Link::Down);
        let Link::Greeting { messages, give_up, asked } = before else {
            self.link = before;
            return;
        };
        self.link = Link::Open { messages, give_up };
        self.lease.granted(welcome.lease_ms, welcome.heartbeat_ms, asked);
        for token in welcome.unknown.into_iter().filter_map(|unknown| token(Some(unknown))) {
            self.fence(&token, "unknown, says the coordinator");
        }
        self.outbox.retain(|waiting| !matches!(waiting, Outgoing::End(_)));
        for (token, held) in &mut self.held {
            held.announce = matches!(held.state, State::Running { .. });
            held.log_sent = held.log_acked;
            if matches!(held.state, State::Finished(_)) {
                self.outbox.push_back(Outgoing::End(token.clone()));
            }
        }
    }

    fn assign(&mut self, assign: v1::Assign) {
        let Some(token) = token(assign.token.clone()) else { return };
        if self.held.contains_key(&token) {
            return;
        }
        if self.draining.is_some() {
            self.outbox.push_back(hand_back(token, false));
            return;
        }
        let cpu_milli = assign.resources.as_ref().map_or(0, |needs| needs.cpu_milli);
        self.check_room(&token, cpu_milli, assign.ahead);
        let script = Script::of(&assign, &mut self.chance);
        let line = if assign.ahead { &mut self.ahead } else { &mut self.leased };
        line.push_back(token.clone());
        self.held.insert(token, Held::new(cpu_milli, assign.ahead, State::Waiting(Box::new(script))));
    }

    /// What the coordinator gives with a lease must fit beside everything else that it has given with a lease and that has
    /// not ended here.
    fn check_room(&self, token: &Token, cpu_milli: u32, ahead: bool) {
        let leased = self.held.values().filter(|held| !held.is_ahead && !matches!(held.state, State::Finished(_)));
        let sum: u32 = leased.map(|held| held.cpu_milli).sum();
        let most = self.machine.cpu_milli;
        // After its lease, what it holds counts no more: it is about to find out.
        if self.lease.expired(now_us()) {
            return;
        }
        if cpu_milli > most || (!ahead && sum + cpu_milli > most) {
            self.ledger.violation(
                "capacity",
                format_args!("{token} needs {cpu_milli} on {}, where {sum} of {most} are leased", self.machine.name),
            );
        }
    }

    fn cancel(&mut self, token: Token) {
        match self.held.get_mut(&token).map(|held| &mut held.state) {
            Some(State::Finished(_)) => {}
            Some(State::Running { ends_at, why, .. }) => {
                if *why == Why::NotAtAll {
                    *why = Why::Cancelled;
                    *ends_at = (*ends_at).min(now_us() + self.chance.delay_us(500, GRACE_US));
                }
            }
            Some(State::Waiting(_)) | None => {
                self.leased.retain(|waiting| *waiting != token);
                self.ahead.retain(|waiting| *waiting != token);
                self.finish(token, finished::Outcome::Cancelled(v1::Cancelled {}));
            }
        }
    }

    fn forget_waiting(&mut self, token: &Token) {
        self.held.remove(token);
        self.leased.retain(|waiting| waiting != token);
        self.ahead.retain(|waiting| waiting != token);
    }

    /// Ends an attempt that is not this worker's any more: its process group is killed at once.
    fn fence(&mut self, token: &Token, why: &str) {
        match self.held.get(token).map(|held| &held.state) {
            Some(State::Running { .. }) => {
                self.ledger.ended(token, &self.machine.name, why);
                self.held.remove(token);
            }
            Some(State::Waiting(_)) => self.forget_waiting(token),
            // It interests nobody.
            Some(State::Finished(_)) => drop(self.held.remove(token)),
            None => {}
        }
    }

    fn fence_all(&mut self, why: &str) {
        let live: Vec<Token> = self
            .held
            .iter()
            .filter(|(_, held)| !matches!(held.state, State::Finished(_)))
            .map(|(token, _)| token.clone())
            .collect();
        for token in live {
            self.fence(&token, why);
        }
    }

    fn drain(&mut self) {
        if self.draining.is_some() {
            return;
        }
        say!(self.ledger.trace, self.machine.name, "drains");
        self.draining = Some(now_us() + 2_000_000);
        if !matches!(self.link, Link::Down) {
            self.outbox.push_back(event(Event::Draining(v1::Draining {})));
        }
        let waiting: Vec<Token> = self.leased.drain(..).chain(self.ahead.drain(..)).collect();
        for token in waiting {
            self.held.remove(&token);
            self.outbox.push_back(hand_back(token, false));
        }
    }
}

impl Held {
    const fn new(cpu_milli: u32, is_ahead: bool, state: State) -> Self {
        Self { cpu_milli, is_ahead, state, announce: false, log_end: 0, log_sent: 0, log_acked: 0 }
    }

    /// Tells the start and the log, as far as they were not told on this link.
    fn tell(&mut self, token: &Token, events: &mut Vec<v1::WorkerEvent>) {
        let named = || Some(token.clone().into());
        if std::mem::take(&mut self.announce) {
            events.push(v1::WorkerEvent { event: Some(Event::Started(v1::Started { token: named(), runner_pid: 1 })) });
        }
        if self.log_sent < self.log_end {
            let data = Bytes::from(log_bytes(token, self.log_sent, self.log_end));
            let chunk = v1::LogChunk { token: named(), offset: self.log_sent, data, lost_before: 0 };
            events.push(v1::WorkerEvent { event: Some(Event::Log(chunk)) });
            self.log_sent = self.log_end;
        }
    }
}

fn event(event: Event) -> Outgoing {
    Outgoing::Event(Box::new(v1::WorkerEvent { event: Some(event) }))
}

fn hand_back(token: Token, started: bool) -> Outgoing {
    event(Event::HandBack(v1::HandBack { token: Some(token.into()), started }))
}

fn failure(class: v1::FailureClass, message: &str) -> finished::Outcome {
    let message = message.to_owned();
    finished::Outcome::Failure(v1::Failure { class: class.into(), message, ..v1::Failure::default() })
}

fn token(wire: Option<v1::Token>) -> Option<Token> {
    wire.and_then(|wire| Token::try_from(wire).ok())
}

async fn sleep_until(at_us: Option<u64>) {
    match at_us {
        Some(at) => tokio::time::sleep(Duration::from_micros(at.saturating_sub(now_us()))).await,
        None => std::future::pending().await,
    }
}
