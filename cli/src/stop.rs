//! Signals that ask this process to end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Gives a token that SIGTERM and SIGINT cancel. A second signal ends the process at once.
pub fn on_signals() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    // From here on, so that none is lost between two waits.
    let signals = Signals::listen();
    tokio::spawn(async move {
        let Some(mut signals) = signals else { return };
        signals.next().await;
        cancelled.cancel();
        // Whoever reads the log may have stopped reading, and a write would wait for ever: nothing here waits for it.
        tokio::task::spawn_blocking(|| info!("stopping: a second signal ends at once"));
        signals.next().await;
        std::process::exit(130);
    });
    stop
}

/// Waits for the next SIGTERM or SIGINT.
pub async fn next() {
    match Signals::listen() {
        Some(mut signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Option<Self> {
        let terminate = signal(SignalKind::terminate()).ok()?;
        Some(Self { terminate, interrupt: signal(SignalKind::interrupt()).ok()? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
