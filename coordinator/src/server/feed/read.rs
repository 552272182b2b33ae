//! Reading the feed from the store.

use std::collections::BTreeSet;

use prost::Message as _;
use segue_proto::{store::v1::EventsRecord, v1};

use super::record;
use crate::{
    server::error::Error,
    store::{self, Key, Store, codec, keys::prefix},
};

/// Events of one page: enough to make a read worth it.
const MOST_EVENTS: usize = 4_096;
/// Bytes after which a page ends, well below what one message may have.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Records that one page looks at, so that a reader of rare events lets others have their turn.
const MOST_RECORDS: usize = 4_096;
/// Records of one scan.
const ROWS: usize = 64;

/// What a reader wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Empty: every kind.
    pub kinds: BTreeSet<i32>,
    /// Empty: every run.
    pub run: String,
    /// Empty: every pipeline.
    pub pipeline: String,
}

impl Filter {
    /// Says whether an event is wanted.
    #[must_use]
    pub fn wants(&self, event: &v1::FeedEvent) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.run.is_empty() || self.run == event.run_id)
            && (self.pipeline.is_empty() || self.pipeline == event.pipeline)
    }
}

/// Some events, and where to go on.
#[derive(Debug, Default)]
pub struct Page {
    pub events: Vec<v1::FeedEvent>,
    pub next: u64,
}

/// Gives the offset of the oldest event that is kept.
///
/// # Errors
/// Those of the store.
pub fn oldest(store: &dyn Store) -> Result<Option<u64>, store::Error> {
    Ok(store.scan(&prefix::events(), None, 1)?.first().and_then(|(key, _)| offset_of(key)))
}

/// Reads the wanted events from `from` on, up to but without `end`: what is after it is not flushed yet. 0 means the
/// oldest that is kept. The page may hold nothing, and yet lead on.
///
/// # Errors
/// [`Error::EventsGone`] when `from` is not kept any more or has not happened yet; those of the store.
pub fn page(store: &dyn Store, from: u64, end: u64, filter: &Filter) -> Result<Page, Error> {
    let from = if from == 0 { oldest(store)?.unwrap_or(end) } else { from };
    if from == end {
        return Ok(Page { next: end, ..Page::default() });
    }
    let gone = || -> Result<Page, Error> {
        Err(Error::EventsGone { wanted: from, oldest: oldest(store)?.unwrap_or(end), next: end })
    };
    if from > end {
        return gone();
    }
    // The record that holds `from` is the last one that begins at or before it.
    let after_it = Key::Events(from.saturating_add(1)).encode();
    let Some(mut row) = store.scan_back(&prefix::events(), Some(&after_it), 1)?.into_iter().next() else {
        return gone();
    };
    let mut page = Page { next: from, ..Page::default() };
    let mut bytes = 0;
    let mut rows = Vec::new().into_iter();
    let mut begun = false;
    for _ in 0..MOST_RECORDS {
        let (key, record) = codec::decode_row::<EventsRecord>(&row.0, &row.1)?;
        let Key::Events(first) = key else {
            return Err(store::Error::corrupt(key, "not a part of the feed").into());
        };
        let after = first.saturating_add(record.events.len() as u64);
        if !(first..after).contains(&page.next) {
            // Dropped under the reader, who is told so when it asks for it.
            return if begun { Ok(page) } else { gone() };
        }
        begun = true;
        for event in record::unpack(first, record).skip_while(|event| event.offset < from) {
            if event.offset >= end || page.events.len() >= MOST_EVENTS || bytes >= MOST_BYTES {
                return Ok(page);
            }
            page.next = event.offset + 1;
            if filter.wants(&event) {
                bytes += event.encoded_len();
                page.events.push(event);
            }
        }
        row = match rows.next() {
            Some(next) => next,
            None => {
                rows = store.scan(&prefix::events(), Some(&row.0), ROWS)?.into_iter();
                match rows.next() {
                    Some(next) => next,
                    None => return Ok(page),
                }
            }
        };
    }
    Ok(page)
}

fn offset_of(key: &[u8]) -> Option<u64> {
    match Key::decode(key) {
        Ok(Key::Events(first)) => Some(first),
        _ => None,
    }
}
