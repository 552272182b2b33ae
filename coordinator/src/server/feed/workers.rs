//! Workers that come, drain and go. The store knows nothing of them: what is told is what the core has now against what
//! was told before.

use std::collections::BTreeMap;

use segue_proto::v1::{self, EventKind as Kind};
use serde_json::json;

use super::shape::with_details;
use crate::core::{Core, Worker, WorkerKey};

/// What was told of workers.
#[derive(Debug, Default)]
pub(super) struct Workers {
    known: BTreeMap<WorkerKey, Presence>,
    moved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Draining,
    /// Not connected, but its leases go on.
    Away,
    /// A newer start of the same worker is there. It is remembered, and nobody waits for it.
    Replaced,
}

impl Workers {
    /// Begins with those that the core waits for after a restart: they may turn out to be lost.
    pub(super) fn of(core: &Core) -> Self {
        let known = core.workers().map(|worker| (worker.key.clone(), presence(worker))).collect();
        Self { known, moved: false }
    }

    /// Says that the workers must be looked at.
    pub(super) const fn moved(&mut self) {
        self.moved = true;
    }

    /// Gives the events of workers that came, drain or went. Looks at them only when something may have changed.
    pub(super) fn events(&mut self, core: &Core) -> Vec<v1::FeedEvent> {
        let awaited = self.known.values().any(|presence| *presence == Presence::Away);
        if !std::mem::take(&mut self.moved) && !awaited {
            return Vec::new();
        }
        let mut out = Vec::new();
        let mut now_there: BTreeMap<WorkerKey, Presence> = BTreeMap::new();
        for worker in core.workers() {
            let is = presence(worker);
            let was = self.known.get(&worker.key).copied();
            let details = json!({
                "incarnation": worker.key.incarnation.as_str(), "hostname": worker.hostname, "version": worker.version,
            });
            let mut say = |kind| out.push(with_details(of_worker(&worker.key, kind), &details));
            let was_here = matches!(was, Some(Presence::Here | Presence::Draining));
            match is {
                Presence::Here | Presence::Draining if !was_here => say(Kind::WorkerConnected),
                Presence::Away | Presence::Replaced if was_here => say(Kind::WorkerDisconnected),
                _ => {}
            }
            if is == Presence::Draining && was != Some(Presence::Draining) {
                say(Kind::WorkerDraining);
            }
            now_there.insert(worker.key.clone(), is);
        }
        for (key, was) in &self.known {
            if now_there.contains_key(key) {
                continue;
            }
            match was {
                Presence::Here | Presence::Draining => out.push(of_worker(key, Kind::WorkerDisconnected)),
                Presence::Replaced => {}
                Presence::Away => {
                    let message = "silent for longer than its lease: its attempts go to others".to_owned();
                    out.push(v1::FeedEvent { message, ..of_worker(key, Kind::WorkerLost) });
                }
            }
        }
        self.known = now_there;
        out
    }
}

fn presence(worker: &Worker) -> Presence {
    match (worker.link.is_some(), worker.draining) {
        _ if worker.superseded => Presence::Replaced,
        (false, _) => Presence::Away,
        (true, true) => Presence::Draining,
        (true, false) => Presence::Here,
    }
}

fn of_worker(key: &WorkerKey, kind: Kind) -> v1::FeedEvent {
    v1::FeedEvent { kind: kind.into(), worker: key.name.to_string(), ..v1::FeedEvent::default() }
}
