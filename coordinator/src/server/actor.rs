//! The loop that owns the core: decide, persist, act. Everything that waits is decided together and flushed once.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use segue_proto::{
    artifact::Usage,
    ids::{AliasName, ModelName, RunId, Token},
    store::v1::{PipelineRecord, RunRecord},
    v1,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    active::Active,
    changes,
    error::Error,
    feed::Feed,
    metrics::Timings,
    outbox::{Outbox, TooLarge},
    past::StorePast,
    probes::{Look, Probes},
    produce,
    reread::Rereads,
    wire::{self, WelcomeFacts},
};
use crate::{
    core::{Core, Dirty, Effect, Event, Outcome, Refused, Run, UnixMillis, Verdict, WorkerKey},
    defect::{self, Defect},
    registry,
    store::{Batch, Committer, Key, Store},
};

/// Calls that may wait at the actor's door; the next one is told that the coordinator is overloaded.
const INBOX: usize = 4_096;
/// Calls that are decided and flushed together.
const GROUP: usize = 1_024;

/// Characters of an idempotency key that a message repeats.
const LONGEST_KEY_SHOWN: usize = 100;

type Reply<T> = oneshot::Sender<Result<T, Error>>;
type Reader = Box<dyn FnOnce(&Core) + Send>;
type Maker = Box<dyn FnOnce(&Core, &dyn Store) -> Result<Batch, Error> + Send>;

enum Message {
    Event { event: Event, reply: Option<Reply<Verdict>> },
    Open { link: u64, sender: mpsc::Sender<v1::CoordinatorMessage>, event: Event, reply: Reply<Verdict> },
    Submit { run: Box<Run>, pipeline: Box<PipelineRecord>, reply: Reply<(RunId, bool)> },
    Rerun { run: RunId, event: Event, pipeline: Option<Box<PipelineRecord>>, reply: Reply<Verdict> },
    SetAlias { name: ModelName, alias: AliasName, version: u32, reply: Reply<u32> },
    Append { events: Vec<v1::FeedEvent>, batch: Batch, reply: Reply<()> },
    Read(Reader),
    Between { make: Maker, reply: Reply<()> },
}

/// The way to the actor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    changes: broadcast::Sender<RunId>,
    timings: Timings,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

impl Handle {
    /// Sends an event and waits until its decision is flushed.
    ///
    /// # Errors
    /// The refusal of the core, an overload, or a stopped store.
    pub async fn decide(&self, event: Event) -> Result<Verdict, Error> {
        self.ask(|reply| Message::Event { event, reply: Some(reply) }).await
    }

    /// Sends an event of a worker, whose answer goes down its link. Waits for room: a worker is slowed, never dropped.
    ///
    /// # Errors
    /// The coordinator is stopping.
    pub async fn report(&self, event: Event) -> Result<(), Error> {
        self.inbox.send(Message::Event { event, reply: None }).await.map_err(|_| Error::Stopping)
    }

    /// Opens the link of a worker.
    ///
    /// # Errors
    /// As [`Handle::decide`].
    pub async fn open(
        &self,
        link: u64,
        sender: mpsc::Sender<v1::CoordinatorMessage>,
        event: Event,
    ) -> Result<Verdict, Error> {
        self.ask(|reply| Message::Open { link, sender, event, reply }).await
    }

    /// Submits a run; gives its id, and whether it was there already under its idempotency key.
    ///
    /// # Errors
    /// As [`Handle::decide`].
    pub async fn submit(&self, run: Run, pipeline: PipelineRecord) -> Result<(RunId, bool), Error> {
        self.ask(|reply| Message::Submit { run: Box::new(run), pipeline: Box::new(pipeline), reply }).await
    }

    /// Starts a run again. The text of the version that it gets is kept in the same commit, as with a submission.
    ///
    /// # Errors
    /// As [`Handle::decide`].
    pub async fn rerun(&self, run: RunId, event: Event, pipeline: Option<PipelineRecord>) -> Result<Verdict, Error> {
        let pipeline = pipeline.map(Box::new);
        self.ask(|reply| Message::Rerun { run, event, pipeline, reply }).await
    }

