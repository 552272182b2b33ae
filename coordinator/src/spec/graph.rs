//! Draws the DAG: for Graphviz, for Mermaid, and as JSON for anything else.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    items::items_of,
    model::{FanOut, Number, OutputRef, Over, Pipeline, RunIf, Task, Work},
};

/// Draws the DAG for Graphviz. Data edges carry the name of the output; control edges are dashed.
#[must_use]
pub fn dot(pipeline: &Pipeline) -> String {
    // Names hold only a-z, 0-9, _ and -; what else is drawn is escaped. Writing to a String cannot fail.
    let mut out =
        format!("digraph \"{}\" {{\n  rankdir = LR;\n  node [shape = box, style = rounded];\n", pipeline.name);
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    for task in &pipeline.tasks {
        let more = marks(task).map_or_else(String::new, |marks| format!("\\n{}", escape(&marks)));
        let style = if task.flow.fan_out.is_some() { ", peripheries = 2" } else { "" };
        let _ =
            writeln!(out, "  \"{}\" [label = \"{}\\n{}{more}\"{style}];", task.name, task.name, escape(&work(task)));
    }
    for (from, to, output) in edges(pipeline) {
        let _ = match output {
            Some(output) => writeln!(out, "  \"{from}\" -> \"{to}\" [label = \"{}\"];", escape(output)),
            None => writeln!(out, "  \"{from}\" -> \"{to}\" [style = dashed];"),
        };
    }
    out.push_str("}\n");
    out
}

/// Draws the DAG for Mermaid, which many Markdown viewers show.
#[must_use]
pub fn mermaid(pipeline: &Pipeline) -> String {
    let mut out = String::from("flowchart LR\n");
    let escape = |text: &str| {
        text.chars().fold(String::new(), |mut out, c| {
            match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '.' | '_' | '-' | '/' => out.push(c),
                c => drop(write!(out, "#{};", u32::from(c))),
            }
            out
        })
    };
    for (n, task) in pipeline.tasks.iter().enumerate() {
        let more = marks(task).map_or_else(String::new, |marks| format!("<br/>{}", escape(&marks)));
        let (open, close) = if task.flow.fan_out.is_some() { ("[[", "]]") } else { ("[", "]") };
        let _ = writeln!(out, "  t{n}{open}\"{}<br/>{}{more}\"{close}", task.name, escape(&work(task)));
    }
    for (n, task) in pipeline.tasks.iter().enumerate() {
        for input in task.inputs.values() {
            let _ = writeln!(out, "  t{} -->|{}| t{n}", input.task, escape(&input.output));
        }
        if let Some(from) = source(task) {
            let _ = writeln!(out, "  t{} ==>|{}| t{n}", from.task, escape(&from.output));
        }
        for after in &task.after {
            let _ = writeln!(out, "  t{after} -.-> t{n}");
        }
    }
    out
}

/// Gives the DAG as JSON: `{"name", "version", "tasks": [{"name", "work", "description", "resources"}],
/// "edges": [{"from", "to", "kind", "output", "input"}]}`; a control edge has neither output nor input, and one that gives
/// a fan-out its items no input. Tasks have "fan_out", "when", "run_if" and "finally" too, where they say so.
#[must_use]
pub fn json(pipeline: &Pipeline) -> Value {
    let tasks: Vec<Value> = pipeline
        .tasks
        .iter()
        .map(|task| {
            let mut drawn = json!({
                "name": task.name,
                "work": work(task),
                "description": task.description,
                "resources": task.resources,
            });
            if let Some(fan_out) = &task.flow.fan_out {
                drawn["fan_out"] = json!(items(fan_out));
            }
            if let Some(when) = &task.flow.when {
                drawn["when"] = json!(when);
            }
            if task.flow.run_if != RunIf::AllSucceeded {
                drawn["run_if"] = json!(task.flow.run_if);
            }
            if task.flow.finally {
                drawn["finally"] = json!(true);
            }
            drawn
        })
        .collect();
    let mut drawn = Vec::new();
    for task in &pipeline.tasks {
        for (input, from) in &task.inputs {
            let (name, output) = (name(pipeline, from.task), &from.output);
            drawn.push(json!({ "from": name, "output": output, "to": task.name, "input": input, "kind": "data" }));
        }
        if let Some(from) = source(task) {
            let (name, output) = (name(pipeline, from.task), &from.output);
            drawn.push(json!({ "from": name, "output": output, "to": task.name, "kind": "items" }));
        }
        for &after in &task.after {
            drawn.push(json!({ "from": name(pipeline, after), "to": task.name, "kind": "control" }));
        }
    }
    json!({ "name": pipeline.name, "version": pipeline.version(), "tasks": tasks, "edges": drawn })
}

