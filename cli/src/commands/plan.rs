//! `segue plan FILE`: expanded tasks, cache hits, placement.

use clap::Args;
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
        embedded.add_worker(segue_worker::agent::detect(), Vec::new())?;
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
                "cached": task.cached, "params": format::embedded_json(&task.params_json),
            })
        })
        .collect();
    out.data(&json!({"version": plan.version, "tasks": tasks}), || {
        let mut rows = Rows::new(&["task", "work", "needs", "takes", "placement"]);
        for task in &plan.tasks {
            let amounts = task.resources.clone().unwrap_or_default().into();
            let gpu =
                if task.gpu == i32::from(segue_proto::v1::GpuPreference::Prefer) { ", gpu preferred" } else { "" };
            rows.row([
                task.name.clone(),
                task.work.clone(),
                task.needs.join(", "),
                format!("{}{gpu}", format::resources(&amounts)),
                task.placement.clone(),
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}
