//! The working directory of an attempt: made for it, gone with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::Token,
};

use super::room;

/// A directory that is made when it is needed and removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    made: bool,
}

impl Scratch {
    /// Names the directory of an attempt. Nothing is made yet: many attempts need none.
    pub fn of(root: &Path, token: &Token) -> Self {
        // With the epoch: a coordinator that lost its memory may give the same attempt again while the old one dies.
        // By number and without the key of a child: its brackets would mean something in the patterns of shells.
        let (task, _) = token.task.parts();
        let name = format!("{}-{}-{task}-{}-e{}", token.run, token.index, token.attempt, token.epoch);
        Self { directory: root.join(name), made: false }
    }

    /// Makes the directory, empty, with one for outputs inside.
    ///
    /// # Errors
    /// Class `infra` if the disk refuses.
    pub fn make(&mut self) -> Result<(), Failure> {
        if self.made {
            return Ok(());
        }
        self.made = true;
        let outputs = self.outputs();
        let fresh = || match fs::create_dir(&self.directory) {
            // Something of this name is there, or the directory around it was taken away.
            Err(_) => remove(&self.directory).and_then(|()| fs::create_dir_all(&outputs)),
            Ok(()) => fs::create_dir(&outputs),
        };
        fresh().map_err(|e| {
            Failure::new(FailureClass::Infra, format!("cannot make the directory of the attempt: {e}"))
                .hint(if room::is_lack(&e) { room::MAKE_ROOM } else { "see to the permissions of the worker's directory" })
        })
    }

    /// Gives the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the directory that outputs are written to.
    pub fn outputs(&self) -> PathBuf {
        self.directory.join("outputs")
    }

    /// Gives the file by which a command says that it is alive.
    pub fn heartbeat(&self) -> PathBuf {
        self.directory.join("heartbeat")
    }

    /// Gives the directory that joined inputs are laid out in.
    pub fn inputs(&self) -> PathBuf {
        self.directory.join("inputs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        // Most are empty, and two calls are cheaper than a walk.
        let empty = fs::remove_dir(self.outputs()).and_then(|()| fs::remove_dir(&self.directory));
        if empty.is_err()
            && let Err(error) = remove(&self.directory)
        {
            tracing::warn!(%error, directory = %self.directory.display(), "the directory of an attempt cannot be removed");
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

    fn token(task: &str, index: u32) -> Token {
        Token {
            run: "run_01j8zk5m8w0000000000000000".parse().unwrap(),
            index,
            task: task.parse().unwrap(),
            attempt: 1,
            epoch: 1,
        }
    }

    #[test]
    fn the_directory_of_an_attempt_starts_empty_and_is_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::of(root.path(), &token("task", 0));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is made before it is needed");
        scratch.make().unwrap();
        fs::write(scratch.outputs().join("left"), "over").unwrap();
        let mut again = Scratch::of(root.path(), &token("task", 0));
        again.make().unwrap();
        again.make().unwrap();
        assert_eq!(fs::read_dir(again.outputs()).unwrap().count(), 0);
        fs::write(again.directory().join("left"), "over").unwrap();
        drop(again);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn children_have_directories_of_their_own_whose_names_are_no_patterns() {
        let root = Path::new("/root");
        let (one, other) = (Scratch::of(root, &token("score[eu]", 1)), Scratch::of(root, &token("score[us]", 2)));
        assert_ne!(one.directory(), other.directory());
        assert!(!one.directory().to_string_lossy().contains('['));
    }
}