/// Gives (from, to, output); no output for a control edge. Sorted by file order of the task that waits.
fn edges(pipeline: &Pipeline) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
    pipeline.tasks.iter().flat_map(move |task| {
        let to = task.name.as_str();
        let data = task.inputs.values().map(move |from| (name(pipeline, from.task), to, Some(from.output.as_str())));
        let items = source(task).map(|from| (name(pipeline, from.task), to, Some(from.output.as_str())));
        let control = task.after.iter().map(move |&after| (name(pipeline, after), to, None));
        data.chain(items).chain(control)
    })
}

fn name(pipeline: &Pipeline, at: usize) -> &str {
    pipeline.tasks.get(at).map_or("", |task| task.name.as_str())
}

/// Gives the output that the items of a fan-out come from.
fn source(task: &Task) -> Option<&OutputRef> {
    match &task.flow.fan_out {
        Some(FanOut { over: Over::Output(from), .. }) => Some(from),
        _ => None,
    }
}

/// Says where the items of a fan-out come from.
fn items(fan_out: &FanOut) -> String {
    match &fan_out.over {
        Over::Param(name) => format!("each of {name}"),
        Over::Glob(pattern) => format!("each of {pattern}"),
        Over::RangeOf { from, to, .. } => {
            let text = |number: &Number| match number {
                Number::Int(number) => number.to_string(),
                Number::Param(name) => name.clone(),
            };
            format!("each of {} to {}", text(from), text(to))
        }
        Over::Output(from) => format!("each of {}", from.output),
        Over::Matrix(lists) => {
            let names: Vec<&str> = lists.iter().map(|(name, _)| name.as_str()).collect();
            format!("each of {}", names.join(" x "))
        }
        over => format!("x {}", items_of(over).map_or(0, |items| items.len())),
    }
}

/// Gives what is special about when and how often a task runs, on one line.
fn marks(task: &Task) -> Option<String> {
    const LONGEST: usize = 60;
    let flow = &task.flow;
    let mut marks: Vec<String> = flow.fan_out.iter().map(items).collect();
    if flow.finally {
        marks.push("finally".to_owned());
    }
    if flow.run_if != RunIf::AllSucceeded {
        marks.push(format!("if {}", json!(flow.run_if).as_str().unwrap_or_default()));
    }
    marks.extend(flow.when.iter().map(|when| format!("when {when}")));
    let line = marks.join(", ");
    let cut = if line.chars().count() <= LONGEST { line } else { line.chars().take(LONGEST).chain(['…']).collect() };
    (!cut.is_empty()).then_some(cut)
}

/// Gives the operator, or the beginning of the command line.
fn work(task: &Task) -> String {
    const LONGEST: usize = 40;
    match &task.work {
        Work::Operator { name, .. } => name.clone(),
        Work::Sensor { sensor, .. } => {
            let kind = sensor.as_object().and_then(|map| map.keys().next()).map_or("", String::as_str);
            format!("sensor of {kind}")
        }
        Work::Command { argv } => {
            let line = argv.join(" ");
            if line.chars().count() <= LONGEST { line } else { line.chars().take(LONGEST).chain(['…']).collect() }
        }
    }
}
