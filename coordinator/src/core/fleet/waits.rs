//! Since when tasks wait for a worker. Tasks that became ready at one moment share one entry per class.

use std::collections::{BTreeMap, HashMap};

use crate::core::UnixMillis;

/// A task in the queue: arrival of its run, and index.
type Place = (u64, u32);

/// The moments at which the tasks of the queue became ready.
#[derive(Debug, Default)]
pub(in crate::core) struct Waits {
    now: UnixMillis,
    since: HashMap<Place, UnixMillis>,
    /// How many tasks of a class became ready at each moment.
    moments: BTreeMap<u32, BTreeMap<UnixMillis, u32>>,
}

impl Waits {
    /// Says what time it is for what is queued next.
    pub(in crate::core) const fn time(&mut self, now: UnixMillis) {
        self.now = now;
    }

    /// A task was queued.
    pub(in crate::core) fn enter(&mut self, class: u32, place: Place) {
        self.leave(class, place);
        self.since.insert(place, self.now);
        *self.moments.entry(class).or_default().entry(self.now).or_default() += 1;
    }

    /// A task was taken from the queue.
    pub(in crate::core) fn leave(&mut self, class: u32, place: Place) {
        let Some(since) = self.since.remove(&place) else { return };
        let Some(moments) = self.moments.get_mut(&class) else { return };
        if let Some(count) = moments.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                moments.remove(&since);
            }
        }
        if moments.is_empty() {
            self.moments.remove(&class);
        }
    }

    /// Gives the moment at which the oldest task of a class became ready.
    pub(super) fn oldest(&self, class: u32) -> Option<UnixMillis> {
        self.moments.get(&class)?.first_key_value().map(|(since, _)| *since)
    }
}
