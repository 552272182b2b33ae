//! Models that are registered and aliases that move.

use segue_proto::v1::{self, EventKind as Kind};
use serde_json::json;

use super::shape::with_details;
use crate::store::{Batch, Key, Write, codec, keys::prefix};

/// Gives the events of models and aliases that a batch writes: whoever wrote them, they are told.
pub(super) fn events(batch: &Batch) -> Vec<v1::FeedEvent> {
    let (versions, aliases) = (prefix::all_model_versions(), prefix::all_aliases());
    let mut out = Vec::new();
    for write in batch.writes() {
        let Write::Put(key, value) = write else { continue };
        if key.starts_with(&versions)
            && let Ok((Key::ModelVersion { name, version }, record)) = codec::decode_row::<v1::ModelVersion>(key, value)
        {
            let event = v1::FeedEvent {
                kind: Kind::ModelRegistered.into(),
                run_id: record.run_id,
                pipeline: record.pipeline,
                version: record.pipeline_version,
                task: record.task,
                attempt: record.attempt,
                message: format!("{name} version {version} ({})", record.kind),
                ..v1::FeedEvent::default()
            };
            let digest = record.artifact.map(|artifact| artifact.digest).unwrap_or_default();
            let details = json!({
                "model": name.as_str(), "model_version": version, "model_kind": record.kind, "digest": digest,
            });
            out.push(with_details(event, &details));
        } else if key.starts_with(&aliases)
            && let Ok((_, record)) = codec::decode_row::<v1::SetAliasRequest>(key, value)
        {
            let event = v1::FeedEvent {
                kind: Kind::AliasMoved.into(),
                message: format!("{}@{} is version {}", record.name, record.alias, record.version),
                ..v1::FeedEvent::default()
            };
            let details = json!({ "model": record.name, "alias": record.alias, "model_version": record.version });
            out.push(with_details(event, &details));
        }
    }
    out
}
