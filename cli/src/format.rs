//! Values in the words of people, and views as JSON.

use chrono::{Local, TimeZone as _};
use segue_proto::{resources::Resources, v1};
use serde_json::{Value, json};

/// Names a run state.
pub fn run_state(state: i32) -> &'static str {
    match v1::RunState::try_from(state) {
        Ok(v1::RunState::Running) => "running",
        Ok(v1::RunState::Cancelling) => "cancelling",
        Ok(v1::RunState::Succeeded) => "succeeded",
        Ok(v1::RunState::Failed) => "failed",
        Ok(v1::RunState::Cancelled) => "cancelled",
        Ok(v1::RunState::Queued) => "queued",
        Ok(v1::RunState::Skipped) => "skipped",
        Ok(v1::RunState::Unspecified) | Err(_) => "unknown",
    }
}

/// Names a task state.
pub fn task_state(state: i32) -> &'static str {
    match v1::TaskState::try_from(state) {
        Ok(v1::TaskState::Waiting) => "waiting",
        Ok(v1::TaskState::Ready) => "ready",
        Ok(v1::TaskState::Assigned) => "starting",
        Ok(v1::TaskState::Running) => "running",
        Ok(v1::TaskState::Backoff) => "backoff",
        Ok(v1::TaskState::Succeeded) => "succeeded",
        Ok(v1::TaskState::Failed) => "failed",
        Ok(v1::TaskState::UpstreamFailed) => "upstream failed",
        Ok(v1::TaskState::Cancelled) => "cancelled",
        Ok(v1::TaskState::Skipped) => "skipped",
        Ok(v1::TaskState::Cancelling) => "cancelling",
        Ok(v1::TaskState::Sensing) => "sensing",
        Ok(v1::TaskState::Expanded) => "expanded",
        Ok(v1::TaskState::Dropped) => "dropped",
        Ok(v1::TaskState::Unspecified) | Err(_) => "unknown",
    }
}

/// Names an attempt state.
pub fn attempt_state(state: i32) -> &'static str {
    match v1::AttemptState::try_from(state) {
        Ok(v1::AttemptState::Assigned) => "starting",
        Ok(v1::AttemptState::Running) => "running",
        Ok(v1::AttemptState::Succeeded) => "succeeded",
        Ok(v1::AttemptState::Failed) => "failed",
        Ok(v1::AttemptState::TimedOut) => "timed out",
        Ok(v1::AttemptState::Lost) => "lost",
        Ok(v1::AttemptState::Cancelled) => "cancelled",
        Ok(v1::AttemptState::HandedBack) => "handed back",
        Ok(v1::AttemptState::Unspecified) | Err(_) => "unknown",
    }
}

/// Says whether a run has ended, and how.
pub fn ended(state: i32) -> Option<crate::error::ExitStatus> {
    use crate::error::ExitStatus;
    match v1::RunState::try_from(state) {
        Ok(v1::RunState::Succeeded) => Some(ExitStatus::Done),
        // Nothing of it ran, because others were going: whoever waits for it has to know.
        Ok(v1::RunState::Failed | v1::RunState::Cancelled | v1::RunState::Skipped) => Some(ExitStatus::RunFailed),
        _ => None,
    }
}

/// Shows a moment in local time.
pub fn moment(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Local.timestamp_millis_opt(ms).single())
        .map_or_else(|| ms.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}

/// Shows a span of time.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{}m {:02}s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{}h {:02}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// Shows an amount of bytes.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Shows a number of things, such as `1 run` or `2 runs`.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Shows amounts of resources.
pub fn resources(amounts: &Resources) -> String {
    let mut parts = vec![format!("{} cpu", f64::from(amounts.cpu_milli) / 1_000.0)];
    if amounts.memory_bytes > 0 {
        parts.push(bytes(amounts.memory_bytes));
    }
    if amounts.gpu_milli > 0 {
        parts.push(format!("{} gpu", f64::from(amounts.gpu_milli) / 1_000.0));
    }
    parts.extend(amounts.custom.iter().map(|(name, amount)| format!("{amount} {name}")));
    parts.join(", ")
}

/// Milliseconds from the start of an attempt to its end, or to now.
pub fn attempt_ms(attempt: &v1::AttemptView) -> u64 {
    match (attempt.started_ms, attempt.ended_ms) {
        (0, _) => 0,
        (start, 0) => now_ms().saturating_sub(start),
        (start, end) => end.saturating_sub(start),
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Reads JSON text that came with a message; what is not JSON stays text.
pub fn embedded_json(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)) }
}

/// A diagnostic as JSON.
pub fn diagnostic(diagnostic: &v1::Diagnostic) -> Value {
    json!({
        "code": diagnostic.code, "severity": if diagnostic.error { "error" } else { "warning" },
        "message": diagnostic.message, "hint": diagnostic.hint,
        "path": diagnostic.path, "line": diagnostic.line, "column": diagnostic.column,
    })
}

