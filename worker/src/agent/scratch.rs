//! The working directories of attempts: empty at their begin, gone or empty again after their end.
//!
//! Most commands leave nothing behind, and making and removing two directories costs as much as a tenth of a short
//! process. So a directory in which nothing was left, and of which nothing was changed, serves the next attempt.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use segue_proto::failure::{Failure, FailureClass};

use super::room;

/// Directories that wait for an attempt; more than any worker runs at a time.
const MOST_FREE: usize = 256;

const OUTPUTS: &str = "outputs";

/// Where the directories are.
#[derive(Debug)]
pub struct Ground {
    root: PathBuf,
    made: AtomicU64,
    free: Mutex<Vec<Spot>>,
}

/// One directory with one for outputs inside.
#[derive(Debug)]
struct Spot {
    directory: PathBuf,
    /// Of both, as they were made; none while they are not there.
    marks: Option<[Marks; 2]>,
}

/// Who may do what in a directory. No attempt takes over what another one changed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
}

/// The directory of one attempt, from its begin until this is dropped.
#[derive(Debug)]
pub struct Scratch {
    ground: Arc<Ground>,
    spot: Spot,
    spoiled: bool,
}

impl Ground {
    /// Uses this directory, in which there is nothing else.
    pub fn new(root: PathBuf) -> Arc<Self> {
        Arc::new(Self { root, made: AtomicU64::new(0), free: Mutex::default() })
    }

    /// Names a directory for an attempt. Nothing is made yet: many attempts need none. Its name is new or was nobody's at
    /// the moment, whatever attempts a coordinator that lost its memory gives again.
    pub fn scratch(self: &Arc<Self>) -> Scratch {
        let free = self.lock().pop();
        let spot = free.unwrap_or_else(|| {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            Spot { directory: self.root.join(number.to_string()), marks: None }
        });
        Scratch { ground: Arc::clone(self), spot, spoiled: false }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spot>> {
        // Nothing in here can panic half way.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for spot in self.lock().drain(..) {
            // The next start removes what cannot be removed now.
            let _ = remove(&spot.directory);
        }
    }
}

impl Spot {
    fn outputs(&self) -> PathBuf {
        self.directory.join(OUTPUTS)
    }

    fn make(&mut self) -> io::Result<()> {
        let outputs = self.outputs();
        match fs::create_dir(&self.directory) {
            Ok(()) => fs::create_dir(&outputs)?,
            // Something of this name is there, or the directory around it was taken away.
            Err(_) => {
                remove(&self.directory)?;
                fs::create_dir_all(&outputs)?;
            }
        }
        self.marks = Some(self.look()?);
        Ok(())
    }

    fn look(&self) -> io::Result<[Marks; 2]> {
        Ok([Marks::of(&self.directory)?, Marks::of(&self.outputs())?])
    }

    /// Says whether both are there as they were made, with nothing in them.
    fn is_as_made(&self) -> bool {
        let look = || -> io::Result<bool> {
            if Some(self.look()?) != self.marks {
                return Ok(false);
            }
            let mut entries = fs::read_dir(&self.directory)?;
            let only = entries.next().transpose()?.is_some_and(|entry| entry.file_name() == OUTPUTS);
            Ok(only && entries.next().is_none() && fs::read_dir(self.outputs())?.next().is_none())
        };
        look().unwrap_or(false)
    }
}

impl Marks {
    fn of(directory: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(directory)?;
        Ok(Self { inode: found.ino(), mode: found.mode(), owner: (found.uid(), found.gid()) })
    }
}

impl Scratch {
    /// Makes the directory, empty, with one for outputs inside.
    ///
    /// # Errors
    /// Class `infra` if the disk refuses.
    pub fn make(&mut self) -> Result<(), Failure> {
        if self.spot.marks.is_some() {
            return Ok(());
        }
        self.spot.make().map_err(|e| {
            self.spoiled = true;
            Failure::new(FailureClass::Infra, format!("cannot make the directory of the attempt: {e}")).hint(
                if room::is_lack(&e) { room::MAKE_ROOM } else { "see to the permissions of the worker's directory" },
            )
        })
    }

