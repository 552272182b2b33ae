//! What every store must do. Each test runs over all of them.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{Batch, Code, Key, MemoryStore, Precondition, Row, SledStore, Store, keys::prefix, testing, visit};

/// Runs a check over a fresh store of each kind.
fn each(check: impl Fn(&dyn Store)) {
    check(&MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    // Without what the schema check has put there, all start alike.
    let mut batch = Batch::new();
    for (key, _) in store.scan(&[], None, 10).unwrap() {
        batch.delete(&Key::decode(&key).unwrap());
    }
    store.apply(&batch).unwrap();
    check(&store);
}

fn batch_of(rows: &[(&[u8], &[u8])]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put_raw(key.to_vec(), value.to_vec());
    }
    batch
}

fn keys(rows: &[Row]) -> Vec<&[u8]> {
    rows.iter().map(|(key, _)| key.as_slice()).collect()
}

#[test]
fn what_was_put_is_got_and_what_was_deleted_is_gone() {
    each(|store| {
        let cache = Key::Cache("a".to_owned());
        let mut batch = Batch::new();
        batch.put_raw(cache.encode(), b"one".to_vec());
        batch.put_raw(cache.encode(), b"two".to_vec());
        store.apply(&batch).unwrap();
        assert_eq!(store.get(&cache.encode()).unwrap().unwrap(), b"two", "of two writes the later counts");
        let mut batch = Batch::new();
        batch.delete(&cache);
        batch.delete(&Key::Cache("never there".to_owned()));
        store.apply(&batch).unwrap();
        assert_eq!(store.get(&cache.encode()).unwrap(), None);
        store.flush().unwrap();
    });
}

#[test]
fn a_scan_keeps_to_its_prefix_its_order_its_limit_and_its_start() {
    each(|store| {
        store.apply(&batch_of(&[(b"a", b""), (b"b", b""), (b"b\x00", b""), (b"b\xEE", b""), (b"c", b"")])).unwrap();
        let forth = |after: Option<&[u8]>, limit| store.scan(b"b", after, limit).unwrap();
        let back = |before: Option<&[u8]>, limit| store.scan_back(b"b", before, limit).unwrap();
        assert_eq!(keys(&forth(None, 9)), [&b"b"[..], b"b\x00", b"b\xEE"]);
        assert_eq!(keys(&forth(Some(b"b"), 1)), [b"b\x00"]);
        assert_eq!(keys(&forth(Some(b"a"), 1)), [b"b"], "a start before the prefix is the start of the prefix");
        assert!(forth(Some(b"b\xEE"), 9).is_empty() && forth(Some(b"d"), 9).is_empty() && forth(None, 0).is_empty());
        assert_eq!(keys(&back(None, 9)), [&b"b\xEE"[..], b"b\x00", b"b"]);
        assert_eq!(keys(&back(Some(b"b\xEE"), 1)), [b"b\x00"]);
        assert_eq!(keys(&back(Some(b"d"), 1)), [b"b\xEE"], "an end after the prefix is the end of the prefix");
        assert!(back(Some(b"b"), 9).is_empty() && back(Some(b"a"), 9).is_empty());
        assert_eq!(keys(&store.scan(&[], None, 9).unwrap()).len(), 5, "the empty prefix is everything");
        assert_eq!(keys(&store.scan_back(&[], None, 2).unwrap()), [&b"c"[..], b"b\xEE"]);
    });
}

#[test]
fn a_failed_precondition_is_a_conflict_that_names_the_key_and_writes_nothing() {
    each(|store| {
        let (kept, other) = (Key::Cache("kept".to_owned()), Key::Cache("other".to_owned()));
        let mut first = Batch::new();
        first.require(Precondition::Absent(kept.encode()));
        first.put_raw(kept.encode(), b"1".to_vec());
        store.apply(&first).unwrap();

        let mut wrong_value = batch_of(&[(&other.encode(), b"x")]);
        wrong_value.require(Precondition::Equals(kept.encode(), b"2".to_vec()));
        let mut missing = batch_of(&[(&other.encode(), b"x")]);
        missing.require(Precondition::Equals(other.encode(), b"1".to_vec()));
        let mut second_fails = batch_of(&[(&other.encode(), b"x")]);
        second_fails.require(Precondition::Equals(kept.encode(), b"1".to_vec()));
        second_fails.require(Precondition::Absent(kept.encode()));
        for batch in [first, wrong_value, missing, second_fails] {
            let error = store.apply(&batch).unwrap_err();
            assert_eq!(error.code(), Code::Conflict);
            assert!(error.to_string().contains("cache/"), "{error}");
        }
        assert_eq!(store.get(&kept.encode()).unwrap().unwrap(), b"1");
        assert_eq!(store.get(&other.encode()).unwrap(), None);

        let mut moves = batch_of(&[(&kept.encode(), b"2")]);
        moves.require_unchanged(&kept, Some(b"1".to_vec()));
        moves.require_unchanged(&other, None);
        store.apply(&moves).unwrap();
    });
}

