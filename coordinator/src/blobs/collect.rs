//! Blobs that come and go while others use the store: what keeps one from being collected, and how one is.
//!
//! A collection deletes blobs that no record needs. An attempt stores its outputs before any record names them, so a blob
//! that was stored a short while ago stays whatever the records say; and whoever relies on a blob that is there already
//! makes it as good as new first ([`BlobStore::fresh`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use object_store::{ObjectMeta, ObjectStoreExt as _};
use segue_proto::{FRESH_BLOB, blob_key, ids::Digest};

use super::{BlobStore, blocking, local, object_path};
use crate::store::Error;

/// Blobs of an object store stay at least this long: there, nobody can say that an old one is needed again but by
/// sending it again, which is done from half this age on.
pub const LEAST_REMOTE_GRACE: Duration = Duration::from_secs(2 * FRESH_BLOB.as_secs());

impl BlobStore {
    /// Says that a blob is about to be needed: one that is there counts as stored now. Gives its size, or none where it
    /// has to be stored, or stored again.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Blobs`].
    pub async fn fresh(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        if let Some(root) = self.local_root() {
            let file = root.join(blob_key(digest));
            return blocking(move || local::touch(&file)).await;
        }
        match self.objects.head(&object_path(digest)).await {
            Ok(meta) => Ok((age_of(&meta) < FRESH_BLOB).then_some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(e)),
        }
    }

    /// Keeps a blob that was stored earlier from being collected before a record names it; says whether it is there.
    ///
    /// # Errors
    /// As [`BlobStore::put_stream`].
    pub async fn hold(&self, digest: &Digest) -> Result<bool, Error> {
        if self.fresh(digest).await?.is_some() {
            return Ok(true);
        }
        match self.get_stream(digest).await {
            Ok((_, bytes)) => self.put_stream(Some(digest), bytes).await.map(|_| true),
            Err(Error::NoBlob { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes a blob that no record needs, unless it was stored at or after a moment (milliseconds since 1970). Gives
    /// the bytes freed, or none where it stays or was gone.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Blobs`].
    pub async fn collect(&self, digest: &Digest, before_ms: u64) -> Result<Option<u64>, Error> {
        if let Some(root) = self.local_root() {
            let (root, digest) = (root.to_owned(), digest.clone());
            let before = UNIX_EPOCH + Duration::from_millis(before_ms);
            return blocking(move || local::collect(&root, &digest, before)).await;
        }
        // Two requests: what is stored between them is lost. The least grace of an object store makes that somebody who
        // sends the very bytes again in this moment, after nobody has needed them for so long.
        match self.objects.head(&object_path(digest)).await {
            Ok(meta) if written_ms(&meta) < before_ms => {
                self.delete(digest).await?;
                Ok(Some(meta.size))
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(e)),
        }
    }
}

/// Gives the moment at which an object was stored, in milliseconds since 1970.
pub(super) fn written_ms(meta: &ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)
}

fn age_of(meta: &ObjectMeta) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(written_ms(meta)))
}
