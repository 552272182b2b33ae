//! Workers as people and scripts see them.

use std::collections::BTreeMap;

use segue_proto::{resources::Resources, v1};
use serde_json::{Value, json};

use crate::{
    error::Error,
    format,
    printer::{Printer, Rows, clean},
};

/// Tasks that a line of the list names.
const NAMED: usize = 3;

/// Prints all workers.
pub fn list(workers: &[v1::WorkerDetail], out: &mut Printer) -> Result<(), Error> {
    let values: Vec<Value> = workers.iter().map(value).collect();
    if workers.is_empty() && !out.is_json() {
        out.note("no worker is known: start one with `segue worker --server URL`");
        return Ok(());
    }
    out.data(&values, || {
        let mut rows = Rows::new(&["=worker", "state", "host", "has", "free", "labels", "runs", "idle", "heartbeat"]);
        for detail in workers {
            let worker = detail.worker.clone().unwrap_or_default();
            rows.row([
                worker.name.clone(),
                state(detail),
                worker.hostname.clone(),
                amounts(worker.capacity.as_ref()),
                amounts(detail.free.as_ref()),
                labels(&worker.labels),
                runs(detail),
                detail.idle_code.clone(),
                heartbeat(&worker),
            ]);
        }
        rows
    })
}

/// Prints one worker; more than one start of it where an older one still holds leases.
pub fn show(starts: &[v1::WorkerDetail], out: &mut Printer) -> Result<(), Error> {
    if out.is_json() {
        return out.json(&one(starts));
    }
    for detail in starts {
        let worker = detail.worker.clone().unwrap_or_default();
        out.text(&format!("{}  {}", worker.name, state(detail)))?;
        let mut line = |name: &str, text: String| {
            if text.is_empty() { Ok(()) } else { out.text(&format!("  {name:<11}{}", clean(&text))) }
        };
        line("host", worker.hostname.clone())?;
        line("program", worker.version.clone())?;
        line("start", worker.incarnation.clone())?;
        line("has", amounts(worker.capacity.as_ref()))?;
        line("leased", worker.leased.as_ref().map_or_else(String::new, |leased| amounts(Some(leased))))?;
        line("free", amounts(detail.free.as_ref()))?;
        line("labels", labels(&worker.labels))?;
        if detail.own_labels != worker.labels && !worker.incarnation.is_empty() {
            let own = labels(&detail.own_labels);
            line("started with", format!(" {}", if own.is_empty() { "no labels" } else { &own }))?;
        }
        line("operators", worker.operators.join(", "))?;
        line("connected", if worker.connected_ms == 0 { String::new() } else { format::moment(worker.connected_ms) })?;
        line("heartbeat", heartbeat(&worker))?;
        if !detail.idle_code.is_empty() {
            line("idle", format!("{}: {}", detail.idle_code, detail.idle))?;
        }
        if detail.tasks.is_empty() {
            continue;
        }
        out.text("")?;
        out.data(&(), || {
            let mut rows = Rows::new(&["=run", "task", ">attempt", "state", "leased", ">age"]);
            for task in &detail.tasks {
                let token = task.token.clone().unwrap_or_default();
                rows.row([
                    token.run_id,
                    token.task,
                    token.attempt.to_string(),
                    task_state(task).to_owned(),
                    amounts(task.reserved.as_ref()),
                    format::duration(format::now_ms().saturating_sub(began(task))),
                ]);
            }
            rows
        })?;
    }
    Ok(())
}

/// Shows a worker as its latest start, with the older ones that still hold leases in it.
fn one(starts: &[v1::WorkerDetail]) -> Value {
    let since = |detail: &v1::WorkerDetail| detail.worker.as_ref().map_or(0, |worker| worker.connected_ms);
    let Some(latest) = (0..starts.len()).max_by_key(|&at| since(&starts[at])) else { return Value::Null };
    let mut shown = value(&starts[latest]);
    let others = starts.iter().enumerate().filter(|(at, _)| *at != latest);
    shown["earlier_starts"] = others.map(|(_, detail)| value(detail)).collect();
    shown
}