#[test]
fn values_of_any_size_come_back_whole_also_when_they_grow_and_shrink() {
    each(|store| {
        let key = Key::Cache("big".to_owned()).encode();
        for length in [0, 4095, 4096, 1_000_000, 8192, 10, 5000] {
            let value: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            store.apply(&batch_of(&[(&key, &value)])).unwrap();
            assert_eq!(store.get(&key).unwrap().unwrap(), value);
            assert_eq!(store.scan(&[], None, 9).unwrap(), [(key.clone(), value.clone())], "no piece is a row");
            let mut compares = Batch::new();
            compares.require(Precondition::Equals(key.clone(), value));
            store.apply(&compares).unwrap();
        }
    });
}

#[test]
fn runs_come_newest_first_from_the_back() {
    each(|store| {
        for n in 0..3 {
            let mut batch = Batch::new();
            let run = testing::run(n);
            batch.put(&Key::Run(run), &testing::run_record(&run, 2));
            batch.put(&Key::Task { run, task: 0 }, &segue_proto::store::v1::TaskRecord::default());
            store.apply(&batch).unwrap();
        }
        let newest = store.scan_back(&prefix::runs(), None, 2).unwrap();
        assert_eq!(keys(&newest), [Key::Run(testing::run(2)).encode(), Key::Run(testing::run(1)).encode()]);
        let older = store.scan_back(&prefix::runs(), Some(&newest[1].0), 2).unwrap();
        assert_eq!(keys(&older), [Key::Run(testing::run(0)).encode()]);
    });
}

#[test]
fn a_visit_sees_every_row_once_over_many_pages() {
    each(|store| {
        let run = testing::run(1);
        let mut batch = Batch::new();
        for task in 0..1000 {
            batch.put_raw(Key::Task { run, task }.encode(), vec![1]);
        }
        store.apply(&batch).unwrap();
        let mut seen = Vec::new();
        visit(store, &prefix::tasks(&run), |key, _| {
            seen.push(Key::decode(&key).unwrap());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, (0..1000).map(|task| Key::Task { run, task }).collect::<Vec<_>>());
    });
}

/// One step of the comparison below.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    PutIfAbsent(u8),
    Scan(u8, u8),
    Back(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..12, prop_oneof![0_usize..40, 4000_usize..13_000]).prop_map(|(key, length)| Step::Put(key, length)),
        (0_u8..12).prop_map(Step::Delete),
        (0_u8..12).prop_map(Step::PutIfAbsent),
        (0_u8..12, 0_u8..5).prop_map(|(from, limit)| Step::Scan(from, limit)),
        (0_u8..12, 0_u8..5).prop_map(|(from, limit)| Step::Back(from, limit)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_stores_answer_alike_whatever_is_done_to_them(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Box<dyn Store>; 2] =
            [Box::new(MemoryStore::new()), Box::new(SledStore::open(dir.path()).unwrap())];
        let key = |n: u8| Key::Cache(format!("k{n}")).encode();
        for step in steps {
            let answers: Vec<Vec<Row>> = stores.iter().map(|store| match &step {
                Step::Put(n, length) => {
                    store.apply(&batch_of(&[(&key(*n), &vec![*n; *length])])).unwrap();
                    Vec::new()
                }
                Step::Delete(n) => {
                    let mut batch = Batch::new();
                    batch.delete(&Key::Cache(format!("k{n}")));
                    store.apply(&batch).unwrap();
                    Vec::new()
                }
                Step::PutIfAbsent(n) => {
                    let mut batch = batch_of(&[(&key(*n), b"new")]);
                    batch.require(Precondition::Absent(key(*n)));
                    // The answer is compared through its effect and its kind.
                    let conflict = store.apply(&batch).is_err();
                    vec![(vec![u8::from(conflict)], store.get(&key(*n)).unwrap().unwrap())]
                }
                Step::Scan(n, limit) => store.scan(&prefix::cache(), Some(&key(*n)), usize::from(*limit)).unwrap(),
                Step::Back(n, limit) => store.scan_back(&prefix::cache(), Some(&key(*n)), usize::from(*limit)).unwrap(),
            }).collect();
            prop_assert_eq!(&answers[0], &answers[1]);
        }
    }
}
