//! Coordinator and worker inside this process: the same code paths as a cluster, over a loopback port.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use segue_coordinator::{
    gc::GcConfig,
    server::{Config, HookAllow},
};
use segue_worker::agent::{self, Machine, WorkerConfig};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    args::RUNNER,
    error::Error,
    ground::{self, Over},
};

/// Lease of workers unless told otherwise: a lost worker is noticed within it.
pub const LEASE: Duration = Duration::from_secs(10);

/// A cluster that lives as long as this command.
#[derive(Debug)]
pub struct Embedded {
    pub url: String,
    state_dir: PathBuf,
    coordinator: JoinHandle<Result<(), segue_coordinator::server::Error>>,
    stop_coordinator: CancellationToken,
    worker: Option<(JoinHandle<Result<(), agent::Error>>, CancellationToken)>,
    /// Waits for the hooks; taken by the one who waits.
    hooks: Option<HooksSettled>,
}

/// Ends when the hooks are done with what is due.
struct HooksSettled(Pin<Box<dyn Future<Output = Result<(), segue_coordinator::server::Error>> + Send>>);

impl std::fmt::Debug for HooksSettled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HooksSettled")
    }
}

/// How long a command waits for hooks once its run has ended.
const HOOKS_PATIENCE: Duration = Duration::from_secs(30);

impl Embedded {
    /// Starts a coordinator on a free loopback port.
    pub async fn coordinator(state_dir: &Path, over: Over) -> Result<Self, Error> {
        let state_dir = absolute(state_dir)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(|e| Error::internal(format!("cannot listen on loopback: {e}")))?;
        let stop = CancellationToken::new();
        let gc = GcConfig { events_for: Some(GcConfig::EVENTS_FOR), ..GcConfig::default() };
        let config = Config {
            state_dir: state_dir.clone(),
            blob_url: None,
            lease: LEASE,
            tls: None,
            fires_schedules: false,
            gc,
            openlineage: None,
            hook_allow: HookAllow::default(),
        };
        let coordinator = ground::start(config, over, listener, None, stop.clone()).await?;
        let url = format!("http://{}", coordinator.address);
        let hooks = Some(HooksSettled(Box::pin(coordinator.hooks_settled())));
        let coordinator = tokio::spawn(coordinator.wait());
        Ok(Self { url, state_dir, coordinator, stop_coordinator: stop, worker: None, hooks })
    }

    /// Adds a worker that offers `machine` and has `labels`, whose commands inherit the variables that `pass_env` names.
    pub fn add_worker(
        &mut self,
        machine: Machine,
        labels: BTreeMap<String, String>,
        pass_env: Vec<String>,
    ) -> Result<(), Error> {
        let name = "local".parse().map_err(|e| Error::internal(format!("worker name: {e}")))?;
        let config = WorkerConfig {
            name,
            server: self.url.clone(),
            machine,
            pass_env,
            labels,
            cache_dir: self.state_dir.join("worker"),
            cache_limit_bytes: CACHE_LIMIT,
            runner_command: runner_command()?,
            drain_grace: Duration::ZERO,
            tls: None,
        };
        let stop = CancellationToken::new();
        self.worker = Some((tokio::spawn(agent::run(config, stop.clone())), stop));
        Ok(())
    }

    /// Waits for a while until the hooks are done with what is due; says whether they are. Without a worker nothing was
    /// executed, and there is nothing to wait for.
    pub async fn finish_hooks(&mut self) -> bool {
        if self.worker.is_none() {
            return true;
        }
        match self.hooks.take() {
            Some(HooksSettled(settled)) => tokio::time::timeout(HOOKS_PATIENCE, settled).await.is_ok(),
            None => true,
        }
    }

    /// Ends worker and coordinator, in this order.
    pub async fn stop(self) -> Result<(), Error> {
        if let Some((worker, stop)) = self.worker {
            stop.cancel();
            match worker.await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Err(Error::internal(format!("the worker failed: {e}"))),
                Err(e) => return Err(Error::internal(format!("the worker ended early: {e}"))),
            }
        }
        self.stop_coordinator.cancel();
        match self.coordinator.await {
            Ok(done) => Ok(done?),
            Err(e) => Err(Error::internal(format!("the coordinator ended early: {e}"))),
        }
    }

    /// Says why the worker has ended by itself, if it has.
    pub async fn worker_error(&mut self) -> Option<Error> {
        let (worker, _) = self.worker.as_mut().filter(|(worker, _)| worker.is_finished())?;
        Some(match worker.await {
            Ok(Err(e)) => Error::internal(format!("the worker failed: {e}")),
            Ok(Ok(())) => Error::internal("the worker stopped"),
            Err(e) => Error::internal(format!("the worker ended early: {e}")),
        })
    }
}

/// Bytes of blobs that a worker keeps.
pub const CACHE_LIMIT: u64 = 20 << 30;

/// Gives the command that starts a runner: this program again.
pub fn runner_command() -> Result<Vec<String>, Error> {
    let program = std::env::current_exe().map_err(|e| Error::internal(format!("cannot find this program: {e}")))?;
    Ok(vec![program.to_string_lossy().into_owned(), RUNNER.to_owned()])
}

/// Makes a path absolute without asking that it exists.
pub fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
}
