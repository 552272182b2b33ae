#![allow(clippy::unwrap_used)]

use std::fs;

use segue_proto::{store::v1 as stored, v1};

use super::*;
use crate::store::{
    Batch, Code,
    testing::{MODEL, ORDERS, Sample, run},
};

async fn problems(sample: &Sample) -> Vec<String> {
    verify(sample.store.clone(), &sample.blobs).await.unwrap().problems
}

#[tokio::test]
async fn a_whole_store_has_no_problems_and_is_counted() {
    let sample = Sample::new().await;
    sample.blobs.put_bytes("nobody needs this".into()).await.unwrap();
    let report = verify(sample.store.clone(), &sample.blobs).await.unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.records, report.blobs, report.orphans), (13, 3, 1));
    assert_eq!(verify_dir(&sample.dirs).await.unwrap_err().code(), Code::InUse);
    let nowhere = StateDir::new(sample.beside("nowhere"));
    assert_eq!(verify_dir(&nowhere).await.unwrap_err().code(), Code::Directory);
}

#[tokio::test]
async fn a_flipped_byte_in_a_blob_is_found_and_its_producers_are_named() {
    let sample = Sample::new().await;
    let file = sample.blob_file(ORDERS);
    let mut bytes = fs::read(&file).unwrap();
    bytes[3] ^= 1;
    fs::write(&file, bytes).unwrap();
    let found = problems(&sample).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("is damaged") && found[0].contains(Digest::of(ORDERS).as_str()), "{found:?}");
    assert!(found[0].contains("clean.orders (attempt 1) of run_"), "{found:?}");
}

#[tokio::test]
async fn a_missing_blob_is_found() {
    let sample = Sample::new().await;
    sample.blobs.delete(&Digest::of(MODEL)).await.unwrap();
    let found = problems(&sample).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("is missing: produced by clean.model"), "{found:?}");
}

#[tokio::test]
async fn records_that_cannot_be_read_or_do_not_fit_together_are_named() {
    let sample = Sample::new().await;
    let mut batch = Batch::new();
    let damaged = Key::Pipeline(Digest::of(b"p"));
    batch.put_raw(damaged.encode(), vec![1, 255, 255]);
    batch.put_raw(vec![0x77, 1], vec![1]);
    let beyond = Key::Task { run: run(7), task: 2 };
    batch.put(&beyond, &stored::TaskRecord::default());
    let homeless = Key::Task { run: run(1), task: 0 };
    batch.put(&homeless, &stored::TaskRecord::default());
    let astray = Key::Run(run(2));
    batch.put(&astray, &crate::store::testing::run_record(&run(3), 1));
    let alias = v1::SetAliasRequest { version: 9, ..Default::default() };
    batch.put(&Key::Alias { name: "customer-kmeans".parse().unwrap(), alias: "old".parse().unwrap() }, &alias);
    sample.store.apply(&batch).unwrap();
    let found = problems(&sample).await;
    for expected in [
        damaged.to_string(),
        "0x7701".to_owned(),
        format!("{beyond}` is beyond the 2 tasks"),
        format!("{homeless}` belongs to a run that does not exist"),
        format!("{astray}` says of itself"),
        "customer-kmeans@old` names version 9".to_owned(),
    ] {
        assert_eq!(found.iter().filter(|problem| problem.contains(&expected)).count(), 1, "{expected}: {found:?}");
    }
    assert_eq!(found.len(), 6, "{found:?}");
}

#[tokio::test]
async fn a_size_that_a_record_has_wrong_is_found() {
    let sample = Sample::new().await;
    let mut artifact = crate::store::testing::artifact(ORDERS);
    artifact.size_bytes += 1;
    let mut batch = Batch::new();
    let cache = stored::CacheRecord {
        outputs: vec![v1::NamedArtifact { name: "orders".to_owned(), artifact: Some(artifact), key: String::new() }],
        ..Default::default()
    };
    batch.put(&Key::Cache("k".to_owned()), &cache);
    sample.store.apply(&batch).unwrap();
    let found = problems(&sample).await;
    assert!(found.len() == 1 && found[0].contains("cache/k"), "{found:?}");
}
