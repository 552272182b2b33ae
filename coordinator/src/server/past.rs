//! The past, as the core sees it: what earlier runs left in the store.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use segue_proto::{artifact::Artifact, store::v1::CacheRecord};
use tracing::{debug, warn};

use super::records;
use crate::{
    blobs::BlobStore,
    core::{CachedResult, Past},
    store::{Key, Store},
};

/// Bytes of a cached artifact that are read before it is given out again, once for each start of the coordinator and each
/// change of its file: everything waits for it. Of a larger one only the size is looked at; who takes it reads it whole.
const LONGEST_LOOK: u64 = 8 * 1024 * 1024;

/// Bytes of all cached artifacts that are read for one turn, some tens of milliseconds: there may be hundreds of them, and
/// answers to heartbeats wait too.
const LONGEST_LOOKS: u64 = 64 * 1024 * 1024;

/// The past, as the core may look at it: committed results whose bytes are still there.
#[derive(Debug)]
pub struct StorePast {
    pub store: Arc<dyn Store>,
    blobs: BlobStore,
    /// Bytes that may still be read in this turn.
    budget: AtomicU64,
}

impl StorePast {
    /// Makes the past of a store and its blobs.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, blobs: BlobStore) -> Self {
        Self { store, blobs, budget: AtomicU64::new(LONGEST_LOOKS) }
    }

    /// A new turn begins.
    pub fn begin_turn(&self) {
        self.budget.store(LONGEST_LOOKS, Ordering::Relaxed);
    }

    fn is_sound(&self, artifact: &Artifact) -> bool {
        let before = self.budget.load(Ordering::Relaxed);
        let mut left = before.min(LONGEST_LOOK);
        let reserve = before - left;
        let sound = self.blobs.is_sound(&artifact.digest, artifact.size_bytes, &mut left);
        self.budget.store(reserve + left, Ordering::Relaxed);
        sound
    }
}

impl Past for StorePast {
    fn cached(&self, key: &str) -> Option<CachedResult> {
        let record = match crate::store::read::<CacheRecord>(&*self.store, &Key::Cache(key.to_owned())) {
            Ok(record) => record?,
            Err(e) => {
                warn!(key, error = %e, "cache record ignored");
                return None;
            }
        };
        let outputs = records::artifacts_from(record.outputs).ok()?;
        let lacking = outputs.iter().map(|output| &output.artifact).find(|artifact| !self.is_sound(artifact));
        if let Some(lacking) = lacking {
            debug!(key, digest = %lacking.digest, "cached result not used: its bytes are missing or damaged");
            return None;
        }
        let inline = records::inline_values(record.inline_json).ok()?;
        Some(CachedResult { outputs, metrics_json: record.metrics_json, inline })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use bytes::Bytes;
    use segue_proto::blob_key;

    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn no_turn_reads_more_than_its_budget_and_the_next_one_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open_local(dir.path()).await.unwrap();
        let mut damaged = Vec::new();
        for n in 0..=LONGEST_LOOKS / LONGEST_LOOK {
            let mut bytes = vec![0; usize::try_from(LONGEST_LOOK).unwrap()];
            bytes[0] = u8::try_from(n).unwrap();
            let blob = blobs.put_bytes(Bytes::from(bytes.clone())).await.unwrap();
            bytes[1] = 1;
            fs::write(dir.path().join(blob_key(&blob.digest)), bytes).unwrap();
            damaged.push(Artifact {
                digest: blob.digest,
                size_bytes: LONGEST_LOOK,
                kind: "file".to_owned(),
                schema: String::new(),
            });
        }
        let past = StorePast::new(Arc::new(MemoryStore::default()), blobs);
        let (last, first) = damaged.split_last().unwrap();
        assert!(first.iter().all(|artifact| !past.is_sound(artifact)), "the budget reaches for these");
        assert!(past.is_sound(last), "for this one it does not");
        past.begin_turn();
        assert!(!past.is_sound(last));
    }
}
