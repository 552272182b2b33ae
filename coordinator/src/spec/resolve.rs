//! What tasks say of each other and of parameters: edges, kinds, `with`, references, secrets.

use std::collections::{BTreeMap, HashMap};

use segue_proto::operator::{ParamSpec, ParamType, Port};
use serde_json::{Map, Value as Json};

use super::{
    code::Code,
    diagnostic::quote,
    fanout::DraftOver,
    faults::{Span, list},
    fields::Check,
    model::{EnvValue, OutputRef},
    params::{self, Params},
    policy::Policy,
    secrets,
    strings::{Children, references},
    tasks::{Draft, DraftWork, Spanned},
    template::{self, Part},
    toml::{Entry, Value},
    value::{self, Rule},
};

/// The edges of one task, as far as they are good.
#[derive(Debug, Default)]
pub(super) struct Edges {
    pub inputs: BTreeMap<String, OutputRef>,
    /// Sorted, each once.
    pub after: Vec<usize>,
    /// Where the items of a fan-out come from.
    pub foreach: Option<OutputRef>,
    /// Every task that this one waits for, with the place that says so.
    pub needs: Vec<(usize, Span)>,
}

/// Resolves the edges of every task.
pub(super) fn edges(drafts: &[Draft<'_>], check: &mut Check<'_>) -> Vec<Edges> {
    let names: HashMap<&str, usize> = drafts.iter().enumerate().map(|(at, draft)| (draft.name, at)).collect();
    let graph = Graph { drafts, names };
    (0..drafts.len()).map(|at| graph.edges(at, check)).collect()
}

struct Graph<'d, 't> {
    drafts: &'d [Draft<'t>],
    names: HashMap<&'t str, usize>,
}

impl Graph<'_, '_> {
    fn edges(&self, at: usize, check: &mut Check<'_>) -> Edges {
        let draft = &self.drafts[at];
        let mut edges = Edges::default();
        for &(input, from) in &draft.inputs {
            let port = self.port(draft, input, check);
            let Some((task, output)) = self.output(at, from, check) else { continue };
            edges.needs.push((task, from.1));
            edges.inputs.insert(input.0.to_owned(), OutputRef { task, output: output.to_owned() });
            self.kinds(port, task, output, from.1, check);
            self.joins(draft, port, task, from.1, check);
        }
        if let Some(DraftOver::Output(from)) = draft.flow.fan_out.as_ref().map(|fan| &fan.over) {
            edges.foreach = self.items(at, *from, &mut edges.needs, check);
        }
        if let DraftWork::Operator(spec) = &draft.work {
            let connected = |name: &str| draft.inputs.iter().any(|((input, _), _)| *input == name);
            for port in spec.inputs.iter().filter(|port| !port.optional && !connected(&port.name)) {
                let message =
                    format!("the task {} lacks the input `{}` of {}", quote(draft.name), port.name, quote(&spec.name));
                let hint = format!("connect {}: inputs = {{ {} = \"task.output\" }}", article(&port.kind), port.name);
                check.faults.error(Code::MissingInput, draft.span, message, hint);
            }
        }
        for &(name, span) in &draft.after {
            let Some(task) = self.task(at, name, (name, span), "runs after", check) else { continue };
            edges.needs.push((task, span));
            edges.after.push(task);
        }
        edges.after.sort_unstable();
        edges.after.dedup();
        edges
    }

