//! Runs over real gRPC: a coordinator in this process on loopback, without workers. What is submitted waits until it is
//! cancelled.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path, time::Duration};

use segue_proto::v1::{
    self, maintenance_service_client::MaintenanceServiceClient, run_service_client::RunServiceClient,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{Config, Coordinator, deliver::command::KEY_PREFIX, find::resolve};
use crate::store::{
    Batch, Key, MemoryStore, Store as _,
    testing::{run, run_record},
};

struct Scene {
    runs: RunServiceClient<Channel>,
    pipelines: MaintenanceServiceClient<Channel>,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), super::Error>>,
}

impl Scene {
    async fn start(state_dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let config = Config {
            state_dir: state_dir.to_owned(),
            blob_url: None,
            lease: Duration::from_secs(60),
            tls: None,
            fires_schedules: true,
            gc: crate::gc::GcConfig::default(),
            openlineage: None,
            hook_allow: crate::server::HookAllow::default(),
        };
        let coordinator = Coordinator::start(config, listener, None, stop.clone()).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", coordinator.address)).unwrap().connect_lazy();
        let (runs, pipelines) = (RunServiceClient::new(channel.clone()), MaintenanceServiceClient::new(channel));
        Self { runs, pipelines, stop, ended: tokio::spawn(coordinator.wait()) }
    }

    async fn stop(self) {
        drop((self.runs, self.pipelines));
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }

    async fn submit(&mut self, text: &str, key: &str, day: &str) -> Result<v1::SubmitResponse, tonic::Status> {
        let request = v1::SubmitRequest {
            text: text.to_owned(),
            path: "/x/p.toml".to_owned(),
            params: BTreeMap::from([("day".to_owned(), day.to_owned())]).into_iter().collect(),
            idempotency_key: key.to_owned(),
            ..v1::SubmitRequest::default()
        };
        let answer = self.runs.submit(request).await?.into_inner();
        assert_eq!(answer.diagnostics, []);
        Ok(answer)
    }

    async fn cancel(&mut self, run_id: &str, reason: &str) -> Result<(), tonic::Status> {
        let request =
            v1::CancelRunRequest { run_id: run_id.to_owned(), reason: reason.to_owned(), ..Default::default() };
        self.runs.cancel_run(request).await.map(drop)
    }

    async fn run(&mut self, run_id: &str) -> v1::RunView {
        self.runs.get_run(v1::GetRunRequest { run_id: run_id.to_owned() }).await.unwrap().into_inner()
    }
}

fn text(name: &str, program: &str) -> String {
    format!(
        "[pipeline]\nname = \"{name}\"\n[params]\nday = {{ type = \"string\", default = \"mon\" }}\n[tasks.a]\ncommand = [\"{program}\", \"${{params.day}}\"]\n"
    )
}

#[tokio::test]
async fn a_rerun_with_another_text_keeps_that_text_as_a_version_of_its_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(dir.path()).await;
    let id = scene.submit(&text("nightly", "old"), "", "mon").await.unwrap().run_id;
    scene.cancel(&id, "").await.unwrap();
    let again = |text: String, dry_run| v1::RerunRequest {
        run_id: "latest".to_owned(),
        latest_text: text,
        dry_run,
        ..v1::RerunRequest::default()
    };
    scene.runs.rerun(again(text("nightly", "new"), true)).await.unwrap();
    let versions = |scene: &mut Scene| {
        let mut client = scene.pipelines.clone();
        async move { client.list_pipelines(v1::ListPipelinesRequest {}).await.unwrap().into_inner().pipelines }
    };
    assert_eq!(versions(&mut scene).await[0].versions.len(), 1, "a plan keeps nothing");
    let answer = scene.runs.rerun(again(text("nightly", "new"), false)).await.unwrap().into_inner();
    let listed = versions(&mut scene).await;
    assert_eq!((listed.len(), listed[0].versions.len(), listed[0].runs), (1, 2, 1));
    assert_eq!(listed[0].versions[1].version, answer.version);
    let request = v1::GetPipelineRequest { reference: format!("nightly:{}", &answer.version[..12]) };
    let kept = scene.pipelines.get_pipeline(request).await.unwrap().into_inner();
    assert_eq!(kept.text, text("nightly", "new"));
    scene.stop().await;
}

