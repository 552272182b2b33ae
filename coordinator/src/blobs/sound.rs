//! Blobs on a local disk that are what their digest says.

use std::{fs, sync::Arc};

use segue_proto::{blob_key, ids::Digest};

use super::{BlobStore, blocking, local};
use crate::store::Error;

impl BlobStore {
    /// Says whether a blob can be relied on: it is there, it has its size, and its bytes are those of its digest. The
    /// bytes that must be read for it are taken from `budget`; where it does not reach, they are not read. An object store
    /// answers for its own. Blocks.
    #[must_use]
    pub fn is_sound(&self, digest: &Digest, size_bytes: u64, budget: &mut u64) -> bool {
        let Some(root) = self.local_root() else { return true };
        let file = root.join(blob_key(digest));
        if !fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() == size_bytes) {
            return false;
        }
        if self.seen.is_known(digest, &file) {
            return true;
        }
        let Some(left) = budget.checked_sub(size_bytes) else { return true };
        *budget = left;
        matches!(self.seen.other_bytes(digest, &file), Ok(None))
    }

    /// As [`BlobStore::fresh`], for who sends the bytes only where they are not there: gives none for damaged ones too.
    ///
    /// # Errors
    /// Those of [`BlobStore::fresh`].
    pub async fn sound_and_fresh(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let Some(root) = self.local_root() else { return self.fresh(digest).await };
        let (file, digest, seen) = (root.join(blob_key(digest)), digest.clone(), Arc::clone(&self.seen));
        blocking(move || {
            // What cannot be read is stored again.
            if !file.is_file() || !matches!(seen.other_bytes(&digest, &file), Ok(None)) {
                return Ok(None);
            }
            let size = local::touch(&file)?;
            if size.is_some() {
                seen.note(&digest, &file);
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
        if let Some(root) = self.local_root() {
            self.seen.note(digest, &root.join(blob_key(digest)));
        }
        self.stat(digest).await
    }
}
