//! `segue logs RUN [TASK]`.

use std::collections::BTreeSet;

use clap::Args;
use segue_proto::v1;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
    /// Only this task
    pub task: Option<String>,
    /// This attempt instead of the last one
    #[arg(long, value_name = "N", requires = "task")]
    pub attempt: Option<u32>,
    /// Go on until the run ends
    #[arg(short, long)]
    pub follow: bool,
}

/// Runs the command. Logs are data: they go to standard output as they were written.
pub async fn run(args: LogsArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let one_task = args.task.is_some();
    let request = v1::ReadLogsRequest {
        run_id: args.run,
        task: args.task.unwrap_or_default(),
        attempt: args.attempt.unwrap_or(0),
        follow: args.follow,
    };
    let mut stream = client.logs().read(request).await?.into_inner();
    let mut seen: BTreeSet<(String, u32)> = BTreeSet::new();
    let mut last: Option<(String, u32)> = None;
    while let Some(piece) = stream.message().await? {
        let source = (piece.task.clone(), piece.attempt);
        if out.is_json() {
            out.json(&serde_json::json!({
                "task": piece.task, "attempt": piece.attempt, "offset": piece.offset, "lost_before": piece.lost_before,
                "text": String::from_utf8_lossy(&piece.data),
            }))?;
            continue;
        }
        if !one_task && last.as_ref() != Some(&source) {
            let again = if seen.insert(source.clone()) { "" } else { " (more)" };
            out.text(&format!("── {} attempt {}{again} ──", piece.task, piece.attempt))?;
        }
        last = Some(source);
        if piece.lost_before > 0 {
            out.bytes(segue_coordinator::logs::gap_marker(piece.lost_before).as_bytes())?;
        }
        out.bytes(&piece.data)?;
    }
    if seen.is_empty() && last.is_none() && !out.is_json() {
        out.note(
            "no log is there: nothing was logged, or `logs_for` has taken it away; `segue show` and `segue explain` say how the \
             tasks ended",
        );
    }
    Ok(ExitStatus::Done)
}
