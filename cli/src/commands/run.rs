//! `segue run FILE`: submit and wait; without a server the whole cluster runs inside this command.

use std::path::Path;

use clap::Args;
use segue_coordinator::spec;
use segue_proto::v1;
use tracing::debug;

use super::{
    submit::{self, SubmitArgs},
    summary,
    worker::Amounts,
};
use crate::{
    args::Global,
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, clean},
    progress::Progress,
    stop,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub submit: SubmitArgs,
    #[command(flatten)]
    pub amounts: Amounts,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// What the worker of this command offers at least, in thousandths of a core.
const LEAST_CPU_MILLI: u32 = 2_000;

/// Runs the command.
pub async fn run(args: RunArgs, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut client = match Client::running(global).await? {
        Some(client) => client,
        None => Client::embed(global).await?,
    };
    if let Some(embedded) = client.embedded_mut() {
        let mut machine = args.amounts.machine()?;
        if args.amounts.cpu.is_none() {
            // On a machine of one core, tasks that ask for two run all the same, only slower.
            machine.capacity.cpu_milli = machine.capacity.cpu_milli.max(LEAST_CPU_MILLI);
        }
        embedded.add_worker(machine, args.amounts.labels()?, args.amounts.environment.pass_env.clone())?;
        wait_for_worker(&mut client).await?;
    }
    let done = execute(&args, &mut client, out).await;
    client.finish_hooks(out).await;
    let closed = client.close().await;
    done.and_then(|status| closed.map(|()| status))
}

