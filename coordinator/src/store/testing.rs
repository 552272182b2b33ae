//! Records for tests: a run of two tasks with its artifacts, model, alias and logs.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use segue_proto::{
    ids::{Digest, RunId, Token},
    store::v1 as stored,
    v1,
};

use super::{Batch, Key, SledStore, StateDir, Store};
use crate::{blobs::BlobStore, logs::Logs};

/// The nth run, in the order of time.
pub(crate) fn run(n: u32) -> RunId {
    format!("run_{n:026}").parse().unwrap()
}

pub(crate) fn run_record(run: &RunId, tasks: usize) -> stored::RunRecord {
    let spec = serde_json::json!({ "tasks": vec![serde_json::json!({}); tasks] });
    stored::RunRecord {
        run_id: run.to_string(),
        pipeline: "demo".to_owned(),
        spec: serde_json::to_vec(&spec).unwrap().into(),
        ..Default::default()
    }
}

pub(crate) fn token(run: &RunId, task: &str, attempt: u32) -> Token {
    Token { run: *run, task: task.parse().unwrap(), index: 0, attempt, epoch: 1 }
}

pub(crate) fn artifact(bytes: &[u8]) -> v1::Artifact {
    v1::Artifact {
        digest: Digest::of(bytes).into(),
        size_bytes: bytes.len() as u64,
        kind: "table".to_owned(),
        ..Default::default()
    }
}

pub(crate) fn named(name: &str, bytes: &[u8]) -> v1::NamedArtifact {
    v1::NamedArtifact { name: name.to_owned(), artifact: Some(artifact(bytes)), key: String::new() }
}

/// A state directory with something of everything in it.
pub(crate) struct Sample {
    pub(crate) dirs: StateDir,
    pub(crate) store: Arc<SledStore>,
    pub(crate) blobs: BlobStore,
    pub(crate) logs: Logs,
    _temporary: tempfile::TempDir,
}

/// Bytes of the artifact that `clean` puts out.
pub(crate) const ORDERS: &[u8] = b"orders, as a table";
/// Bytes of the model document.
pub(crate) const MODEL: &[u8] = b"{\"kind\":\"kmeans\"}";
/// Bytes of a file that came with the submission.
pub(crate) const UPLOAD: &[u8] = b"InvoiceNo,StockCode";

impl Sample {
    pub(crate) async fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateDir::new(temporary.path().join("state"));
        let store = Arc::new(SledStore::open(dirs.store()).unwrap());
        let blobs = BlobStore::open_local(&dirs.blobs()).await.unwrap();
        let logs = Logs::open(dirs.logs()).unwrap();
        for bytes in [ORDERS, MODEL, UPLOAD] {
            blobs.put_bytes(Bytes::from_static(bytes)).await.unwrap();
        }
        let run = run(7);
        store.apply(&records(&run)).unwrap();
        store.flush().unwrap();
        logs.append(&token(&run, "clean", 1), 0, b"hello\n", 0).unwrap();
        logs.append(&token(&run, "clean", 1), 106, b"again\n", 100).unwrap();
        Self { dirs, store, blobs, logs, _temporary: temporary }
    }

    /// Where the bytes of a blob are.
    pub(crate) fn blob_file(&self, bytes: &[u8]) -> std::path::PathBuf {
        self.dirs.blobs().join(segue_proto::blob_key(&Digest::of(bytes)))
    }

    /// Where something beside the state directory may be put.
    pub(crate) fn beside(&self, name: &str) -> std::path::PathBuf {
        self.dirs.root().with_file_name(name)
    }
}

fn records(run: &RunId) -> Batch {
    let mut batch = Batch::new();
    let mut record = run_record(run, 2);
    record.params.insert("input".to_owned(), format!("blob:{}", Digest::of(UPLOAD)));
    batch.put(&Key::Run(*run), &record);
    let outputs = vec![named("orders", ORDERS)];
    batch
        .put(&Key::Task { run: *run, task: 0 }, &stored::TaskRecord { outputs: outputs.clone(), ..Default::default() });
    batch.put(&Key::Task { run: *run, task: 1 }, &stored::TaskRecord::default());
    batch.put(
        &Key::Attempt { run: *run, task: 0, attempt: 1 },
        &stored::AttemptRecord {
            view: Some(v1::AttemptView { attempt: 1, ..Default::default() }),
            outputs: outputs.clone(),
            ..Default::default()
        },
    );
    for (output, bytes) in [("orders", ORDERS), ("model", MODEL)] {
        batch.put(
            &Key::Artifact(Digest::of(bytes)),
            &stored::ArtifactRecord {
                artifact: Some(artifact(bytes)),
                producers: vec![stored::Producer {
                    run_id: run.to_string(),
                    task: "clean".to_owned(),
                    output: output.to_owned(),
                    attempt: 1,
                    created_ms: 5,
                }],
            },
        );
        batch.put(
            &Key::Produced { run: *run, task: 0, output: output.parse().unwrap() },
            &v1::ArtifactView { artifact: Some(artifact(bytes)), ..Default::default() },
        );
    }
    let name: segue_proto::ids::ModelName = "customer-kmeans".parse().unwrap();
    batch.put(
        &Key::ModelVersion { name: name.clone(), version: 1 },
        &v1::ModelVersion { version: 1, artifact: Some(artifact(MODEL)), ..Default::default() },
    );
    batch.put(
        &Key::Alias { name, alias: "champion".parse().unwrap() },
        &v1::SetAliasRequest { name: "customer-kmeans".to_owned(), alias: "champion".to_owned(), version: 1 },
    );
    batch.put(
        &Key::Idempotency("nightly 2026-01-01".to_owned()),
        &v1::SubmitResponse { run_id: run.to_string(), ..Default::default() },
    );
    batch
}
