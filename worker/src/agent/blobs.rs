//! Where the bytes of artifacts are: the store itself where this worker can reach it, the coordinator otherwise.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt as _;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, path::Path as ObjectPath};
use segue_proto::{
    CHUNK_BYTES, FRESH_BLOB, blob_key,
    failure::{Failure, FailureClass},
    ids::Digest,
    seen::Seen,
    v1::{self, blob_service_client::BlobServiceClient},
};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio_util::io::ReaderStream;
use tonic::{Code, Status, transport::Channel};
use url::Url;

use super::{
    backoff::{Backoff, entropy},
    files, room,
};

/// Tries of one transfer. With the delays between them a coordinator has more than a minute to come back; an attempt
/// whose lease passes meanwhile is ended anyway.
const TRIES: u32 = 40;

/// Bytes that arrive with another digest are asked for so often: it was the way, or they are damaged where they are.
const ARRIVALS: u32 = 3;

/// Why a transfer failed, and whether it is worth another try.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{0}")]
    MayPass(String),
    #[error("{0}")]
    Final(String),
    /// What the store has is not the blob.
    #[error("{0}")]
    Lost(String),
    /// The bytes on arrival are not those that were asked for.
    #[error("{0}")]
    Other(String),
    /// The disk that it goes to has no room.
    #[error("{0}")]
    Full(String),
}

impl From<io::Error> for TransferError {
    fn from(error: io::Error) -> Self {
        if room::is_lack(&error) { Self::Full(error.to_string()) } else { Self::Final(error.to_string()) }
    }
}

impl From<Status> for TransferError {
    fn from(status: Status) -> Self {
        let text = format!("{}: {}", status.code(), status.message());
        match status.code() {
            Code::NotFound | Code::DataLoss => Self::Lost(status.message().to_owned()),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                Self::Final(text)
            }
            _ => Self::MayPass(text),
        }
    }
}

impl From<object_store::Error> for TransferError {
    fn from(error: object_store::Error) -> Self {
        // The client has tried again by itself already.
        match error {
            object_store::Error::NotFound { .. } => Self::Lost(error.to_string()),
            error => Self::Final(error.to_string()),
        }
    }
}

/// A way to the blobs.
#[derive(Debug, Clone)]
enum Way {
    /// The store is a directory that this machine sees too.
    Direct(PathBuf),
    /// The store is a bucket that this machine reaches too.
    Bucket(Arc<dyn ObjectStore>, ObjectPath),
    /// Through the coordinator.
    Coordinator,
}

/// The blob store as this worker reaches it.
#[derive(Debug)]
pub struct Blobs {
    client: BlobServiceClient<Channel>,
    way: RwLock<Way>,
    /// Of the store itself.
    seen: Arc<Seen>,
}

