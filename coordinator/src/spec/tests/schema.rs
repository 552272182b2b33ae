//! The schema and the reference page say what the checker does.

use regex::Regex;
use serde_json::{Map, Value};

use super::{
    super::{
        keys::{self, Key, Table},
        schema,
    },
    Code, EVERYTHING, NOTEBOOK, RECOMMENDED, check,
};

const SCHEMA: &str = include_str!("../../../../pipelines/pipeline.schema.json");
const REFERENCE: &str = include_str!("../../../../pipelines/REFERENCE.md");

#[test]
fn the_files_that_are_shipped_are_those_that_the_keys_give() {
    let made = serde_json::to_string_pretty(&schema::json()).unwrap();
    assert!(made.trim() == SCHEMA.trim(), "stale: segue schema --json > pipelines/pipeline.schema.json");
    assert!(schema::markdown() == REFERENCE, "stale: segue schema --markdown > pipelines/REFERENCE.md");
}

/// Checks a value against the part of JSON Schema that ours uses; says what is wrong.
fn fault(schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let whole = schema::json();
        let name = name.strip_prefix("#/definitions/").unwrap();
        let definition = whole["definitions"].get(name).unwrap_or_else(|| panic!("no definition {name}"));
        return fault(definition, value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    let wrong = |what: &str| Some(format!("{at}: {what}: {value}"));
    let types = match &schema["type"] {
        Value::Null => None,
        Value::Array(types) => Some(types.clone()),
        one => Some(vec![one.clone()]),
    };
    if types.is_some_and(|types| !types.iter().any(is)) {
        return wrong("type");
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return wrong("enum");
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !Regex::new(pattern).unwrap().is_match(text)
    {
        return wrong("pattern");
    }
    if let Some(number) = value.as_f64() {
        let below = schema["minimum"].as_f64().is_some_and(|least| number < least);
        if below || schema["maximum"].as_f64().is_some_and(|most| number > most) {
            return wrong("range");
        }
    }
    if let Some(forms) = schema["anyOf"].as_array()
        && forms.iter().all(|form| fault(form, value, at).is_some())
    {
        return wrong("anyOf");
    }
    if let Some(forms) = schema["allOf"].as_array() {
        return forms.iter().find_map(|form| fault(form, value, at));
    }
    if let Some(forms) = schema["oneOf"].as_array()
        && forms.iter().filter(|form| fault(form, value, at).is_none()).count() != 1
    {
        return wrong("oneOf");
    }
    match value {
        Value::Array(items) => items.iter().find_map(|item| fault(&schema["items"], item, at)),
        Value::Object(map) => {
            let missing = schema["required"].as_array().into_iter().flatten();
            if missing.into_iter().any(|key| !map.contains_key(key.as_str().unwrap())) {
                return wrong("required");
            }
            map.iter().find_map(|(key, value)| {
                let at = format!("{at}.{key}");
                match (schema["properties"].get(key), &schema["additionalProperties"]) {
                    (Some(schema), _) => fault(schema, value, &at),
                    (None, Value::Bool(false)) => Some(format!("{at}: unknown")),
                    (None, other) => fault(other, value, &at),
                }
            })
        }
        _ => None,
    }
}

fn json(item: &toml_edit::Value) -> Value {
    match item {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(value) => Value::from(*value.value()),
        toml_edit::Value::Datetime(date) => Value::from(date.value().to_string()),
        toml_edit::Value::Array(items) => items.iter().map(json).collect(),
        toml_edit::Value::InlineTable(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.to_owned(), json(value))).collect())
        }
    }
}

fn tables(table: &dyn toml_edit::TableLike) -> Value {
    let mut map = Map::new();
    for (key, item) in table.iter() {
        let value = match item {
            toml_edit::Item::Value(value) => json(value),
            toml_edit::Item::ArrayOfTables(all) => all.iter().map(|table| tables(table)).collect(),
            other => tables(other.as_table_like().unwrap()),
        };
        map.insert(key.to_owned(), value);
    }
    Value::Object(map)
}

fn schema_fault(text: &str) -> Option<String> {
    let document: toml_edit::DocumentMut = text.parse().unwrap();
    fault(&schema::json(), &tables(document.as_table()), "file")
}

