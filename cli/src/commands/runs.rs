//! `segue runs`: newest first.

use clap::Args;
use segue_proto::v1;
use serde_json::{Value, json};

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
    /// Only runs in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Most runs to list
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    pub limit: u32,
}

/// Runs of one answer, where only some of them are wanted.
const PAGE: u32 = 500;

/// Runs the command.
pub async fn run(args: RunsArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let states = args.state.iter().map(|state| state_number(state)).collect::<Result<Vec<_>, _>>()?;
    let pipeline = args.pipeline.unwrap_or_default();
    let mut runs = if states.is_empty() {
        page(&pipeline, String::new(), args.limit, client).await?
    } else {
        in_states(&states, &pipeline, args.limit, client).await?
    };
    if out.is_json() {
        out.json(&runs.iter().map(value).collect::<Vec<_>>())?;
        return Ok(ExitStatus::Done);
    }
    if runs.is_empty() {
        let which = if states.is_empty() && pipeline.is_empty() { "" } else { " like that" };
        out.note(&format!("there is no run{which}: start one with `segue run FILE` or `segue submit FILE`"));
        return Ok(ExitStatus::Done);
    }
    // How long a rerun took is known from its tasks alone.
    for run in runs.iter_mut().filter(|run| run.generation > 0) {
        let request = v1::GetRunRequest { run_id: run.run_id.clone() };
        run.tasks = client.runs().get_run(request).await?.into_inner().tasks;
    }
    out.data(&(), || table(&runs, format::now_ms()))?;
    Ok(ExitStatus::Done)
}

async fn page(pipeline: &str, before: String, limit: u32, client: &Client) -> Result<Vec<v1::RunView>, Error> {
    let request = v1::ListRunsRequest { limit, pipeline: pipeline.to_owned(), before_run_id: before };
    Ok(client.runs().list_runs(request).await?.into_inner().runs)
}

/// Looks back, page by page, until there are enough runs in these states.
async fn in_states(states: &[i32], pipeline: &str, limit: u32, client: &Client) -> Result<Vec<v1::RunView>, Error> {
    let limit = limit as usize;
    let mut found = Vec::new();
    let mut before = String::new();
    loop {
        let runs = page(pipeline, before, PAGE, client).await?;
        let Some(last) = runs.last() else { break };
        before = last.run_id.clone();
        found.extend(runs.into_iter().filter(|run| states.contains(&run.state)));
        if found.len() >= limit {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// Reads the name of a state.
fn state_number(name: &str) -> Result<i32, Error> {
    let states = || (1..).map_while(|number| v1::RunState::try_from(number).ok()).map(i32::from);
    states().find(|&state| format::run_state(state) == name).ok_or_else(|| {
        let known: Vec<&str> = states().map(format::run_state).collect();
        Error::usage(format!("there is no state `{name}` of a run")).hint(format!("states: {}", known.join(", ")))
    })
}

fn value(run: &v1::RunView) -> Value {
    let (done, all) = format::done_of(run);
    json!({
        "run": run.run_id, "pipeline": run.pipeline, "version": run.version, "state": format::run_state(run.state),
        "tasks_done": done, "tasks": all, "priority": run.priority, "tags": run.tags,
        "created_ms": run.created_ms, "ended_ms": run.ended_ms, "generation": run.generation,
    })
}

fn table(runs: &[v1::RunView], now: u64) -> Rows {
    // Few runs have them, and the columns are wanted for other things.
    let tagged = runs.iter().any(|run| !run.tags.is_empty());
    let ranked = runs.iter().any(|run| run.priority != 0);
    let mut headings = vec!["=run", "pipeline", "=state", "=tasks", "=created", ">took"];
    if ranked {
        headings.push(">priority");
    }
    if tagged {
        headings.push("tags");
    }
    let mut rows = Rows::new(&headings);
    for run in runs {
        let (done, all) = format::done_of(run);
        let mut cells = vec![
            run.run_id.clone(),
            run.pipeline.clone(),
            format::run_state(run.state).to_owned(),
            format!("{done}/{all}"),
            format::moment_short(run.created_ms, now),
            format::run_ms(run).map_or_else(|| "-".to_owned(), format::duration),
        ];
        if ranked {
            cells.push(run.priority.to_string());
        }
        if tagged {
            cells.push(run.tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", "));
        }
        rows.row(cells);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_named_as_the_list_names_it() {
        assert_eq!(state_number("failed").map_err(|e| e.message), Ok(i32::from(v1::RunState::Failed)));
        let error = state_number("broken").expect_err("no such state");
        assert!(error.hint.contains("failed") && error.hint.contains("skipped"), "{error:?}");
    }

    #[test]
    fn the_list_fits_a_terminal_of_80_columns() {
        let run = v1::RunView {
            run_id: "run_01j8zk5m8w0000000000000000".to_owned(),
            pipeline: "customer-segmentation".to_owned(),
            state: v1::RunState::Cancelling.into(),
            counts: vec![v1::TaskCount { state: v1::TaskState::Succeeded.into(), count: 13 }],
            created_ms: 1_000,
            ended_ms: 63_000,
            ..Default::default()
        };
        let text = table(&[run], 400 * 86_400_000).render(Some(80));
        assert!(text.contains("run_01j8zk5m8w0000000000000000") && text.contains("cancelling"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
