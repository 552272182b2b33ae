//! Workers that keep what they are given: they say that it has begun, renew its leases, come back after every loss of the
//! coordinator as fast as they can, and say then what they still hold. They execute nothing.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use segue_proto::{
    MAX_MESSAGE_BYTES,
    v1::{self, command::Command, worker_event::Event, worker_service_client::WorkerServiceClient},
};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Instant as Moment, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    fake_worker::{message, noop, success},
    say,
};

/// How long a holder waits before it tries to connect again, and how long one try may take.
const AGAIN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages that may wait for a link: heartbeats, and one for each message of the coordinator.
const WAITING: usize = 1_024;

/// Holders, on a thread of their own.
#[derive(Debug)]
pub struct Holders {
    // Ends its tasks when it is dropped.
    _runtime: Runtime,
    seen: Arc<Mutex<Seen>>,
}

/// What the holders have seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Attempts that all of them hold, and have reported as begun.
    pub held: usize,
    /// Welcomes since [`Holders::forget`].
    pub welcomes: Vec<Instant>,
    /// The first assignment since then.
    pub assigned: Option<Instant>,
    /// Attempts that a welcome or an answer to a heartbeat did not know any more.
    pub refused: usize,
}

impl Holders {
    /// Starts so many workers, each with room for `room` attempts.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(coordinator: SocketAddr, workers: u32, room: u32) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start the runtime: {e}"))?;
        let seen = Arc::<Mutex<Seen>>::default();
        for number in 0..workers {
            let held = Held {
                number,
                room,
                tokens: VecDeque::new(),
                ahead: VecDeque::new(),
                seen: Arc::clone(&seen),
                greeted: false,
            };
            runtime.spawn(held.serve(format!("http://{coordinator}")));
        }
        Ok(Self { _runtime: runtime, seen })
    }

    /// Gives what was seen so far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Forgets welcomes and assignments.
    pub fn forget(&self) {
        let mut seen = lock(&self.seen);
        seen.welcomes.clear();
        seen.assigned = None;
    }
}

/// One holder.
struct Held {
    number: u32,
    room: u32,
    tokens: VecDeque<v1::Token>,
    /// What was given before there is room for it.
    ahead: VecDeque<v1::Token>,
    seen: Arc<Mutex<Seen>>,
    /// Whether it was welcomed once: a later welcome is of a coordinator that came back.
    greeted: bool,
}

impl Held {
    async fn serve(mut self, server: String) {
        loop {
            if let Err(reason) = self.link(&server).await {
                say(&format!("holder {}: {reason}", self.number));
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// Serves one link to its end. An error is one that no other try would mend.
    async fn link(&mut self, server: &str) -> Result<(), String> {
        let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|e| e.to_string())?;
        let Ok(channel) = endpoint.tcp_nodelay(true).connect_timeout(PATIENCE).connect().await else { return Ok(()) };
        let mut client = WorkerServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (up, outgoing) = mpsc::channel(WAITING);
        if up.send(message(vec![Event::Hello(self.hello())])).await.is_err() {
            return Ok(());
        }
        let Ok(Ok(answer)) = timeout(PATIENCE, client.connect(ReceiverStream::new(outgoing))).await else {
            return Ok(());
        };
        self.listen(answer.into_inner(), &up).await
    }

    async fn listen(
        &mut self,
        mut down: Streaming<v1::CoordinatorMessage>,
        up: &mpsc::Sender<v1::WorkerMessage>,
    ) -> Result<(), String> {
        let mut beat = interval_at(Moment::now() + PATIENCE, PATIENCE);
        let mut sequence = 0;
        loop {
            let events = tokio::select! {
                _ = beat.tick() => {
                    sequence += 1;
                    vec![Event::Heartbeat(v1::Heartbeat { sequence, tokens: self.all() })]
                }
                came = down.message() => {
                    let Ok(Some(message)) = came else { return Ok(()) };
                    let mut events = Vec::new();
                    for command in message.commands.into_iter().filter_map(|command| command.command) {
                        if let Command::Welcome(welcome) = &command {
                            let period = Duration::from_millis(welcome.heartbeat_ms.max(1).into());
                            beat = interval_at(Moment::now() + period, period);
                            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        }
                        self.obey(command, &mut events)?;
                    }
                    events
                }
            };
            if !events.is_empty() && up.send(message(events)).await.is_err() {
                return Ok(());
            }
        }
    }

    fn obey(&mut self, command: Command, events: &mut Vec<Event>) -> Result<(), String> {
        let now = Instant::now();
        match command {
            Command::Welcome(welcome) => {
                self.drop_those(&welcome.unknown);
                lock(&self.seen).welcomes.push(now);
                // One ends, so that there is room for another: a coordinator that is back gives work again.
                if self.greeted
                    && let Some(token) = self.tokens.pop_front()
                {
                    lock(&self.seen).held -= 1;
                    events.push(Event::Finished(success(Some(token))));
                    if let Some(next) = self.ahead.pop_front() {
                        events.push(self.begin(next));
                    }
                }
                self.greeted = true;
            }
            Command::Assign(assign) => {
                let Some(token) = assign.token else { return Err("an assignment without token".to_owned()) };
                lock(&self.seen).assigned.get_or_insert(now);
                if assign.ahead && self.tokens.len() >= self.room as usize {
                    self.ahead.push_back(token);
                } else {
                    events.push(self.begin(token));
                }
            }
            Command::HeartbeatAck(ack) => self.drop_those(&ack.lost),
            Command::Retract(retract) => {
                for token in retract.tokens {
                    let before = self.ahead.len();
                    self.ahead.retain(|lying| *lying != token);
                    // One that has begun stays: its start is on the way.
                    if self.ahead.len() < before {
                        events.push(Event::HandBack(v1::HandBack { token: Some(token), started: false }));
                    }
                }
            }
            Command::Goodbye(goodbye) => return Err(format!("sent away: {}", goodbye.reason)),
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, token: v1::Token) -> Event {
        lock(&self.seen).held += 1;
        self.tokens.push_back(token.clone());
        Event::Started(v1::Started { token: Some(token), runner_pid: 0 })
    }

    fn all(&self) -> Vec<v1::Token> {
        self.tokens.iter().chain(&self.ahead).cloned().collect()
    }

    /// Lets go of attempts that the coordinator does not know any more.
    fn drop_those(&mut self, unknown: &[v1::Token]) {
        if unknown.is_empty() {
            return;
        }
        let before = self.tokens.len();
        self.tokens.retain(|token| !unknown.contains(token));
        self.ahead.retain(|token| !unknown.contains(token));
        let mut seen = lock(&self.seen);
        seen.held -= before - self.tokens.len();
        seen.refused += unknown.len();
    }

    fn hello(&self) -> v1::Hello {
        let begun = self.tokens.len();
        let held = (0..).zip(self.all()).map(|(at, token)| v1::Held { token: Some(token), started: at < begun });
        v1::Hello {
            worker: format!("holder-{}", self.number),
            incarnation: format!("{}-{}", std::process::id(), self.number),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(v1::Resources {
                cpu_milli: self.room.saturating_mul(1_000),
                memory_bytes: 1 << 40,
                ..v1::Resources::default()
            }),
            operators: vec![noop().into()],
            held: held.collect(),
            pid: std::process::id(),
            ..v1::Hello::default()
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
