//! Bytes by digest, on a local disk or in an object store: `file://`, `s3://`.
//!
//! A blob is immutable and complete: it appears under its key only when its bytes are stored and their digest is known.
//! On a local disk it is written to a temporary name, synced and renamed, in the layout that `object_store` reads.

mod collect;
mod local;
mod read;
mod sound;

use std::{
    fmt::{self, Display},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, PutPayload, WriteMultipart,
    local::LocalFileSystem, path::Path as ObjectPath, prefix::PrefixStore,
};
use segue_proto::{CHUNK_BYTES, blob_key, ids::Digest, seen::Seen};
use tokio::io::AsyncReadExt as _;

use crate::store::Error;
pub use collect::LEAST_REMOTE_GRACE;
use local::Staged;

/// Above this size an upload to an object store goes in parts.
const ONE_PUT_BYTES: u64 = 8 * 1024 * 1024;

/// Parts of one upload on their way at a time: bounds memory to about 50 MiB.
const PARTS_IN_FLIGHT: usize = 8;

/// A content-addressed store of blobs. Clones share it.
#[derive(Clone)]
pub struct BlobStore {
    objects: Arc<dyn ObjectStore>,
    url: String,
    /// Root on the local disk, where it is there.
    local: Option<PathBuf>,
    store_id: String,
    seen: Arc<Seen>,
}

/// A blob that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// What is behind a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are those that the digest names.
    Good {
        size_bytes: u64,
    },
    Missing,
    /// Bytes are there, but others.
    Wrong {
        actual: Digest,
        size_bytes: u64,
    },
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStore").field("url", &self.url).finish_non_exhaustive()
    }
}

impl BlobStore {
    /// Opens a blob store: a local directory (made where it is missing), or a URL such as `s3://bucket/prefix`, whose
    /// options are taken from the environment (`AWS_ACCESS_KEY_ID` and the like).
    ///
    /// # Errors
    /// [`Error::Directory`] or [`Error::Blobs`] with the place and the reason.
    pub async fn open(location: &str) -> Result<Self, Error> {
        match url::Url::parse(location) {
            Ok(url) if url.scheme() == "file" => match url.to_file_path() {
                Ok(path) => Self::open_local(&path).await,
                Err(()) => Err(blobs_error(location, "a file URL must hold an absolute path")),
            },
            // One letter is a drive, not a scheme.
            Ok(url) if url.scheme().len() > 1 && location.contains("://") => Self::open_remote(&url),
            _ => Self::open_local(Path::new(location)).await,
        }
    }

    /// Opens a blob store under a local directory.
    ///
    /// # Errors
    /// [`Error::Directory`] or [`Error::Io`] with the place and the reason.
    pub async fn open_local(root: &Path) -> Result<Self, Error> {
        let given = root.to_owned();
        let (root, store_id) = blocking(move || local::prepare(&given)).await?;
        Self::at(root, store_id)
    }

    /// Opens what is under a local directory without writing there, as for a backup on a medium that is read-only.
    ///
    /// # Errors
    /// [`Error::Blobs`] if it is no directory.
    pub(crate) fn open_to_read(root: &Path) -> Result<Self, Error> {
        let root = root.canonicalize().map_err(|e| blobs_error(&root.display().to_string(), e))?;
        Self::at(root, String::new())
    }