impl Blobs {
    /// Goes through the coordinator until a welcome shows a shorter way. The channel must not be the one of the link:
    /// a large blob would hold up the heartbeats.
    pub fn new(channel: Channel) -> Self {
        let client = BlobServiceClient::new(channel)
            .max_decoding_message_size(segue_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(segue_proto::MAX_MESSAGE_BYTES);
        Self { client, way: RwLock::new(Way::Coordinator), seen: Arc::default() }
    }

    /// Chooses the way by what a welcome says.
    pub fn choose(&self, blob_url: &str, store_id: &str) {
        let way = shortest_way(blob_url, store_id);
        tracing::debug!(?way, "way to the blobs chosen");
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = way;
    }

    fn way(&self) -> Way {
        self.way.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the file of a blob in the store itself, where this worker sees it.
    pub fn in_place(&self, digest: &Digest) -> Option<PathBuf> {
        let Way::Direct(root) = self.way() else { return None };
        Some(root.join(blob_key(digest))).filter(|file| file.is_file())
    }

    /// Reads a file of the store, where that has not been done since it was touched last.
    ///
    /// # Errors
    /// A failure of class `data` where its bytes are not those of the digest.
    pub async fn check_in_place(&self, digest: &Digest, file: &Path) -> Result<(), Failure> {
        let (seen, wanted, path) = (Arc::clone(&self.seen), digest.clone(), file.to_owned());
        let read = tokio::task::spawn_blocking(move || seen.other_bytes(&wanted, &path)).await;
        match read.map_err(io::Error::other).and_then(|read| read) {
            Ok(None) => Ok(()),
            Ok(Some(actual)) => Err(Failure::new(
                FailureClass::Data,
                format!("the artifact {digest} is damaged in the blob store: its bytes have the digest {actual}"),
            )),
            Err(e) => {
                let message = format!("cannot read the artifact {} in {}: {e}", digest.short(), file.display());
                Err(Failure::new(FailureClass::Infra, message))
            }
        }
    }

    /// Fetches a blob into a new file and checks it on the way; gives its size.
    ///
    /// # Errors
    /// A failure that names the blob, of class `data` where the store has lost it or has other bytes in its place, and
    /// `infra` otherwise.
    pub async fn fetch(&self, digest: &Digest, to: &Path) -> Result<u64, Failure> {
        again(|| self.fetch_once(digest, to)).await.map_err(|error| {
            let message = format!("cannot fetch the artifact {}: {error}", digest.short());
            match error {
                TransferError::Full(_) => Failure::new(FailureClass::Infra, message).hint(room::MAKE_ROOM),
                TransferError::Lost(_) => Failure::new(FailureClass::Data, message),
                _ => Failure::new(FailureClass::Infra, message),
            }
        })
    }

    async fn fetch_once(&self, digest: &Digest, to: &Path) -> Result<u64, TransferError> {
        let mut file = Checked::create(to).await?;
        match self.way() {
            // The store said that it has the blob, but it was not found in place: the coordinator knows why.
            Way::Direct(_) | Way::Coordinator => {
                let request = v1::GetBlobRequest { digest: digest.to_string() };
                let mut stream = self.client.clone().get(request).await?.into_inner();
                while let Some(piece) = stream.message().await? {
                    file.write(&piece.data).await?;
                }
            }
            Way::Bucket(store, prefix) => {
                let mut stream = store.get(&under(&prefix, digest)?).await?.into_stream();
                while let Some(piece) = stream.next().await {
                    file.write(&piece?).await?;
                }
            }
        }
        file.finish(digest).await
    }

    /// Stores a file as a blob. The file may be moved into the store; nobody may write to it any more.
    ///
    /// # Errors
    /// A failure of class `infra` that names the blob.
    pub async fn store(&self, file: &Path, digest: &Digest, size: u64) -> Result<(), Failure> {
        again(|| self.store_once(file, digest, size)).await.map_err(|error| {
            let message = format!("cannot store the artifact {}: {error}", digest.short());
            let hint = match (&error, self.way()) {
                (TransferError::Full(_), Way::Direct(root)) => {
                    format!(
                        "make room on the disk of the blobs, {}; `segue gc` takes away what nothing needs",
                        root.display()
                    )
                }
                _ => String::new(),
            };
            Failure::new(FailureClass::Infra, message).hint(hint)
        })
    }

    async fn store_once(&self, file: &Path, digest: &Digest, size: u64) -> Result<(), TransferError> {
        match self.way() {
            Way::Direct(root) => {
                let (file, digest) = (file.to_owned(), digest.clone());
                let moved = tokio::task::spawn_blocking(move || files::place(&file, &root, &blob_key(&digest)));
                Ok(moved.await.map_err(|e| TransferError::MayPass(e.to_string()))??)
            }
            Way::Bucket(store, prefix) => {
                let key = under(&prefix, digest)?;
                if store.head(&key).await.is_ok_and(|there| there.size == size && is_fresh(&there)) {
                    return Ok(());
                }
                let mut source = tokio::fs::File::open(file).await?;
                let mut target = object_store::buffered::BufWriter::new(store, key);
                tokio::io::copy(&mut source, &mut target).await?;
                Ok(target.shutdown().await?)
            }
            Way::Coordinator => {
                let request = v1::GetBlobRequest { digest: digest.to_string() };
                let there = self.client.clone().stat(request).await?.into_inner();
                if there.present && there.size_bytes == size {
                    return Ok(());
                }
                let stored = self.client.clone().put(pieces(file, digest).await?).await?.into_inner();
                if stored.digest == digest.as_str() {
                    return Ok(());
                }
                Err(TransferError::MayPass(format!("the coordinator stored other bytes: {}", stored.digest)))
            }
        }
    }
}

/// Cuts a file into the messages of an upload; the first one names the digest, also where the file is empty.
async fn pieces(
    file: &Path,
    digest: &Digest,
) -> io::Result<impl futures::Stream<Item = v1::PutBlobRequest> + Send + 'static> {
    let source = tokio::fs::File::open(file).await?;
    let head = v1::PutBlobRequest { digest: digest.to_string(), data: bytes::Bytes::new() };
    // A read error ends the stream early; the digest then does not fit and the coordinator refuses the blob.
    let body = ReaderStream::with_capacity(source, CHUNK_BYTES)
        .take_while(|piece| std::future::ready(piece.is_ok()))
        .filter_map(|piece| std::future::ready(piece.ok()))
        .map(|data| v1::PutBlobRequest { digest: String::new(), data });
    Ok(futures::stream::iter([head]).chain(body))
}

/// Fetches what an external URL points to through the object_store crate. Gives a key that changes with the content as
/// far as the store tells, and a future that downloads.
///
/// # Errors
/// Class `user` for an address that cannot be, `infra` where the store does not answer.
pub async fn external(url: &Url) -> Result<(Digest, External), Failure> {
    let place = url.as_str();
    let (store, path) = object_store::parse_url_opts(url, store_options()).map_err(|e| {
        Failure::new(FailureClass::User, format!("cannot read {place}: {e}"))
            .hint("use a local path, or s3://BUCKET/KEY")
    })?;
    let meta = store.head(&path).await.map_err(|e| unreadable(place, &e))?;
    let tag = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
    let key = Digest::of(format!("{place}\n{tag}\n{}", meta.size).as_bytes());
    Ok((key, External { store, path, place: place.to_owned() }))
}

/// Something outside that can be downloaded.
#[derive(Debug)]
pub struct External {
    store: Box<dyn ObjectStore>,
    path: ObjectPath,
    place: String,
}

impl External {
    /// Downloads into a new file; gives its size.
    ///
    /// # Errors
    /// Class `infra`.
    pub async fn download(&self, to: &Path) -> Result<u64, Failure> {
        let disk = |e: io::Error| {
            let hint = if room::is_lack(&e) { room::MAKE_ROOM } else { "" };
            Failure::new(FailureClass::Infra, format!("cannot keep {}: {e}", self.place)).hint(hint)
        };
        let mut stream = self.store.get(&self.path).await.map_err(|e| unreadable(&self.place, &e))?.into_stream();
        let mut file = Checked::create(to).await.map_err(disk)?;
        while let Some(piece) = stream.next().await {
            file.write(&piece.map_err(|e| unreadable(&self.place, &e))?).await.map_err(disk)?;
        }
        file.close().await.map(|(_, size)| size).map_err(disk)
    }
}

fn unreadable(place: &str, error: &object_store::Error) -> Failure {
    let class = match error {
        object_store::Error::NotFound { .. } => FailureClass::User,
        _ => FailureClass::Infra,
    };
    Failure::new(class, format!("cannot read {place}: {error}"))
}

fn shortest_way(blob_url: &str, store_id: &str) -> Way {
    let Ok(url) = Url::parse(blob_url) else { return Way::Coordinator };
    if url.scheme() == "file" {
        let Ok(root) = url.to_file_path() else { return Way::Coordinator };
        // The path may exist on this machine and be another store.
        let same = !store_id.is_empty()
            && std::fs::read_to_string(root.join("store-id")).is_ok_and(|found| found.trim() == store_id);
        return if same { Way::Direct(root) } else { Way::Coordinator };
    }
    match object_store::parse_url_opts(&url, store_options()) {
        Ok((store, prefix)) => Way::Bucket(store.into(), prefix),
        Err(error) => {
            tracing::warn!(%error, "the blob store cannot be reached from here, its bytes go through the coordinator");
            Way::Coordinator
        }
    }
}

/// Gives the settings of object stores (AWS_REGION and the like) out of the environment.
fn store_options() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?.to_ascii_lowercase();
        Some((name, value.into_string().ok()?)).filter(|(name, _)| name.starts_with("aws_"))
    })
}

