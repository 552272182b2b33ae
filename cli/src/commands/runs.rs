//! `segue runs`: newest first.

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
pub struct RunsArgs {
    /// Only runs of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Most runs to list
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    pub limit: u32,
}

/// Runs the command.
pub async fn run(args: RunsArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let request = v1::ListRunsRequest {
        limit: args.limit,
        pipeline: args.pipeline.unwrap_or_default(),
        before_run_id: String::new(),
    };
    let runs = client.runs().list_runs(request).await?.into_inner().runs;
    let values: Vec<_> = runs
        .iter()
        .map(|run| {
            json!({
                "run": run.run_id, "pipeline": run.pipeline, "version": run.version, "state": format::run_state(run.state),
                "created_ms": run.created_ms, "ended_ms": run.ended_ms, "generation": run.generation,
            })
        })
        .collect();
    out.data(&values, || {
        let mut rows = Rows::new(&["run", "pipeline", "state", "tasks", "created", ">took"]);
        for run in &runs {
            let total: u32 = run.counts.iter().map(|count| count.count).sum();
            let done: u32 = run
                .counts
                .iter()
                .filter(|count| count.state == i32::from(v1::TaskState::Succeeded))
                .map(|count| count.count)
                .sum();
            let end = if run.ended_ms == 0 { format::now_ms() } else { run.ended_ms };
            rows.row([
                run.run_id.clone(),
                run.pipeline.clone(),
                format::run_state(run.state).to_owned(),
                format!("{done}/{total}"),
                format::moment(run.created_ms),
                format::duration(end.saturating_sub(run.created_ms)),
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}
