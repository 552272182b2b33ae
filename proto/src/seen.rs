//! Files whose bytes are known to be those of a digest: read whole once, and then known for as long as nobody touches them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::ids::Digest;

/// Files that are known at a time; then all are forgotten, which costs a second look.
const KNOWN: usize = 100_000;

/// A file as it was when its bytes were known. Any change of its bytes through the file system changes this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &Path) -> io::Result<Self> {
        let info = fs::metadata(file)?;
        let changed = (info.ctime(), info.ctime_nsec());
        Ok(Self { device: info.dev(), inode: info.ino(), size: info.len(), changed })
    }
}

/// What is known of files.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<Digest, Identity>>);

impl Seen {
    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a file that was digested while it was written.
    pub fn note(&self, digest: &Digest, file: &Path) {
        if let Ok(identity) = Identity::of(file) {
            self.remember(digest, identity);
        }
    }

    fn remember(&self, digest: &Digest, identity: Identity) {
        let mut known = self.known();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(digest.clone(), identity);
    }

    /// Says whether nobody has touched a file since its bytes were known.
    #[must_use]
    pub fn is_known(&self, digest: &Digest, file: &Path) -> bool {
        Identity::of(file).is_ok_and(|identity| self.known().get(digest) == Some(&identity))
    }

    /// Gives the digest of a file that holds other bytes than those of `digest`; reads it where it must. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn other_bytes(&self, digest: &Digest, file: &Path) -> io::Result<Option<Digest>> {
        let identity = Identity::of(file)?;
        if self.known().get(digest) == Some(&identity) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(file)?)?;
        let actual = Digest::from(hasher.finalize());
        if actual != *digest {
            return Ok(Some(actual));
        }
        // What was changed while it was read is not known.
        if Identity::of(file)? == identity {
            self.remember(digest, identity);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_was_touched() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("blob");
        fs::write(&file, "bytes").unwrap();
        let (seen, digest) = (Seen::default(), Digest::of(b"bytes"));
        assert!(!seen.is_known(&digest, &file));
        assert_eq!(seen.other_bytes(&digest, &file).unwrap(), None);
        assert!(seen.is_known(&digest, &file));
        // Of the same length, at once, and with the old time of change.
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "bytez").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
        assert_eq!(seen.other_bytes(&digest, &file).unwrap(), Some(Digest::of(b"bytez")));
        assert!(!seen.is_known(&digest, &file));
        fs::remove_file(&file).unwrap();
        assert!(seen.other_bytes(&digest, &file).is_err());
    }
}
