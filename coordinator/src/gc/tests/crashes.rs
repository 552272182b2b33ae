//! A collection that is cut off after each of its writes in turn.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use segue_proto::ids::Digest;

use super::{
    super::{Ask, collect},
    support::Place,
};
use crate::{
    spec::Retention,
    store::{Batch, Error, Key, MemoryStore, Row, Store, keys::prefix, testing::run},
};

/// A store that refuses every write after some.
#[derive(Debug)]
struct Failing {
    inner: Arc<MemoryStore>,
    left: AtomicUsize,
}

impl Store for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.inner.scan(prefix, after, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.inner.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.map_err(|_| Error::Stopped { reason: "the power is cut".to_owned() })?;
        self.inner.apply(batch)
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }
}

#[tokio::test]
async fn wherever_a_collection_is_cut_off_nothing_dangles_and_the_next_one_ends_it() {
    let ask = Ask { rules: Retention { keep_runs: Some(1), ..Retention::default() }, ..Ask::default() };
    let mut cuts = 0;
    loop {
        let (inner, dir) = (Arc::new(MemoryStore::new()), Arc::new(tempfile::tempdir().unwrap()));
        let before = Place::over(Arc::clone(&inner) as Arc<dyn Store>, Arc::clone(&dir)).await;
        for n in 1..=3 {
            before.add_run(n, &[format!("own {n}").as_bytes(), b"shared"]).await;
        }
        drop(before);

        let failing = Arc::new(Failing { inner: Arc::clone(&inner), left: AtomicUsize::new(cuts) });
        let cut = Place::over(failing, Arc::clone(&dir)).await;
        let ended = collect(&cut.shared, &ask).await.is_ok();
        drop(cut);

        let after = Place::over(Arc::clone(&inner) as Arc<dyn Store>, dir).await;
        assert_eq!(after.problems().await, Vec::<String>::new(), "cut off after {cuts} writes");
        assert!(after.has_blob(b"own 3").await && after.has_blob(b"shared").await);
        let (_, done) = collect(&after.shared, &ask).await.unwrap();
        assert_eq!(done.is_empty(), ended, "cut off after {cuts} writes");
        assert_eq!(after.problems().await, Vec::<String>::new());
        for n in 1..=2 {
            assert!(!after.has(&Key::Run(run(n))) && !after.has_blob(format!("own {n}").as_bytes()).await);
            assert!(!after.has(&Key::Artifact(Digest::of(format!("own {n}").as_bytes()))));
            assert!(after.shared.store.scan(&prefix::tasks(&run(n)), None, 1).unwrap().is_empty());
        }
        assert!(after.shared.store.scan(&prefix::dropped_runs(), None, 1).unwrap().is_empty());
        assert_eq!(after.shared.logs.runs().unwrap(), [run(3)]);
        if ended {
            break;
        }
        cuts += 1;
    }
    assert!(cuts >= 4, "only {cuts} writes: the test cuts nothing");
}
