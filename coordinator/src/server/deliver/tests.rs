#![allow(clippy::unwrap_used)]

use segue_proto::store::v1::delivery_record::Retry;

use super::*;
use crate::store::MemoryStore;

fn key(lane: u64, due_ms: u64, offset: u64) -> DeliveryKey {
    DeliveryKey { lane, due_ms, offset, hook: 0 }
}

fn record() -> DeliveryRecord {
    DeliveryRecord {
        event: Some(v1::FeedEvent {
            offset: 5,
            kind: v1::EventKind::RunFailed.into(),
            run_id: "run_01j8zk5m8w0000000000000000".to_owned(),
            pipeline: "p".to_owned(),
            ..v1::FeedEvent::default()
        }),
        hook: 1,
        first_ms: 1_000,
        retry: Some(Retry { attempts: 3, constant: true, initial_ms: 500, max_ms: 500, jitter: 0.0 }),
        ..DeliveryRecord::default()
    }
}

fn filled(keys: &[DeliveryKey]) -> MemoryStore {
    let store = MemoryStore::new();
    let mut batch = Batch::new();
    for key in keys {
        batch.put(&Key::Delivery(*key), &record());
    }
    batch.put(&Key::Cursor("x".to_owned()), &DeliveryRecord::default());
    store.apply(&batch).unwrap();
    store
}

#[test]
fn every_receiver_has_its_line_whatever_the_length_of_the_others() {
    let mut keys: Vec<DeliveryKey> = (0..500).map(|n| key(1, n, n)).collect();
    keys.extend([key(2, 7, 1_000), key(u64::MAX, u64::MAX, u64::MAX)]);
    let store = filled(&keys);
    let found = lanes(&store, &HashSet::new(), &HashSet::new()).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].waiting, (0..LIMITS.of_lane as u64).map(|n| key(1, n, n)).collect::<Vec<_>>());
    assert_eq!(found[1].waiting, [key(2, 7, 1_000)]);
    assert_eq!(found[2].waiting, [key(u64::MAX, u64::MAX, u64::MAX)]);
    assert!(lanes(&MemoryStore::new(), &HashSet::new(), &HashSet::new()).unwrap().is_empty());
}

#[test]
fn what_is_under_way_is_not_started_a_second_time() {
    let keys: Vec<DeliveryKey> = (0..8).map(|n| key(1, n, n)).collect();
    let store = filled(&keys);
    let busy: HashSet<DeliveryKey> = keys[..4].iter().copied().collect();
    let found = lanes(&store, &busy, &HashSet::from([1])).unwrap();
    assert_eq!((found[0].under_way, found[0].failing), (4, true));
    assert_eq!(found[0].waiting, keys[4..]);
    assert!(decide(100, &found, LIMITS).start.is_empty());
}

#[test]
fn a_failure_moves_the_delivery_to_its_next_time() {
    let (batch, event) = failed(key(1, 1_000, 5), record(), &Failure::passing("answered 503"), 2_000);
    assert!(event.is_none());
    let store = filled(&[key(1, 1_000, 5)]);
    store.apply(&batch).unwrap();
    let rows = store.scan(&prefix::deliveries(), None, 9).unwrap();
    let (found, record) = store::codec::decode_row::<DeliveryRecord>(&rows[0].0, &rows[0].1).unwrap();
    assert_eq!((rows.len(), found), (1, Key::Delivery(key(1, 2_500, 5))));
    assert_eq!((record.tries, record.last_error.as_str(), record.first_ms), (1, "answered 503", 1_000));
}

#[test]
fn the_last_failure_takes_the_delivery_away_and_says_so() {
    let last = DeliveryRecord { tries: 2, ..record() };
    let (batch, event) = failed(key(1, 1_000, 5), last, &Failure::passing("answered 503"), 2_000);
    let event = event.unwrap();
    assert_eq!(event.kind(), v1::EventKind::HookGaveUp);
    assert_eq!(event.message, "hook 2 (webhook) given up after 3 tries: answered 503");
    assert_eq!((event.pipeline.as_str(), event.offset), ("p", 0), "the feed gives it an offset of its own");
    let details: serde_json::Value = serde_json::from_str(&event.details_json).unwrap();
    assert_eq!((&details["event_offset"], &details["on"]), (&json!(5), &json!("failure")));
    let store = filled(&[key(1, 1_000, 5)]);
    store.apply(&batch).unwrap();
    assert!(store.scan(&prefix::deliveries(), None, 9).unwrap().is_empty());
}
