//! The local side: the root directory, and files that appear whole or not at all.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use segue_proto::ids::Digest;
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{Blob, blocking};
use crate::store::{
    Error,
    durable::{make_dir, sync_dir, unusable, write_file},
};

/// Names the store, so that a worker can tell whether it sees the same directory.
const ID_FILE: &str = "store-id";

/// Unfinished uploads, on the same file system as the blobs, so that a rename is enough.
const STAGING: &str = "staging";

/// Begins the name, in the staging directory, of a blob that is being collected; its digest follows.
const ASIDE: &str = "collect-";

/// A staged file of this age was left by a process that died: no upload takes a day.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Makes the root, gives it an id where it has none, and removes what dead uploads left.
pub(super) fn prepare(root: &Path) -> Result<(PathBuf, String), Error> {
    make_dir(root)?;
    let root = root.canonicalize().map_err(|e| unusable(root, &e))?;
    for dir in [root.join("blobs"), root.join(STAGING)] {
        make_dir(&dir)?;
    }
    sync_dir(&root)?;
    let id_file = root.join(ID_FILE);
    let id = match fs::read(&id_file) {
        // Another id in its place is as good: workers are told it, and compare it with the file.
        Ok(bytes) => match parse_id(&bytes) {
            Some(id) => id,
            None => new_id(&id_file)?,
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => new_id(&id_file)?,
        Err(e) => return Err(Error::io("reading", &id_file, e)),
    };
    bring_back(&root);
    sweep(&root.join(STAGING));
    Ok((root, id))
}

fn parse_id(bytes: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(bytes).ok()?.trim();
    let plain = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain.then(|| id.to_owned())
}

fn new_id(file: &Path) -> Result<String, Error> {
    let id = ulid::Ulid::new().to_string().to_lowercase();
    write_file(file, format!("{id}\n").as_bytes())?;
    Ok(id)
}

/// Puts back what a collection that died had taken aside: whether it may go is for the next one to say.
fn bring_back(root: &Path) {
    let Ok(entries) = fs::read_dir(root.join(STAGING)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| name.strip_prefix(ASIDE)?.parse::<Digest>().ok());
        if let Some(digest) = digest {
            let _ = fs::rename(entry.path(), root.join(segue_proto::blob_key(&digest)));
        }
    }
}

/// Says that a blob is there, as if it were stored now; gives its size, or none where it must be stored (again).
pub(super) fn touch(file: &Path) -> Result<Option<u64>, Error> {
    let touched = fs::File::open(file).and_then(|file| file.set_modified(SystemTime::now()));
    match touched {
        // Looked at after the touch: a collection that took the file before it could see the touch is noticed here, and
        // one that takes it later sees the touch and puts it back.
        Ok(()) => match fs::metadata(file) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("reading", file, e)),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Somebody else's file: a new one takes its place.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(e) => Err(Error::io("touching", file, e)),
    }
}

/// Deletes a blob unless it was stored at or after a moment; gives the bytes freed, or none where it stays or is gone.
///
/// It is taken aside before it is looked at for the last time, so that whoever stores it again meanwhile either finds
/// it missing, or is seen here.
pub(super) fn collect(root: &Path, digest: &Digest, before: SystemTime) -> Result<Option<u64>, Error> {
    let file = root.join(segue_proto::blob_key(digest));
    let aside = root.join(STAGING).join(format!("{ASIDE}{digest}"));
    let old = |file: &Path| -> Result<Option<u64>, Error> {
        match fs::metadata(file).and_then(|meta| Ok((meta.modified()?, meta.len()))) {
            Ok((modified, size)) => Ok((modified < before).then_some(size)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("reading", file, e)),
        }
    };
    if old(&file)?.is_none() {
        return Ok(None);
    }
    match fs::rename(&file, &aside) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("taking aside", &file, e)),
    }
    match old(&aside)? {
        Some(size) => fs::remove_file(&aside).map(|()| Some(size)).map_err(|e| Error::io("deleting", &aside, e)),
        None => fs::rename(&aside, &file).map(|()| None).map_err(|e| Error::io("putting back", &file, e)),
    }
}

fn sweep(staging: &Path) {
    // What cannot be looked at or removed now is tried again at the next start.
    let Ok(entries) = fs::read_dir(staging) else { return };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified()).unwrap_or_else(|_| SystemTime::now());
        if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file that is being written under a temporary name; removed when dropped before it is published.
pub(super) struct Staged {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    size_bytes: u64,
    published: bool,
}

impl Staged {
    /// Starts a file under the root, or in the system's temporary directory for what goes elsewhere.
    pub(super) async fn create(root: Option<&Path>) -> Result<Self, Error> {
        let dir = root.map_or_else(env::temp_dir, |root| root.join(STAGING));
        let path = dir.join(format!("segue-{}", ulid::Ulid::new().to_string().to_lowercase()));
        let file = File::create_new(&path).await.map_err(|e| unusable(&dir, &e))?;
        Ok(Self { path, file, hasher: blake3::Hasher::new(), size_bytes: 0, published: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.hasher.update(chunk);
        self.size_bytes += chunk.len() as u64;
        self.file.write_all(chunk).await.map_err(|e| Error::io("writing", &self.path, e))
    }

    /// Ends the writing: the bytes are on disk, and their digest is known.
    pub(super) async fn finish(&mut self) -> Result<Blob, Error> {
        let path = &self.path;
        self.file.flush().await.map_err(|e| Error::io("writing", path, e))?;
        self.file.sync_all().await.map_err(|e| Error::io("syncing", path, e))?;
        Ok(Blob { digest: Digest::from(self.hasher.finalize()), size_bytes: self.size_bytes })
    }

    /// Gives the file its name. Durable when it returns.
    pub(super) async fn publish(mut self, to: &Path) -> Result<(), Error> {
        let (from, to) = (self.path.clone(), to.to_owned());
        blocking(move || {
            let dir = to.parent().unwrap_or(&to);
            let new = !dir.is_dir();
            make_dir(dir)?;
            fs::rename(&from, &to).map_err(|e| Error::io("writing", &to, e))?;
            sync_dir(dir)?;
            match dir.parent() {
                Some(parent) if new => sync_dir(parent),
                _ => Ok(()),
            }
        })
        .await?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // If it stays, the sweep of a later start finds it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
