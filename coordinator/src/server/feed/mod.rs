//! The feed: every committed transition as an event with an offset, written in the batch of the transition itself, so
//! that an event exists if and only if its cause is committed.
//!
//! One record of the store holds all events of a commit. The actor keeps the next offset; readers see what is flushed,
//! read it from the store at their own pace, and never make the actor wait.

mod derive;
pub mod json;
mod models;
mod queue;
mod read;
mod record;
mod shape;
mod sla;
mod trim;
mod workers;

#[cfg(test)]
mod tests;

use segue_proto::{store::v1::EventsRecord, v1};
use tokio::sync::watch;

pub(super) use self::queue::word;
use self::{derive::Told, sla::Late, workers::Workers};
pub use self::{
    read::{Filter, Page, oldest, page},
    trim::{Part, expired},
};
use crate::{
    core::{Core, Dirty, Event, UnixMillis},
    store::{self, Batch, Key, Store, codec, keys::prefix},
};

/// The writing end, owned by the actor.
#[derive(Debug)]
pub struct Feed {
    /// Offset of the next event.
    next: u64,
    told: Told,
    workers: Workers,
    late: Late,
    /// Events of others, for the next commit.
    noted: Vec<v1::FeedEvent>,
    /// Whether the commit that is made holds deliveries.
    queued: bool,
    flushed: watch::Sender<u64>,
    deliveries: watch::Sender<u64>,
}

/// What the others are told of the feed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Offset after the last flushed event.
    pub flushed: watch::Receiver<u64>,
    /// Grows when there is something new to deliver.
    pub deliveries: watch::Receiver<u64>,
}

/// More events than any coordinator lives to see: an offset beyond it is damage, and those before it can be counted on.
const LAST_OFFSET: u64 = 1 << 60;

impl Feed {
    /// Goes on where the store ends; `core` holds the runs that go on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: &dyn Store, core: &Core) -> Result<(Self, Ends), store::Error> {
        let next = match store.scan_back(&prefix::events(), None, 1)?.into_iter().next() {
            Some((key, value)) => {
                let (key, record) = codec::decode_row::<EventsRecord>(&key, &value)?;
                let Key::Events(first) = key else { return Err(store::Error::corrupt(key, "not a part of the feed")) };
                if record.events.is_empty() {
                    // The next event would have its place.
                    return Err(store::Error::corrupt(Key::Events(first), "a part of the feed without events"));
                }
                let next = first.checked_add(record.events.len() as u64).filter(|next| *next <= LAST_OFFSET);
                next.ok_or_else(|| {
                    store::Error::corrupt(Key::Events(first), "a part of the feed after more events than there can be")
                })?
            }
            None => 1,
        };
        let (flushed, flushed_end) = watch::channel(next);
        let (deliveries, deliveries_end) = watch::channel(0);
        let feed = Self {
            next,
            told: Told::of(core),
            workers: Workers::of(core),
            late: Late::open(store)?,
            noted: Vec::new(),
            queued: false,
            flushed,
            deliveries,
        };
        Ok((feed, Ends { flushed: flushed_end, deliveries: deliveries_end }))
    }

    /// Notes what is about to be decided, where the core does not say later what changed.
    pub const fn look_at(&mut self, event: &Event) {
        if matches!(
            event,
            Event::Hello { .. }
                | Event::LinkClosed { .. }
                | Event::Draining { .. }
                | Event::Drain { .. }
                | Event::ScaleIn { .. }
        ) {
            self.workers.moved();
        }
    }

    /// Adds an event that no change of the core tells of, for the next commit. Offset and time are filled in.
    pub fn note(&mut self, event: v1::FeedEvent) {
        self.noted.push(event);
    }

    /// Gives the next time at which a run becomes late.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<UnixMillis> {
        self.late.next()
    }

    /// Adds to the batch of a commit one record with everything that happened in it, and what is to be delivered.
    pub fn add(&mut self, dirty: &Dirty, core: &Core, batch: &mut Batch, now: UnixMillis) {
        let mut events = self.late.missed(core, batch, now);
        events.extend(self.workers.events(core));
        events.extend(derive::events(&mut self.told, dirty, core, now));
        events.extend(models::events(batch));
        events.append(&mut self.noted);
        if events.is_empty() {
            return;
        }
        let first = self.next;
        for event in &mut events {
            event.offset = self.next;
            event.time_ms = now;
            self.next += 1;
            self.late.follow(event, core, batch, now);
            self.queued |= queue::add(event, core, batch);
        }
        // No other writer may have chosen the same offset.
        batch.insert(&Key::Events(first), &record::pack(events, now));
    }

    /// Lets readers see what was committed.
    pub fn flushed(&mut self) {
        self.flushed.send_if_modified(|next| std::mem::replace(next, self.next) != self.next);
        if std::mem::take(&mut self.queued) {
            self.deliveries.send_modify(|count| *count += 1);
        }
    }
}
