//! The host of the coordinator: the real server on the simulated store and network. It crashes, starts, stops in order.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use object_store::memory::InMemory;
use segue_coordinator::{
    blobs::BlobStore,
    gc::GcConfig,
    logs::Logs,
    server::{Config, Coordinator, Ground, Ids, Offload},
    store::{Committer, Store},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{auditor, chance::Chance, clockwork, disk::Disk, ledger::Ledger, net::Net, say};

/// Of every simulation: long enough that workers come back within it, short enough that some do not.
pub const LEASE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct Host {
    net: Net,
    pub disk: Disk,
    ledger: Ledger,
    blobs: Arc<InMemory>,
    state_dir: PathBuf,
    up: Arc<Mutex<Up>>,
    /// What a flush takes beyond the usual.
    slow_disk_us: Arc<AtomicU64>,
    flushes: Arc<Mutex<Chance>>,
    ids: Arc<Mutex<Chance>>,
}

#[derive(Debug, Default)]
struct Up {
    /// Of the process that runs, or starts.
    stop: Option<CancellationToken>,
    coordinator: Option<Coordinator>,
    starts: u64,
}

impl Host {
    pub fn new(seed: u64, net: &Net, disk: &Disk, ledger: &Ledger, blobs: &Arc<InMemory>, state_dir: PathBuf) -> Self {
        Self {
            net: net.clone(),
            disk: disk.clone(),
            ledger: ledger.clone(),
            blobs: Arc::clone(blobs),
            state_dir,
            up: Arc::default(),
            slow_disk_us: Arc::default(),
            flushes: Arc::new(Mutex::new(Chance::of(seed, "flushes"))),
            ids: Arc::new(Mutex::new(Chance::of(seed, "ids"))),
        }
    }

    fn up(&self) -> MutexGuard<'_, Up> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether a process runs, or starts.
    pub fn is_up(&self) -> bool {
        self.up().stop.as_ref().is_some_and(|stop| !stop.is_cancelled())
    }

    /// Starts a process; it serves when its recovery is done.
    pub fn boot(&self) {
        let stop = CancellationToken::new();
        let number = {
            let mut up = self.up();
            up.stop = Some(stop.clone());
            up.coordinator = None;
            up.starts += 1;
            up.starts
        };
        say!(self.ledger.trace, "coordinator", "starts for the {number}. time");
        let incoming = UnboundedReceiverStream::new(self.net.listen());
        let host = self.clone();
        tokio::spawn(async move {
            let ground = match host.ground() {
                Ok(ground) => ground,
                Err(e) => return host.failed(&stop, &e.to_string()),
            };
            let config = Config {
                state_dir: host.state_dir.clone(),
                blob_url: None,
                lease: LEASE,
                tls: None,
                fires_schedules: true,
                gc: GcConfig { every: None, ..GcConfig::default() },
                openlineage: None,
                hook_allow: segue_coordinator::server::HookAllow::default(),
            };
            let address = ([127, 0, 0, 1], 1).into();
            match Coordinator::start_on(ground, config, address, incoming, stop.clone()).await {
                Ok(coordinator) => {
                    let mut up = host.up();
                    if up.starts == number && !stop.is_cancelled() {
                        say!(host.ledger.trace, "coordinator", "serves");
                        up.coordinator = Some(coordinator);
                    }
                }
                Err(e) => host.failed(&stop, &e.to_string()),
            }
        });
    }

    fn failed(&self, stop: &CancellationToken, why: &str) {
        // A process that was killed meanwhile fails as well.
        if !stop.is_cancelled() {
            say!(self.ledger.trace, "coordinator", "does not start: {why}");
            stop.cancel();
        }
    }

    fn ground(&self) -> Result<Ground, segue_coordinator::store::Error> {
        let store: Arc<dyn Store> = Arc::new(self.disk.mount());
        let (slow, chance) = (Arc::clone(&self.slow_disk_us), Arc::clone(&self.flushes));
        let flush_takes = move || {
            let mut chance = chance.lock().unwrap_or_else(PoisonError::into_inner);
            let usual = if chance.percent(3) { chance.between(5_000, 80_000) } else { chance.delay_us(150, 4_000) };
            let slow = slow.load(Relaxed);
            Duration::from_micros(usual + if slow == 0 { 0 } else { chance.between(0, slow) })
        };
        let committer = Committer::start_in_task(Arc::clone(&store), flush_takes);
        let ids = Arc::clone(&self.ids);
        let ids = Ids::from(move || {
            let draw = ids.lock().unwrap_or_else(PoisonError::into_inner).next();
            u128::from(clockwork::wall_ms()) << 80 | u128::from(draw)
        });
        Ok(Ground {
            store,
            committer,
            blobs: BlobStore::over(Arc::clone(&self.blobs) as Arc<dyn object_store::ObjectStore>, "memory:///sim"),
            logs: Logs::open(self.state_dir.join("logs"))?,
            offload: Offload::Inline,
            ids,
        })
    }

    /// Kills the process. `told`: the other ends of its connections see a reset; else its machine is gone, and they see
    /// nothing at all.
    pub fn crash(&self, told: bool) {
        say!(self.ledger.trace, "coordinator", "is killed{}", if told { "" } else { " with its machine" });
        self.net.stop_listening();
        self.net.break_all(None, told);
        self.disk.crash();
        let mut up = self.up();
        // What is left of it in memory reaches neither disk nor network any more; it is told to end.
        if let Some(stop) = up.stop.take() {
            stop.cancel();
        }
        up.coordinator = None;
    }

    /// Stops in order. What was not flushed would be lost: the crash at the end shows whether that is nothing.
    pub async fn stop(&self) {
        say!(self.ledger.trace, "coordinator", "is asked to stop");
        let (stop, coordinator) = {
            let mut up = self.up();
            (up.stop.take(), up.coordinator.take())
        };
        if let Some(stop) = stop {
            stop.cancel();
        }
        if let Some(coordinator) = coordinator
            && let Err(e) = coordinator.wait().await
        {
            say!(self.ledger.trace, "coordinator", "stopped with an error: {e}");
        }
        self.crash(true);
    }

    /// Says whether it has ended by itself, as after a flush that failed.
    pub fn has_given_up(&self) -> bool {
        self.up().stop.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    pub fn slow_disk(&self, by_us: u64) {
        self.slow_disk_us.store(by_us, Relaxed);
    }

    pub fn starts(&self) -> u64 {
        self.up().starts
    }

    /// Looks into the core.
    pub async fn core(&self) -> Option<auditor::Core> {
        let handle = self.up().coordinator.as_ref()?.handle().clone();
        let look = |core: &segue_coordinator::core::Core| auditor::Core {
            runs: core.runs().count(),
            leases: core.workers().map(|worker| worker.leased.len() + worker.ahead.len()).sum(),
            next_wakeup: core.next_wakeup(),
        };
        handle.read(look).await.ok()
    }
}
