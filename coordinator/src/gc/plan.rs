//! What goes, and why: a pure function of facts, rules and the time.
//!
//! Laws, tested against a naive reference: an active or awaited run stays; what a kept run, a kept result, a version of a model or
//! any other kept record needs stays; of each pipeline the newest `keep_runs` stay; once a plan has been carried out,
//! planning again at the same moment plans nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use segue_proto::ids::{Digest, RunId};

use super::facts::{BlobIndex, End, EventsFact, Facts, IntervalFact, RunFact, TextFact};
use crate::{
    core::{RunState, UnixMillis},
    spec::Retention,
};

/// What may be between the clock of a coordinator and that of the disk or the worker that dates a blob.
const CLOCKS_MS: u64 = 60_000;

/// The rules of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// For what the file of a pipeline does not say, and for what belongs to no pipeline.
    pub defaults: Retention,
    /// As the newest text of each pipeline says.
    pub pipelines: BTreeMap<String, Retention>,
    /// Blobs that were stored less than this long ago stay, needed or not.
    pub grace_ms: u64,
    /// How long events stay in the feed; none: for ever.
    pub events_for_ms: Option<u64>,
}

/// Everything that goes. Lists are in the order of their facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// Runs whose removal is to be finished.
    pub leftovers: Vec<RunId>,
    pub runs: Vec<RunDrop>,
    /// Logs of runs that stay, or that do not exist.
    pub logs: Vec<LogDrop>,
    pub cache: Vec<CacheDrop>,
    /// The beginning of the feed.
    pub events: Vec<EventsFact>,
    /// Texts of pipelines that no run has any more.
    pub texts: Vec<TextFact>,
    /// What became of intervals, long ago.
    pub intervals: Vec<IntervalFact>,
    pub blobs: Vec<BlobDrop>,
    /// A blob that turns out to be stored at this moment or later stays.
    pub before: UnixMillis,
    pub kept: Kept,
}

/// A run that goes, with its tasks, attempts, logs, and the memory of its idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDrop {
    pub run: RunId,
    pub pipeline: String,
    pub end: End,
    pub log_bytes: u64,
    pub why: Why,
}

/// Logs that go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDrop {
    pub run: RunId,
    /// Of the run, if it exists: if it has another end when the logs are to go, they stay.
    pub end: Option<End>,
    pub bytes: u64,
    pub why: Why,
}

/// A result that is not used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDrop {
    pub key: String,
    pub pipeline: String,
    pub operator: String,
    pub task: String,
    pub created_at: UnixMillis,
    pub why: Why,
}

/// A blob that nothing needs, and the record about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobDrop {
    pub digest: Digest,
    /// None: its bytes are gone already, and only its record goes.
    pub size_bytes: Option<u64>,
}

/// What stays, where people ask about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    pub runs: u64,
    /// Of the runs.
    pub active: u64,
    /// Blobs that only versions of models need.
    pub model_blobs: u64,
    /// Versions that need such a blob.
    pub model_versions: u64,
    /// Blobs that nothing needs, but that are too young to go.
    pub young_blobs: u64,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No rule about runs keeps it.
    Run {
        keep_runs: Option<u32>,
        keep_for_ms: Option<u64>,
    },
    FailedRun {
        keep_failed_for_ms: u64,
    },
    Logs {
        logs_for_ms: u64,
    },
    /// Logs of a run that does not exist.
    NoRun,
    Cache {
        cache_for_ms: u64,
    },
    /// Somebody said so.
    Asked,
}

impl Policies {
    /// Gives the rules of a pipeline.
    #[must_use]
    pub fn of(&self, pipeline: &str) -> Retention {
        self.pipelines.get(pipeline).copied().unwrap_or_default().or(self.defaults)
    }
}

