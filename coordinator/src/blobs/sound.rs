//! Blobs on a local disk that are what their digest says: read whole once, and then known by their file, for as long as
//! nobody touches it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use segue_proto::{blob_key, ids::Digest};

use super::{BlobStore, blocking, local};
use crate::store::Error;

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
        let meta = fs::metadata(file)?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), changed })
    }
}

/// What is known of files.
#[derive(Debug, Default)]
pub(super) struct Sound(Mutex<HashMap<Digest, Identity>>);

impl Sound {
    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, digest: &Digest, identity: Identity) {
        let mut known = self.known();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(digest.clone(), identity);
    }

    /// Says whether a file holds the bytes of a digest, reading it where it must.
    fn is_good(&self, digest: &Digest, file: &Path, longest: u64) -> io::Result<bool> {
        let identity = Identity::of(file)?;
        if identity.size > longest || self.known().get(digest) == Some(&identity) {
            return Ok(true);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(file)?)?;
        let good = Digest::from(hasher.finalize()) == *digest;
        // What was changed while it was read is not known.
        if good && Identity::of(file)? == identity {
            self.note(digest, identity);
        }
        Ok(good)
    }
}

impl BlobStore {
    /// Says whether a blob can be relied on: it is there, it has its size, and its bytes are those of its digest. The
    /// bytes of one that is larger than `longest` are not read; an object store answers for its own. Blocks.
    #[must_use]
    pub fn is_sound(&self, digest: &Digest, size_bytes: u64, longest: u64) -> bool {
        let Some(root) = self.local_root() else { return true };
        let file = root.join(blob_key(digest));
        let there = fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() == size_bytes);
        there && self.sound.is_good(digest, &file, longest).unwrap_or(false)
    }

    /// As [`BlobStore::fresh`], for who sends the bytes only where they are not there: gives none for damaged ones too.
    ///
    /// # Errors
    /// Those of [`BlobStore::fresh`].
    pub async fn sound_and_fresh(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let Some(root) = self.local_root() else { return self.fresh(digest).await };
        let (file, digest, sound) = (root.join(blob_key(digest)), digest.clone(), Arc::clone(&self.sound));
        blocking(move || {
            // What cannot be read is stored again.
            let good = file.is_file() && sound.is_good(&digest, &file, u64::MAX).unwrap_or(false);
            if !good {
                return Ok(None);
            }
            let size = local::touch(&file)?;
            if let (Some(_), Ok(identity)) = (size, Identity::of(&file)) {
                sound.note(&digest, identity);
            }
            Ok(size)
        })
        .await
    }

    /// Gives the size of a blob that was stored and digested a moment ago, or none if it is not there: it is known from
    /// now on.
    ///
    /// # Errors
    /// Those of [`BlobStore::stat`].
    pub async fn just_stored(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        if let Some(root) = self.local_root()
            && let Ok(identity) = Identity::of(&root.join(blob_key(digest)))
        {
            self.sound.note(digest, identity);
        }
        self.stat(digest).await
    }
}
