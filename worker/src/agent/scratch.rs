//! The working directory of an attempt: made for it, gone with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::Token,
};

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the directory of an attempt, empty, with one for its outputs inside.
    ///
    /// # Errors
    /// Class `infra` if the disk refuses.
    pub fn create(root: &Path, token: &Token) -> Result<Self, Failure> {
        // With the epoch: a coordinator that lost its memory may give the same attempt again while the old one dies.
        let name = format!("{}-{}-{}-e{}", token.run, token.task, token.attempt, token.epoch);
        let scratch = Self(root.join(name));
        let made = remove(&scratch.0).and_then(|()| fs::create_dir_all(scratch.outputs()));
        made.map_err(|e| {
            Failure::new(FailureClass::Infra, format!("cannot make the directory of the attempt: {e}"))
                .hint("see to the space and the permissions of the worker's directory")
        })?;
        Ok(scratch)
    }

    /// Gives the directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Gives the directory that outputs are written to.
    pub fn outputs(&self) -> PathBuf {
        self.0.join("outputs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "the directory of an attempt cannot be removed");
        }
    }
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_directory_of_an_attempt_starts_empty_and_is_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let token = Token {
            run: "run_01j8zk5m8w0000000000000000".parse().unwrap(),
            index: 0,
            task: "task".parse().unwrap(),
            attempt: 1,
            epoch: 1,
        };
        let scratch = Scratch::create(root.path(), &token).unwrap();
        fs::write(scratch.outputs().join("left"), "over").unwrap();
        let again = Scratch::create(root.path(), &token).unwrap();
        assert_eq!(fs::read_dir(again.outputs()).unwrap().count(), 0);
        drop(again);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
