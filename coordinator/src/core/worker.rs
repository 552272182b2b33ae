//! A worker as the core sees it. Free amounts are derived from its leases, never counted apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use segue_proto::{
    ids::{Incarnation, RunId, WorkerName},
    resources::{Gpu, Resources, WHOLE_GPU},
};
use serde::{Deserialize, Serialize};

use super::{UnixMillis, placement::Free};
use crate::defect::{self, Defect};

/// A worker's identity: its name and this start of its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerKey {
    pub name: WorkerName,
    pub incarnation: Incarnation,
}

impl std::fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.incarnation)
    }
}

/// A registered worker, or one that is awaited because leases of it were found at start.
#[derive(Debug, Clone)]
pub struct Worker {
    pub key: WorkerKey,
    /// Absent: not connected.
    pub link: Option<u64>,
    pub capacity: Resources,
    pub gpus: Vec<Gpu>,
    /// As placement sees them: its own ones under those that people have set.
    pub labels: BTreeMap<String, String>,
    /// As its hello said.
    pub own_labels: BTreeMap<String, String>,
    /// Name and version.
    pub operators: BTreeSet<(String, String)>,
    pub draining: bool,
    /// People want it to take no new work; what it has goes on.
    pub cordoned: bool,
    /// A newer incarnation of the same name has said hello.
    pub superseded: bool,
    /// A lease of it has ended for want of heartbeats. Until the next one it gets no work, however open its link looks.
    pub silent: bool,
    pub hostname: String,
    pub version: String,
    pub connected_at: UnixMillis,
    pub heartbeat_at: UnixMillis,
    /// What its live attempts reserve, by run and task index.
    pub leased: BTreeMap<(RunId, u32), Resources>,
    /// Attempts that were given before there was room, oldest first. They reserve nothing yet.
    pub ahead: VecDeque<(RunId, u32)>,
    /// They are known to need the same amounts.
    pub(super) ahead_alike: bool,
    /// When it was last asked to give some of them back.
    pub(super) retracted_at: UnixMillis,
}

impl Worker {
    /// Makes a worker that is known by its leases alone.
    #[must_use]
    pub fn awaited(key: WorkerKey) -> Self {
        Self {
            key,
            link: None,
            capacity: Resources::default(),
            gpus: Vec::new(),
            labels: BTreeMap::new(),
            own_labels: BTreeMap::new(),
            operators: BTreeSet::new(),
            draining: false,
            cordoned: false,
            superseded: false,
            silent: false,
            hostname: String::new(),
            version: String::new(),
            connected_at: 0,
            heartbeat_at: 0,
            leased: BTreeMap::new(),
            ahead: VecDeque::new(),
            ahead_alike: false,
            retracted_at: 0,
        }
    }

    /// Gives every GPU of the capacity a device, where the worker did not name them.
    pub fn name_devices(&mut self) {
        let known = WHOLE_GPU.saturating_mul(u32::try_from(self.gpus.len()).unwrap_or(u32::MAX));
        if self.gpus.is_empty() {
            self.gpus = (0..self.capacity.gpu_milli / WHOLE_GPU)
                .map(|index| Gpu { index, memory_bytes: self.capacity.gpu_memory_bytes, name: String::new() })
                .collect();
        } else {
            self.capacity.gpu_milli = known;
        }
    }

    /// Says whether it may be given work.
    #[must_use]
    pub const fn takes_work(&self) -> bool {
        self.link.is_some() && !self.draining && !self.cordoned && !self.superseded && !self.silent
    }

    /// Names its state, the strongest reason to take no work first.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (self.link, self.draining, self.cordoned) {
            (None, ..) => "disconnected",
            _ if self.silent => "silent",
            (Some(_), true, _) => "draining",
            (Some(_), false, true) => "cordoned",
            (Some(_), false, false) => "connected",
        }
    }

    /// Adds up what its leases reserve.
    #[must_use]
    pub fn in_use(&self) -> Resources {
        self.leased.values().fold(Resources::default(), |sum, amounts| sum.plus(amounts))
    }

    /// Gives what its leases leave free.
    #[must_use]
    pub fn free(&self) -> Free {
        let mut free = Free { amounts: self.capacity.clone(), devices: super::placement::idle(&self.gpus) };
        for reserved in self.leased.values().filter(|_| !defect::is(Defect::OverCapacity)) {
            free.take(reserved);
        }
        free
    }

    /// Says whether it runs nothing and has nothing waiting.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.leased.is_empty() && self.ahead.is_empty()
    }
}
