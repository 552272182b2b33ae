//! Blobs that were fetched, kept by digest until room is needed.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::Digest,
    seen::Seen,
};

use super::{files, lru::Lru, room};

type Gate = tokio::sync::Mutex<()>;

/// The cache directory: `blobs` holds whole files by digest, `tmp` those that are still being written.
#[derive(Debug)]
pub struct Cache {
    blobs: PathBuf,
    temporary: PathBuf,
    lru: Mutex<Lru>,
    /// Files whose bytes are known.
    seen: Arc<Seen>,
    /// One gate per digest that is being fetched, so that it is fetched once.
    gates: Mutex<HashMap<Digest, Weak<Gate>>>,
}

/// A cached blob that cannot be evicted while this is alive.
#[derive(Debug)]
pub struct Pinned {
    cache: Arc<Cache>,
    digest: Digest,
    path: PathBuf,
}

impl Pinned {
    /// Gives the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.cache.lru().unpin(&self.digest);
        self.cache.make_room();
    }
}

impl Cache {
    /// Opens a cache directory and takes stock, oldest first.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        let (blobs, temporary) = (directory.join("blobs"), directory.join("tmp"));
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir_all(&temporary)?;
        fs::create_dir_all(&blobs)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&blobs)?.flatten() {
            let name = entry.file_name().into_string().ok().and_then(|name| Digest::try_from(name).ok());
            if let (Some(digest), Ok(info)) = (name, entry.metadata()) {
                found.push((info.modified().ok(), digest, info.len()));
            }
        }
        found.sort();
        let mut lru = Lru::new(limit);
        for (_, digest, size) in found {
            lru.insert(digest, size);
        }
        let cache = Self { blobs, temporary, lru: Mutex::new(lru), seen: Arc::default(), gates: Mutex::default() };
        cache.make_room();
        Ok(cache)
    }

    /// Gives the blob of a digest, fetched by `fetch` if it is not there, or damaged. Whoever else wants it meanwhile waits
    /// and shares.
    ///
    /// # Errors
    /// Those of `fetch`, and class `infra` for those of the disk.
    pub async fn get<F>(self: &Arc<Self>, digest: &Digest, fetch: impl Fn(PathBuf) -> F) -> Result<Pinned, Failure>
    where
        F: Future<Output = Result<u64, Failure>>,
    {
        let gate = self.gate(digest);
        let _turn = gate.lock().await;
        if let Some(pinned) = self.pin(digest) {
            if self.is_good(digest, &pinned.path).await {
                return Ok(pinned);
            }
            tracing::warn!(%digest, file = %pinned.path.display(), "a cached file is damaged (or was fetched from outside by an earlier start) and is fetched again");
        }
        loop {
            let partial = Partial(self.temporary.join(files::temporary_name()));
            match fetch(partial.0.clone()).await {
                Ok(size) => {
                    return self.adopt(&partial.0, digest, size).map_err(|e| {
                        Failure::new(FailureClass::Infra, format!("cannot cache {}: {e}", digest.short()))
                    });
                }
                // The limit may be more than the disk has: what nobody uses is worth less than this. Each round takes
                // something away, so that they end.
                Err(failure) => {
                    let full = room::is_full(&self.temporary);
                    drop(partial);
                    if !full || !self.empty() {
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// Moves a file of known digest into the cache.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt(self: &Arc<Self>, file: &Path, digest: &Digest, size: u64) -> io::Result<Pinned> {
        let path = self.blobs.join(digest.as_str());
        // One lock for all three steps: an eviction between them would take the file away again.
        let mut lru = self.lru();
        fs::rename(file, &path)?;
        self.seen.note(digest, &path);
        lru.insert(digest.clone(), size);
        lru.pin(digest);
        Ok(Pinned { cache: Arc::clone(self), digest: digest.clone(), path })
    }

    /// Says whether a file of the cache still holds its bytes.
    async fn is_good(&self, digest: &Digest, file: &Path) -> bool {
        let (seen, digest, file) = (Arc::clone(&self.seen), digest.clone(), file.to_owned());
        let read = tokio::task::spawn_blocking(move || seen.other_bytes(&digest, &file)).await;
        // One that cannot be read is as bad.
        matches!(read, Ok(Ok(None)))
    }

    fn pin(self: &Arc<Self>, digest: &Digest) -> Option<Pinned> {
        let path = self.blobs.join(digest.as_str());
        let mut lru = self.lru();
        if !path.is_file() {
            lru.remove(digest);
            return None;
        }
        lru.pin(digest).then(|| Pinned { cache: Arc::clone(self), digest: digest.clone(), path })
    }

    /// Removes every blob that is not in use, for a disk that is full; says whether there was one.
    fn empty(&self) -> bool {
        let mut lru = self.lru();
        let unused = lru.unused();
        self.delete(&unused);
        if !unused.is_empty() {
            tracing::warn!(
                blobs = unused.len(),
                directory = %self.blobs.display(),
                "the disk is full: cached blobs that nobody uses were removed"
            );
        }
        !unused.is_empty()
    }

    fn make_room(&self) {
        let mut lru = self.lru();
        let evicted = lru.evict();
        self.delete(&evicted);
    }

    /// Deletes files of blobs that are out of the index. The index must be held: a blob that comes again stays.
    fn delete(&self, digests: &[Digest]) {
        for digest in digests {
            if let Err(error) = fs::remove_file(self.blobs.join(digest.as_str())) {
                tracing::warn!(%error, digest = digest.short(), "a cached blob cannot be removed");
            }
        }
    }

    fn gate(&self, digest: &Digest) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(digest).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(Gate::default());
        gates.insert(digest.clone(), Arc::downgrade(&gate));
        gate
    }

    fn lru(&self) -> MutexGuard<'_, Lru> {
        self.lru.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what an interrupted fetch leaves.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn write(path: PathBuf, bytes: &[u8]) -> Result<u64, Failure> {
        fs::write(path, bytes).unwrap();
        Ok(bytes.len() as u64)
    }

    #[tokio::test]
    async fn concurrent_readers_share_one_fetch() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(directory.path(), 1000).unwrap());
        let digest = Digest::of(b"bytes");
        let fetches = AtomicU32::new(0);
        let get = || {
            cache.get(&digest, async |path| {
                fetches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                write(path, b"bytes").await
            })
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert_eq!(fs::read(a.unwrap().path()).unwrap(), b"bytes");
        assert!(b.is_ok() && c.is_ok());
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failed_fetch_leaves_nothing_and_the_next_one_tries_again() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(directory.path(), 1000).unwrap());
        let digest = Digest::of(b"bytes");
        let failed = cache
            .get(&digest, async |path| {
                write(path, b"by").await?;
                Err(Failure::new(FailureClass::Infra, "cut off"))
            })
            .await;
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
        assert!(cache.get(&digest, |path| write(path, b"bytes")).await.is_ok());
    }

    #[tokio::test]
    async fn a_blob_in_use_stays_and_goes_when_it_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(directory.path(), 3).unwrap());
        let digest = Digest::of(b"bytes");
        let pinned = cache.get(&digest, |path| write(path, b"bytes")).await.unwrap();
        let path = pinned.path().to_owned();
        assert!(path.exists(), "above the limit, but in use");
        drop(pinned);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_blob_that_was_changed_or_cut_behind_our_back_is_fetched_again() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"bytes");
        let file = directory.path().join("blobs").join(digest.as_str());
        for restarted in [false, true] {
            for damage in [&b"bytez"[..], b"byt", b""] {
                let mut cache = Arc::new(Cache::open(directory.path(), 1000).unwrap());
                drop(cache.get(&digest, |path| write(path, b"bytes")).await.unwrap());
                fs::write(&file, damage).unwrap();
                if restarted {
                    cache = Arc::new(Cache::open(directory.path(), 1000).unwrap());
                }
                let got = cache.get(&digest, |path| write(path, b"bytes")).await.unwrap();
                assert_eq!(fs::read(got.path()).unwrap(), b"bytes", "{damage:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_blob_that_was_deleted_behind_our_back_is_fetched_again() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(directory.path(), 1000).unwrap());
        let digest = Digest::of(b"bytes");
        drop(cache.get(&digest, |path| write(path, b"bytes")).await.unwrap());
        fs::remove_file(directory.path().join("blobs").join(digest.as_str())).unwrap();
        assert!(cache.get(&digest, |path| write(path, b"bytes")).await.unwrap().path().exists());
    }
}
