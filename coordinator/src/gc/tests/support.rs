//! A coordinator without its ports: store, blobs, logs and a running actor.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use segue_proto::{
    blob_key,
    ids::{Digest, RunId},
    operator::Catalogue,
    store::v1 as stored,
    v1,
};
use tokio_util::sync::CancellationToken;

use super::super::{Ask, Gc, GcPlan, collect};
use crate::{
    blobs::BlobStore,
    core::{Config, Core},
    logs::Logs,
    server::{
        Ids, Offload,
        actor::{Actor, Clock},
        api::Shared,
        feed::Feed,
        past::StorePast,
        probes::Probes,
        wire::WelcomeFacts,
    },
    spec::Retention,
    store::{
        self, Batch, Committer, Key, StateDir, Store,
        testing::{artifact, named, run, run_record, token},
    },
};

pub(super) struct Place {
    pub shared: Shared,
    _dir: Arc<tempfile::TempDir>,
}

impl Place {
    /// Opens a coordinator over a store, with its files in a directory.
    pub(super) async fn over(store: Arc<dyn Store>, dir: Arc<tempfile::TempDir>) -> Self {
        let state_dir = StateDir::new(dir.path());
        let committer = Committer::start(Arc::clone(&store)).unwrap();
        let blobs = BlobStore::open_local(&state_dir.blobs()).await.unwrap();
        let logs = Logs::open(state_dir.logs()).unwrap();
        let (clock, stop) = (Clock::start(), CancellationToken::new());
        let facts =
            WelcomeFacts { epoch: 1, lease_ms: 1_000, blob_url: blobs.url().to_owned(), store_id: String::new() };
        let past = StorePast::new(Arc::clone(&store), blobs.clone());
        let core = Core::new(Config { epoch: 1, lease_ms: 1_000 });
        let (feed, ends) = Feed::open(&*store, &core).unwrap();
        let probes = Probes::channel().0;
        let (actor, handle) = Actor::new(core, clock, committer.clone(), past, facts, probes, feed, stop.clone());
        tokio::spawn(actor.run());
        let shared = Shared {
            handle,
            store,
            committer,
            blobs,
            logs,
            state_dir,
            offers: Arc::default(),
            catalogue: Arc::new(RwLock::new(Catalogue::default())),
            gc: Arc::new(Gc::default()),
            feed: ends,
            unsettled: Default::default(),
            checks: Arc::new(tokio::sync::Semaphore::new(1)),
            clock,
            epoch: 1,
            started_ms: 0,
            stop,
            offload: Offload::Threads,
            ids: Ids::default(),
        };
        Self { shared, _dir: dir }
    }

    pub(super) async fn new() -> Self {
        Self::over(Arc::new(store::MemoryStore::new()), Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// Adds an ended run with one task, one attempt, a log, and these outputs, whose bytes are long stored.
    pub(super) async fn add_run(&self, n: u32, outputs: &[&[u8]]) -> RunId {
        let id = run(n);
        let mut batch = Batch::new();
        let idempotency_key = format!("key-{n}");
        let answer = v1::SubmitResponse { run_id: id.to_string(), ..Default::default() };
        batch.put(&Key::Idempotency(idempotency_key.clone()), &answer);
        let record = stored::RunRecord {
            state: v1::RunState::Succeeded.into(),
            created_ms: u64::from(n),
            ended_ms: u64::from(n) + 1,
            idempotency_key,
            ..run_record(&id, 1)
        };
        batch.put(&Key::Run(id), &record);
        let name = record.pipeline.parse().unwrap();
        batch.put(&Key::PipelineRun { name, run: id }, &stored::PipelineRunRecord {});
        let names: Vec<String> = (0..outputs.len()).map(|at| format!("out{at}")).collect();
        let named: Vec<_> = names.iter().zip(outputs).map(|(name, bytes)| named(name, bytes)).collect();
        let task = stored::TaskRecord { outputs: named.clone(), ..Default::default() };
        batch.put(&Key::Task { run: id, task: 0 }, &task);
        let expansion = stored::ExpansionRecord::default();
        batch.put(&Key::Expansion { run: id, task: 0 }, &expansion);
        let view = Some(v1::AttemptView { attempt: 1, ..Default::default() });
        let attempt = stored::AttemptRecord { view, outputs: named, ..Default::default() };
        batch.put(&Key::Attempt { run: id, task: 0, attempt: 1 }, &attempt);
        for (name, bytes) in names.iter().zip(outputs) {
            self.add_output(&mut batch, &id, name, bytes);
            self.add_old_blob(bytes).await;
        }
        self.shared.committer.commit(batch).await.unwrap();
        self.shared.logs.append(&token(&id, "clean", 1), 0, b"hello\n", 0).unwrap();
        id
    }

    /// Adds what an attempt commits of one output.
    pub(super) fn add_output(&self, batch: &mut Batch, id: &RunId, name: &str, bytes: &[u8]) {
        let view = v1::ArtifactView { artifact: Some(artifact(bytes)), ..Default::default() };
        batch.put(&Key::Produced { run: *id, task: 0, output: name.parse().unwrap() }, &view);
        let key = Key::Artifact(Digest::of(bytes));
        let mut record: stored::ArtifactRecord = store::read(&*self.shared.store, &key).unwrap().unwrap_or_default();
        record.artifact = Some(artifact(bytes));
        record.producers.push(stored::Producer { run_id: id.to_string(), attempt: 1, ..Default::default() });
        batch.put(&key, &record);
    }

    /// Stores a blob as if that were long ago.
    pub(super) async fn add_old_blob(&self, bytes: &[u8]) {
        self.shared.blobs.put_bytes(Bytes::copy_from_slice(bytes)).await.unwrap();
        let file = self.shared.blobs.local_root().unwrap().join(blob_key(&Digest::of(bytes)));
        let long_ago = SystemTime::now() - Duration::from_secs(10 * 24 * 3_600);
        std::fs::File::open(file).unwrap().set_modified(long_ago).unwrap();
    }

    pub(super) async fn put<M: prost::Message>(&self, key: &Key, record: &M) {
        let mut batch = Batch::new();
        batch.put(key, record);
        self.shared.committer.commit(batch).await.unwrap();
    }

    pub(super) async fn has_blob(&self, bytes: &[u8]) -> bool {
        self.shared.blobs.exists(&Digest::of(bytes)).await.unwrap()
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.shared.store.get(&key.encode()).unwrap().is_some()
    }

    /// Collects all but the newest runs. The moment before which a blob must have been stored is taken out of the answer,
    /// so that two of them can be compared.
    pub(super) async fn keep(&self, runs: u32, dry_run: bool) -> (GcPlan, GcPlan) {
        let rules = Retention { keep_runs: Some(runs), ..Retention::default() };
        let (planned, done) = collect(&self.shared, &Ask { rules, dry_run, ..Ask::default() }).await.unwrap();
        (GcPlan { before: 0, ..planned }, GcPlan { before: 0, ..done })
    }

    /// Gives what verification finds wrong.
    pub(super) async fn problems(&self) -> Vec<String> {
        store::verify(Arc::clone(&self.shared.store), &self.shared.blobs).await.unwrap().problems
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
