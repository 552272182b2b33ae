//! Files for code that reads files, in memory where the system has such a place.

use std::path::{Path, PathBuf};

/// A directory of this process alone.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes a directory.
    #[must_use]
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self(made.expect("a directory for files of a moment"))
    }

    /// Gives the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file.
    #[must_use]
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("a file of a moment");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
