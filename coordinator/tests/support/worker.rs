//! A worker made by hand that speaks the whole link: hello with what it holds, heartbeats, reports until they are
//! acknowledged, logs with offsets, blobs before their success, cancels, retracts, drain. What it executes is told by the
//! command line or the operator of the task, and it keeps a journal of every execution.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use segue_proto::{
    ids::Digest,
    operator::{OperatorSpec, ParamSpec, ParamType},
    v1::{self, command::Command, finished::Outcome, worker_event::Event},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::client::Client;

/// What all workers of a test share, whichever coordinator they are connected to.
#[derive(Debug, Default)]
pub struct Shop {
    clock: AtomicU64,
    pub executions: Mutex<Vec<Execution>>,
    /// Whether `slow` commands end by themselves.
    pub quick: AtomicBool,
    /// Assignments beyond what a worker has, and other words of the coordinator that must not be.
    pub faults: Mutex<Vec<String>>,
    /// Values of secrets, by reference, as a worker has them in its environment.
    pub secrets: BTreeMap<String, String>,
}

/// One attempt, as its worker saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    pub token: v1::Token,
    pub worker: String,
    /// When it began, and when it ended or was stopped, on a clock that counts events of all workers.
    pub began: u64,
    pub ended: Option<u64>,
    pub outcome: Option<Outcome>,
    pub acknowledged: bool,
    pub log: Vec<u8>,
}

impl Shop {
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, token: &v1::Token, change: impl FnOnce(&mut Execution)) {
        let mut all = self.executions.lock().unwrap();
        if let Some(found) = all.iter_mut().rev().find(|one| one.token == *token) {
            change(found);
        }
    }
}

/// Gives the operators that the workers of tests have.
pub fn operators() -> Vec<OperatorSpec> {
    vec![
        OperatorSpec::new("model.make", "1", "makes a document of its parameters")
            .optional_input("from", "json", "")
            .output("out", "json", "")
            .param(ParamSpec::default("value", ParamType::String, "x", "")),
        OperatorSpec::new("model.join", "1", "joins documents")
            .joined_input("parts", "json", "")
            .output("out", "json", ""),
        OperatorSpec::new("model.train", "1", "registers a model").impure().output("model", "model", ""),
    ]
}

/// A worker process: an incarnation that comes back to the coordinator until it is stopped.
#[derive(Debug)]
pub struct Worker {
    stop: CancellationToken,
    ended: JoinHandle<()>,
    name: String,
    shop: Arc<Shop>,
}

/// How a worker presents itself.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: String,
    pub incarnation: String,
    pub cpu_milli: u32,
    pub labels: BTreeMap<String, String>,
}

impl Plan {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), incarnation: "a1".to_owned(), cpu_milli: 2_000, labels: BTreeMap::new() }
    }
}

/// Attempts that this incarnation has: by token, until they are acknowledged.
#[derive(Debug, Default)]
struct Hands {
    held: Vec<Piece>,
    /// The link that is open now: what began under an earlier one ends under this one.
    up: Option<mpsc::Sender<v1::WorkerMessage>>,
}

#[derive(Debug)]
struct Piece {
    assign: v1::Assign,
    started: bool,
    stop: CancellationToken,
    finished: Option<v1::Finished>,
}

impl Worker {
    /// Starts it. It connects, and connects again, until it is stopped.
    pub fn start(client: Client, plan: Plan, shop: Arc<Shop>) -> Self {
        let stop = CancellationToken::new();
        let name = format!("{}/{}", plan.name, plan.incarnation);
        let ended = tokio::spawn(live(client, plan, Arc::clone(&shop), stop.clone()));
        Self { stop, ended, name, shop }
    }

    /// Takes it away, as SIGKILL does: nothing is said, and what it executes is gone.
    pub async fn kill(self) {
        self.stop.cancel();
        let _ = self.ended.await;
        let now = self.shop.tick();
        let mut all = self.shop.executions.lock().unwrap();
        let open = all.iter_mut().filter(|execution| execution.worker == self.name && execution.ended.is_none());
        open.for_each(|execution| execution.ended = Some(now));
    }
}

