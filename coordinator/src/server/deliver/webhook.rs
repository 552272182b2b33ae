//! A webhook: what is sent, under which headers, with which signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use segue_proto::{
    store::v1::delivery_record::{Value, WebhookCall, value},
    v1,
};
use serde_json::json;

use super::{World, command, decide::Failure, sign::SigningKey, word};
use crate::{server::feed::json as shown, spec};

/// Names a message: the same in every try, so that a receiver can drop repeats. The time is in it for a store that was
/// restored from a backup, whose offsets are given out a second time.
#[must_use]
pub fn id(event: &v1::FeedEvent, hook: u32) -> String {
    format!("evt_{}_{hook}_{}", event.offset, event.time_ms)
}

/// Gives the document that is sent.
#[must_use]
pub fn body(event: &v1::FeedEvent) -> serde_json::Value {
    let mut data = shown::event(event);
    data["on"] = json!(word(event.kind()).map_or("", spec::On::name));
    data["state"] = json!(command::state(event.kind()));
    json!({
        "type": shown::kind_name(event.kind()),
        "timestamp": shown::time(event.time_ms),
        "data": data,
    })
}

/// Sends it.
///
/// # Errors
/// What went wrong, without any secret.
pub async fn send(world: &World, call: &WebhookCall, event: &v1::FeedEvent, hook: u32) -> Result<(), Failure> {
    let body = body(event).to_string().into_bytes();
    let url = resolve(world, call.url.as_ref())?;
    // The receiver compares this with its own clock, so that it is the time of the wall.
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let id = id(event, hook);
    let mut headers = HeaderMap::new();
    for header in &call.headers {
        let malformed = || Failure::passing(format!("the header `{}` is malformed", header.name));
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| malformed())?;
        let mut value = HeaderValue::from_str(&resolve(world, header.value.as_ref())?).map_err(|_| malformed())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let mut set = |name: &'static str, value: String| {
        // An id, a number and base64: always fit for a header.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    if !call.secret.is_empty() {
        let key = SigningKey::parse(&secret(world, &call.secret)?)
            .map_err(|why| Failure::passing(format!("the key in {} {why}", variable(&call.secret))))?;
        set("webhook-signature", key.sign(&id, timestamp, &body));
    }
    set("webhook-id", id);
    set("webhook-timestamp", timestamp.to_string());
    world.http.post(&url, headers, body, Duration::from_millis(call.timeout_ms.max(1))).await
}

fn resolve(world: &World, value: Option<&Value>) -> Result<String, Failure> {
    match value.and_then(|value| value.value.as_ref()) {
        Some(value::Value::Text(text)) => Ok(text.clone()),
        Some(value::Value::Secret(reference)) => secret(world, reference),
        None => Err(Failure::for_good("the hook is stored without a value")),
    }
}

/// Reads a secret from the environment of the coordinator.
fn secret(world: &World, reference: &str) -> Result<String, Failure> {
    if !spec::is_hook_secret(reference) {
        return Err(Failure::for_good(format!("hooks read only variables that begin with {}", spec::SECRET_PREFIX)));
    }
    let name = variable(reference);
    match (world.variable)(name) {
        Some(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
        // It may be set when the coordinator starts again.
        _ => Err(Failure::passing(format!("{name} is not set in the environment of the coordinator"))),
    }
}

fn variable(reference: &str) -> &str {
    reference.strip_prefix("env:").unwrap_or(reference)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        server::deliver::{HookAllow, unset},
        spec::{EnvValue, Hook, HookAction, Hooks, On, RetryPolicy, Webhook},
    };

    #[test]
    fn secrets_that_are_not_there_are_warned_of_each_once() {
        let retry = RetryPolicy::default();
        let webhook = Webhook {
            url: EnvValue::Secret("env:SEGUE_HOOK_URL".to_owned()),
            secret: Some("env:SEGUE_HOOK_KEY".to_owned()),
            headers: [
                ("authorization".to_owned(), EnvValue::Secret("env:SEGUE_HOOK_KEY".to_owned())),
                ("x-team".to_owned(), EnvValue::Text("env:SEGUE_HOOK_TEXT".to_owned())),
            ]
            .into(),
            timeout_ms: 1,
            retry,
        };
        let list = vec![Hook { on: vec![On::Failure], action: HookAction::Webhook(webhook) }];
        let hooks = Hooks { sla_ms: None, list };
        let missing = unset(&hooks, |name| name == "SEGUE_HOOK_URL");
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(!missing[0].is_error() && missing[0].message.contains("SEGUE_HOOK_KEY"), "{missing:?}");
        assert!(unset(&hooks, |_| true).is_empty());
    }

    #[test]
    fn the_document_says_what_happened_and_of_which_run() {
        let event = v1::FeedEvent {
            offset: 12,
            time_ms: 1_700_000_000_000,
            kind: v1::EventKind::RunFailed.into(),
            run_id: "run_01j8zk5m8w0000000000000000".to_owned(),
            pipeline: "nightly".to_owned(),
            message: "task `a` failed (user): no such file".to_owned(),
            details_json: r#"{"seconds":1.5}"#.to_owned(),
            ..v1::FeedEvent::default()
        };
        assert_eq!(
            body(&event),
            json!({
                "type": "run.failed",
                "timestamp": "2023-11-14T22:13:20.000Z",
                "data": {
                    "offset": 12, "time_ms": 1_700_000_000_000_u64, "kind": "run.failed",
                    "run": "run_01j8zk5m8w0000000000000000", "pipeline": "nightly", "generation": 0,
                    "message": "task `a` failed (user): no such file", "details": { "seconds": 1.5 },
                    "on": "failure", "state": "failed",
                },
            })
        );
        assert_eq!(id(&event, 1), "evt_12_1_1700000000000");
    }

    #[test]
    fn a_secret_outside_the_agreed_names_is_never_read() {
        let world = World { variable: |name| panic!("{name} was read"), ..World::new(HookAllow::default()) };
        for reference in ["env:PATH", "env:SEGUE_HOOK", "SEGUE_HOOK_KEY", "env:SEGUE_HOOK_", "env:XSEGUE_HOOK_KEY"] {
            assert!(secret(&world, reference).is_err_and(|failure| failure.for_good), "{reference}");
        }
        let unset = World { variable: |_| None, ..world };
        let unset = secret(&unset, "env:SEGUE_HOOK_THAT_NOBODY_SETS");
        assert!(unset.is_err_and(|failure| !failure.for_good && failure.message.contains("NOBODY_SETS")));
    }
}
