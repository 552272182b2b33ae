//! The fleet over real gRPC and HTTP: a coordinator in this process on loopback, and workers made by hand.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use segue_proto::{
    externalscaler::{
        GetMetricsRequest, IsActiveResponse, ScaledObjectRef, external_scaler_client::ExternalScalerClient,
    },
    v1::{
        self, admin_service_client::AdminServiceClient, command::Command, fleet_service_client::FleetServiceClient,
        run_service_client::RunServiceClient, worker_event::Event, worker_service_client::WorkerServiceClient,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use super::{Config, Coordinator};

/// Nothing waits for it: it only keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Cluster {
    pub(super) channel: Channel,
    http: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), super::Error>>,
}

impl Cluster {
    pub(super) async fn start(state_dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
        let coordinator = Coordinator::start(config, listener, Some(http), stop.clone()).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", coordinator.address)).unwrap().connect_lazy();
        let http = coordinator.http_address.unwrap();
        Self { channel, http, stop, ended: tokio::spawn(coordinator.wait()) }
    }

    pub(super) async fn stop(self) {
        drop(self.channel);
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }

    pub(super) fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone())
    }

    pub(super) fn keda(&self) -> ExternalScalerClient<Channel> {
        ExternalScalerClient::new(self.channel.clone())
    }

    pub(super) async fn worker(&self, name: &str) -> v1::WorkerDetail {
        let request = v1::DescribeWorkersRequest { name: name.to_owned() };
        let mut workers = self.fleet().describe_workers(request).await.unwrap().into_inner().workers;
        assert_eq!(workers.len(), 1, "{workers:?}");
        workers.remove(0)
    }

    pub(super) async fn submit(&self, tasks: &str) -> String {
        let text = format!("[pipeline]\nname = \"p\"\n{tasks}");
        let request = v1::SubmitRequest { text, path: "p.toml".to_owned(), ..v1::SubmitRequest::default() };
        let mut runs = RunServiceClient::new(self.channel.clone());
        let answer = runs.submit(request).await.unwrap().into_inner();
        assert_eq!(answer.diagnostics, []);
        answer.run_id
    }

    pub(super) async fn cancel(&self, run_id: &str) {
        let request = v1::CancelRunRequest { run_id: run_id.to_owned(), ..v1::CancelRunRequest::default() };
        RunServiceClient::new(self.channel.clone()).cancel_run(request).await.unwrap();
    }

    pub(super) async fn reason(&self, run_id: &str, task: &str) -> String {
        let request = v1::ExplainRequest { run_id: run_id.to_owned(), task: task.to_owned() };
        let mut runs = RunServiceClient::new(self.channel.clone());
        runs.explain(request).await.unwrap().into_inner().explanations.remove(0).code
    }

    pub(super) async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// A worker made by hand: it does what the test says.
pub(super) struct Hand {
    pub(super) up: mpsc::Sender<v1::WorkerMessage>,
    down: Streaming<v1::CoordinatorMessage>,
    waiting: Vec<Command>,
}

impl Hand {
    pub(super) async fn connect(cluster: &Cluster, name: &str, gpu: u32) -> Self {
        let (up, messages) = mpsc::channel(8);
        let hello = v1::Hello {
            worker: name.to_owned(),
            incarnation: "a".to_owned(),
            capacity: Some(v1::Resources { cpu_milli: 1_000, gpu_milli: gpu * 1_000, ..v1::Resources::default() }),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            ..v1::Hello::default()
        };
        up.send(message(Event::Hello(hello))).await.unwrap();
        let mut client = WorkerServiceClient::new(cluster.channel.clone());
        let down = client.connect(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let mut hand = Self { up, down, waiting: Vec::new() };
        hand.next("welcome", |command| matches!(command, Command::Welcome(_))).await;
        hand
    }

    /// Waits for the next command of a kind; those before it are passed over.
    pub(super) async fn next(&mut self, what: &str, wanted: impl Fn(&Command) -> bool) -> Command {
        loop {
            while !self.waiting.is_empty() {
                let command = self.waiting.remove(0);
                if wanted(&command) {
                    return command;
                }
            }
            let message = tokio::time::timeout(PATIENCE, self.down.message()).await.expect(what).unwrap().expect(what);
            self.waiting = message.commands.into_iter().filter_map(|command| command.command).collect();
        }
    }

    pub(super) async fn assigned(&mut self) -> v1::Token {
        match self.next("assignment", |command| matches!(command, Command::Assign(_))).await {
            Command::Assign(assign) => assign.token.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn finish(&mut self, token: v1::Token) {
        let outcome = Some(v1::finished::Outcome::Success(v1::Success::default()));
        let finished = v1::Finished { token: Some(token), outcome, ..v1::Finished::default() };
        self.up.send(message(Event::Finished(finished))).await.unwrap();
        self.next("acknowledgement", |command| matches!(command, Command::FinishedAck(_))).await;
    }
}

pub(super) fn message(event: Event) -> v1::WorkerMessage {
    v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(event) }] }
}

