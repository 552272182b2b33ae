//! `segue show RUN`: a run with its tasks and attempts.

use clap::Args;
use segue_proto::v1;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
    /// One line per attempt
    #[arg(long)]
    pub attempts: bool,
}

/// Runs the command.
pub async fn run(args: ShowArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let run = client.runs().get_run(v1::GetRunRequest { run_id: args.run }).await?.into_inner();
    if out.is_json() {
        out.json(&format::run_details(&run))?;
        return Ok(ExitStatus::Done);
    }
    let end = if run.ended_ms == 0 { format::now_ms() } else { run.ended_ms };
    out.text(&format!(
        "{}  {}  {}  {}  created {}{}",
        run.run_id,
        run.pipeline,
        format::run_state(run.state),
        format::duration(end.saturating_sub(run.created_ms)),
        format::moment(run.created_ms),
        if run.generation > 0 { format!("  rerun {} time(s)", run.generation) } else { String::new() },
    ))?;
    for (name, value) in &run.params {
        out.text(&format!("  {name} = {value}"))?;
    }
    out.text("")?;
    out.data(&(), || if args.attempts { attempts(&run) } else { tasks(&run) })?;
    for task in &run.tasks {
        if let Some(failure) = &task.failure
            && task.state == i32::from(v1::TaskState::Failed)
        {
            out.text(&format!("\n{}: {}", task.name, crate::printer::clean(&failure.message)))?;
            if !failure.hint.is_empty() {
                out.text(&format!("  hint: {}", crate::printer::clean(&failure.hint)))?;
            }
        }
    }
    Ok(ExitStatus::Done)
}

fn tasks(run: &v1::RunView) -> Rows {
    let mut rows = Rows::new(&["task", "state", ">attempts", ">took", ">memory", "worker", "note"]);
    for task in &run.tasks {
        let last = task.attempts.last();
        let usage = last.and_then(|attempt| attempt.usage).unwrap_or_default();
        let note = if task.cached { "cached".to_owned() } else { task.reason.clone() };
        let memory = if usage.peak_memory_bytes > 0 { format::bytes(usage.peak_memory_bytes) } else { String::new() };
        rows.row([
            task.name.clone(),
            format::task_state(task.state).to_owned(),
            format::attempts_made(task).to_string(),
            last.map_or_else(String::new, |_| format::duration((format::task_seconds(task) * 1_000.0) as u64)),
            memory,
            last.map_or_else(String::new, |attempt| attempt.worker.clone()),
            note,
        ]);
    }
    rows
}

fn attempts(run: &v1::RunView) -> Rows {
    let mut rows = Rows::new(&["task", ">attempt", "state", "worker", "started", ">took", "failure"]);
    for task in &run.tasks {
        for attempt in &task.attempts {
            rows.row([
                task.name.clone(),
                attempt.attempt.to_string(),
                format::attempt_state(attempt.state).to_owned(),
                attempt.worker.clone(),
                format::moment(attempt.started_ms),
                format::duration(format::attempt_ms(attempt)),
                attempt.failure.as_ref().map_or_else(String::new, |failure| failure.message.clone()),
            ]);
        }
    }
    rows
}
