#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::FutureExt as _;
use segue_proto::{
    ids::Digest,
    v1::{
        self, maintenance_service_client::MaintenanceServiceClient, run_service_client::RunServiceClient,
        worker_event::Event,
    },
};

use super::*;
use crate::{
    server::fleet_tests::{Cluster, Hand, message},
    store::{
        MemoryStore, Store,
        testing::{run, run_record},
    },
};

const PLACE: &str = "/data/orders.csv";

fn check(attempt: u32) -> Check {
    let inputs = BTreeMap::from([(PLACE.to_owned(), "before".to_owned())]);
    let result = CacheRecord { attempt, ..CacheRecord::default() };
    Check { run: run(1), task: 0, attempt, inputs, result: Some((format!("key-{attempt}"), result)) }
}

fn now(digest: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(PLACE.to_owned(), digest.to_owned())])
}

#[test]
fn a_result_is_cached_if_its_inputs_are_as_they_were_and_else_the_change_is_kept() {
    let store = Arc::new(MemoryStore::new());
    let committer = Committer::start(store.clone()).unwrap();
    let has = |key: &Key| store.get(&key.encode()).unwrap().is_some();
    let cached = |attempt: u32| has(&Key::Cache(format!("key-{attempt}")));
    write(&committer, &run(1), &[check(1)], &now("before")).unwrap();
    assert!(!cached(1), "its run is gone, and everything of it");

    let mut batch = Batch::new();
    batch.put(&Key::Run(run(1)), &run_record(&run(1), 1));
    committer.commit_blocking(batch).unwrap();
    write(&committer, &run(1), &[check(1), check(2)], &now("before")).unwrap();
    assert!(cached(1) && cached(2));
    write(&committer, &run(1), &[check(3)], &now("after")).unwrap();
    write(&committer, &run(1), &[check(4)], &BTreeMap::new()).unwrap();
    assert!(!cached(3) && !cached(4));
    let changed = |attempt| {
        let key = Key::ChangedInputs { run: run(1), task: 0, attempt };
        store::read::<ChangedInputsRecord>(&*store, &key).unwrap().map(|record| record.digests[PLACE].clone())
    };
    let kept = [changed(1), changed(3), changed(4)];
    assert_eq!(kept, [None, Some("after".to_owned()), Some(String::new())], "the last one cannot be read any more");
}

#[test]
fn who_submits_a_file_waits_for_those_who_still_look_at_it() {
    let unsettled = Unsettled::default();
    let (one, other) = (PLACE.to_owned(), "/data/other.csv".to_owned());
    let (first, second) = (unsettled.hold(vec![one.clone()]), unsettled.hold(vec![one.clone()]));
    assert!(unsettled.settled([&other].into_iter()).now_or_never().is_some());
    let mut waits = Box::pin(unsettled.settled([&one].into_iter()));
    assert!(waits.as_mut().now_or_never().is_none());
    drop(first);
    assert!(waits.as_mut().now_or_never().is_none());
    drop(second);
    assert!(waits.as_mut().now_or_never().is_some());
}

#[tokio::test]
async fn a_file_that_was_just_written_is_read_again_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    let place = file.to_str().unwrap().to_owned();
    let mut stamps = Stamps::default();
    for content in ["a", "b", "c"] {
        // As large as before, and within one tick of the file system's clock.
        std::fs::write(&file, content).unwrap();
        let now = stamps.digests(BTreeSet::from([place.clone()])).await;
        assert_eq!(now[&place], Digest::of(content.as_bytes()).to_string());
    }
    std::fs::remove_file(&file).unwrap();
    assert!(stamps.digests(BTreeSet::from([place])).await.is_empty());
}

impl Cluster {
    async fn submit_file(&self, file: &Path) -> String {
        let text = "[pipeline]\nname = \"p\"\n[params]\ninput = { type = \"path\" }\n[tasks.a]\ncommand = [\"true\"]\n\
                    cache = true\noutputs = [\"out\"]\nwith = { input = \"${params.input}\" }\n";
        let request = v1::SubmitRequest {
            text: text.to_owned(),
            path: "p.toml".to_owned(),
            params: [("input".to_owned(), file.to_str().unwrap().to_owned())].into(),
            ..v1::SubmitRequest::default()
        };
        let answer = RunServiceClient::new(self.channel.clone()).submit(request).await.unwrap().into_inner();
        assert_eq!(answer.diagnostics, []);
        answer.run_id
    }

