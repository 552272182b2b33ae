//! What a store knows of its own rows: how many batches it has taken, how many rows they left, and a sum over those.
//!
//! sled checks each message of its log, but a start passes over those that it cannot read and goes on: a flipped byte
//! loses up to a segment of writes without a word, and rows come back as they were before. So each batch carries the seal
//! of what is there after it. Rows that are not those of the seal are noticed when all of them are read; a seal that is
//! older than the batch that is noted beside the database, at once (see [`super::mark`]).

/// First byte of the keys of the seal and of what lies around it: no record, no piece.
pub(super) const SEAL_TAG: u8 = 0xF8;

/// Where the seal is among the keys of its tag.
const PLACE: u8 = 32;

/// Key of the seal.
pub(super) const KEY: [u8; 2] = [SEAL_TAG, PLACE];

/// Gives the keys of empty rows around the seal. sled writes a leaf of up to 16 rows again after every few changes; with
/// these beside it, the seal shares its leaf with nothing that is large.
pub(super) fn company() -> impl Iterator<Item = [u8; 2]> {
    (0..2 * PLACE).filter(|&place| place != PLACE).map(|place| [SEAL_TAG, place])
}

/// Rows, in no order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rows: u64,
    sum: u64,
}

impl Tally {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }

    /// Puts a row in the place of another one of the same key.
    pub(super) fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        if let Some(old) = old {
            self.remove(key, old);
        }
        if let Some(new) = new {
            self.add(key, new);
        }
    }
}

/// What a store holds after a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seal {
    /// Batches since the store was made.
    pub(super) batches: u64,
    pub(super) tally: Tally,
}

impl Seal {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.batches, self.tally.rows, self.tally.sum].iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let &[batches, rows, sum] = numbers else { return None };
        let [batches, rows, sum] = [batches, rows, sum].map(u64::from_be_bytes);
        rest.is_empty().then_some(Self { batches, tally: Tally { rows, sum } })
    }
}

/// Rows that are being read again, in the order of their keys, while the store is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Check {
    /// Everything up to this key has been read.
    pub(super) upto: Option<Vec<u8>>,
    pub(super) tally: Tally,
}

impl Check {
    pub(super) fn has_read(&self, key: &[u8]) -> bool {
        self.upto.as_deref().is_some_and(|upto| key <= upto)
    }
}

/// Hashes a row. Part of what is on disk: it stays as it is. It is for accidents, not for forgers, and it is fast because
/// it is computed twice for every row that is written. One word that differs always gives another hash.
fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for bytes in [key, value] {
        // With its length first, `ab` + `c` is not `a` + `bc`.
        state = stir(state, bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            state = stir(state, u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            state = stir(state, u64::from_le_bytes(last));
        }
    }
    // The end of SplitMix64, after Steele, Lea and Flood: sums of the result do not cancel.
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Takes in a word. For a given state it is a bijection, and for a given word too.
const fn stir(state: u64, word: u64) -> u64 {
    (state.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// Digests bytes that are checked by it when they are read again.
pub(super) fn check_of(bytes: &[u8]) -> u64 {
    hash(b"", bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_of_a_row_is_that_of_every_release() {
        assert_eq!(hash(b"run/1", b"a value of more than eight bytes"), KNOWN);
    }

    /// As the first release with seals had it.
    const KNOWN: u64 = 0xd713_d9a6_4b66_9041;

    #[test]
    fn a_seal_reads_back_and_garbage_does_not() {
        let seal = Seal { batches: 7, tally: Tally { rows: 3, sum: u64::MAX } };
        assert_eq!(Seal::decode(&seal.encode()), Some(seal));
        for garbage in [&[][..], &[0; 23], &[0; 25]] {
            assert_eq!(Seal::decode(garbage), None);
        }
    }

    #[test]
    fn the_seal_lies_among_its_company() {
        let company: Vec<[u8; 2]> = company().collect();
        assert!(company.len() > 3 * 16 && !company.contains(&KEY));
        assert!(company.iter().filter(|key| **key < KEY).count() > 16, "a leaf of sled on either side");
        assert!(company.iter().filter(|key| **key > KEY).count() > 16);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_gives_another_tally(
            rows in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 1..20),
                proptest::collection::vec(any::<u8>(), 1..70),
                1..20,
            ),
            which: prop::sample::Index, at: prop::sample::Index, bit in 0_u8..8,
        ) {
            let tally = |rows: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>| {
                let mut tally = Tally::default();
                rows.iter().for_each(|(key, value)| tally.add(key, value));
                tally
            };
            let before = tally(&rows);
            let mut changed = rows;
            let key = changed.keys().nth(which.index(changed.len())).unwrap().clone();
            let value = changed.get_mut(&key).unwrap();
            let old = value.clone();
            let place = at.index(value.len());
            value[place] ^= 1 << bit;
            let after = tally(&changed);
            prop_assert_ne!(before, after);
            let mut mended = after;
            mended.change(&key, Some(&changed[&key]), Some(&old));
            prop_assert_eq!(mended, before, "what is taken away and put back is as it was");
        }
    }
}
