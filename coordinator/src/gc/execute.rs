//! Does what a plan says, and nothing else: records first, blobs last.
//!
//! It can end at any point and lose nothing: see the laws of the module above.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    ids::{Digest, RunId},
    store::v1::{CacheRecord, DroppedRunRecord, IntervalRecord, PipelineRecord, RunRecord},
    v1::SubmitResponse,
};
use tracing::{info, warn};

use super::{
    facts::{IntervalFact, TextFact},
    plan::{BlobDrop, CacheDrop, GcPlan, LogDrop, RunDrop},
};
use crate::{
    core::Core,
    server::{Error, api::Shared, records},
    store::{
        self, Batch, Error as StoreError, Key, Precondition, Store, codec,
        keys::prefix,
        references::{self, Holder},
        visit,
    },
};

/// Records of one batch: few enough that decisions hardly wait for it.
const BATCH: usize = 256;
/// Runs of one batch: their records hold whole pipelines.
const RUNS: usize = 16;

/// Carries out a plan and gives what was done of it: without what had changed, or was needed again, in the meantime.
///
/// # Errors
/// Those of the store, the blobs and the logs. What was done until then is done.
pub async fn execute(shared: &Shared, plan: &GcPlan) -> Result<GcPlan, Error> {
    let mut done =
        GcPlan { leftovers: plan.leftovers.clone(), before: plan.before, kept: plan.kept, ..GcPlan::default() };
    for run in &plan.leftovers {
        erase(shared, run).await?;
    }
    for group in plan.runs.chunks(RUNS) {
        let dropped = drop_runs(shared, group).await?;
        for drop in group.iter().filter(|drop| dropped.contains(&drop.run)) {
            erase(shared, &drop.run).await?;
            done.runs.push(drop.clone());
        }
    }
    for drop in &plan.logs {
        if drop_logs(shared, drop).await? {
            done.logs.push(drop.clone());
        }
    }
    done.cache = drop_cache(shared, &plan.cache).await?;
    // The oldest first, so that the feed has no hole wherever this ends.
    for group in plan.events.chunks(BATCH) {
        let mut batch = Batch::new();
        group.iter().for_each(|part| batch.delete(&part.key));
        shared.committer.commit(batch).await?;
        done.events.extend_from_slice(group);
    }
    // A run that turned out to be needed again needs its text and its interval too: the next collection looks anew.
    if done.runs.len() == plan.runs.len() {
        done.texts = drop_texts(shared, &plan.texts).await?;
        done.intervals = drop_intervals(shared, &plan.intervals).await?;
    }
    done.blobs = drop_blobs(shared, plan).await?;
    if !done.is_empty() {
        let (runs, cache, blobs, bytes) =
            (done.runs.len(), done.cache.len(), done.blobs.len(), done.blob_bytes() + done.log_bytes());
        let events = done.event_count();
        info!(runs, cache, blobs, bytes, events, "collected");
    }
    Ok(done)
}

/// Takes away the records of runs that are still as they were planned, and marks the rest of them as on its way out.
pub(super) async fn drop_runs(shared: &Shared, group: &[RunDrop]) -> Result<BTreeSet<RunId>, Error> {
    let (group, now) = (group.to_vec(), shared.clock.now());
    shared
        .handle
        .between(move |core, store| {
            let mut batch = Batch::new();
            let mut dropped = BTreeSet::new();
            for drop in group {
                let key = Key::Run(drop.run);
                let raw = store.get(&key.encode())?;
                let Some(record) = raw.as_deref().map(|raw| codec::decode::<RunRecord>(&key, raw)).transpose()? else {
                    continue;
                };
                if core.run(&drop.run).is_some() || !is_as_planned(&record, &drop) {
                    continue;
                }
                batch.require_unchanged(&key, raw);
                batch.delete(&key);
                if let Ok(name) = record.pipeline.parse() {
                    batch.delete(&Key::PipelineRun { name, run: drop.run });
                }
                forget_submission(store, &record, &mut batch)?;
                let mark = DroppedRunRecord { pipeline: record.pipeline, dropped_ms: now };
                batch.put(&Key::DroppedRun(drop.run), &mark);
                dropped.insert(drop.run);
            }
            Ok((batch, dropped))
        })
        .await
}

fn is_as_planned(record: &RunRecord, drop: &RunDrop) -> bool {
    record.ended_ms == drop.end.at && records::run_state_from(record.state) == Some(drop.end.state)
}

/// The memory of an idempotency key goes with the run that it names: the next submission with it makes a new run.
fn forget_submission(store: &dyn Store, record: &RunRecord, batch: &mut Batch) -> Result<(), Error> {
    if record.idempotency_key.is_empty() {
        return Ok(());
    }
    let key = Key::Idempotency(record.idempotency_key.clone());
    if store::read::<SubmitResponse>(store, &key)?.is_some_and(|answer| answer.run_id == record.run_id) {
        batch.delete(&key);
    }
    Ok(())
}