    fn at(root: PathBuf, store_id: String) -> Result<Self, Error> {
        let objects =
            LocalFileSystem::new_with_prefix(&root).map_err(|e| blobs_error(&root.display().to_string(), e))?;
        let url = url::Url::from_directory_path(&root)
            .map_err(|()| blobs_error(&root.display().to_string(), "the path is not absolute"))?;
        let url = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { objects: Arc::new(objects), url, local: Some(root), store_id, seen: Arc::default() })
    }

    fn open_remote(url: &url::Url) -> Result<Self, Error> {
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            // Nor is the address repeated here.
            let place = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
            let reason = "the address holds a name, a password or options, and every worker is told it: leave them away and \
                          give credentials in the environment (AWS_ACCESS_KEY_ID and the like)";
            return Err(blobs_error(&place, reason));
        }
        // Not `std::env::vars`, which panics on a value that is not Unicode.
        let options = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            name.starts_with("AWS_").then_some((name, value))
        });
        let (scheme, _) = ObjectStoreScheme::parse(url).map_err(|e| blobs_error(url.as_str(), e))?;
        let (objects, prefix) = object_store::parse_url_opts(url, options).map_err(|e| blobs_error(url.as_str(), e))?;
        tracing::debug!(%url, ?scheme, "blob store opened");
        Ok(Self {
            objects: Arc::new(PrefixStore::new(objects, prefix)),
            url: url.as_str().trim_end_matches('/').to_owned(),
            local: None,
            store_id: String::new(),
            seen: Arc::default(),
        })
    }

    /// Takes an object store that is open already; `url` is what workers are told of it.
    #[must_use]
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { objects, url: url.to_owned(), local: None, store_id: String::new(), seen: Arc::default() }
    }

    /// Gives the address, as workers get it: `file:///…` or `s3://…`, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives the content of the file `store-id` under a local root, which proves to a worker that it sees the same
    /// directory; empty for an object store.
    #[must_use]
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// Gives the local root, if it is local.
    #[must_use]
    pub fn local_root(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// Stores bytes that are at hand.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Blobs`].
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<Blob, Error> {
        self.put_stream(None, futures::stream::iter([Ok::<_, Error>(bytes)])).await
    }

    /// Stores the content of a file.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, or [`Error::Blobs`].
    pub async fn put_file(&self, path: &Path) -> Result<Blob, Error> {
        let file = tokio::fs::File::open(path).await.map_err(|e| Error::io("reading", path, e))?;
        let chunks =
            tokio_util::io::ReaderStream::with_capacity(file, CHUNK_BYTES).map_err(|e| Error::io("reading", path, e));
        self.put_stream(None, chunks).await
    }

    /// Stores a stream of bytes, digesting them on their way. With an `expected` digest, other bytes are refused. A
    /// blob that is there already is kept, unless it is damaged. When the future is dropped, nothing has been stored.
    ///
    /// # Errors
    /// [`Error::WrongDigest`], [`Error::Upload`] if the stream gives an error, [`Error::Io`] or [`Error::Blobs`].
    pub async fn put_stream<S, E>(&self, expected: Option<&Digest>, stream: S) -> Result<Blob, Error>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Display,
    {
        // For an object store, too, everything is staged on the local disk first: nothing is sent before the digest
        // has been checked, and without an expected digest there is no key to send it to.
        let mut staged = Staged::create(self.local.as_deref()).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| Error::Upload { reason: e.to_string() })?;
            staged.write(&chunk).await?;
        }
        let blob = staged.finish().await?;
        if let Some(expected) = expected.filter(|&expected| *expected != blob.digest) {
            let what = "the upload".to_owned();
            return Err(Error::WrongDigest { what, expected: expected.clone(), actual: blob.digest });
        }
        if self.sound_and_fresh(&blob.digest).await? == Some(blob.size_bytes) {
            return Ok(blob);
        }
        match &self.local {
            Some(root) => staged.publish(&root.join(blob_key(&blob.digest))).await?,
            None => self.send(&blob, staged.path()).await?,
        }
        Ok(blob)
    }

    /// Sends a staged file to an object store, where it appears when it is complete.
    async fn send(&self, blob: &Blob, staged: &Path) -> Result<(), Error> {
        let key = object_path(&blob.digest);
        let reading = |e| Error::io("reading", staged, e);
        if blob.size_bytes <= ONE_PUT_BYTES {
            let bytes = tokio::fs::read(staged).await.map_err(reading)?;
            self.objects.put(&key, PutPayload::from(bytes)).await.map_err(|e| self.error(e))?;
            return Ok(());
        }
        let upload = self.objects.put_multipart(&key).await.map_err(|e| self.error(e))?;
        let mut upload = WriteMultipart::new(upload);
        let mut file = tokio::fs::File::open(staged).await.map_err(reading)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk).await.map_err(reading)? {
                0 => break,
                length => {
                    upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(|e| self.error(e))?;
                    upload.write(&chunk[..length]);
                }
            }
        }
        upload.finish().await.map(drop).map_err(|e| self.error(e))
    }

    /// Gives the size of a blob, or none if it is not there.
    ///
    /// # Errors
    /// [`Error::Blobs`].
    pub async fn stat(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        match self.objects.head(&object_path(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(e)),
        }
    }

    /// Says whether a blob is there.
    ///
    /// # Errors
    /// [`Error::Blobs`].
    pub async fn exists(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.stat(digest).await?.is_some())
    }

    /// Gives the size of a blob and its bytes in pieces of at most [`CHUNK_BYTES`]. If the bytes turn out not to be
    /// those that the digest names, the last item is [`Error::WrongDigest`].
    ///
    /// # Errors
    /// [`Error::NoBlob`] or [`Error::Blobs`].
    pub async fn get_stream(&self, digest: &Digest) -> Result<(u64, BoxStream<'static, Result<Bytes, Error>>), Error> {
        let found = self
            .objects
            .get_opts(&object_path(digest), GetOptions::default())
            .await
            .map_err(|e| self.missing_or(digest, e))?;
        let size = found.meta.size;
        let url = self.url.clone();
        let chunks = found.into_stream().map_err(move |e| blobs_error(&url, e));
        Ok((size, read::checked(digest.clone(), read::in_pieces(chunks)).boxed()))
    }

    /// Gives a whole blob, checked. For small ones: it is held in memory.
    ///
    /// # Errors
    /// [`Error::NoBlob`], [`Error::WrongDigest`] or [`Error::Blobs`].
    pub async fn get_bytes(&self, digest: &Digest) -> Result<Bytes, Error> {
        let got = self.objects.get(&object_path(digest)).await.map_err(|e| self.missing_or(digest, e))?;
        let bytes = got.bytes().await.map_err(|e| self.error(e))?;
        let actual = Digest::of(&bytes);
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(Error::WrongDigest { what: format!("blob {digest}"), expected: digest.clone(), actual })
        }
    }

    /// Gives some bytes of a blob, from `from` (included) to `to` (excluded, cut at the end). They are not checked:
    /// that would need the rest.
    ///
    /// # Errors
    /// [`Error::NoBlob`] or [`Error::Blobs`].
    pub async fn read_range(&self, digest: &Digest, from: u64, to: u64) -> Result<Bytes, Error> {
        let size =
            self.stat(digest).await?.ok_or_else(|| Error::NoBlob { digest: digest.clone(), url: self.url.clone() })?;
        let to = to.min(size);
        if from >= to {
            return Ok(Bytes::new());
        }
        self.objects.get_range(&object_path(digest), from..to).await.map_err(|e| self.missing_or(digest, e))
    }

    /// Deletes a blob, whoever needs it; a missing one is no error. A collection uses [`BlobStore::collect`].
    ///
    /// # Errors
    /// [`Error::Blobs`].
    pub async fn delete(&self, digest: &Digest) -> Result<(), Error> {
        match self.objects.delete(&object_path(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error(e)),
        }
    }

    /// Lists the blobs, in no order. Other files are passed over.
    pub fn list(&self) -> BoxStream<'static, Result<Blob, Error>> {
        self.list_dated().map_ok(|(blob, _)| blob).boxed()
    }

    /// Lists the blobs, in no order, each with the moment at which it was stored last, in milliseconds since 1970.
    pub fn list_dated(&self) -> BoxStream<'static, Result<(Blob, u64), Error>> {
        let url = self.url.clone();
        self.objects
            .list(Some(&ObjectPath::from("blobs")))
            .filter_map(move |entry| {
                let item = match entry {
                    Ok(meta) => {
                        meta.location.filename().and_then(|name| name.parse().ok()).and_then(|digest: Digest| {
                            // A file in the wrong directory is no blob: nothing would find it.
                            let written_ms = collect::written_ms(&meta);
                            (object_path(&digest) == meta.location)
                                .then_some(Ok((Blob { digest, size_bytes: meta.size }, written_ms)))
                        })
                    }
                    Err(e) => Some(Err(blobs_error(&url, e))),
                };
                std::future::ready(item)
            })
            .boxed()
    }

    /// Reads a blob whole and says whether it is what its digest names.
    ///
    /// # Errors
    /// [`Error::Blobs`] if it cannot be read.
    pub async fn verify_one(&self, digest: &Digest) -> Result<Verdict, Error> {
        let found = match self.objects.get(&object_path(digest)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Verdict::Missing),
            Err(e) => return Err(self.error(e)),
        };
        let mut chunks = found.into_stream();
        let mut hasher = blake3::Hasher::new();
        let mut size_bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| self.error(e))?;
            size_bytes += chunk.len() as u64;
            hasher.update(&chunk);
        }
        let actual = Digest::from(hasher.finalize());
        Ok(if actual == *digest { Verdict::Good { size_bytes } } else { Verdict::Wrong { actual, size_bytes } })
    }

    fn error(&self, e: object_store::Error) -> Error {
        blobs_error(&self.url, e)
    }

    fn missing_or(&self, digest: &Digest, e: object_store::Error) -> Error {
        match e {
            object_store::Error::NotFound { .. } => Error::NoBlob { digest: digest.clone(), url: self.url.clone() },
            e => self.error(e),
        }
    }
}

fn object_path(digest: &Digest) -> ObjectPath {
    ObjectPath::from(blob_key(digest))
}

fn blobs_error(url: &str, reason: impl Display) -> Error {
    Error::Blobs { url: url.to_owned(), reason: reason.to_string() }
}

/// Runs work that blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::Stopped { reason: "work on the disk broke off".to_owned() }))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