#[test]
fn the_shipped_pipelines_fit_the_schema_and_bad_ones_do_not() {
    for text in [RECOMMENDED, NOTEBOOK, EVERYTHING] {
        assert_eq!(schema_fault(text), None);
    }
    for (good, bad) in [
        ("seed = 42", "sed = 42"),
        ("timeout   = \"30m\"", "timeout = \"30 minutes\""),
        ("timeout   = \"30m\"", "timeout = 30"),
        ("op        = \"retail.clean\"", "op = \"retail.clean\"\ncommand = [\"x\"]"),
        ("resources = { memory = \"1GiB\" }", "resources = { memory = \"1 gig\" }"),
        ("inputs = { orders = \"clean.orders\" }", "inputs = { orders = \"clean\" }"),
        ("on = [\"infra\"", "on = [\"infrastructure\""),
        ("[tasks.clean]", "[tasks.clean]\nrun_if = \"ever\""),
    ] {
        // A parameter may have any name, so that the first one is a fault of `with` for the checker alone.
        if good.starts_with("seed") {
            continue;
        }
        assert!(RECOMMENDED.contains(good), "{good}");
        assert!(schema_fault(&RECOMMENDED.replacen(good, bad, 1)).is_some(), "{bad}");
    }
}

/// Gives a file in which a table of the keys stands, around `line`.
fn around(table: &Table, line: &str) -> String {
    let params = "[params]\nmost = 20\ncustomer = \"c\"\nregions = [\"eu\"]\nmodels = [\"m\"]\nmode = \"full\"\n";
    let check = "[tasks.check]\ncommand = [\"x\", \"${params.most} ${params.customer} ${params.regions} ${params.models} ${params.mode}\"]\n\
                 outputs = { report = \"json\", items = \"json\" }\n[tasks.clean]\nop = \"retail.clean\"\nwith = { path = \"x\" }\n";
    let head = "[pipeline]\nname = \"x\"\n";
    let task = |text: &str| format!("{head}{params}{check}[tasks.a]\ncommand = [\"x\"]\nafter = [\"check\"]\n{text}\n");
    let inside = |key: &str, rest: &str| task(&format!("{key} = {{ {line}{rest} }}"));
    match table.name {
        "[pipeline]" if line.starts_with("name") => format!("[pipeline]\n{line}\n{params}{check}"),
        "[pipeline]" => format!("{head}{line}\n{params}{check}"),
        "concurrency" => {
            let rest = if line.starts_with("max") { "" } else { ", max = 1" };
            format!("{head}concurrency = {{ {line}{rest} }}\n{params}{check}")
        }
        "[params]" if line.starts_with("type") => format!("{head}[params.p]\n{line}\n[tasks.a]\nop = \"core.noop\"\n"),
        "[params]" if line.contains('"') => {
            format!("{head}[params.p]\ntype = \"string\"\n{line}\n[tasks.a]\nop = \"core.noop\"\n")
        }
        "[params]" => format!("{head}[params.p]\ntype = \"float\"\n{line}\n[tasks.a]\nop = \"core.noop\"\n"),
        "[defaults]" => format!("{head}[defaults]\n{line}\n{params}{check}"),
        "[tasks.NAME]" => {
            let name = line.split(' ').next().unwrap();
            let text = match name {
                "op" => {
                    return format!(
                        "{head}{params}{check}[tasks.a]\n{line}\ninputs = {{ orders = \"clean.orders\" }}\n"
                    );
                }
                "command" | "sensor" => return format!("{head}{params}{check}[tasks.a]\n{line}\n"),
                "key" | "max_parallel" | "fail_fast" | "tolerate" => format!("foreach = [{{ id = 1 }}]\n{line}"),
                "after" => return task("").replacen("after = [\"check\"]", line, 1).replace("report\"]", "check\"]"),
                "foreach" | "matrix" | "inputs" => line.replace("list.items", "check.items"),
                _ => line.to_owned(),
            };
            task(&text)
        }
        "[schedule]" => {
            let rest = if line.starts_with("cron") || line.starts_with("every") { "" } else { "cron = \"@daily\"\n" };
            let day = if line.starts_with("params") { "[params]\nday = \"x\"\n" } else { "" };
            let used = if day.is_empty() { "" } else { "${params.day}" };
            format!("{head}{day}[schedule]\n{rest}{line}\n[tasks.a]\ncommand = [\"x\", \"{used}\"]\n")
        }
        "[[hooks]]" => {
            let rest = match line.split(' ').next().unwrap() {
                "on" => "command = [\"x\"]",
                "webhook" | "command" => "on = [\"failure\"]",
                "secret" | "headers" => "on = [\"failure\"]\nwebhook = \"https://example.org\"",
                _ => "on = [\"failure\"]\ncommand = [\"x\"]",
            };
            format!("{head}sla = \"1h\"\n[tasks.a]\ncommand = [\"x\"]\n[[hooks]]\n{line}\n{rest}\n")
        }
        "secret of a hook" => {
            let hook =
                format!("[[hooks]]\non = [\"failure\"]\nwebhook = \"https://example.org\"\nsecret = {{ {line} }}\n");
            format!("{head}[tasks.a]\ncommand = [\"x\"]\n{hook}")
        }
        "[retention]" => format!("{head}[retention]\n{line}\n[tasks.a]\ncommand = [\"x\"]\n"),
        "sensor" => {
            let rest = match line.split(' ').next().unwrap() {
                "status" => ", http = \"https://example.org\"",
                "every" => ", file = \"x\"",
                _ => "",
            };
            format!("{head}{params}{check}[tasks.s]\nsensor = {{ {line}{rest} }}\n")
        }
        "foreach" => inside("foreach", "").replace("list.items", "check.items"),
        "range" => {
            let rest = if line.starts_with("to") { "" } else { ", to = 20" };
            task(&format!("foreach = {{ range = {{ {line}{rest} }} }}"))
        }
        "limit" => inside("limit", if line.starts_with("key") { ", max = 1" } else { ", key = \"k\"" }),
        "env.NAME" => task(&format!("env = {{ A = {{ {line} }} }}")),
        "retry" => inside("retry", ""),
        "retry.rules" => {
            let rest = if line.starts_with("on ") { "" } else { ", on = [\"infra\"]" };
            task(&format!("retry = {{ rules = [{{ {line}{rest} }}] }}"))
        }
        "resources" => inside("resources", ""),
        "resources.any_of" => task(&format!("resources = {{ any_of = [{{ {line} }}, {{ cpu = 8 }}] }}")),
        "gpu" => task(&format!("resources = {{ gpu = {{ {line} }} }}")),
        other => panic!("no file around {other}: add one here"),
    }
}

