//! `segue cancel RUN [TASK]`.

use clap::Args;
use segue_proto::v1;
use serde_json::json;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Run id, the start of one, or `latest`
    pub run: String,
    /// Only this task, or this child of a fan-out: `score[eu]`
    pub task: Option<String>,
}

/// Runs the command.
pub async fn run(args: CancelArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    // `latest` may be another run soon, and says nothing to whoever reads the answer later.
    let run = client.runs().get_run(v1::GetRunRequest { run_id: args.run }).await?.into_inner().run_id;
    let request = v1::CancelRunRequest {
        run_id: run.clone(),
        task: args.task.clone().unwrap_or_default(),
        reason: String::new(),
    };
    let state = format::run_state(client.runs().cancel_run(request).await?.into_inner().state);
    let Some(task) = args.task else {
        if out.is_json() {
            out.json(&json!({"run": run, "task": null, "state": state}))?;
        } else {
            out.text(&format!("{run} is {state}"))?;
        }
        return Ok(ExitStatus::Done);
    };
    let became = state_of(&run, &task, client).await?;
    if out.is_json() {
        out.json(&json!({"run": run, "task": task, "state": state, "task_state": became}))?;
    } else {
        out.text(&format!("{task} is {became}; {run} is {state}"))?;
    }
    Ok(ExitStatus::Done)
}

/// Says what a task or child is now: one that had not begun is cancelled at once, one that runs is told to stop.
async fn state_of(run: &str, task: &str, client: &Client) -> Result<&'static str, Error> {
    let view = client.runs().get_run(v1::GetRunRequest { run_id: run.to_owned() }).await?.into_inner();
    let mut tasks = view.tasks;
    if !tasks.iter().any(|view| view.name == task) {
        let request =
            v1::ListTasksRequest { run_id: run.to_owned(), group: task.to_owned(), ..v1::ListTasksRequest::default() };
        tasks = client.runs().list_tasks(request).await?.into_inner().tasks;
    }
    Ok(tasks.iter().find(|view| view.name == task).map_or("unknown", |view| format::task_state(view.state)))
}