/// Takes away everything that is left of a dropped run, its mark last. Nobody else writes there: the run does not exist.
async fn erase(shared: &Shared, run: &RunId) -> Result<(), Error> {
    let of = *run;
    shared.blocking(move |shared| Ok(shared.logs.remove(&of, &shared.logs.list(&of)?)?)).await?;
    loop {
        let of = *run;
        let keys = shared.blocking(move |shared| Ok(left_of(&*shared.store, &of)?)).await?;
        let last = keys.len() < BATCH;
        let mut batch = Batch::new();
        keys.into_iter().for_each(|key| batch.delete_raw(key));
        if last {
            batch.delete(&Key::DroppedRun(*run));
        }
        shared.committer.commit(batch).await?;
        if last {
            return Ok(());
        }
    }
}

/// Gives keys of what is left of a run: fewer than a batch only if they are all.
fn left_of(store: &dyn Store, run: &RunId) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut keys = Vec::new();
    let kinds = [prefix::tasks, prefix::attempts, prefix::produced, prefix::expansions, prefix::changed_inputs];
    for start in kinds.map(|of| of(run)) {
        let rows = store.scan(&start, None, BATCH - keys.len())?;
        keys.extend(rows.into_iter().map(|(key, _)| key));
    }
    Ok(keys)
}

/// Takes away logs if their run is still as it was planned. Those of attempts that begin meanwhile are others.
async fn drop_logs(shared: &Shared, drop: &LogDrop) -> Result<bool, Error> {
    let wanted = drop.run;
    let names = shared.blocking(move |shared| Ok(shared.logs.list(&wanted)?)).await?;
    let wanted = drop.run;
    if shared.handle.read_patiently(move |core: &Core| core.run(&wanted).is_some()).await? {
        return Ok(false);
    }
    let drop = drop.clone();
    shared
        .blocking(move |shared| {
            let record = store::read::<RunRecord>(&*shared.store, &Key::Run(drop.run))?;
            if record.map(|record| record.ended_ms) != drop.end.map(|end| end.at) {
                return Ok(false);
            }
            shared.logs.remove(&drop.run, &names)?;
            Ok(true)
        })
        .await
}

/// Forgets results that are still as they were planned, and gives those.
///
/// # Errors
/// Those of the store.
pub async fn drop_cache(shared: &Shared, drops: &[CacheDrop]) -> Result<Vec<CacheDrop>, Error> {
    let mut done = Vec::new();
    for group in drops.chunks(BATCH) {
        let group = group.to_vec();
        let dropped = shared
            .handle
            .between(move |_, store| {
                let mut batch = Batch::new();
                let mut dropped = Vec::new();
                for drop in group {
                    let key = Key::Cache(drop.key.clone());
                    let raw = store.get(&key.encode())?;
                    let record = raw.as_deref().map(|raw| codec::decode::<CacheRecord>(&key, raw)).transpose()?;
                    if record.is_some_and(|record| record.created_ms == drop.created_at) {
                        batch.require_unchanged(&key, raw);
                        batch.delete(&key);
                        dropped.push(drop);
                    }
                }
                Ok((batch, dropped))
            })
            .await?;
        done.extend(dropped);
    }
    Ok(done)
}

/// Takes away texts that were not submitted again since, and that no active run has; gives those.
async fn drop_texts(shared: &Shared, texts: &[TextFact]) -> Result<Vec<TextFact>, Error> {
    let mut done = Vec::new();
    for group in texts.chunks(BATCH) {
        let group = group.to_vec();
        let dropped = shared
            .handle
            .between(move |core, store| {
                let active: BTreeSet<&str> = core.runs().map(|run| run.spec.version.as_str()).collect();
                let mut batch = Batch::new();
                let mut dropped = Vec::new();
                for text in group {
                    let key = Key::Pipeline(text.version.clone());
                    let raw = store.get(&key.encode())?;
                    let record = raw.as_deref().map(|raw| codec::decode::<PipelineRecord>(&key, raw)).transpose()?;
                    let same = record.is_some_and(|record| record.created_ms == text.submitted_at);
                    if !same || active.contains(text.version.as_str()) {
                        continue;
                    }
                    batch.require_unchanged(&key, raw);
                    batch.delete(&key);
                    if let Ok(name) = text.pipeline.parse() {
                        batch.delete(&Key::PipelineVersion { name, version: text.version.clone() });
                    }
                    dropped.push(text);
                }
                Ok((batch, dropped))
            })
            .await?;
        done.extend(dropped);
    }
    Ok(done)
}

