//! Commands of the core in the words of the wire, and worker events in the words of the core.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    artifact::{ModelRegistration, NamedArtifact},
    convert::{BadMessage, id},
    failure::{Failure, FailureClass},
    ids::Token,
    operator::OperatorSpec,
    resources::{Gpu, Resources, WHOLE_GPU},
    v1,
};

use super::views;
use crate::{
    core::{Command, Event, Held, Outcome, Progress, Run, Worker, WorkerKey},
    spec::{BoundTask, EnvValue, Work},
};

/// Between SIGTERM and SIGKILL of an attempt.
pub const GRACE_MS: u32 = 5_000;

/// Heartbeats in a lease. A worker that is heard but hears nothing renews its lease with one last heartbeat: the more there
/// are, the sooner its attempts begin elsewhere.
const HEARTBEATS: u32 = 6;

/// What every welcome says.
#[derive(Debug, Clone)]
pub struct WelcomeFacts {
    pub epoch: u64,
    pub lease_ms: u32,
    pub blob_url: String,
    pub store_id: String,
}

/// Gives the wire form of a command. `run` is there for assignments.
#[must_use]
pub fn command(command: Command, run: Option<&Run>, facts: &WelcomeFacts) -> Option<v1::Command> {
    use v1::command::Command as Wire;
    let wire = match command {
        Command::Welcome { unknown, adopted } => Wire::Welcome(v1::Welcome {
            epoch: facts.epoch,
            lease_ms: facts.lease_ms,
            heartbeat_ms: (facts.lease_ms / HEARTBEATS).max(1),
            blob_url: facts.blob_url.clone(),
            store_id: facts.store_id.clone(),
            unknown: tokens(unknown),
            adopted: tokens(adopted),
        }),
        Command::Assign { token, inputs, reserved, ahead } => {
            Wire::Assign(assign(run?, token, inputs, reserved, ahead)?)
        }
        Command::Cancel { token } => {
            Wire::Cancel(v1::Cancel { token: Some(token.into()), reason: v1::CancelReason::User.into() })
        }
        Command::Retract { tokens: taken } => Wire::Retract(v1::Retract { tokens: tokens(taken) }),
        Command::HeartbeatAck { sequence, lost } => {
            Wire::HeartbeatAck(v1::HeartbeatAck { sequence, lost: tokens(lost) })
        }
        Command::FinishedAck { token } => Wire::FinishedAck(v1::FinishedAck { token: Some(token.into()) }),
        Command::Drain => Wire::Drain(v1::Drain { grace_ms: 0 }),
        Command::Goodbye { reason } => Wire::Goodbye(v1::Goodbye { reason: reason.to_owned() }),
    };
    Some(v1::Command { command: Some(wire) })
}

fn tokens(tokens: Vec<Token>) -> Vec<v1::Token> {
    tokens.into_iter().map(Into::into).collect()
}

