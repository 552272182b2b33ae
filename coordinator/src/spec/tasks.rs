//! `[tasks.NAME]`: reads each table by itself. What one task says of another is checked in [`super::resolve`].

use std::collections::HashMap;

use segue_proto::{
    ids::{PortName, TaskName},
    operator::{Catalogue, KINDS, OperatorSpec, Port},
};

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Span, list},
    fields::{COMMAND, Check},
    flow::{self, DraftFlow},
    keys,
    policy::Policy,
    sensors::{self, DraftSensor},
    toml::{Entry, Node, Table, Value},
};

/// A string and where it stands.
pub(super) type Spanned<'t> = (&'t str, Span);

/// A task as written. Faults are reported already; what is at fault is left out.
pub(super) struct Draft<'t> {
    pub name: &'t str,
    pub span: Span,
    pub work: DraftWork<'t>,
    /// Input name, and what it is connected to.
    pub inputs: Vec<(Spanned<'t>, Spanned<'t>)>,
    pub after: Vec<Spanned<'t>>,
    pub with: Option<&'t Table>,
    pub policy: Policy,
    pub cache: Option<bool>,
    pub priority: i32,
    /// Of a command.
    pub outputs: Vec<Port>,
    /// Where each of them is: there may be many.
    at: HashMap<String, usize>,
    pub description: &'t str,
    pub flow: DraftFlow<'t>,
}

pub(super) enum DraftWork<'t> {
    Operator(&'t OperatorSpec),
    Command(Vec<Spanned<'t>>),
    Sensor(DraftSensor<'t>),
    /// At fault: nothing is known of its inputs, outputs and parameters.
    Unknown,
}

impl Draft<'_> {
    /// Gives the output of a name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        match &self.work {
            DraftWork::Operator(spec) => spec.outputs.iter().find(|port| port.name == name),
            DraftWork::Command(_) => self.at.get(name).and_then(|&at| self.outputs.get(at)),
            DraftWork::Sensor(_) | DraftWork::Unknown => None,
        }
    }

    /// Gives the outputs, or nothing where they are not known.
    pub fn outputs(&self) -> Option<&[Port]> {
        match &self.work {
            DraftWork::Operator(spec) => Some(&spec.outputs),
            DraftWork::Command(_) => Some(&self.outputs),
            DraftWork::Sensor(_) => Some(&[]),
            DraftWork::Unknown => None,
        }
    }
}

/// Reads every task, in file order.
pub(super) fn read<'t>(
    node: &'t Node,
    defaults: &Policy,
    catalogue: &'t Catalogue,
    check: &mut Check<'t>,
) -> Vec<Draft<'t>> {
    let Some(table) = check.open_table(node, "`tasks`") else { return Vec::new() };
    if table.entries.is_empty() {
        let hint = "add a table [tasks.NAME] with op = \"…\" or command = […]".to_owned();
        check.faults.error(Code::NoTasks, node.span, "the pipeline has no tasks", hint);
    }
    let mut entries: Vec<&Entry> = table.entries.iter().collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries.into_iter().filter_map(|entry| task(entry, defaults, catalogue, check)).collect()
}

