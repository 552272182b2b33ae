//! The mark beside a database: that there is a store, and the last batch of it that is on the disk.
//!
//! It is written after a flush, in place and without a sync of its own: after a power cut it may be older than the
//! database, and never newer. A database that ends before it has lost what was acknowledged.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{durable, error::Error, seal::check_of};

/// There once a store has been made: an empty database beside it has lost its data, it is not new.
pub(super) const FILE: &str = "segue-store";

/// What the mark of the first layout says, which knew of no batches.
const FIRST: &[u8] = b"1\n";

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// There is none: the store is new.
    Nothing,
    /// It is that of the first layout.
    First,
    /// The last batch that was on the disk.
    Flushed(u64),
    /// It is damaged itself.
    Unreadable,
}

/// The mark of an open store.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

/// Reads the mark in a directory.
pub(super) fn read(dir: &Path) -> Result<Said, Error> {
    let path = dir.join(FILE);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(256).read_to_end(&mut text)) {
        Ok(_) if text == FIRST => Ok(Said::First),
        Ok(_) => Ok(parse(&text).map_or(Said::Unreadable, Said::Flushed)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Said::Nothing),
        Err(e) => Err(Error::io("reading", &path, e)),
    }
}

impl Mark {
    /// Writes the mark durably, whatever is there, and keeps it open.
    pub(super) fn make(dir: &Path, batches: u64) -> Result<Self, Error> {
        let path = dir.join(FILE);
        durable::write_file(&path, &line(batches))?;
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| Error::io("opening", &path, e))?;
        Ok(Self { file, path })
    }

    /// Notes the last batch that is on the disk.
    pub(super) fn note(&self, batches: u64) {
        // What was flushed is safe all the same: only its loss would not be noticed.
        if let Err(e) = self.file.write_all_at(&line(batches), 0) {
            tracing::warn!(file = %self.path.display(), error = %e, "the mark of the store cannot be written");
        }
    }
}

/// Every line has the same length, so that one takes the place of another.
fn line(batches: u64) -> Vec<u8> {
    let text = said(batches);
    format!("{text} {:016x}\n", check_of(text.as_bytes())).into_bytes()
}

fn said(batches: u64) -> String {
    format!("segue-store 2, flushed {batches:020}")
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let batches = text.strip_prefix("segue-store 2, flushed ")?.get(..20)?.parse().ok()?;
    (line(batches) == bytes).then_some(batches)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn a_mark_says_the_last_batch_that_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Said::Nothing);
        let mark = Mark::make(dir.path(), 0).unwrap();
        for batches in [1, 999, u64::MAX, 5] {
            mark.note(batches);
            assert_eq!(read(dir.path()).unwrap(), Said::Flushed(batches));
        }
        fs::write(dir.path().join(FILE), FIRST).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Said::First);
    }

    #[test]
    fn a_damaged_mark_says_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let good = line(42);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(dir.path().join(FILE), &bad).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Said::Unreadable, "byte {at}");
            fs::write(dir.path().join(FILE), &good[..at]).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Said::Unreadable, "cut at {at}");
        }
        fs::write(dir.path().join(FILE), [0xFF; 4096]).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Said::Unreadable);
    }
}
