//! Store faults: the workload is played over a store that fails at a chosen write, most of all one that has written what
//! it says it has not. The coordinator carries on, or it stops and says why; after a restart on what the disk has,
//! nothing that was acknowledged is lost and nothing is done twice.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use segue_coordinator::store::Store;
use tokio_util::sync::CancellationToken;

use crate::{
    support::{
        Random,
        audit::audit,
        client::Client,
        disk::{Disk, DiskStore, Fault},
        host::{Host, blobs, config},
        worker::{Plan, Shop, Worker},
        workload::{Script, evidence, settled},
    },
    thorough,
};

/// Seeds of a normal test. Each plays the whole workload once, with several faults.
const SEEDS: u64 = 4;

/// What one play came to.
#[derive(Debug, Default)]
struct Outcome {
    faults: Vec<Fault>,
    starts: usize,
    found: Vec<String>,
}

/// Keeps a coordinator running at one address: when a fault has stopped it, the next one starts on what the disk has.
async fn keep_running(
    dir: &Path,
    disk: &Disk,
    seed: u64,
    port: u16,
    done: CancellationToken,
    last: Arc<Mutex<Option<Arc<DiskStore>>>>,
) -> Outcome {
    let mut random = Random::new(seed);
    let mut outcome = Outcome::default();
    loop {
        // Gaps grow, so that the workload is sure to come to its end.
        let at = 1 + random.below(20 + 12 * outcome.starts as u64);
        let fault = Fault::ALL[usize::try_from(random.below(Fault::ALL.len() as u64)).unwrap()];
        let store = Arc::new(DiskStore::open(disk).with_blobs(blobs(dir)).failing(usize::try_from(at).unwrap(), fault));
        *last.lock().unwrap() = Some(Arc::clone(&store));
        outcome.starts += 1;
        let started = Host::start(store.clone() as Arc<dyn Store>, config(dir), port).await;
        let ended = match started {
            Ok(mut host) => tokio::select! {
                ended = host.ended_by_itself() => ended,
                () = done.cancelled() => {
                    let ended = host.stop().await;
                    if store.has_failed() {
                        outcome.faults.push(fault);
                    } else {
                        ended.unwrap();
                    }
                    return outcome;
                }
            },
            Err(e) => Err(e),
        };
        assert!(store.has_failed(), "seed {seed}: it ended without a fault: {ended:?}");
        let error = ended.expect_err("a coordinator whose store has failed says so");
        assert!(error.to_string().contains("store"), "seed {seed} {fault:?}: {error}");
        outcome.faults.push(fault);
        disk.lose_power(random.next());
    }
}

async fn play(seed: u64) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let disk = Disk::new();
    // A port that is free now is taken again and again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let done = CancellationToken::new();
    let last = Arc::new(Mutex::new(None));
    let running = tokio::spawn({
        let (state, disk, done, last) = (state.clone(), disk.clone(), done.clone(), Arc::clone(&last));
        async move { keep_running(&state, &disk, seed, port, done, last).await }
    });
    let client = Client::new(([127, 0, 0, 1], port).into());
    let shop = Arc::new(Shop::default());
    let workers = ["w1", "w2"].map(|name| Worker::start(client.clone(), Plan::new(name), Arc::clone(&shop)));
    let file = dir.path().join("there");
    std::fs::write(&file, "there").unwrap();
    let written = || disk.written();
    let mut script = Script::new(&client, &shop, &file, &written);
    script.play().await;
    let told = std::mem::take(&mut script.told);
    settled(&client, None).await;
    done.cancel();
    let mut outcome = running.await.unwrap();
    // The last one is without faults, so that the auditor can look in peace.
    let store = Arc::new(DiskStore::open(&disk));
    let host = Host::start(store.clone(), config(&state), port).await.unwrap();
    settled(&client, Some(&*store as &dyn Store)).await;
    outcome.found = audit(&evidence(&client, &*store, &shop, told).await);
    for worker in workers {
        worker.kill().await;
    }
    host.stop().await.unwrap();
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_store_does_nothing_acknowledged_is_lost_and_nothing_is_done_twice() {
    let first = std::env::var("SEGUE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let seeds = if thorough() { 60 } else { SEEDS };
    let mut happened = Vec::new();
    for seed in first..first + seeds {
        let outcome = play(seed).await;
        assert_eq!(outcome.found, Vec::<String>::new(), "SEGUE_SEED={seed}: {outcome:?}");
        happened.extend(outcome.faults);
    }
    for fault in [Fault::Denied, Fault::Refused, Fault::FlushFails] {
        assert!(happened.contains(&fault), "{fault:?} never happened: {happened:?}");
    }
}