fn task<'t>(entry: &'t Entry, defaults: &Policy, catalogue: &'t Catalogue, check: &mut Check<'t>) -> Option<Draft<'t>> {
    let name = entry.key.as_str();
    if let Err(error) = name.parse::<TaskName>() {
        let hint = "1 to 64 of a-z, 0-9, _ and -".to_owned();
        let message = if name.len() > 64 { error.to_string() } else { format!("{} cannot name a task", quote(name)) };
        check.faults.error(Code::BadName, entry.key_span, message, hint);
    }
    let what = format!("the task {}", quote(name));
    let table = check.open_table(&entry.node, &what)?;
    known_keys(table, &what, check);
    let work = work(table, entry, catalogue, check);
    let mut policy = defaults.clone();
    policy.read(table, check);
    if let (DraftWork::Operator(_), Some(entry)) = (&work, table.get("heartbeat_timeout")) {
        let hint = "an operator tells that it is alive by itself: take it away".to_owned();
        check.faults.error(Code::UnknownKey, entry.key_span, "`heartbeat_timeout` is for commands", hint);
    }
    let mut draft = Draft {
        name,
        span: entry.key_span,
        work,
        inputs: Vec::new(),
        after: Vec::new(),
        with: None,
        policy,
        cache: None,
        priority: 0,
        outputs: Vec::new(),
        at: HashMap::new(),
        description: "",
        flow: flow::read(table, name, check),
    };
    if let DraftWork::Sensor(_) = &draft.work {
        sensors::needless(table, check);
        // To wait is not to execute: what bounds attempts would end most waits.
        if table.get("timeout").is_none() {
            draft.policy.timeout_ms = None;
        }
        draft.flow.fan_out = None;
        draft.flow.limit = None;
    }
    let sensor = matches!(draft.work, DraftWork::Sensor(_));
    if let Some(entry) = table.get("inputs").filter(|_| !sensor) {
        draft.inputs = inputs(&entry.node, check);
    }
    if let Some(entry) = table.get("after") {
        draft.after = check.strings(&entry.node, "`after`").unwrap_or_default();
    }
    if let Some(entry) = table.get("with") {
        draft.with = check.open_table(&entry.node, "`with`");
    }
    if let Some(entry) = table.get("cache") {
        draft.cache = check.boolean(&entry.node, "`cache`");
    }
    if let Some(entry) = table.get("priority") {
        draft.priority = priority(&entry.node, check);
    }
    if let Some(entry) = table.get("description") {
        draft.description = check.string(&entry.node, "`description`").unwrap_or_default();
    }
    if let Some(entry) = table.get("outputs") {
        match &draft.work {
            DraftWork::Operator(spec) => {
                let names = spec.outputs.iter().map(|port| port.name.as_str());
                let hint = match spec.outputs.is_empty() {
                    true => format!("{} has none", quote(&spec.name)),
                    false => format!("{} gives {}", quote(&spec.name), list(names)),
                };
                let message = "`outputs` is for commands; an operator has its own";
                check.faults.error(Code::UnknownKey, entry.key_span, message, hint);
            }
            DraftWork::Sensor(_) => {}
            _ => {
                draft.outputs = outputs(&entry.node, check);
                draft.at = draft.outputs.iter().enumerate().map(|(at, port)| (port.name.clone(), at)).collect();
            }
        }
    }
    Some(draft)
}

/// Reads a priority; 0 where it is none.
pub(super) fn priority(node: &Node, check: &mut Check<'_>) -> i32 {
    let (least, most) = (i64::from(i32::MIN), i64::from(i32::MAX));
    check.within(node, "`priority`", Code::BadValue, least, most).map_or(0, |number| number as i32)
}

/// Reports keys that mean nothing; one that only stands in the wrong place is told so.
fn known_keys(table: &Table, what: &str, check: &mut Check<'_>) {
    let known: Vec<&str> = keys::TASK.words().collect();
    for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
        if entry.key == "every" && table.get("sensor").is_some() {
            sensors::misplaced(entry, check);
        } else {
            check.unknown_key(entry, what, &known);
        }
    }
}

fn work<'t>(table: &'t Table, entry: &Entry, catalogue: &'t Catalogue, check: &mut Check<'t>) -> DraftWork<'t> {
    let said: Vec<&Entry> = keys::TASK.one_of.iter().filter_map(|key| table.get(key)).collect();
    match said.as_slice() {
        [only] => match only.key.as_str() {
            "op" => operator(&only.node, catalogue, check),
            "command" => argv(&only.node, check),
            _ => sensors::read(&only.node, check).map_or(DraftWork::Unknown, DraftWork::Sensor),
        },
        [first, second, ..] => {
            let message =
                format!("the task {} has both {} and {}", quote(&entry.key), quote(&first.key), quote(&second.key));
            let hint = "keep the one that it is to execute".to_owned();
            check.faults.error(Code::BadWork, second.key_span, message, hint);
            DraftWork::Unknown
        }
        [] => {
            // A misspelt `op` is reported already, as an unknown key.
            let misspelt = table.entries.iter().any(|entry| !keys::TASK.words().any(|known| known == entry.key));
            let message = format!("the task {} has neither `op` nor `command`", quote(&entry.key));
            let hint = if misspelt {
                "is its key misspelt?"
            } else {
                "add op = \"…\" or command = [\"program\", \"argument\"]"
            };
            check.faults.error(Code::BadWork, entry.key_span, message, hint.to_owned());
            DraftWork::Unknown
        }
    }
}

