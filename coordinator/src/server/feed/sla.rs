//! Runs that may still miss the time that their pipeline allows. Each has a record from its entry to its end, or to the
//! one event that says that it is late, so that a restart neither forgets nor repeats it.

use std::collections::{BTreeSet, HashMap};

use segue_proto::{
    ids::RunId,
    store::v1::SlaRecord,
    v1::{self, EventKind as Kind},
};
use serde_json::json;

use super::shape::{of_run_alone, with_details};
use crate::{
    core::{Core, UnixMillis},
    store::{self, Batch, Key, Store, codec, keys::prefix},
};

/// The runs by the time at which they become late.
#[derive(Debug, Default)]
pub struct Late {
    due: HashMap<RunId, UnixMillis>,
    order: BTreeSet<(UnixMillis, RunId)>,
}

/// Says whether a run that goes on is late.
const fn is_late(due: UnixMillis, now: UnixMillis) -> bool {
    due <= now
}

impl Late {
    /// Reads what the store knows.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: &dyn Store) -> Result<Self, store::Error> {
        let mut late = Self::default();
        store::visit(store, &prefix::slas(), |key, value| {
            let (key, record) = codec::decode_row::<SlaRecord>(&key, &value)?;
            if let Key::Sla(run) = key {
                late.insert(run, record.due_ms);
            }
            Ok(())
        })?;
        Ok(late)
    }

    /// Gives the next time at which a run becomes late.
    #[must_use]
    pub fn next(&self) -> Option<UnixMillis> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Gives one event for each run that became late, and takes its record away with it.
    pub fn missed(&mut self, core: &Core, batch: &mut Batch, now: UnixMillis) -> Vec<v1::FeedEvent> {
        let mut events = Vec::new();
        while let Some((due, id)) = self.order.first().cloned() {
            if !is_late(due, now) {
                break;
            }
            self.remove(&id, batch);
            // One that ended with this very commit went on until now.
            let Some(run) = core.run(&id) else { continue };
            let sla_ms = run.spec.hooks.sla_ms.unwrap_or_default();
            let event = v1::FeedEvent {
                message: format!("still going after {} s", sla_ms as f64 / 1_000.0),
                ..of_run_alone(run, Kind::SlaMissed)
            };
            events.push(with_details(event, &json!({ "sla_ms": sla_ms, "due_ms": due })));
        }
        events
    }

    /// Follows the entry and the end of runs.
    pub fn follow(&mut self, event: &v1::FeedEvent, core: &Core, batch: &mut Batch, now: UnixMillis) {
        let id = || event.run_id.parse::<RunId>();
        match event.kind() {
            Kind::RunSubmitted | Kind::RunRerun => {
                let Ok(id) = id() else { return };
                let Some(sla_ms) = core.run(&id).and_then(|run| run.spec.hooks.sla_ms) else { return };
                let due_ms = now.saturating_add(sla_ms);
                batch.put(&Key::Sla(id), &SlaRecord { due_ms });
                self.insert(id, due_ms);
            }
            Kind::RunSucceeded | Kind::RunFailed | Kind::RunCancelled | Kind::RunSkipped => {
                if let Ok(id) = id() {
                    self.remove(&id, batch);
                }
            }
            _ => {}
        }
    }

    fn insert(&mut self, run: RunId, due: UnixMillis) {
        if let Some(before) = self.due.insert(run, due) {
            self.order.remove(&(before, run));
        }
        self.order.insert((due, run));
    }

    fn remove(&mut self, run: &RunId, batch: &mut Batch) {
        if let Some(due) = self.due.remove(run) {
            self.order.remove(&(due, *run));
            batch.delete(&Key::Sla(*run));
        }
    }
}
