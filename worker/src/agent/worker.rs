//! The loop that owns a worker: commands come in, events go out, time passes.

mod commands;
pub mod desk;

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use segue_proto::{
    failure::{Failure, FailureClass},
    ids::{Incarnation, Token},
    v1::{self, finished, worker_event::Event},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Endpoint;

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

/// Bytes of logs and of inline outputs in one message: small enough that a heartbeat behind it is not late.
const BYTES_PER_MESSAGE: usize = 1024 * 1024;

/// Events in one message, so that it stays far below the limit of the link.
const EVENTS_PER_MESSAGE: usize = 4096;

/// Messages of attempts and of the link that may wait for the loop.
const INBOX: usize = 256;

/// How long starts, progress and logs wait for company: a short attempt is told in one message, its end at once.
const GATHER: Duration = Duration::from_millis(5);

/// How long ends wait for company while other attempts wait for their room here: nothing stands still meanwhile, and one
/// message, one decision and one flush serve them all. An end after which this worker is idle is told at once.
const GATHER_ENDS: Duration = Duration::from_millis(8);

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
    /// When it ends, for those who run.
    lease_until: watch::Sender<Option<Instant>>,
    news: Arc<News>,
    /// When the news that came first is told at the latest.
    news_due: Option<Instant>,
    /// What waits for the link, oldest first; starts, progress and logs are in the feeds.
    outbox: VecDeque<Outgoing>,
    /// When the outbox is told at the latest.
    outbox_due: Option<Instant>,
    link: Link,
    down_since: Instant,
    drain: Option<Drain>,
    tasks: TaskTracker,
}

