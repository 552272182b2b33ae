//! A coordinator without threads, clock, disk and network: what the links of workers bring is decided, written and answered
//! at once, by the code that a served link runs through. The fuzz targets hand it the bytes of strangers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segue_proto::{artifact::Usage, ids::RunId, v1};

use super::{
    active::{self, Active},
    api::worker::made,
    changes,
    error::Error,
    feed::{self, Feed},
    fleet,
    offers::Offers,
    outbox::Outbox,
    pipelines, produce, records, resume, views,
    wire::{self, WelcomeFacts},
};
use crate::{
    core::{
        CachedResult, Command, Config, Core, Dirty, Effect, Event, Outcome, Record, Refused, Run, UnixMillis, Verdict,
        WorkerKey,
    },
    logs::Logs,
    registry,
    spec::RunSpec,
    store::{self, Batch, MemoryStore, Row, Store, meta, verify},
};

/// What a link brought, or why it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    All,
    /// Something broke the contract: the worker loses its connection, and nothing else happens.
    Broken(String),
}

/// The coordinator.
#[derive(Debug)]
pub struct Desk {
    core: Core,
    store: MemoryStore,
    past: BTreeMap<String, CachedResult>,
    feed: Feed,
    ends: feed::Ends,
    active: Active,
    offers: Offers,
    facts: WelcomeFacts,
    links: BTreeMap<u64, WorkerKey>,
    opened: u64,
    now: UnixMillis,
    said: Vec<(u64, v1::CoordinatorMessage)>,
}

impl Desk {
    /// Starts on a store of these rows, as a coordinator starts: it takes the next epoch and resumes the runs.
    ///
    /// # Errors
    /// Those of a start: the store is of another release, or a record does not make sense.
    pub fn start(rows: Vec<Row>, lease_ms: u32, now: UnixMillis) -> Result<Self, Error> {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        for (key, value) in rows {
            batch.put_raw(key, value);
        }
        store.apply(&batch)?;
        if let Err(fault) = meta::check_schema(&store)? {
            return Err(Error::Internal(format!("the store is not one of this release: {fault:?}")));
        }
        let mut batch = Batch::new();
        let epoch = meta::next_epoch(&store, &mut batch)?;
        pipelines::index_old_store(&store, &mut batch)?;
        active::begin(&store, &mut batch, epoch)?;
        store.apply(&batch)?;
        let active = Active::read(&store)?;
        let core = resume(&store, Config { epoch, lease_ms: lease_ms.into() }, &active, &|| now)?;
        let (feed, ends) = Feed::open(&store, &core)?;
        let (blob_url, store_id) = ("file:///blobs".to_owned(), "desk".to_owned());
        let mut desk = Self {
            core,
            store,
            past: BTreeMap::new(),
            feed,
            ends,
            active,
            offers: Offers::default(),
            facts: WelcomeFacts { epoch, lease_ms, blob_url, store_id },
            links: BTreeMap::new(),
            opened: 0,
            now,
            said: Vec::new(),
        };
        desk.turn(Event::Tick)?.ok();
        Ok(desk)
    }

    /// Submits a run.
    ///
    /// # Errors
    /// The coordinator would stop.
    pub fn submit(&mut self, id: RunId, spec: &Arc<RunSpec>) -> Result<Result<Verdict, Refused>, Error> {
        let run = Run::new(id, Arc::clone(spec), String::new(), self.now);
        self.turn(Event::Submit(Box::new(run)))
    }

    /// Opens the link of a worker; `None` where its hello is refused.
    ///
    /// # Errors
    /// The coordinator would stop.
    pub fn open(&mut self, hello: v1::Hello) -> Result<Option<u64>, Error> {
        let link = self.opened + 1;
        let Ok(introduction) = wire::hello(hello, link) else { return Ok(None) };
        if self.offers.known_with(&introduction.operators) > wire::MOST_OPERATORS {
            return Ok(None);
        }
        self.opened = link;
        self.offers.open(link, introduction.operators);
        self.links.insert(link, introduction.worker.key.clone());
        let hello = Event::Hello { worker: Box::new(introduction.worker), held: introduction.held };
        if self.turn(hello)?.is_err() {
            self.links.remove(&link);
            self.offers.close(link);
            return Ok(None);
        }
        Ok(Some(link))
    }

