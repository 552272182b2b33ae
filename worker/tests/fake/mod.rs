//! A coordinator in memory: it welcomes, assigns what a test tells it to, acknowledges what the test allows, and notes
//! everything that the worker says.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use segue_proto::{
    ids::Digest,
    resources::Resources,
    v1::{
        self,
        blob_service_server::{BlobService, BlobServiceServer},
        command::Command,
        worker_event::Event,
        worker_service_server::{WorkerService, WorkerServiceServer},
    },
};
use segue_worker::agent::{Error, Machine, WorkerConfig};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// No condition takes this long on a machine that works.
pub const DEADLINE: Duration = Duration::from_secs(30);

type Down = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;
type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
struct State {
    settings: Settings,
    events: Vec<Event>,
    blobs: HashMap<String, Bytes>,
    down: Option<Down>,
    /// Number of the last link.
    link: u64,
    /// Links on which the welcome is on its way: commands may follow it.
    welcomed: usize,
}

/// What the fake does by itself.
#[derive(Clone)]
pub struct Settings {
    pub lease_ms: u32,
    pub answer_heartbeats: bool,
    pub acknowledge_finished: bool,
    pub acknowledge_logs: bool,
    pub refuse_links: bool,
    /// Name held attempts as unknown in the welcome.
    pub forget_held: bool,
    pub blob_url: String,
    pub store_id: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 20_000,
            answer_heartbeats: true,
            acknowledge_finished: true,
            acknowledge_logs: true,
            refuse_links: false,
            forget_held: false,
            blob_url: String::new(),
            store_id: String::new(),
        }
    }
}

