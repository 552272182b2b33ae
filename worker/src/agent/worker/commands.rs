//! What the worker does when the coordinator tells it something.

use std::time::{Duration, Instant};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::Token,
    resources::Resources,
    v1::{self, command::Command, finished, worker_event::Event},
};

use super::{Drain, Link, Next, Outgoing, Worker, event, hand_back};
use crate::agent::{
    config::SUPERSEDED,
    held::{Held, State, Why},
};

impl Worker {
    /// Obeys one command.
    pub(super) fn command(&mut self, command: Command) -> Next {
        match command {
            Command::Welcome(welcome) => self.welcome(welcome),
            Command::Goodbye(goodbye) if goodbye.reason.contains(SUPERSEDED) => {
                return Next::Superseded(goodbye.reason);
            }
            Command::Goodbye(goodbye) => {
                tracing::info!(reason = goodbye.reason, "the coordinator ends the link");
                self.drop_link();
            }
            // Nothing else means anything before the welcome.
            _ if !matches!(self.link, Link::Open(_)) => {}
            Command::Assign(assign) => self.assign(assign),
            Command::Cancel(cancel) => {
                let reason = cancel.reason();
                if let Some(token) = token(cancel.token) {
                    self.cancel(token, reason);
                }
            }
            Command::HeartbeatAck(ack) => {
                self.lease.answered(ack.sequence);
                for token in ack.lost.into_iter().filter_map(|lost| token(Some(lost))) {
                    self.fence(&token);
                }
            }
            Command::FinishedAck(ack) => {
                if let Some(token) = token(ack.token)
                    && matches!(self.held.get(&token).map(|held| &held.state), Some(State::Finished(_)))
                {
                    self.held.remove(&token);
                }
            }
            Command::Retract(retract) => {
                let taken: Vec<Token> = retract.tokens.into_iter().filter_map(|taken| token(Some(taken))).collect();
                // What has started stays; its report tells the coordinator.
                for token in self.queue.remove_all(&taken) {
                    self.held.remove(&token);
                    self.tell(hand_back(token, false));
                }
            }
            Command::Drain(drain) => {
                let grace = match drain.grace_ms {
                    0 => self.config.drain_grace,
                    grace => Duration::from_millis(grace.into()),
                };
                self.begin_drain(grace);
            }
            Command::LogAck(ack) => {
                if let Some(held) = token(ack.token).and_then(|token| self.held.get(&token)) {
                    held.feed.acknowledge(ack.offset);
                }
            }
        }
        Next::GoOn
    }

    fn welcome(&mut self, welcome: v1::Welcome) {
        let before = std::mem::replace(&mut self.link, Link::Down);
        let Link::Greeting(stream, asked) = before else {
            self.link = before;
            return;
        };
        self.link = Link::Open(stream);
        self.news.set_linked(true);
        let milliseconds = |amount: u32| Duration::from_millis(amount.into());
        self.lease.granted(milliseconds(welcome.lease_ms), milliseconds(welcome.heartbeat_ms), asked);
        self.shared.blobs.choose(&welcome.blob_url, &welcome.store_id);
        for token in welcome.unknown.into_iter().filter_map(|unknown| token(Some(unknown))) {
            self.fence(&token);
        }
        // A report that was made before this welcome waits already; each is sent once on a link.
        self.outbox.retain(|waiting| !matches!(waiting, Outgoing::End(_)));
        for (token, held) in self.held.counting() {
            held.feed.rewind();
            if matches!(held.state, State::Finished(_)) {
                self.outbox.push_back(Outgoing::End(token.clone()));
            }
        }
        self.due_within(Duration::ZERO);
        tracing::info!(
            epoch = welcome.epoch,
            lease_ms = welcome.lease_ms,
            held = self.held.counting().count(),
            "linked to the coordinator"
        );
    }

    fn assign(&mut self, assign: v1::Assign) {
        let Some(token) = token(assign.token.clone()) else { return };
        if self.held.get(&token).is_some() {
            tracing::debug!(%token, "assigned twice, the second time is ignored");
            return;
        }
        if self.drain.is_some() {
            self.tell(hand_back(token, false));
            return;
        }
        let needs = assign.resources.clone().map(Resources::from).unwrap_or_default();
        let feed = self.feed(&token);
        if !self.queue.can_ever_run(&needs) {
            let failure = Failure::new(FailureClass::Infra, "the attempt needs more than this worker has");
            self.finish(token, finished::Outcome::Failure(failure.into()), v1::Usage::default());
            return;
        }
        self.queue.push(token.clone(), needs, assign.ahead);
        self.held.insert(token, Held { feed, state: State::Waiting(Box::new(assign)) });
    }

    fn cancel(&mut self, token: Token, reason: v1::CancelReason) {
        match self.held.get(&token).map(|held| &held.state) {
            Some(State::Finished(_)) => {}
            Some(State::Running { .. }) => {
                let why = match reason {
                    v1::CancelReason::LeaseLost => Why::Fenced,
                    v1::CancelReason::Timeout => Why::TimedOut,
                    v1::CancelReason::User | v1::CancelReason::Unspecified => Why::Cancelled,
                };
                self.held.stop(&token, why);
            }
            // One that is not here certainly does not run: saying so lets the coordinator go on.
            Some(State::Waiting(_)) | None => {
                self.queue.remove(&token);
                self.finish(token, finished::Outcome::Cancelled(v1::Cancelled {}), v1::Usage::default());
            }
        }
    }

    /// Begins to drain: hands back what waits, and lets what runs finish within `grace`.
    pub(super) fn begin_drain(&mut self, grace: Duration) {
        if self.drain.is_some() {
            return;
        }
        tracing::info!(running = self.held.running(), grace_s = grace.as_secs_f64(), "worker drains");
        self.drain = Some(Drain { deadline: Some(Instant::now() + grace) });
        self.down_since = Instant::now();
        // Without a link the next hello says it. Waiting for one only to say it would hold up the end.
        if !matches!(self.link, Link::Down) {
            self.tell(event(Event::Draining(v1::Draining {})));
        }
        for token in self.queue.take_waiting() {
            self.held.remove(&token);
            self.tell(hand_back(token, false));
        }
    }
}

/// Reads a token of the coordinator. One that cannot be read is its mistake and costs only that command.
fn token(wire: Option<v1::Token>) -> Option<Token> {
    let wire = wire?;
    match Token::try_from(wire) {
        Ok(token) => Some(token),
        Err(error) => {
            tracing::error!(%error, "a command of the coordinator cannot be understood");
            None
        }
    }
}