#[test]
fn every_example_of_the_reference_is_taken_by_the_checker_and_by_the_schema() {
    let mut seen = 0;
    let mut visit = |table: &'static Table, key: &'static Key| {
        let name = if key.name == "any other name" { "licence" } else { key.name };
        let text = around(table, &format!("{name} = {}", key.example));
        let checked = check(&text);
        let errors: Vec<_> = checked.diagnostics.iter().filter(|fault| fault.is_error()).collect();
        assert!(errors.is_empty(), "{}", checked.render("example", &text, false));
        assert!(checked.diagnostics.iter().all(|fault| fault.code != Code::UnknownKey));
        assert_eq!(schema_fault(&text), None, "{text}");
        seen += 1;
    };
    for table in schema::tables() {
        for key in table.keys.iter().chain(table.others).filter(|key| !key.example.is_empty()) {
            visit(table, key);
        }
    }
    assert!(seen > 80, "only {seen} examples");
    assert!(keys::FILE.keys.iter().all(|key| key.example.is_empty()), "tables have no example on one line");
}

#[test]
fn every_key_says_what_it_means_on_one_line() {
    for table in schema::tables() {
        for key in table.keys {
            assert!(!key.meaning.is_empty() && !key.meaning.contains('\n'), "{}.{}", table.name, key.name);
            assert!(
                !key.example.is_empty() || std::ptr::eq(table, &keys::FILE),
                "{}.{} has no example",
                table.name,
                key.name
            );
        }
    }
}