#[tokio::test]
async fn a_rerun_refuses_the_file_of_another_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(dir.path()).await;
    let id = scene.submit(&text("nightly", "old"), "", "mon").await.unwrap().run_id;
    scene.cancel(&id, "").await.unwrap();
    for dry_run in [true, false] {
        let latest_text = text("weekly", "new");
        let request = v1::RerunRequest { run_id: id.clone(), latest_text, dry_run, ..v1::RerunRequest::default() };
        let refused = scene.runs.rerun(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("one of pipeline `nightly`, and the file is that of `weekly`"), "{refused}");
    }
    assert_eq!(scene.run(&id).await.pipeline, "nightly");
    scene.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(dir.path()).await;
    let nightly = text("nightly", "old");
    let first = scene.submit(&nightly, "k", "mon").await.unwrap();
    let again = scene.submit(&nightly, "k", "mon").await.unwrap();
    assert_eq!((again.run_id.as_str(), again.existing), (first.run_id.as_str(), true));
    let others = [(text("weekly", "old"), "mon"), (text("nightly", "new"), "mon"), (nightly.clone(), "tue")];
    for at_end in [false, true] {
        for (text, day) in &others {
            let refused = scene.submit(text, "k", day).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(&first.run_id), "{refused}");
        }
        if !at_end {
            scene.cancel(&first.run_id, "").await.unwrap();
        }
    }
    assert_eq!(scene.submit(&nightly, "k", "mon").await.unwrap().run_id, first.run_id, "also after its end");
    assert_ne!(scene.submit(&nightly, "", "tue").await.unwrap().run_id, first.run_id, "no key, no promise");
    scene.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_says_who_wanted_it_and_a_second_cancel_that_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(dir.path()).await;
    let id = scene.submit(&text("nightly", "old"), "", "mon").await.unwrap().run_id;
    scene.cancel(&id, "no room\u{1b}[31m").await.unwrap();
    let view = scene.run(&id).await;
    assert_eq!((view.reason_code.as_str(), view.reason.as_str()), ("cancelled", "the run was cancelled: no room[31m"));
    let request = v1::ExplainRequest { run_id: id.clone(), task: "a".to_owned() };
    let told = scene.runs.explain(request).await.unwrap().into_inner();
    assert_eq!(told.explanations[0].text, "it was cancelled with its run: no room[31m");
    let refused = scene.cancel(&id, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("has ended already"), "{refused}");
    let other = scene.submit(&text("nightly", "old"), "", "mon").await.unwrap().run_id;
    scene.cancel(&other, "").await.unwrap();
    assert_eq!(scene.run(&other).await.reason, "the run was cancelled: on request");
    scene.stop().await;
}

#[test]
fn the_latest_run_is_none_of_those_that_execute_hooks() {
    let store = MemoryStore::new();
    let add = |n: u32, key: &str| {
        let mut batch = Batch::new();
        let mut record = run_record(&run(n), 1);
        record.idempotency_key = key.to_owned();
        batch.put(&Key::Run(run(n)), &record);
        store.apply(&batch).unwrap();
    };
    let hook = format!("{KEY_PREFIX}17/0");
    add(1, &hook);
    assert!(resolve(&store, "latest").unwrap_err().to_string().contains("there is no run"));
    add(2, "mine");
    (3..20).for_each(|n| add(n, &hook));
    assert_eq!(resolve(&store, "latest").unwrap(), run(2));
    add(20, "");
    assert_eq!(resolve(&store, "latest").unwrap(), run(20));
}
