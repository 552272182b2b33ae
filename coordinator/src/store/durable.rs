//! File operations that are on the disk when they return.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::error::Error;

/// Makes the entries of a directory durable: a rename or a new file in it survives a power cut only after this.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("syncing", dir, e))
}

/// Makes a directory with its parents. The error names the directory and the fix.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))
}

/// Says that a directory cannot be written.
pub(crate) fn unusable(dir: &Path, e: &io::Error) -> Error {
    Error::Directory {
        dir: dir.to_owned(),
        reason: format!("cannot be made or written ({e})"),
        fix: match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its disk",
            io::ErrorKind::ReadOnlyFilesystem => "mount its disk for writing",
            _ => "make it writable, or name another one with --state-dir",
        },
    }
}

/// Writes a small file so that a reader sees the old content or the new one, never a part.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("partial");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| Error::io("writing", path, e))?;
    path.parent().map_or(Ok(()), sync_dir)
}