    /// Moves an alias; gives the version it named before, or 0.
    ///
    /// # Errors
    /// An unknown model or version.
    pub async fn set_alias(&self, name: ModelName, alias: AliasName, version: u32) -> Result<u32, Error> {
        self.ask(|reply| Message::SetAlias { name, alias, version, reply }).await
    }

    /// Adds events to the feed that no change of the core tells of, in one commit with the writes that they tell of. The
    /// writes must have no precondition that could fail: they share the fate of everything that is decided with them.
    ///
    /// # Errors
    /// As [`Handle::decide`].
    pub async fn append(&self, events: Vec<v1::FeedEvent>, batch: Batch) -> Result<(), Error> {
        self.ask(|reply| Message::Append { events, batch, reply }).await
    }

    /// Reads the core between two decisions: everything seen is flushed.
    ///
    /// # Errors
    /// The coordinator is overloaded or stopping.
    pub async fn read<T: Send + 'static>(&self, look: impl FnOnce(&Core) -> T + Send + 'static) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let reader: Reader = Box::new(move |core| {
            let _ = reply.send(look(core)); // The caller may have gone.
        });
        self.post(Message::Read(reader))?;
        answer.await.map_err(|_| Error::Stopping)
    }

    /// As [`Handle::read`], but waits for room: for the links of workers, which are slowed and never dropped.
    ///
    /// # Errors
    /// The coordinator is stopping.
    pub async fn read_patiently<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let reader: Reader = Box::new(move |core| {
            let _ = reply.send(look(core)); // The caller may have gone.
        });
        self.inbox.send(Message::Read(reader)).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)
    }

    /// Commits a batch that is made between two decisions: everything it is made from is flushed, and nothing is decided
    /// until it is flushed too. Gives what was made beside the batch. Waits for room.
    ///
    /// # Errors
    /// Those of `make`; a precondition that does not hold; the coordinator is stopping.
    pub async fn between<T: Send + 'static>(
        &self,
        make: impl FnOnce(&Core, &dyn Store) -> Result<(Batch, T), Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (beside, made) = oneshot::channel();
        let (reply, answer) = oneshot::channel();
        let make: Maker = Box::new(move |core, store| {
            let (batch, value) = make(core, store)?;
            let _ = beside.send(value); // The caller may have gone; the batch counts all the same.
            Ok(batch)
        });
        self.inbox.send(Message::Between { make, reply }).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)??;
        made.await.map_err(|_| Error::Stopping)
    }

    /// Listens for changed runs.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<RunId> {
        self.changes.subscribe()
    }

    /// Gives the times that the actor takes.
    #[must_use]
    pub const fn timings(&self) -> &Timings {
        &self.timings
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.post(message(reply))?;
        answer.await.map_err(|_| Error::Stopping)?
    }

    fn post(&self, message: Message) -> Result<(), Error> {
        self.inbox.try_send(message).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })
    }
}

/// Wall time that never goes back: leases must not end because a clock was set.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: UnixMillis,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    #[must_use]
    pub fn start() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Self { base, start: Instant::now() }
    }

    /// Gives the time in milliseconds since 1970.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.base + self.start.elapsed().as_millis() as u64
    }
}

/// The actor: owns the core, its inbox and the links.
#[derive(Debug)]
pub struct Actor {
    core: Core,
    clock: Clock,
    committer: Committer,
    past: StorePast,
    facts: WelcomeFacts,
    feed: Feed,
    active: Active,
    rereads: Option<Rereads>,
    inbox: mpsc::Receiver<Message>,
    changes: broadcast::Sender<RunId>,
    links: HashMap<u64, mpsc::Sender<v1::CoordinatorMessage>>,
    probes: Probes,
    /// Messages put off to the next turn.
    backlog: Vec<Message>,
    timings: Timings,
    stop: CancellationToken,
}

