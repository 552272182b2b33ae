#![allow(clippy::unwrap_used)]

use std::fs;

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
    assert!(message.contains("version 42") && message.contains("version 1"), "{message}");
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
    assert_eq!(open_sled(dir.path()).unwrap().len(), 1);
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
    store.db.remove(pieces::key(&key.encode(), 2)).unwrap();
    let error = store.get(&key.encode()).unwrap_err();
    assert!(error.code() == Code::Corrupt && error.to_string().contains("cache/large"), "{error}");
    put(&store, &key, b"mended");
    assert_eq!(store.get(&key.encode()).unwrap().unwrap(), b"mended");
    assert!(store.db.scan_prefix([pieces::PIECE_TAG]).next().is_none(), "no piece is left over");
}