/// Says whether an object was stored so short a while ago that no collection takes it away before the coordinator hears
/// of it. An older one is sent again.
fn is_fresh(object: &ObjectMeta) -> bool {
    let stored = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(stored)) < FRESH_BLOB
}

fn under(prefix: &ObjectPath, digest: &Digest) -> Result<ObjectPath, TransferError> {
    let key = format!("{prefix}/{}", blob_key(digest));
    ObjectPath::parse(key.trim_start_matches('/')).map_err(|e| TransferError::Final(e.to_string()))
}

async fn again<T, F: Future<Output = Result<T, TransferError>>>(
    mut transfer: impl FnMut() -> F,
) -> Result<T, TransferError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut arrivals = 0;
    loop {
        match transfer().await {
            Err(TransferError::Other(reason)) => {
                arrivals += 1;
                if arrivals == ARRIVALS {
                    return Err(TransferError::Lost(reason));
                }
            }
            Err(TransferError::MayPass(reason)) if backoff.failures() < TRIES => {
                tracing::debug!(%reason, "a transfer is tried again");
                tokio::time::sleep(backoff.next(entropy())).await;
            }
            result => return result,
        }
    }
}

/// A file that is hashed while it is written.
struct Checked {
    file: BufWriter<tokio::fs::File>,
    hasher: blake3::Hasher,
    size: u64,
}