fn operator<'t>(node: &Node, catalogue: &'t Catalogue, check: &mut Check<'t>) -> DraftWork<'t> {
    let Some(name) = check.string(node, "`op`") else { return DraftWork::Unknown };
    if let Some(spec) = catalogue.get(name) {
        return DraftWork::Operator(spec);
    }
    let names = || catalogue.iter().map(|spec| spec.name.as_str());
    let hint = check
        .faults
        .did_you_mean(name, names())
        .or_else(|| {
            // `kmeans` for `ml.kmeans`.
            let full = names().find(|full| full.rsplit('.').next() == Some(name))?;
            Some(format!("did you mean {}?", quote(full)))
        })
        .unwrap_or_else(|| format!("operators: {}", list(names())));
    check.faults.error(Code::UnknownOperator, node.span, format!("there is no operator {}", quote(name)), hint);
    DraftWork::Unknown
}

fn argv<'t>(node: &'t Node, check: &mut Check<'t>) -> DraftWork<'t> {
    let Some(argv) = check.strings(node, COMMAND) else { return DraftWork::Unknown };
    if argv.first().is_none_or(|(program, _)| program.trim().is_empty()) {
        let hint = "name a program first: [\"python3\", \"publish.py\"]".to_owned();
        check.faults.error(Code::EmptyCommand, node.span, "`command` names no program", hint);
        return DraftWork::Unknown;
    }
    for (argument, span) in &argv {
        if argument.contains('\0') {
            check.faults.error(Code::BadValue, *span, "an argument cannot hold a NUL character", None);
        }
    }
    DraftWork::Command(argv)
}

fn inputs<'t>(node: &'t Node, check: &mut Check<'t>) -> Vec<(Spanned<'t>, Spanned<'t>)> {
    let Some(table) = check.open_table(node, "`inputs`") else { return Vec::new() };
    let mut inputs = Vec::with_capacity(table.entries.len());
    for entry in &table.entries {
        port_name(&entry.key, entry.key_span, "an input", check);
        let what = format!("the input {}", quote(&entry.key));
        if let Value::Text(from) = &entry.node.value {
            inputs.push(((entry.key.as_str(), entry.key_span), (from.as_str(), entry.node.span)));
        } else {
            let hint = Some(format!("write {} = \"task.output\"", entry.key));
            check.wrong_type(&entry.node, &what, "a reference to an output", hint);
        }
    }
    inputs
}

fn outputs(node: &Node, check: &mut Check<'_>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    let mut add = |name: &str, kind: &str| {
        ports.push(Port {
            name: name.to_owned(),
            kind: kind.to_owned(),
            optional: false,
            help: String::new(),
            many: false,
        });
    };
    match &node.value {
        Value::List(_) => {
            let mut seen = std::collections::HashSet::new();
            for (name, span) in check.strings(node, "`outputs`").unwrap_or_default() {
                port_name(name, span, "an output", check);
                if seen.insert(name) {
                    add(name, "file");
                } else {
                    check.faults.error(
                        Code::Duplicate,
                        span,
                        format!("the output {} is listed twice", quote(name)),
                        None,
                    );
                }
            }
        }
        Value::Table(id) => {
            for entry in &check.tree.table(*id).entries {
                port_name(&entry.key, entry.key_span, "an output", check);
                let what = format!("the kind of the output {}", quote(&entry.key));
                let Some(kind) = check.string(&entry.node, &what) else { continue };
                if !KINDS.contains(&kind) {
                    let hint =
                        check.faults.did_you_mean(kind, KINDS).unwrap_or_else(|| format!("kinds: {}", list(KINDS)));
                    let message = format!("{} is not a kind of output", quote(kind));
                    check.faults.error(Code::BadValue, entry.node.span, message, hint);
                }
                add(&entry.key, kind);
            }
        }
        _ => {
            let hint = "{ scores = \"table\" }, or [\"scores\"] for plain files".to_owned();
            check.wrong_type(node, "`outputs`", "a table of names and kinds, or a list of names", Some(hint));
        }
    }
    ports
}

fn port_name(name: &str, span: Span, what: &str, check: &mut Check<'_>) {
    if name.parse::<PortName>().is_err() {
        let hint = "1 to 64 of a-z, 0-9, _ and -".to_owned();
        check.faults.error(Code::BadName, span, format!("{} cannot name {what}", quote(name)), hint);
    }
}
