//! HTTP for machines that watch: `/healthz`, `/readyz`, `/metrics`.

use std::fmt::Write as _;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{api::Shared, records};
use crate::core::{Core, TaskState};

/// Makes the routes.
pub fn router(shared: Shared) -> Router {
    Router::new()
        // Alive: the process answers.
        .route("/healthz", get(|| async { "ok\n" }))
        // Ready: the actor answers too, so the store takes commits.
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.handle.read(|_| ()).await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

async fn metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    let counted = match shared.handle.read(count).await {
        Ok(counted) => counted,
        Err(e) => return (StatusCode::SERVICE_UNAVAILABLE, format!("# {e}\n")),
    };
    let mut registry = Registry::with_prefix("segue");
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge(&mut registry, "epoch", "Starts of the coordinator on this store", shared.epoch);
    gauge(&mut registry, "runs_active", "Runs that have not ended", counted.runs);
    gauge(&mut registry, "workers_connected", "Workers with an open link", counted.workers);
    let tasks = Family::<StateLabel, Gauge>::default();
    for (state, value) in counted.tasks {
        tasks.get_or_create(&StateLabel { state }).set(value);
    }
    registry.register("tasks", "Tasks of active runs by state", tasks);
    let ready = Family::<ClassLabel, Gauge>::default();
    ready.get_or_create(&ClassLabel { class: "cpu" }).set(counted.ready_cpu);
    ready.get_or_create(&ClassLabel { class: "gpu" }).set(counted.ready_gpu);
    registry.register("tasks_ready", "Tasks that wait for a worker, by resource class", ready);
    let last_event = shared.feed.flushed.borrow().saturating_sub(1);
    gauge(&mut registry, "events", "Offset of the last event of the feed", last_event);
    let stats = shared.committer.stats();
    gauge(&mut registry, "store_flushes", "Flushes of the store since the start", stats.flushes);
    gauge(&mut registry, "store_batches", "Batches committed since the start", stats.batches);
    let uptime = Gauge::<i64>::default();
    uptime.set(i64::try_from(shared.clock.now().saturating_sub(shared.started_ms) / 1000).unwrap_or(i64::MAX));
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    let mut body = String::new();
    if let Err(e) = text::encode(&mut body, &registry) {
        let _ = writeln!(body, "# {e}");
        return (StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    (StatusCode::OK, body)
}

struct Counted {
    runs: u64,
    workers: u64,
    tasks: Vec<(&'static str, i64)>,
    ready_cpu: i64,
    ready_gpu: i64,
}

fn count(core: &Core) -> Counted {
    let mut tasks: std::collections::BTreeMap<&'static str, i64> = std::collections::BTreeMap::new();
    let (mut ready_cpu, mut ready_gpu) = (0, 0);
    for run in core.runs() {
        for (bound, task) in run.indices().filter_map(|index| run.bound(index).zip(run.task(index))) {
            let name = records::task_state(&task.state).as_str_name();
            *tasks.entry(name.strip_prefix("TASK_STATE_").unwrap_or(name)).or_default() += 1;
            if task.state == TaskState::Ready {
                if bound.resources.gpu == segue_proto::resources::GpuPreference::None {
                    ready_cpu += 1;
                } else {
                    ready_gpu += 1;
                }
            }
        }
    }
    Counted {
        runs: core.runs().count() as u64,
        workers: core.workers().filter(|worker| worker.link.is_some()).count() as u64,
        tasks: tasks.into_iter().collect(),
        ready_cpu,
        ready_gpu,
    }
}
