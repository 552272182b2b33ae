//! `WorkerService`: the link of a worker.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::Stream;
use segue_proto::{
    artifact::NamedArtifact,
    failure::{Failure, FailureClass},
    ids::Token,
    operator::OperatorSpec,
    v1::{self, worker_service_server::WorkerService},
};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::Shared;
use crate::{
    core::{Event, Outcome, Run, WorkerKey},
    server::{error::Error, records, wire},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Workers {
    shared: Shared,
    places: Arc<Semaphore>,
}

/// Links at a time. Each costs a few kilobytes.
const MOST_LINKS: usize = 10_000;

/// How long a link may take until its hello.
const HELLO: Duration = Duration::from_secs(10);

impl Workers {
    /// Makes the service.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self { shared, places: Arc::new(Semaphore::new(MOST_LINKS)) }
    }

    /// Learns the operators of a worker. They are kept when it goes, so that there must not be any number of them.
    fn learn(&self, link: u64, operators: Vec<OperatorSpec>) -> Result<(), Status> {
        let taken = self.shared.offer(|offers| {
            let fits = offers.known_with(&operators) <= wire::MOST_OPERATORS;
            if fits {
                offers.open(link, operators);
            }
            fits
        });
        if taken {
            return Ok(());
        }
        let message = format!("all workers together offer more than {} operators", wire::MOST_OPERATORS);
        Err(Status::resource_exhausted(message))
    }
}

/// Messages that may wait for a worker; one that falls further behind is cut off and comes back.
const OUTBOX: usize = 1_024;

/// Numbers links over all workers, so that a late close of an old link cannot end a new one.
static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

#[tonic::async_trait]
impl WorkerService for Workers {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut incoming = request.into_inner();
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MOST_LINKS} workers are connected, and no more are taken"))
        })?;
        let link = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
        let first = tokio::time::timeout(HELLO, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no hello came within {} s", HELLO.as_secs())))??
            .ok_or_else(|| Status::invalid_argument("the link closed before its hello"))?;
        let mut events = first.events.into_iter();
        let Some(v1::worker_event::Event::Hello(hello)) = events.next().and_then(|event| event.event) else {
            return Err(Status::invalid_argument("the first event of a link must be a hello"));
        };
        let introduction = wire::hello(hello, link).map_err(Error::from)?;
        let key = introduction.worker.key.clone();
        // Before the worker counts as connected: who waits for one submits at once.
        self.learn(link, introduction.operators)?;
        let (sender, receiver) = mpsc::channel::<v1::CoordinatorMessage>(OUTBOX);
        // Weak, so that the actor alone decides how long the link lives.
        let answers = sender.downgrade();
        let hello = Event::Hello { worker: Box::new(introduction.worker), held: introduction.held };
        if let Err(e) = self.shared.handle.open(link, sender, hello).await {
            self.shared.offer(|offers| offers.close(link));
            return Err(e.into());
        }
        info!(worker = %key, link, "worker connected");

        let shared = self.shared.clone();
        let rest: Vec<v1::WorkerEvent> = events.collect();
        tokio::spawn(async move {
            let _place = place;
            let end = pump(&shared, &key, &answers, rest, &mut incoming).await;
            match end {
                Ok(()) => info!(worker = %key, link, "worker disconnected"),
                // A malformed message costs this worker its connection and nothing else.
                Err(e) => {
                    warn!(worker = %key, link, error = %e, "link of a worker ended");
                    say(&answers, v1::command::Command::Goodbye(v1::Goodbye { reason: e.to_string() }));
                }
            }
            shared.offer(|offers| offers.close(link));
            let _ = shared.handle.report(Event::LinkClosed { worker: key, link }).await;
        });

        let stop = self.shared.stop.clone();
        let outgoing = futures::stream::unfold((receiver, stop), |(mut receiver, stop)| async move {
            tokio::select! {
                biased;
                message = receiver.recv() => message.map(|message| (Ok(message), (receiver, stop))),
                () = stop.cancelled() => None,
            }
        });
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// Attempts that one half of [`OwnLogs`] holds: more than write their logs at the same time on one worker.
const OWN_LOGS: usize = 1_024;

/// Attempts of a worker whose logs were taken lately. A link may live for months and carry millions of them: those that
/// have not been heard of for a while are forgotten, and asked for again if they speak.
#[derive(Debug, Default)]
struct OwnLogs {
    lately: BTreeSet<Token>,
    before: BTreeSet<Token>,
    /// The last piece could not be kept: said once, not for each of the thousands that follow.
    unkept: bool,
}

impl OwnLogs {
    fn contains(&mut self, token: &Token) -> bool {
        if self.lately.contains(token) {
            return true;
        }
        let known = self.before.take(token);
        known.map(|token| self.insert(token)).is_some()
    }

    fn insert(&mut self, token: Token) {
        if self.lately.len() >= OWN_LOGS {
            self.before = std::mem::take(&mut self.lately);
        }
        self.lately.insert(token);
    }
}

/// Carries events from the worker to the core until the link ends.
async fn pump(
    shared: &Shared,
    key: &WorkerKey,
    answers: &mpsc::WeakSender<v1::CoordinatorMessage>,
    first: Vec<v1::WorkerEvent>,
    incoming: &mut Streaming<v1::WorkerMessage>,
) -> Result<(), Error> {
    let mut known_logs = OwnLogs::default();
    let mut events = first;
    loop {
        for event in events {
            match event.event {
                Some(v1::worker_event::Event::Log(chunk)) => {
                    keep_log(shared, key, answers, &mut known_logs, chunk).await?
                }
                other => {
                    if let Some(event) = wire::event(v1::WorkerEvent { event: other }, key)? {
                        let event = with_stored_outputs(shared, event).await;
                        shared.handle.report(event).await?;
                    }
                }
            }
        }
        let message = tokio::select! {
            message = incoming.message() => message,
            () = shared.stop.cancelled() => return Ok(()),
        };
        events = match message {
            Ok(Some(message)) => message.events,
            Ok(None) => return Ok(()),
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                return Err(Error::BadRequest(status.message().to_owned()));
            }
            // The connection broke: an everyday event.
            Err(_) => return Ok(()),
        };
    }
}

