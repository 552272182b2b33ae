//! Files of the worker: into the blob store, out of the output directory of an attempt.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::Digest,
};

/// Makes names of temporary files unique within this process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Gives a name that no other temporary file of this machine has.
pub fn temporary_name() -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}-{:016x}", std::process::id(), super::backoff::entropy())
}

/// Puts a file at `root`/`key` durably: synced, then renamed. It is moved if it can be, copied otherwise. It takes the place
/// of one that is there already, which may be damaged: so the task that makes it again mends it.
///
/// # Errors
/// Those of the disk.
pub fn place(file: &Path, root: &Path, key: &str) -> io::Result<()> {
    let target = root.join(key);
    let directory = target.parent().ok_or_else(|| io::Error::other("a blob has no directory"))?;
    fs::create_dir_all(directory)?;
    if !is_own(file) || seal(file).and_then(|()| fs::rename(file, &target)).is_err() {
        let staging = root.join("tmp");
        fs::create_dir_all(&staging)?;
        let temporary = staging.join(temporary_name());
        let copied =
            fs::copy(file, &temporary).and_then(|_| seal(&temporary)).and_then(|()| fs::rename(&temporary, &target));
        if copied.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        copied?;
    }
    File::open(directory)?.sync_all()
}

/// Says whether a file has no other name. A link, or a file with a second name, can be changed from elsewhere: only its
/// bytes may be kept.
pub fn is_own(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok_and(|info| info.is_file() && info.nlink() == 1)
}

/// Makes a file durable and read-only, and stored now: a command may have kept an old time of change, as `cp -p` does.
fn seal(file: &Path) -> io::Result<()> {
    fs::set_permissions(file, Permissions::from_mode(0o444))?;
    let file = File::open(file)?;
    file.set_modified(SystemTime::now())?;
    file.sync_all()
}

/// Finds the file of an output: named like the port, or like the port with one extension.
///
/// # Errors
/// A failure of class `user` that says what is missing or ambiguous.
pub fn find_output(directory: &Path, port: &str) -> Result<Option<PathBuf>, Failure> {
    let regular = |path: &Path| fs::metadata(path).is_ok_and(|info| info.is_file());
    let exact = directory.join(port);
    if regular(&exact) {
        return Ok(Some(exact));
    }
    let prefix = format!("{port}.");
    let entries = fs::read_dir(directory)
        .map_err(|e| Failure::new(FailureClass::User, format!("the output directory cannot be read: {e}")))?;
    let mut matches: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .filter(|path| regular(path))
        .collect();
    if matches.len() > 1 {
        let message = format!("output `{port}` has {} files: which one is meant?", matches.len());
        return Err(Failure::new(FailureClass::User, message).hint("write one file per output"));
    }
    Ok(matches.pop())
}

/// Says why an output has no file.
#[must_use]
pub fn missing(directory: &Path, port: &str) -> Failure {
    if directory.join(port).is_dir() {
        let message = format!("output `{port}` is a directory, and an output is one file");
        let hint = format!("pack it, such as with: tar -cf $SEGUE_OUTPUT_DIR/{port}.tar -C DIRECTORY .");
        return Failure::new(FailureClass::User, message).hint(hint);
    }
    Failure::new(FailureClass::User, format!("output `{port}` was not written"))
        .hint(format!("write it to a file named `{port}` in $SEGUE_OUTPUT_DIR"))
}

/// Digests a file; gives its size too.
///
/// # Errors
/// Those of the disk.
pub fn digest(file: &Path) -> io::Result<(Digest, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok((hasher.finalize().into(), hasher.count()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_blob_is_moved_into_the_store_and_read_only() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("out");
        fs::write(&file, b"bytes").unwrap();
        place(&file, root.path(), "blobs/ab/abc").unwrap();
        let stored = root.path().join("blobs/ab/abc");
        assert_eq!(fs::read(&stored).unwrap(), b"bytes");
        assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o444);
        assert!(!file.exists());
    }

    #[test]
    fn a_blob_that_is_there_already_counts_as_stored_now() {
        let root = tempfile::tempdir().unwrap();
        let stored = root.path().join("blobs/ab/abc");
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
        let put = || {
            let file = root.path().join("out");
            fs::write(&file, b"bytes").unwrap();
            File::open(&file).unwrap().set_modified(long_ago).unwrap();
            place(&file, root.path(), "blobs/ab/abc").unwrap();
            fs::metadata(&stored).unwrap().modified().unwrap()
        };
        assert!(put() > long_ago, "whatever time the output had");
        File::open(&stored).unwrap().set_modified(long_ago).unwrap();
        assert!(put() > long_ago);
        assert_eq!(fs::read(&stored).unwrap(), b"bytes");
        fs::set_permissions(&stored, Permissions::from_mode(0o644)).unwrap();
        fs::write(&stored, b"bytez").unwrap();
        put();
        assert_eq!(fs::read(&stored).unwrap(), b"bytes", "a damaged one is mended");
    }

    #[test]
    fn a_link_is_copied_so_that_the_store_keeps_its_own_bytes() {
        let root = tempfile::tempdir().unwrap();
        let original = root.path().join("original");
        fs::write(&original, b"bytes").unwrap();
        let soft = root.path().join("soft");
        std::os::unix::fs::symlink(&original, &soft).unwrap();
        let hard = root.path().join("hard");
        fs::hard_link(&original, &hard).unwrap();
        place(&soft, root.path(), "blobs/ab/soft").unwrap();
        place(&hard, root.path(), "blobs/ab/hard").unwrap();
        fs::write(&original, b"changed").unwrap();
        assert_eq!(fs::read(root.path().join("blobs/ab/soft")).unwrap(), b"bytes");
        assert_eq!(fs::read(root.path().join("blobs/ab/hard")).unwrap(), b"bytes");
        assert!(fs::symlink_metadata(root.path().join("blobs/ab/soft")).unwrap().is_file());
    }

    #[test]
    fn an_output_is_found_by_its_port_with_or_without_one_extension() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        fs::write(directory.path().join("b.csv"), "").unwrap();
        fs::write(directory.path().join("c.csv"), "").unwrap();
        fs::write(directory.path().join("c.json"), "").unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        let find = |port| find_output(directory.path(), port);
        assert_eq!(find("a").unwrap(), Some(directory.path().join("a")));
        assert_eq!(find("b").unwrap(), Some(directory.path().join("b.csv")));
        assert_eq!(find("c").unwrap_err().class, FailureClass::User);
        assert_eq!(find("d").unwrap(), None, "a directory is no output");
        assert!(missing(directory.path(), "d").message.contains("is a directory"));
        assert!(missing(directory.path(), "e").message.contains("was not written"));
    }
}