    /// Takes one event of an open link. Pieces of logs go to `logs`, where there are some.
    ///
    /// # Errors
    /// The coordinator would stop.
    pub fn hear(&mut self, link: u64, event: v1::WorkerEvent, logs: Option<&Logs>) -> Result<Heard, Error> {
        let Some(key) = self.links.get(&link).cloned() else { return Ok(Heard::Broken("it is closed".to_owned())) };
        let broken = match event.event {
            Some(v1::worker_event::Event::Log(chunk)) => self.keep_log(link, &key, chunk, logs).err(),
            event => match wire::event(v1::WorkerEvent { event }, &key) {
                // What the core refuses is logged, and the link stays.
                Ok(Some(event)) => self.turn(event)?.err().and(None),
                Ok(None) => None,
                Err(e) => Some(Error::from(e)),
            },
        };
        let Some(reason) = broken else { return Ok(Heard::All) };
        self.close(link)?;
        Ok(Heard::Broken(reason.to_string()))
    }

    fn keep_log(&mut self, link: u64, key: &WorkerKey, chunk: v1::LogChunk, logs: Option<&Logs>) -> Result<(), Error> {
        let token = wire::token("log.token", chunk.token)?;
        let own = match self.core.run(&token.run) {
            Some(run) => made(run, &token, key),
            None => records::load_run(&self.store, &token.run)?.is_some_and(|run| made(&run, &token, key)),
        };
        if let (true, Some(logs)) = (own, logs) {
            let offset = logs.append(&token, chunk.offset, &chunk.data, chunk.lost_before)?;
            let ack = v1::command::Command::LogAck(v1::LogAck { token: Some(token.into()), offset });
            let commands = vec![v1::Command { command: Some(ack) }];
            self.said.push((link, v1::CoordinatorMessage { commands }));
        }
        Ok(())
    }

