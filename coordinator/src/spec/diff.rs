//! What differs between two versions of a pipeline, task by task: by meaning, not by spelling.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::model::{Pipeline, Task};

/// What differs between two pipelines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PipelineDiff {
    /// Parameters, retention, description.
    pub pipeline: Vec<FieldDiff>,
    /// Tasks that differ, by name.
    pub tasks: Vec<TaskDiff>,
}

/// A task that is not the same in both.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskDiff {
    pub task: String,
    pub kind: Kind,
    /// Of a changed task: at least one.
    pub fields: Vec<FieldDiff>,
}

/// How a task differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Added,
    Dropped,
    Changed,
}

/// A field that is not the same in both.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldDiff {
    /// What the field is a part of: `work`, `params`, `inputs`, `resources` or `policy`; of a pipeline `params`,
    /// `retention` or `about`.
    pub aspect: &'static str,
    /// Such as `with.seed`.
    pub field: String,
    /// None: was not there.
    pub before: Option<Value>,
    /// None: is not there any more.
    pub after: Option<Value>,
}

/// Compares two checked pipelines. Tasks are the same if their names are.
#[must_use]
pub fn pipelines(before: &Pipeline, after: &Pipeline) -> PipelineDiff {
    let by_name = |pipeline: &Pipeline| -> BTreeMap<String, Map<String, Value>> {
        pipeline.tasks.iter().map(|task| (task.name.to_string(), fields_of(pipeline, task))).collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let tasks = names
        .into_iter()
        .filter_map(|name| {
            let (kind, fields) = match (old.get(name), new.get(name)) {
                (Some(old), Some(new)) => (Kind::Changed, compare(old, new, aspect_of_task)),
                (None, _) => (Kind::Added, Vec::new()),
                (_, None) => (Kind::Dropped, Vec::new()),
            };
            let same = kind == Kind::Changed && fields.is_empty();
            (!same).then(|| TaskDiff { task: name.clone(), kind, fields })
        })
        .collect();
    PipelineDiff { pipeline: compare(&about(before), &about(after), aspect_of_pipeline), tasks }
}

fn fields_of(pipeline: &Pipeline, task: &Task) -> Map<String, Value> {
    match pipeline.task(task) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn about(pipeline: &Pipeline) -> Map<String, Value> {
    let params: Map<String, Value> = pipeline
        .params
        .iter()
        .map(|param| (param.name.clone(), serde_json::to_value(param).unwrap_or(Value::Null)))
        .collect();
    let mut fields = Map::new();
    fields.insert("description".to_owned(), json!(pipeline.description));
    fields.insert("params".to_owned(), Value::Object(params));
    fields.insert("retention".to_owned(), json!(pipeline.retention));
    fields
}

/// Fields of a task that are not named here are about how it is executed.
fn aspect_of_task(field: &str) -> &'static str {
    match root(field) {
        "work" | "outputs" => "work",
        "with" | "env" => "params",
        "inputs" | "after" => "inputs",
        "resources" => "resources",
        _ => "policy",
    }
}

fn aspect_of_pipeline(field: &str) -> &'static str {
    match root(field) {
        "params" => "params",
        "retention" => "retention",
        _ => "about",
    }
}

fn root(field: &str) -> &str {
    field.split('.').next().unwrap_or(field)
}

/// Compares field by field; what is a table on either side is compared key by key.
fn compare(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    aspect: fn(&str) -> &'static str,
) -> Vec<FieldDiff> {
    let mut found = Vec::new();
    let empty = Map::new();
    for field in keys(before, after) {
        let (old, new) = (present(before.get(field)), present(after.get(field)));
        let mut add = |field: String, old: Option<&Value>, new: Option<&Value>| {
            found.push(FieldDiff { aspect: aspect(&field), field, before: old.cloned(), after: new.cloned() });
        };
        match (old, new) {
            (Some(Value::Object(old)), None) => table(field, old, &empty, &mut add),
            (None, Some(Value::Object(new))) => table(field, &empty, new, &mut add),
            (old, new) => value(field, old, new, &mut add),
        }
    }
    found
}

/// Takes a field that differs, with its values.
type Add<'a> = &'a mut dyn FnMut(String, Option<&Value>, Option<&Value>);

fn value(field: &str, old: Option<&Value>, new: Option<&Value>, add: Add<'_>) {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => table(field, old, new, add),
        (old, new) if old == new => {}
        (old, new) => add(field.to_owned(), old, new),
    }
}

/// Nothing in a pipeline nests deeper than the checker builds it.
fn table(field: &str, old: &Map<String, Value>, new: &Map<String, Value>, add: Add<'_>) {
    for key in keys(old, new) {
        value(&format!("{field}.{key}"), present(old.get(key)), present(new.get(key)), add);
    }
}

fn keys<'a>(a: &'a Map<String, Value>, b: &'a Map<String, Value>) -> BTreeSet<&'a String> {
    a.keys().chain(b.keys()).collect()
}

/// What is null, empty text or an empty list or table says nothing.
fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    })
}