/// Replies that wait for the flush.
type Waiting = Vec<Box<dyn FnOnce(Result<(), Error>) + Send>>;

impl Actor {
    /// Makes the actor and the way to it.
    #[allow(clippy::too_many_arguments)] // The parts of one actor, made in one place.
    #[must_use]
    pub fn new(
        core: Core,
        clock: Clock,
        committer: Committer,
        past: StorePast,
        facts: WelcomeFacts,
        probes: Probes,
        feed: Feed,
        stop: CancellationToken,
    ) -> (Self, Handle) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let (changes, _) = broadcast::channel(GROUP);
        let timings = Timings::default();
        let handle = Handle { inbox: sender, changes: changes.clone(), timings: timings.clone() };
        (
            Self {
                core,
                clock,
                committer,
                past,
                facts,
                feed,
                active: Active::default(),
                rereads: None,
                inbox,
                changes,
                links: HashMap::new(),
                probes,
                backlog: Vec::new(),
                timings,
                stop,
            },
            handle,
        )
    }

    /// Takes the rows of the index of active runs that are in the store.
    #[must_use]
    pub(super) fn indexing(mut self, active: Active) -> Self {
        self.active = active;
        self
    }

    /// Has external inputs digested again before results are cached that were made from them.
    #[must_use]
    pub(super) fn rereading(mut self, rereads: Rereads) -> Self {
        self.rereads = Some(rereads);
        self
    }

    /// Runs until it is stopped or the store fails. A failed commit ends it: memory is ahead of the disk then, and a
    /// restart is the way back.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn run(mut self) -> Result<(), Error> {
        let stop = self.stop.clone();
        // Any end of this loop ends the process, a panic included: a coordinator that decides nothing must not serve.
        let _stop_with_me = stop.clone().drop_guard();
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let due = self.core.next_wakeup().into_iter().chain(self.feed.next_wakeup()).min();
            let wake = due.map(|at| Duration::from_millis(at.saturating_sub(self.clock.now())));
            if !self.backlog.is_empty() && !stop.is_cancelled() {
                group = std::mem::take(&mut self.backlog);
                self.turn_or_stop(std::mem::take(&mut group)).await?;
                continue;
            }
            let alarm = async {
                match wake {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // Stopping wins over a full inbox.
                () = stop.cancelled() => break,
                taken = self.inbox.recv_many(&mut group, GROUP) => if taken == 0 { break },
                () = alarm => group.push(Message::Event { event: Event::Tick, reply: None }),
            }
            self.turn_or_stop(std::mem::take(&mut group)).await?;
        }
        Ok(())
    }

    async fn turn_or_stop(&mut self, group: Vec<Message>) -> Result<(), Error> {
        self.turn(group).await.inspect_err(|e| {
            error!(error = %e, "the store refused a commit: stopping");
            self.stop.cancel();
        })
    }

    /// Decides a group of messages, commits what they changed in one flush, then lets the effects go.
    async fn turn(&mut self, group: Vec<Message>) -> Result<(), Error> {
        self.past.begin_turn();
        let mut waiting: Waiting = Vec::new();
        let mut batch = Batch::new();
        let mut submitted: BTreeMap<String, RunId> = BTreeMap::new();
        let (first, rest): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|m| matches!(m, Message::Read(_) | Message::Between { .. }));
        // These first: they see the last flushed state.
        for message in first {
            match message {
                Message::Read(look) => look(&self.core),
                Message::Between { make, reply } => {
                    let _ = reply.send(self.commit_between(make).await);
                }
                _ => {}
            }
        }
        let now = self.clock.now();
        let mut rest = rest.into_iter();
        while let Some(message) = rest.next() {
            match message {
                Message::Read(_) | Message::Between { .. } => {}
                Message::Event { event, reply } => {
                    self.decide(event, reply, now, &mut waiting);
                }
                Message::Open { link, sender, event, reply } => {
                    self.links.insert(link, sender);
                    self.decide(event, Some(reply), now, &mut waiting);
                }
                Message::Rerun { run, event, pipeline, reply } => {
                    let decided = self.decide(event, Some(reply), now, &mut waiting);
                    if let Some(pipeline) = pipeline.filter(|_| decided) {
                        keep_text(&*self.past.store, &mut batch, &pipeline, &run);
                    }
                }
                Message::Submit { run, pipeline, reply } => {
                    self.submit(*run, &pipeline, reply, now, &mut batch, &mut submitted, &mut waiting);
                }
                Message::SetAlias { name, alias, version, reply } => {
                    match registry::set_alias(&*self.past.store, &mut batch, &name, &alias, version) {
                        Ok(previous) => waiting.push(Box::new(move |flushed| {
                            let _ = reply.send(flushed.map(|()| previous));
                        })),
                        Err(e) => {
                            let _ = reply.send(Err(e.into()));
                        }
                    }
                    // The next move of an alias must see this one in the store.
                    self.backlog = rest.by_ref().collect();
                }
                Message::Append { events, batch: writes, reply } => {
                    events.into_iter().for_each(|event| self.feed.note(event));
                    batch.append(writes);
                    waiting.push(Box::new(move |flushed| {
                        let _ = reply.send(flushed);
                    }));
                }
            }
        }
        // Under load the inbox is never empty and the alarm never rings: what is due is looked at in every turn, after the
        // heartbeats that were waiting.
        if self.core.next_wakeup().is_some_and(|at| at <= now) {
            let _ = self.core.decide(Event::Tick, now, &self.past);
        }
        Timings::measure(&self.timings.placement, || self.core.place(now));
        let mut dirty = self.core.take();
        let mut effects = std::mem::take(&mut dirty.effects);
        if defect::is(Defect::ActFirst) {
            self.act(std::mem::take(&mut effects));
        }
        // A store that takes no more is a coordinator that ends: whoever asked may ask the next one.
        let committed = self.persist(dirty, batch, now).await.map_err(|e| match self.committer.failure() {
            Some(reason) => crate::store::Error::Stopped { reason }.into(),
            None => e,
        });
        match &committed {
            Ok(()) => self.act(effects),
            Err(_) => self.links.clear(),
        }
        for reply in waiting {
            reply(committed.clone());
        }
        self.core.forget_terminal();
        committed
    }

    /// Commits what is no decision. A conflict is the caller's; after any other error the next decision ends the loop.
    async fn commit_between(&mut self, make: Maker) -> Result<(), Error> {
        let batch = make(&self.core, &*self.past.store)?;
        if batch.is_empty() { Ok(()) } else { Ok(self.committer.commit(batch).await?) }
    }

    /// Decides an event. Says whether it was one for the core.
    fn decide(&mut self, event: Event, reply: Option<Reply<Verdict>>, now: UnixMillis, waiting: &mut Waiting) -> bool {
        if let Event::LinkClosed { link, .. } = &event {
            self.links.remove(link);
        }
        if let Event::Rerun { run, .. } = &event
            && !self.is_current(run)
        {
            // The plan was made from a state that is not the last one any more.
            if let Some(reply) = reply {
                let _ = reply.send(Err(Refused::RunGoing(run.id).into()));
            }
            return false;
        }
        self.feed.look_at(&event);
        let event = produce::with_valid_models(event, &self.core, &*self.past.store, now);
        let verdict = self.core.decide(event, now, &self.past);
        if let Err(refused) = &verdict {
            // Whoever asked is told, and knows better what it means.
            if reply.is_some() { debug!(%refused, "event refused") } else { warn!(%refused, "event refused") }
        }
        let decided = verdict.is_ok();
        let Some(reply) = reply else { return decided };
        match verdict {
            Ok(verdict) => waiting.push(Box::new(move |flushed| {
                let _ = reply.send(flushed.map(|()| verdict));
            })),
            Err(refused) => {
                let _ = reply.send(Err(refused.into()));
            }
        }
        decided
    }

    /// Says whether a run that was read before is still as it is stored. Its generation grows with each rerun.
    fn is_current(&self, run: &Run) -> bool {
        let stored = crate::store::read::<RunRecord>(&*self.past.store, &Key::Run(run.id));
        matches!(stored, Ok(Some(record)) if record.generation == run.generation)
    }

    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename the arguments.
    fn submit(
        &mut self,
        run: Run,
        pipeline: &PipelineRecord,
        reply: Reply<(RunId, bool)>,
        now: UnixMillis,
        batch: &mut Batch,
        submitted: &mut BTreeMap<String, RunId>,
        waiting: &mut Waiting,
    ) {
        let key = run.idempotency_key.clone();
        if !key.is_empty() {
            let known = match submitted.get(&key) {
                Some(id) => Ok(Some(*id)),
                None => self.known_submission(&key),
            };
            match known {
                Err(e) => {
                    let _ = reply.send(Err(e));
                    return;
                }
                Ok(Some(id)) => {
                    if let Err(e) = self.same_request(&run, &id) {
                        let _ = reply.send(Err(e));
                        return;
                    }
                    waiting.push(Box::new(move |flushed| {
                        let _ = reply.send(flushed.map(|()| (id, true)));
                    }));
                    return;
                }
                Ok(None) => {
                    let answer = v1::SubmitResponse {
                        run_id: run.id.to_string(),
                        pipeline: pipeline.name.clone(),
                        ..v1::SubmitResponse::default()
                    };
                    batch.insert(&Key::Idempotency(key.clone()), &answer);
                    submitted.insert(key, run.id);
                }
            }
        }
        keep_text(&*self.past.store, batch, pipeline, &run.id);
        let id = run.id;
        match self.core.decide(Event::Submit(Box::new(run)), now, &self.past) {
            Ok(_) => waiting.push(Box::new(move |flushed| {
                let _ = reply.send(flushed.map(|()| (id, false)));
            })),
            Err(refused) => {
                let _ = reply.send(Err(refused.into()));
            }
        }
    }

    /// Refuses a repeat that asks for something else than the submission that has its key.
    fn same_request(&self, run: &Run, known: &RunId) -> Result<(), Error> {
        if run.asked.is_empty() {
            return Ok(());
        }
        let asked = match self.core.run(known) {
            Some(known) => known.asked.clone(),
            None => crate::store::read::<RunRecord>(&*self.past.store, &Key::Run(*known))?
                .map(|record| record.asked)
                .unwrap_or_default(),
        };
        if asked.is_empty() || asked == run.asked {
            return Ok(());
        }
        let key: String = run.idempotency_key.chars().filter(|c| !c.is_control()).take(LONGEST_KEY_SHOWN).collect();
        Err(Error::BadRequest(format!(
            "the idempotency key `{key}` is that of run {known}, which was submitted with another pipeline, another version \
             of it or other parameters: choose another key, or submit the same again"
        )))
    }

    fn known_submission(&self, key: &str) -> Result<Option<RunId>, Error> {
        let record = crate::store::read::<v1::SubmitResponse>(&*self.past.store, &Key::Idempotency(key.to_owned()))?;
        record
            .map(|answer| answer.run_id.parse().map_err(|e| Error::Internal(format!("idempotency record: {e}"))))
            .transpose()
    }

    /// Writes what changed, in one batch and one flush.
    async fn persist(&mut self, dirty: Dirty, mut batch: Batch, now: UnixMillis) -> Result<(), Error> {
        let (store, rereads) = (&*self.past.store, self.rereads.is_some());
        let (active, feed) = (&mut self.active, &mut self.feed);
        let checks = changes::add(&dirty, &self.core, store, active, feed, rereads, &mut batch, now)?;
        if batch.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let committed = self.committer.commit(batch).await;
        let took = begun.elapsed();
        self.timings.commit.observe(took.as_secs_f64());
        if took.as_millis() > u128::from(self.facts.lease_ms / 4) {
            warn!(
                seconds = took.as_secs_f64(),
                lease_ms = self.facts.lease_ms,
                "the disk of the store is slow: answers to heartbeats wait for it, and a worker that gets none within its \
                 lease loses its attempts; give the store a faster disk, or the coordinator a longer --lease"
            );
        }
        committed?;
        self.feed.flushed();
        if let Some(rereads) = &self.rereads {
            rereads.look(checks);
        }
        Ok(())
    }

    /// Lets effects go: one message per link, one notice per run.
    fn act(&mut self, effects: Vec<Effect>) {
        let mut outgoing: BTreeMap<u64, Outbox> = BTreeMap::new();
        let mut workers = BTreeMap::new();
        let (mut changed, mut leaving) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::RunChanged(id) | Effect::RunEnded(id) => changed.push(id),
                Effect::Probe { run, task, since } => self.probe(run, task, since),
                Effect::Send { worker, link, command } => {
                    let assigned = match &command {
                        crate::core::Command::Assign { token, .. } => Some(token.clone()),
                        crate::core::Command::Goodbye { .. } => {
                            leaving.push(link);
                            None
                        }
                        _ => None,
                    };
                    let run = assigned.as_ref().and_then(|token| self.core.run(&token.run));
                    if let Some(command) = wire::command(command, run, &self.facts)
                        && let Err(too_large) = outgoing.entry(link).or_default().push(command)
                    {
                        self.undeliverable(&worker, assigned, too_large);
                    }
                    workers.insert(link, worker);
                }
            }
        }
        for (link, outbox) in outgoing {
            let sent = self.links.get(&link).is_some_and(|sender| {
                outbox.into_messages().into_iter().all(|message| sender.try_send(message).is_ok())
            });
            if !sent {
                // A worker that is gone or does not read is cut off, and gets no more work; it comes back and says what it
                // holds.
                warn!(link, "worker does not take its commands: link closed");
                self.links.remove(&link);
                if let Some(worker) = workers.remove(&link) {
                    self.backlog.push(Message::Event { event: Event::LinkClosed { worker, link }, reply: None });
                }
            }
        }
        // A goodbye is the last word: the other side may not be one that goes by itself.
        for link in leaving {
            self.links.remove(&link);
        }
        changed.sort_unstable();
        changed.dedup();
        for id in changed {
            let _ = self.changes.send(id); // Nobody may be watching.
        }
    }
}