/// Appends a piece of a log, and tells the worker how far it is kept.
async fn keep_log(
    shared: &Shared,
    key: &WorkerKey,
    answers: &mpsc::WeakSender<v1::CoordinatorMessage>,
    known: &mut OwnLogs,
    chunk: v1::LogChunk,
) -> Result<(), Error> {
    let token = wire::token("log.token", chunk.token)?;
    if !known.contains(&token) {
        // Not for each chunk: only the attempts of this very worker have logs from it.
        if !is_own(shared, key, &token).await? {
            warn!(%token, "log of an attempt that is not this worker's ignored");
            return Ok(());
        }
        known.insert(token.clone());
    }
    let offset = {
        let (logs, token) = (shared.logs.clone(), token.clone());
        let append = move || logs.append(&token, chunk.offset, &chunk.data, chunk.lost_before);
        shared.offload.run("a log append", append).await?
    };
    let offset = match offset {
        Ok(offset) => offset,
        // A full disk is no fault of the worker: it keeps the last bytes and sends them again after the next reconnect.
        // What is missing then shows as a gap.
        Err(e @ (crate::store::Error::Io { .. } | crate::store::Error::Directory { .. })) => {
            if !std::mem::replace(&mut known.unkept, true) {
                warn!(%token, error = %e, "logs of a worker are not kept");
            }
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    if std::mem::take(&mut known.unkept) {
        info!(%token, "logs are kept again");
    }
    say(answers, v1::command::Command::LogAck(v1::LogAck { token: Some(token.into()), offset }));
    Ok(())
}

/// Sends a command down the link, past the actor. A full outbox only delays what is said here: the next one brings it.
fn say(answers: &mpsc::WeakSender<v1::CoordinatorMessage>, command: v1::command::Command) {
    if let Some(answers) = answers.upgrade() {
        let _ = answers.try_send(v1::CoordinatorMessage { commands: vec![v1::Command { command: Some(command) }] });
    }
}

/// Says whether an attempt was given to this worker under this very token. One of a run that has ended is looked up in
/// the store: whoever made up a run must not fill the disk with its logs, and nobody adds to the logs of others.
async fn is_own(shared: &Shared, key: &WorkerKey, token: &Token) -> Result<bool, Error> {
    let (wanted, worker) = (token.clone(), key.clone());
    let active =
        shared.handle.read_patiently(move |core| core.run(&wanted.run).map(|run| made(run, &wanted, &worker))).await?;
    if let Some(own) = active {
        return Ok(own);
    }
    let (wanted, worker) = (token.clone(), key.clone());
    let ended = shared.blocking(move |shared| {
        let run = records::load_run(&*shared.store, &wanted.run)?;
        Ok(run.is_some_and(|run| made(&run, &wanted, &worker)))
    });
    ended.await
}

/// Says whether a run has made this attempt for this worker.
pub(in crate::server) fn made(run: &Run, token: &Token, worker: &WorkerKey) -> bool {
    let named = run.name_of(token.index).is_some_and(|name| name == token.task);
    let Some(task) = run.task(token.index).filter(|_| named) else { return false };
    task.attempts
        .iter()
        .any(|attempt| attempt.number == token.attempt && attempt.epoch == token.epoch && attempt.worker == *worker)
}

/// Turns a success whose outputs are not in the blob store into a failure: an artifact is visible only when its bytes are
/// stored. Their digest was checked when they were stored.
async fn with_stored_outputs(shared: &Shared, event: Event) -> Event {
    let Event::Finished { worker, token, usage, outcome, log_bytes } = event else { return event };
    let outcome = match outcome {
        Outcome::Success { outputs, models, metrics_json, inline } => match unstored(shared, &outputs).await {
            None => Outcome::Success { outputs, models, metrics_json, inline },
            Some(failure) => {
                warn!(%token, failure = failure.message, "success of a worker not believed");
                Outcome::Failure(failure)
            }
        },
        outcome => outcome,
    };
    Event::Finished { worker, token, usage, outcome, log_bytes }
}

/// Says what is wrong with the first output that is not in the blob store as it is reported.
async fn unstored(shared: &Shared, outputs: &[NamedArtifact]) -> Option<Failure> {
    for output in outputs {
        let (name, said) = (&output.name, output.artifact.size_bytes);
        let wrong = match shared.blobs.just_stored(&output.artifact.digest).await {
            Ok(Some(size)) if size == said => continue,
            Ok(Some(size)) => format!("the output `{name}` has {size} bytes in the blob store, not {said}"),
            Ok(None) => format!("the bytes of the output `{name}` are not in the blob store"),
            Err(e) => format!("the output `{name}` could not be looked up: {e}"),
        };
        let failure = Failure::new(FailureClass::Infra, wrong);
        return Some(failure.hint("the worker must reach the same blob store as the coordinator"));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use segue_proto::ids::RunId;

    use super::*;

    fn token(attempt: u32) -> Token {
        Token { run: RunId::new(1), index: 0, task: "embed".parse().unwrap(), attempt, epoch: 1 }
    }

    #[test]
    fn a_link_remembers_the_attempts_that_write_logs_now_and_forgets_the_others() {
        let mut known = OwnLogs::default();
        for attempt in 1..=10_000 {
            known.insert(token(attempt));
            assert!(known.contains(&token(1)), "it is asked for all the time");
            assert!(known.contains(&token(attempt)));
        }
        assert!(known.lately.len() + known.before.len() <= 2 * OWN_LOGS);
        assert!(!known.contains(&token(2)), "nobody has asked for it for long");
    }
}
