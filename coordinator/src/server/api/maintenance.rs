//! `MaintenanceService`: collections, the result cache, versions of pipelines.

use std::time::Duration;

use segue_proto::{
    store::v1::CacheRecord,
    v1::{self, maintenance_service_server::MaintenanceService},
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    gc::{self, CacheDrop, GcPlan, Why},
    server::{error::Error, pipelines, records},
    spec::{Retention, retention::MOST_RUNS},
    store::{Key, Store, codec, keys::prefix, visit},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Maintenance(pub Shared);

/// Most rows of one list in an answer: with all its lists it fits in a message.
const MOST_ROWS: usize = 10_000;

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    async fn gc(&self, request: Request<v1::GcRequest>) -> Result<Response<v1::GcResponse>, Status> {
        let request = request.into_inner();
        let ask = gc::Ask {
            rules: rules(request.rules.unwrap_or_default())?,
            grace: request.grace_ms.map(Duration::from_millis),
            events_for: keep_events(request.keep_events_ms)?,
            dry_run: request.dry_run,
        };
        let (planned, done) = gc::collect(&self.0, &ask).await?;
        Ok(Response::new(answer(&planned, done)))
    }

    async fn list_cache(
        &self,
        request: Request<v1::ListCacheRequest>,
    ) -> Result<Response<v1::ListCacheResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { MOST_ROWS } else { (request.limit as usize).min(MOST_ROWS) };
        let filter = request.filter.unwrap_or_default();
        let in_full = !filter.keys.is_empty();
        let mut entries = self.matching(filter).await?;
        let (total, total_bytes) = totals(&entries);
        entries.truncate(limit);
        if !in_full {
            entries.iter_mut().for_each(shorten);
        }
        Ok(Response::new(v1::ListCacheResponse { entries, total, total_bytes }))
    }

    async fn drop_cache(
        &self,
        request: Request<v1::DropCacheRequest>,
    ) -> Result<Response<v1::DropCacheResponse>, Status> {
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        if filter == v1::CacheFilter::default() && !request.all {
            return Err(Status::invalid_argument("nothing says which results to drop: name some, or say all"));
        }
        let _turn = self.0.gc.turn.lock().await;
        let mut entries = self.matching(filter).await?;
        if !request.dry_run {
            let drops: Vec<CacheDrop> = entries.iter().map(drop_of).collect();
            let dropped = gc::drop_cache(&self.0, &drops).await?;
            let dropped: std::collections::BTreeSet<&str> = dropped.iter().map(|drop| drop.key.as_str()).collect();
            entries.retain(|entry| dropped.contains(entry.key.as_str()));
        }
        let (total, total_bytes) = totals(&entries);
        entries.truncate(MOST_ROWS);
        entries.iter_mut().for_each(shorten);
        Ok(Response::new(v1::DropCacheResponse { entries, total, total_bytes }))
    }

    async fn list_pipelines(
        &self,
        _: Request<v1::ListPipelinesRequest>,
    ) -> Result<Response<v1::ListPipelinesResponse>, Status> {
        let pipelines = self.0.blocking(|shared| pipelines::list(&*shared.store)).await?;
        Ok(Response::new(v1::ListPipelinesResponse { pipelines }))
    }

    async fn get_pipeline(
        &self,
        request: Request<v1::GetPipelineRequest>,
    ) -> Result<Response<v1::PipelineText>, Status> {
        let reference = request.into_inner().reference;
        Ok(Response::new(self.0.blocking(move |shared| pipelines::get(&*shared.store, &reference)).await?))
    }

    async fn diff_pipelines(
        &self,
        request: Request<v1::DiffPipelinesRequest>,
    ) -> Result<Response<v1::DiffPipelinesResponse>, Status> {
        let request = request.into_inner();
        let compared =
            self.0.blocking(move |shared| pipelines::compare(&*shared.store, &shared.operators(), &request)).await?;
        Ok(Response::new(compared))
    }
}

impl Maintenance {
    /// Finds the committed results that a filter means, newest first.
    async fn matching(&self, filter: v1::CacheFilter) -> Result<Vec<v1::CacheEntry>, Error> {
        let now = self.0.clock.now();
        self.0.blocking(move |shared| matching(&*shared.store, &filter, now)).await
    }
}

