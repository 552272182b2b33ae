//! gRPC handlers: wire to domain, one call, domain to wire.

pub mod admin;
pub mod blobs;
pub mod events;
pub mod fleet;
pub mod keda;
pub mod logs;
pub mod maintenance;
pub mod registry;
pub mod runs;
pub mod schedules;
pub mod worker;

use std::sync::{Arc, RwLock};

use segue_proto::operator::Catalogue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    actor::{Clock, Handle},
    feed::Ends,
};
use crate::{
    blobs::BlobStore,
    gc::Gc,
    logs::Logs,
    store::{Committer, StateDir, Store},
};

/// What every handler needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    pub handle: Handle,
    pub store: Arc<dyn Store>,
    pub committer: Committer,
    pub blobs: BlobStore,
    pub logs: Logs,
    pub state_dir: StateDir,
    /// Operators that workers have advertised since this start.
    pub catalogue: Arc<RwLock<Catalogue>>,
    /// Settings of collections, and whose turn it is.
    pub gc: Arc<Gc>,
    pub clock: Clock,
    pub epoch: u64,
    pub started_ms: u64,
    pub stop: CancellationToken,
    pub feed: Ends,
    /// Texts that are checked at the same time: the largest take seconds and much memory.
    pub checks: Arc<Semaphore>,
}

/// Texts that are checked at the same time.
pub const MOST_CHECKS: usize = 4;

impl Shared {
    /// Gives the operators that workers have advertised.
    #[must_use]
    pub fn operators(&self) -> Catalogue {
        // A poisoned lock still holds a whole catalogue: each change is one assignment.
        self.catalogue.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Checks a text off the runtime, and waits while as many are being checked as may be.
    pub(crate) async fn checking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, super::error::Error> {
        // Never closed.
        let turn = Arc::clone(&self.checks).acquire_owned().await;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| super::error::Error::Internal(format!("the check of a pipeline ended early: {e}")))
    }

    /// Runs a blocking read of the store off the runtime.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, super::error::Error> + Send + 'static,
    ) -> Result<T, super::error::Error> {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|e| super::error::Error::Internal(format!("a read of the store ended early: {e}")))?
    }
}
