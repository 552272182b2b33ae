//! `sensor`: a condition outside that the coordinator looks at.

use segue_proto::ids::{PipelineName, PortName, TaskName};
use serde_json::{Map, Value as Json};

use super::{
    code::Code,
    diagnostic::quote,
    faults::Span,
    fields::Check,
    keys,
    policy::duration,
    tasks::Spanned,
    template,
    toml::{Entry, Node, Table},
    units,
};

const EVERY_MS: u64 = 30_000;
const SHORTEST_MS: u64 = 1_000;

/// Keys of a task that mean nothing for a sensor, and what to do instead.
const NOT_WITH: [(&str, &str); 16] = [
    ("inputs", "a task that comes after it takes them"),
    ("outputs", "it puts nothing out; a task that comes after it reads what is there"),
    ("with", "what it waits for stands in `sensor`"),
    ("resources", "it takes no worker"),
    ("cache", "it looks every time"),
    ("env", "it executes nothing"),
    ("foreach", "make a task of each thing to wait for"),
    ("matrix", "make a task of each thing to wait for"),
    ("pools", "it takes no slot"),
    ("pool", "it takes no slot"),
    ("limit", "it takes no slot"),
    ("queue_timeout", "it waits for no worker; `timeout` bounds the whole wait"),
    ("heartbeat_timeout", "it executes nothing"),
    ("grace", "it executes nothing"),
    ("memory_limit", "it executes nothing"),
    ("priority", "it takes no worker, so that it goes at once"),
];

/// A sensor as written.
pub(super) struct DraftSensor<'t> {
    kind: &'static str,
    /// Where, or when.
    pub target: Spanned<'t>,
    status: i64,
    pub every_ms: u64,
}

impl DraftSensor<'_> {
    /// Gives the condition; its text may hold parameters.
    pub fn json(&self) -> Json {
        let mut map = Map::new();
        map.insert(self.kind.to_owned(), Json::from(self.target.0));
        if self.kind == "http" {
            map.insert("status".to_owned(), Json::from(self.status));
        }
        Json::Object(map)
    }

    /// Checks the text, unless parameters are still to be filled in.
    pub fn check(&self, check: &mut Check<'_>) {
        let (text, span) = self.target;
        if template::parts(text).is_ok_and(|parts| parts.iter().all(|part| matches!(part, template::Part::Text(_))))
            && let Err((message, hint)) = target(self.kind, text)
        {
            check.faults.error(Code::BadSensor, span, message, hint.to_owned());
        }
    }
}

/// Reads a sensor.
pub(super) fn read<'t>(node: &'t Node, check: &mut Check<'t>) -> Option<DraftSensor<'t>> {
    const KINDS: [&str; 4] = ["file", "http", "time", "artifact"];
    let table = check.table(node, "`sensor`", &keys::SENSOR)?;
    let said: Vec<(&'static str, &Entry)> = KINDS.iter().filter_map(|kind| Some((*kind, table.get(kind)?))).collect();
    let (kind, entry) = match said.as_slice() {
        [only] => *only,
        [] => {
            // A misspelt key is reported already.
            if table.entries.iter().all(|entry| matches!(entry.key.as_str(), "every" | "status")) {
                let hint = "file, http, time or artifact: sensor = { file = \"s3://bucket/ready\" }".to_owned();
                check.faults.error(Code::BadSensor, node.span, "`sensor` does not say what it waits for", hint);
            }
            return None;
        }
        [(first, _), (second, entry), ..] => {
            let message = format!("`sensor` has both `{first}` and `{second}`");
            let hint = "make two tasks of them, and let the next one come after both".to_owned();
            check.faults.error(Code::BadSensor, entry.key_span, message, hint);
            return None;
        }
    };
    let text = check.string(&entry.node, &quote(kind))?;
    let mut sensor = DraftSensor { kind, target: (text, entry.node.span), status: 200, every_ms: EVERY_MS };
    if let Some(entry) = table.get("status") {
        if kind == "http" {
            let status = check.within(&entry.node, "`status`", Code::BadSensor, 100, 599);
            sensor.status = status.unwrap_or(sensor.status);
        } else {
            let message = format!("`status` is for `http`, not for `{kind}`");
            check.faults.error(Code::BadSensor, entry.key_span, message, "take it away".to_owned());
        }
    }
    if let Some(entry) = table.get("every")
        && let Some(ms) = duration(&entry.node, "`every`", check)
    {
        if ms < SHORTEST_MS {
            let hint = "at least 1s".to_owned();
            check.faults.error(Code::BadSensor, entry.node.span, "`every` is too short", hint);
        }
        sensor.every_ms = ms;
    }
    Some(sensor)
}

/// Reports what a sensor has no use for.
pub(super) fn needless(table: &Table, check: &mut Check<'_>) {
    for (key, hint) in NOT_WITH {
        if let Some(entry) = table.get(key) {
            let message = format!("a sensor has no {}", quote(key));
            check.faults.error(Code::BadSensor, entry.key_span, message, hint.to_owned());
        }
    }
}

/// Reports `every` beside `sensor`, where it is easily put.
pub(super) fn misplaced(entry: &Entry, check: &mut Check<'_>) -> Span {
    let hint = "write it inside: sensor = { file = \"…\", every = \"1m\" }".to_owned();
    check.faults.error(Code::UnknownKey, entry.key_span, "`every` stands beside `sensor`", hint);
    entry.key_span
}

/// Checks what a sensor waits for, once its parameters are filled in.
pub(super) fn target(kind: &str, text: &str) -> Result<(), (String, &'static str)> {
    let refuse = |what: &str, hint| Err((format!("{} {what}", quote(text)), hint));
    match kind {
        "http" => match url::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
            _ => refuse("is not an address of the web", "begin it with https:// or http://"),
        },
        "time" => match units::rfc3339_ms(text) {
            Ok(_) => Ok(()),
            Err(why) => refuse(why, "such as 2026-01-01T00:00:00Z or 2026-01-01T09:30:00+01:00"),
        },
        "artifact" => {
            let parts = text.split_once('/').and_then(|(pipeline, rest)| Some((pipeline, rest.split_once('.')?)));
            match parts {
                Some((pipeline, (task, output)))
                    if pipeline.parse::<PipelineName>().is_ok()
                        && task.parse::<TaskName>().is_ok()
                        && output.parse::<PortName>().is_ok() =>
                {
                    Ok(())
                }
                _ => refuse("names no output of a pipeline", "written pipeline/task.output"),
            }
        }
        _ if text.is_empty() || text.contains('\0') => {
            refuse("names no file", "a path, or a URL such as s3://bucket/key")
        }
        _ => Ok(()),
    }
}
