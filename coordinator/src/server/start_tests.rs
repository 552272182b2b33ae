//! What a start reads of the store.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use segue_proto::ids::RunId;

use super::{active::Active, fleet_tests::Cluster};
use crate::store::{Batch, Key, SledStore, StateDir, Store, keys::Meta};

const TASK: &str = "[tasks.a]\ncommand = [\"true\"]\n";

fn closed(dir: &Path) -> SledStore {
    SledStore::open_existing(StateDir::new(dir).store()).unwrap()
}

fn apply(dir: &Path, change: impl FnOnce(&mut Batch)) {
    let store = closed(dir);
    let mut batch = Batch::new();
    change(&mut batch);
    store.apply(&batch).unwrap();
    store.flush().unwrap();
}

/// Starts a coordinator without workers on a store, and leaves it with a run that goes on and one that was cancelled.
async fn with_two_runs(dir: &Path) -> (RunId, RunId) {
    let cluster = Cluster::start(dir).await;
    let (going, ended) = (cluster.submit(TASK).await, cluster.submit(TASK).await);
    cluster.cancel(&ended).await;
    cluster.stop().await;
    (going.parse().unwrap(), ended.parse().unwrap())
}

#[tokio::test]
async fn a_start_reads_the_runs_that_go_on_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (going, ended) = with_two_runs(dir.path()).await;
    assert_eq!(Active::read(&closed(dir.path())).unwrap().runs(), [going]);
    // Nobody who does not read it can be disturbed by it.
    apply(dir.path(), |batch| batch.put_raw(Key::Run(ended).encode(), vec![99]));
    let cluster = Cluster::start(dir.path()).await;
    assert_eq!(cluster.reason(&going.to_string(), "a").await, "no_workers");
    cluster.cancel(&going.to_string()).await;
    cluster.stop().await;
    assert_eq!(Active::read(&closed(dir.path())).unwrap().runs(), []);
}

#[tokio::test]
async fn a_store_of_an_older_release_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (going, _) = with_two_runs(dir.path()).await;
    apply(dir.path(), |batch| {
        batch.delete(&Key::ActiveRun(going));
        batch.delete(&Key::Meta(Meta::ActiveRuns));
    });
    let cluster = Cluster::start(dir.path()).await;
    assert_eq!(cluster.reason(&going.to_string(), "a").await, "no_workers");
    cluster.stop().await;
    assert_eq!(Active::read(&closed(dir.path())).unwrap().runs(), [going]);
}
