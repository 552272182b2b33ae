//! External inputs: what a path or URL parameter pointed to when the run was submitted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use segue_proto::ids::Digest;
use serde_json::{Map, Value};
use tracing::debug;
use url::Url;

use super::error::Error;
use crate::{
    blobs::BlobStore,
    core::Run,
    spec::{BoundTask, RunSpec, child_key, items_of, resolve_child},
    store::references,
};

/// Most children of a run whose files are digested when it is submitted. Those of a fan-out that would exceed it are not,
/// and so never come from the cache: a submission must not read for hours.
pub const MOST_CHILDREN: u64 = 10_000;
/// Files that are read at a time.
const AT_A_TIME: usize = 8;

/// Digests every external input that the coordinator can read. One that it cannot read (another machine's disk) is
/// left out: its task runs, but is never served from the cache. Nothing of this is done by the actor.
pub async fn digests(spec: &RunSpec) -> BTreeMap<String, String> {
    let all: BTreeSet<String> = places(spec).into_iter().flatten().collect();
    let read = |place: String| async move {
        let digest = digest(&place).await;
        (place, digest)
    };
    let mut found = BTreeMap::new();
    let mut reading = std::pin::pin!(futures::stream::iter(all).map(read).buffer_unordered(AT_A_TIME));
    while let Some((place, digest)) = reading.next().await {
        match digest {
            Ok(digest) => drop(found.insert(place, digest.to_string())),
            Err(e) => debug!(place, error = %e, "external input not readable here: not cached"),
        }
    }
    found
}

/// Gives what the path parameters of each task point to, those of its children included where they are known before the
/// run begins and their results may be reused.
#[must_use]
pub fn places(spec: &RunSpec) -> Vec<BTreeSet<String>> {
    let mut left = MOST_CHILDREN;
    let of_children = |task: &BoundTask, left: &mut u64| {
        let items = task.flow.fan_out.as_ref().filter(|_| task.cache).and_then(|fan_out| {
            let items = items_of(&fan_out.over)?;
            Some((fan_out, items))
        });
        let Some((fan_out, items)) = items.filter(|(_, items)| items.len() <= *left) else { return BTreeSet::new() };
        *left -= items.len();
        let child = |(index, item): (usize, Value)| {
            let index = u32::try_from(index).ok()?;
            let key = child_key(fan_out, &item, index).ok()?;
            resolve_child(task, &spec.working_dir, &item, key.as_str(), index).ok()
        };
        // An item that does not fit fails its child, which needs no key then.
        items.iter().enumerate().filter_map(child).flat_map(|child| named(task, &child.params)).collect()
    };
    let of_task = |task: &BoundTask| match (&task.flow.fan_out, task.path_params.is_empty()) {
        (_, true) => BTreeSet::new(),
        (None, false) => named(task, &task.params).collect(),
        // A path that is the same for every child is known whatever the items are.
        (Some(_), false) => named(task, &task.params).chain(of_children(task, &mut left)).collect(),
    };
    spec.tasks.iter().map(of_task).collect()
}

/// Gives the values of the path parameters of a task.
fn named<'t>(task: &'t BoundTask, params: &Map<String, Value>) -> impl Iterator<Item = String> + use<'t> {
    let places: Vec<String> =
        task.path_params.iter().filter_map(|name| params.get(name)?.as_str().map(str::to_owned)).collect();
    places.into_iter()
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

/// Gives the path parameters of a task or child, and what they point to.
#[must_use]
pub fn of_task(run: &Run, index: u32) -> Vec<(String, String)> {
    let Some(bound) = run.bound(index).filter(|bound| !bound.path_params.is_empty()) else { return Vec::new() };
    let own = run.item_of(index).and_then(|item| {
        let (key, dir) = (item.key.as_str(), run.spec.working_dir.as_str());
        resolve_child(bound, dir, &item.value, key, item.ordinal).ok()
    });
    let params = own.as_ref().map_or(&bound.params, |own| &own.params);
    let place = |name: &String| Some((name.clone(), params.get(name)?.as_str()?.to_owned()));
    bound.path_params.iter().filter_map(place).collect()
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

#[cfg(test)]
#[path = "external_tests.rs"]
mod tests;
