//! Where bytes of a log are missing: lines of `POSITION LOST` beside it, in the order of the log.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::store::Error;

/// Gaps of one part. A sender that loses bytes more often than this gets a new part: no file grows without end.
const MOST: usize = 10_000;

/// The gaps of one part of a log.
#[derive(Debug)]
pub(super) struct Gaps {
    file: PathBuf,
    /// Position in the file of what came after the gap, and the bytes lost before it.
    gaps: Vec<(u64, u64)>,
    /// The last line has no end: a crash tore it.
    torn: bool,
}

/// Where an offset is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The offset itself, or the end of the gap that it is in.
    pub(super) offset: u64,
    /// Position of that in the file.
    pub(super) position: u64,
    /// Bytes from there to the next gap or the end.
    pub(super) left: u64,
    /// Bytes of the gap from the asked offset on.
    pub(super) lost_before: u64,
}

impl Gaps {
    /// Reads the gaps of a log of which `kept` bytes are in its file. A line that cannot be read, or that lies beyond
    /// the end, was torn by a crash and is passed over.
    pub(super) fn read(file: &Path, kept: u64) -> Result<Self, Error> {
        let text = match fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("reading", file, e)),
        };
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        let mut total: u64 = 0;
        // Only a line with its end is whole.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            if gaps.len() == MOST {
                break;
            }
            let Some((position, lost)) = line.split_once(' ') else { continue };
            let (Ok(position), Ok(lost)) = (position.parse::<u64>(), lost.parse::<u64>()) else { continue };
            let in_order = gaps.last().is_none_or(|&(last, _)| last <= position);
            let Some(sum) = total.checked_add(lost).filter(|sum| sum.checked_add(kept).is_some()) else { continue };
            if in_order && position <= kept {
                total = sum;
                gaps.push((position, lost));
            }
        }
        let torn = !text.is_empty() && !text.ends_with('\n');
        Ok(Self { file: file.to_owned(), gaps, torn })
    }

    /// Gives how many bytes are lost in all.
    pub(super) fn lost(&self) -> u64 {
        self.gaps.iter().map(|&(_, lost)| lost).sum()
    }

    /// Says whether no more can be recorded.
    pub(super) fn are_full(&self) -> bool {
        self.gaps.len() >= MOST
    }

    /// Records a gap at the end of the file, before the bytes that follow it are written: if the process dies in
    /// between, they are sent again and find the gap in place.
    pub(super) fn add(&mut self, position: u64, lost: u64) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.file)?;
            // A mere line end would make a whole line of it, with a number that may be cut.
            let end_of_torn = if self.torn { " torn\n" } else { "" };
            file.write_all(format!("{end_of_torn}{position} {lost}\n").as_bytes())
        };
        // An error of the disk, as with the log itself: no fault of the sender.
        write().map_err(|e| Error::io("writing", &self.file, e))?;
        self.gaps.push((position, lost));
        self.torn = false;
        Ok(())
    }

    /// Finds an offset in a file of `kept` bytes.
    pub(super) fn locate(&self, offset: u64, kept: u64) -> Place {
        // Bytes lost before the place that is looked at.
        let mut lost = 0;
        for (i, &(position, size)) in self.gaps.iter().enumerate() {
            let begin = position + lost;
            if offset < begin {
                let at = offset - lost;
                return Place { offset, position: at, left: position - at, lost_before: 0 };
            }
            lost += size;
            if offset < begin + size {
                // Gaps without a byte between them are one: there is nothing to read in the middle of them.
                let later = &self.gaps[i + 1..];
                let more: u64 = later.iter().take_while(|&&(next, _)| next == position).map(|&(_, lost)| lost).sum();
                let next = later.iter().map(|&(next, _)| next).find(|&next| next > position).unwrap_or(kept);
                let place = begin + size + more;
                return Place { offset: place, position, left: next - position, lost_before: place - offset };
            }
        }
        let position = (offset - lost.min(offset)).min(kept);
        Place { offset, position, left: kept - position, lost_before: 0 }
    }
}