/// Plans a collection.
#[must_use]
pub fn plan(facts: &Facts, policies: &Policies, now: UnixMillis) -> GcPlan {
    let runs = verdicts(facts, policies, now);
    let cache: Vec<Option<Why>> = facts
        .cache
        .iter()
        .map(|entry| {
            let cache_for_ms = policies.of(&entry.pipeline).cache_for_ms?;
            (!young(entry.created_at, cache_for_ms, now)).then_some(Why::Cache { cache_for_ms })
        })
        .collect();

    let mut needed = Needed::none(facts.blobs.len());
    for (fact, why) in facts.runs.iter().zip(&runs) {
        if why.is_none() {
            needed.add(&fact.needs);
        }
    }
    for (fact, why) in facts.cache.iter().zip(&cache) {
        if why.is_none() {
            needed.add(&fact.needs);
        }
    }
    needed.add(&facts.always);
    let mut kept = Kept::default();
    keep_models(facts, &mut needed, &mut kept);

    let mut before = now.saturating_sub(policies.grace_ms);
    if let Some(since) = facts.uploading_since {
        before = before.min(since.saturating_sub(CLOCKS_MS));
    }
    let mut blobs = Vec::new();
    for (fact, needed) in facts.blobs.iter().zip(&needed.0) {
        match fact.stored {
            _ if *needed => {}
            Some(stored) if stored.written_at >= before => kept.young_blobs += 1,
            Some(stored) => {
                blobs.push(BlobDrop { digest: fact.digest.clone(), size_bytes: Some(stored.size_bytes) });
            }
            None if fact.recorded => blobs.push(BlobDrop { digest: fact.digest.clone(), size_bytes: None }),
            None => {}
        }
    }

    let kept_runs = facts.runs.iter().zip(&runs).filter(|(_, why)| why.is_none());
    for (fact, _) in kept_runs {
        kept.runs += 1;
        kept.active += u64::from(fact.end.is_none());
    }
    let (run_drops, logs) = with_logs(facts, &runs, policies, now);
    GcPlan {
        leftovers: facts.leftovers.clone(),
        runs: run_drops,
        logs,
        cache: facts
            .cache
            .iter()
            .zip(cache)
            .filter_map(|(fact, why)| {
                Some(CacheDrop {
                    key: fact.key.clone(),
                    pipeline: fact.pipeline.clone(),
                    operator: fact.operator.clone(),
                    task: fact.task.clone(),
                    created_at: fact.created_at,
                    why: why?,
                })
            })
            .collect(),
        events: match policies.events_for_ms {
            Some(limit) => facts.events.iter().take_while(|fact| !young(fact.at, limit, now)).cloned().collect(),
            None => Vec::new(),
        },
        texts: texts(facts, &runs, policies, now),
        intervals: intervals(facts, &runs, policies, now),
        blobs,
        before,
        kept,
    }
}

/// Says of each run why it goes; none: it stays.
fn verdicts(facts: &Facts, policies: &Policies, now: UnixMillis) -> Vec<Option<Why>> {
    let mut newer: BTreeMap<&str, u32> = BTreeMap::new();
    let mut rules: BTreeMap<&str, Retention> = BTreeMap::new();
    let mut verdicts: Vec<Option<Why>> = facts
        .runs
        .iter()
        .rev()
        .map(|fact| {
            let end = fact.end?;
            let rules = rules.entry(&fact.pipeline).or_insert_with(|| policies.of(&fact.pipeline));
            if end.state != RunState::Succeeded
                && let Some(keep_failed_for_ms) = rules.keep_failed_for_ms
            {
                let kept = fact.awaited || young(end.at, keep_failed_for_ms, now);
                return (!kept).then_some(Why::FailedRun { keep_failed_for_ms });
            }
            let newer = newer.entry(&fact.pipeline).or_default();
            let rank = *newer;
            *newer = newer.saturating_add(1);
            let (keep_runs, keep_for_ms) = (rules.keep_runs, rules.keep_for_ms);
            let no_rule = keep_runs.is_none() && keep_for_ms.is_none();
            let kept = no_rule
                || fact.awaited
                || keep_runs.is_some_and(|runs| rank < runs)
                || keep_for_ms.is_some_and(|limit| young(end.at, limit, now));
            (!kept).then_some(Why::Run { keep_runs, keep_for_ms })
        })
        .collect();
    verdicts.reverse();
    verdicts
}

