//! Keys: one byte for the kind, then the components, so that the order of the bytes is the order of the components.
//!
//! A number is four bytes, or eight for offsets and times, big-endian. A text ends with `00 00`, and a NUL inside it is written
//! `00 01`: no text is a
//! prefix of another one's bytes, and a shorter text sorts before its continuations.

use std::fmt;

use segue_proto::ids::{AliasName, BackfillId, Digest, ModelName, PipelineName, PoolName, PortName, RunId, WorkerName};

/// Tags are part of the layout on disk: never renumbered, never used again.
mod tag {
    pub(super) const META: u8 = 0x01;
    pub(super) const RUN: u8 = 0x10;
    pub(super) const TASK: u8 = 0x11;
    pub(super) const ATTEMPT: u8 = 0x12;
    pub(super) const PRODUCED: u8 = 0x13;
    pub(super) const EXPANSION: u8 = 0x14;
    pub(super) const CHANGED_INPUTS: u8 = 0x15;
    pub(super) const PIPELINE: u8 = 0x20;
    pub(super) const ARTIFACT: u8 = 0x21;
    pub(super) const CACHE: u8 = 0x22;
    pub(super) const IDEMPOTENCY: u8 = 0x23;
    pub(super) const MODEL_VERSION: u8 = 0x30;
    pub(super) const ALIAS: u8 = 0x31;
    pub(super) const SCHEDULE: u8 = 0x40;
    pub(super) const INTERVAL: u8 = 0x41;
    pub(super) const BACKFILL: u8 = 0x42;
    pub(super) const BACKFILL_INTERVAL: u8 = 0x43;
    pub(super) const PIPELINE_VERSION: u8 = 0x50;
    pub(super) const PIPELINE_RUN: u8 = 0x51;
    pub(super) const DROPPED_RUN: u8 = 0x52;
    pub(super) const ACTIVE_RUN: u8 = 0x53;
    pub(super) const EVENTS: u8 = 0x48;
    pub(super) const CURSOR: u8 = 0x49;
    pub(super) const DELIVERY: u8 = 0x4A;
    pub(super) const SLA: u8 = 0x4B;
    pub(super) const WORKER: u8 = 0x58;
    pub(super) const POOL: u8 = 0x59;
}

/// The first byte that no key begins with; a store may use what is above for itself.
pub(crate) const RESERVED: u8 = 0xF0;

/// Where a record is. Its comment names the message that is its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What the store says about itself: see [`super::meta`].
    Meta(Meta),
    /// `store.v1.RunRecord`
    Run(RunId),
    /// `store.v1.TaskRecord`, by index in the pipeline
    Task { run: RunId, task: u32 },
    /// `store.v1.AttemptRecord`; attempts count from 1
    Attempt { run: RunId, task: u32, attempt: u32 },
    /// `v1.ArtifactView`: what a task of a run has put out
    Produced { run: RunId, task: u32, output: PortName },
    /// `store.v1.ExpansionRecord`: the items of a fan-out, by index of its task
    Expansion { run: RunId, task: u32 },
    /// `store.v1.ChangedInputsRecord`: external inputs that changed before an attempt had ended
    ChangedInputs { run: RunId, task: u32, attempt: u32 },
    /// `store.v1.PipelineRecord`, by version
    Pipeline(Digest),
    /// `store.v1.ArtifactRecord`
    Artifact(Digest),
    /// `store.v1.CacheRecord`, by cache key
    Cache(String),
    /// `v1.SubmitResponse`: the answer to the first submission with this key
    Idempotency(String),
    /// `v1.ModelVersion`
    ModelVersion { name: ModelName, version: u32 },
    /// `v1.SetAliasRequest`: as it was last set
    Alias { name: ModelName, alias: AliasName },
    /// `store.v1.ScheduleRecord`
    Schedule(PipelineName),
    /// `store.v1.IntervalRecord`: what became of an interval of a pipeline, in milliseconds since 1970
    Interval { pipeline: PipelineName, start: u64, end: u64 },
    /// `store.v1.BackfillRecord`
    Backfill(BackfillId),
    /// `store.v1.BackfillIntervalRecord`, in the order of execution
    BackfillInterval { backfill: BackfillId, index: u32 },
    /// `store.v1.PipelineVersionRecord`: the versions of a name
    PipelineVersion { name: PipelineName, version: Digest },
    /// `store.v1.PipelineRunRecord`: the runs of a name
    PipelineRun { name: PipelineName, run: RunId },
    /// `store.v1.DroppedRunRecord`
    DroppedRun(RunId),
    /// `store.v1.ActiveRunRecord`: the runs that have not ended
    ActiveRun(RunId),
    /// `store.v1.EventsRecord`, by the offset of its first event
    Events(u64),
    /// `store.v1.CursorRecord`, by the name of the reader
    Cursor(String),
    /// `store.v1.DeliveryRecord`: to whom, when it is due next, the event that caused it, the hook of the pipeline
    Delivery(DeliveryKey),
    /// `store.v1.SlaRecord`
    Sla(RunId),
    /// `store.v1.WorkerRecord`: what people have set for a worker
    Worker(WorkerName),
    /// `store.v1.PoolRecord`
    Pool(PoolName),
}

