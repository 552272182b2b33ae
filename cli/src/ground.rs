//! What the coordinators of this program stand on.

use std::{path::Path, sync::Arc};

use segue_coordinator::{
    server::{self, Config, Coordinator, Ground},
    store::Store,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What lies between the store of a state directory and its coordinator: nothing, but in a program that tests what becomes
/// of both when the store fails.
#[derive(Debug, Clone, Copy)]
pub struct Over(fn(&Path, Arc<dyn Store>) -> Arc<dyn Store>);

impl Over {
    /// Puts something over the store of a state directory.
    #[must_use]
    pub const fn new(over: fn(&Path, Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        Self(over)
    }
}

impl Default for Over {
    fn default() -> Self {
        Self(|_, store| store)
    }
}

/// Starts a coordinator on listeners that are bound already.
pub async fn start(
    config: Config,
    over: Over,
    listener: TcpListener,
    http: Option<TcpListener>,
    stop: CancellationToken,
) -> Result<Coordinator, server::Error> {
    let ground = Ground::open_over(&config, |store| (over.0)(&config.state_dir, store)).await?;
    Coordinator::listen(ground, config, listener, http, stop).await
}
