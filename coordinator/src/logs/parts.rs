//! The files of one log. `<task>.<attempt>.log` holds its beginning; where it grows beyond that, the rest is in a
//! directory beside it, `<task>.<attempt>.parts`, in files that are named for the offset at which they begin. When there
//! are too many the oldest of those goes: a log without end keeps its beginning, which says what was done, and its end,
//! which says how it came out. What went shows as lost.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{gaps::Gaps, length_of, names_in};
use crate::store::{Error, durable::make_dir};

/// Files of one log, the first included. Of a log beyond its limit the first part is kept, and of what follows all but
/// the parts that made room.
pub(super) const MOST_PARTS: usize = 8;

/// Digits of an offset in a name, so that names sort as numbers do.
const DIGITS: usize = 20;

/// The files of a log, by where they begin.
#[derive(Debug)]
pub(super) struct Parts {
    first: PathBuf,
    dir: PathBuf,
    /// Offsets at which the later parts begin, in order.
    later: Vec<u64>,
}

/// One file of a log and its gaps.
#[derive(Debug)]
pub(super) struct Part {
    /// The offset of its first byte.
    pub(super) start: u64,
    pub(super) path: PathBuf,
    /// Bytes in the file.
    pub(super) kept: u64,
    pub(super) gaps: Gaps,
}

impl Parts {
    /// Finds the parts of the log whose first file this is, there or not.
    pub(super) fn find(first: &Path) -> Result<Self, Error> {
        let dir = first.with_extension("parts");
        let mut later: Vec<u64> = names_in(&dir)?.iter().filter_map(|name| parse_name(name)).collect();
        later.sort_unstable();
        // One that has only lost bytes has no file but its gaps.
        later.dedup();
        Ok(Self { first: first.to_owned(), dir, later })
    }

    /// Reads the last part: where the log goes on.
    pub(super) fn last(&self) -> Result<Part, Error> {
        let start = self.later.last().copied();
        self.open(start)
    }

    /// Reads the parts that hold what is at an offset or after it, one at a time.
    pub(super) fn at_or_after(&self, offset: u64) -> impl Iterator<Item = Result<Part, Error>> + '_ {
        // The last one that begins at or before it.
        let skipped = self.later.partition_point(|&start| start <= offset);
        let first = (skipped == 0).then_some(None);
        let rest = self.later[skipped.saturating_sub(1)..].iter().map(|&start| Some(start));
        first.into_iter().chain(rest).map(|start| self.open(start))
    }

    /// Begins a part at an offset and deletes the oldest one where there are too many. The first stays.
    pub(super) fn begin(&mut self, offset: u64) -> Result<Part, Error> {
        while self.later.len() + 1 >= MOST_PARTS {
            let oldest = self.later.remove(0);
            let path = self.path(Some(oldest));
            for path in [gaps_path(&path), path] {
                remove(&path)?;
            }
        }
        make_dir(&self.dir)?;
        let path = self.path(Some(offset));
        File::create(&path).map_err(|e| Error::io("writing", &path, e))?;
        self.later.push(offset);
        self.last()
    }

    /// Names every file that may be there, the oldest bytes last: whoever deletes in this order leaves no part that
    /// nothing leads to.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let starts = self.later.iter().rev().map(|&start| Some(start)).chain([None]);
        starts.map(|start| self.path(start)).flat_map(|path| [gaps_path(&path), path]).collect()
    }

    /// Gives the directory of the later parts.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn open(&self, start: Option<u64>) -> Result<Part, Error> {
        let path = self.path(start);
        let kept = length_of(&path)?;
        let gaps = Gaps::read(&gaps_path(&path), kept)?;
        Ok(Part { start: start.unwrap_or(0), path, kept, gaps })
    }

    fn path(&self, start: Option<u64>) -> PathBuf {
        start.map_or_else(|| self.first.clone(), |start| self.dir.join(format!("{start:0DIGITS$}.log")))
    }
}

impl Part {
    /// Gives the offset after it.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.kept).saturating_add(self.gaps.lost())
    }
}

/// Names the file beside a part that says where bytes are missing in it.
pub(super) fn gaps_path(part: &Path) -> PathBuf {
    part.with_extension("gaps")
}

/// Deletes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("deleting", path, e)),
        _ => Ok(()),
    }
}

fn parse_name(name: &str) -> Option<u64> {
    let offset = name.strip_suffix(".log").or_else(|| name.strip_suffix(".gaps"))?;
    // Only names that this module makes: a file of another is never written to or deleted.
    let ours = offset.len() == DIGITS && offset.bytes().all(|byte| byte.is_ascii_digit());
    if ours { offset.parse().ok() } else { None }
}
