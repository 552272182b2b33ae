//! Crash points: the workload is played once; then a coordinator is started on what was on disk after each of its
//! commits, and must bring everything to an end that the auditor accepts. Finds every missing transition, without chance.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use segue_coordinator::store::Store;

use crate::{
    support::{
        Random,
        audit::{Told, audit},
        client::Client,
        disk::{Disk, DiskStore},
        host::{Host, blobs, config},
        worker::{Plan, Shop, Worker},
        workload::{Script, evidence, settled},
    },
    thorough,
};

/// Crash points of a normal test, spread over the workload.
const SAMPLE: u64 = 24;

/// What the workload left behind.
pub struct Recording {
    pub disk: Disk,
    pub told: Vec<Told>,
}

fn workers(client: &Client, shop: &Arc<Shop>, incarnation: &str) -> Vec<Worker> {
    let plan = |name: &str| Plan { incarnation: incarnation.to_owned(), ..Plan::new(name) };
    ["w1", "w2"].map(|name| Worker::start(client.clone(), plan(name), Arc::clone(shop))).into()
}

async fn end(workers: Vec<Worker>) {
    for worker in workers {
        worker.kill().await;
    }
}

/// Plays the workload without any fault, and has the auditor look at it.
pub async fn record(dir: &Path) -> Recording {
    let disk = Disk::new();
    let state = dir.join("recording");
    let store = Arc::new(DiskStore::open(&disk).with_blobs(blobs(&state)));
    let host = Host::start(store.clone(), config(&state), 0).await.unwrap();
    let shop = Arc::new(Shop::default());
    let client = host.client();
    let workers = workers(&client, &shop, "a1");
    let file = dir.join("there");
    std::fs::write(&file, "there").unwrap();
    let written = || disk.written();
    let mut script = Script::new(&client, &shop, &file, &written);
    script.play().await;
    let told = std::mem::take(&mut script.told);
    settled(&client, Some(&*store)).await;
    let found = audit(&evidence(&client, &*store, &shop, told.clone()).await);
    assert_eq!(found, Vec::<String>::new(), "without any fault");
    end(workers).await;
    host.stop().await.unwrap();
    Recording { disk, told }
}

/// How the workers of before the crash come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workers {
    /// They never heard of what was given to them, and say so.
    SameStart,
    /// They are gone; others come, and the leases of the old ones have to end.
    NewStart,
}

/// Starts on what was there after so many commits, lets everything end, and gives what the auditor finds.
async fn replay(dir: &Path, recording: &Recording, commits: usize, how: Workers) -> Vec<String> {
    let state = dir.join(format!("at-{commits}-{how:?}"));
    recording.disk.restore_blobs(commits, &blobs(&state));
    let disk = recording.disk.prefix(commits);
    let store = Arc::new(DiskStore::open(&disk));
    let (lease, incarnation) = match how {
        Workers::SameStart => (config(&state).lease, "a1"),
        Workers::NewStart => (Duration::from_secs(1), "b1"),
    };
    let config = segue_coordinator::server::Config { lease, ..config(&state) };
    let host = Host::start(store.clone(), config, 0).await.unwrap();
    let shop = Arc::new(Shop::default());
    shop.quick.store(true, Ordering::SeqCst);
    let client = host.client();
    let workers = workers(&client, &shop, incarnation);
    settled(&client, Some(&*store as &dyn Store)).await;
    let told = recording.told.iter().filter(|told| told.written <= commits).cloned().collect();
    let found = audit(&evidence(&client, &*store, &shop, told).await);
    end(workers).await;
    host.stop().await.unwrap();
    std::fs::remove_dir_all(state).unwrap();
    found.into_iter().map(|text| format!("after {commits} commits ({how:?}): {text}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_at_every_commit_brings_everything_to_a_sound_end() {
    let dir = tempfile::tempdir().unwrap();
    let recording = record(dir.path()).await;
    let all = recording.disk.written();
    assert!(all > 60, "the workload has {all} commits: too few to test anything");
    let seed = std::env::var("SEGUE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random::new(seed);
    let points: Vec<usize> = if thorough() {
        (0..=all).collect()
    } else {
        let step = (all as u64).div_ceil(SAMPLE);
        (0..SAMPLE).map(|n| usize::try_from(n * step + random.below(step)).unwrap().min(all)).collect()
    };
    let mut found = Vec::new();
    for commits in points {
        found.extend(replay(dir.path(), &recording, commits, Workers::SameStart).await);
        if thorough() || commits % 8 == 0 {
            found.extend(replay(dir.path(), &recording, commits, Workers::NewStart).await);
        }
        assert_eq!(found, Vec::<String>::new(), "seed {seed}, of {all} commits");
    }
}
