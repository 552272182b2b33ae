//! What a collection is planned from: plain data, read at one moment.

use segue_proto::ids::{Digest, PipelineName, RunId};

use crate::{
    core::{RunState, UnixMillis},
    store::Key,
};

/// Index into [`Facts::blobs`].
pub type BlobIndex = u32;

/// A snapshot of everything that retention is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Oldest first.
    pub runs: Vec<RunFact>,
    pub cache: Vec<CacheFact>,
    pub models: Vec<ModelFact>,
    /// Needed by records that are never collected.
    pub always: Vec<BlobIndex>,
    pub blobs: Vec<BlobFact>,
    /// Runs with logs, whether or not the run exists.
    pub logs: Vec<LogFact>,
    /// Records of the feed that nobody has to read any more and that may be old enough, oldest first.
    pub events: Vec<EventsFact>,
    /// Texts of pipelines.
    pub texts: Vec<TextFact>,
    /// What became of intervals of schedules.
    pub intervals: Vec<IntervalFact>,
    /// Runs that an earlier collection has dropped without coming to its end.
    pub leftovers: Vec<RunId>,
    /// Start of the oldest attempt that is under way: it may have stored outputs that no record names yet.
    pub uploading_since: Option<UnixMillis>,
}

/// A run with everything that is recorded of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFact {
    pub run: RunId,
    pub pipeline: String,
    /// None while it is active.
    pub end: Option<End>,
    /// Somebody else still has to take note of its end, such as the schedule that started it: until then it stays.
    pub awaited: bool,
    /// The text of its version, as an index into [`Facts::texts`]; none where that is not stored.
    pub text: Option<u32>,
    pub needs: Vec<BlobIndex>,
}

/// How and when a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub at: UnixMillis,
    pub state: RunState,
}

/// A committed result that later tasks may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheFact {
    pub key: String,
    /// Of the run that made it; empty where that is not known any more.
    pub pipeline: String,
    pub operator: String,
    pub task: String,
    pub created_at: UnixMillis,
    pub needs: Vec<BlobIndex>,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFact {
    pub name: String,
    pub version: u32,
    pub needs: Vec<BlobIndex>,
}

/// A blob that is stored, or that a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFact {
    pub digest: Digest,
    pub stored: Option<StoredBlob>,
    /// Whether there is a record about it: an attempt has committed it as an output.
    pub recorded: bool,
}

/// Bytes in the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    pub size_bytes: u64,
    /// When they were stored, or said to be needed again.
    pub written_at: UnixMillis,
}

/// Logs of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFact {
    pub run: RunId,
    pub bytes: u64,
}

/// A record of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsFact {
    pub key: Key,
    pub at: UnixMillis,
    /// How many events it holds.
    pub events: u64,
}

/// The text of a version of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFact {
    pub version: Digest,
    pub pipeline: String,
    /// Last.
    pub submitted_at: UnixMillis,
    /// It is the newest of its pipeline, or something other than a run names it.
    pub needed: bool,
}

/// What became of an interval of a schedule or backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntervalFact {
    pub pipeline: PipelineName,
    pub start: UnixMillis,
    pub end: UnixMillis,
    pub decided_at: UnixMillis,
    /// Its last run, which may be gone.
    pub run: Option<RunId>,
}
