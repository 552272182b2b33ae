//! Where the page comes from: registered models, the run and its tasks.

use chrono::DateTime;
use serde_json::Value;

use super::super::{
    data::{Data, items, number, text},
    format::{decimal, integer, seconds},
    html::{self, Table, absent, escape},
};

/// Writes run, version and time under the title.
pub(super) fn byline(data: &Data) -> String {
    let mut parts = Vec::new();
    for (pointer, words) in [("/run", "run"), ("/version", "pipeline version")] {
        if let Some(value) = text(&data.facts, pointer) {
            let short: String = value.chars().take(30).collect();
            parts.push(format!("{words} <code>{}</code>", escape(&short)));
        }
    }
    if let Some(created) = created(&data.facts) {
        parts.push(escape(&created));
    }
    if parts.is_empty() { String::new() } else { format!("<p class=\"byline\">{}</p>", parts.join(" · ")) }
}

/// Gives the time the run was made: a text as it is, a number as milliseconds since 1970.
fn created(facts: &Value) -> Option<String> {
    let value = facts.get("created")?;
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let time = DateTime::from_timestamp_millis(value.as_i64()?)?;
    Some(time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Writes registered models and run facts.
pub(super) fn section(data: &Data) -> String {
    let mut body = String::from("<h3>Registered models</h3>\n");
    match &data.registered {
        Some(registered) => body.push_str(&models(registered)),
        None => body.push_str(&absent("Registration of models", "registered")),
    }
    body.push_str("<h3>Run</h3>\n");
    body.push_str(&run(&data.facts));
    html::section("origin", "Models and run", &body)
}

/// Lists models: an array at the top or under a name of the object.
fn models(registered: &Value) -> String {
    let list = match registered {
        Value::Array(list) => Some(list),
        Value::Object(map) => map.values().find_map(|v| v.as_array().filter(|list| list.iter().all(Value::is_object))),
        _ => None,
    };
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return "<p class=\"absent\">No model was registered.</p>\n".to_owned();
    };
    let mut columns: Vec<&str> = Vec::new();
    for key in list.iter().filter_map(Value::as_object).flat_map(|model| model.keys()) {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    let mut table = Table::new("", &columns);
    for model in list {
        table.row(columns.iter().map(|key| cell(model.get(*key).unwrap_or(&Value::Null))).collect());
    }
    table.html()
}

/// Shows a value: scalars plainly, small objects as a list of pairs, the rest as JSON.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Number(n) => escape(&n.as_f64().map_or_else(|| n.to_string(), decimal)),
        Value::String(text) if text.len() >= 40 && text.chars().all(|c| c.is_ascii_hexdigit()) => {
            format!("<code title=\"{}\">{}…</code>", escape(text), escape(text.get(..12).unwrap_or_default()))
        }
        Value::String(text) => escape(text),
        // A column of a signature: its name says enough.
        Value::Object(map) if map.get("name").is_some_and(Value::is_string) => cell(&map["name"]),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{} {}", escape(key), cell(value))).collect();
            pairs.join("<br>")
        }
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Bool(_) => value.to_string(),
    }
}

fn run(facts: &Value) -> String {
    let tasks = items(facts, "/tasks");
    let params = facts.get("params").and_then(Value::as_object);
    if tasks.is_empty() && params.is_none_or(serde_json::Map::is_empty) {
        return "<p class=\"absent\">The worker gave no facts of the run.</p>\n".to_owned();
    }
    let mut out = String::new();
    if !tasks.is_empty() {
        let mut table = Table::new("Tasks before this one.", &["Task", "#Time", "Worker", "#Attempts", "Result"]);
        for task in tasks {
            let cached = task.get("cached").and_then(Value::as_bool) == Some(true);
            table.row(vec![
                escape(&text(task, "/name").unwrap_or_default()),
                number(task, "/seconds").map_or_else(|| "–".to_owned(), seconds),
                escape(&text(task, "/worker").unwrap_or_else(|| "–".to_owned())),
                number(task, "/attempts").map_or_else(|| "–".to_owned(), integer),
                if cached { "from the cache" } else { "computed" }.to_owned(),
            ]);
        }
        out.push_str(&table.html());
    }
    if let Some(params) = params.filter(|p| !p.is_empty()) {
        let mut table = Table::new("Parameters of the run.", &["Parameter", "Value"]);
        for (name, value) in params {
            table.row(vec![escape(name), format!("<code>{}</code>", cell(value))]);
        }
        out.push_str(&table.html());
    }
    out
}
