//! The attempts that a worker holds: waiting, running, or finished and not yet acknowledged.

use std::{collections::HashMap, sync::Arc};

use segue_proto::{ids::Token, v1};
use tokio::sync::watch;

use super::feed::Feed;
use crate::runner::StopKind;

/// One attempt.
#[derive(Debug)]
pub struct Held {
    pub feed: Arc<Feed>,
    pub state: State,
}

/// Waiting -> Running -> Finished; a waiting one may finish at once (cancelled).
#[derive(Debug)]
pub enum State {
    Waiting(Box<v1::Assign>),
    Running {
        stop: watch::Sender<StopKind>,
        why: Why,
    },
    /// Sent again on every new link until it is acknowledged.
    Finished(Box<v1::Finished>),
}

/// Why a running attempt was told to stop. It decides what is reported when it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    NotAtAll,
    Drained,
    Cancelled,
    TimedOut,
    /// The lease is gone: whatever comes of it interests nobody.
    Fenced,
}

/// The table of attempts.
#[derive(Debug, Default)]
pub struct Table(HashMap<Token, Held>);

impl Table {
    /// Gives an attempt.
    pub fn get(&self, token: &Token) -> Option<&Held> {
        self.0.get(token)
    }

    /// Gives an attempt to change it.
    pub fn get_mut(&mut self, token: &Token) -> Option<&mut Held> {
        self.0.get_mut(token)
    }

    /// Adds or replaces an attempt.
    pub fn insert(&mut self, token: Token, held: Held) {
        self.0.insert(token, held);
    }

    /// Forgets an attempt.
    pub fn remove(&mut self, token: &Token) -> Option<Held> {
        self.0.remove(token)
    }

    /// Says whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts the attempts that have processes, fenced ones included.
    pub fn running(&self) -> usize {
        self.0.values().filter(|held| matches!(held.state, State::Running { .. })).count()
    }

    /// Iterates over the attempts that still count: fenced ones are only dying.
    pub fn counting(&self) -> impl Iterator<Item = (&Token, &Held)> {
        self.0.iter().filter(|(_, held)| !matches!(held.state, State::Running { why: Why::Fenced, .. }))
    }

    /// Iterates over every attempt.
    pub fn all(&self) -> impl Iterator<Item = (&Token, &Held)> {
        self.0.iter()
    }

    /// Gives the tokens of every attempt.
    pub fn tokens(&self) -> Vec<Token> {
        self.0.keys().cloned().collect()
    }

    /// Lists what counts, as a hello does.
    pub fn listing(&self) -> Vec<v1::Held> {
        self.counting()
            .map(|(token, held)| v1::Held {
                token: Some(token.clone().into()),
                started: !matches!(held.state, State::Waiting(_)),
            })
            .collect()
    }

    /// Tells a running attempt to stop, if it was not told so for a better reason already.
    pub fn stop(&mut self, token: &Token, reason: Why) {
        if let Some(Held { state: State::Running { stop, why }, .. }) = self.0.get_mut(token)
            && reason > *why
        {
            *why = reason;
            let kind = if reason == Why::Fenced { StopKind::AtOnce } else { StopKind::Politely };
            stop.send_if_modified(|current| {
                let more = kind > *current;
                *current = kind.max(*current);
                more
            });
        }
    }
}
