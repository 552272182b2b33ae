//! The keys of a pipeline file for editors and for people: a JSON Schema and a reference page, both made of
//! [`keys`](super::keys) alone.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::keys::{FILE, Form, Key, Table};
use crate::expr;

const NAME: &str = "^[a-z0-9_-]{1,64}$";
const OUTPUT: &str = r"^[a-z0-9_-]{1,64}\.[a-z0-9_-]{1,64}$";
const PARAM: &str = r"^\$\{params\.[a-z_][a-z0-9_]{0,63}\}$";
const DURATION: &str = r"^\s*([0-9]*\.?[0-9]+\s*(ms|s|m|min|h|d)\s*)+$";
const MEMORY: &str = r"^\s*[0-9]*\.?[0-9]+\s*(B|[kKMGT]B|[KMGT]iB?)$";

/// Gives the JSON Schema of a pipeline file (draft 7, which editors of TOML understand).
#[must_use]
pub fn json() -> Value {
    let mut whole = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Segue pipeline",
        "description": "Made by `segue schema`; the checker of `segue validate` says more than a schema can.",
    });
    let definitions: Map<String, Value> =
        tables().into_iter().skip(1).map(|table| (id(table), of_table(table))).collect();
    if let (Value::Object(whole), Value::Object(file)) = (&mut whole, of_table(&FILE)) {
        whole.extend(file);
        whole.insert("definitions".to_owned(), Value::Object(definitions));
    }
    whole
}

/// Gives the reference page in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Reference: every key of a pipeline file\n\n\
         Made by `segue schema --markdown` from the table that the checker itself reads. How the keys work together is \
         told in [README.md](README.md).\n",
    );
    for table in tables() {
        // Writing to a String cannot fail.
        let title = if std::ptr::eq(table, &FILE) { table.name.to_owned() } else { format!("`{}`", table.name) };
        let _ = write!(page, "\n## {title}\n\n");
        if !table.intro.is_empty() {
            let _ = write!(page, "{}\n\n", table.intro);
        }
        if !table.one_of.is_empty() {
            let names: Vec<String> = table.one_of.iter().map(|name| format!("`{name}`")).collect();
            let _ = write!(page, "Exactly one of {}.\n\n", names.join(", "));
        }
        page.push_str("| key | takes | default | meaning | example |\n|---|---|---|---|---|\n");
        for key in table.keys.iter().chain(table.others) {
            let name = if table.others.is_some_and(|others| std::ptr::eq(others, key)) {
                key.name.to_owned()
            } else {
                format!("`{}`", key.name)
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let or = |text: &str, absent: &str| if text.is_empty() { absent.to_owned() } else { cell(text) };
            let example = if key.example.is_empty() { String::new() } else { format!("`{}`", cell(key.example)) };
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} | {example} |",
                cell(&takes(&key.form)),
                or(key.default, "-"),
                cell(key.meaning)
            );
        }
    }
    page
}

/// Gives every table, the file first, in the order in which they are reached from it.
pub fn tables() -> Vec<&'static Table> {
    let mut all: Vec<&'static Table> = vec![&FILE];
    let mut at = 0;
    while let Some(table) = all.get(at).copied() {
        for key in table.keys.iter().chain(table.others) {
            reach(&key.form, &mut all);
        }
        at += 1;
    }
    all
}

fn reach(form: &'static Form, all: &mut Vec<&'static Table>) {
    match form {
        Form::Table(table) if !all.iter().any(|known| std::ptr::eq(*known, *table)) => all.push(table),
        Form::List(item) | Form::Map(item) => reach(item, all),
        Form::Either(forms) => forms.iter().for_each(|form| reach(form, all)),
        _ => {}
    }
}

/// Names a table in the schema.
fn id(table: &Table) -> String {
    table.name.trim_matches(['[', ']']).replace([' ', '.'], "-").to_lowercase()
}

fn of_table(table: &'static Table) -> Value {
    let properties: Map<String, Value> = table.keys.iter().map(|key| (key.name.to_owned(), of_key(key))).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    schema["additionalProperties"] = table.others.map_or(Value::Bool(false), of_key);
    let required: Vec<&str> = table.keys.iter().filter(|key| key.default == "required").map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !table.one_of.is_empty() {
        let each: Vec<Value> = table.one_of.iter().map(|name| json!({ "required": [name] })).collect();
        schema["oneOf"] = json!(each);
    }
    schema
}