impl Actor {
    /// Ends an attempt whose assignment no link takes: it would break every link that it is put on, again and again.
    fn undeliverable(&mut self, worker: &WorkerKey, assigned: Option<Token>, too_large: TooLarge) {
        let Some(token) = assigned else {
            error!(%worker, bytes = too_large.bytes, "a command is too large to be sent");
            return;
        };
        let event = Event::Finished {
            worker: worker.clone(),
            token,
            usage: Usage::default(),
            outcome: Outcome::Failure(too_large.into()),
            log_bytes: 0,
        };
        self.backlog.push(Message::Event { event, reply: None });
    }

    /// Has somebody look at the condition of a sensor. What he saw comes back as an event.
    fn probe(&self, run: RunId, task: u32, since: UnixMillis) {
        let Some(work) = self.core.run(&run).and_then(|run| run.bound(task)).map(|bound| bound.work.clone()) else {
            return;
        };
        let item = self.core.run(&run).and_then(|run| run.item_of(task));
        let kept = self.core.run(&run).and_then(|run| run.task(task)).map(|task| task.metrics_json.as_str());
        let seen = kept
            .and_then(|kept| serde_json::from_str::<serde_json::Value>(kept).ok())
            .and_then(|kept| Some(kept.get("seen")?.as_str()?.to_owned()));
        self.probes.look(Look { run, task, since, work, item, seen });
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Keeps the text of a version, and the rows under which it is found by the name of its pipeline.
fn keep_text(store: &dyn Store, batch: &mut Batch, pipeline: &PipelineRecord, run: &RunId) {
    if let Ok(version) = pipeline.version.parse() {
        batch.put(&Key::Pipeline(version), pipeline);
    }
    super::pipelines::index(store, batch, pipeline, run);
}