/// Forgets what became of intervals about which nothing was decided since; gives those.
async fn drop_intervals(shared: &Shared, intervals: &[IntervalFact]) -> Result<Vec<IntervalFact>, Error> {
    let mut done = Vec::new();
    for group in intervals.chunks(BATCH) {
        let group = group.to_vec();
        let dropped = shared
            .handle
            .between(move |_, store| {
                let mut batch = Batch::new();
                let mut dropped = Vec::new();
                for interval in group {
                    let IntervalFact { pipeline, start, end, .. } = interval.clone();
                    let key = Key::Interval { pipeline, start, end };
                    let raw = store.get(&key.encode())?;
                    let record = raw.as_deref().map(|raw| codec::decode::<IntervalRecord>(&key, raw)).transpose()?;
                    if record.is_some_and(|record| record.decided_ms == interval.decided_at) {
                        batch.require_unchanged(&key, raw);
                        batch.delete(&key);
                        dropped.push(interval);
                    }
                }
                Ok((batch, dropped))
            })
            .await?;
        done.extend(dropped);
    }
    Ok(done)
}

/// Deletes blobs that still nothing needs, with the records about them.
async fn drop_blobs(shared: &Shared, plan: &GcPlan) -> Result<Vec<BlobDrop>, Error> {
    if plan.blobs.is_empty() {
        return Ok(Vec::new());
    }
    let digests: Vec<Digest> = plan.blobs.iter().map(|blob| blob.digest.clone()).collect();
    let (seen, needed) = shared
        .blocking(move |shared| {
            // In this order: what is committed after the first reading changes what was read, and what was committed
            // before it is seen by the second.
            let mut seen: BTreeMap<Digest, Option<Vec<u8>>> = BTreeMap::new();
            for digest in digests {
                let raw = shared.store.get(&Key::Artifact(digest.clone()).encode())?;
                seen.insert(digest, raw);
            }
            let needed = needed(&*shared.store, &seen)?;
            Ok((seen, needed))
        })
        .await?;
    let unneeded: Vec<&BlobDrop> = plan.blobs.iter().filter(|blob| !needed.contains(&blob.digest)).collect();
    let mut done = Vec::new();
    for group in unneeded.chunks(BATCH) {
        let seen = group.iter().map(|blob| (blob.digest.clone(), seen.get(&blob.digest).cloned().flatten())).collect();
        let cleared = forget_artifacts(shared, seen).await?;
        for blob in group.iter().filter(|blob| cleared.contains(&blob.digest)) {
            let freed = match blob.size_bytes {
                Some(_) => shared.blobs.collect(&blob.digest, plan.before).await?,
                None => None,
            };
            if freed.is_some() || blob.size_bytes.is_none() {
                done.push(BlobDrop { digest: blob.digest.clone(), size_bytes: freed });
            }
        }
    }
    Ok(done)
}

/// Gives those of some blobs that records need on behalf of anything that is kept.
fn needed<T>(store: &dyn Store, of: &BTreeMap<Digest, T>) -> Result<BTreeSet<Digest>, StoreError> {
    let mut needed = BTreeSet::new();
    visit(store, &[], |key, value| {
        needed.extend(needs_of(&key, &value)?.into_iter().filter(|digest| of.contains_key(digest)));
        Ok(())
    })?;
    Ok(needed)
}

fn needs_of(key: &[u8], value: &[u8]) -> Result<Vec<Digest>, StoreError> {
    let key = Key::decode(key).map_err(|e| StoreError::corrupt(store::keys::describe(key), e))?;
    if references::holder(&key) == Holder::Blob {
        return Ok(Vec::new());
    }
    let value = codec::decode_any(&key, value)?;
    let needed = references::of(&key, &value).map_err(|reason| StoreError::corrupt(&key, reason))?;
    Ok(needed.into_iter().map(|needed| needed.digest).collect())
}

/// Takes away the records about blobs, where they are as they were seen; gives the blobs that have none now. From then
/// on nothing can refer to such a blob but what stores it again.
async fn forget_artifacts(shared: &Shared, seen: BTreeMap<Digest, Option<Vec<u8>>>) -> Result<BTreeSet<Digest>, Error> {
    shared
        .handle
        .between(move |_, store| {
            // A model may be registered from any artifact that there is, without a word in that artifact's record.
            let mut of_models = BTreeSet::new();
            visit(store, &prefix::all_model_versions(), |key, value| {
                of_models.extend(needs_of(&key, &value)?);
                Ok(())
            })?;
            let mut batch = Batch::new();
            let mut cleared = BTreeSet::new();
            for (digest, raw) in seen {
                let key = Key::Artifact(digest.clone()).encode();
                if of_models.contains(&digest) || store.get(&key)? != raw {
                    warn!(%digest, "a blob is needed again and stays");
                    continue;
                }
                if let Some(raw) = raw {
                    batch.require(Precondition::Equals(key.clone(), raw));
                    batch.delete_raw(key);
                }
                cleared.insert(digest);
            }
            Ok((batch, cleared))
        })
        .await
}