/// The place of a delivery: those to one receiver lie together, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// Of the receiver; two receivers that share one by chance only wait for each other a little more.
    pub lane: u64,
    pub due_ms: u64,
    pub offset: u64,
    pub hook: u32,
}

/// Keys of what the store says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meta {
    /// Layout version, checked at open.
    Schema,
    /// Count of coordinator starts, part of every fencing token.
    Epoch,
    /// Random id given when the store was made.
    StoreId,
    /// The last epoch whose coordinator kept the index of active runs.
    ActiveRuns,
}

/// Bytes that are no key of this release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (bytes {hex})")]
pub struct BadKey {
    reason: String,
    hex: String,
}

impl Meta {
    const ALL: [Self; 4] = [Self::Schema, Self::Epoch, Self::StoreId, Self::ActiveRuns];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Epoch => "epoch",
            Self::StoreId => "store-id",
            Self::ActiveRuns => "active-runs",
        }
    }
}

impl Key {
    /// Gives the bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Meta(meta) => Writer::of(tag::META).text(meta.as_str()),
            Self::Run(run) => Writer::of(tag::RUN).text(&run.to_string()),
            Self::Task { run, task } => Writer::of(tag::TASK).text(&run.to_string()).number(*task),
            Self::Attempt { run, task, attempt } => {
                Writer::of(tag::ATTEMPT).text(&run.to_string()).number(*task).number(*attempt)
            }
            Self::Produced { run, task, output } => {
                Writer::of(tag::PRODUCED).text(&run.to_string()).number(*task).text(output.as_str())
            }
            Self::Expansion { run, task } => Writer::of(tag::EXPANSION).text(&run.to_string()).number(*task),
            Self::ChangedInputs { run, task, attempt } => {
                Writer::of(tag::CHANGED_INPUTS).text(&run.to_string()).number(*task).number(*attempt)
            }
            Self::Pipeline(digest) => Writer::of(tag::PIPELINE).text(digest.as_str()),
            Self::Artifact(digest) => Writer::of(tag::ARTIFACT).text(digest.as_str()),
            Self::Cache(key) => Writer::of(tag::CACHE).text(key),
            Self::Idempotency(key) => Writer::of(tag::IDEMPOTENCY).text(key),
            Self::ModelVersion { name, version } => Writer::of(tag::MODEL_VERSION).text(name.as_str()).number(*version),
            Self::Alias { name, alias } => Writer::of(tag::ALIAS).text(name.as_str()).text(alias.as_str()),
            Self::Schedule(name) => Writer::of(tag::SCHEDULE).text(name.as_str()),
            Self::Interval { pipeline, start, end } => {
                Writer::of(tag::INTERVAL).text(pipeline.as_str()).long(*start).long(*end)
            }
            Self::Backfill(id) => Writer::of(tag::BACKFILL).text(id.as_str()),
            Self::BackfillInterval { backfill, index } => {
                Writer::of(tag::BACKFILL_INTERVAL).text(backfill.as_str()).number(*index)
            }
            Self::PipelineVersion { name, version } => {
                Writer::of(tag::PIPELINE_VERSION).text(name.as_str()).text(version.as_str())
            }
            Self::PipelineRun { name, run } => Writer::of(tag::PIPELINE_RUN).text(name.as_str()).text(&run.to_string()),
            Self::DroppedRun(run) => Writer::of(tag::DROPPED_RUN).text(&run.to_string()),
            Self::ActiveRun(run) => Writer::of(tag::ACTIVE_RUN).text(&run.to_string()),
            Self::Events(first) => Writer::of(tag::EVENTS).long(*first),
            Self::Cursor(reader) => Writer::of(tag::CURSOR).text(reader),
            Self::Delivery(DeliveryKey { lane, due_ms, offset, hook }) => {
                Writer::of(tag::DELIVERY).long(*lane).long(*due_ms).long(*offset).number(*hook)
            }
            Self::Sla(run) => Writer::of(tag::SLA).text(&run.to_string()),
            Self::Worker(name) => Writer::of(tag::WORKER).text(name.as_str()),
            Self::Pool(name) => Writer::of(tag::POOL).text(name.as_str()),
        }
        .0
    }

    /// Reads a key back.
    ///
    /// # Errors
    /// [`BadKey`] if the bytes are no key of this release.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadKey> {
        let bad = |reason: String| BadKey { reason, hex: hex(bytes) };
        let (tag, rest) = bytes.split_first().ok_or_else(|| bad("an empty key".to_owned()))?;
        let mut reader = Reader(rest);
        let key = Self::components(*tag, &mut reader).map_err(bad)?;
        if reader.0.is_empty() { Ok(key) } else { Err(bad("a key with bytes after its end".to_owned())) }
    }

    fn components(tag: u8, from: &mut Reader<'_>) -> Result<Self, String> {
        Ok(match tag {
            tag::META => {
                let name = from.text()?;
                let known = Meta::ALL.into_iter().find(|meta| meta.as_str() == name);
                Self::Meta(known.ok_or_else(|| format!("an unknown meta key `{name}`"))?)
            }
            tag::RUN => Self::Run(from.id()?),
            tag::TASK => Self::Task { run: from.id()?, task: from.number()? },
            tag::ATTEMPT => Self::Attempt { run: from.id()?, task: from.number()?, attempt: from.number()? },
            tag::PRODUCED => Self::Produced { run: from.id()?, task: from.number()?, output: from.id()? },
            tag::EXPANSION => Self::Expansion { run: from.id()?, task: from.number()? },
            tag::CHANGED_INPUTS => {
                Self::ChangedInputs { run: from.id()?, task: from.number()?, attempt: from.number()? }
            }
            tag::PIPELINE => Self::Pipeline(from.id()?),
            tag::ARTIFACT => Self::Artifact(from.id()?),
            tag::CACHE => Self::Cache(from.text()?),
            tag::IDEMPOTENCY => Self::Idempotency(from.text()?),
            tag::MODEL_VERSION => Self::ModelVersion { name: from.id()?, version: from.number()? },
            tag::ALIAS => Self::Alias { name: from.id()?, alias: from.id()? },
            tag::SCHEDULE => Self::Schedule(from.id()?),
            tag::INTERVAL => Self::Interval { pipeline: from.id()?, start: from.long()?, end: from.long()? },
            tag::BACKFILL => Self::Backfill(from.id()?),
            tag::BACKFILL_INTERVAL => Self::BackfillInterval { backfill: from.id()?, index: from.number()? },
            tag::PIPELINE_VERSION => Self::PipelineVersion { name: from.id()?, version: from.id()? },
            tag::PIPELINE_RUN => Self::PipelineRun { name: from.id()?, run: from.id()? },
            tag::DROPPED_RUN => Self::DroppedRun(from.id()?),
            tag::ACTIVE_RUN => Self::ActiveRun(from.id()?),
            tag::EVENTS => Self::Events(from.long()?),
            tag::CURSOR => Self::Cursor(from.text()?),
            tag::DELIVERY => Self::Delivery(DeliveryKey {
                lane: from.long()?,
                due_ms: from.long()?,
                offset: from.long()?,
                hook: from.number()?,
            }),
            tag::SLA => Self::Sla(from.id()?),
            tag::WORKER => Self::Worker(from.id()?),
            tag::POOL => Self::Pool(from.id()?),
            other => return Err(format!("a key of the unknown kind {other:#04x}")),
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta(meta) => write!(f, "meta/{}", meta.as_str()),
            Self::Run(run) => write!(f, "run/{run}"),
            Self::Task { run, task } => write!(f, "task/{run}/{task}"),
            Self::Attempt { run, task, attempt } => write!(f, "attempt/{run}/{task}/{attempt}"),
            Self::Produced { run, task, output } => write!(f, "produced/{run}/{task}/{output}"),
            Self::Expansion { run, task } => write!(f, "expansion/{run}/{task}"),
            Self::ChangedInputs { run, task, attempt } => write!(f, "changed-inputs/{run}/{task}/{attempt}"),
            Self::Pipeline(digest) => write!(f, "pipeline/{digest}"),
            Self::Artifact(digest) => write!(f, "artifact/{digest}"),
            Self::Cache(key) => write!(f, "cache/{}", key.escape_debug()),
            Self::Idempotency(key) => write!(f, "idempotency/{}", key.escape_debug()),
            Self::ModelVersion { name, version } => write!(f, "model-version/{name}/{version}"),
            Self::Alias { name, alias } => write!(f, "alias/{name}/{alias}"),
            Self::Schedule(name) => write!(f, "schedule/{name}"),
            Self::Interval { pipeline, start, end } => write!(f, "interval/{pipeline}/{start}/{end}"),
            Self::Backfill(id) => write!(f, "backfill/{id}"),
            Self::BackfillInterval { backfill, index } => write!(f, "backfill-interval/{backfill}/{index}"),
            Self::PipelineVersion { name, version } => write!(f, "pipeline-version/{name}/{version}"),
            Self::PipelineRun { name, run } => write!(f, "pipeline-run/{name}/{run}"),
            Self::DroppedRun(run) => write!(f, "dropped-run/{run}"),
            Self::ActiveRun(run) => write!(f, "active-run/{run}"),
            Self::Events(first) => write!(f, "events/{first}"),
            Self::Cursor(reader) => write!(f, "cursor/{}", reader.escape_debug()),
            Self::Delivery(DeliveryKey { lane, due_ms, offset, hook }) => {
                write!(f, "delivery/{lane:016x}/{due_ms}/{offset}/{hook}")
            }
            Self::Sla(run) => write!(f, "sla/{run}"),
            Self::Worker(name) => write!(f, "worker/{name}"),
            Self::Pool(name) => write!(f, "pool/{name}"),
        }
    }
}

