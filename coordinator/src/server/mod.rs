//! The shell: an actor around the core, gRPC handlers, HTTP for health and metrics.

mod active;
pub mod actor;
pub mod api;
mod changes;
mod deliver;
#[doc(hidden)]
pub mod desk;
mod door;
mod error;
mod external;
pub mod feed;
mod find;
mod fleet;
#[cfg(test)]
mod fleet_tests;
pub mod globs;
pub mod http;
mod ids;
mod keda;
mod lineage;
mod metrics;
mod offers;
mod offload;
pub mod openlineage;
mod outbox;
pub mod past;
mod pipelines;
mod plan;
pub mod probes;
mod produce;
pub mod records;
mod reread;
#[cfg(test)]
mod runs_tests;
pub mod schedules;
#[cfg(test)]
mod start_tests;
mod text_diff;
pub mod views;
pub mod wire;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

pub use deliver::HookAllow;
pub use error::Error;
pub use ids::Ids;
pub use offload::Offload;
use segue_proto::{
    DESCRIPTORS, MAX_MESSAGE_BYTES, externalscaler::external_scaler_server::ExternalScalerServer, operator::Catalogue,
    v1,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::InterceptorLayer,
    transport::{Identity, Server, ServerTlsConfig, server::Connected},
};
use tracing::{error, info, warn};

use self::{
    active::Active,
    actor::{Actor, Clock},
    api::Shared,
    feed::Feed,
    past::StorePast,
    wire::WelcomeFacts,
};
use crate::{
    blobs::BlobStore,
    core::{Config as CoreConfig, Core, UnixMillis},
    gc::{self, Gc, GcConfig},
    logs::Logs,
    store::{Batch, Committer, Patient, SledStore, StateDir, Store, meta},
};

/// Settings of a coordinator.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where store, blobs and logs are.
    pub state_dir: PathBuf,
    /// Where blobs are, when they are not under the state directory: `s3://bucket/prefix` and the like.
    pub blob_url: Option<String>,
    /// How long a worker may be silent before its attempts are lost.
    pub lease: Duration,
    /// PEM certificate chain and key.
    pub tls: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether schedules fire and stored backfills go on. Not in a coordinator that ends with its command.
    pub fires_schedules: bool,
    /// What is kept and for how long.
    pub gc: GcConfig,
    /// Where events of lineage are sent.
    pub openlineage: Option<openlineage::send::Target>,
    /// Where webhooks may go.
    pub hook_allow: HookAllow,
}

/// How long a stopping coordinator waits for open calls.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// File in the state directory that says where its coordinator listens.
pub const ADDRESS_FILE: &str = "coordinator.json";

/// A coordinator that serves until its token is cancelled.
#[derive(Debug)]
pub struct Coordinator {
    pub address: SocketAddr,
    pub http_address: Option<SocketAddr>,
    shared: Shared,
    tasks: TaskTracker,
    actor: tokio::task::JoinHandle<Result<(), Error>>,
}

/// What a coordinator stands on: where its state is kept, and how work that blocks is done.
#[derive(Debug)]
pub struct Ground {
    pub store: Arc<dyn Store>,
    pub committer: Committer,
    pub blobs: BlobStore,
    pub logs: Logs,
    pub offload: Offload,
    pub ids: Ids,
}

impl Ground {
    /// Opens the state directory: a store on disk, and threads for what blocks.
    ///
    /// # Errors
    /// The store, the blobs or the logs cannot be opened.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        Self::open_over(config, |store| store).await
    }

    /// As [`Ground::open`], with something between the store on disk and all who use it.
    ///
    /// # Errors
    /// Those of [`Ground::open`].
    pub async fn open_over(
        config: &Config,
        over: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Result<Self, Error> {
        let dir = StateDir::new(&config.state_dir);
        let store = Offload::Threads.run("opening the store", move || SledStore::open(dir.store())).await??;
        Self::on(over(Arc::new(store)), config).await
    }

    /// As [`Ground::open`], on a store that is open already; blobs and logs are where the settings say.
    ///
    /// # Errors
    /// Those of [`Ground::open`].
    pub async fn on(store: Arc<dyn Store>, config: &Config) -> Result<Self, Error> {
        let state_dir = StateDir::new(&config.state_dir);
        let store: Arc<dyn Store> = Arc::new(Patient::new(store));
        let committer = Committer::start(Arc::clone(&store))?;
        let place = config.blob_url.clone().unwrap_or_else(|| state_dir.blobs().to_string_lossy().into_owned());
        let blobs = BlobStore::open(&place).await?;
        let logs = Logs::open(state_dir.logs())?.keeping(config.gc.log_limit);
        Ok(Self { store, committer, blobs, logs, offload: Offload::Threads, ids: Ids::default() })
    }
}

