//! `segue plan FILE`: expanded tasks, cache hits, placement.

use std::collections::BTreeMap;

use clap::Args;
use segue_proto::v1;
use serde_json::json;

use super::{
    run::wait_for_worker,
    submit::{self, SubmitArgs},
};
use crate::{
    args::Global,
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub submit: SubmitArgs,
}

/// Runs the command; without a coordinator, against the store of the state directory and this machine as worker.
pub async fn run(args: PlanArgs, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut client = match Client::running(global).await? {
        Some(client) => client,
        None => Client::embed(global).await?,
    };
    if let Some(embedded) = client.embedded_mut() {
        embedded.add_worker(segue_worker::agent::detect(), BTreeMap::new(), Vec::new())?;
        wait_for_worker(&mut client).await?;
    }
    let done = show(&args, &client, out).await;
    let closed = client.close().await;
    done.and_then(|status| closed.map(|()| status))
}

async fn show(args: &PlanArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let request = submit::request(&args.submit, client).await?;
    let plan = client.runs().plan(request).await?.into_inner();
    if plan.tasks.is_empty() {
        return Err(Error::diagnostics(plan.diagnostics));
    }
    let tasks: Vec<_> = plan
        .tasks
        .iter()
        .map(|task| {
            json!({
                "name": task.name, "work": task.work, "needs": task.needs, "placement": task.placement,
                "cached": task.cached, "params": format::embedded_json(&task.params_json), "children": task.children,
                "keys": task.keys, "items_of": task.items_of, "pools": task.pools, "when": task.when,
                "run_if": if task.run_if.is_empty() { "all_succeeded" } else { &task.run_if }, "finally": task.finally,
            })
        })
        .collect();
    out.data(&json!({"version": plan.version, "tasks": tasks}), || {
        let flows: Vec<String> = plan.tasks.iter().map(flow).collect();
        let mut headings = vec!["task", "work", "needs", "takes", "placement"];
        // Most pipelines have nothing to say there.
        let told = flows.iter().any(|flow| !flow.is_empty());
        if told {
            headings.push("when and how often");
        }
        let mut rows = Rows::new(&headings);
        for (task, flow) in plan.tasks.iter().zip(flows) {
            let amounts = task.resources.clone().unwrap_or_default().into();
            let gpu = if task.gpu == i32::from(v1::GpuPreference::Prefer) { ", gpu preferred" } else { "" };
            let mut cells = vec![
                task.name.clone(),
                task.work.clone(),
                task.needs.join(", "),
                format!("{}{gpu}", format::resources(&amounts)),
                task.placement.clone(),
            ];
            cells.extend(told.then_some(flow));
            rows.row(cells);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

/// Says in words when a task runs and how often, where that is not once and after what it needs.
fn flow(task: &v1::PlannedTask) -> String {
    const NAMED: usize = 5;
    let mut parts = Vec::new();
    if task.children > 0 {
        let mut keys = task.keys.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        if task.children > NAMED as u64 {
            keys.push_str(", …");
        }
        parts.push(format!("{}: {keys}", format::counted(task.children, "child", "children")));
    }
    if !task.items_of.is_empty() {
        parts.push(format!("a child for each item of {}", task.items_of));
    }
    if !task.when.is_empty() {
        parts.push(format!("when {}", task.when));
    }
    if !task.run_if.is_empty() {
        parts.push(format!("run_if {}", task.run_if));
    }
    if task.finally {
        parts.push("finally".to_owned());
    }
    let pool = |(name, slots): (&String, &u32)| {
        format!("{} of pool {name}", format::counted(u64::from(*slots), "slot", "slots"))
    };
    parts.extend(task.pools.iter().map(pool));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_often_and_when_a_task_runs() {
        let keys = (0..7).map(|number| number.to_string()).collect();
        let mut task = v1::PlannedTask { children: 7, keys, ..v1::PlannedTask::default() };
        task.pools.insert("db".to_owned(), 2);
        task.when = "params.mode == 'full'".to_owned();
        assert_eq!(flow(&task), "7 children: 0, 1, 2, 3, 4, …; when params.mode == 'full'; 2 slots of pool db");
        let later = v1::PlannedTask { items_of: "list.regions".to_owned(), finally: true, ..Default::default() };
        assert_eq!(flow(&later), "a child for each item of list.regions; finally");
        assert_eq!(flow(&v1::PlannedTask::default()), "");
    }
}
