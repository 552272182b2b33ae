//! Large values in pieces.
//!
//! sled writes any page above a quarter of a segment to a file of its own that it never syncs, so a large value could be
//! lost by a power cut after a flush that said it was safe. A leaf holds at most some 20 rows: rows of at most
//! [`PIECE_BYTES`] keep every page inside the log, which is synced.

/// 20 rows of this size stay below 128 KiB, a quarter of sled's segment.
pub(super) const PIECE_BYTES: usize = 4 * 1024;

/// First byte of the keys of pieces; the keys of records are below [`super::keys::RESERVED`].
pub(super) const PIECE_TAG: u8 = 0xFF;

const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

/// A value as it is kept under its own key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept<'a> {
    Whole(&'a [u8]),
    InPieces { length: usize, count: u32 },
}

/// Reads what is kept under a key.
pub(super) fn parse(raw: &[u8]) -> Result<Kept<'_>, &'static str> {
    match raw.split_first() {
        Some((&WHOLE, value)) => Ok(Kept::Whole(value)),
        Some((&IN_PIECES, length)) => {
            let length: [u8; 8] = length.try_into().map_err(|_| "the head of its pieces has the wrong length")?;
            let length = usize::try_from(u64::from_be_bytes(length)).map_err(|_| "it is larger than memory")?;
            let count = u32::try_from(length.div_ceil(PIECE_BYTES)).map_err(|_| "it has too many pieces")?;
            Ok(Kept::InPieces { length, count })
        }
        _ => Err("its first byte is unknown"),
    }
}

/// Gives what is kept under the key of a value, and the pieces beside it.
pub(super) fn split(value: &[u8]) -> (Vec<u8>, impl Iterator<Item = &[u8]>) {
    let (mut own, pieces) = if value.len() < PIECE_BYTES { (vec![WHOLE], &[][..]) } else { (vec![IN_PIECES], value) };
    if pieces.is_empty() {
        own.extend_from_slice(value);
    } else {
        own.extend_from_slice(&(value.len() as u64).to_be_bytes());
    }
    (own, pieces.chunks(PIECE_BYTES))
}

/// Gives the key of a piece. Keys of equal length differ in the key itself, so no two values share a piece.
pub(super) fn key(of: &[u8], piece: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(of.len() + 5);
    key.push(PIECE_TAG);
    key.extend_from_slice(of);
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_value_is_whole_below_the_limit_and_in_pieces_from_it_on() {
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let value = vec![7_u8; length];
            let (own, pieces) = split(&value);
            let pieces: Vec<&[u8]> = pieces.collect();
            match parse(&own).unwrap() {
                Kept::Whole(bytes) => assert_eq!((bytes, pieces.len()), (value.as_slice(), 0)),
                Kept::InPieces { length, count } => {
                    assert!(length >= PIECE_BYTES);
                    assert_eq!((length, count as usize), (value.len(), pieces.len()));
                    assert_eq!(pieces.concat(), value);
                }
            }
            assert!(own.len() <= PIECE_BYTES);
        }
    }

    #[test]
    fn garbage_is_refused() {
        for raw in [&[][..], &[9], &[IN_PIECES, 1], &[IN_PIECES, 255, 255, 255, 255, 255, 255, 255, 255]] {
            assert!(parse(raw).is_err(), "{raw:?}");
        }
    }
}
