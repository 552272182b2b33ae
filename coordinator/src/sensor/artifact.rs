//! Has an output of another pipeline changed?

use std::sync::Arc;

use segue_proto::{
    ids::{PipelineName, PortName, TaskName},
    store::v1::RunRecord,
    v1,
};

use super::Probe;
use crate::store::{self, Key, Store, keys::prefix};

/// Runs that are looked through, the newest first: an output that is older than so many runs is not found.
const MOST_RUNS: usize = 1_000;
const PAGE: usize = 64;

/// Looks at the form of the names.
pub(super) fn check(pipeline: &str, task: &str, output: &str) -> Result<(), String> {
    pipeline.parse::<PipelineName>().map_err(|e| e.to_string())?;
    task.parse::<TaskName>().map_err(|e| e.to_string())?;
    output.parse::<PortName>().map_err(|e| e.to_string())?;
    Ok(())
}

/// Looks once.
pub(super) async fn probe(
    store: &Arc<dyn Store>,
    pipeline: &str,
    task: &str,
    output: &str,
    seen: Option<&str>,
) -> Probe {
    let place = format!("{pipeline}/{task}.{output}");
    let (store, wanted) = (Arc::clone(store), [pipeline, task, output].map(str::to_owned));
    let looked = tokio::task::spawn_blocking(move || {
        let [pipeline, task, output] = &wanted;
        latest(&*store, pipeline, task, output)
    });
    match looked.await {
        Ok(Ok(Some(digest))) if Some(digest.as_str()) == seen => {
            Probe::NotYet { why: format!("{place} has not changed") }
        }
        Ok(Ok(Some(digest))) => Probe::Met { note: digest },
        Ok(Ok(None)) => Probe::NotYet { why: format!("nothing has made {place} yet") },
        Ok(Err(e)) => Probe::NotYet { why: format!("{place}: {e}") },
        Err(e) => Probe::NotYet { why: format!("{place}: the look ended early: {e}") },
    }
}

/// Gives the digest of the newest artifact of an output.
fn latest(store: &dyn Store, pipeline: &str, task: &str, output: &str) -> Result<Option<String>, store::Error> {
    let mut before: Option<Vec<u8>> = None;
    for _ in 0..MOST_RUNS / PAGE {
        let rows = store.scan_back(&prefix::runs(), before.as_deref(), PAGE)?;
        let Some(last) = rows.last() else { return Ok(None) };
        before = Some(last.0.clone());
        for (key, value) in &rows {
            let (key, record) = store::codec::decode_row::<RunRecord>(key, value)?;
            let Key::Run(run) = key else { continue };
            if record.pipeline != pipeline {
                continue;
            }
            let mut found = None;
            store::visit(store, &prefix::produced(&run), |key, value| {
                let (_, view) = store::codec::decode_row::<v1::ArtifactView>(&key, &value)?;
                if view.task == task && view.output == output {
                    found = view.artifact.map(|artifact| artifact.digest);
                }
                Ok(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}
