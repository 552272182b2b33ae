//! What a submission would do: expanded tasks, cache hits, placement.

use std::{collections::BTreeMap, sync::Arc};

use segue_proto::v1;

use super::{api::Shared, error::Error, past::StorePast, views};
use crate::{
    core::{Past as _, Run, cache, place},
    spec::{BoundTask, Over, RunIf, RunSpec, child_key, items_of},
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
    let past = StorePast::new(Arc::clone(&shared.store), shared.blobs.clone());
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
                    let planned = v1::PlannedTask {
                        name: bound.name.to_string(),
                        work: views::work_text(&bound.work),
                        needs: bound.needs().into_iter().map(|need| spec.tasks[need].name.to_string()).collect(),
                        placement,
                        cached: cached[task],
                        resources: Some(bound.resources.amounts.clone().into()),
                        gpu: v1::GpuPreference::from(bound.resources.gpu).into(),
                        params_json: serde_json::Value::Object(bound.params.clone()).to_string(),
                        ..v1::PlannedTask::default()
                    };
                    with_flow(planned, &spec, bound)
                })
                .collect()
        })
        .await
}

/// Children whose keys a plan names.
const NAMED: usize = 100;

/// Adds when and how often a task runs, as far as that is known before it does.
fn with_flow(mut planned: v1::PlannedTask, spec: &RunSpec, bound: &BoundTask) -> v1::PlannedTask {
    let flow = &bound.flow;
    planned.pools = flow.pools.clone();
    planned.when = flow.when.clone().unwrap_or_default();
    planned.finally = flow.finally;
    if flow.run_if != RunIf::default() {
        let name = serde_json::to_value(flow.run_if).ok();
        planned.run_if = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    }
    let Some(fan_out) = &flow.fan_out else { return planned };
    if let Over::Output(from) = &fan_out.over {
        planned.items_of = format!("{}.{}", spec.tasks[from.task].name, from.output);
    }
    if let Some(items) = items_of(&fan_out.over) {
        planned.children = items.len();
        let keys = (0..).zip(items.iter().take(NAMED)).map_while(|(at, item)| child_key(fan_out, &item, at).ok());
        planned.keys = keys.map(|key| key.to_string()).collect();
    }
    planned
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
