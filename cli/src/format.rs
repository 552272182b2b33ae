//! Values in the words of people, and views as JSON.

use chrono::{Datelike as _, Local, TimeZone as _};
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

/// Shows a moment in few columns, as seen from `now`: the time of today, the day of this year, the day of another year.
pub fn moment_short(ms: u64, now: u64) -> String {
    let local = |ms: u64| i64::try_from(ms).ok().and_then(|ms| Local.timestamp_millis_opt(ms).single());
    let (Some(time), Some(now)) = (local(ms).filter(|_| ms > 0), local(now)) else { return moment(ms) };
    let form = if time.date_naive() == now.date_naive() {
        "%H:%M:%S"
    } else if time.year() == now.year() {
        "%m-%d %H:%M"
    } else {
        "%Y-%m-%d"
    };
    time.format(form).to_string()
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

/// Wall time in seconds: of the last attempt, and of a fan-out from the first start of a child to the end of the last.
pub fn task_seconds(run: &v1::RunView, task: &v1::TaskView) -> f64 {
    spent_ms(run, task).unwrap_or(0) as f64 / 1_000.0
}

/// Milliseconds that a task took, as [`task_seconds`] counts them; `None` where nothing tells.
pub fn spent_ms(run: &v1::RunView, task: &v1::TaskView) -> Option<u64> {
    if let Some(attempt) = task.attempts.last() {
        return Some(match attempt.usage {
            Some(usage) if usage.wall_ms > 0 => usage.wall_ms,
            _ => attempt_ms(attempt),
        });
    }
    if task.children.is_empty() || task.started_ms == 0 {
        return None;
    }
    let end = if task.ended_ms == 0 { now_ms() } else { task.ended_ms };
    // Its start is that of its first child ever, which a rerun may have kept.
    let rerun = if run.generation == 0 { 0 } else { began_ms(run)? };
    let start = if end < rerun { task.started_ms } else { task.started_ms.max(rerun) };
    Some(end.saturating_sub(start))
}

/// Says whether a rerun kept a task as it was: what it did was done before, for an earlier generation of the run.
pub fn is_kept(task: &v1::TaskView, generation: u32) -> bool {
    task.attempts.last().is_some_and(|attempt| attempt.generation < generation)
}

/// Milliseconds that the present generation of a run has taken: from its submission, and for a rerun from the first
/// assignment of it. `None` where nothing that is shown tells when a rerun began.
pub fn run_ms(run: &v1::RunView) -> Option<u64> {
    let end = if run.ended_ms == 0 { now_ms() } else { run.ended_ms };
    Some(end.saturating_sub(began_ms(run)?))
}

fn began_ms(run: &v1::RunView) -> Option<u64> {
    if run.generation == 0 {
        return Some(run.created_ms);
    }
    let attempts = run.tasks.iter().flat_map(|task| &task.attempts);
    attempts.filter(|attempt| attempt.generation == run.generation).map(|attempt| attempt.assigned_ms).min()
}

/// Counts the tasks of a run that succeeded, and all of them.
pub fn done_of(run: &v1::RunView) -> (u32, u32) {
    let succeeded = i32::from(v1::TaskState::Succeeded);
    let done = run.counts.iter().filter(|count| count.state == succeeded).map(|count| count.count).sum();
    (done, run.counts.iter().map(|count| count.count).sum())
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
            "seconds": task_seconds(run, task),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(generation: u32, assigned_ms: u64, ended_ms: u64) -> v1::AttemptView {
        v1::AttemptView { generation, assigned_ms, started_ms: assigned_ms, ended_ms, ..Default::default() }
    }

    fn task(attempts: Vec<v1::AttemptView>) -> v1::TaskView {
        v1::TaskView { attempts, ..Default::default() }
    }

    #[test]
    fn a_fan_out_takes_from_its_first_child_to_its_end() {
        let mut run = v1::RunView::default();
        let children = vec![v1::TaskCount { state: v1::TaskState::Succeeded.into(), count: 3 }];
        let fan_out = v1::TaskView { children, started_ms: 1_000, ended_ms: 2_500, ..Default::default() };
        assert_eq!((spent_ms(&run, &fan_out), task_seconds(&run, &fan_out)), (Some(1_500), 1.5));
        assert_eq!(spent_ms(&run, &v1::TaskView::default()), None, "one that did nothing took no time to speak of");
        assert_eq!(spent_ms(&run, &task(vec![attempt(0, 10, 50)])), Some(40));
        run.generation = 1;
        assert_eq!(spent_ms(&run, &fan_out), None, "nothing tells which of its children the rerun executed");
        run.tasks.push(task(vec![attempt(1, 2_300, 2_400)]));
        assert_eq!(spent_ms(&run, &fan_out), Some(200));
        run.tasks[0].attempts[0].assigned_ms = 9_000;
        assert_eq!(spent_ms(&run, &fan_out), Some(1_500), "the rerun kept it");
    }

    #[test]
    fn a_rerun_takes_as_long_as_what_it_executed() {
        let kept = task(vec![attempt(0, 1_000, 2_000)]);
        let executed = task(vec![attempt(0, 2_000, 3_000), attempt(1, 60_000, 60_200)]);
        assert!(is_kept(&kept, 1) && !is_kept(&executed, 1) && !is_kept(&kept, 0));
        let mut run = v1::RunView {
            created_ms: 1_000,
            ended_ms: 60_200,
            generation: 1,
            tasks: vec![kept, executed],
            ..Default::default()
        };
        assert_eq!(run_ms(&run), Some(200));
        run.tasks.truncate(1);
        assert_eq!(run_ms(&run), None, "nothing tells when it began");
        run.generation = 0;
        assert_eq!(run_ms(&run), Some(59_200));
    }

    #[test]
    fn a_moment_is_as_short_as_its_distance_allows() {
        let now = now_ms();
        let year = 366 * 86_400_000;
        assert_eq!(moment_short(now, now).len(), "08:15:02".len());
        assert_eq!(moment_short(now - year, now).len(), "2025-11-22".len());
        assert_eq!(moment_short(0, now), "-");
    }
}
