//! Which events are delivered to whom: decided in the commit of the event, so that a delivery exists exactly when its
//! cause does.

use segue_proto::{
    ids::RunId,
    store::v1::{DeliveryRecord, delivery_record as stored},
    v1::{self, EventKind as Kind},
};
use url::Url;

use crate::{
    core::{Core, Run},
    server::deliver::command,
    spec::{Backoff, EnvValue, Hook, HookAction, On, RetryPolicy, Webhook},
    store::{Batch, Key, keys::DeliveryKey},
};

/// The lane of what is submitted as a run: no receiver can hold it up.
pub const COMMANDS: u64 = 0;

/// Says what a hook calls an event; nothing for those that no hook waits for.
#[must_use]
pub const fn word(kind: Kind) -> Option<On> {
    match kind {
        Kind::RunSucceeded => Some(On::Success),
        Kind::RunFailed => Some(On::Failure),
        Kind::RunCancelled => Some(On::Cancelled),
        Kind::SlaMissed => Some(On::SlaMiss),
        _ => None,
    }
}

/// Adds the deliveries of an event to the batch of its commit; says whether there are any.
pub fn add(event: &v1::FeedEvent, core: &Core, batch: &mut Batch) -> bool {
    let Some(on) = word(event.kind()) else { return false };
    let Ok(id) = event.run_id.parse::<RunId>() else { return false };
    let Some(run) = core.run(&id) else { return false };
    let mut any = false;
    for (index, hook) in (0..).zip(&run.spec.hooks.list).filter(|(_, hook)| hook.on.contains(&on)) {
        let (key, record) = delivery(event, index, hook, run);
        batch.put(&Key::Delivery(key), &record);
        any = true;
    }
    any
}

fn delivery(event: &v1::FeedEvent, index: u32, hook: &Hook, run: &Run) -> (DeliveryKey, DeliveryRecord) {
    let (lane, retry, action) = match &hook.action {
        HookAction::Webhook(webhook) => (lane(webhook), retry(&webhook.retry), call(webhook)),
        HookAction::Command(wanted) => {
            let pipeline = command::name(run.spec.pipeline.as_str());
            let folder = std::path::Path::new(&run.path).parent().unwrap_or(std::path::Path::new(""));
            let action = stored::Action::Command(stored::CommandCall {
                text: command::text(&pipeline, run.spec.pipeline.as_str(), index, wanted),
                path: folder.join(format!("{pipeline}.toml")).to_string_lossy().into_owned(),
                pipeline,
            });
            (COMMANDS, submission_retry(), action)
        }
    };
    let key = DeliveryKey { lane, due_ms: event.time_ms, offset: event.offset, hook: index };
    let record = DeliveryRecord {
        event: Some(event.clone()),
        hook: index,
        first_ms: event.time_ms,
        tries: 0,
        last_error: String::new(),
        retry: Some(retry),
        action: Some(action),
    };
    (key, record)
}

/// The lane of a receiver: all that goes to one host, or to one secret address, waits in one line.
fn lane(webhook: &Webhook) -> u64 {
    let receiver = match &webhook.url {
        EnvValue::Secret(reference) => reference.clone(),
        EnvValue::Text(text) => match Url::parse(text) {
            Ok(url) => url.origin().ascii_serialization(),
            Err(_) => text.clone(),
        },
    };
    let hash = blake3::hash(receiver.as_bytes());
    let lane = u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    if lane == COMMANDS { u64::MAX } else { lane }
}

fn call(webhook: &Webhook) -> stored::Action {
    stored::Action::Webhook(stored::WebhookCall {
        url: Some(value(&webhook.url)),
        secret: webhook.secret.clone().unwrap_or_default(),
        headers: webhook
            .headers
            .iter()
            .map(|(name, text)| stored::Header { name: name.clone(), value: Some(value(text)) })
            .collect(),
        timeout_ms: webhook.timeout_ms,
    })
}

fn value(value: &EnvValue) -> stored::Value {
    let value = match value {
        EnvValue::Text(text) => stored::value::Value::Text(text.clone()),
        EnvValue::Secret(reference) => stored::value::Value::Secret(reference.clone()),
    };
    stored::Value { value: Some(value) }
}

fn retry(policy: &RetryPolicy) -> stored::Retry {
    stored::Retry {
        attempts: policy.attempts,
        constant: policy.backoff == Backoff::Constant,
        initial_ms: policy.initial_ms,
        max_ms: policy.max_ms,
        jitter: policy.jitter,
    }
}

/// How often the submission of a command is tried: the retries of the hook are those of its task.
const fn submission_retry() -> stored::Retry {
    stored::Retry { attempts: 1_000, constant: false, initial_ms: 1_000, max_ms: 300_000, jitter: 0.2 }
}