    /// Gives the input of the operator; nothing for a command, which takes any.
    fn port<'p>(&'p self, draft: &'p Draft<'_>, (name, span): Spanned<'_>, check: &mut Check<'_>) -> Option<&'p Port> {
        let DraftWork::Operator(spec) = &draft.work else { return None };
        let port = spec.inputs.iter().find(|port| port.name == name);
        if port.is_none() {
            let names = || spec.inputs.iter().map(|port| port.name.as_str());
            let hint = check.faults.did_you_mean(name, names()).unwrap_or_else(|| {
                if spec.inputs.is_empty() {
                    "it has no inputs".to_owned()
                } else {
                    format!("its inputs: {}", list(names()))
                }
            });
            let message = format!("{} has no input {}", quote(&spec.name), quote(name));
            check.faults.error(Code::UnknownInput, span, message, hint);
        }
        port
    }

    /// Gives the task and output that `task.output` names.
    fn output<'r>(&self, at: usize, (from, span): Spanned<'r>, check: &mut Check<'_>) -> Option<(usize, &'r str)> {
        let Some((name, output)) = from.split_once('.') else {
            let hint = match self.names.get(from).and_then(|&task| self.drafts[task].outputs()) {
                Some([only]) => format!("did you mean `{from}.{}`?", only.name),
                Some(ports) if !ports.is_empty() => {
                    format!("{} gives {}", quote(from), list(ports.iter().map(|port| port.name.as_str())))
                }
                _ => "write \"task.output\"".to_owned(),
            };
            check.faults.error(Code::BadReference, span, format!("{} names no output", quote(from)), hint);
            return None;
        };
        let task = self.task(at, name, (from, span), "takes an output of", check)?;
        let Some(ports) = self.drafts[task].outputs() else { return Some((task, output)) };
        if self.drafts[task].port(output).is_some() {
            return Some((task, output));
        }
        let names = || ports.iter().map(|port| port.name.as_str());
        let hint = check.faults.did_you_mean(output, names()).unwrap_or_else(|| match &self.drafts[task].work {
            _ if !ports.is_empty() => format!("it gives {}", list(names())),
            DraftWork::Command(_) => {
                format!("declare it in {name}: outputs = [\"{}\"]", quote(output).trim_matches('`'))
            }
            _ => "it gives nothing".to_owned(),
        });
        check.faults.error(
            Code::UnknownOutput,
            span,
            format!("the task {} has no output {}", quote(name), quote(output)),
            hint,
        );
        None
    }

    /// Gives the task of a name. `whole` is the text that holds it.
    fn task(&self, at: usize, name: &str, whole: Spanned<'_>, verb: &str, check: &mut Check<'_>) -> Option<usize> {
        let own = self.drafts[at].name;
        match self.names.get(name) {
            Some(&task) if task == at => {
                let message = format!("the task {} {verb} itself", quote(own));
                check.faults.error(Code::SelfDependency, whole.1, message, "take it away".to_owned());
                None
            }
            Some(&task) => Some(task),
            None => {
                let hint = match check.faults.nearest(name, self.drafts.iter().map(|draft| draft.name)) {
                    Some(near) => Some(format!("did you mean {}?", quote(&whole.0.replacen(name, near, 1)))),
                    // `after = ["clean.orders"]`
                    None => name
                        .split_once('.')
                        .filter(|(task, _)| self.names.contains_key(task))
                        .map(|(task, _)| format!("name the task alone: {}", quote(task))),
                };
                let message = format!("the task {} {verb} {}, which is not in this pipeline", quote(own), quote(name));
                check.faults.error(Code::UnknownTask, whole.1, message, hint);
                None
            }
        }
    }

    /// Gives the output that a fan-out takes its items from: one JSON document.
    fn items(
        &self,
        at: usize,
        from: Spanned<'_>,
        needs: &mut Vec<(usize, Span)>,
        check: &mut Check<'_>,
    ) -> Option<OutputRef> {
        let (task, output) = self.output(at, from, check)?;
        needs.push((task, from.1));
        let other = &self.drafts[task];
        if other.flow.fan_out.is_some() {
            let message = format!("{} is a fan-out: it gives no single list of items", quote(other.name));
            let hint = "join its outputs in a task that puts out one JSON array".to_owned();
            check.faults.error(Code::BadFanOut, from.1, message, hint);
            return None;
        }
        let ports = other.outputs().unwrap_or_default();
        if let Some(port) = other.port(output).filter(|port| port.kind != "json") {
            let message = format!("items come out of a JSON array, but {} is {}", quote(from.0), article(&port.kind));
            let json: Vec<&str> =
                ports.iter().filter(|port| port.kind == "json").map(|port| port.name.as_str()).collect();
            let hint = match json.is_empty() {
                true => format!("let {} put out a JSON array of the items", quote(other.name)),
                false => format!("outputs of that kind: {}", list(json)),
            };
            check.faults.error(Code::KindMismatch, from.1, message, hint);
            return None;
        }
        Some(OutputRef { task, output: output.to_owned() })
    }

    /// Checks that the outputs of all children go where many are taken.
    fn joins(&self, draft: &Draft<'_>, port: Option<&Port>, task: usize, span: Span, check: &mut Check<'_>) {
        let (DraftWork::Operator(spec), Some(port)) = (&draft.work, port) else { return };
        let other = &self.drafts[task];
        if other.flow.fan_out.is_none() || port.many {
            return;
        }
        let message = format!(
            "{} is a fan-out, and `{}` of {} takes one output",
            quote(other.name),
            port.name,
            quote(&spec.name)
        );
        let many: Vec<&str> = spec.inputs.iter().filter(|port| port.many).map(|port| port.name.as_str()).collect();
        let hint = match many.is_empty() {
            true => "join the outputs in a command, which gets them as a folder of files".to_owned(),
            false => format!("its inputs that take many: {}", list(many)),
        };
        check.faults.error(Code::ManyIntoOne, span, message, hint);
    }

    fn kinds(&self, port: Option<&Port>, task: usize, output: &str, span: Span, check: &mut Check<'_>) {
        let (Some(port), Some(ports)) = (port, self.drafts[task].outputs()) else { return };
        let Some(given) = self.drafts[task].port(output) else { return };
        if port.kind == "file" || given.kind == port.kind {
            return;
        }
        let name = self.drafts[task].name;
        let message =
            format!("`{}` takes {}, but `{name}.{output}` is {}", port.name, article(&port.kind), article(&given.kind));
        let fitting: Vec<String> = ports
            .iter()
            .filter(|other| other.kind == port.kind)
            .map(|other| format!("{name}.{}", other.name))
            .collect();
        let hint = (!fitting.is_empty())
            .then(|| format!("outputs of that kind: {}", list(fitting.iter().map(String::as_str))));
        check.faults.error(Code::KindMismatch, span, message, hint);
    }
}

