#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::store::{Batch, MemoryStore, Row};

/// A store that stops its readers within the second page of the first pass until it is told to go on.
#[derive(Debug, Default)]
struct Paused {
    rows: MemoryStore,
    pages: AtomicUsize,
    /// Whether readers may go on.
    open: Mutex<bool>,
    changed: Condvar,
    arrived: tokio::sync::Notify,
}

impl Paused {
    fn go_on(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Store for Paused {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        let page = self.rows.scan(prefix, after, limit)?;
        if self.pages.fetch_add(1, Ordering::SeqCst) == 1 {
            self.arrived.notify_one();
            drop(self.changed.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
        }
        Ok(page)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.rows.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        self.rows.apply(batch)
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn key(n: usize) -> Vec<u8> {
    Key::Cache(format!("{n:06}")).encode()
}

fn put(keys: impl Iterator<Item = usize>, value: u64) -> Batch {
    let mut batch = Batch::new();
    keys.for_each(|n| batch.put_raw(key(n), value.to_be_bytes().to_vec()));
    batch
}

fn rows(file: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    export::read(file, |row| {
        rows.push(row);
        Ok(())
    })
    .unwrap();
    rows
}

#[tokio::test]
async fn commits_are_answered_while_the_records_are_read_and_are_in_the_backup() {
    let store = Arc::new(Paused::default());
    store.apply(&put(0..1_000, 1)).unwrap();
    let committer = Committer::start(store.clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records");
    let going = tokio::spawn({
        let (committer, file) = (committer.clone(), file.clone());
        async move { running(&committer, file).await }
    });
    store.arrived.notified().await;
    // The first page has been read, the second one is held; the third one is still to come.
    let mut batch = put([0, 300, 900, 2_000].into_iter(), 2);
    for gone in [1, 301, 901] {
        batch.delete_raw(key(gone));
    }
    let answered = tokio::time::timeout(Duration::from_secs(30), committer.commit(batch)).await;
    answered.expect("nobody waits for the reader").unwrap();
    // More than commits may ever wait for.
    committer.commit(put(3_000..3_000 + 3 * FEW, 3)).await.unwrap();
    store.go_on();
    let exported = going.await.unwrap().unwrap();
    let now = store.rows.scan(&[], None, usize::MAX).unwrap();
    assert_eq!(rows(&file), now);
    assert_eq!(exported.records, now.len() as u64);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
}

#[tokio::test]
async fn a_backup_of_a_busy_store_is_of_one_moment() {
    let store = Arc::new(MemoryStore::new());
    // Far apart, so that they are never in one page.
    let together = [0, 700, 1_400, 2_100, 2_800];
    store.apply(&put(0..3_000, 0)).unwrap();
    let committer = Committer::start(store).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (committer, stop) = (committer.clone(), Arc::clone(&stop));
        async move {
            let mut value = 0;
            while !stop.load(Ordering::SeqCst) {
                value += 1;
                // One value in all of them at any moment, and much else that changes.
                let mut batch = put(together.into_iter(), value);
                batch.append(put((0..40).map(|n| 10_000 + (value as usize * 7 + n * 131) % 5_000), value));
                committer.commit(batch).await.unwrap();
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for n in 0..20 {
        let file = dir.path().join(format!("records-{n}"));
        running(&committer, file.clone()).await.unwrap();
        let found: BTreeMap<Vec<u8>, Vec<u8>> = rows(&file).into_iter().collect();
        let values: BTreeSet<&Vec<u8>> = together.iter().map(|&n| &found[&key(n)]).collect();
        assert_eq!(values.len(), 1, "they were written together: {values:?}");
        seen.extend(values.first().map(|value| u64::from_be_bytes(value.as_slice().try_into().unwrap())));
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    assert!(seen.is_sorted() && seen.last() > Some(&0), "it was written meanwhile: {seen:?}");
}
