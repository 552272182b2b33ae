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
    // Made at the first look: it reads the certificates of the system, and most coordinators look at nothing.
    let mut client = None;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let tasks = TaskTracker::new();
    loop {
        let look = tokio::select! {
            () = stop.cancelled() => break,
            look = looks.recv() => look,
        };
        let Some(look) = look else { break };
        if client.is_none() {
            client = sensor::client().inspect_err(|error| warn!(error, "no HTTP client: a sensor looks later")).ok();
        }
        let Some(http) = client.clone() else { continue };
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        let (handle, store) = (handle.clone(), Arc::clone(&store));
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
    let text = |key: &str| -> Result<Option<String>, String> {
        let Some(text) = sensor.get(key).and_then(serde_json::Value::as_str) else { return Ok(None) };
        let Some(item) = &look.item else { return Ok(Some(text.to_owned())) };
        crate::spec::fill_item(text, &item.value, item.key.as_str(), item.ordinal).map(Some)
    };
    if let Some(path) = text("file")? {
        return Ok(Sensor::File { path });
    }
    if let Some(url) = text("http")? {
        let status = sensor.get("status").and_then(serde_json::Value::as_u64).unwrap_or(200);
        return Ok(Sensor::Http { url, status: u16::try_from(status).unwrap_or(u16::MAX) });
    }
    if let Some(at) = text("time")? {
        return Ok(Sensor::Time { at, timezone: "UTC".to_owned() });
    }
    if let Some(place) = text("artifact")? {
        let parts = place.split_once('/').and_then(|(pipeline, rest)| Some((pipeline, rest.rsplit_once('.')?)));
        let (pipeline, (task, output)) =
            parts.ok_or_else(|| format!("`{place}` is no artifact: it is written pipeline/task.output"))?;
        let [pipeline, task, output] = [pipeline, task, output].map(str::to_owned);
        return Ok(Sensor::Artifact { pipeline, task, output });
    }
    Err("the sensor names nothing to wait for".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use segue_proto::ids::ItemKey;
    use serde_json::json;

    use super::*;

    fn look(sensor: serde_json::Value, item: Option<&str>) -> Look {
        let item = item.map(|text| Item { key: ItemKey::from_text(text), value: text.into(), ordinal: 0 });
        let work = Work::Sensor { sensor, every_ms: 1_000 };
        Look { run: RunId::new(1), task: 0, since: 0, work, item, seen: None }
    }

    #[test]
    fn what_the_pipeline_file_says_is_what_is_looked_at() {
        let file = sensor_of(&look(json!({ "file": "/data/${item}.csv" }), Some("eu"))).unwrap();
        assert_eq!(file, Sensor::File { path: "/data/eu.csv".to_owned() });
        let http = sensor_of(&look(json!({ "http": "https://example.org/ready", "status": 204 }), None)).unwrap();
        assert_eq!(http, Sensor::Http { url: "https://example.org/ready".to_owned(), status: 204 });
        let artifact = sensor_of(&look(json!({ "artifact": "nightly/clean.orders" }), None)).unwrap();
        let [pipeline, task, output] = ["nightly", "clean", "orders"].map(str::to_owned);
        assert_eq!(artifact, Sensor::Artifact { pipeline, task, output });
        assert!(matches!(sensor_of(&look(json!({ "time": "2026-01-01T00:00:00Z" }), None)), Ok(Sensor::Time { .. })));
        assert!(sensor_of(&look(json!({ "artifact": "nowhere" }), None)).unwrap_err().contains("pipeline/task.output"));
        assert!(sensor_of(&look(json!({}), None)).is_err());
    }
}
