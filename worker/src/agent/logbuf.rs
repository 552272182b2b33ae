//! The tail of an attempt's log that the coordinator has not confirmed yet, within a bound.
//!
//! Offsets count bytes from the start of the attempt, dropped ones included. When the bound is reached the oldest bytes
//! go: the end of a log says why a task failed.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes kept of an attempt's log until the coordinator confirms them.
pub const KEPT_BYTES: usize = 1024 * 1024;

/// A piece of a log on its way up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub data: Bytes,
    /// Bytes dropped just before this piece.
    pub lost_before: u64,
}

/// Bounded buffer with three marks: `acked <= sent <= end`, and the first kept byte `start`.
#[derive(Debug)]
pub struct LogBuffer {
    data: VecDeque<u8>,
    bound: usize,
    start: u64,
    sent: u64,
    acked: u64,
}

impl LogBuffer {
    /// Makes an empty buffer of at most `bound` bytes.
    #[must_use]
    pub const fn new(bound: usize) -> Self {
        Self { data: VecDeque::new(), bound, start: 0, sent: 0, acked: 0 }
    }

    /// Gives the length of the log so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }

    /// Adds bytes, and drops the oldest where there are too many.
    pub fn append(&mut self, bytes: &[u8]) {
        self.data.extend(bytes);
        let excess = self.data.len().saturating_sub(self.bound);
        self.data.drain(..excess);
        self.start += excess as u64;
    }

    /// Takes the next piece that was not sent on this link, of at most `longest` bytes.
    pub fn next(&mut self, longest: usize) -> Option<Chunk> {
        let offset = self.sent.max(self.start);
        if offset >= self.end() {
            return None;
        }
        // The difference is below the bound, which is a usize.
        let from = (offset - self.start) as usize;
        let to = self.data.len().min(from + longest);
        let data: Bytes = self.data.range(from..to).copied().collect();
        let lost_before = offset - self.sent;
        self.sent = offset + data.len() as u64;
        Some(Chunk { offset, data, lost_before })
    }

    /// Gives how many bytes wait to be sent.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.end() - self.sent.max(self.start)
    }

    /// Says whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sent < self.end()
    }

    /// Notes that the coordinator keeps everything before `offset`.
    pub fn acknowledge(&mut self, offset: u64) {
        let offset = offset.min(self.end());
        self.acked = self.acked.max(offset);
        self.sent = self.sent.max(self.acked);
        let confirmed = self.acked.saturating_sub(self.start) as usize;
        self.data.drain(..confirmed.min(self.data.len()));
        self.start = self.start.max(self.acked);
    }

    /// Starts again at the last confirmed byte, for a new link.
    pub const fn rewind(&mut self) {
        self.sent = self.acked;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn chunk(offset: u64, data: &'static [u8], lost_before: u64) -> Option<Chunk> {
        Some(Chunk { offset, data: Bytes::from_static(data), lost_before })
    }

    #[test]
    fn pieces_carry_their_offset() {
        let mut log = LogBuffer::new(100);
        log.append(b"hello ");
        log.append(b"world");
        assert_eq!(log.next(8), chunk(0, b"hello wo", 0));
        assert_eq!(log.next(8), chunk(8, b"rld", 0));
        assert_eq!(log.next(8), None);
        assert_eq!(log.end(), 11);
    }

    #[test]
    fn a_slow_coordinator_costs_the_oldest_bytes_and_is_told_how_many() {
        let mut log = LogBuffer::new(4);
        log.append(b"abcdef");
        assert_eq!(log.next(10), chunk(2, b"cdef", 2));
        assert_eq!(log.end(), 6);
    }

    #[test]
    fn bytes_dropped_after_they_were_sent_are_no_gap() {
        let mut log = LogBuffer::new(4);
        log.append(b"abcd");
        assert_eq!(log.next(10), chunk(0, b"abcd", 0));
        log.append(b"ef");
        assert_eq!(log.next(10), chunk(4, b"ef", 0));
    }

    #[test]
    fn a_new_link_resumes_at_the_last_confirmed_byte() {
        let mut log = LogBuffer::new(100);
        log.append(b"abcdef");
        log.next(6);
        log.acknowledge(2);
        log.rewind();
        assert_eq!(log.next(10), chunk(2, b"cdef", 0));
        log.rewind();
        log.acknowledge(5);
        assert_eq!(log.next(10), chunk(5, b"f", 0), "the coordinator says that it has more");
    }

    #[test]
    fn a_confirmation_of_bytes_that_do_not_exist_is_harmless() {
        let mut log = LogBuffer::new(100);
        log.append(b"abc");
        log.acknowledge(u64::MAX);
        assert!(!log.has_unsent());
        log.append(b"d");
        assert_eq!(log.next(10), chunk(3, b"d", 0));
    }

    proptest! {
        #[test]
        fn every_byte_arrives_or_is_counted_as_lost(pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 1..40)) {
            let mut log = LogBuffer::new(64);
            let mut written = Vec::new();
            let mut seen = 0_u64;
            for (piece, send) in pieces {
                log.append(&piece);
                written.extend(piece);
                while send && let Some(chunk) = log.next(16) {
                    prop_assert_eq!(chunk.offset, seen + chunk.lost_before);
                    let from = usize::try_from(chunk.offset).unwrap();
                    prop_assert_eq!(&chunk.data[..], &written[from..from + chunk.data.len()]);
                    seen = chunk.offset + chunk.data.len() as u64;
                }
            }
            prop_assert_eq!(log.end(), written.len() as u64);
        }
    }
}
