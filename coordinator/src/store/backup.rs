//! Backup while running, and restore into a new directory.
//!
//! A backup is a directory: `records.segue`, `blobs/`, `logs/`, and `manifest.json`, which is written last: without it
//! the backup is not finished. Records go first, then the blobs that they need. Blobs are never changed and are stored
//! before the records that name them, so whatever the records need is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures::StreamExt as _;
use segue_proto::ids::Digest;
use serde::{Deserialize, Serialize};

use super::{
    Batch, Committer, SledStore, StateDir, Store,
    durable::{make_dir, sync_dir, write_file},
    error::Error,
    export, gather, meta, verify,
};
use crate::{
    blobs::{BlobStore, blocking},
    logs::Logs,
};

const RECORDS: &str = "records.segue";
const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;

/// Records of one batch of a restore.
const BATCH: usize = 256;

/// Where the records come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A store that is being written: its records are those of one moment between two flushes, and commits go on.
    Running(Committer),
    /// A store that nobody writes.
    Quiet(Arc<dyn Store>),
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    pub records: u64,
    pub blobs: u64,
    pub logs: u64,
    /// Of records, blobs and logs.
    pub bytes: u64,
    /// Records that cannot be read (they are in the backup as they are), and blobs that are missing or damaged (they
    /// are not).
    pub problems: Vec<String>,
}

/// What a restore brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    pub records: u64,
    pub blobs: u64,
    pub logs: u64,
    /// What [`verify`](super::verify()) says about the restored directory.
    pub problems: Vec<String>,
}

/// The last file of a backup.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    program: String,
    schema: u32,
    created_ms: u64,
    records: u64,
    records_digest: Digest,
    blobs: u64,
    logs: u64,
    /// Absent in backups of earlier releases.
    #[serde(default)]
    logs_digest: Option<Digest>,
    bytes: u64,
    problems: Vec<String>,
}

/// Writes a consistent copy of store, blobs and logs to a new (or empty) directory.
///
/// # Errors
/// [`Error::Directory`] if the directory holds something; [`Error::Io`], [`Error::Blobs`]. A backup that failed has no
/// manifest. What is damaged in the source is no error: it is in the report.
pub async fn backup(source: Source, blobs: &BlobStore, logs: &Logs, dest: &Path) -> Result<BackupReport, Error> {
    require_empty(dest, "a backup")?;
    make_dir(dest)?;
    let file = dest.join(RECORDS);
    let exported = match source {
        Source::Running(committer) => gather::running(&committer, file).await?,
        Source::Quiet(store) => blocking(move || gather::quiet(store.as_ref(), &file)).await?,
    };

    let copy = BlobStore::open_local(dest).await?;
    let mut report = BackupReport {
        records: exported.records,
        blobs: 0,
        logs: 0,
        bytes: exported.bytes,
        problems: exported.problems,
    };
    for (digest, needed_by) in &exported.needed {
        match copy_blob(blobs, &copy, digest).await {
            Ok(size) => {
                report.blobs += 1;
                report.bytes += size;
            }
            Err(e @ (Error::NoBlob { .. } | Error::WrongDigest { .. } | Error::Upload { .. })) => {
                report.problems.push(format!("{e} (needed by `{needed_by}`)"));
            }
            Err(e) => return Err(e),
        }
    }

    let (from, to) = (logs.clone(), StateDir::new(dest).logs());
    let (count, bytes, logs_digest) = blocking(move || {
        let (count, bytes) = copy_logs(&from, &Logs::open(&to)?)?;
        Ok((count, bytes, digest_of_files(&to)?))
    })
    .await?;
    report.logs = count;
    report.bytes += bytes;

    let manifest = Manifest {
        format: FORMAT,
        program: format!("segue {}", env!("CARGO_PKG_VERSION")),
        schema: meta::SCHEMA,
        created_ms: now_ms(),
        records: report.records,
        records_digest: exported.digest,
        blobs: report.blobs,
        logs: report.logs,
        logs_digest: Some(logs_digest),
        bytes: report.bytes,
        problems: report.problems.clone(),
    };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    sync_dir(dest)?;
    write_file(&dest.join(MANIFEST), &json)?;
    Ok(report)
}

/// Copies a blob, not a link to it: a backup must not share the fate of the bytes that it is for.
async fn copy_blob(from: &BlobStore, to: &BlobStore, digest: &Digest) -> Result<u64, Error> {
    let (_, stream) = from.get_stream(digest).await?;
    Ok(to.put_stream(Some(digest), stream).await?.size_bytes)
}

fn copy_logs(from: &Logs, to: &Logs) -> Result<(u64, u64), Error> {
    let (mut logs, mut bytes) = (0, 0);
    for run in from.runs()? {
        for name in from.list(&run)? {
            bytes += from.copy(&run, &name, to)?;
            logs += 1;
        }
    }
    Ok((logs, bytes))
}

/// Digests the names and the bytes of all files under a directory. Nothing else in a backup says what a log should be.
fn digest_of_files(root: &Path) -> Result<Digest, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let failed = |e| Error::io("reading", &path, e);
        if path.is_dir() {
            let mut inside: Vec<PathBuf> =
                fs::read_dir(&path).and_then(|all| all.map(|entry| Ok(entry?.path())).collect()).map_err(failed)?;
            // In the same order whatever the file system is.
            inside.sort_unstable();
            waiting.extend(inside);
            continue;
        }
        let mut file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && path == *root => break,
            Err(e) => return Err(failed(e)),
        };
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        hasher.update(&(name.len() as u64).to_be_bytes()).update(name.as_bytes());
        hasher.update(&file.metadata().map_err(failed)?.len().to_be_bytes());
        hasher.update_reader(&mut file).map_err(failed)?;
    }
    Ok(Digest::from(hasher.finalize()))
}

