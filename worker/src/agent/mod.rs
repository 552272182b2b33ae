//! The link to the coordinator: register, heartbeat, leases, drain, logs.
//!
//! [`run`] is one worker. A single loop ([`worker`]) owns everything that the worker holds; attempts are tasks beside it
//! and the link is another one. What can be decided without the world is in files of its own: the lease ([`lease`]), the
//! waiting line and the slots ([`queue`]), the bounded log ([`logbuf`]), the cache index ([`lru`]), redaction
//! ([`redact`]), delays ([`backoff`]).

mod attempt;
mod backoff;
mod blobs;
mod cache;
mod config;
mod detect;
mod devices;
mod feed;
mod files;
mod held;
mod inherit;
mod inline;
mod inputs;
mod lease;
mod link;
mod logbuf;
mod lru;
mod machine;
mod queue;
pub(crate) mod redact;
mod room;
mod scratch;
mod secrets;
mod worker;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use segue_proto::ids::Incarnation;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use config::{Error, SUPERSEDED, Tls, WorkerConfig};
pub use detect::detect;
pub use machine::Machine;
#[doc(hidden)]
pub use worker::desk;

use self::{attempt::Shared, blobs::Blobs, cache::Cache, scratch::Ground, worker::Worker};
use crate::{ops, runner::Pool};

/// Idle runners that are kept even on a small machine.
const IDLE_RUNNERS: usize = 2;

/// Runs a worker until it is drained. Cancelling `stop` begins the drain: what has not started is handed back, what runs
/// may finish within the grace. A link that breaks is made again for ever.
///
/// # Errors
/// If the settings or the directory are unusable, or another process took over the name of this worker.
pub async fn run(config: WorkerConfig, stop: CancellationToken) -> Result<(), Error> {
    let endpoint = link::endpoint(&config)?;
    let Some((program, arguments)) = config.runner_command.split_first() else { return Err(Error::NoRunner) };
    let home = Home::open(&config.cache_dir)?;
    let unusable = |source| Error::Directory { path: home.directory.clone(), source };
    let cores = (config.machine.capacity.cpu_milli / 1000).max(1);
    let shared = Arc::new(Shared {
        catalogue: ops::catalogue(),
        cache: Arc::new(Cache::open(&home.directory, config.cache_limit_bytes).map_err(unusable)?),
        blobs: Blobs::new(endpoint.connect_lazy()),
        pool: Pool::new(program.clone(), arguments.to_vec(), cores, IDLE_RUNNERS.max(cores as usize))
            .map_err(Error::Thread)?,
        ground: Ground::new(home.attempts()),
        inherited: inherit::inherited(inherit::own(), &config.pass_env),
        visible_devices: std::env::var(devices::CUDA).ok(),
    });
    // A task of its own, beside those of its attempts: each hand-over between threads costs as much as a short task.
    let worker = tokio::spawn(Worker::new(config, incarnation(), shared).run(endpoint, stop));
    match AbortOnDropHandle::new(worker).await {
        Ok(ended) => ended,
        Err(broken) => match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the runtime ends, and this with it.
            Err(_) => Ok(()),
        },
    }
}

/// The directory of this worker, locked for as long as it runs.
#[derive(Debug)]
struct Home {
    directory: PathBuf,
    _lock: File,
}

impl Home {
    /// Takes the directory and removes what dead incarnations left of their attempts.
    fn open(directory: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(unusable)?;
        // Commands run elsewhere, so that a relative path would lead them astray.
        let directory = fs::canonicalize(directory).map_err(unusable)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(directory.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::DirectoryInUse(directory)),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let home = Self { directory, _lock: lock };
        let fresh = || -> io::Result<()> {
            scratch::remove(&home.attempts())?;
            fs::create_dir_all(home.attempts())
        };
        fresh().map_err(unusable)?;
        Ok(home)
    }

    fn attempts(&self) -> PathBuf {
        self.directory.join("attempts")
    }
}

/// Names this start of the process.
fn incarnation() -> Incarnation {
    format!("{}-{:016x}", std::process::id(), backoff::entropy())
        .parse()
        .expect("digits and a dash name an incarnation")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_workers_cannot_share_a_directory_and_the_rest_of_a_dead_one_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("attempts").join("run_x-task-1");
        fs::create_dir_all(&left).unwrap();
        let home = Home::open(directory.path()).unwrap();
        assert!(!left.exists());
        assert!(matches!(Home::open(directory.path()), Err(Error::DirectoryInUse(_))));
        drop(home);
        assert!(Home::open(directory.path()).is_ok());
    }

    #[test]
    fn every_start_has_its_own_name() {
        assert_ne!(incarnation(), incarnation());
    }
}
