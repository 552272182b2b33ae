//! Deliveries to a receiver that listens, by a coordinator over a store on disk.
#![allow(clippy::unwrap_used)]

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap as Headers, http::StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use reqwest::header::HeaderMap;
use segue_proto::{
    store::v1::delivery_record::{Value, WebhookCall, value},
    v1::{self, run_service_client::RunServiceClient},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{HookAllow, World, webhook};
use crate::{
    gc::GcConfig,
    server::{Config, Coordinator, feed},
    store::keys::prefix,
};

/// A request that came.
#[derive(Debug, Clone)]
struct Got {
    id: String,
    timestamp: String,
    signature: String,
    body: Bytes,
}

/// A receiver on a loopback port.
#[derive(Debug)]
struct Receiver {
    port: u16,
    desk: Arc<Desk>,
    came: watch::Receiver<usize>,
    left: watch::Receiver<usize>,
}

#[derive(Debug)]
struct Desk {
    /// Of the next requests, 0 being no answer ever; then 204.
    answers: Mutex<VecDeque<u16>>,
    got: Mutex<Vec<Got>>,
    came: watch::Sender<usize>,
    left: watch::Sender<usize>,
}

/// Notes that a request has ended, also where its sender went away.
struct Leaving(Arc<Desk>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.left.send_modify(|count| *count += 1);
    }
}

async fn take(State(desk): State<Arc<Desk>>, headers: Headers, body: Bytes) -> StatusCode {
    let _leaving = Leaving(Arc::clone(&desk));
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    desk.got.lock().unwrap().push(Got { id, timestamp, signature: header("webhook-signature"), body });
    let answer = desk.answers.lock().unwrap().pop_front().unwrap_or(204);
    desk.came.send_modify(|count| *count += 1);
    if answer == 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::from_u16(answer).unwrap()
}

impl Receiver {
    async fn answering(answers: &[u16]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((came, came_end), (left, left_end)) = (watch::channel(0), watch::channel(0));
        let answers = Mutex::new(answers.iter().copied().collect());
        let desk = Arc::new(Desk { answers, got: Mutex::default(), came, left });
        let router = Router::new().fallback(take).with_state(Arc::clone(&desk));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, desk, came: came_end, left: left_end }
    }

    async fn until_came(&mut self, count: usize) -> Vec<Got> {
        patiently(self.came.wait_for(|came| *came >= count)).await.unwrap();
        self.desk.got.lock().unwrap().clone()
    }
}

/// Fails a test that would hang.
async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("waited in vain")
}

struct Place {
    coordinator: Coordinator,
    runs: RunServiceClient<Channel>,
    stop: CancellationToken,
}

impl Place {
    async fn start(dir: &Path) -> Self {
        let stop = CancellationToken::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let config = Config {
            state_dir: dir.to_owned(),
            blob_url: None,
            lease: Duration::from_secs(60),
            tls: None,
            fires_schedules: false,
            gc: GcConfig::default(),
            openlineage: None,
            hook_allow: HookAllow::default(),
        };
        let coordinator = Coordinator::start(config, listener, None, stop.clone()).await.unwrap();
        let url = format!("http://{}", coordinator.address);
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        Self { coordinator, runs: RunServiceClient::new(channel), stop }
    }

    async fn stop(self) {
        drop(self.runs);
        self.stop.cancel();
        patiently(self.coordinator.wait()).await.unwrap();
    }

    /// Submits a run that nobody can execute, and cancels it.
    async fn cancel_one(&mut self, hook: &str) -> String {
        let text = format!(
            "[pipeline]\nname = \"p\"\n[tasks.a]\ncommand = [\"true\"]\n[[hooks]]\non = [\"cancelled\"]\n{hook}\n"
        );
        let request = v1::SubmitRequest { text, path: "/x/p.toml".to_owned(), ..v1::SubmitRequest::default() };
        let answer = self.runs.submit(request).await.unwrap().into_inner();
        assert!(!answer.run_id.is_empty(), "{:?}", answer.diagnostics);
        let run_id = answer.run_id;
        self.runs
            .cancel_run(v1::CancelRunRequest { run_id: run_id.clone(), ..v1::CancelRunRequest::default() })
            .await
            .unwrap();
        run_id
    }

    fn deliveries(&self) -> usize {
        self.coordinator.shared.store.scan(&prefix::deliveries(), None, 9).unwrap().len()
    }