async fn live(client: Client, plan: Plan, shop: Arc<Shop>, stop: CancellationToken) {
    let hands = Arc::new(Mutex::new(Hands::default()));
    while !stop.is_cancelled() {
        let link =
            Link { client: client.clone(), plan: plan.clone(), shop: Arc::clone(&shop), hands: Arc::clone(&hands) };
        tokio::select! {
            () = stop.cancelled() => break,
            goes_on = link.serve() => if !goes_on { break },
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for piece in &hands.lock().unwrap().held {
        piece.stop.cancel();
    }
}

/// One connection of a worker.
#[derive(Clone)]
struct Link {
    client: Client,
    plan: Plan,
    shop: Arc<Shop>,
    hands: Arc<Mutex<Hands>>,
}

fn event(event: Event) -> v1::WorkerMessage {
    v1::WorkerMessage { events: vec![v1::WorkerEvent { event: Some(event) }] }
}

impl Link {
    /// Serves until the link ends. Says whether the worker goes on.
    async fn serve(&self) -> bool {
        let (up, outgoing) = mpsc::channel(256);
        let _ = up.send(event(Event::Hello(self.hello()))).await;
        let Ok(down) = self.client.workers().connect(ReceiverStream::new(outgoing)).await else { return true };
        let mut down = down.into_inner();
        let mut beat = tokio::time::interval(Duration::from_secs(3_600));
        let mut sequence = 0;
        loop {
            let message = tokio::select! {
                message = down.message() => message,
                _ = beat.tick() => {
                    sequence += 1;
                    let beat = v1::Heartbeat { sequence, tokens: self.tokens() };
                    if up.send(event(Event::Heartbeat(beat))).await.is_err() {
                        return true;
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return true };
            for command in message.commands.into_iter().filter_map(|command| command.command) {
                if let Command::Welcome(welcome) = &command {
                    beat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms.max(1).into()));
                }
                if !self.obey(command, &up).await {
                    return false;
                }
            }
        }
    }

    fn tokens(&self) -> Vec<v1::Token> {
        self.hands.lock().unwrap().held.iter().filter_map(|piece| piece.assign.token.clone()).collect()
    }

    fn hello(&self) -> v1::Hello {
        let hands = self.hands.lock().unwrap();
        let held =
            hands.held.iter().map(|piece| v1::Held { token: piece.assign.token.clone(), started: piece.started });
        v1::Hello {
            worker: self.plan.name.clone(),
            incarnation: self.plan.incarnation.clone(),
            version: "0".to_owned(),
            capacity: Some(v1::Resources {
                cpu_milli: self.plan.cpu_milli,
                memory_bytes: 1 << 30,
                ..v1::Resources::default()
            }),
            labels: self.plan.labels.clone(),
            operators: operators().into_iter().map(Into::into).collect(),
            held: held.collect(),
            ..v1::Hello::default()
        }
    }

    async fn obey(&self, command: Command, up: &mpsc::Sender<v1::WorkerMessage>) -> bool {
        match command {
            Command::Welcome(welcome) => {
                for token in &welcome.unknown {
                    self.drop_piece(token);
                }
                // Ends that were not acknowledged are said again. Later ones come on this link.
                let ends: Vec<v1::Finished> = {
                    let mut hands = self.hands.lock().unwrap();
                    hands.up = Some(up.clone());
                    hands.held.iter().filter_map(|piece| piece.finished.clone()).collect()
                };
                for end in ends {
                    let _ = up.send(event(Event::Finished(end))).await;
                }
                self.begin_all(up);
            }
            Command::Assign(assign) => {
                if !assign.ahead {
                    self.check_room(&assign);
                }
                let piece = Piece { assign, started: false, stop: CancellationToken::new(), finished: None };
                self.hands.lock().unwrap().held.push(piece);
                self.begin_all(up);
            }
            Command::Cancel(cancel) => {
                let token = cancel.token.unwrap_or_default();
                {
                    let hands = self.hands.lock().unwrap();
                    let found = hands.held.iter().find(|piece| piece.assign.token.as_ref() == Some(&token));
                    if let Some(piece) = found {
                        piece.stop.cancel();
                    }
                }
                // One that has not begun ends here.
                self.end_unstarted(&token, up).await;
            }
            Command::Retract(retract) => {
                for token in retract.tokens {
                    let taken = {
                        let mut hands = self.hands.lock().unwrap();
                        let of = |piece: &Piece| piece.assign.token.as_ref() == Some(&token) && !piece.started;
                        hands.held.iter().position(of).map(|at| hands.held.remove(at))
                    };
                    if taken.is_some() {
                        let back = v1::HandBack { token: Some(token), started: false };
                        let _ = up.send(event(Event::HandBack(back))).await;
                    }
                }
            }
            Command::FinishedAck(ack) => {
                let token = ack.token.unwrap_or_default();
                self.shop.note(&token, |execution| execution.acknowledged = true);
                self.drop_piece(&token);
                self.begin_all(up);
            }
            Command::HeartbeatAck(ack) => {
                for token in &ack.lost {
                    // What has ended and was not acknowledged yet is said once more by itself.
                    self.drop_piece(token);
                }
                self.begin_all(up);
            }
            Command::Goodbye(goodbye) => return !goodbye.reason.contains("newer start"),
            Command::Drain(_) | Command::LogAck(_) => {}
        }
        true
    }

    /// Notes work that is given although there is no room for it.
    fn check_room(&self, assign: &v1::Assign) {
        let cpu = |assign: &v1::Assign| assign.resources.as_ref().map_or(0, |amounts| amounts.cpu_milli);
        let hands = self.hands.lock().unwrap();
        let open = hands.held.iter().filter(|piece| piece.finished.is_none() && !piece.assign.ahead);
        let used: u32 = open.map(|piece| cpu(&piece.assign)).sum();
        if used + cpu(assign) > self.plan.cpu_milli {
            let text =
                format!("{} was given {} with {used} of {} in use", self.plan.name, cpu(assign), self.plan.cpu_milli);
            self.shop.faults.lock().unwrap().push(text);
        }
    }

    fn drop_piece(&self, token: &v1::Token) {
        let mut hands = self.hands.lock().unwrap();
        if let Some(at) = hands.held.iter().position(|piece| piece.assign.token.as_ref() == Some(token)) {
            let piece = hands.held.remove(at);
            piece.stop.cancel();
            if piece.finished.is_none() && piece.started {
                let now = self.shop.tick();
                self.shop.note(token, |execution| execution.ended = execution.ended.or(Some(now)));
            }
        }
    }

    async fn end_unstarted(&self, token: &v1::Token, up: &mpsc::Sender<v1::WorkerMessage>) {
        let finished = v1::Finished {
            token: Some(token.clone()),
            outcome: Some(Outcome::Cancelled(v1::Cancelled {})),
            ..v1::Finished::default()
        };
        let unstarted = {
            let mut hands = self.hands.lock().unwrap();
            let of = |piece: &&mut Piece| piece.assign.token.as_ref() == Some(token) && !piece.started;
            hands.held.iter_mut().find(of).map(|piece| {
                piece.started = true;
                piece.finished = Some(finished.clone());
            })
        };
        if unstarted.is_some() {
            let _ = up.send(event(Event::Finished(finished))).await;
        }
    }

    /// Begins what there is room for, in the order in which it came.
    fn begin_all(&self, up: &mpsc::Sender<v1::WorkerMessage>) {
        let mut hands = self.hands.lock().unwrap();
        let cpu = |assign: &v1::Assign| assign.resources.as_ref().map_or(0, |amounts| amounts.cpu_milli);
        let running = hands.held.iter().filter(|piece| piece.started && piece.finished.is_none());
        let mut used: u32 = running.map(|piece| cpu(&piece.assign)).sum();
        for piece in hands.held.iter_mut().filter(|piece| !piece.started) {
            if piece.assign.ahead && used + cpu(&piece.assign) > self.plan.cpu_milli {
                break;
            }
            used += cpu(&piece.assign);
            piece.started = true;
            let token = piece.assign.token.clone().unwrap_or_default();
            self.shop.executions.lock().unwrap().push(Execution {
                token,
                worker: format!("{}/{}", self.plan.name, self.plan.incarnation),
                began: self.shop.tick(),
                ended: None,
                outcome: None,
                acknowledged: false,
                log: Vec::new(),
            });
            tokio::spawn(self.clone().execute(piece.assign.clone(), piece.stop.clone(), up.clone()));
        }
    }

    /// Executes one attempt: says that it began, logs, stores what it makes, says how it ended.
    async fn execute(self, assign: v1::Assign, stop: CancellationToken, up: mpsc::Sender<v1::WorkerMessage>) {
        let token = assign.token.clone().unwrap_or_default();
        let _ = up.send(event(Event::Started(v1::Started { token: Some(token.clone()), runner_pid: 1 }))).await;
        let text = format!("{} attempt {}\n", token.task, token.attempt).into_bytes();
        let half = text.len() / 2;
        for (offset, data) in [(0, &text[..half]), (half, &text[half..])] {
            let data = Bytes::copy_from_slice(data);
            let chunk = v1::LogChunk { token: Some(token.clone()), offset: offset as u64, data, lost_before: 0 };
            let _ = up.send(event(Event::Log(chunk))).await;
        }
        let outcome = tokio::select! {
            outcome = self.work(&assign) => outcome,
            () = stop.cancelled() => Outcome::Cancelled(v1::Cancelled {}),
        };
        let finished = v1::Finished {
            token: Some(token.clone()),
            usage: Some(v1::Usage { wall_ms: 1, cpu_ms: 1, peak_memory_bytes: 1 }),
            outcome: Some(outcome.clone()),
            log_bytes: text.len() as u64,
        };
        let (mine, link) = {
            let mut hands = self.hands.lock().unwrap();
            let found = hands.held.iter_mut().find(|piece| piece.assign.token.as_ref() == Some(&token));
            let mine = found.map(|piece| piece.finished = Some(finished.clone())).is_some();
            (mine, hands.up.clone().unwrap_or_else(|| up.clone()))
        };
        let now = self.shop.tick();
        self.shop.note(&token, |execution| {
            execution.ended = execution.ended.or(Some(now));
            execution.log = text;
            if mine {
                execution.outcome = Some(outcome);
            }
        });
        if mine {
            let _ = link.send(event(Event::Finished(finished))).await;
        }
    }

    async fn work(&self, assign: &v1::Assign) -> Outcome {
        let attempt = assign.token.as_ref().map_or(0, |token| token.attempt);
        match assign.work.as_ref() {
            Some(v1::assign::Work::Command(call)) => {
                let words: Vec<&str> = call.argv.iter().map(String::as_str).collect();
                match words.as_slice() {
                    ["flaky", times, ..] if attempt <= times.parse().unwrap_or(0) => failure(v1::FailureClass::Infra),
                    ["fails", ..] => failure(v1::FailureClass::User),
                    ["fails-on", key, ..] if assign.key == *key => failure(v1::FailureClass::Data),
                    ["slow", ..] => {
                        while !self.shop.quick.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        self.outputs(assign, &call.outputs).await
                    }
                    _ => self.outputs(assign, &call.outputs).await,
                }
            }
            Some(v1::assign::Work::Operator(call)) => {
                let outputs = operators().into_iter().find(|known| known.name == call.name).map(|known| known.outputs);
                let ports: Vec<v1::Port> = outputs.unwrap_or_default().into_iter().map(Into::into).collect();
                let mut outcome = self.outputs(assign, &ports).await;
                if let (Outcome::Success(success), "model.train") = (&mut outcome, call.name.as_str()) {
                    let artifact =
                        success.outputs.first().and_then(|output| output.artifact.clone()).unwrap_or_default();
                    success.models.push(v1::ModelRegistration {
                        name: "toy".to_owned(),
                        kind: "kmeans".to_owned(),
                        artifact_digest: artifact.digest,
                        metrics_json: "{\"score\": 1}".to_owned(),
                        aliases: vec!["champion".to_owned()],
                        ..v1::ModelRegistration::default()
                    });
                }
                outcome
            }
            None => failure(v1::FailureClass::User),
        }
    }

    /// Makes every output: a document of what the attempt was told, so that the same work gives the same bytes.
    async fn outputs(&self, assign: &v1::Assign, ports: &[v1::Port]) -> Outcome {
        let mut success = v1::Success { metrics_json: "{\"rows\": 3}".to_owned(), ..v1::Success::default() };
        for port in ports {
            let bytes = self.document(assign, &port.name);
            let message = v1::PutBlobRequest { digest: String::new(), data: bytes.clone().into() };
            while self.client.blobs().put(tokio_stream::iter([message.clone()])).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let artifact = v1::Artifact {
                digest: Digest::of(&bytes).into(),
                size_bytes: bytes.len() as u64,
                kind: port.kind.clone(),
                schema: String::new(),
            };
            if assign.inline.contains(&port.name) {
                success.inline_json.insert(port.name.clone(), bytes.clone().into());
            }
            success.outputs.push(v1::NamedArtifact {
                name: port.name.clone(),
                artifact: Some(artifact),
                key: String::new(),
            });
        }
        Outcome::Success(success)
    }

    fn document(&self, assign: &v1::Assign, output: &str) -> Vec<u8> {
        if let Some(v1::assign::Work::Command(call)) = &assign.work
            && let ["prints", text] = call.argv.iter().map(String::as_str).collect::<Vec<_>>()[..]
        {
            return text.as_bytes().to_vec();
        }
        let params = match &assign.work {
            Some(v1::assign::Work::Operator(call)) => call.params_json.clone(),
            Some(v1::assign::Work::Command(call)) => call.params_json.clone(),
            None => String::new(),
        };
        let inputs: Vec<String> = assign
            .inputs
            .iter()
            .map(|input| format!("{}[{}]={}", input.name, input.key, input.artifact.as_ref().map_or("", |a| &a.digest)))
            .collect();
        let task = assign.token.as_ref().map_or("", |token| &token.task);
        serde_json::json!({ "task": task, "output": output, "params": params, "inputs": inputs, "key": assign.key })
            .to_string()
            .into_bytes()
    }
}

fn failure(class: v1::FailureClass) -> Outcome {
    Outcome::Failure(v1::Failure { class: class.into(), message: "as told".to_owned(), ..v1::Failure::default() })
}