/// Names the tasks that a worker has.
pub fn tasks(detail: &v1::WorkerDetail) -> Vec<String> {
    detail.tasks.iter().filter_map(|task| Some(task.token.as_ref()?.task.clone())).collect()
}

/// Shows labels on one line.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

fn value(detail: &v1::WorkerDetail) -> Value {
    let worker = detail.worker.clone().unwrap_or_default();
    let attempts: Vec<Value> = detail
        .tasks
        .iter()
        .map(|task| {
            let token = task.token.clone().unwrap_or_default();
            json!({
                "run": token.run_id, "task": token.task, "attempt": token.attempt, "state": task_state(task),
                "leased": resources(task.reserved.as_ref()), "assigned_ms": task.assigned_ms,
                "started_ms": task.started_ms,
            })
        })
        .collect();
    let idle = match detail.idle_code.as_str() {
        "" => Value::Null,
        code => json!({"code": code, "text": detail.idle}),
    };
    json!({
        "name": worker.name, "incarnation": worker.incarnation, "state": worker.state,
        "cordoned": detail.cordoned, "draining": detail.draining, "host": worker.hostname,
        "capacity": resources(worker.capacity.as_ref()), "leased": resources(worker.leased.as_ref()),
        "free": resources(detail.free.as_ref()), "labels": worker.labels, "own_labels": detail.own_labels,
        "operators": worker.operators, "attempts": attempts, "idle": idle,
        "connected_ms": worker.connected_ms, "heartbeat_ms": worker.heartbeat_ms, "version": worker.version,
    })
}

/// Names the state, and a cordon that it hides.
fn state(detail: &v1::WorkerDetail) -> String {
    let state = detail.worker.as_ref().map_or("", |worker| worker.state.as_str());
    if detail.cordoned && state != "cordoned" { format!("{state}, cordoned") } else { state.to_owned() }
}

fn task_state(task: &v1::WorkerTask) -> &'static str {
    match (task.cancelling, task.started_ms, task.ahead) {
        (true, ..) => "cancelling",
        (false, 0, true) => "next in line",
        (false, 0, false) => "starting",
        (false, ..) => "running",
    }
}

const fn began(task: &v1::WorkerTask) -> u64 {
    if task.started_ms == 0 { task.assigned_ms } else { task.started_ms }
}

fn runs(detail: &v1::WorkerDetail) -> String {
    let names = tasks(detail);
    match names.len() {
        0 => String::new(),
        n if n <= NAMED => names.join(", "),
        n => format!("{} and {} more", names[..NAMED].join(", "), n - NAMED),
    }
}

fn heartbeat(worker: &v1::WorkerView) -> String {
    if worker.heartbeat_ms == 0 {
        return "-".to_owned();
    }
    format!("{} ago", format::duration(format::now_ms().saturating_sub(worker.heartbeat_ms)))
}

fn amounts(wire: Option<&v1::Resources>) -> String {
    wire.map_or_else(String::new, |wire| format::resources(&Resources::from(wire.clone())))
}

fn resources(wire: Option<&v1::Resources>) -> Value {
    let wire = wire.cloned().unwrap_or_default();
    json!({
        "cpu": f64::from(wire.cpu_milli) / 1_000.0, "memory_bytes": wire.memory_bytes, "gpu": f64::from(wire.gpu_milli) / 1_000.0,
        "custom": wire.custom,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_one_object_whatever_is_left_of_its_earlier_starts() {
        let start = |incarnation: &str, connected_ms: u64| {
            let worker =
                v1::WorkerView { incarnation: incarnation.to_owned(), connected_ms, ..v1::WorkerView::default() };
            v1::WorkerDetail { worker: Some(worker), ..v1::WorkerDetail::default() }
        };
        let shown = one(&[start("new", 2_000), start("old", 1_000)]);
        assert_eq!(shown["incarnation"], "new");
        assert_eq!(shown["earlier_starts"][0]["incarnation"], "old");
        assert_eq!(one(&[start("only", 1)])["earlier_starts"], json!([]));
    }
}
