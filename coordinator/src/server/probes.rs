//! Looks at the conditions of sensors for the actor, a bounded number at a time.

use std::{sync::Arc, time::Duration};

use segue_proto::ids::RunId;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::actor::{Clock, Handle};
use crate::{
    core::{Event, Item, Sight, UnixMillis},
    sensor::{self, Probe, ProbeContext, Sensor},
    spec::Work,
    store::Store,
};

/// Looks that go on at a time: a thousand sensors on a slow server must not open a thousand connections.
const AT_ONCE: usize = 64;
/// How long one look may take.
const LIMIT: Duration = Duration::from_secs(20);

/// One look that the core asked for.
#[derive(Debug)]
pub struct Look {
    pub run: RunId,
    pub task: u32,
    /// When the wait began.
    pub since: UnixMillis,
    pub work: Work,
    /// Of a child of a fan-out.
    pub item: Option<Item>,
    /// What was there when the wait began, for conditions that speak of change.
    pub seen: Option<String>,
}

/// The way to whoever looks.
#[derive(Debug, Clone)]
pub struct Probes(mpsc::UnboundedSender<Look>);

impl Probes {
    /// Makes the way and its other end. As many looks wait as tasks sense: the channel needs no other bound.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Look>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Asks for a look. Its answer is an event for the core.
    pub fn look(&self, look: Look) {
        // The looker is gone only when the coordinator stops.
        let _ = self.0.send(look);
    }
}

/// Looks until it is stopped.
pub async fn run(
    mut looks: mpsc::UnboundedReceiver<Look>,
    handle: Handle,
    store: Arc<dyn Store>,
    clock: Clock,
    stop: CancellationToken,
) {
    let http = match sensor::client() {
        Ok(http) => http,
        Err(error) => {
            warn!(error, "no HTTP client: sensors look at nothing");
            return;
        }
    };
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let tasks = TaskTracker::new();
    loop {
        let look = tokio::select! {
            () = stop.cancelled() => break,
            look = looks.recv() => look,
        };
        let Some(look) = look else { break };
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        let (handle, store, http) = (handle.clone(), Arc::clone(&store), http.clone());
        tasks.spawn(async move {
            let seen = see(&look, &store, &http, clock.now()).await;
            drop(permit);
            debug!(run = %look.run, task = look.task, ?seen, "sensor looked");
            // A coordinator that stops looks again when it is back.
            let _ = handle.report(Event::Sensed { run: look.run, task: look.task, since: look.since, seen }).await;
        });
    }
    tasks.close();
}

async fn see(look: &Look, store: &Arc<dyn Store>, http: &reqwest::Client, now: UnixMillis) -> Sight {
    let sensor = match sensor_of(look) {
        Ok(sensor) => sensor,
        Err(message) => return Sight::Fault(message),
    };
    let context = ProbeContext { store, http, now, since: look.since, seen: look.seen.as_deref(), limit: LIMIT };
    let changes = matches!(sensor, Sensor::Artifact { .. });
    match (sensor::probe(&sensor, &context).await, &look.seen) {
        // The first look says what there is: only what differs from it is a change.
        (Probe::Met { note }, None) if changes => Sight::Baseline(note),
        (Probe::NotYet { .. }, None) if changes => Sight::Baseline(String::new()),
        (Probe::Met { note }, _) => Sight::Met(note),
        (Probe::NotYet { why }, _) => Sight::NotYet(why),
        (Probe::Fault { message }, _) => Sight::Fault(message),
    }
}

/// Reads the sensor of a task, the item of a child filled in.
fn sensor_of(look: &Look) -> Result<Sensor, String> {
    let Work::Sensor { sensor, .. } = &look.work else { return Err("the task is no sensor".to_owned()) };
    let mut value = sensor.clone();
    if let (Some(item), Some(table)) = (&look.item, value.as_object_mut()) {
        for text in table.values_mut() {
            if let serde_json::Value::String(text) = text {
                *text = crate::spec::fill_item(text, &item.value, item.key.as_str(), item.ordinal)?;
            }
        }
    }
    serde_json::from_value(value).map_err(|e| format!("the sensor does not make sense: {e}"))
}