impl Coordinator {
    /// Opens the store, resumes its runs, and serves on listeners that are bound already, so that the caller chooses
    /// the addresses.
    ///
    /// # Errors
    /// The store cannot be opened, or a record of an active run does not make sense.
    pub async fn start(
        config: Config,
        listener: TcpListener,
        http: Option<TcpListener>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let ground = Ground::open(&config).await?;
        Self::listen(ground, config, listener, http, stop).await
    }

    /// As [`Coordinator::start`], on what is open already.
    ///
    /// # Errors
    /// Those of [`Coordinator::start`].
    pub async fn listen(
        ground: Ground,
        config: Config,
        listener: TcpListener,
        http: Option<TcpListener>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let started = Self::serve(ground, config, listener, http, stop.clone()).await;
        if started.is_err() {
            // What runs already must not hold the store any longer.
            stop.cancel();
        }
        started
    }

    async fn serve(
        ground: Ground,
        config: Config,
        listener: TcpListener,
        http: Option<TcpListener>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let io = |e: std::io::Error| Error::Internal(format!("cannot listen: {e}"));
        let address = listener.local_addr().map_err(io)?;
        let http_address = http.as_ref().map(TcpListener::local_addr).transpose().map_err(io)?;
        let state_dir = StateDir::new(&config.state_dir);
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let incoming = door::grpc(listener, config.tls.is_some(), door::MOST_GRPC);
        let mut coordinator = Self::start_on(ground, config, address, incoming, stop).await?;
        if let Some(http) = http {
            serve_http(&coordinator.shared, http, &coordinator.tasks);
        }
        coordinator.http_address = http_address;
        write_address(&state_dir, address, scheme, coordinator.shared.epoch)?;
        info!(%address, epoch = coordinator.shared.epoch, state_dir = %state_dir.root().display(), "coordinator serving");
        Ok(coordinator)
    }

    /// Resumes the runs of a store that is open already, and serves on connections that somebody else accepts.
    ///
    /// # Errors
    /// A record of an active run does not make sense, or the store failed.
    pub async fn start_on<S, C, E>(
        ground: Ground,
        config: Config,
        address: SocketAddr,
        incoming: S,
        stop: CancellationToken,
    ) -> Result<Self, Error>
    where
        S: futures::Stream<Item = Result<C, E>> + Send + 'static,
        C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
        C::ConnectInfo: Clone + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let clock = Clock::start();
        let Resumed { core, active, epoch, feed, ends } = resume_all(&ground, &config, clock).await?;
        let Ground { store, committer, blobs, logs, offload, ids } = ground;
        let facts = WelcomeFacts {
            epoch,
            lease_ms: u32::try_from(config.lease.as_millis()).unwrap_or(u32::MAX),
            blob_url: blobs.url().to_owned(),
            store_id: blobs.store_id().to_owned(),
        };
        let past = StorePast::new(Arc::clone(&store), blobs.clone());
        let (probes, looks) = probes::Probes::channel();
        let (actor, handle) = Actor::new(core, clock, committer.clone(), past, facts, probes, feed, stop.clone());
        let (rereads, checks) = reread::Rereads::channel();
        let unsettled = rereads.unsettled();
        let actor = actor.indexing(active).rereading(rereads);
        let rereader = reread::run(checks, committer.clone());
        let looker = probes::run(looks, handle.clone(), Arc::clone(&store), clock, stop.clone());
        let shared = Shared {
            handle,
            store,
            committer,
            blobs,
            logs,
            state_dir: StateDir::new(&config.state_dir),
            offers: Arc::default(),
            catalogue: Arc::new(RwLock::new(Catalogue::default())),
            gc: Arc::new(Gc::new(config.gc, config.openlineage.iter().map(|_| openlineage::send::CURSOR).collect())),
            clock,
            epoch,
            started_ms: clock.now(),
            stop: stop.clone(),
            feed: ends,
            unsettled,
            offload,
            ids,
            checks: Arc::new(Semaphore::new(api::MOST_CHECKS)),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(looker);
        tasks.spawn(rereader);
        tasks.spawn(stop_with_the_store(shared.committer.clone(), stop.clone()));
        let actor = tokio::spawn(actor.run());
        let schedules = schedules::Schedules::open(shared.clone(), tasks.clone(), config.fires_schedules).await?;
        tasks.spawn(schedules.clone().run());
        serve_grpc(&shared, schedules, config.tls, incoming, &tasks)?;
        if let Some(period) = config.gc.every {
            tasks.spawn(gc::every(shared.clone(), period));
        }
        tasks.spawn(gc::forget_events(shared.clone()));
        tasks.spawn(deliver::run(
            shared.clone(),
            shared.feed.deliveries.clone(),
            deliver::World::new(config.hook_allow),
        ));
        if let Some(target) = config.openlineage {
            tasks.spawn(openlineage::send::run(shared.clone(), target));
        }
        Ok(Self { address, http_address: None, shared, tasks, actor })
    }

