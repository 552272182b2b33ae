//! The same over sled on a real disk: a child process plays the workload and is aborted in the middle of a commit; what
//! it left on the disk is opened here, and everything is brought to a sound end.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use segue_coordinator::store::{Batch, Error, Row, SledStore, StateDir, Store};

use crate::{
    support::{
        Random,
        audit::{Ack, Told, audit},
        host::{Host, config},
        worker::{Plan, Shop, Worker},
        workload::{Script, evidence, settled},
    },
    thorough,
};

/// Names the directory in which the child plays.
const DIR: &str = "SEGUE_TEST_DIR";
/// At which write the child ends, and where in it: `before`, `applied` or `flushed`.
const DIES: &str = "SEGUE_TEST_DIES_AT";

/// Deaths of a normal test.
const SAMPLE: u64 = 6;

/// Ends the process at a chosen moment, without any goodbye.
#[derive(Debug)]
struct Dying {
    store: SledStore,
    at: usize,
    moment: String,
    writes: AtomicUsize,
}

impl Dying {
    fn dies(&self, moment: &str) {
        if self.moment == moment && self.writes.load(Ordering::SeqCst) == self.at {
            std::process::abort();
        }
    }
}

impl Store for Dying {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.store.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.store.scan(prefix, after, limit)
    }

    fn scan_back(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, Error> {
        self.store.scan_back(prefix, before, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), Error> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.dies("before");
        self.store.apply(batch)?;
        self.dies("applied");
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.store.flush()?;
        // Several writes may share a flush.
        if self.moment == "flushed" && self.writes.load(Ordering::SeqCst) >= self.at {
            std::process::abort();
        }
        Ok(())
    }
}

/// What the child does: plays everything, and writes down what it was told.
#[test]
fn the_child_plays_until_it_is_ended() {
    let (Some(dir), Ok(dies)) = (std::env::var_os(DIR), std::env::var(DIES)) else { return };
    let (moment, at) = dies.split_once(' ').unwrap();
    let (dir, moment, at) = (Path::new(&dir).to_owned(), moment.to_owned(), at.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let state = dir.join("state");
        let store = SledStore::open(StateDir::new(&state).store()).unwrap();
        let store = Arc::new(Dying { store, at, moment, writes: AtomicUsize::new(0) });
        let host = Host::start(store, config(&state), 0).await.unwrap();
        let shop = Arc::new(Shop::default());
        let client = host.client();
        let workers = ["w1", "w2"].map(|name| Worker::start(client.clone(), Plan::new(name), Arc::clone(&shop)));
        let mut book = OpenOptions::new().create(true).append(true).open(dir.join("told")).unwrap();
        let file = dir.join("told");
        let written = || 0;
        let mut script = Script::new(&client, &shop, &file, &written);
        script.on_told = Some(Box::new(move |what| {
            if let Ack::Submitted { key, run } = what {
                writeln!(book, "{key} {run}").unwrap();
            }
        }));
        script.play().await;
        for worker in workers {
            worker.kill().await;
        }
    });
}

fn told(file: &Path) -> Vec<Told> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The last line may be half there.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(key, run)| Told { written: 0, what: Ack::Submitted { key: key.to_owned(), run: run.to_owned() } })
        .collect()
}

/// Has a child play until its death; says whether it died.
fn child(dir: &Path, moment: &str, at: usize) -> bool {
    let log = File::create(dir.join("log")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["killed::the_child_plays_until_it_is_ended", "--exact", "--nocapture"])
        .env(DIR, dir)
        .env(DIES, format!("{moment} {at}"))
        .stdout(Stdio::null())
        .stderr(log);
    let status = command.status().unwrap();
    let log = || std::fs::read_to_string(dir.join("log")).unwrap();
    assert!(!log().contains("panicked"), "{}", log());
    !status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_ended_at_any_commit_leaves_a_store_that_goes_on() {
    let seed = std::env::var("SEGUE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random::new(seed);
    let deaths = if thorough() { 150 } else { SAMPLE };
    let mut died = 0;
    for n in 0..deaths {
        let dir = tempfile::tempdir().unwrap();
        let moment = ["before", "applied", "flushed"][usize::try_from(n % 3).unwrap()];
        let at =
            if thorough() { usize::try_from(n + 1).unwrap() } else { usize::try_from(1 + random.below(100)).unwrap() };
        let (path, of) = (dir.path().to_owned(), moment.to_owned());
        let ended = tokio::task::spawn_blocking(move || child(&path, &of, at)).await.unwrap();
        died += u32::from(ended);
        let what = format!("SEGUE_SEED={seed}: dead {moment} write {at}");
        let state = dir.path().join("state");
        let store = Arc::new(SledStore::open(StateDir::new(&state).store()).unwrap_or_else(|e| panic!("{what}: {e}")));
        let host = Host::start(store.clone(), config(&state), 0).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let shop = Arc::new(Shop::default());
        shop.quick.store(true, Ordering::SeqCst);
        let client = host.client();
        let workers = ["w1", "w2"].map(|name| Worker::start(client.clone(), Plan::new(name), Arc::clone(&shop)));
        settled(&client, Some(&*store as &dyn Store)).await;
        let found = audit(&evidence(&client, &*store, &shop, told(&dir.path().join("told"))).await);
        assert_eq!(found, Vec::<String>::new(), "{what}");
        for worker in workers {
            worker.kill().await;
        }
        host.stop().await.unwrap();
    }
    assert!(died > 0, "no child was ended in the middle");
}