/// Names a key for people: as [`Key`] prints it, or its bytes where they are no key.
#[must_use]
pub fn describe(bytes: &[u8]) -> String {
    Key::decode(bytes).map_or_else(|_| format!("0x{}", hex(bytes)), |key| key.to_string())
}

/// Prefixes for [`super::Store::scan`].
pub mod prefix {
    use super::{BackfillId, ModelName, PipelineName, RunId, Writer, tag};

    /// All runs, oldest first.
    #[must_use]
    pub fn runs() -> Vec<u8> {
        vec![tag::RUN]
    }

    /// Tasks of every run.
    #[must_use]
    pub fn all_tasks() -> Vec<u8> {
        vec![tag::TASK]
    }

    /// Tasks of a run, by index.
    #[must_use]
    pub fn tasks(run: &RunId) -> Vec<u8> {
        Writer::of(tag::TASK).text(&run.to_string()).0
    }

    /// Attempts of a run, by task and number.
    #[must_use]
    pub fn attempts(run: &RunId) -> Vec<u8> {
        Writer::of(tag::ATTEMPT).text(&run.to_string()).0
    }

    /// Expansions of a run, by task.
    #[must_use]
    pub fn expansions(run: &RunId) -> Vec<u8> {
        Writer::of(tag::EXPANSION).text(&run.to_string()).0
    }

