//! Signals that ask this process to end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Gives a token that SIGTERM and SIGINT cancel. A second signal ends the process at once.
pub fn on_signals() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        next().await;
        info!("stopping: a second signal ends at once");
        cancelled.cancel();
        next().await;
        std::process::exit(130);
    });
    stop
}

/// Waits for the next SIGTERM or SIGINT.
pub async fn next() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