fn article(kind: &str) -> String {
    match kind {
        "json" => "a JSON document".to_owned(),
        kind => format!("a {kind}"),
    }
}

/// Checks everything of a task that may hold parameters and gives its `with`.
pub(super) fn with(draft: &Draft<'_>, params: &mut Params, check: &mut Check<'_>) -> Map<String, Json> {
    let children = draft.flow.fan_out.as_ref().map_or(Children::None, |fan| Children::Of(fan.shape()));
    match &draft.work {
        DraftWork::Command(argv) => {
            for &(argument, span) in argv {
                references(argument, span, children, params, check);
                secrets::argument(argument, span, check);
                secrets::address(argument, span, check);
            }
        }
        DraftWork::Sensor(sensor) => {
            secrets::address(sensor.target.0, sensor.target.1, check);
            if references(sensor.target.0, sensor.target.1, Children::Never, params, check) {
                sensor.check(check);
            }
            return Map::new();
        }
        DraftWork::Operator(_) | DraftWork::Unknown => {}
    }
    env(&draft.policy, children, params, check);
    if let Some(((key, span), _)) = draft.flow.limit {
        references(key, span, children, params, check);
    }
    let mut with = Map::new();
    for entry in draft.with.map_or(&[][..], |table| &table.entries) {
        if secrets::table(entry, check) {
            continue;
        }
        let Some(json) = params::literal(&entry.node, &format!("the parameter {}", quote(&entry.key)), check) else {
            continue;
        };
        let good = strings(entry, &mut |text, span| references(text, span, children, params, check));
        if let Value::Text(text) = &entry.node.value {
            secrets::named(&entry.key, text, entry.node.span, check);
            secrets::address(text, entry.node.span, check);
        }
        let json = match &draft.work {
            DraftWork::Operator(spec) => match spec.params.iter().find(|param| param.name == entry.key) {
                Some(param) if good => given(&spec.name, param, entry, json, params, check),
                Some(_) => None,
                None => {
                    unknown_with(&spec.name, &spec.params, entry, check);
                    None
                }
            },
            DraftWork::Command(_) => command_param(entry, json, check),
            DraftWork::Sensor(_) | DraftWork::Unknown => None,
        };
        if let Some(json) = json {
            with.insert(entry.key.clone(), json);
        }
    }
    if let DraftWork::Operator(spec) = &draft.work {
        let missing =
            |param: &&ParamSpec| param.required && draft.with.is_none_or(|with| with.get(&param.name).is_none());
        for param in spec.params.iter().filter(missing) {
            let message =
                format!("the task {} lacks the parameter `{}` of {}", quote(draft.name), param.name, quote(&spec.name));
            let help = if param.help.is_empty() { String::new() } else { format!(" ({})", param.help) };
            let value = match (param.kind, params.path()) {
                (ParamType::Path, Some(name)) => format!("\"${{params.{name}}}\""),
                (kind, _) => example(kind).to_owned(),
            };
            let hint = format!("add with = {{ {} = {value} }}{help}", param.name);
            check.faults.error(Code::MissingWith, draft.span, message, hint);
        }
    }
    with
}

/// Checks the variables that a policy sets itself.
pub(super) fn env(policy: &Policy, children: Children<'_>, params: &mut Params, check: &mut Check<'_>) {
    for (name, entry) in policy.env.iter().filter(|(_, entry)| !entry.inherited) {
        if let EnvValue::Text(text) = &entry.value {
            references(text, entry.span, children, params, check);
            secrets::named(name, text, entry.span, check);
            secrets::address(text, entry.span, check);
        }
    }
}

