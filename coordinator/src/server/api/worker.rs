//! `WorkerService`: the link of a worker.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::Stream;
use segue_proto::{
    ids::Token,
    v1::{self, worker_service_server::WorkerService},
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::Shared;
use crate::{
    core::{Event, WorkerKey},
    server::{error::Error, wire},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Workers(pub Shared);

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
        let link = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
        let first =
            incoming.message().await?.ok_or_else(|| Status::invalid_argument("the link closed before its hello"))?;
        let mut events = first.events.into_iter();
        let Some(v1::worker_event::Event::Hello(hello)) = events.next().and_then(|event| event.event) else {
            return Err(Status::invalid_argument("the first event of a link must be a hello"));
        };
        let introduction = wire::hello(hello, link).map_err(Error::from)?;
        let key = introduction.worker.key.clone();
        // Before the worker counts as connected: who waits for one submits at once.
        self.0.offer(|offers| offers.open(link, introduction.operators));
        let (sender, receiver) = mpsc::channel::<v1::CoordinatorMessage>(OUTBOX);
        // Weak, so that the actor alone decides how long the link lives.
        let answers = sender.downgrade();
        let hello = Event::Hello { worker: Box::new(introduction.worker), held: introduction.held };
        if let Err(e) = self.0.handle.open(link, sender, hello).await {
            self.0.offer(|offers| offers.close(link));
            return Err(e.into());
        }
        info!(worker = %key, link, "worker connected");

        let shared = self.0.clone();
        let rest: Vec<v1::WorkerEvent> = events.collect();
        tokio::spawn(async move {
            let end = pump(&shared, &key, &answers, rest, &mut incoming).await;
            match end {
                Ok(()) => info!(worker = %key, link, "worker disconnected"),
                // A malformed message costs this worker its connection and nothing else.
                Err(e) => warn!(worker = %key, link, error = %e, "link of a worker ended"),
            }
            shared.offer(|offers| offers.close(link));
            let _ = shared.handle.report(Event::LinkClosed { worker: key, link }).await;
        });

        let stop = self.0.stop.clone();
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
        let (wanted, key) = (token.clone(), key.clone());
        let own = shared
            .handle
            .read_patiently(move |core| {
                let Some(run) = core.run(&wanted.run) else { return true };
                let named = run.name_of(wanted.index).is_some_and(|name| name == wanted.task);
                let Some(task) = run.task(wanted.index).filter(|_| named) else { return false };
                task.attempts.iter().any(|attempt| {
                    attempt.number == wanted.attempt && attempt.epoch == wanted.epoch && attempt.worker == key
                })
            })
            .await?;
        if !own {
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
        // A full disk is no fault of the worker: it keeps the bytes and sends them again after the next reconnect.
        Err(e @ crate::store::Error::Io { .. }) => {
            warn!(%token, error = %e, "log not kept");
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    if let Some(answers) = answers.upgrade() {
        let ack = v1::command::Command::LogAck(v1::LogAck { token: Some(token.into()), offset });
        let message = v1::CoordinatorMessage { commands: vec![v1::Command { command: Some(ack) }] };
        // A full outbox only delays the acknowledgement: the next chunk brings it.
        let _ = answers.try_send(message);
    }
    Ok(())
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
