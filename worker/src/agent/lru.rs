//! Which blobs of the cache may go: least recently used first, pinned ones never.

use std::collections::BTreeMap;

use segue_proto::ids::Digest;

#[derive(Debug)]
struct Entry {
    size: u64,
    pins: u32,
    used: u64,
}

/// Index of the cache: sizes, pins, order of use. It touches no file.
#[derive(Debug)]
pub struct Lru {
    limit: u64,
    total: u64,
    clock: u64,
    entries: BTreeMap<Digest, Entry>,
}

impl Lru {
    /// Makes an empty index that wants to stay within `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { limit, total: 0, clock: 0, entries: BTreeMap::new() }
    }

    /// Adds a blob as the most recently used.
    pub fn insert(&mut self, digest: Digest, size: u64) {
        self.clock += 1;
        if self.entries.contains_key(&digest) {
            return;
        }
        self.total += size;
        self.entries.insert(digest, Entry { size, pins: 0, used: self.clock });
    }

    /// Pins a blob and notes its use; says whether it is there.
    pub fn pin(&mut self, digest: &Digest) -> bool {
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(digest) else { return false };
        entry.pins += 1;
        entry.used = self.clock;
        true
    }

    /// Takes one pin away.
    pub fn unpin(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Forgets a blob that is gone from the disk.
    pub fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.total -= entry.size;
        }
    }

    /// Takes out everything that is not pinned.
    pub fn unused(&mut self) -> Vec<Digest> {
        let gone: Vec<Digest> =
            self.entries.iter().filter(|(_, entry)| entry.pins == 0).map(|(digest, _)| digest.clone()).collect();
        for digest in &gone {
            self.remove(digest);
        }
        gone
    }

    /// Takes out what must go to come back under the limit. Pinned blobs stay, even above it.
    pub fn evict(&mut self) -> Vec<Digest> {
        let mut gone = Vec::new();
        while self.total > self.limit {
            let oldest = self.entries.iter().filter(|(_, e)| e.pins == 0).min_by_key(|(_, e)| e.used);
            let Some(digest) = oldest.map(|(digest, _)| digest.clone()) else { break };
            if let Some(entry) = self.entries.remove(&digest) {
                self.total -= entry.size;
            }
            gone.push(digest);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(20);
        for n in 1..=3 {
            lru.insert(digest(n), 10);
        }
        assert!(lru.pin(&digest(1)));
        lru.unpin(&digest(1));
        assert_eq!(lru.evict(), [digest(2)], "1 was used after 2");
    }

    #[test]
    fn a_pinned_blob_stays_even_above_the_limit() {
        let mut lru = Lru::new(5);
        lru.insert(digest(1), 10);
        assert!(lru.pin(&digest(1)));
        assert!(lru.pin(&digest(1)));
        lru.unpin(&digest(1));
        assert!(lru.evict().is_empty());
        lru.unpin(&digest(1));
        assert_eq!(lru.evict(), [digest(1)]);
        assert!(!lru.pin(&digest(1)));
    }

    #[test]
    fn a_blob_counts_once() {
        let mut lru = Lru::new(15);
        lru.insert(digest(1), 10);
        lru.insert(digest(1), 10);
        assert!(lru.evict().is_empty());
    }
}