/// Waits until the embedded worker has said what it offers: the checker knows operators from there.
pub async fn wait_for_worker(client: &mut Client) -> Result<(), Error> {
    for _ in 0..600 {
        if let Some(embedded) = client.embedded_mut()
            && let Some(error) = embedded.worker_error().await
        {
            return Err(error);
        }
        let status = client.admin().get_status(v1::GetStatusRequest {}).await?.into_inner();
        if status.workers > 0 {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Err(Error::internal("the worker of this process did not connect"))
}

/// Refuses a run whose input files are not on this machine, where this machine is the whole cluster.
async fn check_files(args: &RunArgs, client: &Client) -> Result<(), Error> {
    let request = submit::request(&args.submit, client).await?;
    let catalogue = segue_worker::ops::catalogue();
    let folder = Path::new(&request.path).parent().unwrap_or(Path::new("")).to_string_lossy().into_owned();
    // Faults of the file are shown by the submission, with their places.
    let Some(pipeline) = spec::check(&request.text, &request.path, &catalogue).pipeline else { return Ok(()) };
    let Ok(bound) = spec::bind(&pipeline, &catalogue, &request.params, &folder, true) else { return Ok(()) };
    for task in &bound.tasks {
        for name in &task.path_params {
            let Some(place) = task.params.get(name).and_then(|value| value.as_str()) else { continue };
            if !place.contains("://") && !place.starts_with("blob:") && !Path::new(place).exists() {
                return Err(Error::usage(format!(
                    "{place} does not exist (parameter `{name}` of task `{}`)",
                    task.name
                ))
                .hint(format!(
                    "a relative path is looked for in this directory first, then beside the pipeline file in {folder}"
                )));
            }
        }
    }
    Ok(())
}

async fn execute(args: &RunArgs, client: &mut Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let alone = client.embedded_mut().is_some();
    let client = &*client;
    if alone {
        check_files(args, client).await?;
    }
    let response = submit::submit(&args.submit, client, out).await?;
    if !args.quiet {
        out.note(&format!("{} {}", response.pipeline, response.run_id));
    }
    let run = tokio::select! {
        run = follow(client, &response.run_id, args.quiet, out) => run?,
        stuck = hopeless(client, &response.run_id, alone) => {
            say_hopeless(&stuck, out);
            let reason = "nothing that can come could let a task of it begin".to_owned();
            let request =
                v1::CancelRunRequest { run_id: response.run_id.clone(), reason, ..v1::CancelRunRequest::default() };
            client.runs().cancel_run(request).await?;
            follow(client, &response.run_id, true, out).await?
        }
        () = stop::next() => {
            out.note("cancelling the run; press again to leave at once");
            let request = v1::CancelRunRequest { run_id: response.run_id.clone(), ..v1::CancelRunRequest::default() };
            client.runs().cancel_run(request).await?;
            tokio::select! {
                run = follow(client, &response.run_id, args.quiet, out) => run?,
                () = stop::next() => return Ok(ExitStatus::RunFailed),
            }
        }
    };
    let status = format::ended(run.state).unwrap_or(ExitStatus::Unreachable);
    if out.is_json() {
        out.json(&format::run_outcome(&run))?;
    } else {
        summary::print(&run, client, out).await?;
    }
    Ok(status)
}

/// Tells what each task waits for that nothing in this command can give, and what would give it.
fn say_hopeless(stuck: &[v1::Explanation], out: &Printer) {
    for reason in stuck {
        out.note(&format!("  {} waits: {}", reason.task, clean(&reason.text)));
    }
    out.note("nothing in this command can change that: cancelling the run");
    let mut hints: Vec<&str> = stuck.iter().map(hint_alone).collect();
    hints.sort_unstable();
    hints.dedup();
    for hint in hints {
        out.note(&format!("  {}", clean(hint)));
    }
}

/// Gives what helps where this command is the whole cluster.
fn hint_alone(reason: &v1::Explanation) -> &str {
    match reason.code.as_str() {
        "no_worker_fits" => {
            "offer more with --cpu, --memory, --gpus or --resource, or use a coordinator with other workers"
        }
        "no_labels" => "give this machine the labels with --label KEY=VALUE, or use a coordinator with other workers",
        // Pools are of the state directory: the next run finds what was set.
        _ => &reason.hint,
    }
}

/// Gives the reasons once the run has come to a stand that no event can end: in a cluster of one command, a task that no
/// worker can take while nothing else runs. Never ends elsewhere.
async fn hopeless(client: &Client, run_id: &str, alone: bool) -> Vec<v1::Explanation> {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(500);
    loop {
        tokio::time::sleep(LOOK).await;
        if !alone {
            continue;
        }
        let Ok(answer) = client.runs().get_run(v1::GetRunRequest { run_id: run_id.to_owned() }).await else { continue };
        let request = v1::ExplainRequest { run_id: run_id.to_owned(), task: String::new() };
        let Ok(reasons) = client.runs().explain(request).await else { continue };
        let stuck = without_hope(&answer.into_inner().tasks, reasons.into_inner().explanations);
        if !stuck.is_empty() {
            return stuck;
        }
    }
}

/// Gives why tasks wait, where all that are ready wait for what this machine will never have, and nothing else goes on
/// that they could wait for.
fn without_hope(tasks: &[v1::TaskView], reasons: Vec<v1::Explanation>) -> Vec<v1::Explanation> {
    use v1::TaskState::{Assigned, Backoff, Cancelling, Ready, Running, Sensing};
    const NEVER: [&str; 5] = ["no_worker_fits", "no_labels", "no_operator", "no_pool", "pool_too_small"];
    let moves = |state: i32| [Assigned, Running, Backoff, Sensing, Cancelling].map(i32::from).contains(&state);
    let moving = tasks.iter().any(|task| moves(task.state) || task.children.iter().any(|count| moves(count.state)));
    let ready: Vec<_> = reasons.into_iter().filter(|reason| reason.state == i32::from(Ready)).collect();
    let never = |reason: &v1::Explanation| NEVER.contains(&reason.code.as_str());
    if moving || !ready.iter().all(never) { Vec::new() } else { ready }
}

/// Follows a run until it ends, over restarts of the coordinator too, and gives its last state.
pub async fn follow(client: &Client, run_id: &str, quiet: bool, out: &Printer) -> Result<v1::RunView, Error> {
    let mut progress = Progress::new(quiet || out.is_json());
    let mut silent_tries = 0_u32;
    loop {
        let watched = client.runs().watch_run(v1::GetRunRequest { run_id: run_id.to_owned() }).await;
        match watched {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(run)) => {
                            silent_tries = 0;
                            progress.show(&run, out);
                            if format::ended(run.state).is_some() {
                                progress.finish();
                                return Ok(run);
                            }
                        }
                        Ok(None) => break,
                        Err(status) => {
                            debug!(%status, "watch broke off");
                            break;
                        }
                    }
                }
            }
            Err(status) if status.code() == tonic::Code::Unavailable => {}
            Err(status) => return Err(status.into()),
        }
        silent_tries += 1;
        // A coordinator that restarts is back within seconds.
        if silent_tries > 120 {
            return Err(Error::internal("the coordinator went away while the run was going")
                .hint(format!("the run goes on when it is back: segue watch {run_id}")));
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: v1::TaskState) -> v1::TaskView {
        v1::TaskView { state: state.into(), ..Default::default() }
    }

    fn ready(code: &str, hint: &str) -> v1::Explanation {
        let state = v1::TaskState::Ready.into();
        v1::Explanation { code: code.to_owned(), hint: hint.to_owned(), state, ..Default::default() }
    }

    #[test]
    fn a_run_is_given_up_where_nothing_moves_and_all_that_is_ready_waits_for_ever() {
        let waits = [task(v1::TaskState::Ready), task(v1::TaskState::Waiting)];
        let codes = |stuck: Vec<v1::Explanation>| stuck.into_iter().map(|reason| reason.code).collect::<Vec<_>>();
        assert_eq!(codes(without_hope(&waits, vec![ready("no_pool", "")])), ["no_pool"]);
        assert!(without_hope(&waits, vec![ready("no_pool", ""), ready("workers_busy", "")]).is_empty());
        assert!(without_hope(&waits, Vec::new()).is_empty());
        let moves = [task(v1::TaskState::Ready), task(v1::TaskState::Running)];
        assert!(without_hope(&moves, vec![ready("no_pool", "")]).is_empty(), "what runs may be what it waits for");
    }

    #[test]
    fn the_hint_is_of_what_is_missing() {
        assert_eq!(
            hint_alone(&ready("no_pool", "make it: segue pools set db SLOTS")),
            "make it: segue pools set db SLOTS"
        );
        assert!(hint_alone(&ready("no_labels", "start one with --label")).contains("this machine"));
        assert!(hint_alone(&ready("no_worker_fits", "")).contains("--resource"));
    }
}