fn trigger(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let pairs = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ScaledObjectRef { name: "gpu".to_owned(), namespace: "data".to_owned(), scaler_metadata: pairs.collect() }
}

const COMMAND: &str = "command = [\"true\"]\n";

#[tokio::test]
async fn cordons_labels_and_pools_are_there_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let hand = Hand::connect(&cluster, "w", 0).await;
    let mut fleet = cluster.fleet();
    fleet.cordon(v1::CordonRequest { name: "w".to_owned(), on: true }).await.unwrap();
    let set = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
    let change = v1::LabelRequest { name: "w".to_owned(), set, remove: vec!["zone".to_owned()] };
    let labelled = fleet.label(change).await.unwrap().into_inner();
    assert!(labelled.connected && labelled.labels == BTreeMap::from([("team".to_owned(), "x".to_owned())]));
    let pool =
        |slots| v1::SetPoolRequest { name: "db".to_owned(), slots, description: Some("the database".to_owned()) };
    assert_eq!(fleet.set_pool(pool(2)).await.unwrap().into_inner().previous, None);
    assert_eq!(fleet.set_pool(pool(3)).await.unwrap().into_inner().previous, Some(2));
    drop(hand);
    cluster.stop().await;

    let cluster = Cluster::start(dir.path()).await;
    let away = cluster.worker("w").await;
    assert_eq!((away.cordoned, away.worker.unwrap().state.as_str()), (true, "disconnected"), "shown while it is away");
    let mut hand = Hand::connect(&cluster, "w", 0).await;
    let run = cluster.submit(&format!("[tasks.a]\n{COMMAND}resources = {{ labels = {{ team = \"x\" }} }}\n")).await;
    assert_eq!(cluster.reason(&run, "a").await, "workers_cordoned");
    let shown = cluster.worker("w").await;
    let view = shown.worker.unwrap();
    assert_eq!((view.state.as_str(), shown.idle_code.as_str()), ("cordoned", "cordoned"));
    assert!(view.labels.contains_key("team") && !view.labels.contains_key("zone"));
    assert_eq!(shown.own_labels, BTreeMap::from([("zone".to_owned(), "a".to_owned())]));
    cluster.fleet().cordon(v1::CordonRequest { name: "w".to_owned(), on: false }).await.unwrap();
    let token = hand.assigned().await;
    assert_eq!(token.run_id, run);
    let busy = cluster.worker("w").await;
    assert_eq!((busy.tasks.len(), busy.idle_code.as_str(), busy.free.unwrap().cpu_milli), (1, "", 0));
    hand.finish(token).await;

    let pools = cluster.fleet().list_pools(v1::ListPoolsRequest {}).await.unwrap().into_inner().pools;
    let [db] = &pools[..] else { panic!("{pools:?}") };
    assert_eq!((db.slots, db.used, db.description.as_str()), (3, 0, "the database"));
    let mut fleet = cluster.fleet();
    fleet.delete_pool(v1::DeletePoolRequest { name: "db".to_owned() }).await.unwrap();
    let again = fleet.delete_pool(v1::DeletePoolRequest { name: "db".to_owned() }).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    let verified = AdminServiceClient::new(cluster.channel.clone()).verify(v1::VerifyRequest {}).await.unwrap();
    assert_eq!(verified.into_inner().problems, Vec::<String>::new());
    cluster.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let _hand = Hand::connect(&cluster, "w", 0).await;
    let mut fleet = cluster.fleet();
    let unknown = fleet.cordon(v1::CordonRequest { name: "v".to_owned(), on: true }).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "there is no worker `v`"));
    let unknown = fleet.describe_workers(v1::DescribeWorkersRequest { name: "v".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    for (label, value) in [("", "x"), ("a=b", "x"), ("a\n", "x"), ("a", "\u{1b}[31m"), (&*"a".repeat(200), "x")] {
        let set = BTreeMap::from([(label.to_owned(), value.to_owned())]);
        let change = v1::LabelRequest { name: "w".to_owned(), set, remove: Vec::new() };
        let refused = fleet.label(change).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{label:?}={value:?}");
        assert!(refused.message().contains("label") && !refused.message().contains('\u{1b}'), "{refused}");
    }
    let set = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let both = v1::LabelRequest { name: "w".to_owned(), set, remove: vec!["a".to_owned()] };
    assert_eq!(fleet.label(both).await.unwrap_err().code(), Code::InvalidArgument);
    let none = v1::ScaleInRequest { count: 0, ..v1::ScaleInRequest::default() };
    assert_eq!(fleet.scale_in(none).await.unwrap_err().code(), Code::InvalidArgument);
    let pool = v1::SetPoolRequest { name: "No Pool".to_owned(), slots: 1, description: None };
    assert!(fleet.set_pool(pool).await.unwrap_err().message().contains("pool name"));
    cluster.stop().await;
}

#[tokio::test]
async fn scale_in_tells_the_idle_worker_to_drain_and_spares_the_one_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let mut gpu = Hand::connect(&cluster, "gpu", 1).await;
    let run = cluster.submit(&format!("[tasks.train]\n{COMMAND}resources = {{ gpu = 1 }}\n")).await;
    let token = gpu.assigned().await;
    let mut idle = Hand::connect(&cluster, "idle", 0).await;
    let request = |dry_run| v1::ScaleInRequest { count: 2, dry_run, ..v1::ScaleInRequest::default() };
    let planned = cluster.fleet().scale_in(request(true)).await.unwrap().into_inner();
    assert!(!cluster.worker("idle").await.draining, "a dry run drains nobody");
    let done = cluster.fleet().scale_in(request(false)).await.unwrap().into_inner();
    assert_eq!(done, planned);
    let ([drained], [spared]) = (&done.drained[..], &done.spared[..]) else { panic!("{done:?}") };
    assert_eq!((drained.name.as_str(), drained.code.as_str(), drained.running), ("idle", "idle", 0));
    assert_eq!((spared.name.as_str(), spared.code.as_str(), spared.running), ("gpu", "last_that_can", 1));
    assert!(spared.text.contains("`train`") && spared.text.contains(&run), "{}", spared.text);
    idle.next("drain", |command| matches!(command, Command::Drain(_))).await;
    assert_eq!(cluster.worker("idle").await.idle_code, "draining");
    gpu.finish(token).await;
    let label = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let elsewhere = v1::ScaleInRequest { count: 1, labels: label, dry_run: false };
    assert_eq!(cluster.fleet().scale_in(elsewhere).await.unwrap().into_inner(), v1::ScaleInResponse::default());
    let last = cluster.fleet().scale_in(request(false)).await.unwrap().into_inner();
    assert_eq!(last.drained.len(), 1, "nothing needs it any more");
    cluster.stop().await;
}

