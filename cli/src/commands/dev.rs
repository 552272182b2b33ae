//! `segue dev`: coordinator and one worker in this process, until told to stop.

use std::net::SocketAddr;

use clap::Args;
use segue_coordinator::{
    gc::GcConfig,
    server::{Config, HookAllow},
};
use segue_worker::agent::{self, WorkerConfig};

use super::{
    coordinator::{bind, bind_http},
    worker::Amounts,
};
use crate::{
    args::Global,
    embedded,
    error::{Error, ExitStatus},
    ground,
    printer::Printer,
    stop,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Address for gRPC
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Address for /healthz, /readyz and /metrics; `off` serves none
    #[arg(long, default_value = "127.0.0.1:7401", value_name = "HOST:PORT")]
    pub http: String,
    #[command(flatten)]
    pub amounts: Amounts,
}

/// Runs the command. The worker drains before the coordinator ends.
pub async fn run(args: DevArgs, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let state_dir = embedded::absolute(&global.state_dir)?;
    let listener = bind(args.listen, false).await?;
    let http = bind_http(&args.http, false).await?;
    let stop = stop::on_signals();
    let stop_coordinator = tokio_util::sync::CancellationToken::new();
    let gc = GcConfig { events_for: Some(GcConfig::EVENTS_FOR), ..GcConfig::default() };
    let config = Config {
        state_dir: state_dir.clone(),
        blob_url: None,
        lease: embedded::LEASE,
        tls: None,
        fires_schedules: true,
        gc,
        openlineage: None,
        hook_allow: HookAllow::default(),
    };
    let coordinator = ground::start(config, global.over, listener, http, stop_coordinator.clone()).await?;
    let url = format!("http://{}", coordinator.address);
    let worker = WorkerConfig {
        name: "local".parse().map_err(|e| Error::internal(format!("worker name: {e}")))?,
        server: url.clone(),
        machine: args.amounts.machine()?,
        pass_env: args.amounts.environment.pass_env.clone(),
        labels: args.amounts.labels()?,
        cache_dir: state_dir.join("worker"),
        cache_limit_bytes: embedded::CACHE_LIMIT,
        runner_command: embedded::runner_command()?,
        drain_grace: std::time::Duration::from_secs(5),
        tls: None,
    };
    out.note(&format!("coordinator and worker serve at {url}; export SEGUE_SERVER={url}"));
    let serving = tokio::spawn(coordinator.wait());
    let worked = agent::run(worker, stop).await.map_err(|e| Error::internal(format!("the worker failed: {e}")));
    stop_coordinator.cancel();
    serving.await.map_err(|e| Error::internal(format!("the coordinator ended early: {e}")))??;
    worked?;
    Ok(ExitStatus::Done)
}
