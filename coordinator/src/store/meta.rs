//! What the store says about itself: layout version, epoch, id. Plain text, so that any release can read it.

use super::{
    Batch, Store,
    error::Error,
    keys::{Key, Meta},
};

/// The layout of keys and values that this release reads and writes.
///
/// Version 2 keeps a seal of the rows. A program that does not know it would leave it behind, so it must not write.
pub const SCHEMA: u32 = 2;

/// What the value of the schema key begins with; the version follows in decimal.
const SCHEMA_MARK: &str = "segue-store ";

/// Why a store was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SchemaFault {
    Newer(u32),
    NotOurs(String),
}

/// Accepts a store of this layout. One without a schema version, which must be empty, is made into such a store.
pub(crate) fn check_schema(store: &dyn Store) -> Result<Result<(), SchemaFault>, Error> {
    let key = Key::Meta(Meta::Schema).encode();
    let Some(value) = store.get(&key)? else {
        let mut batch = Batch::new();
        batch.put_raw(key, format!("{SCHEMA_MARK}{SCHEMA}").into_bytes());
        batch.put_raw(Key::Meta(Meta::StoreId).encode(), ulid::Ulid::new().to_string().to_lowercase().into_bytes());
        store.apply(&batch)?;
        store.flush()?;
        return Ok(Ok(()));
    };
    Ok(match parse_schema(&value) {
        Ok(SCHEMA) => Ok(()),
        // Records are as they were. The store has counted its rows, and seals them with this batch.
        Ok(1) => {
            let mut batch = Batch::new();
            batch.put_raw(key, format!("{SCHEMA_MARK}{SCHEMA}").into_bytes());
            store.apply(&batch)?;
            store.flush()?;
            Ok(())
        }
        Ok(found) if found > SCHEMA => Err(SchemaFault::Newer(found)),
        Ok(found) => Err(SchemaFault::NotOurs(format!("schema version {found} never existed"))),
        Err(reason) => Err(SchemaFault::NotOurs(reason)),
    })
}

/// Reads the epoch: how many times a coordinator has started on this store.
///
/// # Errors
/// Those of the store, and [`Error::Corrupt`] for a value that is no number.
pub fn epoch(store: &dyn Store) -> Result<u64, Error> {
    let key = Key::Meta(Meta::Epoch);
    match store.get(&key.encode())? {
        Some(value) => parse_epoch(&value).map_err(|reason| Error::corrupt(key, reason)),
        None => Ok(0),
    }
}

/// Adds the step to the next epoch to a batch and gives that epoch. Two coordinators cannot get the same one: the
/// batch conflicts if the epoch has moved.
///
/// # Errors
/// Those of [`epoch`].
pub fn next_epoch(store: &dyn Store, batch: &mut Batch) -> Result<u64, Error> {
    let key = Key::Meta(Meta::Epoch);
    let now = store.get(&key.encode())?;
    let next = epoch(store)?.checked_add(1).ok_or_else(|| Error::corrupt(&key, "the epoch has run out of numbers"))?;
    batch.require_unchanged(&key, now);
    batch.put_raw(key.encode(), next.to_string().into_bytes());
    Ok(next)
}

/// Gives the batch that moves the epoch of a restored store past those that the original has given out since the
/// backup: to `now_ms`, for no coordinator starts a thousand times a second.
pub(crate) fn later_epoch(store: &dyn Store, now_ms: u64) -> Result<Batch, Error> {
    let mut batch = Batch::new();
    let next = epoch(store)?.saturating_add(1).max(now_ms);
    batch.put_raw(Key::Meta(Meta::Epoch).encode(), next.to_string().into_bytes());
    Ok(batch)
}

/// Reads the id that the store was given when it was made.
///
/// # Errors
/// Those of the store, and [`Error::Corrupt`] if there is none.
pub fn store_id(store: &dyn Store) -> Result<String, Error> {
    let key = Key::Meta(Meta::StoreId);
    let value = store.get(&key.encode())?.ok_or_else(|| Error::corrupt(&key, "it is missing"))?;
    parse_store_id(&value).map_err(|reason| Error::corrupt(key, reason))
}

pub(crate) fn parse_schema(value: &[u8]) -> Result<u32, String> {
    let text = std::str::from_utf8(value).ok().and_then(|text| text.strip_prefix(SCHEMA_MARK));
    text.and_then(|number| number.parse().ok()).ok_or_else(|| "its schema version cannot be read".to_owned())
}

pub(crate) fn parse_epoch(value: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|number| number.parse().ok()).ok_or_else(|| "not a number".to_owned())
}

pub(crate) fn parse_store_id(value: &[u8]) -> Result<String, String> {
    let plain = !value.is_empty() && value.len() <= 64 && value.iter().all(u8::is_ascii_alphanumeric);
    if plain { Ok(String::from_utf8_lossy(value).into_owned()) } else { Err("not an id".to_owned()) }
}
