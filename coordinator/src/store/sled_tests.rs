#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use super::*;
use crate::store::{Code, read, testing::run};

fn put(store: &SledStore, key: &Key, value: &[u8]) {
    let mut batch = Batch::new();
    batch.put_raw(key.encode(), value.to_vec());
    store.apply(&batch).unwrap();
    store.flush().unwrap();
}

#[test]
fn what_was_flushed_is_there_after_reopening_however_large() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (Key::Cache("small".to_owned()), Key::Cache("large".to_owned()));
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    let id = {
        let store = SledStore::open(dir.path()).unwrap();
        put(&store, &small, b"1");
        put(&store, &large, &big);
        meta::store_id(&store).unwrap()
    };
    for _ in 0..3 {
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!(store.get(&small.encode()).unwrap().unwrap(), b"1");
        assert!(store.get(&large.encode()).unwrap().unwrap() == big);
        assert_eq!(meta::store_id(&store).unwrap(), id);
    }
}

#[test]
fn no_value_goes_to_a_file_that_sled_does_not_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    for round in 0..20_u8 {
        let mut batch = Batch::new();
        for n in 0..40 {
            batch.put_raw(Key::Cache(format!("key {n}")).encode(), vec![round; 5_000 * (n + 1)]);
        }
        store.apply(&batch).unwrap();
        store.flush().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0, "round {round}");
    }
}

#[test]
fn epochs_count_up_over_restarts_and_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    for expected in 1..=3 {
        let store = SledStore::open(dir.path()).unwrap();
        let (mut ours, mut theirs) = (Batch::new(), Batch::new());
        assert_eq!(meta::next_epoch(&store, &mut ours).unwrap(), expected);
        assert_eq!(meta::next_epoch(&store, &mut theirs).unwrap(), expected);
        store.apply(&ours).unwrap();
        assert_eq!(store.apply(&theirs).unwrap_err().code(), Code::Conflict);
        store.flush().unwrap();
        assert_eq!(meta::epoch(&store).unwrap(), expected);
    }
}

#[test]
fn a_second_open_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = SledStore::open(dir.path()).unwrap();
    let error = SledStore::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::InUse);
    let message = error.to_string();
    assert!(message.contains(&format!("pid {}", std::process::id())) && message.contains("--server"), "{message}");
    drop(first);
    SledStore::open(dir.path()).unwrap();
}

#[test]
fn a_store_of_a_newer_release_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    put(&SledStore::open(dir.path()).unwrap(), &Key::Meta(Meta::Schema), b"segue-store 42");
    let error = SledStore::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::NewerSchema);
    let message = error.to_string();
    assert!(message.contains("version 42") && message.contains("version 2"), "{message}");
}

#[test]
fn a_schema_that_cannot_be_read_is_refused() {
    for garbage in [&b""[..], b"\xFF\xFE", b"segue-store x", b"segue-store 0", b"something else"] {
        let dir = tempfile::tempdir().unwrap();
        put(&SledStore::open(dir.path()).unwrap(), &Key::Meta(Meta::Schema), garbage);
        assert_eq!(SledStore::open(dir.path()).unwrap_err().code(), Code::NotAStore, "{garbage:?}");
    }
}

#[test]
fn a_database_of_another_program_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = sled::open(dir.path()).unwrap();
        db.insert("theirs", "data").unwrap();
        db.flush().unwrap();
    }
    assert_eq!(SledStore::open(dir.path()).unwrap_err().code(), Code::NotAStore);
    assert_eq!(open_sled(dir.path(), false).unwrap().len(), 1);
}

#[test]
fn a_directory_that_cannot_be_used_is_named_with_a_fix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = SledStore::open(&path).unwrap_err();
        assert_eq!(error.code(), Code::Directory);
        let message = error.to_string();
        assert!(message.contains("a-file") && message.contains("--state-dir"), "{message}");
    }
    let missing = dir.path().join("missing");
    assert_eq!(SledStore::open_existing(&missing).unwrap_err().code(), Code::Directory);
    assert!(!missing.exists(), "looking does not make it");
}

#[test]
fn a_record_that_cannot_be_decoded_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let key = Key::Run(run(4));
    put(&store, &key, &[1, 255]);
    let error = read::<segue_proto::store::v1::RunRecord>(&store, &key).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    assert!(
        error.to_string().contains(&key.to_string()) && error.to_string().contains("segue store verify"),
        "{error}"
    );
}

