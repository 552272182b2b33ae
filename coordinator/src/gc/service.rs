//! Collections as they are asked for: by a person, or by the clock.

use std::time::Duration;

use tracing::{info, warn};

use super::{GcPlan, execute, gather, plan};
use crate::{
    server::{Error, api::Shared, feed},
    spec::Retention,
    store::Batch,
};

/// How often old events are forgotten, and how soon after the start for the first time.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
const FORGET_FIRST: Duration = Duration::from_secs(60);
/// Records of the feed that are deleted in one batch: few enough that decisions hardly wait for it.
const PARTS: usize = 256;

/// What somebody asks for. What is not said is as the coordinator was started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask {
    pub rules: Retention,
    pub grace: Option<Duration>,
    pub events_for: Option<Duration>,
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
    config.events_for = ask.events_for.or(config.events_for);
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

/// Forgets old events again and again until the coordinator stops, whether or not anything else is ever collected: the
/// feed grows with everything that happens, and nobody else keeps it small.
pub async fn forget_events(shared: Shared) {
    let mut wait = FORGET_FIRST;
    while let Some(keep) = shared.gc.config.events_for {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            forgotten = forget_older(&shared, keep) => match forgotten {
                Ok(0) => {}
                Ok(events) => info!(events, "old events forgotten"),
                Err(e) => warn!(error = %e, "old events not forgotten"),
            }
        }
        wait = FORGET_EVERY;
    }
}

/// Forgets the events that happened so long ago, and counts them.
pub(super) async fn forget_older(shared: &Shared, keep: Duration) -> Result<u64, Error> {
    let _turn = shared.gc.turn.lock().await;
    let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    let before_ms = shared.clock.now().saturating_sub(keep_ms);
    let mut events = 0;
    loop {
        let parts = shared
            .blocking(move |shared| Ok(feed::expired(&*shared.store, before_ms, &shared.gc.readers, PARTS)?))
            .await?;
        if parts.is_empty() {
            return Ok(events);
        }
        let mut batch = Batch::new();
        for part in &parts {
            batch.delete(&part.key);
            events += part.events;
        }
        shared.committer.commit(batch).await?;
    }
}