/// What is told at once.
#[derive(Debug)]
enum Outgoing {
    Event(Box<v1::WorkerEvent>),
    /// The end of an attempt, whose report is in the table.
    End(Token),
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
            queue: Queue::new(config.machine.capacity.clone()),
            config,
            incarnation,
            shared,
            held: Table::default(),
            lease: LeaseClock::default(),
            lease_until: watch::Sender::new(None),
            news: Arc::default(),
            news_due: None,
            outbox: VecDeque::new(),
            outbox_due: None,
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
        let (ending, end_link) = (CancellationToken::new(), CancellationToken::new());
        let link = tokio::spawn(link::maintain(endpoint, link_events, ending.clone(), end_link.clone()));
        let (mut reported, mut told) = (Vec::with_capacity(INBOX), Vec::with_capacity(INBOX));
        let result = 'work: loop {
            let now = Instant::now();
            self.pass_time(now);
            self.tell_lease();
            self.start_waiting(&reports);
            if !self.outbox.is_empty() && !self.queue.is_waited_for() {
                self.due_within(Duration::ZERO);
            }
            if self.is_done() {
                break Ok(());
            }
            let wake = self.next_wake();
            let way_up = self.way_up(now);
            tokio::select! {
                // Reports of ends free slots and the stop must not wait, but neither may starve the link.
                () = stop.cancelled(), if self.drain.is_none() => self.begin_drain(self.config.drain_grace),
                _ = ended.recv_many(&mut reported, INBOX) => {
                    for report in reported.drain(..) {
                        self.ended(report);
                    }
                }
                _ = link_inbox.recv_many(&mut told, INBOX) => {
                    for event in told.drain(..) {
                        if let Next::Superseded(reason) = self.link_event(event) {
                            break 'work Err(Error::Superseded(reason));
                        }
                    }
                }
                Ok(permit) = async { way_up.as_ref().expect("checked by the condition").reserve().await }, if way_up.is_some() => {
                    let message = self.message();
                    if !message.events.is_empty() {
                        permit.send(message);
                    }
                }
                () = self.news.ring() => {
                    self.news_due.get_or_insert_with(|| Instant::now() + GATHER);
                }
                () = sleep_until(wake) => {}
            }
        };
        ending.cancel();
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
    fn way_up(&self, now: Instant) -> Option<mpsc::Sender<v1::WorkerMessage>> {
        match &self.link {
            Link::Open(stream) if [self.outbox_due, self.news_due].into_iter().flatten().any(|at| at <= now) => {
                Some(stream.messages.clone())
            }
            _ => None,
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let grace = self.drain.as_ref().and_then(|drain| drain.deadline);
        let give_up = (self.drain.is_some() && self.is_alone()).then(|| self.give_up_at());
        // Without a link both wait for one.
        let open = matches!(self.link, Link::Open(_));
        let (ends, news) = (self.outbox_due.filter(|_| open), self.news_due.filter(|_| open));
        [self.lease.next_wake(), grace, give_up, ends, news].into_iter().flatten().min()
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
            self.outbox_due = Some(now);
            self.shared.pool.trim(now);
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

    /// Tells those who run when the lease ends, where that has changed.
    fn tell_lease(&self) {
        let until = self.lease.until();
        self.lease_until.send_if_modified(|told| std::mem::replace(told, until) != until);
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
        while let Some(attempt) = self.take_next() {
            let reports = reports.clone();
            self.tasks.spawn(async move {
                let token = attempt.token.clone();
                // Nothing is shared with it that a panic could leave half done.
                let ended = AssertUnwindSafe(attempt.execute()).catch_unwind().await.unwrap_or_else(|_| {
                    tracing::error!(%token, "the execution of an attempt broke off");
                    let failure = Failure::new(FailureClass::Infra, "the execution broke off inside the worker")
                        .hint("this is a bug");
                    Ended { token, outcome: Outcome::Failed(failure), usage: v1::Usage::default() }
                });
                // The loop is gone only when the process ends.
                let _ = reports.send(ended).await;
            });
        }
    }

    /// Gives the next attempt that has room, held as one that runs.
    fn take_next(&mut self) -> Option<Attempt> {
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
            return Some(Attempt {
                shared: Arc::clone(&self.shared),
                token,
                assign: *assign,
                feed: Arc::clone(&held.feed),
                stop: stopped,
                lease: self.lease_until.subscribe(),
            });
        }
        None
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
                self.tell(hand_back(token, true));
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
        // Ends come in while attempts wait for the room that they free.
        let patience = if self.queue.is_waited_for() { GATHER_ENDS } else { Duration::ZERO };
        self.outbox.push_back(Outgoing::End(token.clone()));
        self.due_within(patience);
        self.held.insert(token, Held { feed, state: State::Finished(Box::new(report)) });
    }

    /// Sends something at the next opportunity.
    fn tell(&mut self, outgoing: Outgoing) {
        self.outbox.push_back(outgoing);
        self.due_within(Duration::ZERO);
    }

    /// What is in the outbox is told within this time, or sooner if it was due before.
    fn due_within(&mut self, patience: Duration) {
        let due = Instant::now() + patience;
        self.outbox_due = Some(self.outbox_due.map_or(due, |before| before.min(due)));
    }

    fn feed(&self, token: &Token) -> Arc<Feed> {
        Arc::new(Feed::new(token.clone(), Arc::clone(&self.news)))
    }

    fn link_event(&mut self, event: LinkEvent) -> Next {
        match event {
            LinkEvent::Up(stream) => {
                let hello = v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(self.hello()) }] };
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
        self.news.set_linked(false);
        for held in self.held.tokens().iter().filter_map(|token| self.held.get(token)) {
            held.feed.look_at_link();
        }
        self.lease.link_lost();
        // The rest is told anew after the next welcome. Nobody else remembers what was handed back.
        let is_hand_back = |event: &v1::WorkerEvent| matches!(event.event, Some(Event::HandBack(_)));
        self.outbox.retain(|waiting| matches!(waiting, Outgoing::Event(event) if is_hand_back(event)));
    }

    fn drop_link(&mut self) {
        if let Link::Greeting(stream, _) | Link::Open(stream) = &self.link {
            stream.give_up.cancel();
        }
        self.link_lost();
    }

    fn hello(&self) -> Event {
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        Event::Hello(v1::Hello {
            worker: self.config.name.to_string(),
            incarnation: self.incarnation.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(self.config.machine.capacity.clone().into()),
            labels: self.config.labels.clone(),
            operators: self.shared.catalogue.iter().cloned().map(Into::into).collect(),
            held: self.held.listing(),
            hostname,
            pid: std::process::id(),
            draining: self.drain.is_some(),
            gpus: self.config.machine.gpus.iter().cloned().map(Into::into).collect(),
        })
    }

    /// Makes one message of what waits, as far as it goes into one. The log of an attempt goes before its end.
    fn message(&mut self) -> v1::WorkerMessage {
        let mut events = Vec::with_capacity(self.outbox.len().min(EVENTS_PER_MESSAGE));
        let mut budget = BYTES_PER_MESSAGE;
        while budget > 0 && events.len() < EVENTS_PER_MESSAGE {
            let token = match self.outbox.pop_front() {
                None => break,
                Some(Outgoing::Event(event)) => {
                    events.push(*event);
                    continue;
                }
                Some(Outgoing::End(token)) => token,
            };
            let Some(Held { feed, state: State::Finished(report) }) = self.held.get(&token) else { continue };
            if feed.drain_into(&mut events, &mut budget) {
                self.outbox.push_front(Outgoing::End(token));
                break;
            }
            budget = budget.saturating_sub(inline_bytes(report));
            events.push(v1::WorkerEvent { event: Some(Event::Finished((**report).clone())) });
        }
        if !self.outbox.is_empty() {
            return v1::WorkerMessage { events };
        }
        (self.outbox_due, self.news_due) = (None, None);
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

fn event(event: Event) -> Outgoing {
    Outgoing::Event(Box::new(v1::WorkerEvent { event: Some(event) }))
}

/// Counts the bytes of outputs in a report.
fn inline_bytes(report: &v1::Finished) -> usize {
    match &report.outcome {
        Some(finished::Outcome::Success(success)) => success.inline_json.values().map(bytes::Bytes::len).sum(),
        _ => 0,
    }
}

fn hand_back(token: Token, started: bool) -> Outgoing {
    event(Event::HandBack(v1::HandBack { token: Some(token.into()), started }))
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