#[tokio::test]
async fn an_autoscaler_is_told_as_work_of_its_class_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let mut keda = cluster.keda();
    let (gpu, cpu) = (trigger(&[("class", "gpu")]), trigger(&[("class", "cpu")]));
    let mut stream = keda.stream_is_active(gpu.clone()).await.unwrap().into_inner();
    let next = async |stream: &mut Streaming<IsActiveResponse>| {
        tokio::time::timeout(PATIENCE, stream.message()).await.expect("a word").unwrap().expect("an open stream").result
    };
    assert!(!next(&mut stream).await, "the present state comes first");

    let plain =
        cluster.submit(&format!("[tasks.a]\n{COMMAND}[tasks.b]\n{COMMAND}resources = {{ gpu = \"prefer\" }}\n")).await;
    assert!(keda.is_active(cpu.clone()).await.unwrap().into_inner().result);
    assert!(!keda.is_active(gpu.clone()).await.unwrap().into_inner().result, "CPU work starts no GPU machine");
    let asked = |object: &ScaledObjectRef| GetMetricsRequest {
        scaled_object_ref: Some(object.clone()),
        metric_name: String::new(),
    };
    let value = keda.get_metrics(asked(&cpu)).await.unwrap().into_inner().metric_values.remove(0);
    assert_eq!((value.metric_name.as_str(), value.metric_value), ("segue-cpu", 2));
    cluster.cancel(&plain).await;
    assert!(!keda.is_active(cpu).await.unwrap().into_inner().result);

    cluster.submit(&format!("[tasks.train]\n{COMMAND}resources = {{ gpu = 1 }}\n")).await;
    assert!(next(&mut stream).await, "told when it waits");
    let mut hand = Hand::connect(&cluster, "gpu", 2).await;
    let token = hand.assigned().await;
    let value = keda.get_metrics(asked(&gpu)).await.unwrap().into_inner().metric_values.remove(0);
    assert_eq!(value.metric_value, 1, "what runs wants its worker still");
    let spec = keda.get_metric_spec(gpu.clone()).await.unwrap().into_inner().metric_specs.remove(0);
    assert_eq!((spec.metric_name.as_str(), spec.target_size), ("segue-gpu", 1), "one core, so one at a time");
    hand.finish(token).await;
    assert!(!next(&mut stream).await, "told when it is done");

    let slip = keda.is_active(trigger(&[("class", "gpu"), ("prefers", "true")])).await.unwrap_err();
    assert_eq!(slip.code(), Code::InvalidArgument);
    assert!(slip.message().contains("data/gpu") && slip.message().contains("did you mean `prefer`?"), "{slip}");
    let empty = keda.get_metrics(GetMetricsRequest::default()).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    cluster.stop().await;
    assert!(tokio::time::timeout(PATIENCE, stream.message()).await.is_ok(), "the stream ends with the coordinator");
}