impl Checked {
    async fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(CHUNK_BYTES, tokio::fs::File::create(path).await?);
        Ok(Self { file, hasher: blake3::Hasher::new(), size: 0 })
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).await
    }

    async fn close(mut self) -> io::Result<(Digest, u64)> {
        self.file.flush().await?;
        Ok((self.hasher.finalize().into(), self.size))
    }

    async fn finish(self, expected: &Digest) -> Result<u64, TransferError> {
        let (digest, size) = self.close().await?;
        if digest == *expected {
            return Ok(size);
        }
        Err(TransferError::Other(format!("its bytes have the digest {digest} on arrival")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_is_used_directly_only_if_its_id_is_that_of_the_store() {
        let root = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(root.path()).unwrap().to_string();
        assert!(matches!(shortest_way(&url, "abc"), Way::Coordinator), "no id file");
        std::fs::write(root.path().join("store-id"), "abc\n").unwrap();
        assert!(matches!(shortest_way(&url, "abc"), Way::Direct(_)));
        assert!(matches!(shortest_way(&url, "other"), Way::Coordinator));
        assert!(matches!(shortest_way(&url, ""), Way::Coordinator));
        assert!(matches!(shortest_way("", "abc"), Way::Coordinator));
        assert!(matches!(shortest_way("nonsense", "abc"), Way::Coordinator));
    }

    #[tokio::test]
    async fn bytes_of_another_digest_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = Checked::create(&directory.path().join("x")).await.unwrap();
        file.write(b"abc").await.unwrap();
        assert!(file.finish(&Digest::of(b"abd")).await.is_err());
    }

    #[tokio::test]
    async fn an_external_file_is_downloaded_and_its_key_changes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("data.csv");
        std::fs::write(&source, "a,b\n").unwrap();
        let url = Url::from_file_path(&source).unwrap();
        let (before, found) = external(&url).await.unwrap();
        assert_eq!(found.download(&directory.path().join("copy")).await.unwrap(), 4);
        std::fs::write(&source, "a,b,c\n").unwrap();
        assert_ne!(external(&url).await.unwrap().0, before);
        let missing = Url::from_file_path(directory.path().join("no")).unwrap();
        assert_eq!(external(&missing).await.unwrap_err().class, FailureClass::User);
    }
}
