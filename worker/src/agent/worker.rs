//! The loop that owns a worker: commands come in, events go out, time passes.

mod commands;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::{Incarnation, Token},
    v1::{self, finished, worker_event::Event},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Endpoint;

use self::commands::token;
use super::{
    attempt::{Attempt, Ended, Outcome, Shared},
    config::{Error, WorkerConfig},
    feed::{Feed, News},
    held::{Held, State, Table, Why},
    lease::LeaseClock,
    link::{self, LinkEvent, Stream},
    queue::Queue,
};
use crate::runner::StopKind;

/// Log bytes in one message: small enough that a heartbeat behind it is not late.
const LOG_BYTES_PER_MESSAGE: usize = 1024 * 1024;

/// Messages of attempts and of the link that may wait for the loop.
const INBOX: usize = 256;

/// How long a drained worker without a link waits for one to report what is left, at least.
const LAST_REPORT: Duration = Duration::from_secs(10);

/// How long the goodbye and the last processes may take at the end.
const LAST_STEPS: Duration = Duration::from_secs(3);

/// A worker.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    incarnation: Incarnation,
    shared: Arc<Shared>,
    held: Table,
    queue: Queue,
    lease: LeaseClock,
    news: Arc<News>,
    /// Events that wait for the link, oldest first; starts, progress and logs are in the feeds.
    outbox: VecDeque<v1::WorkerEvent>,
    link: Link,
    down_since: Instant,
    drain: Option<Drain>,
    tasks: TaskTracker,
}

#[derive(Debug)]
enum Link {
    Down,
    /// The hello is sent at that time; nothing else may be until the welcome.
    Greeting(Stream, Instant),
    Open(Stream),
}

#[derive(Debug)]
struct Drain {
    /// When what still runs is stopped; none once it was.
    deadline: Option<Instant>,
}

/// Whether the loop goes on.
enum Next {
    GoOn,
    Superseded(String),
}

impl Worker {
    /// Makes a worker that holds nothing.
    pub fn new(config: WorkerConfig, incarnation: Incarnation, shared: Arc<Shared>) -> Self {
        Self {
            queue: Queue::new(config.capacity.clone()),
            config,
            incarnation,
            shared,
            held: Table::default(),
            lease: LeaseClock::default(),
            news: Arc::default(),
            outbox: VecDeque::new(),
            link: Link::Down,
            down_since: Instant::now(),
            drain: None,
            tasks: TaskTracker::new(),
        }
    }

    /// Works until drained.
    ///
    /// # Errors
    /// If another process took over the name of this worker.
    pub async fn run(mut self, endpoint: Endpoint, stop: CancellationToken) -> Result<(), Error> {
        tracing::info!(worker = %self.config.name, incarnation = %self.incarnation, server = self.config.server, "worker starts");
        let (link_events, mut link_inbox) = mpsc::channel(INBOX);
        let (reports, mut ended) = mpsc::channel::<Ended>(INBOX);
        let end_link = CancellationToken::new();
        let link = tokio::spawn(link::maintain(endpoint, link_events, end_link.clone()));
        let result = loop {
            self.pass_time(Instant::now());
            self.start_waiting(&reports);
            if self.is_done() {
                break Ok(());
            }
            let wake = self.next_wake();
            let way_up = self.way_up();
            tokio::select! {
                // A report of an end frees slots and the stop must not wait, but neither may starve the link.
                () = stop.cancelled(), if self.drain.is_none() => self.begin_drain(self.config.drain_grace),
                Some(report) = ended.recv() => self.ended(report),
                Some(event) = link_inbox.recv() => match self.link_event(event) {
                    Next::GoOn => {}
                    Next::Superseded(reason) => break Err(Error::Superseded(reason)),
                },
                Ok(permit) = async { way_up.as_ref().expect("checked by the condition").reserve().await }, if way_up.is_some() => {
                    let message = self.message();
                    if !message.events.is_empty() {
                        permit.send(message);
                    }
                }
                () = self.news.ring() => {}
                () = sleep_until(wake) => {}
            }
        };
        self.end(&mut link_inbox, &mut ended).await;
        end_link.cancel();
        // The link may be waiting for room in here; it ends when nobody listens.
        drop(link_inbox);
        let _ = link.await;
        self.shared.pool.close().await;
        tracing::info!(worker = %self.config.name, "worker ends");
        result
    }

