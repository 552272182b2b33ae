//! Draws the DAG: for Graphviz, for Mermaid, and as JSON for anything else.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::model::{Pipeline, Task, Work};

/// Draws the DAG for Graphviz. Data edges carry the name of the output; control edges are dashed.
#[must_use]
pub fn dot(pipeline: &Pipeline) -> String {
    // Names hold only a-z, 0-9, _ and -; what else is drawn is escaped. Writing to a String cannot fail.
    let mut out =
        format!("digraph \"{}\" {{\n  rankdir = LR;\n  node [shape = box, style = rounded];\n", pipeline.name);
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    for task in &pipeline.tasks {
        let _ = writeln!(out, "  \"{}\" [label = \"{}\\n{}\"];", task.name, task.name, escape(&work(task)));
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
        let _ = writeln!(out, "  t{n}[\"{}<br/>{}\"]", task.name, escape(&work(task)));
    }
    for (n, task) in pipeline.tasks.iter().enumerate() {
        for input in task.inputs.values() {
            let _ = writeln!(out, "  t{} -->|{}| t{n}", input.task, escape(&input.output));
        }
        for after in &task.after {
            let _ = writeln!(out, "  t{after} -.-> t{n}");
        }
    }
    out
}

/// Gives the DAG as JSON: `{"name", "version", "tasks": [{"name", "work", "description", "resources"}],
/// "edges": [{"from", "to", "kind", "output", "input"}]}`; a control edge has neither output nor input.
#[must_use]
pub fn json(pipeline: &Pipeline) -> Value {
    let tasks: Vec<Value> = pipeline
        .tasks
        .iter()
        .map(|task| {
            json!({
                "name": task.name,
                "work": work(task),
                "description": task.description,
                "resources": task.resources,
            })
        })
        .collect();
    let mut drawn = Vec::new();
    for task in &pipeline.tasks {
        for (input, from) in &task.inputs {
            let (name, output) = (name(pipeline, from.task), &from.output);
            drawn.push(json!({ "from": name, "output": output, "to": task.name, "input": input, "kind": "data" }));
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
        let control = task.after.iter().map(move |&after| (name(pipeline, after), to, None));
        data.chain(control)
    })
}

fn name(pipeline: &Pipeline, at: usize) -> &str {
    pipeline.tasks.get(at).map_or("", |task| task.name.as_str())
}

/// Gives the operator, or the beginning of the command line.
fn work(task: &Task) -> String {
    const LONGEST: usize = 40;
    match &task.work {
        Work::Operator { name, .. } => name.clone(),
        Work::Sensor { .. } => "sensor".to_owned(),
        Work::Command { argv } => {
            let line = argv.join(" ");
            if line.chars().count() <= LONGEST { line } else { line.chars().take(LONGEST).chain(['…']).collect() }
        }
    }
}
