//! Logs of attempts: append-only files, `<run>/<task>.<attempt>.log` and for a long log some more (see [`parts`]).
//!
//! Offsets count the bytes that the attempt has written, those that were lost on the way included. The file holds what
//! arrived; a file beside it, `….gaps`, says where bytes are missing and how many. A piece that is sent again changes
//! nothing. Appending does not sync: after a power cut the tail may be missing, which then shows as a gap.
//!
//! Of each attempt no more is kept than a limit says: the beginning and the end.

mod gaps;
mod parts;

use std::{
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use segue_proto::{
    CHUNK_BYTES,
    ids::{RunId, TaskRef, Token},
};

use crate::store::{
    Error,
    durable::{make_dir, sync_dir},
};
use parts::{MOST_PARTS, Parts};

/// Bytes that are kept of the log of one attempt unless somebody says otherwise.
pub const LIMIT: u64 = 64 * 1024 * 1024;

/// Locks shared by all attempts: enough that two busy ones seldom meet.
const STRIPES: usize = 64;

/// The logs under one directory. Clones share it. Calls block.
#[derive(Debug, Clone)]
pub struct Logs {
    dir: PathBuf,
    stripes: Arc<[Mutex<()>; STRIPES]>,
    /// Bytes of one file of a log.
    part_bytes: u64,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where `data` begins.
    pub offset: u64,
    pub data: Bytes,
    /// Bytes lost just before it.
    pub lost_before: u64,
}

impl Piece {
    /// Gives the offset to read on from.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Names a log that is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogName {
    pub task: TaskRef,
    pub attempt: u32,
}

/// Gives the line that stands for lost bytes.
#[must_use]
pub fn gap_marker(lost: u64) -> String {
    format!("[… {lost} bytes lost …]\n")
}

impl Logs {
    /// Opens the logs in a directory and makes it where it is missing.
    ///
    /// # Errors
    /// [`Error::Directory`] naming it.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        make_dir(&dir)?;
        Ok(Self::open_to_read(dir))
    }

    /// Names logs without touching the disk; reading from a directory that is not there gives no logs.
    pub(crate) fn open_to_read(dir: PathBuf) -> Self {
        Self { dir, stripes: Arc::new([const { Mutex::new(()) }; STRIPES]), part_bytes: 0 }.keeping(LIMIT)
    }

    /// Keeps at most so many bytes of the log of each attempt: the first eighth of them, and of what follows the last.
    #[must_use]
    pub fn keeping(mut self, limit: u64) -> Self {
        self.part_bytes = (limit / MOST_PARTS as u64).max(1);
        self
    }

    /// Gives the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends a piece and gives the offset up to which the log is kept: what to acknowledge. Bytes that are there
    /// already are passed over. Bytes that are missing before the piece are recorded as lost, whether or not
    /// `lost_before` says so: the sender has forgotten what it was told is kept.
    ///
    /// # Errors
    /// [`Error::Log`] for offsets that make no sense, [`Error::Io`] naming the file.
    pub fn append(&self, token: &Token, offset: u64, data: &[u8], lost_before: u64) -> Result<u64, Error> {
        let path = self.path(&token.run, &token.task, token.attempt);
        let _alone = self.lock(&path);
        let wrong = |reason: String| Error::Log { attempt: token.to_string(), reason };
        let end_of_piece = offset
            .checked_add(data.len() as u64)
            .ok_or_else(|| wrong(format!("a piece at the impossible offset {offset}")))?;
        let mut parts = Parts::find(&path)?;
        let mut part = parts.last()?;
        let end = part.end();
        if end_of_piece <= end {
            return Ok(end);
        }
        // In range: the piece is a slice in memory, and what is passed over is shorter than it.
        let mut new = &data[usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len())..];
        let mut at = offset.max(end);
        let mut unannounced = offset.saturating_sub(end) > lost_before;
        self.make_run_dir(&path)?;
        loop {
            if part.kept >= self.part_bytes || part.gaps.are_full() {
                part = parts.begin(at)?;
            } else if at > part.end() {
                part.gaps.add(part.kept, at - part.end())?;
            }
            if std::mem::take(&mut unannounced) {
                tracing::warn!(%token, missing = offset - end, announced = lost_before, "log bytes are missing");
            }
            let room = usize::try_from(self.part_bytes - part.kept).unwrap_or(usize::MAX);
            let (now, later) = new.split_at(room.min(new.len()));
            if !now.is_empty() {
                let append = || -> io::Result<()> {
                    OpenOptions::new().create(true).append(true).open(&part.path)?.write_all(now)
                };
                append().map_err(|e| Error::io("writing", &part.path, e))?;
            }
            if later.is_empty() {
                return Ok(end_of_piece);
            }
            (new, at) = (later, at + now.len() as u64);
            part.kept += now.len() as u64;
        }
    }

    /// Makes the log of an attempt durable; called when the attempt has ended.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn sync(&self, token: &Token) -> Result<(), Error> {
        let path = self.path(&token.run, &token.task, token.attempt);
        let parts = Parts::find(&path)?;
        for path in parts.files() {
            match File::open(&path).and_then(|file| file.sync_all()) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("syncing", &path, e)),
            }
        }
        for dir in [Some(parts.dir()), path.parent()].into_iter().flatten().filter(|dir| dir.is_dir()) {
            sync_dir(dir)?;
        }
        Ok(())
    }

    /// Gives the length of a log in bytes, lost ones included; 0 where there is none. The next byte expected.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn length(&self, run: &RunId, task: &TaskRef, attempt: u32) -> Result<u64, Error> {
        let path = self.path(run, task, attempt);
        let _alone = self.lock(&path);
        Ok(Parts::find(&path)?.last()?.end())
    }

    /// Reads the next piece from an offset: at most `most` bytes (and at most [`CHUNK_BYTES`]), and none at the end of
    /// what is there. If the bytes at the offset were lost, the piece begins after them and says how many they were.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn read(
        &self,
        run: &RunId,
        task: &TaskRef,
        attempt: u32,
        offset: u64,
        most: usize,
    ) -> Result<Option<Piece>, Error> {
        let path = self.path(run, task, attempt);
        let _alone = self.lock(&path);
        let (mut at, mut lost) = (offset, 0);
        for part in Parts::find(&path)?.at_or_after(offset) {
            let part = part?;
            // What was between the part before and this one is gone.
            lost += part.start.saturating_sub(at);
            at = at.max(part.start);
            let place = part.gaps.locate(at - part.start, part.kept);
            lost += place.lost_before;
            at = part.start.saturating_add(place.offset);
            let length = place.left.min(most.min(CHUNK_BYTES) as u64);
            if length == 0 {
                continue;
            }
            let reading = |e| Error::io("reading", &part.path, e);
            let mut file = File::open(&part.path).map_err(reading)?;
            file.seek(SeekFrom::Start(place.position)).map_err(reading)?;
            let mut data = Vec::new();
            file.take(length).read_to_end(&mut data).map_err(reading)?;
            return Ok(Some(Piece { offset: at, data: data.into(), lost_before: lost }));
        }
        Ok((lost > 0).then_some(Piece { offset: at, data: Bytes::new(), lost_before: lost }))
    }

    /// Lists the logs of a run, by task and attempt.
    ///
    /// # Errors
    /// [`Error::Io`] naming the directory.
    pub fn list(&self, run: &RunId) -> Result<Vec<LogName>, Error> {
        let mut found: Vec<LogName> =
            names_in(&self.dir.join(run.to_string()))?.iter().filter_map(|name| parse_name(name)).collect();
        found.sort_unstable();
        // A log with gaps has two files.
        found.dedup();
        Ok(found)
    }

    /// Lists the runs that have logs, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`] naming the directory.
    pub fn runs(&self) -> Result<Vec<RunId>, Error> {
        let mut found: Vec<RunId> = names_in(&self.dir)?.into_iter().filter_map(|name| name.try_into().ok()).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Gives the bytes of a run's logs on disk.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn size(&self, run: &RunId) -> Result<u64, Error> {
        let mut bytes = 0;
        for name in self.list(run)? {
            let path = self.path(run, &name.task, name.attempt);
            for file in Parts::find(&path)?.files() {
                bytes += length_of(&file)?;
            }
        }
        Ok(bytes)
    }

    /// Deletes logs of a run; gives the bytes freed. A missing one is no error. The directory goes with the last of them.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn remove(&self, run: &RunId, names: &[LogName]) -> Result<u64, Error> {
        let mut freed = 0;
        for name in names {
            let path = self.path(run, &name.task, name.attempt);
            let _alone = self.lock(&path);
            let parts = Parts::find(&path)?;
            for file in parts.files() {
                let length = length_of(&file)?;
                parts::remove(&file)?;
                freed += length;
            }
            let _ = fs::remove_dir(parts.dir());
        }
        // One that is not empty stays: somebody writes there.
        let _ = fs::remove_dir(self.dir.join(run.to_string()));
        Ok(freed)
    }

    /// Copies one log as it is now to other logs, where it is durable when this returns; gives the bytes copied.
    pub(crate) fn copy(&self, run: &RunId, name: &LogName, to: &Self) -> Result<u64, Error> {
        let from = self.path(run, &name.task, name.attempt);
        let target = to.path(run, &name.task, name.attempt);
        let _alone = self.lock(&from);
        to.make_run_dir(&target)?;
        let parts = Parts::find(&from)?;
        let target_dir = target.with_extension("parts");
        if parts.dir().is_dir() {
            make_dir(&target_dir)?;
        }
        let mut copied = 0;
        for from in parts.files() {
            let dir = if from.starts_with(parts.dir()) { Some(target_dir.as_path()) } else { target.parent() };
            let Some(target) = dir.zip(from.file_name()).map(|(dir, name)| dir.join(name)) else { continue };
            let copy = || -> io::Result<u64> {
                let length = fs::copy(&from, &target)?;
                File::open(&target)?.sync_all()?;
                Ok(length)
            };
            match copy() {
                Ok(length) => copied += length,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("copying", &from, e)),
            }
        }
        Ok(copied)
    }

    /// Makes the path from ids alone, so that no name can lead out of the directory.
    fn path(&self, run: &RunId, task: &TaskRef, attempt: u32) -> PathBuf {
        self.dir.join(run.to_string()).join(format!("{task}.{attempt}.log"))
    }

    fn make_run_dir(&self, path: &Path) -> Result<(), Error> {
        make_dir(path.parent().unwrap_or(&self.dir))
    }

    fn lock(&self, path: &Path) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        // Below STRIPES, so it fits.
        let stripe = (hasher.finish() % STRIPES as u64) as usize;
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_name(name: &str) -> Option<LogName> {
    // The log of an attempt that has only lost bytes has no file but its gaps.
    let stem = [".log", ".gaps", ".parts"].iter().find_map(|end| name.strip_suffix(end))?;
    let (task, attempt) = stem.rsplit_once('.')?;
    Some(LogName { task: task.parse().ok()?, attempt: attempt.parse().ok()? })
}

fn length_of(path: &Path) -> Result<u64, Error> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io("reading", path, e)),
    }
}

fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("listing", dir, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io("listing", dir, e))?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
