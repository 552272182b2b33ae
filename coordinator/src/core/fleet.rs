//! What people ask of the fleet: cordons, labels, fewer workers, pools. Remembered by name, so that it outlives links,
//! starts of workers and restarts of the coordinator.

mod idle;
mod queue;
pub mod scale_in;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::ids::{PoolName, RunId, WorkerName};

pub use self::{
    idle::{Idle, held_back},
    queue::{Class, Depth, QueueSummary},
    tally::Tally,
};
use super::{Command, Core, Record, Refused, Verdict, Worker, WorkerKey};

/// Labels that people may set for one worker.
pub const MOST_LABELS: usize = 64;

/// What people have set for a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub cordoned: bool,
    /// Labels over its own ones; without a value, one of its own is hidden.
    pub labels: BTreeMap<String, Option<String>>,
}

impl Settings {
    /// Says whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.cordoned && self.labels.is_empty()
    }

    /// Gives the labels of a worker that was started with `own`.
    fn over(&self, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut labels = own.clone();
        for (name, value) in &self.labels {
            match value {
                Some(value) => labels.insert(name.clone(), value.clone()),
                None => labels.remove(name),
            };
        }
        labels
    }
}

/// What the core keeps for those who run the cluster, beside the workers themselves.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    settings: BTreeMap<WorkerName, Settings>,
    /// Descriptions of pools that have one.
    descriptions: BTreeMap<String, String>,
    pub(super) tally: Tally,
}

impl Upkeep {
    /// Puts on a worker what was set for its name.
    pub(super) fn dress(&self, worker: &mut Worker) {
        worker.own_labels = std::mem::take(&mut worker.labels);
        self.redress(worker);
    }

    fn redress(&self, worker: &mut Worker) {
        let settings = self.settings.get(&worker.key.name);
        worker.cordoned = settings.is_some_and(|settings| settings.cordoned);
        worker.labels =
            settings.map_or_else(|| worker.own_labels.clone(), |settings| settings.over(&worker.own_labels));
    }
}

impl Core {
    /// Takes what was set for a worker from the store.
    pub fn restore_settings(&mut self, name: WorkerName, settings: Settings) {
        self.upkeep.settings.insert(name, settings);
    }

    /// Takes a pool from the store.
    pub fn restore_pool(&mut self, name: PoolName, slots: u32, description: String) {
        if !description.is_empty() {
            self.upkeep.descriptions.insert(name.to_string(), description);
        }
        self.set_pool(name.into(), Some(slots));
    }

    /// Gives what people have set, by the name of the worker.
    #[must_use]
    pub const fn settings(&self) -> &BTreeMap<WorkerName, Settings> {
        &self.upkeep.settings
    }

    /// Gives the description of a pool; may be empty.
    #[must_use]
    pub fn pool_description(&self, name: &str) -> &str {
        self.upkeep.descriptions.get(name).map_or("", String::as_str)
    }

    /// Gives who is ready and would take slots of a pool, best first in each class: run, task and slots. Up to `most`,
    /// and the number of all.
    #[must_use]
    pub fn pool_waits(&self, name: &str, most: usize) -> (Vec<(RunId, u32, u32)>, usize) {
        let (mut waiting, mut all) = (Vec::new(), 0);
        for (id, tasks) in &self.queue.ready {
            let Some(&slots) = self.queue.class(*id).and_then(|class| class.pools.get(name)) else { continue };
            all += tasks.len();
            let found = tasks.iter().filter_map(|key| Some((*self.order.get(&key.2)?, key.3, slots)));
            waiting.extend(found.take(most.saturating_sub(waiting.len())));
        }
        (waiting, all)
    }

