#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use futures::stream;

use super::*;
use crate::store::Code;

async fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path().to_str().unwrap()).await.unwrap();
    (dir, store)
}

fn files_under(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_under(&path));
        } else {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found
}

async fn collect(store: &BlobStore, digest: &Digest) -> Result<Vec<Bytes>, Error> {
    store.get_stream(digest).await?.1.try_collect().await
}

#[tokio::test]
async fn a_blob_comes_back_from_every_reader_and_lies_where_object_store_reads_it() {
    let (dir, store) = store().await;
    let bytes: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let blob = store.put_bytes(bytes.clone().into()).await.unwrap();
    assert_eq!(blob, Blob { digest: Digest::of(&bytes), size_bytes: 700_000 });
    assert!(fs::read(dir.path().join(blob_key(&blob.digest))).unwrap() == bytes);
    assert!(store.get_bytes(&blob.digest).await.unwrap() == bytes);
    let pieces = collect(&store, &blob.digest).await.unwrap();
    assert!(pieces.concat() == bytes && pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES));
    assert_eq!(store.read_range(&blob.digest, 10, 20).await.unwrap(), bytes[10..20]);
    assert_eq!(store.read_range(&blob.digest, 699_999, u64::MAX).await.unwrap(), bytes[699_999..]);
    assert!(store.read_range(&blob.digest, 700_000, u64::MAX).await.unwrap().is_empty());
    assert_eq!(store.stat(&blob.digest).await.unwrap(), Some(700_000));
    assert_eq!(store.verify_one(&blob.digest).await.unwrap(), Verdict::Good { size_bytes: 700_000 });
    let listed: Vec<Blob> = store.list().try_collect().await.unwrap();
    assert_eq!(listed, [blob]);
}

#[tokio::test]
async fn an_empty_blob_and_a_file_are_stored_too() {
    let (dir, store) = store().await;
    let empty = store.put_bytes(Bytes::new()).await.unwrap();
    assert_eq!(store.get_bytes(&empty.digest).await.unwrap(), Bytes::new());
    assert!(collect(&store, &empty.digest).await.unwrap().concat().is_empty());
    let file = dir.path().join("input.csv");
    fs::write(&file, "a,b\n").unwrap();
    assert_eq!(store.put_file(&file).await.unwrap().digest, Digest::of(b"a,b\n"));
    let error = store.put_file(&dir.path().join("missing.csv")).await.unwrap_err();
    assert!(error.to_string().contains("missing.csv"), "{error}");
}

#[tokio::test]
async fn other_bytes_than_expected_are_refused_and_leave_nothing() {
    let (dir, store) = store().await;
    let expected = Digest::of(b"right");
    let wrong = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"wrong"))]);
    let error = store.put_stream(Some(&expected), wrong).await.unwrap_err();
    assert_eq!(error.code(), Code::WrongDigest);
    assert_eq!(files_under(dir.path()), ["store-id"]);
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_is_dropped_leaves_nothing() {
    let (dir, store) = store().await;
    let breaks = stream::iter([Ok(Bytes::from_static(b"half")), Err("connection lost")]);
    let error = store.put_stream(None, breaks).await.unwrap_err();
    assert!(error.code() == Code::Upload && error.to_string().contains("connection lost"), "{error}");

    let (sent, reached) = tokio::sync::oneshot::channel();
    let stalls =
        stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"half")) }).chain(stream::once(async move {
            let _ = sent.send(());
            std::future::pending().await
        }));
    let upload = tokio::spawn({
        let store = store.clone();
        async move { store.put_stream(None, stalls).await }
    });
    reached.await.unwrap();
    assert_eq!(files_under(dir.path()).len(), 2, "it is staged");
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    assert_eq!(files_under(dir.path()), ["store-id"]);
}