/// Makes a state directory from a backup, in a new (or empty) directory. It appears whole or not at all. Its records are
/// those of the backup, but for the epoch, which goes beyond any that the backed up coordinator can have reached since:
/// an attempt that a worker still has from there is not taken for one of the restored coordinator.
///
/// # Errors
/// [`Error::BadBackup`] if the backup is unfinished, cut or changed; [`Error::Directory`] if the directory holds
/// something; [`Error::Io`].
pub async fn restore(src: &Path, dest: &Path) -> Result<RestoreReport, Error> {
    let manifest = read_manifest(src)?;
    require_empty(dest, "a restore")?;
    let dest = &std::path::absolute(dest).map_err(|e| Error::io("finding", dest, e))?;
    let partial = partial_name(dest);
    let restored = fill(src, &manifest, &partial).await;
    let report = match restored {
        Ok(report) => report,
        Err(e) => {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&partial);
            return Err(e);
        }
    };
    // Over an empty directory, a rename is allowed.
    fs::rename(&partial, dest).map_err(|e| Error::io("renaming the restored directory to", dest, e))?;
    dest.parent().filter(|parent| parent.is_dir()).map_or(Ok(()), sync_dir)?;
    Ok(report)
}

async fn fill(src: &Path, manifest: &Manifest, dest: &Path) -> Result<RestoreReport, Error> {
    let bad = |reason: String| Error::BadBackup { place: src.to_owned(), reason };
    let records_file = src.join(RECORDS);
    let (records, digest) = {
        let file = records_file.clone();
        blocking(move || export::read(&file, |_| Ok(()))).await?
    };
    if digest != manifest.records_digest || records != manifest.records {
        return Err(bad(format!("{RECORDS} is not the file that {MANIFEST} names")));
    }
    if let Some(expected) = manifest.logs_digest.clone() {
        let logs = StateDir::new(src).logs();
        if blocking(move || digest_of_files(&logs)).await? != expected {
            return Err(bad("its logs are not those that were saved: some were changed, damaged or lost".to_owned()));
        }
    }

    let dirs = StateDir::new(dest);
    let store: Arc<dyn Store> = {
        let dir = dirs.store();
        blocking(move || Ok(Arc::new(load(&records_file, &dir)?))).await?
    };

    let (from, to) = (BlobStore::open_to_read(src)?, BlobStore::open_local(&dirs.blobs()).await?);
    let mut blobs = 0;
    let mut listed = from.list();
    while let Some(blob) = listed.next().await {
        match copy_blob(&from, &to, &blob?.digest).await {
            Ok(_) => blobs += 1,
            Err(e @ (Error::NoBlob { .. } | Error::WrongDigest { .. } | Error::Upload { .. })) => {
                return Err(bad(e.to_string()));
            }
            Err(e) => return Err(e),
        }
    }
    if blobs != manifest.blobs {
        return Err(bad(format!("it has {blobs} blobs, and {MANIFEST} says {}", manifest.blobs)));
    }

    let (from_logs, to_logs) = (Logs::open_to_read(StateDir::new(src).logs()), Logs::open(dirs.logs())?);
    let (logs, _) = blocking(move || copy_logs(&from_logs, &to_logs)).await?;
    if logs != manifest.logs {
        return Err(bad(format!("it has {logs} logs, and {MANIFEST} says {}", manifest.logs)));
    }
    let report = verify::verify(store, &to).await?;
    Ok(RestoreReport { records, blobs, logs, problems: report.problems })
}

fn load(records: &Path, dir: &Path) -> Result<SledStore, Error> {
    let store = SledStore::open(dir)?;
    let mut batch = Batch::new();
    export::read(records, |(key, value)| {
        batch.put_raw(key, value);
        if batch.writes().len() == BATCH {
            store.apply(&batch)?;
            batch = Batch::new();
        }
        Ok(())
    })?;
    store.apply(&batch)?;
    store.apply(&meta::later_epoch(&store, now_ms())?)?;
    store.flush()?;
    Ok(store)
}

fn read_manifest(src: &Path) -> Result<Manifest, Error> {
    let place = src.join(MANIFEST);
    let bad = |reason: String| Error::BadBackup { place: src.to_owned(), reason };
    let bytes = match fs::read(&place) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(bad(format!(
                "{MANIFEST} is missing: the backup was not finished, or this is another directory"
            )));
        }
        Err(e) => return Err(Error::io("reading", &place, e)),
    };
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("{MANIFEST} cannot be read ({e})")))?;
    if manifest.format != FORMAT || manifest.schema > meta::SCHEMA {
        let (format, schema) = (manifest.format, manifest.schema);
        return Err(bad(format!(
            "it has format {format} and schema version {schema}, and this program reads {FORMAT} and {}: it was made by \
             {}",
            meta::SCHEMA,
            manifest.program
        )));
    }
    Ok(manifest)
}

fn require_empty(dir: &Path, what: &str) -> Result<(), Error> {
    let refuse = |reason: String| Error::Directory { dir: dir.to_owned(), reason, fix: "name a new directory" };
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(refuse(format!("it is not empty, and {what} overwrites nothing"))),
        Ok(false) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(refuse(format!("it cannot be used ({e})"))),
    }
}

/// Gives the name under which a restore is prepared: beside its destination, so that a rename ends it, and new, so that
/// nothing is in its way.
fn partial_name(dest: &Path) -> PathBuf {
    let name = dest.file_name().unwrap_or_default().to_string_lossy().into_owned();
    dest.with_file_name(format!(".{name}.restoring-{}", ulid::Ulid::new().to_string().to_lowercase()))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
