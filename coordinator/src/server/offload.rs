//! Where work that blocks is done.

use super::error::Error;

/// Where work that blocks is done: reads of the store, files of logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offload {
    /// On the threads that the runtime keeps for it.
    #[default]
    Threads,
    /// At once, where it is asked for: for a cluster that lives in one thread, where nothing may happen in an order that
    /// the system chooses.
    Inline,
}

impl Offload {
    /// Does work that blocks; `what` names it where it breaks off.
    ///
    /// # Errors
    /// [`Error::Internal`] if it panicked.
    pub async fn run<T: Send + 'static>(
        self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        match self {
            Self::Threads => {
                tokio::task::spawn_blocking(work).await.map_err(|e| Error::Internal(format!("{what} ended early: {e}")))
            }
            Self::Inline => Ok(work()),
        }
    }
}