    /// Gives the way to the actor, for a program that embeds the coordinator.
    #[must_use]
    pub fn handle(&self) -> &actor::Handle {
        &self.shared.handle
    }

    /// Gives a future that waits until hooks have been tried that are due, and their runs have ended: for a program that
    /// is about to stop the coordinator that it embeds.
    ///
    /// # Errors
    /// The coordinator is stopping, or the store failed.
    pub fn hooks_settled(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let shared = self.shared.clone();
        async move { deliver::settled(&shared).await }
    }

    /// Waits for the stop, then ends in order: calls, actor, flush.
    ///
    /// # Errors
    /// The store failed.
    pub async fn wait(self) -> Result<(), Error> {
        self.shared.stop.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            warn!(open = self.tasks.len(), "some calls were still open at the deadline");
        }
        let ended = self.actor.await.map_err(|e| Error::Internal(format!("the actor ended early: {e}")))?;
        // The actor may have had nothing to write since the store failed under somebody else.
        let ended = match (ended, self.shared.committer.failure()) {
            (_, Some(reason)) => Err(crate::store::Error::Stopped { reason }.into()),
            (ended, None) => ended,
        };
        self.shared.committer.close();
        // Somebody else's file stays: only the coordinator that wrote it takes it away.
        let file = self.shared.state_dir.root().join(ADDRESS_FILE);
        if std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("\"epoch\":{}", self.shared.epoch))) {
            let _ = std::fs::remove_file(file);
        }
        match &ended {
            Ok(()) => info!("coordinator stopped"),
            Err(e) => error!(error = %e, "coordinator stopped: start it again when the store can be written"),
        }
        ended
    }
}

/// Stops the coordinator when the store takes no more: one that goes on would look well and answer nothing.
async fn stop_with_the_store(committer: Committer, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        reason = committer.failed() => {
            error!(reason, "the store takes no more writes: stopping");
            stop.cancel();
        }
    }
}

struct Resumed {
    core: Core,
    active: Active,
    epoch: u64,
    feed: Feed,
    ends: feed::Ends,
}

/// Takes the next epoch and resumes what was going on.
async fn resume_all(ground: &Ground, config: &Config, clock: Clock) -> Result<Resumed, Error> {
    let store = &ground.store;
    // The epoch is on disk before anything is handed out under it.
    let mut batch = Batch::new();
    let epoch = meta::next_epoch(&**store, &mut batch)?;
    pipelines::index_old_store(&**store, &mut batch)?;
    active::begin(&**store, &mut batch, epoch)?;
    ground.committer.commit(batch).await?;
    let lease_ms = u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX);
    let reader = Arc::clone(store);
    let resumed = move || {
        let active = Active::read(&*reader)?;
        let core = resume(&*reader, CoreConfig { epoch, lease_ms }, &active, &|| clock.now())?;
        let (feed, ends) = Feed::open(&*reader, &core)?;
        Ok::<_, Error>((core, active, feed, ends))
    };
    let (core, active, feed, ends) = ground.offload.run("reading the runs", resumed).await??;
    Ok(Resumed { core, active, epoch, feed, ends })
}