    /// Gives the way up if it is open and there is something to send.
    fn way_up(&self) -> Option<mpsc::Sender<v1::WorkerMessage>> {
        match &self.link {
            Link::Open(stream) if !self.outbox.is_empty() || !self.news.is_empty() => Some(stream.messages.clone()),
            _ => None,
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let grace = self.drain.as_ref().and_then(|drain| drain.deadline);
        let give_up = (self.drain.is_some() && self.is_alone()).then(|| self.give_up_at());
        [self.lease.next_wake(), grace, give_up].into_iter().flatten().min()
    }

    /// Does what is due: heartbeats, the end of the lease, the end of the drain's grace.
    fn pass_time(&mut self, now: Instant) {
        if self.lease.expired(now) {
            self.fence_all();
            self.lease.forget();
            self.drop_link();
        } else if self.lease.beat_due(now) && matches!(self.link, Link::Open(_)) {
            let sequence = self.lease.beat(now);
            let tokens = self.held.counting().map(|(token, _)| token.clone().into()).collect();
            // Before everything else: it must not be late because there is much to say.
            self.outbox.push_front(event(Event::Heartbeat(v1::Heartbeat { sequence, tokens })));
        }
        if let Some(drain) = &mut self.drain
            && drain.deadline.is_some_and(|at| at <= now)
        {
            drain.deadline = None;
            for token in self.held.tokens() {
                self.held.stop(&token, Why::Drained);
            }
        }
    }

    /// Ends what runs and forgets what waits: the coordinator has given it to others. Reports of finished attempts stay,
    /// they harm nobody and may still count.
    fn fence_all(&mut self) {
        let running = self.held.running();
        let waiting = self.queue.take_waiting();
        if running + waiting.len() > 0 {
            tracing::warn!(
                running,
                waiting = waiting.len(),
                "the lease has passed without an answer of the coordinator: attempts are killed"
            );
        }
        for token in waiting {
            self.held.remove(&token);
        }
        for token in self.held.tokens() {
            self.held.stop(&token, Why::Fenced);
        }
    }

    /// Ends one attempt that is not this worker's any more.
    fn fence(&mut self, token: &Token) {
        match self.held.get(token).map(|held| &held.state) {
            None => {}
            Some(State::Running { .. }) => {
                tracing::warn!(%token, "an attempt is not this worker's any more and is killed");
                self.held.stop(token, Why::Fenced);
            }
            Some(State::Waiting(_) | State::Finished(_)) => {
                self.queue.remove(token);
                self.held.remove(token);
            }
        }
    }

    fn start_waiting(&mut self, reports: &mpsc::Sender<Ended>) {
        while let Some(token) = self.queue.start_next() {
            let Some(held) = self.held.get_mut(&token) else {
                self.queue.ended(&token);
                continue;
            };
            let (stop, stopped) = watch::channel(StopKind::GoOn);
            let before = std::mem::replace(&mut held.state, State::Running { stop, why: Why::NotAtAll });
            let State::Waiting(assign) = before else {
                held.state = before;
                continue;
            };
            tracing::debug!(%token, "attempt starts");
            let attempt = Attempt {
                shared: Arc::clone(&self.shared),
                token,
                assign: *assign,
                feed: Arc::clone(&held.feed),
                stop: stopped,
            };
            let reports = reports.clone();
            self.tasks.spawn(async move {
                let token = attempt.token.clone();
                let ended = tokio::spawn(attempt.execute()).await.unwrap_or_else(|error| {
                    tracing::error!(%token, %error, "the execution of an attempt broke off");
                    let failure = Failure::new(FailureClass::Infra, "the execution broke off inside the worker")
                        .hint("this is a bug");
                    Ended { token, outcome: Outcome::Failed(failure), usage: v1::Usage::default() }
                });
                // The loop is gone only when the process ends.
                let _ = reports.send(ended).await;
            });
        }
    }

    fn ended(&mut self, report: Ended) {
        let Ended { token, outcome, usage } = report;
        self.queue.ended(&token);
        let Some(State::Running { why, .. }) = self.held.get(&token).map(|held| &held.state) else { return };
        tracing::debug!(%token, ?outcome, "attempt ended");
        let outcome = match (why, outcome) {
            (Why::Fenced, _) => {
                self.held.remove(&token);
                return;
            }
            (_, Outcome::Succeeded(success)) => finished::Outcome::Success(success),
            (_, Outcome::Failed(failure)) => finished::Outcome::Failure(failure.into()),
            (Why::TimedOut, Outcome::Stopped) => finished::Outcome::Failure(
                Failure::new(FailureClass::Timeout, "stopped by the coordinator after its time").into(),
            ),
            (Why::Drained, Outcome::Stopped) => {
                self.held.remove(&token);
                self.outbox.push_back(hand_back(token, true));
                return;
            }
            (Why::Cancelled | Why::NotAtAll, Outcome::Stopped) => finished::Outcome::Cancelled(v1::Cancelled {}),
        };
        self.finish(token, outcome, usage);
    }

    /// Keeps the report of an attempt until it is acknowledged, and sends it.
    fn finish(&mut self, token: Token, outcome: finished::Outcome, usage: v1::Usage) {
        let feed = self.held.get(&token).map_or_else(|| self.feed(&token), |held| Arc::clone(&held.feed));
        let report = v1::Finished {
            token: Some(token.clone().into()),
            usage: Some(usage),
            outcome: Some(outcome),
            log_bytes: feed.log_bytes(),
        };
        self.outbox.push_back(event(Event::Finished(report.clone())));
        self.held.insert(token, Held { feed, state: State::Finished(Box::new(report)) });
    }

    fn feed(&self, token: &Token) -> Arc<Feed> {
        Arc::new(Feed::new(token.clone(), Arc::clone(&self.news)))
    }

    fn link_event(&mut self, event: LinkEvent) -> Next {
        match event {
            LinkEvent::Up(stream) => {
                let hello = v1::WorkerMessage { events: vec![self.hello()] };
                // The channel is new, so that there is room. The lease counts from before the sending.
                let asked = Instant::now();
                self.link = match stream.messages.try_send(hello) {
                    Ok(()) => Link::Greeting(stream, asked),
                    Err(_) => Link::Down,
                };
            }
            LinkEvent::Down => self.link_lost(),
            LinkEvent::Commands(commands) => {
                for command in commands.into_iter().filter_map(|command| command.command) {
                    if let Next::Superseded(reason) = self.command(command) {
                        return Next::Superseded(reason);
                    }
                }
            }
        }
        Next::GoOn
    }

    fn link_lost(&mut self) {
        if matches!(self.link, Link::Open(_)) {
            self.down_since = Instant::now();
        }
        self.link = Link::Down;
        self.lease.link_lost();
        // The rest is told anew after the next welcome. Nobody else remembers what was handed back.
        self.outbox.retain(|event| matches!(event.event, Some(Event::HandBack(_))));
    }

    fn drop_link(&mut self) {
        if let Link::Greeting(stream, _) | Link::Open(stream) = &self.link {
            stream.give_up.cancel();
        }
        self.link_lost();
    }

    fn hello(&self) -> v1::WorkerEvent {
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        event(Event::Hello(v1::Hello {
            worker: self.config.name.to_string(),
            incarnation: self.incarnation.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(self.config.capacity.clone().into()),
            labels: self.config.labels.clone(),
            operators: self.shared.catalogue.iter().cloned().map(Into::into).collect(),
            held: self.held.listing(),
            hostname,
            pid: std::process::id(),
            draining: self.drain.is_some(),
            gpus: Vec::new(),
        }))
    }

    /// Makes one message of everything that waits. The log of an attempt goes before its end.
    fn message(&mut self) -> v1::WorkerMessage {
        let mut events = Vec::new();
        let mut budget = LOG_BYTES_PER_MESSAGE;
        while let Some(next) = self.outbox.pop_front() {
            if let Some(Event::Finished(report)) = &next.event
                && let Some(held) = token(report.token.clone()).and_then(|token| self.held.get(&token))
                && held.feed.drain_into(&mut events, &mut budget)
            {
                self.outbox.push_front(next);
                return v1::WorkerMessage { events };
            }
            events.push(next);
        }
        for token in self.news.take() {
            let Some(held) = self.held.get(&token) else { continue };
            let fenced = matches!(held.state, State::Running { why: Why::Fenced, .. });
            if !fenced && held.feed.drain_into(&mut events, &mut budget) {
                self.news.add(&token);
            }
        }
        v1::WorkerMessage { events }
    }

    /// Says whether a drain is complete: nothing held, everything told; or nobody there to be told.
    fn is_done(&self) -> bool {
        if self.drain.is_none() {
            return false;
        }
        let told = self.held.is_empty() && self.outbox.is_empty() && !matches!(self.link, Link::Greeting(..));
        let given_up = self.is_alone() && Instant::now() >= self.give_up_at();
        if given_up && !told {
            tracing::warn!("the worker ends without having reported everything: the coordinator is gone");
        }
        told || given_up
    }

    /// Says whether nothing runs and nobody listens.
    fn is_alone(&self) -> bool {
        !matches!(self.link, Link::Open(_)) && self.held.running() == 0
    }

    fn give_up_at(&self) -> Instant {
        self.down_since + self.lease.lease().max(LAST_REPORT)
    }

    /// Ends: kills what still runs, closes the link so that what was sent arrives, waits for the last processes.
    async fn end(&mut self, link: &mut mpsc::Receiver<LinkEvent>, ended: &mut mpsc::Receiver<Ended>) {
        for token in self.held.tokens() {
            self.held.stop(&token, Why::Fenced);
        }
        let was_open = matches!(self.link, Link::Open(_));
        // The end of the stream tells the coordinator that this was all.
        self.link = Link::Down;
        ended.close();
        self.tasks.close();
        let farewell = async { while was_open && !matches!(link.recv().await, None | Some(LinkEvent::Down)) {} };
        if tokio::time::timeout(LAST_STEPS, farewell).await.is_err() {
            tracing::debug!("the coordinator does not close the link");
        }
        // Killed processes are gone soon; the grace of the runner's own burial is included.
        if tokio::time::timeout(4 * LAST_STEPS, self.tasks.wait()).await.is_err() {
            tracing::warn!(late = self.tasks.len(), "attempts do not end");
        }
    }
}

fn event(event: Event) -> v1::WorkerEvent {
    v1::WorkerEvent { event: Some(event) }
}

fn hand_back(token: Token, started: bool) -> v1::WorkerEvent {
    event(Event::HandBack(v1::HandBack { token: Some(token.into()), started }))
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
