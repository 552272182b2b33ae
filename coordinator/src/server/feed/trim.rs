//! What of the feed may be forgotten.

use segue_proto::store::v1::EventsRecord;

use crate::{
    core::UnixMillis,
    store::{self, Key, Store, codec, keys::prefix},
};

/// Records of the feed that may be deleted.
#[derive(Debug, Default)]
pub struct Trim {
    pub keys: Vec<Key>,
    pub events: u64,
}

/// Gives up to `most` of the oldest records whose events all happened before `before_ms`. The newest record is never
/// among them: the offsets go on from it.
///
/// # Errors
/// Those of the store.
pub fn expired(store: &dyn Store, before_ms: UnixMillis, most: usize) -> Result<Trim, store::Error> {
    let newest = store.scan_back(&prefix::events(), None, 1)?.into_iter().next().map(|(key, _)| key);
    let mut trim = Trim::default();
    for (key, value) in store.scan(&prefix::events(), None, most)? {
        if Some(&key) == newest.as_ref() {
            break;
        }
        let (key, record) = codec::decode_row::<EventsRecord>(&key, &value)?;
        if record.time_ms >= before_ms {
            break;
        }
        trim.events += record.events.len() as u64;
        trim.keys.push(key);
    }
    Ok(trim)
}