#[test]
fn database_files_that_lost_their_content_are_damage_and_not_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    put(&SledStore::open(dir.path()).unwrap(), &Key::Cache("k".to_owned()), b"v");
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "db" || name.starts_with("snap") {
            fs::write(&path, []).unwrap();
        }
    }
    let error = SledStore::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::Damaged);
    assert!(error.to_string().contains("segue store restore"), "{error}");
}

#[test]
fn garbage_in_the_database_files_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = SledStore::open(dir.path()).unwrap();
        for n in 0..2_000 {
            put_unflushed(&store, n);
        }
        store.flush().unwrap();
    }
    let db = dir.path().join("db");
    let mut bytes = fs::read(&db).unwrap();
    for (i, byte) in bytes.iter_mut().enumerate().skip(100) {
        if i % 7 == 0 {
            *byte ^= 0x5A;
        }
    }
    fs::write(&db, bytes).unwrap();
    let read = SledStore::open(dir.path()).and_then(|store| store.scan(&[], None, usize::MAX));
    assert!(read.is_err(), "{} rows came back out of garbage", read.unwrap().len());
}

fn put_unflushed(store: &SledStore, n: u32) {
    let mut batch = Batch::new();
    batch.put_raw(Key::Cache(n.to_string()).encode(), vec![7; 300]);
    store.apply(&batch).unwrap();
}

#[test]
fn a_piece_that_is_missing_is_corruption_that_names_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let key = Key::Cache("large".to_owned());
    put(&store, &key, &vec![1; 20_000]);
    store.db.db.remove(pieces::key(&key.encode(), 2)).unwrap();
    let error = store.get(&key.encode()).unwrap_err();
    assert!(error.code() == Code::Corrupt && error.to_string().contains("cache/large"), "{error}");
    put(&store, &key, b"mended");
    assert_eq!(store.get(&key.encode()).unwrap().unwrap(), b"mended");
    assert!(store.db.db.scan_prefix([pieces::PIECE_TAG]).next().is_none(), "no piece is left over");
}

/// A store with some rows, closed in order.
fn filled(dir: &Path, rows: u32) {
    let store = SledStore::open(dir).unwrap();
    (0..rows).for_each(|n| put_unflushed(&store, n));
    store.flush().unwrap();
}

/// Opens the database as sled does, behind the back of the store.
fn behind(dir: &Path, work: impl FnOnce(&sled::Db)) {
    let db = open_sled(dir, true).unwrap();
    work(&db);
    db.flush().unwrap();
}

fn refusal(dir: &Path) -> String {
    let error = SledStore::open(dir).and_then(|store| store.check()).unwrap_err();
    assert_eq!(error.code(), Code::Damaged, "{error}");
    let text = error.to_string();
    for part in [dir.to_str().unwrap(), "segue store verify", "segue store restore"] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    text
}

#[test]
fn a_row_that_is_lost_old_or_added_behind_our_back_is_noticed() {
    let key = Key::Cache("7".to_owned()).encode();
    for (damage, said) in [("lost", "it has 101 rows, and there were 102"), ("old", "not as they were written last")] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 100);
        behind(dir.path(), |db| {
            match damage {
                "lost" => db.remove(&key).unwrap(),
                _ => db.insert(&key, vec![0, 6]).unwrap(),
            };
        });
        assert!(refusal(dir.path()).contains(said));
        assert!(refusal(dir.path()).contains(said), "and it is not forgotten");
    }
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 100);
    behind(dir.path(), |db| drop(db.insert(Key::Cache("new".to_owned()).encode(), vec![0, 6]).unwrap()));
    assert!(refusal(dir.path()).contains("it has 103 rows"));
}

#[test]
fn an_older_copy_of_the_database_is_noticed_by_the_mark_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 100);
    let before: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && !path.ends_with(mark::FILE))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    filled(dir.path(), 30);
    for entry in fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() && !entry.ends_with(mark::FILE) {
            fs::remove_file(entry).unwrap();
        }
    }
    before.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let text = refusal(dir.path());
    assert!(text.contains("the last 30 of 131 batches that were on the disk are lost"), "{text}");
}

#[test]
fn a_seal_that_is_gone_or_garbage_is_damage() {
    for garbage in [None, Some(&b""[..]), Some(b"0123456789abcdef0123456")] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 10);
        behind(dir.path(), |db| {
            match garbage {
                None => db.remove(seal::KEY).unwrap(),
                Some(garbage) => db.insert(seal::KEY, garbage).unwrap(),
            };
        });
        assert!(refusal(dir.path()).contains("the seal of its rows"), "{garbage:?}");
    }
}

