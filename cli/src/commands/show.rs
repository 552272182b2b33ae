//! `segue show RUN [TASK]`: a run with its tasks and attempts, or the children of a fan-out.

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
    /// List the children of this fan-out, or show this one task
    pub task: Option<String>,
    /// One line per attempt
    #[arg(long)]
    pub attempts: bool,
    /// Only tasks in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Most children to list
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Runs the command.
pub async fn run(args: ShowArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut run = client.runs().get_run(v1::GetRunRequest { run_id: args.run.clone() }).await?.into_inner();
    let mut more = false;
    if args.task.is_some() || !args.state.is_empty() {
        let states = args.state.iter().map(|state| state_number(state)).collect::<Result<_, _>>()?;
        let request = v1::ListTasksRequest {
            run_id: run.run_id.clone(),
            group: args.task.clone().unwrap_or_default(),
            states,
            after_index: 0,
            limit: args.limit,
        };
        let page = client.runs().list_tasks(request).await?.into_inner();
        run.tasks = page.tasks;
        more = page.more;
    }
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
    if more {
        out.note(&format!("there are more: -n {} shows more of them", args.limit.saturating_mul(10)));
    }
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

/// Counts the children of a fan-out by state.
fn children(task: &v1::TaskView) -> String {
    let total: u32 = task.children.iter().map(|count| count.count).sum();
    let states: Vec<String> =
        task.children.iter().map(|count| format!("{} {}", count.count, format::task_state(count.state))).collect();
    format!("{total} children: {}", states.join(", "))
}

/// Reads the name of a state.
fn state_number(name: &str) -> Result<i32, Error> {
    let states = || (1..).map_while(|number| v1::TaskState::try_from(number).ok()).map(i32::from);
    let wanted = name.replace(['_', '-'], " ");
    states().find(|&state| format::task_state(state) == wanted).ok_or_else(|| {
        let known: Vec<&str> = states().map(format::task_state).collect();
        Error::usage(format!("there is no state `{name}`")).hint(format!("states: {}", known.join(", ")))
    })
}

fn tasks(run: &v1::RunView) -> Rows {
    let mut rows = Rows::new(&["task", "state", ">attempts", ">took", ">memory", "worker", "note"]);
    for task in &run.tasks {
        let last = task.attempts.last();
        let usage = last.and_then(|attempt| attempt.usage).unwrap_or_default();
        let note = match task.children.is_empty() {
            _ if task.cached => "cached".to_owned(),
            false => children(task),
            true => task.reason.clone(),
        };
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
