//! `segue explain RUN [TASK]`: why it is not running.

use clap::Args;
use segue_proto::v1;
use serde_json::json;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
    /// Only this task
    pub task: Option<String>,
}

/// Runs the command.
pub async fn run(args: ExplainArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let request = v1::ExplainRequest { run_id: args.run, task: args.task.unwrap_or_default() };
    let response = client.runs().explain(request).await?.into_inner();
    let values: Vec<_> = response
        .explanations
        .iter()
        .map(|e| {
            json!({"task": e.task, "state": format::task_state(e.state), "code": e.code, "text": e.text, "hint": e.hint})
        })
        .collect();
    let state = format::run_state(response.state);
    if response.explanations.is_empty() && response.run.is_none() && !out.is_json() {
        out.text(&format!("the run is {state}; nothing waits"))?;
        return Ok(ExitStatus::Done);
    }
    let whole = response.run.as_ref();
    if let Some(reason) = whole.filter(|_| !out.is_json()) {
        out.text(&format!("the run is {state}: {}", reason.text))?;
        if !reason.hint.is_empty() {
            out.note(&format!("  {}", reason.hint));
        }
        if response.explanations.is_empty() {
            return Ok(ExitStatus::Done);
        }
    }
    let reason = whole.map(|reason| json!({"code": reason.code, "text": reason.text, "hint": reason.hint}));
    out.data(&json!({"state": state, "reason": reason, "tasks": values}), || {
        let mut rows = Rows::new(&["task", "state", "code", "why"]);
        for e in &response.explanations {
            let hint = if e.hint.is_empty() { String::new() } else { format!(" ({})", e.hint) };
            rows.row([
                e.task.clone(),
                format::task_state(e.state).to_owned(),
                e.code.clone(),
                format!("{}{hint}", e.text),
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}