    /// Waits until nothing waits to be delivered.
    async fn until_delivered(&self) {
        patiently(async {
            while self.deliveries() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    fn gave_up(&self) -> bool {
        let end = *self.coordinator.shared.feed.flushed.borrow();
        let kinds = [v1::EventKind::HookGaveUp.into()].into();
        let filter = feed::Filter { kinds, ..feed::Filter::default() };
        !feed::page(&*self.coordinator.shared.store, 0, end, &filter).unwrap().events.is_empty()
    }
}

fn hook(receiver: &Receiver) -> String {
    let retry = "retry = { attempts = 9, backoff = \"constant\", initial = \"1ms\", max = \"1ms\" }";
    format!("webhook = \"http://127.0.0.1:{}/x\"\ntimeout = \"60s\"\n{retry}", receiver.port)
}

#[tokio::test]
async fn a_receiver_that_fails_is_told_again_until_it_takes_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::answering(&[500, 503]).await;
    let mut place = Place::start(dir.path()).await;
    let run = place.cancel_one(&hook(&receiver)).await;
    let got = receiver.until_came(3).await;
    place.until_delivered().await;
    assert_eq!(got.len(), 3, "two failures and the one that arrived");
    assert!(got.iter().all(|one| one.id == got[0].id && one.body == got[0].body), "a receiver can drop repeats");
    let body: serde_json::Value = serde_json::from_slice(&got[2].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["run"]), (&"run.cancelled".into(), &run.into()));
    assert!(!place.gave_up());
    place.stop().await;
}

#[tokio::test]
async fn a_delivery_that_is_under_way_ends_with_the_coordinator_and_arrives_after_the_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::answering(&[0]).await;
    let mut place = Place::start(dir.path()).await;
    place.cancel_one(&hook(&receiver)).await;
    receiver.until_came(1).await;
    assert_eq!(*receiver.left.borrow(), 0, "it is under way");
    place.stop().await;
    patiently(receiver.left.wait_for(|left| *left == 1)).await.unwrap();
    assert_eq!(*receiver.came.borrow(), 1, "nobody sends anything while there is no coordinator");

    let place = Place::start(dir.path()).await;
    let got = receiver.until_came(2).await;
    place.until_delivered().await;
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].id, got[1].id, "the same message");
    place.stop().await;
    let place = Place::start(dir.path()).await;
    assert_eq!(place.deliveries(), 0, "what has arrived is not sent again");
    place.stop().await;
    assert_eq!(*receiver.came.borrow(), 2);
}

#[tokio::test]
async fn a_command_hook_is_one_run_over_any_number_of_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = Place::start(dir.path()).await;
    place.cancel_one("command = [\"notify\"]").await;
    place.until_delivered().await;
    let list = v1::ListRunsRequest { pipeline: "p-hooks".to_owned(), ..v1::ListRunsRequest::default() };
    for _ in 0..2 {
        let found = place.runs.list_runs(list.clone()).await.unwrap().into_inner().runs;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].state(), v1::RunState::Running, "its process is a worker's, and none is there");
        place.stop().await;
        place = Place::start(dir.path()).await;
    }
    place.stop().await;
}

#[tokio::test]
async fn a_message_is_signed_with_the_key_of_its_hook() {
    const KEY: &[u8] = b"thirty-two bytes of a secret key";
    let mut receiver = Receiver::answering(&[]).await;
    let variable = |name: &str| (name == "SEGUE_HOOK_KEY").then(|| format!("whsec_{}", STANDARD.encode(KEY)));
    let world = World { variable, ..World::new(HookAllow::default()) };
    let url = Value { value: Some(value::Value::Text(format!("http://127.0.0.1:{}/", receiver.port))) };
    let call = WebhookCall {
        url: Some(url),
        secret: "env:SEGUE_HOOK_KEY".to_owned(),
        timeout_ms: 60_000,
        ..WebhookCall::default()
    };
    let event = v1::FeedEvent { offset: 7, time_ms: 1, kind: v1::EventKind::RunFailed.into(), ..Default::default() };
    webhook::send(&world, &call, &event, 0).await.unwrap();
    let got = receiver.until_came(1).await.remove(0);
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(KEY).unwrap();
    mac.update(format!("{}.{}.", got.id, got.timestamp).as_bytes());
    mac.update(&got.body);
    assert_eq!(got.signature, format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));

    let unset = World { variable: |_| None, ..world };
    let failure = webhook::send(&unset, &call, &event, 0).await.unwrap_err();
    assert!(failure.message.contains("SEGUE_HOOK_KEY is not set"), "{failure:?}");
}

#[tokio::test]
async fn a_hook_reaches_only_what_it_may_whatever_its_name_resolves_to() {
    let mut receiver = Receiver::answering(&[]).await;
    let send = async |allow: &[&str], host: &str| {
        let world = World::new(HookAllow::new(allow.iter().copied()).unwrap());
        let url = format!("http://{host}:{}/", receiver.port);
        let posted = world.http.post(&url, HeaderMap::new(), Vec::new(), Duration::from_secs(60));
        posted.await.map_err(|failure| failure.message)
    };
    let refused = Err(format!("cannot be reached: {}", super::allow::NOT_ALLOWED));
    assert_eq!(send(&["hooks.example"], "localhost").await, refused);
    assert_eq!(send(&["hooks.example"], "127.0.0.1").await, refused);
    assert_eq!(send(&[], "169.254.169.254").await, refused);
    assert_eq!(send(&[], "[::ffff:169.254.169.254]").await, refused);
    assert_eq!(send(&[], "0xa9fea9fe").await, refused, "the same address in another writing");
    assert_eq!(send(&["localhost"], "localhost").await, Ok(()));
    assert_eq!(send(&["127.0.0.0/8"], "localhost").await, Ok(()));
    assert_eq!(send(&[], "127.0.0.1").await, Ok(()));
    assert_eq!(receiver.until_came(3).await.len(), 3);
}
