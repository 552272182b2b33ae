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

use std::sync::{Arc, Mutex, RwLock};

use segue_proto::{operator::Catalogue, v1};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    actor::{Clock, Handle},
    feed::Ends,
    ids::Ids,
    offers::Offers,
    offload::Offload,
    reread::Unsettled,
};
use crate::{
    blobs::BlobStore,
    gc::Gc,
    logs::Logs,
    spec::Code,
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
    /// What the connected workers offer.
    pub offers: Arc<Mutex<Offers>>,
    /// The operators that a pipeline may use, derived from those.
    pub catalogue: Arc<RwLock<Catalogue>>,
    /// Settings of collections, and whose turn it is.
    pub gc: Arc<Gc>,
    pub clock: Clock,
    pub epoch: u64,
    pub started_ms: u64,
    pub stop: CancellationToken,
    pub feed: Ends,
    /// External inputs that are being digested again.
    pub(crate) unsettled: Unsettled,
    pub offload: Offload,
    pub ids: Ids,
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

    /// Says whether nobody has said yet what workers offer, because this coordinator has only just come back: within a
    /// lease, those that it had are still on their way.
    ///
    /// # Errors
    /// The coordinator is overloaded or stopping.
    pub(crate) async fn awaits_workers(&self) -> Result<bool, super::error::Error> {
        if self.epoch <= 1 || self.operators().iter().next().is_some() {
            return Ok(false);
        }
        let lease_ms = self.handle.read(|core| core.config().lease_ms).await?;
        Ok(self.clock.now() < self.started_ms.saturating_add(lease_ms))
    }

    /// Refuses for the moment what is at fault only because no worker is back yet.
    ///
    /// # Errors
    /// [`super::error::Error::Unavailable`], if an operator is unknown that a worker may be about to offer.
    pub(crate) async fn judge(&self, faults: &[v1::Diagnostic]) -> Result<(), super::error::Error> {
        let unknown = faults.iter().any(|fault| fault.code == Code::UnknownOperator.as_str());
        if unknown && self.awaits_workers().await? {
            let text =
                "the coordinator has just started, and no worker has told it yet which operators there are: try again";
            return Err(super::error::Error::Unavailable(text.to_owned()));
        }
        Ok(())
    }

    /// Changes what workers offer.
    pub(crate) fn offer<T>(&self, change: impl FnOnce(&mut Offers) -> T) -> T {
        let mut offers = self.offers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changed = change(&mut offers);
        // Under the lock, so that the later change is the one that stays.
        *self.catalogue.write().unwrap_or_else(std::sync::PoisonError::into_inner) = offers.catalogue();
        changed
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
        self.offload.run("the check of a pipeline", work).await
    }

    /// Runs a blocking read of the store off the runtime.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, super::error::Error> + Send + 'static,
    ) -> Result<T, super::error::Error> {
        let shared = self.clone();
        self.offload.run("a read of the store", move || work(&shared)).await?
    }
}