/// Gives the wire form of an assignment, the item of a child filled in. Items were filled in once before the child could
/// begin; what cannot be filled in now is given as it stands, and the worker refuses it.
fn assign(run: &Run, token: Token, inputs: Vec<NamedArtifact>, reserved: Resources, ahead: bool) -> Option<v1::Assign> {
    let bound = run.bound(token.index)?;
    let item = run.item_of(token.index);
    let child = item.as_ref().and_then(|item| {
        crate::spec::resolve_child(bound, &run.spec.working_dir, &item.value, item.key.as_str(), item.ordinal).ok()
    });
    let (work, params, env) = match &child {
        Some(child) => (&child.work, &child.params, &child.env),
        None => (&bound.work, &bound.params, &bound.env),
    };
    let params_json = serde_json::Value::Object(params.clone()).to_string();
    let (work, wants_facts) = match work {
        Work::Operator { name, version, wants_run_facts, .. } => (
            v1::assign::Work::Operator(v1::OperatorCall { name: name.clone(), version: version.clone(), params_json }),
            *wants_run_facts,
        ),
        // The coordinator looks at sensors itself.
        Work::Sensor { .. } => return None,
        Work::Command { argv } => (
            v1::assign::Work::Command(v1::CommandCall {
                argv: argv.clone(),
                params_json,
                outputs: bound.outputs.iter().cloned().map(Into::into).collect(),
                working_dir: run.spec.working_dir.clone(),
            }),
            false,
        ),
    };
    let env = env
        .iter()
        .map(|(name, value)| {
            let value = match value {
                EnvValue::Text(text) => v1::env_value::Value::Text(text.clone()),
                EnvValue::Secret(reference) => v1::env_value::Value::Secret(reference.clone()),
            };
            (name.clone(), v1::EnvValue { value: Some(value) })
        })
        .collect();
    Some(v1::Assign {
        token: Some(token.into()),
        pipeline: run.spec.pipeline.to_string(),
        work: Some(work),
        inputs: with_empty_joins(run, bound, inputs),
        resources: Some(reserved.into()),
        timeout_ms: bound.timeout_ms.unwrap_or(0),
        env,
        run_facts_json: if wants_facts { views::run_facts(run) } else { String::new() },
        grace_ms: bound.flow.grace_ms.unwrap_or(GRACE_MS),
        heartbeat_timeout_ms: bound.flow.heartbeat_timeout_ms.unwrap_or(0),
        memory_limit_bytes: bound.flow.memory_limit_bytes.unwrap_or(0),
        inline: bound.inline.clone(),
        ahead,
        key: item.as_ref().map(|item| item.key.to_string()).unwrap_or_default(),
        item_index: item.as_ref().map_or(0, |item| item.ordinal),
        item_json: item.map(|item| item.value.to_string()).unwrap_or_default(),
        makers: makers(run, bound),
    })
}

/// Names the task that makes each input.
fn makers(run: &Run, bound: &BoundTask) -> BTreeMap<String, String> {
    let maker = |from: usize| run.spec.tasks.get(from).map(|task| task.name.to_string());
    bound.inputs.iter().filter_map(|(name, from)| Some((name.to_string(), maker(from.task)?))).collect()
}

/// Gives the wire form of inputs. One that joins no child at all is named without an artifact, so that who reads it finds
/// it, and empty.
fn with_empty_joins(run: &Run, bound: &BoundTask, inputs: Vec<NamedArtifact>) -> Vec<v1::NamedArtifact> {
    let is_join = |producer: usize| run.spec.tasks.get(producer).is_some_and(|task| task.flow.fan_out.is_some());
    let empty: Vec<v1::NamedArtifact> = bound
        .inputs
        .iter()
        .filter(|(name, from)| is_join(from.task) && inputs.iter().all(|input| input.name != **name))
        .map(|(name, _)| v1::NamedArtifact { name: name.to_string(), artifact: None, key: String::new() })
        .collect();
    inputs.into_iter().map(Into::into).chain(empty).collect()
}

/// A hello in the words of the core, and the operators it brings.
#[derive(Debug)]
pub struct Introduction {
    pub worker: Worker,
    pub held: Vec<Held>,
    pub operators: Vec<OperatorSpec>,
}

/// Reads a hello. `link` is the number of the link that it came on.
///
/// # Errors
/// Names the field that breaks the contract.
pub fn hello(wire: v1::Hello, link: u64) -> Result<Introduction, BadMessage> {
    modest(&wire)?;
    let key =
        WorkerKey { name: id("hello.worker", wire.worker)?, incarnation: id("hello.incarnation", wire.incarnation)? };
    let operators: Vec<OperatorSpec> =
        wire.operators.into_iter().map(OperatorSpec::try_from).collect::<Result<_, _>>()?;
    let held = wire
        .held
        .into_iter()
        .map(|held| Ok(Held { token: token("held.token", held.token)?, started: held.started }))
        .collect::<Result<_, BadMessage>>()?;
    let mut worker = Worker::awaited(key);
    worker.link = Some(link);
    worker.capacity = wire.capacity.ok_or(BadMessage::Missing("hello.capacity"))?.into();
    worker.gpus = wire
        .gpus
        .into_iter()
        .take(MOST_GPUS)
        .map(|gpu| Gpu { index: gpu.index, memory_bytes: gpu.memory_bytes, name: clip_to(gpu.name, LONGEST_NAME) })
        .collect();
    let promised = (worker.capacity.gpu_milli / WHOLE_GPU) as usize;
    if promised > MOST_GPUS {
        let reason = format!("{promised} GPUs, of {MOST_GPUS} that one worker can have");
        return Err(BadMessage::Value { field: "hello.capacity.gpu_milli", reason });
    }
    worker.labels = wire.labels;
    worker.operators = operators.iter().map(|spec| (spec.name.clone(), spec.version.clone())).collect::<BTreeSet<_>>();
    worker.draining = wire.draining;
    worker.hostname = clip_to(wire.hostname, LONGEST_NAME);
    worker.version = clip_to(wire.version, LONGEST_NAME);
    Ok(Introduction { worker, held, operators })
}