#[tokio::test]
async fn a_scrape_shows_the_queue_by_class_and_what_workers_do() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    cluster.submit(&format!("[tasks.a]\n{COMMAND}[tasks.b]\n{COMMAND}[tasks.c]\n{COMMAND}after = [\"a\"]\n")).await;
    let mut hand = Hand::connect(&cluster, "w", 0).await;
    let token = hand.assigned().await;
    let body = cluster.metrics().await;
    assert!(body.contains("content-type: application/openmetrics-text"), "{body}");
    let label = r#"{work="command",gpu="none",cpu="1",labels=""}"#;
    for line in [
        &*format!("segue_queue_waiting{label} 1"),
        &*format!("segue_queue_running{label} 1"),
        r#"segue_worker_busy{worker="w"} 1"#,
        r#"segue_worker_leased{worker="w",resource="cpu"} 1.0"#,
        r#"segue_runs{state="running"} 1"#,
        "segue_workers_connected 1",
        "segue_runs_active 1",
        "segue_epoch 1",
        "# EOF",
    ] {
        assert!(body.lines().any(|found| found == line), "`{line}` is not in\n{body}");
    }
    hand.finish(token).await;
    let body = cluster.metrics().await;
    let line = r#"segue_attempts_ended_total{outcome="succeeded",class=""} 1"#;
    assert!(body.lines().any(|found| found == line), "`{line}` is not in\n{body}");
    let observed = |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    assert!(observed("segue_placement_seconds_count ").unwrap() > 0, "{body}");
    assert!(observed("segue_commit_seconds_count ").unwrap() > 0, "{body}");
    cluster.stop().await;
}