    /// Gives what has been counted since this start.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.upkeep.tally
    }

    pub(super) fn cordon(&mut self, name: WorkerName, on: bool) -> Result<Verdict, Refused> {
        self.change_settings(name, |settings, _| settings.cordoned = on)
    }

    pub(super) fn label(
        &mut self,
        name: WorkerName,
        set: BTreeMap<String, String>,
        remove: &BTreeSet<String>,
    ) -> Result<Verdict, Refused> {
        self.change_settings(name, |settings, own| {
            for label in remove {
                // A label that the worker was started with is hidden; any other one is only taken back.
                if own.is_some_and(|own| own.contains_key(label)) {
                    settings.labels.insert(label.clone(), None);
                } else {
                    settings.labels.remove(label);
                }
            }
            settings.labels.extend(set.into_iter().map(|(label, value)| (label, Some(value))));
        })
    }

    /// Changes what is set for a worker that is known, or for which something is set already: any other name is a slip.
    /// `change` is shown the labels that the worker was started with, if it is connected.
    fn change_settings(
        &mut self,
        name: WorkerName,
        change: impl FnOnce(&mut Settings, Option<&BTreeMap<String, String>>),
    ) -> Result<Verdict, Refused> {
        let named = || self.workers.values().filter(|worker| worker.key.name == name);
        let before = self.upkeep.settings.get(&name);
        if before.is_none() && named().next().is_none() {
            return Err(Refused::NoSuchWorker(name));
        }
        let own = named().find(|worker| worker.link.is_some()).map(|worker| &worker.own_labels);
        let mut settings = before.cloned().unwrap_or_default();
        change(&mut settings, own);
        if settings.labels.len() > MOST_LABELS {
            return Err(Refused::TooManyLabels(name));
        }
        if before == Some(&settings) || (before.is_none() && settings.is_empty()) {
            return Ok(Verdict::Done);
        }
        if settings.is_empty() {
            self.upkeep.settings.remove(&name);
        } else {
            self.upkeep.settings.insert(name.clone(), settings.clone());
        }
        for worker in self.workers.values_mut().filter(|worker| worker.key.name == name) {
            self.upkeep.redress(worker);
        }
        self.records.push(Record::Worker { name, settings });
        Ok(Verdict::Done)
    }

    /// A pool is made, changed or deleted. One that somebody holds or waits for is not deleted: its tasks would wait for
    /// ever.
    pub(super) fn change_pool(
        &mut self,
        name: PoolName,
        slots: Option<u32>,
        description: Option<String>,
    ) -> Result<Verdict, Refused> {
        if slots.is_none() {
            if !self.pools.contains_key(name.as_str()) {
                return Err(Refused::NoSuchPool(name));
            }
            let tasks = self.pool_use(name.as_str()).len() + self.pool_waits(name.as_str(), 0).1;
            if tasks > 0 {
                return Err(Refused::PoolInUse { pool: name, tasks });
            }
        }
        self.set_pool(name.to_string(), slots);
        let description = if slots.is_some() { description } else { Some(String::new()) };
        match description {
            Some(text) if text.is_empty() => drop(self.upkeep.descriptions.remove(name.as_str())),
            Some(text) => drop(self.upkeep.descriptions.insert(name.to_string(), text)),
            None => {}
        }
        let description = self.pool_description(name.as_str()).to_owned();
        self.records.push(Record::Pool { name, slots, description });
        Ok(Verdict::Done)
    }

    pub(super) fn scale_in(
        &mut self,
        count: usize,
        labels: &BTreeMap<String, String>,
        expected: &[WorkerKey],
    ) -> Result<Verdict, Refused> {
        let choice = self.plan_scale_in(count, labels);
        if !choice.drain.iter().map(|(key, _)| key).eq(expected) {
            return Err(Refused::FleetChanged);
        }
        for (key, _) in choice.drain {
            self.drain_worker(key.name)?;
        }
        Ok(Verdict::Done)
    }

    /// Tells a worker again to drain that was told before and has come back: its link may have closed on the command.
    pub(super) fn repeat_drain(&mut self, key: &WorkerKey) {
        if self.workers.get(key).is_some_and(|worker| worker.draining) {
            self.send(key, Command::Drain);
        }
    }
}