fn of_key(key: &'static Key) -> Value {
    let mut schema = of_form(&key.form);
    let mut said = key.meaning.to_owned();
    if !key.default.is_empty() && key.default != "required" {
        let _ = write!(said, ". Default: {}", key.default);
    }
    if !key.example.is_empty() {
        let _ = write!(said, ". Example: `{}`", key.example);
    }
    // In this draft nothing beside a reference counts.
    if schema.get("$ref").is_some() {
        schema = json!({ "allOf": [schema] });
    }
    schema["description"] = Value::from(said);
    schema
}

fn of_form(form: &'static Form) -> Value {
    match form {
        Form::Text => json!({ "type": "string" }),
        Form::Name => json!({ "type": "string", "pattern": NAME }),
        Form::Bool => json!({ "type": "boolean" }),
        Form::Int(least, most) => {
            let mut schema = json!({ "type": "integer" });
            if *least != i64::MIN {
                schema["minimum"] = json!(least);
            }
            if *most != i64::MAX {
                schema["maximum"] = json!(most);
            }
            schema
        }
        Form::Number(least, most) => {
            let mut schema = json!({ "type": "number" });
            if *least != f64::MIN {
                schema["minimum"] = json!(least);
            }
            if *most != f64::MAX {
                schema["maximum"] = json!(most);
            }
            schema
        }
        Form::Duration => json!({ "type": "string", "pattern": DURATION }),
        Form::Memory => json!({ "type": "string", "pattern": MEMORY }),
        Form::Condition => json!({ "type": "string", "minLength": 1, "maxLength": expr::LONGEST }),
        Form::Output => json!({ "type": "string", "pattern": OUTPUT }),
        Form::Word(words) => json!({ "enum": words }),
        Form::Value => {
            let plain = json!({ "type": ["string", "number", "boolean"] });
            json!({ "anyOf": [plain, { "type": "array", "items": plain }] })
        }
        Form::Param => json!({ "type": "string", "pattern": PARAM }),
        Form::Any => json!({}),
        Form::List(item) => json!({ "type": "array", "items": of_form(item) }),
        Form::Map(value) => json!({ "type": "object", "additionalProperties": of_form(value) }),
        Form::Table(table) => json!({ "$ref": format!("#/definitions/{}", id(table)) }),
        Form::Either(forms) => json!({ "anyOf": forms.iter().map(of_form).collect::<Vec<_>>() }),
    }
}

/// Says in words what a key takes.
fn takes(form: &'static Form) -> String {
    match form {
        Form::Text => "string".to_owned(),
        Form::Name => "name".to_owned(),
        Form::Bool => "boolean".to_owned(),
        Form::Int(least, most) => match (*least == i64::MIN, *most == i64::MAX) {
            (true, true) => "whole number".to_owned(),
            (false, true) => format!("whole number, at least {least}"),
            (true, false) => format!("whole number, at most {most}"),
            (false, false) if *least == i64::from(i32::MIN) => "whole number".to_owned(),
            (false, false) => format!("whole number, {least} to {most}"),
        },
        Form::Number(least, most) if *least == f64::MIN || *most == f64::MAX => "number".to_owned(),
        Form::Number(least, most) => format!("number, {least} to {most}"),
        Form::Duration => "duration".to_owned(),
        Form::Memory => "memory size".to_owned(),
        Form::Condition => "condition".to_owned(),
        Form::Output => "`\"task.output\"`".to_owned(),
        Form::Word(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
        Form::Value => "string, number, boolean, or a list of these".to_owned(),
        Form::Param => "`\"${params.NAME}\"`".to_owned(),
        Form::Any => "any value".to_owned(),
        Form::List(item) => format!("list: {}", takes(item)),
        Form::Map(value) => format!("table: name -> {}", takes(value)),
        Form::Table(table) => format!("[table](#{})", anchor(table)),
        Form::Either(forms) => forms.iter().map(takes).collect::<Vec<_>>().join("; or "),
    }
}

/// Gives the anchor that a heading of Markdown has.
fn anchor(table: &Table) -> String {
    let heading = table.name.to_lowercase();
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>()
        .replace(' ', "-")
}
