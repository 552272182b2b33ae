//! A peer made by hand, that says whatever a test wants, and the world it meets: a coordinator with an honest worker.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use segue_coordinator::{
    server::Config,
    store::{MemoryStore, Store},
};
use segue_proto::v1::{self, command::Command, worker_event::Event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::support::{
    PATIENCE,
    client::{Client, until},
    host::{Host, config},
    worker::{Plan, Shop, Worker},
};

/// A coordinator in a directory of its own.
pub struct World {
    pub dir: tempfile::TempDir,
    pub store: Arc<MemoryStore>,
    pub host: Host,
    pub client: Client,
    pub shop: Arc<Shop>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir.path().join("state"));
        change(&mut config);
        let store = Arc::new(MemoryStore::new());
        let host = Host::start(Arc::clone(&store) as Arc<dyn Store>, config, 0).await.unwrap();
        let client = host.client();
        Self { dir, store, host, client, shop: Arc::new(Shop::default()) }
    }

    pub fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    /// Connects an honest worker.
    pub fn worker(&self, name: &str) -> Worker {
        Worker::start(self.client.clone(), Plan::new(name), Arc::clone(&self.shop))
    }

    pub async fn submit(&self, tasks: &str) -> String {
        let text = format!("[pipeline]\nname = \"p\"\n{tasks}");
        let request = v1::SubmitRequest { text, path: "/p.toml".to_owned(), ..v1::SubmitRequest::default() };
        let answer = self.client.runs().submit(request).await.unwrap().into_inner();
        assert!(!answer.run_id.is_empty(), "{:?}", answer.diagnostics);
        answer.run_id
    }

    pub async fn task(&self, run: &str, name: &str) -> v1::TaskView {
        let tasks = self.client.tasks(run).await;
        tasks.into_iter().find(|task| task.name == name).unwrap()
    }

    pub async fn ended(&self, run: &str) -> v1::RunView {
        until(&format!("the end of {run}"), || async {
            let view = self.client.run(run).await;
            if view.ended_ms > 0 { Ok(view) } else { Err(format!("{view:?}")) }
        })
        .await
    }

    /// Shows that the coordinator is well: an honest worker gets a run done.
    pub async fn is_well(&self) {
        // Strangers may still be there, and would be given it.
        let labels = BTreeMap::from([("honest".to_owned(), "yes".to_owned())]);
        let plan = Plan { labels, ..Plan::new("honest") };
        let worker = Worker::start(self.client.clone(), plan, Arc::clone(&self.shop));
        let fine =
            "[tasks.fine]\ncommand = [\"ok\"]\noutputs = [\"out\"]\nresources = { labels = { honest = \"yes\" } }\n";
        let run = self.submit(fine).await;
        let view = self.ended(&run).await;
        assert_eq!(view.state(), v1::RunState::Succeeded, "{view:?}");
        worker.kill().await;
    }

    /// Ends it; the coordinator must still be there, and its store sound.
    pub async fn close(self) {
        self.is_well().await;
        let verified = self.client.admin().verify(v1::VerifyRequest {}).await.unwrap().into_inner();
        assert_eq!(verified.problems, Vec::<String>::new());
        assert!(!self.host.has_ended(), "it has fallen");
        self.host.stop().await.unwrap();
    }
}

/// A worker link whose words are the test's.
pub struct Stranger {
    pub up: mpsc::Sender<v1::WorkerMessage>,
    pub down: Streaming<v1::CoordinatorMessage>,
    waiting: Vec<Command>,
}

pub fn event(event: Event) -> v1::WorkerMessage {
    v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(event) }] }
}

pub fn hello(name: &str, incarnation: &str) -> v1::Hello {
    v1::Hello {
        worker: name.to_owned(),
        incarnation: incarnation.to_owned(),
        capacity: Some(v1::Resources { cpu_milli: 1_000, ..v1::Resources::default() }),
        ..v1::Hello::default()
    }
}

impl Stranger {
    pub async fn open(client: &Client, first: v1::WorkerMessage) -> Result<Self, Status> {
        let (up, outgoing) = mpsc::channel(64);
        up.send(first).await.unwrap();
        let down = client.workers().connect(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { up, down, waiting: Vec::new() })
    }

    pub async fn connect(client: &Client, name: &str) -> Self {
        let mut stranger = Self::open(client, event(Event::Hello(hello(name, "a1")))).await.unwrap();
        stranger.next("welcome", |command| matches!(command, Command::Welcome(_))).await;
        stranger
    }

    pub async fn say(&self, what: Event) {
        self.up.send(event(what)).await.unwrap();
    }

    /// Waits for the next command of a kind; those before it are passed over.
    pub async fn next(&mut self, what: &str, wanted: impl Fn(&Command) -> bool) -> Command {
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

    pub async fn assigned(&mut self) -> v1::Assign {
        match self.next("assignment", |command| matches!(command, Command::Assign(_))).await {
            Command::Assign(assign) => assign,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until everything said before was decided: the answer to a heartbeat comes after it. Gives what is lost.
    pub async fn heard(&mut self, tokens: Vec<v1::Token>) -> Vec<v1::Token> {
        self.say(Event::Heartbeat(v1::Heartbeat { sequence: 77, tokens })).await;
        match self
            .next("heartbeat", |command| matches!(command, Command::HeartbeatAck(ack) if ack.sequence == 77))
            .await
        {
            Command::HeartbeatAck(ack) => ack.lost,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of the link, and gives the reason that was said.
    pub async fn end(&mut self) -> String {
        let mut reason = String::new();
        loop {
            for command in std::mem::take(&mut self.waiting) {
                if let Command::Goodbye(goodbye) = command {
                    reason = goodbye.reason;
                }
            }
            match tokio::time::timeout(PATIENCE, self.down.message()).await.expect("the end of the link") {
                Ok(Some(message)) => {
                    self.waiting = message.commands.into_iter().filter_map(|command| command.command).collect();
                }
                Ok(None) | Err(_) => return reason,
            }
        }
    }
}

pub fn success(token: &v1::Token) -> Event {
    finished(token, v1::finished::Outcome::Success(v1::Success::default()))
}

pub fn finished(token: &v1::Token, outcome: v1::finished::Outcome) -> Event {
    Event::Finished(v1::Finished { token: Some(token.clone()), outcome: Some(outcome), ..v1::Finished::default() })
}

/// Gives the files under a directory.
pub fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] }).collect()
}