/// Brings every run that has not ended back into memory.
fn resume(store: &dyn Store, config: CoreConfig, active: &Active, now: &dyn Fn() -> UnixMillis) -> Result<Core, Error> {
    let mut core = Core::new(config);
    fleet::load(store, &mut core)?;
    for id in active.runs() {
        match records::load_run(store, &id)? {
            Some(run) if !run.state.is_terminal() => {
                info!(run = %id, "run resumed");
                core.restore(run, now());
            }
            _ => warn!(run = %id, "the index of active runs names a run that is not active"),
        }
    }
    Ok(core)
}

fn serve_grpc<S, C, E>(
    shared: &Shared,
    schedules: schedules::Schedules,
    tls: Option<(Vec<u8>, Vec<u8>)>,
    incoming: S,
    tasks: &TaskTracker,
) -> Result<(), Error>
where
    S: futures::Stream<Item = Result<C, E>> + Send + 'static,
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    macro_rules! limited {
        ($service:expr) => {
            $service.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| Error::Internal(format!("gRPC reflection: {e}")))?;
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(door::MOST_CALLS)
        .http2_max_header_list_size(door::MOST_HEADERS);
    if let Some((certificate, key)) = tls {
        server = server
            .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)))
            .map_err(|e| Error::BadRequest(format!("the TLS certificate or key is not usable: {e}")))?;
    }
    let router = server
        .layer(InterceptorLayer::new(door::spoke))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(limited!(v1::run_service_server::RunServiceServer::new(api::runs::Runs(shared.clone()))))
        .add_service(limited!(v1::worker_service_server::WorkerServiceServer::new(api::worker::Workers::new(
            shared.clone()
        ))))
        .add_service(limited!(v1::blob_service_server::BlobServiceServer::new(api::blobs::Blobs(shared.clone()))))
        .add_service(limited!(v1::log_service_server::LogServiceServer::new(api::logs::LogsApi(shared.clone()))))
        .add_service(limited!(v1::registry_service_server::RegistryServiceServer::new(api::registry::Registry(
            shared.clone()
        ))))
        .add_service(limited!(v1::schedule_service_server::ScheduleServiceServer::new(api::schedules::SchedulesApi(
            schedules
        ))))
        .add_service(limited!(v1::event_service_server::EventServiceServer::new(api::events::Events(shared.clone()))))
        .add_service(limited!(v1::admin_service_server::AdminServiceServer::new(api::admin::Admin(shared.clone()))))
        .add_service(limited!(v1::fleet_service_server::FleetServiceServer::new(api::fleet::Fleet(shared.clone()))))
        .add_service(limited!(ExternalScalerServer::new(api::keda::Scaler(shared.clone()))))
        .add_service(limited!(v1::maintenance_service_server::MaintenanceServiceServer::new(
            api::maintenance::Maintenance(shared.clone())
        )));
    let stop = shared.stop.clone();
    tasks.spawn(async move {
        health.set_serving::<v1::run_service_server::RunServiceServer<api::runs::Runs>>().await;
        if let Err(e) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            warn!(error = %e, "gRPC server ended");
        }
    });
    Ok(())
}

fn serve_http(shared: &Shared, listener: TcpListener, tasks: &TaskTracker) {
    let router = http::router(shared.clone());
    let stop = shared.stop.clone();
    let listener = door::Http::new(listener, door::MOST_HTTP, door::NEXT_REQUEST);
    tasks.spawn(async move {
        if let Err(e) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            warn!(error = %e, "HTTP server ended");
        }
    });
}

/// Leaves the address where commands with `--state-dir` find it.
fn write_address(state_dir: &StateDir, address: SocketAddr, scheme: &str, epoch: u64) -> Result<(), Error> {
    let text =
        serde_json::json!({ "address": format!("{scheme}://{address}"), "pid": std::process::id(), "epoch": epoch });
    let file = state_dir.root().join(ADDRESS_FILE);
    let temporary = state_dir.root().join(format!("{ADDRESS_FILE}.{}", std::process::id()));
    std::fs::write(&temporary, text.to_string())
        .and_then(|()| std::fs::rename(&temporary, &file))
        .map_err(|e| Error::Internal(format!("cannot write {}: {e}", file.display())))
}
