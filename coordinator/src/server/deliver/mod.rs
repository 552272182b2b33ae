//! Deliveries: what hooks send out. Each waits in the store, in the line of its receiver, until it has arrived or is
//! given up; nothing of it is in memory but what is under way.

mod allow;
pub mod command;
mod decide;
mod http;
mod sign;
mod webhook;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use segue_proto::{
    store::v1::{DeliveryRecord, delivery_record::Action},
    v1,
};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, error, warn};

use self::decide::{LIMITS, Lane, decide};
pub use self::{
    allow::HookAllow,
    decide::{Failure, Next, after},
    http::Http,
};
use super::feed::word;
use super::{
    api::{Shared, runs::Runs},
    error::Error,
};
use crate::{
    core::UnixMillis,
    spec::{Code, Diagnostic, Hooks, Severity},
    store::{
        self, Batch, Key, Store,
        keys::{self, DeliveryKey, prefix},
    },
};

/// How long to wait after the store could not be read or written.
const AFTER_FAULT: Duration = Duration::from_secs(1);

/// What deliveries need beside the coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    pub http: Http,
    /// Reads a variable of the environment.
    pub variable: fn(&str) -> Option<String>,
}

impl World {
    /// Makes that of a coordinator.
    #[must_use]
    pub fn new(allow: HookAllow) -> Self {
        Self { http: Http::guarded(allow), variable: |name| std::env::var(name).ok() }
    }
}

/// Warns of secrets that webhooks need and that are not there.
pub fn unset(hooks: &Hooks, is_set: impl Fn(&str) -> bool) -> Vec<Diagnostic> {
    let missing = hooks.variables().into_iter().filter(|name| !is_set(name));
    let warning = |name: &str| Diagnostic {
        severity: Severity::Warning,
        ..Diagnostic::error(Code::SecretUnset, format!("a hook needs {name}, which the coordinator does not have"))
            .hint(format!("set {name} in the environment of the coordinator and start it again"))
    };
    missing.map(warning).collect()
}

/// Says whether a variable of this process holds something.
pub fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| !value.trim().is_empty())
}

/// Delivers until the coordinator stops. What is under way then ends with it, and is tried again after the next start.
pub async fn run(shared: Shared, mut queued: watch::Receiver<u64>, world: World) {
    let mut tries: JoinSet<bool> = JoinSet::new();
    let mut under_way: HashMap<tokio::task::Id, DeliveryKey> = HashMap::new();
    let mut failing: HashSet<u64> = HashSet::new();
    loop {
        queued.mark_unchanged();
        let busy: HashSet<DeliveryKey> = under_way.values().copied().collect();
        let failing_now = failing.clone();
        let lanes = shared.blocking(move |shared| Ok(lanes(&*shared.store, &busy, &failing_now)?)).await;
        let wake = match lanes {
            Ok(lanes) => {
                let now = shared.clock.now();
                let decision = decide(now, &lanes, LIMITS);
                for key in decision.start {
                    let started = tries.spawn(deliver(shared.clone(), world.clone(), key));
                    under_way.insert(started.id(), key);
                }
                decision.wake_at.map(|at| Duration::from_millis(at.saturating_sub(now)))
            }
            Err(e) => {
                error!(error = %e, "deliveries cannot be read");
                Some(AFTER_FAULT)
            }
        };
        let alarm = async {
            match wake {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return, // What is under way is tried again after the start.
            changed = queued.changed() => if changed.is_err() { return },
            Some(ended) = tries.join_next_with_id() => {
                let (id, arrived) = match ended {
                    Ok((id, arrived)) => (id, arrived),
                    Err(e) => {
                        error!(error = %e, "a delivery ended early");
                        (e.id(), false)
                    }
                };
                if let Some(key) = under_way.remove(&id) {
                    if arrived { failing.remove(&key.lane) } else { failing.insert(key.lane) };
                }
            }
            () = alarm => {}
        }
    }
}

/// Reads the most urgent deliveries of every receiver: as many as may be started at once.
fn lanes(store: &dyn Store, busy: &HashSet<DeliveryKey>, failing: &HashSet<u64>) -> Result<Vec<Lane>, store::Error> {
    let mut lanes = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let Some((key, _)) = store.scan(&prefix::deliveries(), after.as_deref(), 1)?.into_iter().next() else {
            return Ok(lanes);
        };
        let lane = delivery_key(&key)?.lane;
        let of_lane = prefix::deliveries_of(lane);
        let under_way = busy.iter().filter(|key| key.lane == lane).count();
        let mut found = Lane { under_way, failing: failing.contains(&lane), ..Lane::default() };
        // Those under way are still in the store, and may be the first of their line.
        for (key, _) in store.scan(&of_lane, None, LIMITS.of_lane + under_way)? {
            let key = delivery_key(&key)?;
            if !busy.contains(&key) {
                found.waiting.push(key);
            }
        }
        lanes.push(found);
        // On to the first delivery after this line.
        let last = DeliveryKey { lane, due_ms: u64::MAX, offset: u64::MAX, hook: u32::MAX };
        after = Some(Key::Delivery(last).encode());
    }
}

fn delivery_key(bytes: &[u8]) -> Result<DeliveryKey, store::Error> {
    match Key::decode(bytes) {
        Ok(Key::Delivery(key)) => Ok(key),
        _ => Err(store::Error::corrupt(keys::describe(bytes), "not a delivery")),
    }
}

