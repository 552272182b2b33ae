//! What other programs talk to: standard health and reflection, HTTP for probes and metrics, and a worker link that bears
//! whatever comes over it.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use segue_proto::v1::{self, TaskState, worker_event::Event, worker_service_client::WorkerServiceClient};
use segue_tests::{TestCluster, WorkerPlan, cluster::task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const LEASE: Duration = Duration::from_secs(20);

fn http(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[test]
fn health_reflection_and_http_answer() {
    let mut cluster = TestCluster::start(LEASE);
    let rpc = cluster.rpc();
    let mut health = HealthClient::new(rpc.channel());
    for service in ["", "segue.v1.RunService"] {
        let asked = HealthCheckRequest { service: service.to_owned() };
        let answer = rpc.wait(health.check(asked)).unwrap().into_inner();
        assert_eq!(answer.status, 1, "`{service}` is serving");
    }
    let unknown = rpc.wait(health.check(HealthCheckRequest { service: "no.Such".to_owned() }));
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);

    let services = rpc.wait(async {
        let mut reflection = ServerReflectionClient::new(rpc.channel());
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    });
    let ours =
        ["RunService", "WorkerService", "BlobService", "LogService", "RegistryService", "AdminService", "EventService"];
    for service in ours {
        assert!(services.contains(&format!("segue.v1.{service}")), "{service} is not in {services:?}");
    }
    assert!(services.contains(&"grpc.health.v1.Health".to_owned()));

    cluster.add_worker(&WorkerPlan::new("only"));
    assert_eq!(http(cluster.http_address(), "/healthz").0, 200);
    assert_eq!(http(cluster.http_address(), "/readyz").0, 200);
    assert_eq!(http(cluster.http_address(), "/absent").0, 404);
    let (status, metrics) = http(cluster.http_address(), "/metrics");
    assert_eq!(status, 200);
    for line in ["segue_workers_connected 1", "segue_runs_active 0", "segue_epoch 1", "# EOF"] {
        assert!(metrics.contains(line), "`{line}` is not in\n{metrics}");
    }
}

/// A worker made by hand.
struct Stranger {
    up: mpsc::Sender<v1::WorkerMessage>,
    down: Streaming<v1::CoordinatorMessage>,
}

fn event(event: Event) -> v1::WorkerMessage {
    v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(event) }] }
}

fn hello(name: &str, incarnation: &str) -> v1::WorkerMessage {
    let capacity = v1::Resources { cpu_milli: 1, ..v1::Resources::default() };
    let hello = v1::Hello {
        worker: name.to_owned(),
        incarnation: incarnation.to_owned(),
        capacity: Some(capacity),
        ..v1::Hello::default()
    };
    event(Event::Hello(hello))
}

impl Stranger {
    /// Opens a link with this as its first message.
    async fn open(cluster: &TestCluster, first: v1::WorkerMessage) -> Result<Self, tonic::Status> {
        let (up, messages) = mpsc::channel(8);
        up.send(first).await.unwrap();
        let mut client = WorkerServiceClient::new(cluster.rpc().channel()).max_encoding_message_size(usize::MAX);
        let down = client.connect(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { up, down })
    }

    /// Waits for the answer to a heartbeat.
    async fn heartbeat_ack(&mut self) -> v1::HeartbeatAck {
        loop {
            let message = self.down.message().await.unwrap().expect("the link is open");
            for command in message.commands {
                if let Some(v1::command::Command::HeartbeatAck(ack)) = command.command {
                    return ack;
                }
            }
        }
    }

    /// Waits for the end of the link.
    async fn end(&mut self) {
        while let Ok(Some(_)) = self.down.message().await {}
    }
}

#[test]
fn a_malformed_message_costs_its_worker_the_link_and_nobody_else_anything() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("honest"));
    let file = cluster.pipeline(
        "honest",
        "[pipeline]\nname = \"honest\"\n[tasks.a]\ncommand = [\"sh\", \"-c\", \"until [ -e go ]; do sleep 0.05; done\"]\n",
    );
    let run = cluster.submit(&file, &[]);
    let running = cluster.wait_task(&run, "a", TaskState::Running);
    let attempt = &running.attempts[0];
    let token = v1::Token { run_id: run.clone(), task: "a".to_owned(), attempt: 1, epoch: attempt.epoch, index: 0 };
    // As real workers name their starts.
    let incarnation = |n: u8| {
        let mut text = attempt.incarnation.clone();
        text.replace_range(text.len() - 1.., &n.to_string());
        text
    };

    // Bytes that are no gRPC at all.
    let mut raw = TcpStream::connect(cluster.grpc_address()).unwrap();
    raw.write_all(&[0xff; 4_096]).unwrap();
    let _ = raw.read_to_end(&mut Vec::new());
    cluster.rpc().wait(async {
        // First messages that are no hello, or none that makes sense.
        let progress = event(Event::Progress(v1::Progress::default()));
        for first in [progress, v1::WorkerMessage::default(), hello("no/name", &incarnation(1)), hello("x", "")] {
            let refused = Stranger::open(&cluster, first).await.err().expect("such a first message is refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        }
        // A message beyond the limit.
        let huge = hello(&"x".repeat(17 << 20), &incarnation(2));
        assert!(Stranger::open(&cluster, huge).await.is_err());
        // A good hello, then a report without a token.
        let mut stranger = Stranger::open(&cluster, hello("stranger", &incarnation(3))).await.unwrap();
        assert!(stranger.down.message().await.unwrap().is_some(), "welcomed");
        stranger.up.send(event(Event::Started(v1::Started::default()))).await.unwrap();
        stranger.end().await;
        // A good hello, then the end of somebody else's attempt: ignored, and the run goes on.
        let mut stranger = Stranger::open(&cluster, hello("thief", &incarnation(4))).await.unwrap();
        assert!(stranger.down.message().await.unwrap().is_some(), "welcomed");
        let outcome = v1::finished::Outcome::Success(v1::Success::default());
        let finished = v1::Finished { token: Some(token.clone()), outcome: Some(outcome), ..v1::Finished::default() };
        stranger.up.send(event(Event::Finished(finished))).await.unwrap();
        // Decided in order: the answer to a heartbeat comes after the decision on what was sent before it.
        let heartbeat = v1::Heartbeat { sequence: 7, tokens: vec![token.clone()] };
        stranger.up.send(event(Event::Heartbeat(heartbeat))).await.unwrap();
        let answer = stranger.heartbeat_ack().await;
        assert_eq!(
            (answer.sequence, answer.lost),
            (7, vec![token.clone()]),
            "it is told that the attempt is not its own"
        );
    });
    let view = cluster.run(&run);
    assert_eq!(task(&view, "a").state(), TaskState::Running, "only its own worker ends an attempt");
    assert!(cluster.coordinator_log().contains("stranger"), "the operator is told\n{}", cluster.coordinator_log());
    fs::write(cluster.dir().join("go"), "").unwrap();
    let view = cluster.wait_succeeded(&run);
    assert_eq!(task(&view, "a").attempts.len(), 1);
    assert!(!cluster.coordinator_log().contains("panicked"));
}