    /// Attempts of a task, by number.
    #[must_use]
    pub fn attempts_of(run: &RunId, task: u32) -> Vec<u8> {
        Writer::of(tag::ATTEMPT).text(&run.to_string()).number(task).0
    }

    /// What every run has put out, by run.
    #[must_use]
    pub fn all_produced() -> Vec<u8> {
        vec![tag::PRODUCED]
    }

    /// What a run has put out, by task and output.
    #[must_use]
    pub fn produced(run: &RunId) -> Vec<u8> {
        Writer::of(tag::PRODUCED).text(&run.to_string()).0
    }

    /// All pipeline versions.
    #[must_use]
    pub fn pipelines() -> Vec<u8> {
        vec![tag::PIPELINE]
    }

    /// All artifacts.
    #[must_use]
    pub fn artifacts() -> Vec<u8> {
        vec![tag::ARTIFACT]
    }

    /// Artifacts whose digest starts with some characters.
    #[must_use]
    pub fn artifacts_like(start: &str) -> Vec<u8> {
        let mut bytes = vec![tag::ARTIFACT];
        bytes.extend_from_slice(start.as_bytes());
        bytes
    }

    /// Runs whose id starts with some characters.
    #[must_use]
    pub fn runs_like(start: &str) -> Vec<u8> {
        let mut bytes = vec![tag::RUN];
        bytes.extend_from_slice(start.as_bytes());
        bytes
    }

