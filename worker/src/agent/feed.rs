//! What an attempt has to say while it runs: its start, its progress, its log. Written by the attempt, read by the link.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use segue_proto::{
    ids::Token,
    v1::{self, worker_event::Event},
};
use tokio::sync::{Notify, watch};

use super::logbuf::{KEPT_BYTES, LogBuffer};
use crate::runner::LogSink;

/// Longest piece of a log in one event.
const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes that may wait to be sent before a log has to wait, while there is a link. The other half of what is kept is for
/// what comes all the same: the rest of the pipe when a job has ended.
const WAITING_BYTES: u64 = (KEPT_BYTES / 2) as u64;

/// Feeds with something new, and the bell that says so.
#[derive(Debug, Default)]
pub struct News {
    tokens: Mutex<HashSet<Token>>,
    bell: Notify,
    /// Somebody takes what is told.
    linked: AtomicBool,
}

impl News {
    /// Notes that this attempt has something to say.
    pub fn add(&self, token: &Token) {
        let mut tokens = lock(&self.tokens);
        if !tokens.contains(token) {
            tokens.insert(token.clone());
        }
        drop(tokens);
        self.bell.notify_one();
    }

    /// Takes the attempts that have something to say.
    pub fn take(&self) -> HashSet<Token> {
        std::mem::take(&mut *lock(&self.tokens))
    }

    /// Notes whether there is a link. Each feed has to look at it then.
    pub fn set_linked(&self, linked: bool) {
        self.linked.store(linked, Ordering::Release);
    }

    /// Waits until some attempt may have something to say.
    pub async fn ring(&self) {
        self.bell.notified().await;
    }
}

/// One attempt's start, progress and log.
#[derive(Debug)]
pub struct Feed {
    token: Token,
    news: Arc<News>,
    state: Mutex<State>,
    /// Whether the log may go on.
    room: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    group: Option<u32>,
    /// The start was not told on this link.
    announce: bool,
    /// The last progress, if it was not told yet: older ones interest nobody.
    progress: Option<v1::Progress>,
    log: LogBuffer,
}

impl Feed {
    /// Makes the feed of an attempt.
    pub fn new(token: Token, news: Arc<News>) -> Self {
        let state = State { group: None, announce: false, progress: None, log: LogBuffer::new(KEPT_BYTES) };
        Self { token, news, state: Mutex::new(state), room: watch::Sender::new(true) }
    }

    /// Says whether the log may go on, and when that changes. A job that writes faster than the link takes it waits, as it
    /// would for a slow pipe, and loses nothing. Where there is no link nobody waits: the oldest bytes go.
    pub fn room(&self) -> watch::Receiver<bool> {
        self.room.subscribe()
    }

    /// Looks whether there is a link, after that has changed.
    pub fn look_at_link(&self) {
        self.let_in(&lock(&self.state));
    }

    fn let_in(&self, state: &State) {
        let room = !self.news.linked.load(Ordering::Acquire) || state.log.unsent() < WAITING_BYTES;
        self.room.send_if_modified(|before| std::mem::replace(before, room) != room);
    }

    /// Moves what waits into `events` while the budget of log bytes lasts; says whether something is left.
    pub fn drain_into(&self, events: &mut Vec<v1::WorkerEvent>, budget: &mut usize) -> bool {
        let mut state = lock(&self.state);
        let token = || Some(self.token.clone().into());
        let mut push = |event| events.push(v1::WorkerEvent { event: Some(event) });
        if std::mem::take(&mut state.announce) {
            push(Event::Started(v1::Started { token: token(), runner_pid: state.group.unwrap_or(0) }));
        }
        if let Some(progress) = state.progress.take() {
            push(Event::Progress(progress));
        }
        while *budget > 0
            && let Some(chunk) = state.log.next(CHUNK_BYTES)
        {
            *budget = budget.saturating_sub(chunk.data.len());
            push(Event::Log(v1::LogChunk {
                token: token(),
                offset: chunk.offset,
                data: chunk.data,
                lost_before: chunk.lost_before,
            }));
        }
        self.let_in(&state);
        state.log.has_unsent()
    }

    /// Takes the coordinator's word for how much of the log it keeps.
    pub fn acknowledge(&self, offset: u64) {
        lock(&self.state).log.acknowledge(offset);
    }

