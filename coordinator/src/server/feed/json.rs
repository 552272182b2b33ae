//! Events as JSON, and the names of their kinds: what the CLI prints and webhooks carry.

use segue_proto::v1::{self, EventKind as Kind};
use serde_json::{Map, Value, json};

macro_rules! kinds {
    ($($kind:ident = $name:literal),* $(,)?) => {
        /// Every kind with its name, in the order of the wire.
        pub const KINDS: &[(Kind, &str)] = &[$((Kind::$kind, $name)),*];

        /// Names a kind.
        #[must_use]
        pub const fn kind_name(kind: Kind) -> &'static str {
            match kind { Kind::Unspecified => "unknown", $(Kind::$kind => $name,)* }
        }
    };
}

kinds! {
    RunSubmitted = "run.submitted",
    RunStarted = "run.started",
    RunSucceeded = "run.succeeded",
    RunFailed = "run.failed",
    RunCancelled = "run.cancelled",
    RunRerun = "run.rerun",
    RunSkipped = "run.skipped",
    TaskAssigned = "task.assigned",
    TaskStarted = "task.started",
    TaskSucceeded = "task.succeeded",
    TaskFailed = "task.failed",
    TaskRetrying = "task.retrying",
    TaskLost = "task.lost",
    TaskTimedOut = "task.timed_out",
    TaskSkipped = "task.skipped",
    TaskUpstreamFailed = "task.upstream_failed",
    TaskCancelled = "task.cancelled",
    TaskHandedBack = "task.handed_back",
    WorkerConnected = "worker.connected",
    WorkerDisconnected = "worker.disconnected",
    WorkerDraining = "worker.draining",
    WorkerLost = "worker.lost",
    ModelRegistered = "model.registered",
    AliasMoved = "alias.moved",
    SlaMissed = "sla.missed",
    HookGaveUp = "hook.gave_up",
}

/// Gives the kinds that a word means: one by its name, or all of a group such as `task`. Empty: none.
#[must_use]
pub fn kinds_of(word: &str) -> Vec<Kind> {
    let group = |name: &str| name.split_once('.').is_some_and(|(group, _)| group == word);
    KINDS.iter().filter(|(_, name)| *name == word || group(name)).map(|(kind, _)| *kind).collect()
}

/// Gives the kind that a misspelt word was probably meant to be.
#[must_use]
pub fn nearest_kind(word: &str) -> Option<&'static str> {
    crate::spec::nearest(word, KINDS.iter().map(|(_, name)| *name))
}

/// Shows an event. What it does not have is left out.
#[must_use]
pub fn event(event: &v1::FeedEvent) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        let empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Null => true,
            _ => false,
        };
        if !empty {
            out.insert(key.to_owned(), value);
        }
    };
    put("offset", json!(event.offset));
    put("time_ms", json!(event.time_ms));
    put("kind", json!(kind_name(event.kind())));
    put("run", json!(event.run_id));
    put("pipeline", json!(event.pipeline));
    put("version", json!(event.version));
    put("generation", if event.run_id.is_empty() { Value::Null } else { json!(event.generation) });
    put("task", json!(event.task));
    put("attempt", if event.attempt == 0 { Value::Null } else { json!(event.attempt) });
    put("worker", json!(event.worker));
    put("class", json!(class_name(event.failure_class())));
    put("message", json!(event.message));
    put("cached", if event.cached { json!(true) } else { Value::Null });
    put("task_ended", if event.task_ended { json!(true) } else { Value::Null });
    put("retry_at_ms", if event.retry_at_ms == 0 { Value::Null } else { json!(event.retry_at_ms) });
    put("inputs", event.inputs.iter().map(input).collect());
    put("external_inputs", event.external_inputs.iter().map(external).collect());
    put("outputs", event.outputs.iter().map(output).collect());
    put("details", serde_json::from_str(&event.details_json).unwrap_or(Value::Null));
    Value::from(out)
}

fn class_name(class: v1::FailureClass) -> String {
    match class {
        v1::FailureClass::Unspecified => String::new(),
        class => class.as_str_name().trim_start_matches("FAILURE_CLASS_").to_lowercase(),
    }
}

fn input(input: &v1::EventInput) -> Value {
    let mut value = artifact(&input.name, input.artifact.as_ref());
    if !input.task.is_empty() {
        value["from"] = json!(format!("{}.{}", input.task, input.output));
    }
    value
}

fn external(input: &v1::ExternalInput) -> Value {
    let digest = if input.digest.is_empty() { Value::Null } else { json!(input.digest) };
    json!({ "param": input.param, "place": input.place, "digest": digest })
}

fn output(output: &v1::NamedArtifact) -> Value {
    artifact(&output.name, output.artifact.as_ref())
}

fn artifact(name: &str, artifact: Option<&v1::Artifact>) -> Value {
    let mut value = json!({ "name": name });
    if let Some(artifact) = artifact {
        value["digest"] = json!(artifact.digest);
        value["size_bytes"] = json!(artifact.size_bytes);
        value["kind"] = json!(artifact.kind);
    }
    value
}

/// Shows a time in UTC, to the millisecond.
#[must_use]
pub fn time(ms: u64) -> String {
    let moment = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis).unwrap_or_default();
    moment.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
