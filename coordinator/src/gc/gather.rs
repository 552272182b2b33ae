//! Reads the facts: blobs first, then logs, then every record.
//!
//! What is stored or begun meanwhile is not in the facts or stays by its age. What is read later knows of everything that
//! was read earlier: a blob or a log that is in the facts without a record that needs it has none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::TryStreamExt as _;
use segue_proto::{
    ids::{Digest, RunId},
    store::v1::{CacheRecord, IntervalRecord, PipelineRecord},
    v1,
};

use super::{
    GcConfig, Policies,
    facts::{
        BlobFact, BlobIndex, CacheFact, End, EventsFact, Facts, IntervalFact, LogFact, ModelFact, RunFact, StoredBlob,
        TextFact,
    },
};
use crate::{
    blobs::LEAST_REMOTE_GRACE,
    core::{Core, TaskState, UnixMillis},
    server::{Error, api::Shared, feed, records},
    spec::Retention,
    store::{
        self, Error as StoreError, Key, Store,
        codec::{self, Value},
        keys::prefix,
        references::{self, Holder},
        visit,
    },
};

/// Reads everything that a collection is planned from, with the rules in force.
///
/// # Errors
/// Those of the store, the blobs and the logs. A record that cannot be read ends it: what it needs is not known, so
/// nothing may go.
pub async fn gather(shared: &Shared, config: &GcConfig) -> Result<(Facts, Policies), Error> {
    let uploading_since = shared.handle.read_patiently(oldest_attempt).await?;
    let stored: Vec<(Digest, StoredBlob)> = shared
        .blobs
        .list_dated()
        .map_ok(|(blob, written_at)| (blob.digest, StoredBlob { size_bytes: blob.size_bytes, written_at }))
        .try_collect()
        .await?;
    let events_for_ms = config.events_for.map(millis);
    let (mut facts, pipelines) = shared
        .blocking(move |shared| {
            let logs = logs(shared)?;
            let mut reading = Reading::of(stored);
            reading.facts.logs = logs;
            reading.read(&*shared.store)?;
            if let Some(events_for_ms) = events_for_ms {
                // Those that are too young are many, and never go.
                let after = shared.clock.now().saturating_sub(events_for_ms).saturating_add(1);
                let parts = feed::expired(&*shared.store, after, &shared.gc.readers, usize::MAX)?;
                let fact = |part: feed::Part| EventsFact { key: part.key, at: part.at, events: part.events };
                reading.facts.events = parts.into_iter().map(fact).collect();
            }
            Ok(reading.finish())
        })
        .await?;
    facts.uploading_since = uploading_since;
    let least = if shared.blobs.local_root().is_some() { std::time::Duration::ZERO } else { LEAST_REMOTE_GRACE };
    let policies =
        Policies { defaults: config.defaults, pipelines, grace_ms: millis(config.grace.max(least)), events_for_ms };
    Ok((facts, policies))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Gives the start of the oldest attempt that is under way.
fn oldest_attempt(core: &Core) -> Option<UnixMillis> {
    core.runs()
        .flat_map(|run| run.tasks.iter().chain(&run.children))
        .filter(|task| matches!(task.state, TaskState::Live(_)))
        .filter_map(|task| task.attempts.last().map(|attempt| attempt.assigned_at))
        .min()
}

fn logs(shared: &Shared) -> Result<Vec<LogFact>, Error> {
    let mut found = Vec::new();
    for run in shared.logs.runs()? {
        let bytes = shared.logs.size(&run)?;
        found.push(LogFact { run, bytes });
    }
    Ok(found)
}

/// The facts while they are read.
struct Reading {
    facts: Facts,
    blobs: HashMap<Digest, BlobIndex>,
    runs: HashMap<RunId, usize>,
    dropped: BTreeSet<RunId>,
    /// Runs whose end a schedule or a backfill has not taken note of yet.
    awaited: BTreeSet<RunId>,
    /// The newest text of each name, with the moment of its submission and its version.
    texts: BTreeMap<String, (UnixMillis, String, String)>,
    /// The version of each run, in their order.
    versions: Vec<String>,
    /// Versions that schedules, backfills and models name.
    named: BTreeSet<String>,
}

impl Reading {
    fn of(stored: Vec<(Digest, StoredBlob)>) -> Self {
        let mut reading = Self {
            facts: Facts::default(),
            blobs: HashMap::new(),
            runs: HashMap::new(),
            dropped: BTreeSet::new(),
            awaited: BTreeSet::new(),
            texts: BTreeMap::new(),
            versions: Vec::new(),
            named: BTreeSet::new(),
        };
        for (digest, stored) in stored {
            let blob = reading.blob(digest);
            reading.facts.blobs[blob as usize].stored = Some(stored);
        }
        reading
    }

    fn blob(&mut self, digest: Digest) -> BlobIndex {
        if let Some(&known) = self.blobs.get(&digest) {
            return known;
        }
        // Four thousand million digests do not fit into memory.
        let index = BlobIndex::try_from(self.facts.blobs.len()).unwrap_or(BlobIndex::MAX);
        self.facts.blobs.push(BlobFact { digest: digest.clone(), stored: None, recorded: false });
        self.blobs.insert(digest, index);
        index
    }

    fn read(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        visit(store, &prefix::dropped_runs(), |key, _| {
            if let Ok(Key::DroppedRun(run)) = Key::decode(&key) {
                self.dropped.insert(run);
            }
            Ok(())
        })?;
        // Runs come before what belongs to them.
        visit(store, &[], |key, value| {
            let key = Key::decode(&key).map_err(|e| StoreError::corrupt(store::keys::describe(&key), e))?;
            let value = codec::decode_any(&key, &value)?;
            self.record(key, value)
        })
    }

    fn record(&mut self, key: Key, value: Value) -> Result<(), StoreError> {
        let needed = references::of(&key, &value).map_err(|reason| StoreError::corrupt(&key, reason))?;
        let needs: Vec<BlobIndex> = needed.into_iter().map(|needed| self.blob(needed.digest)).collect();
        match (references::holder(&key), value) {
            (Holder::Run(run), Value::Run(record)) => {
                let state = records::run_state_from(record.state)
                    .ok_or_else(|| StoreError::corrupt(&key, "unknown state of a run"))?;
                let end = state.is_terminal().then_some(End { at: record.ended_ms, state });
                self.runs.insert(*run, self.facts.runs.len());
                self.versions.push(record.version);
                let pipeline = record.pipeline;
                self.facts.runs.push(RunFact { run: *run, pipeline, end, awaited: false, text: None, needs });
            }
            (Holder::Run(run), _) => match self.runs.get(run) {
                Some(&at) => self.facts.runs[at].needs.extend(needs),
                // On their way out: they need nothing any more.
                None if self.dropped.contains(run) => {}
                // Submitted since this began, or damage: what is not understood keeps what it names.
                None => self.facts.always.extend(needs),
            },
            (Holder::Cache, Value::Cache(record)) => self.cached(&key, record, needs),
            (Holder::Model, value) => {
                if let Key::ModelVersion { name, version } = &key {
                    self.facts.models.push(ModelFact { name: name.to_string(), version: *version, needs });
                }
                if let Value::ModelVersion(record) = value {
                    self.named.insert(record.pipeline_version);
                }
            }
            (Holder::Blob, _) => needs.iter().for_each(|&blob| self.facts.blobs[blob as usize].recorded = true),
            (Holder::Store | Holder::Cache, value) => {
                self.facts.always.extend(needs);
                match value {
                    Value::Pipeline(record) => self.text(record),
                    Value::Schedule(record) => {
                        self.named.insert(record.version);
                        self.awaited
                            .extend(record.active.iter().filter_map(|active| active.run_id.parse::<RunId>().ok()));
                    }
                    Value::Backfill(record) => drop(self.named.insert(record.version)),
                    Value::Interval(record) => self.interval(&key, &record),
                    Value::BackfillInterval(record) if record.state() == v1::BackfillIntervalState::Running => {
                        self.awaited.extend(record.run_id.parse::<RunId>().ok());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn cached(&mut self, key: &Key, record: CacheRecord, needs: Vec<BlobIndex>) {
        let Key::Cache(key) = key else { return };
        let pipeline = if record.pipeline.is_empty() {
            // Written before results said whose they are.
            let run = record.run_id.parse::<RunId>().ok().and_then(|run| self.runs.get(&run));
            run.map(|&at| self.facts.runs[at].pipeline.clone()).unwrap_or_default()
        } else {
            record.pipeline
        };
        self.facts.cache.push(CacheFact {
            key: key.clone(),
            pipeline,
            operator: record.operator,
            task: record.task,
            created_at: record.created_ms,
            needs,
        });
    }

    fn interval(&mut self, key: &Key, record: &IntervalRecord) {
        let Key::Interval { pipeline, start, end } = key else { return };
        self.facts.intervals.push(IntervalFact {
            pipeline: pipeline.clone(),
            start: *start,
            end: *end,
            decided_at: record.decided_ms,
            run: record.run_id.parse().ok(),
        });
    }

    fn text(&mut self, record: PipelineRecord) {
        // A version that cannot be read is named by nothing that could be asked for it, and stays.
        if let Ok(version) = record.version.parse() {
            let (pipeline, submitted_at) = (record.name.clone(), record.created_ms);
            self.facts.texts.push(TextFact { version, pipeline, submitted_at, needed: false });
        }
        let newest = self.texts.entry(record.name).or_default();
        if (newest.0, &newest.1) < (record.created_ms, &record.version) {
            *newest = (record.created_ms, record.version, record.text);
        }
    }

    fn finish(mut self) -> (Facts, BTreeMap<String, Retention>) {
        let lists = self.facts.runs.iter_mut().map(|run| &mut run.needs);
        for needs in lists.chain([&mut self.facts.always]) {
            needs.sort_unstable();
            needs.dedup();
            needs.shrink_to_fit();
        }
        for run in &self.awaited {
            if let Some(&at) = self.runs.get(run) {
                self.facts.runs[at].awaited = true;
            }
        }
        let mut places: HashMap<&str, u32> = HashMap::new();
        for (at, text) in (0..).zip(&mut self.facts.texts) {
            let newest = self.texts.get(&text.pipeline).is_some_and(|newest| newest.1 == text.version.as_str());
            text.needed = newest || self.named.contains(text.version.as_str());
            places.insert(text.version.as_str(), at);
        }
        for (run, version) in self.facts.runs.iter_mut().zip(&self.versions) {
            run.text = places.get(version.as_str()).copied();
        }
        self.facts.leftovers = self.dropped.into_iter().collect();
        let rules = self.texts.into_iter().map(|(name, (_, _, text))| (name, Retention::of_text(&text)));
        (self.facts, rules.filter(|(_, rules)| *rules != Retention::default()).collect())
    }
}