/// Gives the texts that no kept run has, of pipelines with a rule about runs: a text goes with the last run of its
/// version. One that was submitted a moment ago stays: its run may still be on its way.
fn texts(facts: &Facts, verdicts: &[Option<Why>], policies: &Policies, now: UnixMillis) -> Vec<TextFact> {
    let mut needed: Vec<bool> = facts.texts.iter().map(|text| text.needed).collect();
    for (run, _) in facts.runs.iter().zip(verdicts).filter(|(_, why)| why.is_none()) {
        if let Some(mark) = run.text.and_then(|text| needed.get_mut(text as usize)) {
            *mark = true;
        }
    }
    let old = |text: &TextFact| {
        let limit = forgotten_after(&policies.of(&text.pipeline), policies);
        limit.is_some_and(|limit| !young(text.submitted_at, limit, now))
    };
    facts.texts.iter().zip(needed).filter(|(text, needed)| !needed && old(text)).map(|(text, _)| text.clone()).collect()
}

/// Gives the intervals that are as old as the runs that go: each was decided before every ended run that stays, and its
/// own run, where it had one, is gone.
fn intervals(facts: &Facts, verdicts: &[Option<Why>], policies: &Policies, now: UnixMillis) -> Vec<IntervalFact> {
    let mut kept: BTreeSet<&RunId> = BTreeSet::new();
    let mut oldest: BTreeMap<&str, UnixMillis> = BTreeMap::new();
    for (run, _) in facts.runs.iter().zip(verdicts).filter(|(_, why)| why.is_none()) {
        kept.insert(&run.run);
        if let Some(end) = run.end {
            let known = oldest.entry(&run.pipeline).or_insert(end.at);
            *known = end.at.min(*known);
        }
    }
    let goes = |interval: &&IntervalFact| {
        let name = interval.pipeline.as_str();
        let limit = forgotten_after(&policies.of(name), policies);
        limit.is_some_and(|limit| !young(interval.decided_at, limit, now))
            && interval.run.as_ref().is_none_or(|run| !kept.contains(run))
            && oldest.get(name).is_none_or(|oldest| interval.decided_at < *oldest)
    };
    facts.intervals.iter().filter(goes).cloned().collect()
}

/// How long something stays that belongs to runs which are gone; none: for ever, as no rule is about runs.
fn forgotten_after(rules: &Retention, policies: &Policies) -> Option<u64> {
    let any = rules.keep_runs.is_some() || rules.keep_for_ms.is_some();
    any.then(|| rules.keep_for_ms.unwrap_or(0).max(policies.grace_ms))
}

/// Says of logs whether they go with their run, before it, or without one.
fn with_logs(
    facts: &Facts,
    verdicts: &[Option<Why>],
    policies: &Policies,
    now: UnixMillis,
) -> (Vec<RunDrop>, Vec<LogDrop>) {
    let known: BTreeMap<&RunId, (&RunFact, Option<Why>)> =
        facts.runs.iter().zip(verdicts).map(|(fact, why)| (&fact.run, (fact, *why))).collect();
    let leftovers: BTreeSet<&RunId> = facts.leftovers.iter().collect();
    let mut of_dropped: BTreeMap<&RunId, u64> = BTreeMap::new();
    let mut drops = Vec::new();
    for log in &facts.logs {
        let (end, why) = match known.get(&log.run) {
            Some((_, Some(_))) => {
                of_dropped.insert(&log.run, log.bytes);
                continue;
            }
            Some((fact, None)) => {
                let Some(end) = fact.end else { continue };
                let Some(logs_for_ms) = policies.of(&fact.pipeline).logs_for_ms else { continue };
                if young(end.at, logs_for_ms, now) {
                    continue;
                }
                (Some(end), Why::Logs { logs_for_ms })
            }
            None if leftovers.contains(&log.run) => continue,
            None => (None, Why::NoRun),
        };
        drops.push(LogDrop { run: log.run, end, bytes: log.bytes, why });
    }
    let runs = facts
        .runs
        .iter()
        .zip(verdicts)
        .filter_map(|(fact, why)| {
            Some(RunDrop {
                run: fact.run,
                pipeline: fact.pipeline.clone(),
                end: fact.end?,
                log_bytes: of_dropped.get(&fact.run).copied().unwrap_or(0),
                why: (*why)?,
            })
        })
        .collect();
    (runs, drops)
}

