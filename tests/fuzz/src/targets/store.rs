//! What is in the store: pairs of a key and a value, each with its length in four bytes before it, as in the fixtures of
//! releases. Each is read by itself; then a coordinator starts on all of them.

use segue_coordinator::{
    server::desk::Desk,
    store::{Error, Key, Row, codec, keys},
};

use crate::honest::{self, BEGINNING, Honest, LEASE_MS};

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let rows = unpack(bytes);
    for (key, value) in &rows {
        let _ = keys::describe(key);
        let Ok(decoded) = Key::decode(key) else { continue };
        assert_eq!(decoded.encode(), *key, "{decoded}");
        match codec::decode_any(&decoded, value) {
            Ok(value) => drop(value),
            Err(Error::Corrupt { key, .. }) => assert_eq!(key, decoded.to_string()),
            Err(e) => panic!("a value that cannot be read is a damaged record, and not: {e}"),
        }
    }
    let Ok(mut desk) = Desk::start(rows, LEASE_MS, BEGINNING) else { return };
    let _ = (desk.answers(), desk.kept());
    let Some(mut worker) = Honest::connect(&mut desk, honest::hello("honest", &[])) else { return };
    // A store that contradicts itself promises nothing but that the coordinator lives, or stops with a reason.
    for _ in 0..8 {
        let said = desk.said();
        worker.obey(&mut desk, &said);
        worker.succeed(&mut desk);
        worker.beat(&mut desk);
        if desk.pass(u64::from(LEASE_MS) / 2).is_err() {
            return;
        }
    }
    let _ = (desk.answers(), desk.kept());
}

/// Splits an input into rows; what is left over at its end counts for nothing.
#[must_use]
pub fn unpack(mut bytes: &[u8]) -> Vec<Row> {
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (piece, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(piece.to_vec())
    };
    std::iter::from_fn(|| Some((next()?, next()?))).collect()
}

/// Makes an input of rows.
#[must_use]
pub fn pack(rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::new();
    for bytes in rows.iter().flat_map(|(key, value)| [key, value]) {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    out
}