/// Operators that one worker may offer, and that a coordinator may know of all of them.
pub const MOST_OPERATORS: usize = 1_024;
/// Bytes of the contract of one operator.
const LARGEST_OPERATOR: usize = 64 * 1024;
/// Labels, and kinds of custom resources, of one worker.
const MOST_LABELS: usize = 64;
/// Bytes of a label, of its value, and of other words that a worker chooses.
const LONGEST_NAME: usize = 256;

/// Refuses a hello that would fill the coordinator: what it says is kept as long as the worker is there, and its
/// operators for ever.
fn modest(wire: &v1::Hello) -> Result<(), BadMessage> {
    let refuse = |field, reason: String| Err(BadMessage::Value { field, reason });
    if wire.operators.len() > MOST_OPERATORS {
        let reason = format!("{} operators, and at most {MOST_OPERATORS} are taken", wire.operators.len());
        return refuse("hello.operators", reason);
    }
    let sizes = wire.operators.iter().map(prost::Message::encoded_len);
    if let Some(size) = sizes.max().filter(|size| *size > LARGEST_OPERATOR) {
        let reason = format!("an operator of {size} bytes, and at most {LARGEST_OPERATOR} are taken");
        return refuse("hello.operators", reason);
    }
    let custom = wire.capacity.iter().flat_map(|capacity| &capacity.custom);
    let amounts: Vec<&str> = custom.map(|(name, _)| name.as_str()).collect();
    if wire.labels.len() > MOST_LABELS || amounts.len() > MOST_LABELS {
        let reason = format!("more than {MOST_LABELS} labels or custom resources");
        return refuse("hello.labels", reason);
    }
    let words = wire.labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).chain(amounts);
    if words.into_iter().any(|word| word.len() > LONGEST_NAME) {
        let reason = format!("a label or custom resource of more than {LONGEST_NAME} bytes");
        return refuse("hello.labels", reason);
    }
    Ok(())
}

/// A worker event in the words of the core; `None` for a log chunk, which goes its own way.
///
/// # Errors
/// Names the field that breaks the contract.
pub fn event(wire: v1::WorkerEvent, worker: &WorkerKey) -> Result<Option<Event>, BadMessage> {
    use v1::worker_event::Event as Wire;
    let worker = worker.clone();
    let event = match wire.event.ok_or(BadMessage::Missing("event"))? {
        Wire::Hello(_) => {
            return Err(BadMessage::Value { field: "event", reason: "hello comes once, first".to_owned() });
        }
        Wire::Heartbeat(beat) => Event::Heartbeat {
            worker,
            sequence: beat.sequence,
            tokens: beat.tokens.into_iter().map(Token::try_from).collect::<Result<_, _>>()?,
        },
        Wire::Started(started) => Event::Started { worker, token: token("started.token", started.token)? },
        Wire::Progress(progress) => Event::Progress {
            worker,
            token: token("progress.token", progress.token)?,
            progress: Progress { done: progress.done, total: progress.total, message: clip(progress.message) },
        },
        Wire::Finished(finished) => Event::Finished {
            worker,
            token: token("finished.token", finished.token)?,
            usage: finished.usage.map(Into::into).unwrap_or_default(),
            // The attempt has ended, whatever it says of how: a worker of another release that was cut off for its words
            // would come back and say them again, for ever.
            outcome: outcome(finished.outcome).unwrap_or_else(|e| Outcome::Failure(not_understood(&e))),
            log_bytes: finished.log_bytes,
        },
        Wire::HandBack(back) => {
            Event::HandBack { worker, token: token("hand_back.token", back.token)?, started: back.started }
        }
        Wire::Draining(_) => Event::Draining { worker },
        Wire::Log(_) => return Ok(None),
    };
    Ok(Some(event))
}