/// A failure as JSON.
pub fn failure(failure: Option<&v1::Failure>) -> Value {
    failure.map_or(Value::Null, |failure| {
        let class = v1::FailureClass::try_from(failure.class).map_or("unknown", |class| class.as_str_name());
        json!({
            "class": class.trim_start_matches("FAILURE_CLASS_").to_lowercase(),
            "message": failure.message, "hint": failure.hint,
            "exit_code": failure.exit_code, "signal": failure.signal,
        })
    })
}

/// An artifact as JSON.
pub fn artifact(artifact: Option<&v1::Artifact>) -> Value {
    artifact.map_or(Value::Null, |artifact| {
        json!({
            "digest": artifact.digest, "size_bytes": artifact.size_bytes, "kind": artifact.kind,
            "schema": embedded_json(&artifact.schema),
        })
    })
}

/// Artifacts by name as JSON.
pub fn named_artifacts(named: &[v1::NamedArtifact]) -> Value {
    named
        .iter()
        .map(|named| (named.name.clone(), artifact(named.artifact.as_ref())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Counts of tasks by state, as JSON.
pub fn counts(counts: &[v1::TaskCount]) -> Value {
    counts
        .iter()
        .map(|count| (task_state(count.state).to_owned(), Value::from(count.count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Attempts that did something: one that was handed back before it began is not counted.
pub fn attempts_made(task: &v1::TaskView) -> usize {
    task.attempts
        .iter()
        .filter(|attempt| attempt.started_ms > 0 || attempt.state != i32::from(v1::AttemptState::HandedBack))
        .count()
}

/// Wall time of the last attempt in seconds.
pub fn task_seconds(task: &v1::TaskView) -> f64 {
    task.attempts.last().map_or(0.0, |attempt| match attempt.usage {
        Some(usage) if usage.wall_ms > 0 => usage.wall_ms as f64 / 1_000.0,
        _ => attempt_ms(attempt) as f64 / 1_000.0,
    })
}

/// A run as one JSON object: what `segue run -o json` ends with.
pub fn run_outcome(run: &v1::RunView) -> Value {
    let end = if run.ended_ms == 0 { now_ms() } else { run.ended_ms };
    json!({
        "run": run.run_id,
        "state": run_state(run.state),
        "seconds": end.saturating_sub(run.created_ms) as f64 / 1_000.0,
        "tasks": run.tasks.iter().map(|task| json!({
            "name": task.name,
            "state": task_state(task.state),
            "attempts": attempts_made(task),
            "cached": task.cached,
            "seconds": task_seconds(task),
            "worker": task.attempts.last().map_or("", |attempt| attempt.worker.as_str()),
        })).collect::<Vec<_>>(),
    })
}

/// A run with everything that is known of it.
pub fn run_details(run: &v1::RunView) -> Value {
    let tasks: Vec<Value> = run
        .tasks
        .iter()
        .map(|task| {
            let attempts: Vec<Value> = task
                .attempts
                .iter()
                .map(|attempt| {
                    let usage = attempt.usage.unwrap_or_default();
                    json!({
                        "attempt": attempt.attempt, "state": attempt_state(attempt.state), "worker": attempt.worker,
                        "incarnation": attempt.incarnation, "epoch": attempt.epoch, "generation": attempt.generation,
                        "assigned_ms": attempt.assigned_ms, "started_ms": attempt.started_ms, "ended_ms": attempt.ended_ms,
                        "wall_ms": usage.wall_ms, "cpu_ms": usage.cpu_ms, "peak_memory_bytes": usage.peak_memory_bytes,
                        "log_bytes": attempt.log_bytes, "failure": failure(attempt.failure.as_ref()),
                    })
                })
                .collect();
            json!({
                "name": task.name, "state": task_state(task.state), "work": task.work, "needs": task.needs,
                "cached": task.cached, "attempts": attempts, "outputs": named_artifacts(&task.outputs),
                "failure": failure(task.failure.as_ref()), "metrics": embedded_json(&task.metrics_json),
                "reason_code": task.reason_code, "reason": task.reason, "group": task.group, "key": task.key,
                "item": embedded_json(&task.item_json), "children": counts(&task.children),
            })
        })
        .collect();
    json!({
        "run": run.run_id, "pipeline": run.pipeline, "version": run.version, "state": run_state(run.state),
        "created_ms": run.created_ms, "ended_ms": run.ended_ms, "generation": run.generation,
        "params": run.params, "path": run.path, "priority": run.priority, "tags": run.tags,
        "reason_code": run.reason_code, "reason": run.reason, "tasks": tasks,
    })
}
