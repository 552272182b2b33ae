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
    let response = client
        .runs()
        .cancel_run(v1::CancelRunRequest {
            run_id: args.run.clone(),
            task: args.task.clone().unwrap_or_default(),
            reason: String::new(),
        })
        .await?
        .into_inner();
    let state = format::run_state(response.state);
    if out.is_json() {
        out.json(&json!({"run": args.run, "task": args.task, "state": state}))?;
    } else {
        match &args.task {
            None => out.text(&format!("{} is {state}", args.run))?,
            Some(task) => out.text(&format!("{task} is being cancelled; {} is {state}", args.run))?,
        }
    }
    Ok(ExitStatus::Done)
}
