//! Artifacts, what attempts cost, and models to be registered.

use serde::{Deserialize, Serialize};

use crate::{
    convert::{BadMessage, id},
    ids::{AliasName, Digest, ItemKey, ModelName},
    v1,
};

/// An immutable output: its bytes are the blob of the same digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub digest: Digest,
    pub size_bytes: u64,
    pub kind: String,
    /// JSON: columns of a table, shape of a matrix; may be empty.
    pub schema: String,
}

/// An artifact under the name of its output or input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedArtifact {
    pub name: String,
    pub artifact: Artifact,
    /// Of the child that made it, where an input joins the children of a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<ItemKey>,
}

impl NamedArtifact {
    /// Names an artifact.
    #[must_use]
    pub fn new(name: impl Into<String>, artifact: Artifact) -> Self {
        Self { name: name.into(), artifact, key: None }
    }
}

/// What an attempt cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub wall_ms: u64,
    pub cpu_ms: u64,
    pub peak_memory_bytes: u64,
}

/// A model version to be registered when the attempt that asks for it commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRegistration {
    pub name: ModelName,
    pub kind: String,
    pub artifact_digest: Digest,
    pub metrics_json: String,
    pub params_json: String,
    pub signature_json: String,
    pub aliases: Vec<AliasName>,
}

impl TryFrom<v1::Artifact> for Artifact {
    type Error = BadMessage;

    fn try_from(wire: v1::Artifact) -> Result<Self, BadMessage> {
        Ok(Self {
            digest: id("artifact.digest", wire.digest)?,
            size_bytes: wire.size_bytes,
            kind: wire.kind,
            schema: wire.schema,
        })
    }
}

impl From<Artifact> for v1::Artifact {
    fn from(artifact: Artifact) -> Self {
        Self {
            digest: artifact.digest.into(),
            size_bytes: artifact.size_bytes,
            kind: artifact.kind,
            schema: artifact.schema,
        }
    }
}

impl TryFrom<v1::NamedArtifact> for NamedArtifact {
    type Error = BadMessage;

    fn try_from(wire: v1::NamedArtifact) -> Result<Self, BadMessage> {
        let artifact = wire.artifact.ok_or(BadMessage::Missing("named_artifact.artifact"))?;
        let key = if wire.key.is_empty() { None } else { Some(id("named_artifact.key", wire.key)?) };
        Ok(Self { name: wire.name, artifact: artifact.try_into()?, key })
    }
}

impl From<NamedArtifact> for v1::NamedArtifact {
    fn from(named: NamedArtifact) -> Self {
        let key = named.key.map(String::from).unwrap_or_default();
        Self { name: named.name, artifact: Some(named.artifact.into()), key }
    }
}

impl From<v1::Usage> for Usage {
    fn from(wire: v1::Usage) -> Self {
        Self { wall_ms: wire.wall_ms, cpu_ms: wire.cpu_ms, peak_memory_bytes: wire.peak_memory_bytes }
    }
}

impl From<Usage> for v1::Usage {
    fn from(usage: Usage) -> Self {
        Self { wall_ms: usage.wall_ms, cpu_ms: usage.cpu_ms, peak_memory_bytes: usage.peak_memory_bytes }
    }
}

impl TryFrom<v1::ModelRegistration> for ModelRegistration {
    type Error = BadMessage;

    fn try_from(wire: v1::ModelRegistration) -> Result<Self, BadMessage> {
        Ok(Self {
            name: id("model.name", wire.name)?,
            kind: wire.kind,
            artifact_digest: id("model.artifact_digest", wire.artifact_digest)?,
            metrics_json: wire.metrics_json,
            params_json: wire.params_json,
            signature_json: wire.signature_json,
            aliases: wire.aliases.into_iter().map(|alias| id("model.aliases", alias)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<ModelRegistration> for v1::ModelRegistration {
    fn from(model: ModelRegistration) -> Self {
        Self {
            name: model.name.into(),
            kind: model.kind,
            artifact_digest: model.artifact_digest.into(),
            metrics_json: model.metrics_json,
            params_json: model.params_json,
            signature_json: model.signature_json,
            aliases: model.aliases.into_iter().map(Into::into).collect(),
        }
    }
}
