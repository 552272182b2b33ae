//! Where things are under a state directory.

use std::path::{Path, PathBuf};

/// A state directory: the store, the blobs (unless they are elsewhere) and the logs of one coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Names a directory; it is made when something in it is opened.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Gives the directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Gives the directory of [`super::SledStore`].
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Gives the root of the local [`crate::blobs::BlobStore`]: blobs are under `blobs/` in it.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.0.clone()
    }

    /// Gives the directory of [`crate::logs::Logs`].
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
}
