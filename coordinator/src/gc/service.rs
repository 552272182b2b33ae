//! Collections as they are asked for: by a person, or by the clock.

use std::time::Duration;

use tracing::warn;

use super::{GcPlan, execute, gather, plan};
use crate::{
    server::{Error, api::Shared},
    spec::Retention,
};

/// What somebody asks for. What is not said is as the coordinator was started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask {
    pub rules: Retention,
    pub grace: Option<Duration>,
    pub dry_run: bool,
}

/// Plans a collection and, unless it is a dry run, carries it out. Gives the plan, and what was done of it.
///
/// # Errors
/// Those of the store, the blobs and the logs.
pub async fn collect(shared: &Shared, ask: &Ask) -> Result<(GcPlan, GcPlan), Error> {
    let mut config = shared.gc.config;
    config.defaults = ask.rules.or(config.defaults);
    config.grace = ask.grace.unwrap_or(config.grace);
    let _turn = shared.gc.turn.lock().await;
    // Before anything is read: an attempt that begins after this moment stores nothing that counts as older.
    let now = shared.clock.now();
    let (facts, policies) = gather(shared, &config).await?;
    let planned = plan(&facts, &policies, now);
    drop(facts);
    let done = if ask.dry_run { planned.clone() } else { execute(shared, &planned).await? };
    Ok((planned, done))
}

/// Collects again and again until the coordinator stops. A collection that fails is told, and tried again in its turn.
pub async fn every(shared: Shared, period: Duration) {
    let ask = Ask::default();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            collected = collect(&shared, &ask) => {
                if let Err(e) = collected {
                    warn!(error = %e, "collection failed");
                }
            }
        }
    }
}