    /// Gives what is known of the input of the task that made this: its digest at submission, and afterwards.
    async fn input_of(&self, made: &Digest) -> (Option<String>, Option<String>) {
        let request = v1::LineageRequest { digest: made.to_string() };
        let found = RunServiceClient::new(self.channel.clone()).lineage(request).await.unwrap().into_inner();
        let node = &found.nodes[0];
        (node.external_inputs.get("input").cloned(), node.changed_inputs.get("input").cloned())
    }

    async fn results(&self) -> usize {
        let mut maintenance = MaintenanceServiceClient::new(self.channel.clone());
        maintenance.list_cache(v1::ListCacheRequest::default()).await.unwrap().into_inner().entries.len()
    }

    async fn task(&self, run_id: &str) -> v1::TaskView {
        let request = v1::GetRunRequest { run_id: run_id.to_owned() };
        RunServiceClient::new(self.channel.clone()).get_run(request).await.unwrap().into_inner().tasks.remove(0)
    }

    async fn upload(&self, bytes: &'static [u8]) -> v1::Artifact {
        let mut blobs = v1::blob_service_client::BlobServiceClient::new(self.channel.clone());
        let digest = Digest::of(bytes).to_string();
        let chunk = v1::PutBlobRequest { digest: digest.clone(), data: bytes.into() };
        blobs.put(futures::stream::iter([chunk])).await.unwrap();
        v1::Artifact { digest, size_bytes: bytes.len() as u64, kind: "file".to_owned(), ..Default::default() }
    }
}

impl Hand {
    async fn makes(&mut self, token: v1::Token, artifact: v1::Artifact) {
        let output = v1::NamedArtifact { name: "out".to_owned(), artifact: Some(artifact), ..Default::default() };
        let success = v1::Success { outputs: vec![output], ..v1::Success::default() };
        let outcome = Some(v1::finished::Outcome::Success(success));
        let finished = v1::Finished { token: Some(token), outcome, ..v1::Finished::default() };
        self.up.send(message(Event::Finished(finished))).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_made_from_a_file_that_changed_after_its_submission_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    let cluster = Cluster::start(&dir.path().join("state")).await;
    let mut hand = Hand::connect(&cluster, "w", 0).await;
    let (from_b, from_a) = (cluster.upload(b"made from b").await, cluster.upload(b"made from a").await);

    std::fs::write(&file, "a").unwrap();
    cluster.submit_file(&file).await;
    let token = hand.assigned().await;
    std::fs::write(&file, "b").unwrap();
    hand.makes(token, from_b).await;
    let made = Digest::of(b"made from b");
    let (a, b) = (Digest::of(b"a").to_string(), Digest::of(b"b").to_string());
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let found = cluster.input_of(&made).await;
            if found.1.is_some() {
                return found;
            }
        }
    });
    assert_eq!(told.await.expect("the change is in the lineage"), (Some(a), Some(b)));
    assert_eq!(cluster.results().await, 0);

    // As it was at the first submission: what was made then must not pass for a result of this.
    std::fs::write(&file, "a").unwrap();
    let second = cluster.submit_file(&file).await;
    let token = hand.assigned().await;
    assert_eq!(token.run_id, second);
    hand.makes(token, from_a.clone()).await;
    hand.next("acknowledgement", |command| matches!(command, v1::command::Command::FinishedAck(_))).await;

    // Submitted as soon as the end of the one before it is known, it finds that one's result.
    let third = cluster.submit_file(&file).await;
    let task = cluster.task(&third).await;
    assert!(task.cached && task.outputs[0].artifact.as_ref() == Some(&from_a), "{task:?}");
    assert_eq!(cluster.input_of(&Digest::of(b"made from a")).await.1, None);
    drop(hand);
    cluster.stop().await;
}
