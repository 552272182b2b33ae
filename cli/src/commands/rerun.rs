//! `segue rerun RUN`: the plan first, then exactly the plan.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use segue_proto::v1;
use serde_json::json;

use super::{
    events::passes,
    pipelines, read_pipeline,
    run::{follow, wait_for_worker},
    summary,
    worker::PassEnv,
};
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct RerunArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
    /// What did not succeed, and what comes after it; the default with the pinned version
    #[arg(long)]
    pub failed: bool,
    /// This task and what comes after it
    #[arg(long, value_name = "TASK")]
    pub from: Vec<String>,
    /// This task alone
    #[arg(long, value_name = "TASK")]
    pub only: Vec<String>,
    /// Version of the pipeline to execute
    #[arg(long, value_enum, default_value_t = Version::Pinned)]
    pub version: Version,
    /// With `--version latest`: take the text from this file
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Return as soon as the rerun is accepted
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub environment: PassEnv,
}

/// Versions of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Version {
    /// As the run was submitted
    Pinned,
    /// As its file is now; where that is not on this machine, as the pipeline was submitted last
    Latest,
    /// As the pipeline was submitted last
    Stored,
}

impl RerunArgs {
    /// Says whether a worker is needed: to execute, or to say which operators another version may use.
    pub fn needs_worker(&self) -> bool {
        !self.dry_run || self.version != Version::Pinned
    }
}

/// Runs the command.
pub async fn run(args: RerunArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let latest_text = latest_text(&args, client, out).await?;
    let request = v1::RerunRequest {
        run_id: args.run.clone(),
        failed: args.failed,
        from: args.from.clone(),
        only: args.only.clone(),
        dry_run: true,
        latest_text,
    };
    let plan = client.runs().rerun(request.clone()).await?.into_inner();
    if !plan.diagnostics.is_empty() && plan.items.is_empty() {
        return Err(Error::diagnostics(plan.diagnostics));
    }
    let executes = plan.items.iter().filter(|item| item.execute).count();
    if args.dry_run {
        print_plan(&plan, out)?;
        return Ok(ExitStatus::Done);
    }
    if executes == 0 {
        let tolerated: Vec<_> = plan.items.iter().filter(|item| item.reason.starts_with("kept, ")).collect();
        match tolerated.as_slice() {
            [] => out.note("nothing to execute: every task of this run succeeded"),
            some => out.note(&format!(
                "nothing to execute: every task of this run succeeded, {} with failed children",
                some.len()
            )),
        }
        for item in tolerated {
            out.note(&format!("  {}: {}", item.task, item.reason));
        }
        if out.is_json() {
            print_plan(&plan, out)?;
        }
        return Ok(ExitStatus::Done);
    }
    for item in plan.items.iter().filter(|item| item.execute) {
        out.note(&format!("  {} ({})", item.task, why(item)));
    }
    let some = if executes == 1 { "task executes" } else { "tasks execute" };
    out.note(&format!("{executes} {some}, {} kept", plan.items.len() - executes));
    begin(v1::RerunRequest { dry_run: false, ..request }, &plan.run_id, client).await?;
    if args.no_wait {
        if out.is_json() {
            print_plan(&plan, out)?;
        } else {
            out.text(&plan.run_id)?;
        }
        return Ok(ExitStatus::Done);
    }
    let run = follow(client, &plan.run_id, false, out).await?;
    if out.is_json() {
        out.json(&format::run_outcome(&run))?;
    } else {
        summary::print(&run, client, out).await?;
    }
    Ok(format::ended(run.state).unwrap_or(ExitStatus::Unreachable))
}

/// How often a coordinator that went away is asked again, and how long that takes each time.
const TRIES: u32 = 120;
const AGAIN: Duration = Duration::from_millis(500);

/// Begins the rerun. A coordinator that goes away in the middle may have begun it: its run says so when it is back.
async fn begin(request: v1::RerunRequest, run: &str, client: &Client) -> Result<(), Error> {
    let generation = async || -> Result<u32, tonic::Status> {
        let asked = client.runs().get_run(v1::GetRunRequest { run_id: run.to_owned() }).await?;
        Ok(asked.into_inner().generation)
    };
    let before = generation().await?;
    let mut tries = 0;
    loop {
        let Err(lost) = client.runs().rerun(request.clone()).await else { return Ok(()) };
        if !passes(&lost) {
            return Err(lost.into());
        }
        loop {
            tries += 1;
            if tries > TRIES {
                return Err(lost.into());
            }
            tokio::time::sleep(AGAIN).await;
            match generation().await {
                Ok(now) if now > before => return Ok(()),
                Ok(_) => break,
                Err(status) if passes(&status) => {}
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// Says why, and for a fan-out that executes in part which children.
fn why(item: &v1::RerunItem) -> String {
    const SHOWN: usize = 5;
    if item.keys.is_empty() {
        return item.reason.clone();
    }
    let more = (item.children_executed as usize).saturating_sub(SHOWN);
    let keys: Vec<&str> = item.keys.iter().take(SHOWN).map(String::as_str).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}: {}{rest}", item.reason, keys.join(", "))
}

/// Gives the text of the version to execute; none for the pinned one.
async fn latest_text(args: &RerunArgs, client: &Client, out: &Printer) -> Result<String, Error> {
    if args.file.is_some() && args.version != Version::Latest {
        return Err(Error::usage("--file goes with --version latest").hint("say both, or leave --file out"));
    }
    if let Some(file) = &args.file {
        return Ok(read_pipeline(file)?.0);
    }
    if args.version == Version::Pinned {
        return Ok(String::new());
    }
    let run = client.runs().get_run(v1::GetRunRequest { run_id: args.run.clone() }).await?.into_inner();
    let path = PathBuf::from(&run.path);
    if args.version == Version::Latest && path.exists() {
        return Ok(read_pipeline(&path)?.0);
    }
    let stored = pipelines::text(format!("{}@latest", run.pipeline), client).await?;
    out.note(&format!(
        "version {} is used, as it was submitted {}",
        stored.version.get(..12).unwrap_or(&stored.version),
        format::moment(stored.last_ms)
    ));
    Ok(stored.text)
}

fn print_plan(plan: &v1::RerunResponse, out: &mut Printer) -> Result<(), Error> {
    let items: Vec<_> = plan
        .items
        .iter()
        .map(|item| {
            json!({
                "task": item.task, "execute": item.execute, "reason": item.reason, "children": item.children,
                "children_executed": item.children_executed, "keys": item.keys,
            })
        })
        .collect();
    out.data(&json!({"run": plan.run_id, "version": plan.version, "tasks": items}), || {
        let mut rows = Rows::new(&["task", "plan", "why"]);
        for item in &plan.items {
            let what = match (item.execute, item.children, item.children_executed) {
                (false, ..) => "keep".to_owned(),
                (true, 0, _) => "execute".to_owned(),
                (true, all, some) if all == some => format!("execute {all} children"),
                (true, all, some) => format!("execute {some} of {all} children"),
            };
            rows.row([item.task.clone(), what, why(item)]);
        }
        rows
    })
}

/// A rerun without a server needs hands: this process becomes the worker.
pub async fn with_worker(client: &mut Client, environment: &PassEnv) -> Result<(), Error> {
    if let Some(embedded) = client.embedded_mut() {
        embedded.add_worker(segue_worker::agent::detect(), BTreeMap::new(), environment.pass_env.clone())?;
        wait_for_worker(client).await?;
    }
    Ok(())
}