#[tokio::test]
async fn an_identical_blob_is_kept_and_a_torn_one_is_replaced() {
    let (dir, store) = store().await;
    let bytes = Bytes::from_static(b"same bytes");
    let blob = store.put_bytes(bytes.clone()).await.unwrap();
    let file = dir.path().join(blob_key(&blob.digest));
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    let number = fs::metadata(&file).unwrap().ino();
    store.put_bytes(bytes.clone()).await.unwrap();
    let after = fs::metadata(&file).unwrap();
    assert_eq!(after.ino(), number, "it was not written again");
    assert!(after.modified().unwrap() > long_ago, "but counts as stored now");
    fs::write(&file, "same").unwrap();
    store.put_bytes(bytes.clone()).await.unwrap();
    assert_eq!(store.get_bytes(&blob.digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_damaged_blob_of_the_right_size_is_replaced_and_nobody_relies_on_it() {
    let (dir, store) = store().await;
    let bytes = Bytes::from_static(b"same bytes");
    let blob = store.put_bytes(bytes.clone()).await.unwrap();
    let file = dir.path().join(blob_key(&blob.digest));
    let sound = |mut budget: u64| store.is_sound(&blob.digest, 10, &mut budget);
    for known in [false, true] {
        assert!(sound(100) && store.sound_and_fresh(&blob.digest).await.unwrap() == Some(10));
        if known {
            store.just_stored(&blob.digest).await.unwrap();
        }
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "same bytez").unwrap();
        // A disk that rots leaves the time as it was.
        fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
        assert!(!sound(100));
        assert!(sound(9), "what is too long to be looked at is only measured");
        assert_eq!(store.sound_and_fresh(&blob.digest).await.unwrap(), None);
        store.put_bytes(bytes.clone()).await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"same bytes");
    }
    assert!(!store.is_sound(&blob.digest, 11, &mut 100), "another size than the record says");
    fs::remove_file(&file).unwrap();
    assert!(!sound(100));
}

#[tokio::test]
async fn an_id_that_is_garbage_is_made_anew() {
    for garbage in [&b""[..], b"\xFF\xFE", b"a b\n", &[b'x'; 65]] {
        let (dir, store) = store().await;
        let id = store.store_id().to_owned();
        fs::write(dir.path().join("store-id"), garbage).unwrap();
        let again = BlobStore::open_local(dir.path()).await.unwrap();
        assert!(again.store_id() != id && !again.store_id().is_empty());
        let kept = BlobStore::open_local(dir.path()).await.unwrap();
        assert_eq!(kept.store_id(), again.store_id());
    }
}

#[tokio::test]
async fn a_damaged_blob_is_not_given_out_as_whole() {
    let (dir, store) = store().await;
    let blob = store.put_bytes(Bytes::from_static(b"precious")).await.unwrap();
    fs::write(dir.path().join(blob_key(&blob.digest)), "preciouS").unwrap();
    assert_eq!(store.get_bytes(&blob.digest).await.unwrap_err().code(), Code::WrongDigest);
    assert_eq!(collect(&store, &blob.digest).await.unwrap_err().code(), Code::WrongDigest);
    let actual = Digest::of(b"preciouS");
    assert_eq!(store.verify_one(&blob.digest).await.unwrap(), Verdict::Wrong { actual, size_bytes: 8 });
}

#[tokio::test]
async fn a_missing_blob_is_named_and_deleting_it_is_no_error() {
    let (_dir, store) = store().await;
    let digest = Digest::of(b"never stored");
    store.delete(&digest).await.unwrap();
    assert!(!store.exists(&digest).await.unwrap());
    assert_eq!(store.verify_one(&digest).await.unwrap(), Verdict::Missing);
    for error in [
        store.get_bytes(&digest).await.unwrap_err(),
        store.read_range(&digest, 0, 1).await.unwrap_err(),
        collect(&store, &digest).await.unwrap_err(),
    ] {
        assert!(error.code() == Code::NoBlob && error.to_string().contains(digest.as_str()), "{error}");
    }
}

#[tokio::test]
async fn the_address_leads_back_to_the_same_store() {
    let (dir, store) = store().await;
    assert!(store.url().starts_with("file:///") && !store.url().ends_with('/'), "{}", store.url());
    assert_eq!(fs::read_to_string(dir.path().join("store-id")).unwrap().trim(), store.store_id());
    let blob = store.put_bytes(Bytes::from_static(b"x")).await.unwrap();
    let again = BlobStore::open(store.url()).await.unwrap();
    assert_eq!((again.store_id(), again.url()), (store.store_id(), store.url()));
    assert!(again.exists(&blob.digest).await.unwrap());
}

#[tokio::test]
async fn strangers_are_not_listed_and_old_uploads_are_swept() {
    let (dir, store) = store().await;
    fs::write(dir.path().join("blobs/README"), "hello").unwrap();
    let lost = dir.path().join("blobs/zz");
    fs::create_dir(&lost).unwrap();
    fs::write(lost.join(Digest::of(b"x").as_str()), "x").unwrap();
    assert!(store.list().try_collect::<Vec<_>>().await.unwrap().is_empty());
    let (old, young) = (dir.path().join("staging/old"), dir.path().join("staging/young"));
    for file in [&old, &young] {
        fs::write(file, "half").unwrap();
    }
    let days_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    fs::File::options().write(true).open(&old).unwrap().set_modified(days_ago).unwrap();
    BlobStore::open_local(dir.path()).await.unwrap();
    assert!(!old.exists() && young.exists());
}

#[tokio::test]
async fn places_that_cannot_hold_blobs_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    fs::write(&file, "").unwrap();
    let error = BlobStore::open(file.to_str().unwrap()).await.unwrap_err();
    assert!(error.code() == Code::Directory && error.to_string().contains("a-file"), "{error}");
    for url in ["gopher://somewhere/else", "s3:///no-bucket", "file://host/path"] {
        let error = BlobStore::open(url).await.unwrap_err();
        assert!(error.code() == Code::Blobs && error.to_string().contains(url), "{error}");
    }
}

