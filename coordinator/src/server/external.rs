//! External inputs: what a path or URL parameter pointed to when the run was submitted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
};

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use segue_proto::ids::Digest;
use tracing::debug;
use url::Url;

use super::error::Error;
use crate::{blobs::BlobStore, core::Run, spec::RunSpec, store::references};

/// Digests every external input that the coordinator can read. One that it cannot read (another machine's disk) is
/// left out: its task runs, but is never served from the cache.
pub async fn digests(spec: &RunSpec) -> BTreeMap<String, String> {
    let places: BTreeSet<String> = spec
        .tasks
        .iter()
        .flat_map(|task| task.path_params.iter().filter_map(|name| task.params.get(name)?.as_str().map(str::to_owned)))
        .collect();
    let mut found = BTreeMap::new();
    for place in places {
        match digest(&place).await {
            Ok(digest) => {
                found.insert(place, digest.to_string());
            }
            Err(e) => debug!(place, error = %e, "external input not readable here: not cached"),
        }
    }
    found
}

/// Keeps the uploaded files that a run names from being collected before its record names them.
///
/// # Errors
/// One of them is not there: it was never uploaded, or nothing has needed it for so long that it was collected.
pub async fn hold_uploads(spec: &RunSpec, blobs: &BlobStore) -> Result<(), Error> {
    for digest in references::uploads(spec.params.values()) {
        if !blobs.hold(&digest).await? {
            return Err(Error::BadRequest(format!(
                "the uploaded file {} is not there (any more): give the file again, as -p NAME=@FILE",
                digest.short()
            )));
        }
    }
    Ok(())
}

/// Gives the digest of what a path parameter of a task pointed to.
#[must_use]
pub fn of_task(run: &Run, task: u32, param: &str) -> Option<String> {
    let place = run.bound(task)?.params.get(param)?.as_str()?;
    run.external_inputs.get(place).cloned()
}

/// Says whether a place is a file that was uploaded with the submission: its digest is its name.
#[must_use]
pub fn is_upload(place: &str) -> bool {
    place.starts_with("blob:")
}

/// Gives the path of a place on a local disk.
#[must_use]
pub fn local_path(place: &str) -> Option<PathBuf> {
    match Url::parse(place) {
        Ok(url) if url.scheme() == "file" => url.to_file_path().ok(),
        _ if is_upload(place) || place.contains("://") => None,
        _ => Some(PathBuf::from(place)),
    }
}

/// Digests what a place has now.
///
/// # Errors
/// It cannot be read from here.
pub async fn digest(place: &str) -> io::Result<Digest> {
    if let Some(hex) = place.strip_prefix("blob:") {
        return hex.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e));
    }
    if let Some(path) = local_path(place) {
        return local(path).await;
    }
    match Url::parse(place) {
        Ok(url) if url.scheme() != "file" => remote(&url).await,
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

async fn local(path: PathBuf) -> io::Result<Digest> {
    tokio::task::spawn_blocking(move || hash_file(&path)).await.map_err(io::Error::other)?
}

fn hash_file(path: &Path) -> io::Result<Digest> {
    let file = File::open(path)?;
    // A pipe or a device would never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().into())
}

async fn remote(url: &Url) -> io::Result<Digest> {
    let (store, path) = object_store::parse_url_opts(url, std::env::vars()).map_err(io::Error::other)?;
    let mut stream = store.get(&path).await.map_err(io::Error::other)?.into_stream();
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = stream.try_next().await.map_err(io::Error::other)? {
        hasher.update(&piece);
    }
    Ok(hasher.finalize().into())
}