fn matching(store: &dyn Store, filter: &v1::CacheFilter, now: u64) -> Result<Vec<v1::CacheEntry>, Error> {
    let mut found = Vec::new();
    if filter.keys.is_empty() {
        visit(store, &prefix::cache(), |key, value| {
            let (key, record) = codec::decode_row::<CacheRecord>(&key, &value)?;
            if let Key::Cache(key) = key {
                found.push(entry(key, record));
            }
            Ok(())
        })?;
    }
    for start in &filter.keys {
        let one = one_entry(store, start)?;
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found.retain(|entry| {
        (filter.operator.is_empty() || entry.operator == filter.operator)
            && (filter.pipeline.is_empty() || entry.pipeline == filter.pipeline)
            && now.saturating_sub(entry.created_ms) >= filter.older_than_ms
    });
    found.sort_by(|a, b| (b.created_ms, &b.key).cmp(&(a.created_ms, &a.key)));
    Ok(found)
}

/// Finds the entry whose key starts with some characters.
fn one_entry(store: &dyn Store, start: &str) -> Result<v1::CacheEntry, Error> {
    let shown: String = start.chars().take(64).collect();
    if start.len() < 4 {
        return Err(Error::BadRequest(format!(
            "`{shown}` is too short: give at least 4 characters of the key, as `segue cache list` shows it"
        )));
    }
    let mut rows = store.scan(&prefix::cache_like(start), None, 2)?;
    match (rows.pop(), rows.pop()) {
        (Some((key, value)), None) => {
            let (key, record) = codec::decode_row::<CacheRecord>(&key, &value)?;
            match key {
                Key::Cache(key) => Ok(entry(key, record)),
                _ => Err(Error::Internal("a key of another kind under the prefix of the cache".to_owned())),
            }
        }
        (None, _) => Err(Error::NotFound(format!("no committed result has the key `{shown}`: see `segue cache list`"))),
        _ => Err(Error::BadRequest(format!("more than one key starts with `{shown}`: give more characters"))),
    }
}

fn entry(key: String, record: CacheRecord) -> v1::CacheEntry {
    v1::CacheEntry {
        key,
        operator: record.operator,
        operator_version: record.operator_version,
        pipeline: record.pipeline,
        run_id: record.run_id,
        task: record.task,
        attempt: record.attempt,
        created_ms: record.created_ms,
        outputs: record.outputs,
        metrics_json: record.metrics_json,
        reason: String::new(),
    }
}

fn drop_of(entry: &v1::CacheEntry) -> CacheDrop {
    CacheDrop {
        key: entry.key.clone(),
        pipeline: entry.pipeline.clone(),
        operator: entry.operator.clone(),
        task: entry.task.clone(),
        created_at: entry.created_ms,
        why: Why::Asked,
    }
}

/// Takes out what makes a long list larger than a message.
fn shorten(entry: &mut v1::CacheEntry) {
    entry.metrics_json.clear();
    entry.outputs.iter_mut().filter_map(|output| output.artifact.as_mut()).for_each(|artifact| artifact.schema.clear());
}

/// Counts entries and the bytes of their outputs.
fn totals(entries: &[v1::CacheEntry]) -> (u64, u64) {
    let sizes = entries.iter().flat_map(|entry| &entry.outputs).filter_map(|output| output.artifact.as_ref());
    (entries.len() as u64, sizes.map(|artifact| artifact.size_bytes).fold(0, u64::saturating_add))
}

/// Reads rules from outside.
fn rules(wire: v1::Retention) -> Result<Retention, Error> {
    if wire.keep_runs.is_some_and(|runs| !(1..=MOST_RUNS).contains(&runs)) {
        return Err(Error::BadRequest(format!("keep_runs is a number of runs from 1 to {MOST_RUNS}")));
    }
    let ages = [wire.keep_for_ms, wire.keep_failed_for_ms, wire.logs_for_ms, wire.cache_for_ms];
    if ages.contains(&Some(0)) {
        return Err(Error::BadRequest("an age of a rule of retention is more than 0".to_owned()));
    }
    Ok(Retention {
        keep_runs: wire.keep_runs,
        keep_for_ms: wire.keep_for_ms,
        keep_failed_for_ms: wire.keep_failed_for_ms,
        logs_for_ms: wire.logs_for_ms,
        cache_for_ms: wire.cache_for_ms,
    })
}

/// Reads how long events are to be kept.
fn keep_events(wire: Option<u64>) -> Result<Option<Duration>, Error> {
    if wire == Some(0) {
        return Err(Error::BadRequest("keep_events is an age, and more than 0".to_owned()));
    }
    Ok(wire.map(Duration::from_millis))
}

fn answer(planned: &GcPlan, mut done: GcPlan) -> v1::GcResponse {
    let count = |plan: &GcPlan| {
        let others = plan.texts.len() + plan.intervals.len();
        plan.runs.len() + plan.logs.len() + plan.cache.len() + plan.blobs.len() + others
    };
    let totals = v1::GcTotals {
        freed_bytes: done.blob_bytes().saturating_add(done.log_bytes()),
        runs: done.runs.len() as u64,
        cache: done.cache.len() as u64,
        blobs: done.blobs.len() as u64,
        blob_bytes: done.blob_bytes(),
        log_bytes: done.log_bytes(),
        events: done.event_count(),
        texts: done.texts.len() as u64,
        intervals: done.intervals.len() as u64,
        kept_runs: done.kept.runs,
        active_runs: done.kept.active,
        model_versions: done.kept.model_versions,
        model_blobs: done.kept.model_blobs,
        young_blobs: done.kept.young_blobs,
        skipped: count(planned).saturating_sub(count(&done)) as u64,
    };
    done.runs.truncate(MOST_ROWS);
    done.logs.truncate(MOST_ROWS);
    done.cache.truncate(MOST_ROWS);
    done.blobs.truncate(MOST_ROWS);
    v1::GcResponse {
        runs: done
            .runs
            .into_iter()
            .map(|drop| v1::GcRun {
                run_id: drop.run.to_string(),
                pipeline: drop.pipeline,
                state: records::run_state(drop.end.state).into(),
                ended_ms: drop.end.at,
                reason: drop.why.to_string(),
                log_bytes: drop.log_bytes,
            })
            .collect(),
        logs: done
            .logs
            .into_iter()
            .map(|drop| v1::GcLogs { run_id: drop.run.to_string(), bytes: drop.bytes, reason: drop.why.to_string() })
            .collect(),
        cache: done
            .cache
            .into_iter()
            .map(|drop| v1::CacheEntry {
                key: drop.key,
                operator: drop.operator,
                pipeline: drop.pipeline,
                task: drop.task,
                created_ms: drop.created_at,
                reason: drop.why.to_string(),
                ..v1::CacheEntry::default()
            })
            .collect(),
        blobs: done
            .blobs
            .into_iter()
            .map(|drop| v1::GcBlob { digest: drop.digest.into(), size_bytes: drop.size_bytes.unwrap_or(0) })
            .collect(),
        totals: Some(totals),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::{Batch, MemoryStore, testing::named};

    fn store() -> MemoryStore {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        for (key, operator, pipeline, created_ms) in [
            ("abcd1", "retail.clv", "nightly", 10),
            ("abcd2", "ml.pca", "nightly", 30),
            ("ffff3", "ml.pca", "weekly", 20),
        ] {
            let record = CacheRecord {
                outputs: vec![named("out", b"12345")],
                operator: operator.to_owned(),
                pipeline: pipeline.to_owned(),
                created_ms,
                ..CacheRecord::default()
            };
            batch.put(&Key::Cache(key.to_owned()), &record);
        }
        store.apply(&batch).unwrap();
        store
    }

    fn keys(filter: &v1::CacheFilter) -> Vec<String> {
        matching(&store(), filter, 40).unwrap().into_iter().map(|entry| entry.key).collect()
    }

    #[test]
    fn every_condition_must_hold_and_the_newest_comes_first() {
        let all = v1::CacheFilter::default();
        assert_eq!(keys(&all), ["abcd2", "ffff3", "abcd1"]);
        let of = |operator: &str, pipeline: &str, older_than_ms| v1::CacheFilter {
            operator: operator.to_owned(),
            pipeline: pipeline.to_owned(),
            older_than_ms,
            ..v1::CacheFilter::default()
        };
        assert_eq!(keys(&of("ml.pca", "", 0)), ["abcd2", "ffff3"]);
        assert_eq!(keys(&of("ml.pca", "weekly", 0)), ["ffff3"]);
        assert_eq!(keys(&of("", "", 20)), ["ffff3", "abcd1"]);
        assert_eq!(totals(&matching(&store(), &all, 40).unwrap()), (3, 15));
    }

    #[test]
    fn a_key_is_named_by_its_start_where_that_is_of_one_entry() {
        let named = |starts: &[&str]| v1::CacheFilter {
            keys: starts.iter().map(|&start| start.to_owned()).collect(),
            ..v1::CacheFilter::default()
        };
        assert_eq!(keys(&named(&["ffff", "ffff3"])), ["ffff3"], "each once");
        let refused = |start: &str| matching(&store(), &named(&[start]), 40).unwrap_err().to_string();
        assert!(refused("abcd").contains("more than one key starts with `abcd`"));
        assert!(refused("ab").contains("at least 4"));
        assert!(refused("dead").contains("segue cache list"));
    }

    #[test]
    fn rules_that_would_keep_nothing_are_refused() {
        let none = v1::Retention { keep_runs: Some(0), ..v1::Retention::default() };
        let no_time = v1::Retention { logs_for_ms: Some(0), ..v1::Retention::default() };
        assert!(rules(none).is_err() && rules(no_time).is_err());
        assert!(keep_events(Some(0)).is_err() && keep_events(None).unwrap().is_none());
        assert_eq!(rules(v1::Retention::default()).unwrap(), Retention::default());
    }
}
