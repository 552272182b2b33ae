//! A worker without link, network and processes: what a coordinator says is obeyed and prepared at once, by the code that a
//! linked worker runs through. The fuzz targets hand it the bytes of a coordinator that is not one.

use std::{path::Path, sync::Arc, time::Duration};

use futures::FutureExt as _;
use segue_proto::{
    failure::Failure,
    ids::{Incarnation, Token},
    operator::{Catalogue, ParamType},
    resources::{Gpu, Resources},
    v1,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{Link, Next, Worker};
use crate::{
    agent::{
        attempt::{Ended, Outcome, Shared},
        blobs::Blobs,
        cache::Cache,
        config::{Error, WorkerConfig},
        held::{State, Why},
        link::{self, LinkEvent, Stream},
        machine::Machine,
    },
    ops,
    runner::{Pool, StopKind},
};

/// What many desks stand on.
#[derive(Debug)]
pub struct Ground {
    runtime: Runtime,
    config: WorkerConfig,
    incarnation: Incarnation,
    shared: Arc<Shared>,
}

impl Ground {
    /// Makes the ground in an empty directory. Nothing listens at the address that it knows.
    ///
    /// # Errors
    /// The directory cannot be used, or the system has no room for a thread.
    pub fn new(name: segue_proto::ids::WorkerName, directory: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Directory { path: directory.to_owned(), source };
        let gpus = vec![Gpu { index: 0, memory_bytes: 1 << 30, name: String::new() }];
        let capacity = Resources { cpu_milli: 4_000, memory_bytes: 1 << 30, ..Resources::default() };
        let config = WorkerConfig {
            name,
            server: "http://127.0.0.1:9".to_owned(),
            machine: Machine::new(capacity, gpus),
            labels: [].into(),
            cache_dir: directory.to_owned(),
            cache_limit_bytes: 1 << 20,
            runner_command: vec!["/bin/false".to_owned()],
            pass_env: Vec::new(),
            drain_grace: Duration::from_secs(1),
            tls: None,
        };
        let runtime = Builder::new_current_thread().build().map_err(Error::Thread)?;
        let shared = {
            let _inside = runtime.enter();
            let scratch = directory.join("attempts");
            std::fs::create_dir_all(&scratch).map_err(unusable)?;
            Shared {
                catalogue: without_addresses(ops::catalogue()),
                cache: Arc::new(Cache::open(directory, config.cache_limit_bytes).map_err(unusable)?),
                blobs: Blobs::new(link::endpoint(&config)?.connect_lazy()),
                pool: Pool::new("/bin/false".to_owned(), Vec::new(), 1, 0).map_err(Error::Thread)?,
                ground: crate::agent::scratch::Ground::new(scratch),
                inherited: [].into(),
                visible_devices: None,
            }
        };
        let incarnation = crate::agent::incarnation();
        Ok(Self { runtime, config, incarnation, shared: Arc::new(shared) })
    }
}

/// Makes paths into plain texts, so that nothing asks the network for what they name.
fn without_addresses(catalogue: Catalogue) -> Catalogue {
    let specs = catalogue.iter().cloned().map(|mut spec| {
        for param in &mut spec.params {
            if param.kind == ParamType::Path {
                param.kind = ParamType::String;
            }
        }
        spec
    });
    specs.collect()
}

/// The worker.
#[derive(Debug)]
pub struct Desk<'a> {
    ground: &'a Ground,
    worker: Worker,
    /// The way up of the link that is open.
    up: mpsc::Receiver<v1::WorkerMessage>,
    running: Vec<(Token, watch::Receiver<StopKind>, Outcome)>,
}

impl<'a> Desk<'a> {
    /// Makes a worker that holds nothing and says hello.
    #[must_use]
    pub fn open(ground: &'a Ground) -> Self {
        let worker = Worker::new(ground.config.clone(), ground.incarnation.clone(), Arc::clone(&ground.shared));
        let mut desk = Self { ground, worker, up: mpsc::channel(1).1, running: Vec::new() };
        desk.link_up();
        desk
    }

    /// Opens a link, as after one that broke.
    pub fn link_up(&mut self) {
        let (messages, up) = mpsc::channel(1);
        self.up = up;
        let _ = self.worker.link_event(LinkEvent::Up(Stream { messages, give_up: CancellationToken::new() }));
    }

    /// Breaks the link.
    pub fn link_down(&mut self) {
        let _ = self.worker.link_event(LinkEvent::Down);
    }

    /// Says whether there is a link, greeted or not.
    #[must_use]
    pub const fn has_link(&self) -> bool {
        !matches!(self.worker.link, Link::Down)
    }

    /// Obeys what the coordinator says; says whether the worker goes on.
    pub fn hear(&mut self, message: v1::CoordinatorMessage) -> bool {
        let _inside = self.ground.runtime.enter();
        !matches!(self.worker.link_event(LinkEvent::Commands(message.commands)), Next::Superseded(_))
    }

    /// Starts what has room: each attempt is prepared as far as that needs nobody else. Gives what was refused.
    pub fn start(&mut self) -> Vec<Failure> {
        let _inside = self.ground.runtime.enter();
        let mut refused = Vec::new();
        while let Some(attempt) = self.worker.take_next() {
            let (token, stop) = (attempt.token.clone(), attempt.stop.clone());
            // What would wait for bytes of others is let be.
            let outcome = match attempt.rehearse().now_or_never() {
                Some(Err(failure)) => {
                    refused.push(failure.clone());
                    Outcome::Failed(failure)
                }
                Some(Ok(())) | None => Outcome::Succeeded(v1::Success::default()),
            };
            self.running.push((token, stop, outcome));
        }
        refused
    }

    /// Ends the attempts that run: those that were told to stop have, the others ended by themselves.
    pub fn end_attempts(&mut self) {
        for (token, stop, outcome) in std::mem::take(&mut self.running) {
            let told = *stop.borrow() != StopKind::GoOn;
            let outcome = if told { Outcome::Stopped } else { outcome };
            self.worker.ended(Ended { token, outcome, usage: v1::Usage::default() });
        }
    }

    /// Takes everything that the worker has to say on its link, the hello first.
    pub fn said(&mut self) -> Vec<v1::WorkerMessage> {
        let mut said: Vec<_> = self.up.try_recv().into_iter().collect();
        while matches!(self.worker.link, Link::Open(_)) {
            let message = self.worker.message();
            if message.events.is_empty() {
                break;
            }
            said.push(message);
        }
        said
    }

    /// Says what does not add up: room that is given out twice or kept for nobody, an attempt that waits nowhere.
    ///
    /// # Errors
    /// The first thing found.
    pub fn check(&self) -> Result<(), String> {
        let mut running: Vec<&Token> = self.running.iter().map(|(token, ..)| token).collect();
        running.sort();
        let mut held = (Vec::new(), Vec::new());
        for (token, attempt) in self.worker.held.all() {
            match &attempt.state {
                State::Running { stop, why } => {
                    if (*why == Why::NotAtAll) != (*stop.borrow() == StopKind::GoOn) {
                        return Err(format!("{token} was told to stop for {why:?}"));
                    }
                    held.0.push(token);
                }
                State::Waiting(_) => held.1.push(token),
                State::Finished(_) => {}
            }
        }
        held.0.sort();
        held.1.sort();
        if held.0 != running {
            return Err(format!("{running:?} run, and {:?} are held as running", held.0));
        }
        self.worker.queue.check(&held.1, &running)
    }
}
