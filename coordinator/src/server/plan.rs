//! What a submission would do: expanded tasks, cache hits, placement.

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::v1;

use super::{actor::StorePast, api::Shared, error::Error, views};
use crate::{
    core::{Past as _, Run, cache, place},
    spec::RunSpec,
};

/// Plans every task of a bound run, in file order.
///
/// # Errors
/// The coordinator is stopping.
pub async fn tasks(
    shared: &Shared,
    spec: Arc<RunSpec>,
    external_inputs: BTreeMap<String, String>,
    no_cache: bool,
) -> Result<Vec<v1::PlannedTask>, Error> {
    let past = StorePast { store: Arc::clone(&shared.store), blobs: shared.blobs.clone() };
    let id = "run_00000000000000000000000000".parse().map_err(|e| Error::Internal(format!("{e}")))?;
    let mut run = Run::new(id, Arc::clone(&spec), String::new(), 0);
    run.external_inputs = external_inputs;
    // In dependency order, so that a hit gives its consumers their inputs.
    let mut cached = vec![false; spec.tasks.len()];
    if !no_cache {
        for task in dependency_order(&spec) {
            let index = u32::try_from(task).unwrap_or(u32::MAX);
            let hit = cache::key_of(&run, index).and_then(|key| past.cached(&key));
            if let Some(hit) = hit {
                run.tasks[task].outputs = hit.outputs;
                cached[task] = true;
            }
        }
    }
    shared
        .handle
        .read(move |core| {
            (0..spec.tasks.len())
                .map(|task| {
                    let bound = &spec.tasks[task];
                    let placement = if cached[task] {
                        "cached: no worker needed".to_owned()
                    } else {
                        match place::try_place(core, &run, u32::try_from(task).unwrap_or(u32::MAX)) {
                            Ok(worker) => worker.name.to_string(),
                            Err(reason) => reason.text().to_owned(),
                        }
                    };
                    v1::PlannedTask {
                        name: bound.name.to_string(),
                        work: views::work_text(&bound.work),
                        needs: bound.needs().into_iter().map(|need| spec.tasks[need].name.to_string()).collect(),
                        placement,
                        cached: cached[task],
                        resources: Some(bound.resources.amounts.clone().into()),
                        gpu: v1::GpuPreference::from(bound.resources.gpu).into(),
                        params_json: serde_json::Value::Object(bound.params.clone()).to_string(),
                    }
                })
                .collect()
        })
        .await
}

fn dependency_order(spec: &RunSpec) -> Vec<usize> {
    let needs: Vec<Vec<usize>> = spec.tasks.iter().map(crate::spec::BoundTask::needs).collect();
    let mut left: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut dependants = vec![Vec::new(); needs.len()];
    for (task, needed) in needs.iter().enumerate() {
        for &need in needed {
            dependants[need].push(task);
        }
    }
    let mut order: Vec<usize> = (0..needs.len()).filter(|&task| left[task] == 0).collect();
    let mut at = 0;
    while at < order.len() {
        for &next in &dependants[order[at]] {
            left[next] -= 1;
            if left[next] == 0 {
                order.push(next);
            }
        }
        at += 1;
    }
    order
}