#[test]
fn a_damaged_mark_is_made_anew_and_costs_nothing() {
    for garbage in [None, Some(&b""[..]), Some(&[0xFF; 300]), Some(b"segue-store 2, flushed 00000000000000000000")] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 10);
        let (file, was) = (dir.path().join(mark::FILE), mark::read(dir.path()).unwrap());
        assert_eq!(was, Said::Flushed(11));
        match garbage {
            None => fs::remove_file(&file).unwrap(),
            Some(garbage) => fs::write(&file, garbage).unwrap(),
        }
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!(store.scan(&[], None, usize::MAX).unwrap().len(), 12);
        assert_eq!(mark::read(dir.path()).unwrap(), was, "{garbage:?}");
    }
}

#[test]
fn a_store_of_the_first_layout_is_counted_and_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let row = (Key::Cache("k".to_owned()).encode(), vec![0, 5, 5]);
    {
        let db = open_sled(dir.path(), false).unwrap();
        db.insert(Key::Meta(Meta::Schema).encode(), b"\0segue-store 1").unwrap();
        db.insert(Key::Meta(Meta::StoreId).encode(), b"\0abc").unwrap();
        db.insert(&row.0, row.1.clone()).unwrap();
        db.flush().unwrap();
    }
    fs::write(dir.path().join(mark::FILE), "1\n").unwrap();
    for _ in 0..2 {
        let store = SledStore::open(dir.path()).unwrap();
        store.check().unwrap();
        assert_eq!(store.get(&row.0).unwrap().unwrap(), [5, 5]);
        assert_eq!(store.get(&Key::Meta(Meta::Schema).encode()).unwrap().unwrap(), b"segue-store 2");
        assert_eq!(meta::store_id(&store).unwrap(), "abc");
    }
    behind(dir.path(), |db| drop(db.remove(&row.0).unwrap()));
    assert!(refusal(dir.path()).contains("it has 2 rows, and there were 3"));
}

#[test]
fn rows_that_are_written_while_they_are_compared_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3_000);
    let store = SledStore::open_within(dir.path(), Duration::ZERO).unwrap();
    for round in 0..200 {
        let mut batch = Batch::new();
        for n in 0..5 {
            let key = Key::Cache((round * 17 + n * 701).to_string());
            if n == 3 { batch.delete(&key) } else { batch.put_raw(key.encode(), vec![9; (round * 40) as usize]) }
        }
        store.apply(&batch).unwrap();
    }
    store.check().unwrap();
    store.flush().unwrap();
    drop(store);
    SledStore::open(dir.path()).unwrap().check().unwrap();
}

#[test]
fn damage_that_is_found_beside_the_work_ends_the_writing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1_000);
    behind(dir.path(), |db| drop(db.remove(Key::Cache("7".to_owned()).encode()).unwrap()));
    let store = SledStore::open_within(dir.path(), Duration::ZERO).unwrap();
    let since = Instant::now();
    while store.db.broken.get().is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing was noticed");
        put_if_it_goes(&store);
    }
    let mut batch = Batch::new();
    batch.put_raw(Key::Cache("later".to_owned()).encode(), vec![1]);
    assert_eq!(store.apply(&batch).unwrap_err().code(), Code::Damaged);
    assert_eq!(store.flush().unwrap_err().code(), Code::Damaged);
}

fn put_if_it_goes(store: &SledStore) {
    let mut batch = Batch::new();
    batch.put_raw(Key::Cache("500".to_owned()).encode(), vec![7; 10]);
    let _ = store.apply(&batch);
}

#[test]
fn what_is_left_of_a_damaged_store_can_be_looked_at_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 100);
    behind(dir.path(), |db| drop(db.remove(Key::Cache("7".to_owned()).encode()).unwrap()));
    let store = SledStore::open_to_look(dir.path()).unwrap();
    assert_eq!(store.scan(&[], None, usize::MAX).unwrap().len(), 101);
    assert_eq!(store.check().unwrap_err().code(), Code::Damaged);
    let mut batch = Batch::new();
    batch.put_raw(Key::Cache("7".to_owned()).encode(), vec![7; 10]);
    assert_eq!(store.apply(&batch).unwrap_err().code(), Code::Damaged);
    store.flush().unwrap();
    drop(store);
    refusal(dir.path());
}