/// Reads a token that must be there.
///
/// # Errors
/// Names the field.
pub fn token(field: &'static str, wire: Option<v1::Token>) -> Result<Token, BadMessage> {
    wire.ok_or(BadMessage::Missing(field))?.try_into()
}

fn outcome(wire: Option<v1::finished::Outcome>) -> Result<Outcome, BadMessage> {
    Ok(match wire.ok_or(BadMessage::Missing("finished.outcome"))? {
        v1::finished::Outcome::Success(success) => {
            fits(&success)?;
            let inline = inline(&success)?;
            Outcome::Success {
                outputs: success.outputs.into_iter().map(NamedArtifact::try_from).collect::<Result<_, _>>()?,
                models: success.models.into_iter().map(ModelRegistration::try_from).collect::<Result<_, _>>()?,
                metrics_json: success.metrics_json,
                inline,
            }
        }
        v1::finished::Outcome::Failure(failure) => Outcome::Failure(clip_failure(failure.try_into()?)),
        v1::finished::Outcome::Cancelled(v1::Cancelled {}) => Outcome::Cancelled,
    })
}

fn not_understood(e: &BadMessage) -> Failure {
    Failure::new(FailureClass::Infra, format!("the report of the worker cannot be understood: {e}"))
        .hint("the worker may be of another release than the coordinator")
}

/// Bytes of the metrics of a task, and of the schema of an artifact: they are shown with every view of the run.
const LARGEST_FACTS: usize = 256 * 1024;
/// Models that one attempt may register, and aliases that each may move.
const MOST_MODELS: usize = 256;

/// Refuses a success whose facts are too large to be kept with the task and shown.
fn fits(success: &v1::Success) -> Result<(), BadMessage> {
    let refuse = |field, reason: String| Err(BadMessage::Value { field, reason });
    let too_large = |size: usize| format!("{size} bytes, and at most {LARGEST_FACTS} are taken");
    let metrics = success.metrics_json.len();
    if metrics > LARGEST_FACTS {
        return refuse("success.metrics_json", too_large(metrics));
    }
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&success.metrics_json);
    if metrics > 0 && object.is_err() {
        return refuse("success.metrics_json", "not a JSON object".to_owned());
    }
    let schemas = success.outputs.iter().filter_map(|output| output.artifact.as_ref());
    let schemas: usize = schemas.map(|artifact| artifact.schema.len() + artifact.kind.len()).sum();
    if schemas > LARGEST_FACTS {
        return refuse("artifact.schema", too_large(schemas));
    }
    let models: usize = success.models.iter().map(prost::Message::encoded_len).sum();
    let aliases = success.models.iter().map(|model| model.aliases.len()).max().unwrap_or(0);
    if models > LARGEST_FACTS.saturating_mul(4) || success.models.len().max(aliases) > MOST_MODELS {
        let reason = format!("{} models of {models} bytes", success.models.len());
        return refuse("success.models", reason);
    }
    Ok(())
}

/// GPUs that one worker can have.
const MOST_GPUS: usize = 1_024;

/// Reads JSON outputs that came with a success. One that is not the output of its name, byte for byte, is left out.
fn inline(success: &v1::Success) -> Result<Inline, BadMessage> {
    let size: usize = success.inline_json.values().map(bytes::Bytes::len).sum();
    if size > segue_proto::INLINE_BYTES.saturating_mul(MOST_INLINE) {
        let reason = format!("{size} bytes of JSON with one success");
        return Err(BadMessage::Value { field: "success.inline_json", reason });
    }
    let mut kept = success.inline_json.clone();
    kept.retain(|name, bytes| {
        let digest = segue_proto::ids::Digest::of(bytes);
        success.outputs.iter().any(|output| {
            output.name == *name && output.artifact.as_ref().is_some_and(|artifact| artifact.digest == digest.as_str())
        })
    });
    super::records::inline_values(kept)
}

/// Outputs whose JSON may come with one success.
const MOST_INLINE: usize = 16;

type Inline = std::collections::BTreeMap<String, serde_json::Value>;

/// Longest message that is kept with a task.
const LONGEST_MESSAGE: usize = 4_096;

fn clip(text: String) -> String {
    clip_to(text, LONGEST_MESSAGE)
}

fn clip_to(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn clip_failure(failure: Failure) -> Failure {
    Failure { message: clip(failure.message), hint: clip(failure.hint), ..failure }
}