    /// All committed results.
    #[must_use]
    pub fn cache() -> Vec<u8> {
        vec![tag::CACHE]
    }

    /// Committed results whose key starts with some characters.
    #[must_use]
    pub fn cache_like(start: &str) -> Vec<u8> {
        let mut bytes = vec![tag::CACHE];
        bytes.extend_from_slice(start.as_bytes());
        bytes
    }

    /// Versions of every pipeline, by name.
    #[must_use]
    pub fn all_pipeline_versions() -> Vec<u8> {
        vec![tag::PIPELINE_VERSION]
    }

    /// Versions of a pipeline, in no order that means anything.
    #[must_use]
    pub fn pipeline_versions(name: &PipelineName) -> Vec<u8> {
        Writer::of(tag::PIPELINE_VERSION).text(name.as_str()).0
    }

    /// Runs of every pipeline, by name.
    #[must_use]
    pub fn all_pipeline_runs() -> Vec<u8> {
        vec![tag::PIPELINE_RUN]
    }

    /// Runs of a pipeline, oldest first.
    #[must_use]
    pub fn pipeline_runs(name: &PipelineName) -> Vec<u8> {
        Writer::of(tag::PIPELINE_RUN).text(name.as_str()).0
    }

    /// Runs that are on their way out.
    #[must_use]
    pub fn dropped_runs() -> Vec<u8> {
        vec![tag::DROPPED_RUN]
    }

    /// Runs that have not ended.
    #[must_use]
    pub fn active_runs() -> Vec<u8> {
        vec![tag::ACTIVE_RUN]
    }

    /// External inputs of attempts of a run that changed.
    #[must_use]
    pub fn changed_inputs(run: &RunId) -> Vec<u8> {
        Writer::of(tag::CHANGED_INPUTS).text(&run.to_string()).0
    }

    /// Versions of every model, by name and number.
    #[must_use]
    pub fn all_model_versions() -> Vec<u8> {
        vec![tag::MODEL_VERSION]
    }

    /// Versions of a model, by number.
    #[must_use]
    pub fn model_versions(name: &ModelName) -> Vec<u8> {
        Writer::of(tag::MODEL_VERSION).text(name.as_str()).0
    }

    /// Aliases of every model.
    #[must_use]
    pub fn all_aliases() -> Vec<u8> {
        vec![tag::ALIAS]
    }

    /// What is set for workers, by name.
    #[must_use]
    pub fn workers() -> Vec<u8> {
        vec![tag::WORKER]
    }

    /// All pools.
    #[must_use]
    pub fn pools() -> Vec<u8> {
        vec![tag::POOL]
    }

    /// Aliases of a model.
    #[must_use]
    pub fn aliases(name: &ModelName) -> Vec<u8> {
        Writer::of(tag::ALIAS).text(name.as_str()).0
    }

    /// All schedules, by name.
    #[must_use]
    pub fn schedules() -> Vec<u8> {
        vec![tag::SCHEDULE]
    }

