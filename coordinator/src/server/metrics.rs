//! `/metrics`: what the coordinator can be watched by, in the OpenMetrics text format.
//!
//! Everything is read from the core at each scrape; nothing is kept twice. Labels come from pipelines and workers, so
//! their number is bounded: what is beyond the bound is added up under the name [`REST`].

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64, time::Instant};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use segue_proto::resources::{GpuPreference, Resources};

use super::{api::Shared, records};
use crate::{
    core::{
        Core, TaskState, UnixMillis,
        fleet::{Class, Depth, QueueSummary, Tally},
    },
    store::CommitStats,
};

/// Classes of work that are shown by themselves.
const MOST_CLASSES: usize = 64;

/// Workers that are shown by themselves.
const MOST_WORKERS: usize = 1_000;

/// Custom resources that are shown of one worker.
const MOST_CUSTOM: usize = 16;

/// Characters of a label value.
const LONGEST_VALUE: usize = 128;

/// Stands for everything beyond a bound.
const REST: &str = "(rest)";

/// What the body is; Prometheus chooses its reader by it.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Times that the actor takes. Clones share the same counts.
#[derive(Debug, Clone)]
pub struct Timings {
    /// Of one round of placement, in seconds.
    pub placement: Histogram,
    /// Of one commit as the actor waits for it, flush included, in seconds.
    pub commit: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            // 10 µs to 2.6 s.
            placement: Histogram::new(exponential_buckets(1e-5, 4.0, 10)),
            // 100 µs to 26 s.
            commit: Histogram::new(exponential_buckets(1e-4, 4.0, 10)),
        }
    }
}

impl Timings {
    /// Does something and counts how long it took.
    pub fn measure<T>(into: &Histogram, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        into.observe(begun.elapsed().as_secs_f64());
        done
    }
}

/// Answers a scrape.
pub async fn serve(State(shared): State<Shared>) -> Response {
    let core = match shared.handle.read(CoreFigures::of).await {
        Ok(figures) => figures,
        Err(e) => return (StatusCode::SERVICE_UNAVAILABLE, format!("# {e}\n")).into_response(),
    };
    let figures = Figures {
        core,
        epoch: shared.epoch,
        last_event: shared.feed.flushed.borrow().saturating_sub(1),
        now: shared.clock.now(),
        started: shared.started_ms,
        commits: shared.committer.stats(),
        timings: shared.handle.timings().clone(),
    };
    match render(figures) {
        Ok(body) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("# {e}\n")).into_response(),
    }
}