/// Tries a delivery once and writes down what came of it; says whether it arrived.
async fn deliver(shared: Shared, world: World, key: DeliveryKey) -> bool {
    match attempt(&shared, &world, key).await {
        Ok(arrived) => arrived,
        // The store has stopped, or is being stopped: what is in it is tried again after the start.
        Err(e) => {
            warn!(offset = key.offset, hook = key.hook, error = %e, "outcome of a delivery not kept");
            tokio::time::sleep(AFTER_FAULT).await;
            false
        }
    }
}

async fn attempt(shared: &Shared, world: &World, key: DeliveryKey) -> Result<bool, Error> {
    let stored = shared.blocking(move |shared| Ok(store::read(&*shared.store, &Key::Delivery(key))?)).await?;
    let Some(record) = stored else { return Ok(true) };
    let failure = match try_once(shared, world, &record).await {
        Ok(()) => {
            debug!(offset = key.offset, hook = key.hook, "hook delivered");
            let mut batch = Batch::new();
            batch.delete(&Key::Delivery(key));
            shared.committer.commit(batch).await?;
            return Ok(true);
        }
        Err(failure) => failure,
    };
    let (batch, given_up) = failed(key, record, &failure, shared.clock.now());
    match given_up {
        None => {
            debug!(offset = key.offset, hook = key.hook, error = failure.message, "hook failed: tried again later");
            shared.committer.commit(batch).await?;
        }
        Some(event) => {
            warn!(offset = key.offset, hook = key.hook, error = failure.message, "hook given up");
            shared.handle.append(vec![event], batch).await?;
        }
    }
    Ok(false)
}

/// Gives the changes after a failure, and the event if nobody tries any more.
fn failed(
    key: DeliveryKey,
    mut record: DeliveryRecord,
    failure: &Failure,
    now: UnixMillis,
) -> (Batch, Option<v1::FeedEvent>) {
    let mut batch = Batch::new();
    batch.delete(&Key::Delivery(key));
    record.tries = record.tries.saturating_add(1);
    record.last_error.clone_from(&failure.message);
    match after(failure, &record.retry.unwrap_or_default(), record.tries, record.first_ms, key, now) {
        Next::At(due_ms) => {
            batch.put(&Key::Delivery(DeliveryKey { due_ms, ..key }), &record);
            (batch, None)
        }
        Next::GiveUp => (batch, Some(given_up(&record))),
    }
}

fn given_up(record: &DeliveryRecord) -> v1::FeedEvent {
    let cause = record.event.clone().unwrap_or_default();
    let what = match &record.action {
        Some(Action::Webhook(_)) | None => "webhook",
        Some(Action::Command(_)) => "command",
    };
    let details = json!({
        "hook": record.hook + 1, "action": what, "event_offset": cause.offset, "tries": record.tries,
        "on": word(cause.kind()).map_or("", crate::spec::On::name),
    });
    v1::FeedEvent {
        kind: v1::EventKind::HookGaveUp.into(),
        message: format!(
            "hook {} ({what}) given up after {} tries: {}",
            record.hook + 1,
            record.tries,
            record.last_error
        ),
        details_json: details.to_string(),
        run_id: cause.run_id,
        pipeline: cause.pipeline,
        version: cause.version,
        generation: cause.generation,
        ..v1::FeedEvent::default()
    }
}

async fn try_once(shared: &Shared, world: &World, record: &DeliveryRecord) -> Result<(), Failure> {
    let nothing = || Failure::for_good("the delivery is stored without its event or its action");
    let event = record.event.as_ref().ok_or_else(nothing)?;
    match record.action.as_ref().ok_or_else(nothing)? {
        Action::Webhook(call) => webhook::send(world, call, event, record.hook).await,
        Action::Command(call) => {
            let request = v1::SubmitRequest {
                text: call.text.clone(),
                path: call.path.clone(),
                params: command::facts(event),
                // A second try after a lost answer finds the run of the first.
                idempotency_key: format!("{}{}/{}", command::KEY_PREFIX, event.offset, record.hook),
                no_cache: false,
                ..v1::SubmitRequest::default()
            };
            match Runs(shared.clone()).submit_hook(request).await {
                Ok(answer) if answer.run_id.is_empty() => {
                    let first = answer.diagnostics.iter().find(|diagnostic| diagnostic.error);
                    let why = first.map_or("it is refused", |diagnostic| &diagnostic.message);
                    Err(Failure::for_good(format!("the run {} of the hook cannot be submitted: {why}", call.pipeline)))
                }
                Ok(_) => Ok(()),
                Err(e) => Err(Failure::passing(e.to_string())),
            }
        }
    }
}

/// Waits until every delivery was tried that is due, and the runs of command hooks have ended: for a cluster that is
/// about to end with its command.
pub async fn settled(shared: &Shared) -> Result<(), Error> {
    /// Nothing tells of the last of several deliveries, and a look costs a read or two.
    const LOOK: Duration = Duration::from_millis(50);
    loop {
        let now = shared.clock.now();
        let waiting = shared
            .blocking(move |shared| {
                let lanes = lanes(&*shared.store, &HashSet::new(), &HashSet::new())?;
                Ok(lanes.iter().any(|lane| lane.waiting.first().is_some_and(|key| key.due_ms <= now)))
            })
            .await?;
        let is_hook = |run: &crate::core::Run| run.idempotency_key.starts_with(command::KEY_PREFIX);
        let running = shared.handle.read_patiently(move |core| core.runs().any(is_hook)).await?;
        if !waiting && !running {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
mod live_tests;