    /// Prepares for a new link: the start is told again, the log from the last confirmed byte.
    pub fn rewind(&self) {
        let mut state = lock(&self.state);
        state.announce = state.group.is_some();
        state.log.rewind();
        self.let_in(&state);
        drop(state);
        self.news.add(&self.token);
    }

    /// Gives the length of the log so far.
    pub fn log_bytes(&self) -> u64 {
        lock(&self.state).log.end()
    }
}

/// The attempt's end of its feed.
#[derive(Debug)]
pub struct FeedSink(pub Arc<Feed>);

impl LogSink for FeedSink {
    fn started(&mut self, group: u32) {
        let mut state = lock(&self.0.state);
        state.group = Some(group);
        state.announce = true;
        drop(state);
        self.0.news.add(&self.0.token);
    }

    fn progress(&mut self, done: u64, total: u64, message: String) {
        let progress = v1::Progress { token: Some(self.0.token.clone().into()), done, total, message };
        lock(&self.0.state).progress = Some(progress);
        self.0.news.add(&self.0.token);
    }

    fn log(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let mut state = lock(&self.0.state);
            state.log.append(bytes);
            self.0.let_in(&state);
            drop(state);
            self.0.news.add(&self.0.token);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is changed in single steps, so that a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn feed() -> (Arc<Feed>, Arc<News>) {
        let token = Token {
            run: "run_01j8zk5m8w0000000000000000".parse().unwrap(),
            index: 0,
            task: "task".parse().unwrap(),
            attempt: 1,
            epoch: 1,
        };
        let news = Arc::new(News::default());
        (Arc::new(Feed::new(token, Arc::clone(&news))), news)
    }

    #[test]
    fn only_the_last_progress_is_told() {
        let (feed, news) = feed();
        let mut sink = FeedSink(Arc::clone(&feed));
        sink.started(7);
        sink.progress(1, 9, "one".into());
        sink.progress(2, 9, "two".into());
        assert_eq!(news.take().len(), 1);
        let mut events = Vec::new();
        assert!(!feed.drain_into(&mut events, &mut 1000));
        let [started, progress] = &events[..] else { panic!("{events:?}") };
        assert!(matches!(&started.event, Some(Event::Started(s)) if s.runner_pid == 7));
        assert!(matches!(&progress.event, Some(Event::Progress(p)) if p.message == "two"));
    }

    #[test]
    fn a_log_waits_for_a_link_that_is_slow_and_for_none_that_is_gone() {
        let (feed, news) = feed();
        let mut sink = FeedSink(Arc::clone(&feed));
        let room = feed.room();
        sink.log(&vec![b'x'; 2 * KEPT_BYTES]);
        assert!(*room.borrow(), "nobody takes it: the oldest bytes go, and the job goes on");
        news.set_linked(true);
        feed.rewind();
        assert!(!*room.borrow());
        let mut events = Vec::new();
        while feed.drain_into(&mut events, &mut (4 * CHUNK_BYTES)) {}
        assert!(*room.borrow(), "sent is enough: what is kept elsewhere has its own time");
        sink.log(&vec![b'x'; KEPT_BYTES / 2]);
        assert!(!*room.borrow());
        news.set_linked(false);
        feed.look_at_link();
        assert!(*room.borrow());
        let lost: u64 = events.iter().map(|e| if let Some(Event::Log(l)) = &e.event { l.lost_before } else { 0 }).sum();
        assert_eq!(lost, KEPT_BYTES as u64, "only what was written while there was no link");
    }

    #[test]
    fn a_long_log_waits_for_the_next_message_and_a_new_link_tells_the_start_again() {
        let (feed, _) = feed();
        let mut sink = FeedSink(Arc::clone(&feed));
        sink.started(7);
        sink.log(&vec![b'x'; 3 * CHUNK_BYTES]);
        let mut events = Vec::new();
        assert!(feed.drain_into(&mut events, &mut (CHUNK_BYTES + 1)), "a third piece is left");
        assert_eq!(events.len(), 3, "the start and two pieces");
        feed.acknowledge(CHUNK_BYTES as u64);
        feed.rewind();
        events.clear();
        assert!(!feed.drain_into(&mut events, &mut usize::MAX.clone()));
        assert!(matches!(&events[0].event, Some(Event::Started(_))));
        assert!(
            matches!(&events[1].event, Some(Event::Log(l)) if l.offset == CHUNK_BYTES as u64 && l.lost_before == 0)
        );
    }
}
