//! Registration: new versions in the commit of the attempt that made them.

use std::collections::BTreeMap;

use segue_proto::{
    ids::{AliasName, Digest, ModelName, RunId, TaskRef},
    store::v1 as stored,
    v1,
};

use super::alias_record;
use crate::store::{Batch, Error, Key, Store, Write, codec, keys::prefix, read, visit};

/// Where the registered models come from.
#[derive(Debug, Clone)]
pub struct Lineage<'a> {
    pub run: &'a RunId,
    pub task: &'a TaskRef,
    pub attempt: u32,
    pub pipeline: &'a str,
    pub pipeline_version: &'a str,
    /// Inputs of the task.
    pub inputs: &'a [v1::NamedArtifact],
    /// Outputs of the attempt. A model document is one of these, one of the inputs, or an artifact known before.
    pub outputs: &'a [v1::NamedArtifact],
    /// Parameter -> digest of its content, of the run.
    pub external_inputs: &'a BTreeMap<String, String>,
    pub now_ms: u64,
}

/// Adds new versions of models, and the moves of their aliases, to a batch; gives name and number of each, in the order
/// of `models`. What the same attempt has registered before (a report sent twice) keeps its number and adds nothing.
///
/// Reads every version of the models that it registers. Several calls may fill one batch.
///
/// # Errors
/// [`Error::Model`] for a registration that makes no sense: the attempt is the fault, nothing has been added. Those of
/// the store.
pub fn register(
    store: &dyn Store,
    batch: &mut Batch,
    models: &[v1::ModelRegistration],
    lineage: &Lineage<'_>,
) -> Result<Vec<(ModelName, u32)>, Error> {
    let mut added = Batch::new();
    let mut done = Vec::with_capacity(models.len());
    for model in models {
        done.push(one(store, batch, &mut added, model, lineage)?);
    }
    batch.append(added);
    Ok(done)
}

fn one(
    store: &dyn Store,
    before: &Batch,
    added: &mut Batch,
    model: &v1::ModelRegistration,
    lineage: &Lineage<'_>,
) -> Result<(ModelName, u32), Error> {
    let checked = check(store, model, lineage)?;
    let name = checked.name;

    let mut latest = 0;
    let mut same = None;
    let mut see = |version: &v1::ModelVersion| {
        latest = latest.max(version.version);
        let of_this_attempt = version.run_id == lineage.run.to_string()
            && version.task == lineage.task.as_str()
            && version.attempt == lineage.attempt;
        if of_this_attempt && version.artifact.as_ref().is_some_and(|a| a.digest == model.artifact_digest) {
            same = Some(version.version);
        }
    };
    let versions = prefix::model_versions(&name);
    visit(store, &versions, |key, value| {
        see(&codec::decode_row(&key, &value)?.1);
        Ok(())
    })?;
    for write in before.writes().iter().chain(added.writes()) {
        if let Write::Put(key, value) = write
            && key.starts_with(&versions)
        {
            see(&codec::decode_row(key, value)?.1);
        }
    }
    if let Some(version) = same {
        return Ok((name, version));
    }

    let version = latest.checked_add(1).ok_or_else(|| bad(&name, "has run out of version numbers"))?;
    added.insert(
        &Key::ModelVersion { name: name.clone(), version },
        &v1::ModelVersion {
            version,
            kind: model.kind.clone(),
            artifact: Some(checked.artifact),
            metrics_json: model.metrics_json.clone(),
            params_json: model.params_json.clone(),
            signature_json: model.signature_json.clone(),
            run_id: lineage.run.to_string(),
            task: lineage.task.as_str().to_owned(),
            attempt: lineage.attempt,
            inputs: lineage.inputs.to_vec(),
            created_ms: lineage.now_ms,
            pipeline: lineage.pipeline.to_owned(),
            pipeline_version: lineage.pipeline_version.to_owned(),
            external_inputs: lineage.external_inputs.clone(),
        },
    );
    // The alias follows the newest version whatever it named before, so there is nothing to require of it.
    for alias in &checked.aliases {
        added.put(&Key::Alias { name: name.clone(), alias: alias.clone() }, &alias_record(&name, alias, version));
    }
    Ok((name, version))
}

struct Checked {
    name: ModelName,
    artifact: v1::Artifact,
    aliases: Vec<AliasName>,
}

fn check(store: &dyn Store, model: &v1::ModelRegistration, lineage: &Lineage<'_>) -> Result<Checked, Error> {
    let name: ModelName = model.name.parse().map_err(bad_id)?;
    let digest: Digest = model.artifact_digest.parse().map_err(|e| bad(&name, &format!("names no document: {e}")))?;
    let aliases = model.aliases.iter().map(|alias| alias.parse().map_err(bad_id)).collect::<Result<_, _>>()?;
    for (field, json) in
        [("metrics", &model.metrics_json), ("params", &model.params_json), ("signature", &model.signature_json)]
    {
        let object =
            json.is_empty() || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json).is_ok();
        if !object {
            return Err(bad(&name, &format!("has {field} that are no JSON object")));
        }
    }
    let own = lineage.outputs.iter().chain(lineage.inputs).filter_map(|named| named.artifact.as_ref());
    let artifact = match own.into_iter().find(|artifact| artifact.digest == digest.as_str()) {
        Some(artifact) => Some(artifact.clone()),
        None => {
            read::<stored::ArtifactRecord>(store, &Key::Artifact(digest.clone()))?.and_then(|record| record.artifact)
        }
    };
    let artifact = artifact.ok_or_else(|| {
        bad(
            &name,
            &format!("names the document {}, which is neither an output nor an input of the task", digest.short()),
        )
    })?;
    Ok(Checked { name, artifact, aliases })
}

fn bad_id(e: segue_proto::ids::BadId) -> Error {
    Error::Model { reason: e.to_string(), hint: None }
}

fn bad(name: &ModelName, reason: &str) -> Error {
    Error::Model { reason: format!("model `{name}` {reason}"), hint: None }
}