const fn example(kind: ParamType) -> &'static str {
    match kind {
        ParamType::String | ParamType::Path => "\"…\"",
        ParamType::Int => "1",
        ParamType::Float => "0.5",
        ParamType::Bool => "true",
        ParamType::List => "[\"…\"]",
    }
}

/// A parameter of a command becomes an environment variable, so its name must fit one.
fn command_param(entry: &Entry, json: Json, check: &mut Check<'_>) -> Option<Json> {
    if template::is_param_name(&entry.key.to_ascii_lowercase()) {
        return Some(json);
    }
    let hint = "letters, digits and _: a command gets it as $SEGUE_PARAM_NAME".to_owned();
    check.faults.error(Code::BadName, entry.key_span, format!("{} cannot name a parameter", quote(&entry.key)), hint);
    None
}

fn unknown_with(operator: &str, specs: &[ParamSpec], entry: &Entry, check: &mut Check<'_>) {
    let names = || specs.iter().map(|param| param.name.as_str());
    let hint = check.faults.did_you_mean(&entry.key, names()).unwrap_or_else(|| {
        if specs.is_empty() { "it has no parameters".to_owned() } else { format!("its parameters: {}", list(names())) }
    });
    let message = format!("{} has no parameter {}", quote(operator), quote(&entry.key));
    check.faults.error(Code::UnknownWith, entry.key_span, message, hint);
}

/// Checks a value that `with` gives to a parameter of an operator.
fn given(
    operator: &str,
    spec: &ParamSpec,
    entry: &Entry,
    json: Json,
    params: &mut Params,
    check: &mut Check<'_>,
) -> Option<Json> {
    let what = format!("the parameter `{}` of {}", spec.name, quote(operator));
    let span = entry.node.span;
    let rule = Rule::from(spec);
    let name = match &json {
        Json::String(text) => template::exact(text),
        _ => None,
    };
    // What a child is given has its type only then.
    if json.as_str().and_then(template::exact_child).is_some() {
        return Some(json);
    }
    let (value, origin) = if let Some(name) = name {
        // Its type is that of the parameter; its value can be checked now if it has a default.
        let decl = params.refer(name)??;
        if !value::assignable(decl.kind, spec.kind) {
            let message = format!(
                "{what} takes {}, but {} is {}",
                value::type_name(spec.kind),
                quote(name),
                value::type_name(decl.kind)
            );
            check.faults.error(Code::BadValue, span, message, None);
            return None;
        }
        match &decl.default {
            None => return Some(json),
            Some(default) => (default.clone(), format!(", the default of {}", quote(name))),
        }
    } else if mentions(&json) {
        if !matches!(spec.kind, ParamType::String | ParamType::Path | ParamType::List) {
            let hint = "a reference that stands alone keeps the type of its parameter".to_owned();
            let message = format!("{what} takes {}, but this is text around a reference", value::type_name(spec.kind));
            check.faults.error(Code::BadValue, span, message, hint);
            return None;
        }
        return Some(json);
    } else {
        (unescape(&json), String::new())
    };
    let exact = name.is_some();
    let refused = match rule.admit(value) {
        Ok(Json::String(path)) if spec.kind == ParamType::Path => value::check_path(&path).err(),
        // The text keeps its escapes until the parameters are filled in.
        Ok(admitted) => return Some(if exact || json.is_string() || json.is_array() { json } else { admitted }),
        Err(refusal) => Some(refusal),
    };
    let Some(refusal) = refused else { return Some(json) };
    check.faults.error(Code::BadValue, span, format!("{what} {}{origin}", refusal.reason), refusal.hint);
    None
}

fn mentions(json: &Json) -> bool {
    let mention =
        |text: &str| template::parts(text).is_ok_and(|parts| parts.iter().any(|part| !matches!(part, Part::Text(_))));
    match json {
        Json::String(text) => mention(text),
        Json::Array(items) => items.iter().filter_map(Json::as_str).any(mention),
        _ => false,
    }
}

fn unescape(json: &Json) -> Json {
    let plain = |text: &str| template::fill(text, |_| None).unwrap_or_else(|| text.to_owned());
    match json {
        Json::String(text) => Json::from(plain(text)),
        Json::Array(items) => items.iter().map(unescape).collect(),
        other => other.clone(),
    }
}

/// Visits the strings of a value; says whether every visit was good.
fn strings(entry: &Entry, visit: &mut dyn FnMut(&str, Span) -> bool) -> bool {
    match &entry.node.value {
        Value::Text(text) => visit(text, entry.node.span),
        Value::List(items) => {
            let mut good = true;
            for item in items {
                if let Value::Text(text) = &item.value {
                    good &= visit(text, item.span);
                }
            }
            good
        }
        _ => true,
    }
}