/// The fake and the worker that is linked to it.
pub struct Fake {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    address: SocketAddr,
    server: JoinHandle<()>,
    pub home: tempfile::TempDir,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    pub async fn start(settings: Settings) -> Self {
        let state = Arc::new(Mutex::new(State { settings, ..State::default() }));
        let changed = watch::Sender::new(());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service { state: Arc::clone(&state), changed: changed.clone() };
        let server = Server::builder()
            .add_service(WorkerServiceServer::new(service.clone()))
            .add_service(BlobServiceServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { state, changed, address, server, home: tempfile::tempdir().unwrap() }
    }

    pub fn config(&self) -> WorkerConfig {
        WorkerConfig {
            name: "worker-1".parse().unwrap(),
            server: format!("http://{}", self.address),
            machine: Machine::new(
                Resources { cpu_milli: 2000, memory_bytes: 4 << 30, ..Resources::default() },
                Vec::new(),
            ),
            pass_env: Vec::new(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            cache_dir: self.home.path().join("worker"),
            cache_limit_bytes: 1 << 30,
            runner_command: vec![env!("CARGO_BIN_EXE_segue-worker-runner").to_owned()],
            drain_grace: DEADLINE,
            tls: None,
        }
    }

    /// Starts a worker and waits until it is welcome.
    pub async fn worker(&self, config: WorkerConfig) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(segue_worker::agent::run(config, stop.clone()));
        self.hellos(1).await;
        Running { stop, task }
    }

    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.lock().settings);
    }

    pub async fn send(&self, command: Command) {
        let down = self.lock().down.clone().expect("a link is open");
        let message = v1::CoordinatorMessage { commands: vec![v1::Command { command: Some(command) }] };
        down.send(Ok(message)).await.expect("the link takes commands");
    }

    /// Breaks the link as a crash would.
    pub async fn break_link(&self) {
        let down = self.lock().down.take();
        if let Some(down) = down {
            let _ = down.send(Err(Status::unavailable("broken by the test"))).await;
        }
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    pub fn blob(&self, digest: &str) -> Option<Bytes> {
        self.lock().blobs.get(digest).cloned()
    }

    pub fn put(&self, bytes: &[u8]) -> v1::Artifact {
        let digest = Digest::of(bytes);
        self.lock().blobs.insert(digest.to_string(), Bytes::copy_from_slice(bytes));
        v1::Artifact {
            digest: digest.into(),
            size_bytes: bytes.len() as u64,
            kind: "file".into(),
            schema: String::new(),
        }
    }

    /// Waits until the events so far satisfy the test.
    pub async fn wait<T>(&self, what: &str, found: impl Fn(&[Event]) -> Option<T>) -> T {
        self.wait_for_state(what, |state| found(&state.events)).await
    }

    async fn wait_for_state<T>(&self, what: &str, found: impl Fn(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let look = async {
            loop {
                changed.mark_unchanged();
                if let Some(value) = found(&self.lock()) {
                    return value;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(DEADLINE, look).await {
            Ok(value) => value,
            Err(_) => panic!("no {what} in {:#?}", self.events()),
        }
    }

    pub async fn finished(&self, token: &v1::Token) -> v1::Finished {
        self.wait("end", |events| finished(events, token).into_iter().next()).await
    }

    pub async fn started(&self, token: &v1::Token) -> u32 {
        self.wait("start", |events| {
            events.iter().find_map(|e| match e {
                Event::Started(started) if started.token.as_ref() == Some(token) => Some(started.runner_pid),
                _ => None,
            })
        })
        .await
    }

    /// Waits until the worker said hello that often and may be sent commands; gives what it said.
    pub async fn hellos(&self, count: usize) -> Vec<v1::Hello> {
        self.wait_for_state("hello", |state| {
            let hello = |event: &Event| match event {
                Event::Hello(hello) => Some(hello.clone()),
                _ => None,
            };
            (state.welcomed >= count).then(|| state.events.iter().filter_map(hello).collect())
        })
        .await
    }

    /// Puts the log of an attempt together and checks that no byte is missing or twice.
    pub fn log(&self, token: &v1::Token) -> String {
        let mut log: Vec<u8> = Vec::new();
        for event in self.events() {
            if let Event::Log(chunk) = event
                && chunk.token.as_ref() == Some(token)
            {
                assert_eq!(chunk.lost_before, 0, "nothing is lost with so little log");
                let offset = usize::try_from(chunk.offset).unwrap();
                assert!(offset <= log.len(), "a gap before {offset}, {} were there", log.len());
                let overlap = log.len() - offset;
                log.extend(chunk.data.iter().skip(overlap));
            }
        }
        String::from_utf8(log).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Every report of the end of an attempt.
pub fn finished(events: &[Event], token: &v1::Token) -> Vec<v1::Finished> {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Finished(finished) if finished.token.as_ref() == Some(token) => Some(finished.clone()),
            _ => None,
        })
        .collect()
}

/// A worker in this process.
pub struct Running {
    pub stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Drains the worker and waits until it has ended.
    pub async fn drain(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    pub async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(DEADLINE, self.task).await.expect("the worker must end").unwrap()
    }
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl Service {
    /// Notes an event and gives the commands that answer it.
    fn take(&self, event: Event) -> Vec<Command> {
        let mut state = self.state.lock().unwrap();
        let settings = state.settings.clone();
        state.events.push(event.clone());
        drop(state);
        self.changed.send_replace(());
        match event {
            Event::Hello(hello) => {
                let held: Vec<v1::Token> = hello.held.into_iter().filter_map(|held| held.token).collect();
                let (unknown, adopted) = if settings.forget_held { (held, vec![]) } else { (vec![], held) };
                vec![Command::Welcome(v1::Welcome {
                    epoch: 1,
                    lease_ms: settings.lease_ms,
                    heartbeat_ms: settings.lease_ms / 3,
                    blob_url: settings.blob_url,
                    store_id: settings.store_id,
                    unknown,
                    adopted,
                })]
            }
            Event::Heartbeat(beat) if settings.answer_heartbeats => {
                vec![Command::HeartbeatAck(v1::HeartbeatAck { sequence: beat.sequence, lost: vec![] })]
            }
            Event::Finished(finished) if settings.acknowledge_finished => {
                vec![Command::FinishedAck(v1::FinishedAck { token: finished.token })]
            }
            Event::Log(chunk) if settings.acknowledge_logs => {
                vec![Command::LogAck(v1::LogAck { token: chunk.token, offset: chunk.offset + chunk.data.len() as u64 })]
            }
            _ => vec![],
        }
    }
}

#[tonic::async_trait]
impl WorkerService for Service {
    type ConnectStream = Reply<v1::CoordinatorMessage>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (down, commands) = mpsc::channel(64);
        let link = {
            let mut state = self.state.lock().unwrap();
            if state.settings.refuse_links {
                return Err(Status::unavailable("refused by the test"));
            }
            state.down = Some(down.clone());
            state.link += 1;
            state.link
        };
        let service = self.clone();
        let mut up = request.into_inner();
        // The task holds only a weak sender: a link that the test breaks is broken both ways.
        let weak = down.downgrade();
        drop(down);
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                for event in message.events.into_iter().filter_map(|event| event.event) {
                    let is_hello = matches!(event, Event::Hello(_));
                    let commands = service.take(event).into_iter();
                    let commands: Vec<_> = commands.map(|command| v1::Command { command: Some(command) }).collect();
                    let Some(down) = weak.upgrade() else { return };
                    if !commands.is_empty() && down.send(Ok(v1::CoordinatorMessage { commands })).await.is_err() {
                        return;
                    }
                    if is_hello {
                        service.state.lock().unwrap().welcomed += 1;
                        service.changed.send_replace(());
                    }
                }
            }
            // The worker said goodbye: so do we, unless it is back on another link already.
            let mut state = service.state.lock().unwrap();
            if state.link == link {
                state.down = None;
            }
        });
        Ok(Response::new(ReceiverStream::new(commands).boxed()))
    }
}

#[tonic::async_trait]
impl BlobService for Service {
    type GetStream = Reply<v1::GetBlobResponse>;

    async fn put(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let mut stream = request.into_inner();
        let (mut expected, mut bytes) = (String::new(), Vec::new());
        while let Some(piece) = stream.message().await? {
            if expected.is_empty() {
                expected = piece.digest;
            }
            bytes.extend_from_slice(&piece.data);
        }
        let digest = Digest::of(&bytes).to_string();
        if digest != expected {
            return Err(Status::data_loss("the bytes have another digest"));
        }
        let size_bytes = bytes.len() as u64;
        self.state.lock().unwrap().blobs.insert(digest.clone(), bytes.into());
        Ok(Response::new(v1::PutBlobResponse { digest, size_bytes }))
    }

    async fn get(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetStream>, Status> {
        let digest = request.into_inner().digest;
        let blob = self.state.lock().unwrap().blobs.get(&digest).cloned();
        let bytes = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        let size_bytes = bytes.len() as u64;
        let pieces: Vec<_> = bytes
            .chunks(segue_proto::CHUNK_BYTES)
            .map(|piece| Ok(v1::GetBlobResponse { data: Bytes::copy_from_slice(piece), size_bytes }))
            .collect();
        Ok(Response::new(futures::stream::iter(pieces).boxed()))
    }

    async fn stat(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<v1::StatBlobResponse>, Status> {
        let digest = request.into_inner().digest;
        let size = self.state.lock().unwrap().blobs.get(&digest).map(|bytes| bytes.len() as u64);
        Ok(Response::new(v1::StatBlobResponse { present: size.is_some(), size_bytes: size.unwrap_or(0) }))
    }
}
