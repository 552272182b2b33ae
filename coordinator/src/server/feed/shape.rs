//! How events are made of runs, tasks and attempts. What came from elsewhere is cut, and credentials are taken out.

use segue_proto::{
    artifact::NamedArtifact,
    failure::Failure,
    v1::{self, EventKind as Kind},
};
use serde_json::{Map, Value, json};
use url::Url;

use crate::core::{Attempt, Run, explain::Reason};

/// Longest message of an event, in characters.
pub(super) const LONGEST_MESSAGE: usize = 2_000;
/// Longest schema of an artifact that an event repeats, in bytes. The store has the whole of it.
const LONGEST_SCHEMA: usize = 16 * 1024;

/// An event of a run, with nothing but the run.
pub(super) fn of_run_alone(run: &Run, kind: Kind) -> v1::FeedEvent {
    v1::FeedEvent {
        kind: kind.into(),
        run_id: run.id.to_string(),
        pipeline: run.spec.pipeline.to_string(),
        version: run.spec.version.to_string(),
        generation: run.generation,
        ..v1::FeedEvent::default()
    }
}

/// An event of a task.
pub(super) fn of_task(run: &Run, index: u32, kind: Kind) -> v1::FeedEvent {
    v1::FeedEvent { task: task_name(run, index), ..of_run_alone(run, kind) }
}

/// An event of an attempt.
pub(super) fn of_attempt(run: &Run, index: u32, attempt: &Attempt, kind: Kind) -> v1::FeedEvent {
    v1::FeedEvent { attempt: attempt.number, worker: attempt.worker.name.to_string(), ..of_task(run, index, kind) }
}

/// The start of an attempt, with what it takes.
pub(super) fn begun(run: &Run, index: u32, attempt: &Attempt) -> v1::FeedEvent {
    v1::FeedEvent {
        inputs: inputs(run, index, &attempt.inputs),
        external_inputs: external(run, index),
        ..of_attempt(run, index, attempt, Kind::TaskStarted)
    }
}

/// Names a task.
pub(super) fn task_name(run: &Run, index: u32) -> String {
    run.name_of(index).map(String::from).unwrap_or_default()
}

/// Adds why something failed.
pub(super) fn failed(event: v1::FeedEvent, failure: Option<&Failure>) -> v1::FeedEvent {
    let Some(failure) = failure else { return event };
    let mut details = Map::new();
    for (key, value) in [("exit_code", failure.exit_code), ("signal", failure.signal)] {
        if let Some(value) = value {
            details.insert(key.to_owned(), json!(value));
        }
    }
    if !failure.hint.is_empty() {
        details.insert("hint".to_owned(), json!(clip(&failure.hint, LONGEST_MESSAGE)));
    }
    let event = v1::FeedEvent {
        failure_class: v1::FailureClass::from(failure.class).into(),
        message: clip(&failure.message, LONGEST_MESSAGE),
        ..event
    };
    if details.is_empty() { event } else { with_details(event, &Value::from(details)) }
}

/// Says of an attempt that its worker was lost, and of one that had not begun that this is its failure.
pub(super) fn lost(event: v1::FeedEvent) -> v1::FeedEvent {
    let message = match event.message.as_str() {
        "" => format!("worker `{}` was lost before the attempt began: this burns no try", event.worker),
        known => known.to_owned(),
    };
    let event = v1::FeedEvent { failure_class: v1::FailureClass::Lost.into(), message, ..event };
    with_reason(event, "worker_lost")
}

/// Adds why something was not executed, in the words of `explain`.
pub(super) fn because(event: v1::FeedEvent, reason: Option<Reason>) -> v1::FeedEvent {
    let Some(reason) = reason else { return event };
    with_reason(v1::FeedEvent { message: clip(&reason.text, 500), ..event }, reason.code)
}

/// Adds a code to what an event has already.
fn with_reason(event: v1::FeedEvent, code: &str) -> v1::FeedEvent {
    let mut details: Map<String, Value> = serde_json::from_str(&event.details_json).unwrap_or_default();
    details.insert("reason".to_owned(), json!(code));
    with_details(event, &Value::from(details))
}

/// Adds what only events of this kind have.
pub(super) fn with_details(event: v1::FeedEvent, details: &Value) -> v1::FeedEvent {
    v1::FeedEvent { details_json: details.to_string(), ..event }
}

/// Shows outputs.
pub(super) fn artifacts(named: &[NamedArtifact]) -> Vec<v1::NamedArtifact> {
    named
        .iter()
        .map(|one| v1::NamedArtifact {
            name: one.name.clone(),
            artifact: Some(artifact(one)),
            key: one.key.as_ref().map(ToString::to_string).unwrap_or_default(),
        })
        .collect()
}

fn artifact(named: &NamedArtifact) -> v1::Artifact {
    let mut artifact = named.artifact.clone();
    if artifact.schema.len() > LONGEST_SCHEMA {
        artifact.schema = String::new();
    }
    artifact.into()
}

/// Shows inputs with the outputs that they are.
pub(super) fn inputs(run: &Run, index: u32, taken: &[NamedArtifact]) -> Vec<v1::EventInput> {
    let bound = run.bound(index);
    let origin = |name: &str| {
        let from = bound?.inputs.get(name)?;
        Some((task_name(run, u32::try_from(from.task).ok()?), from.output.clone()))
    };
    taken
        .iter()
        .map(|input| {
            let (task, output) = origin(&input.name).unwrap_or_default();
            v1::EventInput { name: input.name.clone(), task, output, artifact: Some(artifact(input)) }
        })
        .collect()
}

/// Shows what path parameters point to.
pub(super) fn external(run: &Run, index: u32) -> Vec<v1::ExternalInput> {
    crate::server::external::of_task(run, index)
        .into_iter()
        .map(|(param, place)| v1::ExternalInput {
            param,
            digest: run.external_inputs.get(&place).cloned().unwrap_or_default(),
            place: without_credentials(&place),
        })
        .collect()
}

/// Takes out of a URL what may be a credential: name, password, and the query, where signed addresses have theirs.
pub(super) fn without_credentials(place: &str) -> String {
    if !place.contains("://") {
        return place.to_owned();
    }
    let Ok(mut url) = Url::parse(place) else { return "(no address)".to_owned() };
    url.set_query(None);
    url.set_fragment(None);
    // Refused for URLs that cannot have them, and then there are none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Cuts a text that came from elsewhere, so that an event stays small.
pub(super) fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