/// What one scrape reads from the core.
#[derive(Debug, Default)]
struct CoreFigures {
    queue: QueueSummary,
    tally: Tally,
    runs: [(&'static str, u64); 3],
    tasks: BTreeMap<&'static str, i64>,
    ready_cpu: i64,
    ready_gpu: i64,
    workers: Vec<WorkerFigures>,
}

#[derive(Debug, Clone)]
struct WorkerFigures {
    name: String,
    state: &'static str,
    capacity: Resources,
    leased: Resources,
    busy: bool,
}

impl CoreFigures {
    fn of(core: &Core) -> Self {
        let mut queue = core.queue_summary();
        core.add_waits(&mut queue);
        let mut figures = Self {
            queue,
            tally: core.tally().clone(),
            runs: core.active_runs(),
            workers: core
                .workers()
                .filter(|worker| !worker.superseded)
                .map(|worker| WorkerFigures {
                    name: worker.key.name.to_string(),
                    state: worker.state(),
                    capacity: worker.capacity.clone(),
                    leased: worker.in_use(),
                    busy: !worker.is_idle(),
                })
                .collect(),
            ..Self::default()
        };
        for run in core.runs() {
            for (bound, task) in run.indices().filter_map(|index| run.bound(index).zip(run.task(index))) {
                let name = records::task_state(&task.state).as_str_name();
                *figures.tasks.entry(name.strip_prefix("TASK_STATE_").unwrap_or(name)).or_default() += 1;
                if task.state == TaskState::Ready {
                    if bound.resources.gpu == GpuPreference::None {
                        figures.ready_cpu += 1;
                    } else {
                        figures.ready_gpu += 1;
                    }
                }
            }
        }
        figures
    }
}

/// Everything that is shown.
#[derive(Debug)]
struct Figures {
    core: CoreFigures,
    epoch: u64,
    last_event: u64,
    now: UnixMillis,
    started: UnixMillis,
    commits: CommitStats,
    timings: Timings,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GpuLabel {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    work: String,
    gpu: &'static str,
    cpu: String,
    labels: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabel {
    worker: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AmountLabel {
    worker: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
    class: &'static str,
}

type Decimal = Gauge<f64, AtomicU64>;

/// Writes the body of an answer.
fn render(figures: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("segue");
    let uptime = figures.now.saturating_sub(figures.started) / 1_000;
    number(&mut registry, "epoch", "Starts of the coordinator on this store", figures.epoch);
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(uptime).unwrap_or(i64::MAX));
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, gauge);
    number(&mut registry, "events", "Offset of the last event of the feed", figures.last_event);
    runs_and_tasks(&mut registry, &figures.core);
    queue(&mut registry, &figures.core.queue, figures.now);
    workers(&mut registry, figures.core.workers);
    attempts(&mut registry, &figures.core.tally);
    count(&mut registry, "store_flushes", "Flushes of the store since the start", figures.commits.flushes);
    count(&mut registry, "store_batches", "Batches committed since the start", figures.commits.batches);
    let timings = figures.timings;
    let help = "Time of one round of placement";
    registry.register_with_unit("placement", help, Unit::Seconds, timings.placement);
    let help = "Time until a commit of the coordinator was durable";
    registry.register_with_unit("commit", help, Unit::Seconds, timings.commit);
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

fn number(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn runs_and_tasks(registry: &mut Registry, core: &CoreFigures) {
    number(registry, "runs_active", "Runs that have not ended", core.runs.iter().map(|(_, n)| n).sum());
    let runs = Family::<StateLabel, Gauge>::default();
    for (state, value) in core.runs {
        runs.get_or_create(&StateLabel { state }).set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    registry.register("runs", "Runs that have not ended, by state", runs);
    let ended = Family::<StateLabel, Counter>::default();
    for state in ["succeeded", "failed", "cancelled", "skipped"] {
        ended.get_or_create(&StateLabel { state }).inc_by(core.tally.runs.get(state).copied().unwrap_or(0));
    }
    registry.register("runs_ended", "Runs that have ended since the start, by state", ended);
    let tasks = Family::<StateLabel, Gauge>::default();
    for (state, value) in &core.tasks {
        tasks.get_or_create(&StateLabel { state }).set(*value);
    }
    registry.register("tasks", "Tasks of active runs by state", tasks);
    let ready = Family::<GpuLabel, Gauge>::default();
    ready.get_or_create(&GpuLabel { class: "cpu" }).set(core.ready_cpu);
    ready.get_or_create(&GpuLabel { class: "gpu" }).set(core.ready_gpu);
    registry.register("tasks_ready", "Tasks that wait for a worker, by whether they want a GPU", ready);
}

fn queue(registry: &mut Registry, queue: &QueueSummary, now: UnixMillis) {
    let waiting = Family::<ClassLabel, Gauge>::default();
    let held = Family::<ClassLabel, Gauge>::default();
    let running = Family::<ClassLabel, Gauge>::default();
    let oldest = Family::<ClassLabel, Decimal>::default();
    for (label, depth) in classes(queue) {
        waiting.get_or_create(&label).set(i64::try_from(depth.waiting).unwrap_or(i64::MAX));
        held.get_or_create(&label).set(i64::try_from(depth.held).unwrap_or(i64::MAX));
        running.get_or_create(&label).set(i64::try_from(depth.running).unwrap_or(i64::MAX));
        let wait = depth.waiting_since.map_or(0, |since| now.saturating_sub(since));
        oldest.get_or_create(&label).set(wait as f64 / 1_000.0);
    }
    registry.register("queue_waiting", "Ready tasks that wait for a worker, by what they want", waiting);
    registry.register("queue_held", "Ready tasks that wait for a pool or a limit, by what they want", held);
    registry.register("queue_running", "Tasks that a worker has, by what they want", running);
    let help = "How long the oldest waiting task of the class has been ready";
    registry.register_with_unit("queue_oldest_wait", help, Unit::Seconds, oldest);
}

/// Adds classes up by what is shown of them: those with most work by themselves, the others together.
fn classes(queue: &QueueSummary) -> Vec<(ClassLabel, Depth)> {
    let mut shown: BTreeMap<(String, &'static str, String, String), Depth> = BTreeMap::new();
    for (class, depth) in &queue.classes {
        add(shown.entry(class_name(class)).or_default(), depth);
    }
    let mut order: Vec<_> = shown.into_iter().collect();
    order.sort_by_key(|(_, depth)| {
        std::cmp::Reverse(depth.waiting.saturating_add(depth.held).saturating_add(depth.running))
    });
    let mut rest = Depth::default();
    let beyond = order.split_off(order.len().min(MOST_CLASSES));
    for (_, depth) in &beyond {
        add(&mut rest, depth);
    }
    if !beyond.is_empty() {
        order.push(((REST.to_owned(), "", String::new(), String::new()), rest));
    }
    order.into_iter().map(|((work, gpu, cpu, labels), depth)| (ClassLabel { work, gpu, cpu, labels }, depth)).collect()
}

fn add(sum: &mut Depth, depth: &Depth) {
    sum.waiting += depth.waiting;
    sum.held += depth.held;
    sum.running += depth.running;
    sum.waiting_since = [sum.waiting_since, depth.waiting_since].into_iter().flatten().min();
}

fn class_name(class: &Class) -> (String, &'static str, String, String) {
    let gpu = match class.gpu {
        GpuPreference::None => "none",
        GpuPreference::Prefer => "prefer",
        GpuPreference::Require => "require",
    };
    let labels: Vec<String> = class.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let work = class.operator.as_deref().unwrap_or("command");
    let cpu = (f64::from(class.amounts.cpu_milli) / 1_000.0).to_string();
    (clip(work), gpu, cpu, clip(&labels.join(",")))
}

fn workers(registry: &mut Registry, mut all: Vec<WorkerFigures>) {
    let connected = all.iter().filter(|worker| worker.state != "disconnected").count();
    number(registry, "workers_connected", "Workers with an open link", connected as u64);
    let states = Family::<StateLabel, Gauge>::default();
    for state in ["connected", "cordoned", "draining", "disconnected"] {
        states.get_or_create(&StateLabel { state }).set(0);
    }
    let (capacity, leased) = (Family::<AmountLabel, Decimal>::default(), Family::<AmountLabel, Decimal>::default());
    let busy = Family::<WorkerLabel, Gauge>::default();
    for worker in &all {
        states.get_or_create(&StateLabel { state: worker.state }).inc();
    }
    for worker in all.iter_mut().skip(MOST_WORKERS) {
        worker.name = REST.to_owned();
    }
    for worker in all {
        for (resource, has, used) in amounts(&worker) {
            let label = AmountLabel { worker: worker.name.clone(), resource };
            capacity.get_or_create(&label).inc_by(has);
            leased.get_or_create(&label).inc_by(used);
        }
        busy.get_or_create(&WorkerLabel { worker: worker.name }).inc_by(i64::from(worker.busy));
    }
    registry.register("workers", "Workers by state", states);
    registry.register("worker_capacity", "What a worker has: cores, bytes of memory, GPUs, custom", capacity);
    registry.register("worker_leased", "What its leases reserve", leased);
    registry.register("worker_busy", "1 where a worker has work, 0 where it can go", busy);
}

/// Gives resource, capacity and what is leased of it.
fn amounts(worker: &WorkerFigures) -> Vec<(String, f64, f64)> {
    let (has, used) = (&worker.capacity, &worker.leased);
    let mut amounts = vec![
        ("cpu".to_owned(), f64::from(has.cpu_milli) / 1_000.0, f64::from(used.cpu_milli) / 1_000.0),
        ("memory_bytes".to_owned(), has.memory_bytes as f64, used.memory_bytes as f64),
        ("gpu".to_owned(), f64::from(has.gpu_milli) / 1_000.0, f64::from(used.gpu_milli) / 1_000.0),
    ];
    amounts.extend(
        has.custom
            .iter()
            .take(MOST_CUSTOM)
            .map(|(name, amount)| (clip(name), *amount as f64, used.custom.get(name).copied().unwrap_or(0) as f64)),
    );
    amounts
}

fn attempts(registry: &mut Registry, tally: &Tally) {
    let ended = Family::<OutcomeLabel, Counter>::default();
    for ((outcome, class), n) in &tally.attempts {
        ended.get_or_create(&OutcomeLabel { outcome, class }).inc_by(*n);
    }
    registry.register(
        "attempts_ended",
        "Attempts that have ended since the start, by outcome and class of failure",
        ended,
    );
    count(registry, "leases_lost", "Attempts whose worker was silent for longer than its lease", tally.leases_lost);
    count(registry, "retries", "Further tries after a failure", tally.retries);
}

fn clip(text: &str) -> String {
    text.chars().take(LONGEST_VALUE).collect()
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