/// Keeps what versions of models need, and counts what nothing else does.
fn keep_models(facts: &Facts, needed: &mut Needed, kept: &mut Kept) {
    let before = needed.0.clone();
    let of_models_alone = |blob: &BlobIndex| before.get(*blob as usize) == Some(&false);
    kept.model_versions = facts.models.iter().filter(|model| model.needs.iter().any(of_models_alone)).count() as u64;
    for model in &facts.models {
        needed.add(&model.needs);
    }
    kept.model_blobs = before.iter().zip(&needed.0).filter(|(before, after)| before != after).count() as u64;
}

/// Says whether something is younger than a limit.
const fn young(at: UnixMillis, limit_ms: u64, now: UnixMillis) -> bool {
    now.saturating_sub(at) < limit_ms
}

/// Marks of the blobs that something kept needs.
struct Needed(Vec<bool>);

impl Needed {
    fn none(blobs: usize) -> Self {
        Self(vec![false; blobs])
    }

    fn add(&mut self, blobs: &[BlobIndex]) {
        for blob in blobs {
            if let Some(mark) = self.0.get_mut(*blob as usize) {
                *mark = true;
            }
        }
    }
}

impl GcPlan {
    /// Says whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leftovers.is_empty()
            && self.runs.is_empty()
            && self.logs.is_empty()
            && self.cache.is_empty()
            && self.events.is_empty()
            && self.texts.is_empty()
            && self.intervals.is_empty()
            && self.blobs.is_empty()
    }

    /// Gives the bytes of blobs that go.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.iter().filter_map(|blob| blob.size_bytes).fold(0, u64::saturating_add)
    }

    /// Counts the events that go.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        self.events.iter().map(|part| part.events).fold(0, u64::saturating_add)
    }

    /// Gives the bytes of logs that go, with or without their run.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        let of_runs = self.runs.iter().map(|run| run.log_bytes);
        of_runs.chain(self.logs.iter().map(|log| log.bytes)).fold(0, u64::saturating_add)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Run { keep_runs: Some(runs), keep_for_ms: Some(limit) } => {
                write!(f, "not among the newest {runs}, and ended {} ago or earlier", Age(limit))
            }
            Self::Run { keep_runs: Some(runs), keep_for_ms: None } => write!(f, "not among the newest {runs}"),
            Self::Run { keep_runs: None, keep_for_ms } => {
                write!(f, "ended {} ago or earlier", Age(keep_for_ms.unwrap_or(0)))
            }
            Self::FailedRun { keep_failed_for_ms } => {
                write!(f, "did not succeed, and ended {} ago or earlier", Age(keep_failed_for_ms))
            }
            Self::Logs { logs_for_ms } => write!(f, "its run ended {} ago or earlier", Age(logs_for_ms)),
            Self::NoRun => f.write_str("its run does not exist"),
            Self::Cache { cache_for_ms } => write!(f, "made {} ago or earlier", Age(cache_for_ms)),
            Self::Asked => f.write_str("asked for"),
        }
    }
}

/// Shows a limit as people write it.
struct Age(u64);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let mut rest = self.0;
        for (unit, name) in UNITS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        if rest > 0 || self.0 == 0 { write!(f, "{rest}ms") } else { Ok(()) }
    }
}
