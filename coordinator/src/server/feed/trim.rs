//! What of the feed may be forgotten.

use segue_proto::store::v1::{CursorRecord, EventsRecord};

use crate::{
    core::UnixMillis,
    store::{self, Key, Store, codec, keys::prefix},
};

/// A record of the feed that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub key: Key,
    /// When its events happened, and everything before them.
    pub at: UnixMillis,
    pub events: u64,
}

/// Gives up to `most` of the oldest records whose events all happened before `before_ms` and which nobody still has to
/// read: neither one of the `readers`, by the name of its cursor, nor a hook. The newest record is never among them: the
/// offsets go on from it. What is given is always the beginning of the feed, so that it never has a hole.
///
/// # Errors
/// Those of the store.
pub fn expired(
    store: &dyn Store,
    before_ms: UnixMillis,
    readers: &[&str],
    most: usize,
) -> Result<Vec<Part>, store::Error> {
    /// Records of one scan: each may hold many events.
    const ROWS: usize = 256;
    let Some((newest, _)) = store.scan_back(&prefix::events(), None, 1)?.into_iter().next() else {
        return Ok(Vec::new());
    };
    let unread = unread(store, readers)?;
    let mut parts: Vec<Part> = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(&prefix::events(), after.as_deref(), ROWS)?;
        let Some((last, _)) = rows.last() else { return Ok(parts) };
        after = Some(last.clone());
        for (key, value) in rows {
            let is_newest = key == newest;
            let (key, record) = codec::decode_row::<EventsRecord>(&key, &value)?;
            let Key::Events(first) = key else { return Err(store::Error::corrupt(key, "not a part of the feed")) };
            let events = record.events.len() as u64;
            // Where the clock was set back, a record is as old as the youngest before it.
            let at = parts.last().map_or(record.time_ms, |before| before.at.max(record.time_ms));
            let is_read = unread.is_none_or(|unread| first.saturating_add(events) <= unread);
            if is_newest || !is_read || at >= before_ms || parts.len() == most {
                return Ok(parts);
            }
            parts.push(Part { key, at, events });
        }
    }
}

/// Gives the first offset that somebody still has to read; none where nobody has anything to read. A delivery holds its
/// event, but what it tells of should be there for whoever follows it up.
fn unread(store: &dyn Store, readers: &[&str]) -> Result<Option<u64>, store::Error> {
    let mut first: Option<u64> = None;
    let mut needs = |offset: u64| first = Some(first.map_or(offset, |known| known.min(offset)));
    for reader in readers {
        if let Some(cursor) = store::read::<CursorRecord>(store, &Key::Cursor((*reader).to_owned()))? {
            needs(cursor.next_offset);
        }
    }
    store::visit(store, &prefix::deliveries(), |key, _| {
        if let Ok(Key::Delivery(key)) = Key::decode(&key) {
            needs(key.offset);
        }
        Ok(())
    })?;
    Ok(first)
}
