//! What worker and runner say to each other: JSON behind a length, over the runner's stdin and stdout.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::PathBuf,
};

use bytes::{Buf as _, BytesMut};
use segue_proto::{failure::Failure, v1};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Longest frame. Parameters and schemas are small; a longer one is a broken stream.
const LONGEST: usize = segue_proto::MAX_MESSAGE_BYTES;

/// Worker to runner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Operator(Box<OperatorJob>),
    Command(CommandJob),
    /// The job, this one or the next, may go on for so long. Without another such word the runner ends it then.
    Lease {
        left_ms: u64,
    },
    /// Ends the current job: at once when the grace is zero. Sent again it can only shorten the grace.
    Stop {
        grace_ms: u64,
    },
}

/// One call of an operator.
#[derive(Debug, Serialize, Deserialize)]
pub struct OperatorJob {
    pub name: String,
    pub version: String,
    pub params: Map<String, Value>,
    pub inputs: BTreeMap<String, PathBuf>,
    /// Inputs that join the children of a task, by key.
    #[serde(default)]
    pub joined: BTreeMap<String, BTreeMap<String, PathBuf>>,
    pub output_dir: PathBuf,
    pub run_facts: Value,
    /// GPUs that the attempt holds.
    pub gpus: u32,
}

/// One execution of a command.
#[derive(Serialize, Deserialize)]
pub struct CommandJob {
    pub argv: Vec<String>,
    pub working_dir: PathBuf,
    /// All of its environment. May hold secrets.
    pub env: BTreeMap<String, String>,
}

// By hand: the environment may hold secrets.
impl std::fmt::Debug for CommandJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandJob").field("argv", &self.argv).finish_non_exhaustive()
    }
}

/// Runner to worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The command runs in the process group of this number. An operator runs in that of its runner.
    Started {
        group: i32,
    },
    Progress {
        done: u64,
        total: u64,
        message: String,
    },
    /// Nothing of the job is left but its outputs, and every byte of its log is in the pipe.
    Ended {
        result: JobResult,
        usage: JobUsage,
        /// Not so: a process of it does not die.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        haunted: bool,
    },
}

/// How a job ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    Succeeded(Produced),
    Failed(Failure),
}

/// What an operator leaves beside its output files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Produced {
    /// Schema of an output by its name.
    pub schemas: BTreeMap<String, Value>,
    pub metrics: Map<String, Value>,
    pub models: Vec<Model>,
}

impl Produced {
    /// Takes secrets out of every text in it.
    pub fn mask(&mut self, mask: &dyn Fn(String) -> String) {
        self.schemas.values_mut().chain(self.metrics.values_mut()).for_each(|value| mask_value(value, mask));
        for model in &mut self.models {
            for text in [&mut model.metrics_json, &mut model.params_json, &mut model.signature_json] {
                *text = mask(std::mem::take(text));
            }
        }
    }
}

fn mask_value(value: &mut Value, mask: &dyn Fn(String) -> String) {
    match value {
        Value::String(text) => *text = mask(std::mem::take(text)),
        Value::Array(values) => values.iter_mut().for_each(|value| mask_value(value, mask)),
        Value::Object(fields) => fields.values_mut().for_each(|value| mask_value(value, mask)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a job cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobUsage {
    pub cpu_ms: u64,
    pub peak_memory_bytes: u64,
}

/// A model version to register; the wire type has no JSON form.
#[derive(Debug, Serialize, Deserialize)]
pub struct Model {
    name: String,
    kind: String,
    artifact_digest: String,
    metrics_json: String,
    params_json: String,
    signature_json: String,
    aliases: Vec<String>,
}

impl From<v1::ModelRegistration> for Model {
    fn from(wire: v1::ModelRegistration) -> Self {
        Self {
            name: wire.name,
            kind: wire.kind,
            artifact_digest: wire.artifact_digest,
            metrics_json: wire.metrics_json,
            params_json: wire.params_json,
            signature_json: wire.signature_json,
            aliases: wire.aliases,
        }
    }
}

impl From<Model> for v1::ModelRegistration {
    fn from(model: Model) -> Self {
        Self {
            name: model.name,
            kind: model.kind,
            artifact_digest: model.artifact_digest,
            metrics_json: model.metrics_json,
            params_json: model.params_json,
            signature_json: model.signature_json,
            aliases: model.aliases,
        }
    }
}

/// Gives the bytes of a frame.
///
/// # Errors
/// `InvalidData` if the message has no JSON form or is too long.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LONGEST).ok_or_else(too_long)?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Takes the next whole frame out of a buffer.
///
/// # Errors
/// `InvalidData` if the stream is broken; it cannot be used any more then.
pub fn decode<T: DeserializeOwned>(buffer: &mut BytesMut) -> io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > LONGEST {
        return Err(too_long());
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(serde_json::from_slice(&buffer.split_to(length))?))
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// Those of the stream, and `InvalidData` if it is broken.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_be_bytes(head) as usize;
    if length > LONGEST {
        return Err(too_long());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one frame.
///
/// # Errors
/// Those of the stream.
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&encode(message)?)?;
    stream.flush()
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame between worker and runner is too long")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let frames =
            [encode(&Request::Stop { grace_ms: 7 }).unwrap(), encode(&Request::Stop { grace_ms: 8 }).unwrap()].concat();
        for size in 1..frames.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in frames.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(Request::Stop { grace_ms }) = decode(&mut buffer).unwrap() {
                    seen.push(grace_ms);
                }
            }
            assert_eq!(seen, [7, 8]);
        }
    }

    #[test]
    fn a_broken_stream_is_an_error_and_not_an_allocation() {
        let mut buffer = BytesMut::from(&[0xff; 8][..]);
        assert!(decode::<Reply>(&mut buffer).is_err());
        assert!(read::<Reply>(&mut &[0xff; 8][..]).is_err());
        assert!(read::<Reply>(&mut &b""[..]).unwrap().is_none());
    }
}
