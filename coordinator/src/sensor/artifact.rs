//! Has an output of another pipeline changed?

use std::sync::Arc;

use segue_proto::{
    ids::{PipelineName, PortName, RunId, TaskName},
    v1,
};

use super::Probe;
use crate::{
    core::FIRST_CHILD,
    store::{self, Key, Store, keys::prefix},
};

/// Runs of the pipeline that are looked through, the newest first: an output that is older than so many of its runs is not
/// found. Runs of other pipelines do not count.
const MOST_RUNS: usize = 10_000;
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

/// Gives the digest of the artifact that the newest run has made of an output.
fn latest(store: &dyn Store, pipeline: &str, task: &str, output: &str) -> Result<Option<String>, store::Error> {
    // Its form was checked: a name that is none has no runs.
    let Ok(name) = pipeline.parse::<PipelineName>() else { return Ok(None) };
    let runs = prefix::pipeline_runs(&name);
    let mut before: Option<Vec<u8>> = None;
    for _ in 0..MOST_RUNS.div_ceil(PAGE) {
        let rows = store.scan_back(&runs, before.as_deref(), PAGE)?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        before = Some(last.clone());
        for (key, _) in &rows {
            let Ok(Key::PipelineRun { run, .. }) = Key::decode(key) else { continue };
            if let Some(digest) = made_by(store, &run, task, output)? {
                return Ok(Some(digest));
            }
        }
    }
    Ok(None)
}

/// Gives the digest of what a run has made of an output.
fn made_by(store: &dyn Store, run: &RunId, task: &str, output: &str) -> Result<Option<String>, store::Error> {
    let made = prefix::produced(run);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(&made, after.as_deref(), PAGE)?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        after = Some(last.clone());
        for (key, value) in &rows {
            let (key, view) = store::codec::decode_row::<v1::ArtifactView>(key, value)?;
            // Children of fan-outs, of which there may be a million, come after the tasks that can be named here.
            if matches!(key, Key::Produced { task, .. } if task >= FIRST_CHILD) {
                return Ok(None);
            }
            if view.task == task && view.output == output {
                return Ok(view.artifact.map(|artifact| artifact.digest));
            }
        }
    }
}
