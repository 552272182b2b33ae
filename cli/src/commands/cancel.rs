//! `segue cancel RUN`.

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
}

/// Runs the command.
pub async fn run(args: CancelArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let response = client
        .runs()
        .cancel_run(v1::CancelRunRequest { run_id: args.run.clone(), task: String::new() })
        .await?
        .into_inner();
    let state = format::run_state(response.state);
    if out.is_json() {
        out.json(&json!({"run": args.run, "state": state}))?;
    } else {
        out.text(&format!("{} is {state}", args.run))?;
    }
    Ok(ExitStatus::Done)
}
