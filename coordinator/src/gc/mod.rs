//! Collection: what no rule of retention keeps goes, and the bytes that nothing needs any more with it.
//!
//! [`gather`] reads a snapshot of facts, [`plan()`] says exactly what goes and why, [`execute`] does what the plan says and
//! nothing else. A dry run is the first two. Models and their versions are never collected, and neither is a blob that
//! something kept needs.
//!
//! # Why nothing is lost
//!
//! Records are dropped between two decisions of the coordinator ([`Handle::between`](crate::server::actor::Handle)), each
//! only if it is still as it was planned; so no decision is made from a record that is on its way out. Blobs go last, and
//! each only if no record names it when everything has been read again, if the record about it ([`Key::Artifact`]) has
//! not changed since (whoever commits an output writes that record), and if its bytes were not stored, or said to be
//! needed again, within the grace period or since the start of the oldest attempt that is under way. A crash leaves at
//! most what the next collection finds: records of a run that is marked as dropped, and blobs that nothing needs.
//!
//! [`Key::Artifact`]: crate::store::Key::Artifact

mod execute;
mod facts;
mod gather;
mod plan;
mod service;

use std::time::Duration;

use crate::{logs, spec::Retention};

pub use execute::{drop_cache, execute};
pub use facts::{
    BlobFact, BlobIndex, CacheFact, End, EventsFact, Facts, IntervalFact, LogFact, ModelFact, RunFact, StoredBlob,
    TextFact,
};
pub use gather::gather;
pub use plan::{BlobDrop, CacheDrop, GcPlan, Kept, LogDrop, Policies, RunDrop, Why, plan};
pub use service::{Ask, collect, every, forget_events};

/// How a coordinator collects.
#[derive(Debug, Clone, Copy)]
pub struct GcConfig {
    /// For pipelines whose file says nothing.
    pub defaults: Retention,
    /// None: only when somebody asks for it.
    pub every: Option<Duration>,
    /// Blobs that were stored less than this long ago stay, needed or not.
    pub grace: Duration,
    /// How long events stay in the feed; none: for ever. What somebody still has to read stays longer.
    pub events_for: Option<Duration>,
    /// Bytes that are kept of the log of each attempt: its beginning and its end.
    pub log_limit: u64,
}

impl GcConfig {
    /// Longer than the way of an upload to the record that names it.
    pub const GRACE: Duration = Duration::from_secs(3_600);
    /// How long events stay unless somebody says otherwise: long enough to look into what happened last month.
    pub const EVENTS_FOR: Duration = Duration::from_secs(30 * 24 * 3_600);
}

impl Default for GcConfig {
    /// Keeps everything, of a very long log its beginning and its end.
    fn default() -> Self {
        Self {
            defaults: Retention::default(),
            every: None,
            grace: Self::GRACE,
            events_for: None,
            log_limit: logs::LIMIT,
        }
    }
}

/// What a coordinator holds for its collections.
#[derive(Debug, Default)]
pub struct Gc {
    pub config: GcConfig,
    /// Cursors of those who read the feed for this coordinator: what they have not read yet stays.
    pub readers: Vec<&'static str>,
    /// Whoever reads all records and then what they name, or takes away what they name, is alone with it: one collection
    /// at a time, and none during a backup or a verification.
    pub turn: tokio::sync::Mutex<()>,
}

impl Gc {
    /// Makes it of its settings.
    #[must_use]
    pub fn new(config: GcConfig, readers: Vec<&'static str>) -> Self {
        Self { config, readers, turn: tokio::sync::Mutex::default() }
    }
}

#[cfg(test)]
mod tests;