#[tokio::test]
async fn an_object_store_keeps_small_blobs_and_those_of_many_parts() {
    let store = BlobStore::open("memory:///segue").await.unwrap();
    assert_eq!((store.store_id(), store.local_root()), ("", None));
    let large = vec![5_u8; usize::try_from(ONE_PUT_BYTES).unwrap() + 12_345];
    for bytes in [b"small".to_vec(), large] {
        let blob = store.put_bytes(bytes.clone().into()).await.unwrap();
        assert!(store.get_bytes(&blob.digest).await.unwrap() == bytes);
    }
    assert_eq!(store.list().try_collect::<Vec<_>>().await.unwrap().len(), 2);
}

/// Makes a stored blob look as if it were stored long ago, and gives its file.
fn age(dir: &tempfile::TempDir, digest: &Digest) -> PathBuf {
    let file = dir.path().join(blob_key(digest));
    fs::File::open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(10)).unwrap();
    file
}

#[tokio::test]
async fn only_a_blob_that_was_stored_before_a_moment_is_collected() {
    let (dir, store) = store().await;
    let old = store.put_bytes("old".into()).await.unwrap().digest;
    let young = store.put_bytes("young".into()).await.unwrap().digest;
    age(&dir, &old);
    assert_eq!(store.collect(&old, 10_000).await.unwrap(), None, "stored at this very moment");
    assert_eq!(store.collect(&old, 10_001).await.unwrap(), Some(3));
    assert_eq!(store.collect(&old, 10_001).await.unwrap(), None, "it is gone");
    assert_eq!(store.collect(&young, 10_001).await.unwrap(), None);
    let left: Vec<(Blob, u64)> = store.list_dated().try_collect().await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].0.digest == young && left[0].1 > 10_001);
}

#[tokio::test]
async fn a_blob_that_is_needed_again_counts_as_stored_now() {
    let (dir, store) = store().await;
    let blob = store.put_bytes("needed".into()).await.unwrap();
    let again = [store.fresh(&blob.digest).await.unwrap().is_some(), store.hold(&blob.digest).await.unwrap()];
    assert_eq!(again, [true, true]);
    for needing in 0..2 {
        age(&dir, &blob.digest);
        if needing == 0 {
            assert_eq!(store.fresh(&blob.digest).await.unwrap(), Some(6));
        } else {
            assert!(store.hold(&blob.digest).await.unwrap());
        }
        assert_eq!(store.collect(&blob.digest, 10_001).await.unwrap(), None);
    }
    let nowhere = Digest::of(b"nowhere");
    assert_eq!(store.fresh(&nowhere).await.unwrap(), None);
    assert!(!store.hold(&nowhere).await.unwrap());
}

#[tokio::test]
async fn what_a_dead_collection_had_taken_aside_is_back_after_the_next_start() {
    let (dir, store) = store().await;
    let digest = store.put_bytes("aside".into()).await.unwrap().digest;
    let file = age(&dir, &digest);
    fs::rename(&file, dir.path().join("staging").join(format!("collect-{digest}"))).unwrap();
    assert!(!store.exists(&digest).await.unwrap());
    let again = BlobStore::open(dir.path().to_str().unwrap()).await.unwrap();
    assert_eq!(again.get_bytes(&digest).await.unwrap(), Bytes::from_static(b"aside"));
}

/// Whoever is told that a blob is there may rely on it, whatever a collection does in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_never_takes_a_blob_that_somebody_was_just_told_is_there() {
    let (dir, store) = store().await;
    let (mut collected, mut told) = (0, 0);
    for _ in 0..400 {
        let digest = store.put_bytes("contended".into()).await.unwrap().digest;
        age(&dir, &digest);
        let (one, other) = (store.clone(), store.clone());
        let (wanted, unwanted) = (digest.clone(), digest.clone());
        let needing = tokio::spawn(async move { one.fresh(&wanted).await.unwrap() });
        let collecting = tokio::spawn(async move { other.collect(&unwanted, 10_001).await.unwrap() });
        let (needed, freed) = (needing.await.unwrap(), collecting.await.unwrap());
        let there = store.exists(&digest).await.unwrap();
        assert!(!(needed.is_some() && freed.is_some()), "told that it is there, and collected");
        assert_eq!(there, freed.is_none());
        collected += usize::from(freed.is_some());
        told += usize::from(needed.is_some());
    }
    assert_eq!(files_under(&dir.path().join("staging")), Vec::<String>::new());
    assert!(collected + told > 0);
}