    /// What became of the intervals of a pipeline, by their start.
    #[must_use]
    pub fn intervals(pipeline: &PipelineName) -> Vec<u8> {
        Writer::of(tag::INTERVAL).text(pipeline.as_str()).0
    }

    /// All backfills, oldest first.
    #[must_use]
    pub fn backfills() -> Vec<u8> {
        vec![tag::BACKFILL]
    }

    /// Backfills whose id starts with some characters.
    #[must_use]
    pub fn backfills_like(start: &str) -> Vec<u8> {
        let mut bytes = vec![tag::BACKFILL];
        bytes.extend_from_slice(start.as_bytes());
        bytes
    }

    /// The intervals of a backfill, in the order of execution.
    #[must_use]
    pub fn backfill_intervals(backfill: &BackfillId) -> Vec<u8> {
        Writer::of(tag::BACKFILL_INTERVAL).text(backfill.as_str()).0
    }

    /// The feed, oldest first.
    #[must_use]
    pub fn events() -> Vec<u8> {
        vec![tag::EVENTS]
    }

    /// Deliveries to everybody, by receiver.
    #[must_use]
    pub fn deliveries() -> Vec<u8> {
        vec![tag::DELIVERY]
    }

    /// Deliveries to one receiver, by urgency.
    #[must_use]
    pub fn deliveries_of(lane: u64) -> Vec<u8> {
        Writer::of(tag::DELIVERY).long(lane).0
    }

    /// Runs that may still miss their time.
    #[must_use]
    pub fn slas() -> Vec<u8> {
        vec![tag::SLA]
    }
}

/// The first key after every key with this prefix; none if there is no such key.
pub(crate) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    const SHOWN: usize = 48;
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

struct Writer(Vec<u8>);

impl Writer {
    fn of(tag: u8) -> Self {
        Self(vec![tag])
    }

    fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn long(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        for &byte in text.as_bytes() {
            self.0.push(byte);
            if byte == 0 {
                self.0.push(1);
            }
        }
        self.0.extend_from_slice(&[0, 0]);
        self
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Result<u32, String> {
        let (bytes, rest) = self.0.split_first_chunk::<4>().ok_or("a key that ends within a number")?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn long(&mut self) -> Result<u64, String> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or("a key that ends within a number")?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    fn text(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        loop {
            match self.0 {
                [0, 0, rest @ ..] => {
                    self.0 = rest;
                    return String::from_utf8(bytes).map_err(|_| "a key whose text is not UTF-8".to_owned());
                }
                [0, 1, rest @ ..] => {
                    bytes.push(0);
                    self.0 = rest;
                }
                [] | [0, ..] => return Err("a key that ends within a text".to_owned()),
                [byte, rest @ ..] => {
                    bytes.push(*byte);
                    self.0 = rest;
                }
            }
        }
    }

    fn id<T: TryFrom<String, Error = segue_proto::ids::BadId>>(&mut self) -> Result<T, String> {
        T::try_from(self.text()?).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn run_id()(rest in "[0-7][0-9a-hjkmnp-tv-z]{25}") -> RunId { format!("run_{rest}").parse().unwrap() }
    }
    prop_compose! {
        fn digest()(hex in "[0-9a-f]{64}") -> Digest { hex.parse().unwrap() }
    }

    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            prop_oneof![Just(Meta::Schema), Just(Meta::Epoch), Just(Meta::StoreId), Just(Meta::ActiveRuns)]
                .prop_map(Key::Meta),
            run_id().prop_map(Key::Run),
            (run_id(), any::<u32>()).prop_map(|(run, task)| Key::Task { run, task }),
            (run_id(), any::<u32>(), any::<u32>()).prop_map(|(run, task, attempt)| Key::Attempt { run, task, attempt }),
            (run_id(), any::<u32>(), "[a-z0-9_-]{1,9}").prop_map(|(run, task, output)| Key::Produced {
                run,
                task,
                output: output.parse().unwrap()
            }),
            (run_id(), any::<u32>(), any::<u32>()).prop_map(|(run, task, attempt)| Key::ChangedInputs {
                run,
                task,
                attempt
            }),
            digest().prop_map(Key::Pipeline),
            digest().prop_map(Key::Artifact),
            any::<String>().prop_map(Key::Cache),
            any::<String>().prop_map(Key::Idempotency),
            ("[a-z0-9_-]{1,9}", any::<u32>())
                .prop_map(|(name, version)| Key::ModelVersion { name: name.parse().unwrap(), version }),
            ("[a-z0-9_-]{1,9}", "[a-z_-]{1,9}")
                .prop_map(|(name, alias)| Key::Alias { name: name.parse().unwrap(), alias: alias.parse().unwrap() }),
            "[a-z0-9_-]{1,9}".prop_map(|name| Key::Schedule(name.parse().unwrap())),
            ("[a-z0-9_-]{1,9}", any::<u64>(), any::<u64>()).prop_map(|(name, start, end)| Key::Interval {
                pipeline: name.parse().unwrap(),
                start,
                end
            }),
            "bf_[0-9a-z]{26}".prop_map(|id| Key::Backfill(id.parse().unwrap())),
            ("bf_[0-9a-z]{26}", any::<u32>())
                .prop_map(|(id, index)| Key::BackfillInterval { backfill: id.parse().unwrap(), index }),
            ("[a-z0-9_-]{1,9}", digest())
                .prop_map(|(name, version)| Key::PipelineVersion { name: name.parse().unwrap(), version }),
            ("[a-z0-9_-]{1,9}", run_id()).prop_map(|(name, run)| Key::PipelineRun { name: name.parse().unwrap(), run }),
            run_id().prop_map(Key::DroppedRun),
            run_id().prop_map(Key::ActiveRun),
            any::<u64>().prop_map(Key::Events),
            any::<String>().prop_map(Key::Cursor),
            (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>())
                .prop_map(|(lane, due_ms, offset, hook)| Key::Delivery(DeliveryKey { lane, due_ms, offset, hook })),
            run_id().prop_map(Key::Sla),
            "[a-zA-Z0-9_.-]{1,9}".prop_map(|name| Key::Worker(name.parse().unwrap())),
            "[a-z0-9_-]{1,9}".prop_map(|name| Key::Pool(name.parse().unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(key in key()) {
            prop_assert_eq!(Key::decode(&key.encode()).unwrap(), key.clone());
            prop_assert!(key.encode()[0] < RESERVED);
        }

        #[test]
        fn bytes_sort_as_the_components_do(a in "[\u{0}-\u{3}a-b]{0,6}", b in "[\u{0}-\u{3}a-b]{0,6}", m: u32, n: u32, run in run_id()) {
            prop_assert_eq!(
                Key::Cache(a.clone()).encode().cmp(&Key::Cache(b.clone()).encode()),
                a.as_bytes().cmp(b.as_bytes())
            );
            let attempt = |task, attempt| Key::Attempt { run, task, attempt }.encode();
            prop_assert_eq!(attempt(m, n).cmp(&attempt(n, m)), (m, n).cmp(&(n, m)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            if let Ok(key) = Key::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }

        #[test]
        fn the_end_of_a_prefix_is_above_all_that_starts_with_it(prefix in prop::collection::vec(any::<u8>(), 1..5), rest: Vec<u8>) {
            if let Some(end) = end_of(&prefix) {
                let mut key = prefix.clone();
                key.extend(rest);
                prop_assert!(prefix < end && key < end);
            }
        }
    }

    #[test]
    fn the_layout_on_disk_does_not_change_unnoticed() {
        let run: RunId = "run_01j8zk5m8w0000000000000000".parse().unwrap();
        let bytes = Key::Attempt { run, task: 2, attempt: 1 }.encode();
        let mut expected = vec![0x12];
        expected.extend_from_slice(run.to_string().as_bytes());
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(bytes, expected);
        assert!(bytes.starts_with(&prefix::attempts_of(&run, 2)));
        assert!(!bytes.starts_with(&prefix::attempts_of(&run, 1)));
    }

    #[test]
    fn a_prefix_of_one_model_does_not_reach_into_another_whose_name_begins_alike() {
        let a: ModelName = "churn".parse().unwrap();
        let b: ModelName = "churn-2".parse().unwrap();
        assert!(!Key::ModelVersion { name: b, version: 1 }.encode().starts_with(&prefix::model_versions(&a)));
    }
}
