//! A coordinator in this process, on a store of the test's choice.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use segue_coordinator::{
    gc::GcConfig,
    server::{Config, Coordinator, Error, Ground, HookAllow},
    store::{StateDir, Store},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, client::Client};

/// A lease longer than any test: nothing is lost by the clock unless a test wants it.
pub const LONG_LEASE: Duration = Duration::from_secs(600);

/// A coordinator that serves.
#[derive(Debug)]
pub struct Host {
    pub address: SocketAddr,
    pub http: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), Error>>,
}

/// Gives the settings of a coordinator with this state directory.
pub fn config(state_dir: &Path) -> Config {
    Config {
        state_dir: state_dir.to_owned(),
        blob_url: None,
        lease: LONG_LEASE,
        tls: None,
        fires_schedules: true,
        gc: GcConfig { grace: Duration::ZERO, ..GcConfig::default() },
        openlineage: None,
        hook_allow: HookAllow::default(),
    }
}

/// The root of the blobs of a state directory; they are under `blobs/` in it.
pub fn blobs(state_dir: &Path) -> PathBuf {
    StateDir::new(state_dir).blobs()
}

impl Host {
    /// Starts a coordinator. Port 0 takes any; another is for those who must find it again after a restart.
    pub async fn start(store: Arc<dyn Store>, config: Config, port: u16) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stop = CancellationToken::new();
        let ground = Ground::on(store, &config).await?;
        let coordinator = Coordinator::listen(ground, config, listener, Some(http), stop.clone()).await?;
        let (address, http) = (coordinator.address, coordinator.http_address.unwrap());
        Ok(Self { address, http, stop, ended: tokio::spawn(coordinator.wait()) })
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, self.ended).await.expect("the coordinator ends").expect("it does not panic")
    }

    /// As [`Host::ended`], for whoever may give up waiting.
    pub async fn ended_by_itself(&mut self) -> Result<(), Error> {
        (&mut self.ended).await.expect("it does not panic")
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_finished()
    }
}