    /// Notes that something may still be at work in it: no other attempt gets it.
    pub const fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Gives the directory.
    pub fn directory(&self) -> &Path {
        &self.spot.directory
    }

    /// Gives the directory that outputs are written to.
    pub fn outputs(&self) -> PathBuf {
        self.spot.outputs()
    }

    /// Gives the file by which a command says that it is alive.
    pub fn heartbeat(&self) -> PathBuf {
        self.spot.directory.join("heartbeat")
    }

    /// Gives the directory that joined inputs are laid out in.
    pub fn inputs(&self) -> PathBuf {
        self.spot.directory.join("inputs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let directory = std::mem::take(&mut self.spot.directory);
        let spot = Spot { directory, marks: self.spot.marks.take() };
        let is_clean = !self.spoiled && (spot.marks.is_none() || spot.is_as_made());
        if !is_clean {
            if let Err(error) = remove(&spot.directory) {
                tracing::warn!(%error, directory = %spot.directory.display(), "the directory of an attempt cannot be removed");
            }
            return;
        }
        let mut free = self.ground.lock();
        if free.len() < MOST_FREE {
            free.push(spot);
            return;
        }
        drop(free);
        let _ = remove(&spot.directory);
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn ground() -> (tempfile::TempDir, Arc<Ground>) {
        let root = tempfile::tempdir().unwrap();
        let ground = Ground::new(root.path().join("attempts"));
        (root, ground)
    }

    fn made(ground: &Arc<Ground>) -> Scratch {
        let mut scratch = ground.scratch();
        scratch.make().unwrap();
        scratch
    }

    #[test]
    fn a_directory_in_which_nothing_was_left_serves_the_next_attempt() {
        let (root, ground) = ground();
        assert!(!ground.scratch().directory().exists(), "nothing is made before it is needed");
        let first = made(&ground);
        let inode = Marks::of(first.directory()).unwrap().inode;
        let beside = made(&ground);
        assert_ne!(first.directory(), beside.directory(), "two at a time have two");
        drop(first);
        let next = made(&ground);
        assert_eq!(Marks::of(next.directory()).unwrap().inode, inode);
        drop((next, beside));
        drop(ground);
        assert_eq!(fs::read_dir(root.path().join("attempts")).unwrap().count(), 0);
    }

    #[test]
    fn whatever_an_attempt_leaves_or_changes_the_next_one_begins_empty() {
        let (_root, ground) = ground();
        let leavings: [fn(&Scratch); 8] = [
            |scratch| fs::write(scratch.directory().join("left"), "over").unwrap(),
            |scratch| fs::write(scratch.directory().join(".hidden"), "").unwrap(),
            |scratch| fs::write(scratch.outputs().join("left"), "over").unwrap(),
            |scratch| fs::create_dir(scratch.inputs()).unwrap(),
            |scratch| fs::remove_dir(scratch.outputs()).unwrap(),
            |scratch| fs::set_permissions(scratch.directory(), fs::Permissions::from_mode(0o500)).unwrap(),
            |scratch| fs::set_permissions(scratch.outputs(), fs::Permissions::from_mode(0o777)).unwrap(),
            |scratch| {
                fs::remove_dir(scratch.outputs()).unwrap();
                std::os::unix::fs::symlink("/", scratch.outputs()).unwrap();
            },
        ];
        for (case, leave) in leavings.iter().enumerate() {
            let scratch = made(&ground);
            let before = scratch.directory().to_owned();
            leave(&scratch);
            drop(scratch);
            assert!(!before.exists(), "case {case}: the directory is gone");
            let next = made(&ground);
            assert!(next.spot.is_as_made(), "case {case}");
        }
    }

    #[test]
    fn a_directory_in_which_something_may_still_be_at_work_is_nobody_elses() {
        let (_root, ground) = ground();
        let mut scratch = made(&ground);
        let before = scratch.directory().to_owned();
        scratch.spoil();
        drop(scratch);
        assert_ne!(ground.scratch().directory(), before);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_a_failure_that_says_where_to_look() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("attempts");
        fs::write(&file, "no directory").unwrap();
        let failure = Ground::new(file).scratch().make().unwrap_err();
        assert_eq!(failure.class, FailureClass::Infra);
        assert!(failure.hint.contains("directory"), "{failure:?}");
    }
}