    /// Closes a link, as its end does.
    ///
    /// # Errors
    /// The coordinator would stop.
    pub fn close(&mut self, link: u64) -> Result<(), Error> {
        self.offers.close(link);
        let Some(worker) = self.links.remove(&link) else { return Ok(()) };
        self.turn(Event::LinkClosed { worker, link })?.ok();
        Ok(())
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The coordinator would stop.
    pub fn pass(&mut self, milliseconds: u64) -> Result<(), Error> {
        self.now = self.now.saturating_add(milliseconds);
        self.turn(Event::Tick)?.ok();
        Ok(())
    }

    /// Takes what was said down the links.
    pub fn said(&mut self) -> Vec<(u64, v1::CoordinatorMessage)> {
        std::mem::take(&mut self.said)
    }

    /// Gives the links that are open.
    #[must_use]
    pub fn links(&self) -> BTreeSet<u64> {
        self.links.keys().copied().collect()
    }

    /// Gives the state that decisions are made from.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Gives the time.
    #[must_use]
    pub const fn now(&self) -> UnixMillis {
        self.now
    }

    /// Gives what is in the store.
    #[must_use]
    pub const fn store(&self) -> &dyn Store {
        &self.store
    }

    /// Reads a run from the store, as a rerun does.
    ///
    /// # Errors
    /// The record does not make sense.
    pub fn stored(&self, id: &RunId) -> Result<Option<Run>, store::Error> {
        records::load_run(&self.store, id)
    }

    /// Makes the answers that people may ask for, of everything that is in memory; gives how many there are.
    #[must_use]
    pub fn answers(&self) -> usize {
        let core = &self.core;
        let runs = core.runs().map(|run| {
            let view = views::run_view(run, Some(core), true);
            let why = views::explanations(run, core, "");
            view.tasks.len()
                + why.len()
                + views::run_facts(run).len()
                + views::run_explanation(run, core).iter().count()
        });
        let workers = core.workers().map(|worker| views::worker_view(worker, core).attempts.len());
        let mut queue = core.queue_summary();
        core.add_waits(&mut queue);
        let catalogue = self.offers.catalogue();
        let fleet = fleet::workers(core, "").len() + fleet::pools(core).len() + catalogue.iter().count();
        runs.sum::<usize>() + workers.sum::<usize>() + fleet
    }

    /// Reads everything that is kept, as its lists, the feed and a verification do; gives how much there is.
    ///
    /// # Errors
    /// The first record that makes no sense.
    pub fn kept(&self) -> Result<usize, Error> {
        let report = verify::records(&self.store)?;
        let end = *self.ends.flushed.borrow();
        let page = feed::page(&self.store, 0, end, &feed::Filter::default())?;
        let events = page.events.iter().map(|event| feed::json::event(event).to_string().len()).sum::<usize>();
        let lists = pipelines::list(&self.store)?.len() + registry::list(&self.store)?.len();
        Ok(report.problems.len() + lists + events)
    }

    /// Decides an event, writes what has changed and answers, as one turn of the actor.
    fn turn(&mut self, event: Event) -> Result<Result<Verdict, Refused>, Error> {
        self.feed.look_at(&event);
        let event = produce::with_valid_models(event, &self.core, &self.store, self.now);
        let verdict = self.core.decide(event, self.now, &self.past);
        if self.core.next_wakeup().is_some_and(|at| at <= self.now) {
            let _ = self.core.decide(Event::Tick, self.now, &self.past);
        }
        self.core.place(self.now);
        let mut dirty = self.core.take();
        let effects = std::mem::take(&mut dirty.effects);
        self.write(&dirty)?;
        let more = self.act(effects);
        self.core.forget_terminal();
        for event in more {
            self.turn(event)?.ok();
        }
        Ok(verdict)
    }

    fn write(&mut self, dirty: &Dirty) -> Result<(), Error> {
        for record in &dirty.records {
            if let Record::Cached { key, result, .. } = record {
                self.past.insert(key.clone(), result.clone());
            }
        }
        let mut batch = Batch::new();
        let (active, feed) = (&mut self.active, &mut self.feed);
        drop(changes::add(dirty, &self.core, &self.store, active, feed, false, &mut batch, self.now)?);
        self.store.apply(&batch)?;
        self.feed.flushed();
        Ok(())
    }

    /// Lets effects go; gives what follows from them.
    fn act(&mut self, effects: Vec<Effect>) -> Vec<Event> {
        let mut outgoing: BTreeMap<u64, Outbox> = BTreeMap::new();
        let (mut more, mut leaving) = (Vec::new(), Vec::new());
        for effect in effects {
            let Effect::Send { worker, link, command } = effect else { continue };
            let assigned = match &command {
                Command::Assign { token, .. } => Some(token.clone()),
                Command::Goodbye { .. } => {
                    leaving.push(link);
                    None
                }
                _ => None,
            };
            let run = assigned.as_ref().and_then(|token| self.core.run(&token.run));
            let Some(command) = wire::command(command, run, &self.facts) else { continue };
            let pushed = outgoing.entry(link).or_default().push(command);
            if let (Err(too_large), Some(token)) = (pushed, assigned) {
                let outcome = Outcome::Failure(too_large.into());
                more.push(Event::Finished { worker, token, usage: Usage::default(), outcome, log_bytes: 0 });
            }
        }
        for (link, outbox) in outgoing {
            if self.links.contains_key(&link) {
                self.said.extend(outbox.into_messages().into_iter().map(|message| (link, message)));
            }
        }
        for link in leaving {
            self.links.remove(&link);
        }
        more
    }
}
