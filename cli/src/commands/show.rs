//! `segue show RUN [TASK]`: a run with its tasks and attempts, or the children of a fan-out.

use std::collections::BTreeMap;

use clap::Args;
use segue_proto::v1;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows, one_line},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
    /// Only this task or child, `score[eu]`; of a fan-out, its children
    pub task: Option<String>,
    /// One line per attempt, those of children too
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
    let whole = run.clone();
    let has_children = run.tasks.iter().any(|task| !task.children.is_empty());
    if args.task.is_some() || !args.state.is_empty() || (args.attempts && has_children) {
        let states = args.state.iter().map(|state| state_number(state)).collect::<Result<_, _>>()?;
        // The limit is of children: the tasks of the file are always there.
        let of_file = if args.task.is_none() && args.state.is_empty() { run.tasks.len() } else { 0 };
        let request = v1::ListTasksRequest {
            run_id: run.run_id.clone(),
            group: args.task.clone().unwrap_or_default(),
            states,
            after_index: 0,
            limit: args.limit.saturating_add(u32::try_from(of_file).unwrap_or(u32::MAX)),
        };
        let page = client.runs().list_tasks(request).await?.into_inner();
        run.tasks = beside_their_fan_out(page.tasks, &whole.tasks);
        more = page.more;
    }
    if out.is_json() {
        out.json(&format::run_details(&run))?;
        return Ok(ExitStatus::Done);
    }
    out.text(&heading(&whole))?;
    for (name, value) in &run.params {
        out.text(&format!("  {name} = {}", one_line(value)))?;
    }
    if run.priority != 0 {
        out.text(&format!("  priority {}", run.priority))?;
    }
    if !run.tags.is_empty() {
        let tags: Vec<String> = run.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        out.text(&format!("  tags {}", one_line(&tags.join(", "))))?;
    }
    out.text("")?;
    out.data(&(), || if args.attempts { attempts(&run) } else { tasks(&whole, &run.tasks) })?;
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

/// Says in one line what a run is and how far.
fn heading(run: &v1::RunView) -> String {
    let mut parts = vec![run.run_id.clone(), run.pipeline.clone(), format::run_state(run.state).to_owned()];
    parts.extend(format::run_ms(run).map(format::duration));
    parts.push(format!("created {}", format::moment(run.created_ms)));
    if run.generation > 0 {
        parts.push(format!("rerun {}", format::counted(run.generation.into(), "time", "times")));
    }
    parts.join("  ")
}

/// Puts children beside their fan-out: a page has them after all tasks of the file.
fn beside_their_fan_out(mut tasks: Vec<v1::TaskView>, of_file: &[v1::TaskView]) -> Vec<v1::TaskView> {
    let place: BTreeMap<&str, usize> = of_file.iter().enumerate().map(|(at, task)| (task.name.as_str(), at)).collect();
    tasks.sort_by_key(|task| {
        let owner = if task.group.is_empty() { &task.name } else { &task.group };
        (place.get(owner.as_str()).copied(), !task.group.is_empty(), task.index)
    });
    tasks
}

/// Counts the children of a fan-out by state.
fn children(task: &v1::TaskView) -> String {
    let total: u32 = task.children.iter().map(|count| count.count).sum();
    let states: Vec<String> =
        task.children.iter().map(|count| format!("{} {}", count.count, format::task_state(count.state))).collect();
    format!("{}: {}", format::counted(total.into(), "child", "children"), states.join(", "))
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

fn tasks(run: &v1::RunView, shown: &[v1::TaskView]) -> Rows {
    let mut rows = Rows::new(&["task", "state", ">attempts", ">took", ">memory", "worker", "note"]);
    for task in shown {
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
            format::spent_ms(run, task).map_or_else(String::new, format::duration),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, group: &str, index: u32) -> v1::TaskView {
        v1::TaskView { name: name.to_owned(), group: group.to_owned(), index, ..Default::default() }
    }

    #[test]
    fn children_stand_beside_their_fan_out() {
        let of_file = [task("list", "", 0), task("score", "", 1), task("join", "", 2)];
        let page = of_file.iter().cloned().chain([task("score[eu]", "score", 9), task("score[us]", "score", 10)]);
        let sorted = beside_their_fan_out(page.collect(), &of_file);
        let names: Vec<&str> = sorted.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, ["list", "score", "score[eu]", "score[us]", "join"]);
    }

    #[test]
    fn the_heading_says_how_long_the_rerun_took_and_not_how_old_the_run_is() {
        let attempt = v1::AttemptView { generation: 1, assigned_ms: 60_000, ..Default::default() };
        let task = v1::TaskView { attempts: vec![attempt], ..Default::default() };
        let run =
            v1::RunView { generation: 1, created_ms: 1_000, ended_ms: 60_200, tasks: vec![task], ..Default::default() };
        let heading = heading(&run);
        assert!(heading.contains("200 ms") && heading.ends_with("rerun 1 time"), "{heading}");
    }
}
