//! `foreach` and `matrix`: one task becomes a child for each item.

use segue_proto::operator::ParamType;
use serde_json::{Map, Value as Json};

use super::{
    code::Code,
    diagnostic::quote,
    faults::Span,
    fields::Check,
    items, keys,
    model::{FanOut, Number, OutputRef, Over},
    params::Params,
    strings::{self, Children},
    tasks::Spanned,
    template,
    toml::{Entry, Node, Table, Value},
};

/// Keys that mean nothing without a fan-out.
const ONLY_WITH: [&str; 4] = ["key", "max_parallel", "fail_fast", "tolerate"];
/// Most lists of a matrix.
const MOST_LISTS: usize = 16;
/// Items that references to their fields are checked against.
pub(super) const LOOKED_AT: usize = 1_000;
/// Longest template of a key, and longest pattern of files.
const LONGEST_KEY: usize = 512;
const LONGEST_PATTERN: usize = 4_096;

/// A fan-out as written.
pub(super) struct DraftFan<'t> {
    /// Of `foreach` or `matrix`.
    pub span: Span,
    pub node: &'t Node,
    pub over: DraftOver<'t>,
    key: Option<Spanned<'t>>,
    max_parallel: Option<u32>,
    tolerate: u32,
    fail_fast: bool,
}

pub(super) enum DraftOver<'t> {
    Items(Vec<Json>),
    /// A string that should be a reference to a list.
    Param(Spanned<'t>),
    Glob(Spanned<'t>),
    Range {
        from: DraftNumber<'t>,
        to: DraftNumber<'t>,
        step: DraftNumber<'t>,
    },
    Output(Spanned<'t>),
    Matrix(Vec<(String, Vec<Json>)>),
    /// At fault: nothing is known of its items.
    Unknown,
}

/// A number of a range.
#[derive(Clone, Copy)]
pub(super) enum DraftNumber<'t> {
    Int(i64),
    /// A string that should be a reference to a whole number.
    Param(Spanned<'t>),
}

impl DraftNumber<'_> {
    fn finish(self, params: &mut Params, check: &mut Check<'_>) -> Option<Number> {
        match self {
            Self::Int(number) => Some(Number::Int(number)),
            Self::Param(reference) => param(reference, "a range", INT, params, check).map(Number::Param),
        }
    }
}

/// What is known of the items before there are any.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Nothing.
    Any,
    /// Text or numbers, which have no fields.
    Plain,
    Items(&'a [Json]),
    Tables(&'a [(String, Vec<Json>)]),
}

impl Shape<'_> {
    /// Says why an item has no value at a path, and which fields it has.
    pub fn lacks(&self, path: &str) -> Option<(String, Vec<&str>)> {
        let first = path.split('.').next().unwrap_or(path);
        match self {
            Self::Any => None,
            Self::Plain => Some((format!("an item has no field {}: it is text or a number", quote(first)), Vec::new())),
            Self::Items(all) => all.iter().take(LOOKED_AT).enumerate().find_map(|(n, item)| {
                if items::field(item, path).is_some() {
                    return None;
                }
                // A reference to a list stands for items that are not known yet.
                if item.as_str().and_then(template::exact).is_some() {
                    return None;
                }
                let fields = item.as_object().map_or_else(Vec::new, |map| map.keys().map(String::as_str).collect());
                Some((format!("the item {} of `foreach` has no field {}", n + 1, quote(path)), fields))
            }),
            Self::Tables(lists) if lists.iter().any(|(name, _)| name == first) => None,
            Self::Tables(lists) => {
                let fields = lists.iter().map(|(name, _)| name.as_str()).collect();
                Some((format!("`matrix` has no list {}", quote(first)), fields))
            }
        }
    }
}

impl DraftFan<'_> {
    pub fn shape(&self) -> Shape<'_> {
        match &self.over {
            DraftOver::Items(items) => Shape::Items(items),
            DraftOver::Param(_) | DraftOver::Glob(_) | DraftOver::Range { .. } => Shape::Plain,
            DraftOver::Matrix(lists) => Shape::Tables(lists),
            DraftOver::Output(_) | DraftOver::Unknown => Shape::Any,
        }
    }

    /// Checks its strings and gives the fan-out; nothing where a fault was reported.
    pub fn finish(self, output: Option<OutputRef>, params: &mut Params, check: &mut Check<'_>) -> Option<FanOut> {
        let before = check.faults.count();
        if let Some((key, span)) = self.key {
            if key.len() > LONGEST_KEY {
                let message = format!("`key` has {} bytes", key.len());
                check.faults.error(Code::BadFanOut, span, message, format!("at most {LONGEST_KEY}"));
                return None;
            }
            strings::references(key, span, Children::Of(self.shape()), params, check);
            if !template::mentions_child(key) && template::parts(key).is_ok() {
                let hint = "name what tells them apart: \"${item.id}\", \"${index}\"".to_owned();
                check.faults.error(Code::BadFanOut, span, "`key` is the same for every child", hint);
            }
        }
        let over = match self.over {
            DraftOver::Items(all) => {
                strings_of(self.node, params, check);
                Over::Items(all)
            }
            DraftOver::Param(reference) => Over::Param(param(reference, "`foreach`", LIST, params, check)?),
            DraftOver::Glob((pattern, span)) => {
                strings::references(pattern, span, Children::Never, params, check);
                glob(pattern, span, check);
                Over::Glob(pattern.to_owned())
            }
            DraftOver::Range { from, to, step } => {
                let numbers = [from, to, step].map(|number| number.finish(params, check));
                match numbers {
                    [Some(Number::Int(from)), Some(Number::Int(to)), Some(Number::Int(step))] => {
                        Over::Range { from, to, step }
                    }
                    [Some(from), Some(to), Some(step)] => Over::RangeOf { from, to, step },
                    _ => return None,
                }
            }
            DraftOver::Output(_) => Over::Output(output?),
            DraftOver::Matrix(lists) => {
                combined(self.node, params, check);
                Over::Matrix(lists)
            }
            DraftOver::Unknown => return None,
        };
        let fan_out = FanOut {
            over,
            key: self.key.map(|(key, _)| key.to_owned()),
            max_parallel: self.max_parallel,
            tolerate: self.tolerate,
            fail_fast: self.fail_fast,
        };
        if check.faults.count() == before {
            alike(&fan_out, self.span, check);
        }
        Some(fan_out)
    }
}

/// Reads what a task says of its children.
pub(super) fn read<'t>(table: &'t Table, task: &str, check: &mut Check<'t>) -> Option<DraftFan<'t>> {
    let (entry, over) = match (table.get("foreach"), table.get("matrix")) {
        (Some(_), Some(matrix)) => {
            let message = format!("the task {} has both `foreach` and `matrix`", quote(task));
            let hint = "a list of `matrix` does what `foreach` does: keep `matrix`".to_owned();
            check.faults.error(Code::BadFanOut, matrix.key_span, message, hint);
            (matrix, DraftOver::Unknown)
        }
        (Some(entry), None) => (entry, foreach(&entry.node, check)),
        (None, Some(entry)) => (entry, matrix(&entry.node, check)),
        (None, None) => {
            for entry in ONLY_WITH.iter().filter_map(|key| table.get(key)) {
                let message = format!("{} is for a fan-out, and {} is none", quote(&entry.key), quote(task));
                let hint = "add `foreach` or `matrix`, or take it away".to_owned();
                check.faults.error(Code::BadFanOut, entry.key_span, message, hint);
            }
            return None;
        }
    };
    let mut fan = DraftFan {
        span: entry.key_span,
        node: &entry.node,
        over,
        key: None,
        max_parallel: None,
        tolerate: 0,
        fail_fast: false,
    };
    if let Some(entry) = table.get("key") {
        fan.key = check.string(&entry.node, "`key`").map(|key| (key, entry.node.span));
    }
    if let Some(entry) = table.get("max_parallel") {
        let most = check.within(&entry.node, "`max_parallel`", Code::BadFanOut, 1, keys::MOST_SLOTS);
        fan.max_parallel = most.map(|most| most as u32);
    }
    if let Some(entry) = table.get("tolerate") {
        let most = check.within(&entry.node, "`tolerate`", Code::BadFanOut, 0, keys::MOST_SLOTS);
        fan.tolerate = most.map_or(0, |most| most as u32);
    }
    if let Some(entry) = table.get("fail_fast") {
        fan.fail_fast = check.boolean(&entry.node, "`fail_fast`").unwrap_or_default();
    }
    Some(fan)
}

fn foreach<'t>(node: &'t Node, check: &mut Check<'t>) -> DraftOver<'t> {
    match &node.value {
        Value::List(items) => {
            if items.is_empty() {
                let hint = "list the items, or take the key away".to_owned();
                check.faults.error(Code::BadFanOut, node.span, "`foreach` lists nothing", hint);
            }
            items_of(items, "an item of `foreach`", check).map_or(DraftOver::Unknown, DraftOver::Items)
        }
        Value::Text(text) => DraftOver::Param((text, node.span)),
        Value::Table(_) => from_table(node, check).unwrap_or(DraftOver::Unknown),
        _ => {
            let hint = "[\"eu\", \"us\"], \"${params.NAME}\", { range = 10 }, { glob = \"*.csv\" } or { output = \"task.output\" }";
            check.wrong_type(node, "`foreach`", "a list, a list parameter or a table", Some(hint.to_owned()));
            DraftOver::Unknown
        }
    }
}

fn from_table<'t>(node: &'t Node, check: &mut Check<'t>) -> Option<DraftOver<'t>> {
    let table = check.table(node, "`foreach`", &keys::FOREACH)?;
    let said: Vec<&Entry> = keys::FOREACH.words().filter_map(|key| table.get(key)).collect();
    let entry = match said.as_slice() {
        [only] => *only,
        [] => {
            let hint = "{ range = 10 }, { glob = \"*.csv\" } or { output = \"task.output\" }; items of your own stand in a list";
            check.faults.error(
                Code::BadFanOut,
                node.span,
                "`foreach` does not say where its items come from",
                hint.to_owned(),
            );
            return None;
        }
        [first, second, ..] => {
            let message = format!("`foreach` has both {} and {}", quote(&first.key), quote(&second.key));
            check.faults.error(Code::BadFanOut, second.key_span, message, "keep one of them".to_owned());
            return None;
        }
    };
    let node = &entry.node;
    match entry.key.as_str() {
        "range" => range(node, check),
        "glob" => Some(DraftOver::Glob((check.string(node, "`glob`")?, node.span))),
        _ => Some(DraftOver::Output((check.string(node, "`output`")?, node.span))),
    }
}

fn range<'t>(node: &'t Node, check: &mut Check<'t>) -> Option<DraftOver<'t>> {
    let (from, to, step) = if let Value::Int(_) | Value::Text(_) = node.value {
        (DraftNumber::Int(0), number(node, "`range`", check)?, DraftNumber::Int(1))
    } else {
        let table = check.table(node, "`range`", &keys::RANGE)?;
        let Some(to) = table.get("to") else {
            let hint = "{ from = 0, to = 10 } counts from 0 to 9".to_owned();
            check.faults.error(Code::MissingKey, node.span, "`range` does not say where it ends", hint);
            return None;
        };
        let to = number(&to.node, "`to`", check)?;
        let mut number = |key: &str, absent: i64| match table.get(key) {
            Some(entry) => number(&entry.node, &quote(key), check),
            None => Some(DraftNumber::Int(absent)),
        };
        (number("from", 0)?, to, number("step", 1)?)
    };
    let over = DraftOver::Range { from, to, step };
    if let DraftNumber::Int(0) = step {
        check.faults.error(Code::BadFanOut, node.span, "`step` cannot be 0", "it would never end".to_owned());
        return None;
    }
    // What a parameter says is looked at when a run is submitted; then a range may hold nothing, as a list may.
    let (DraftNumber::Int(from), DraftNumber::Int(to), DraftNumber::Int(step)) = (from, to, step) else {
        return Some(over);
    };
    let count = items::count(from, to, step);
    if count == 0 {
        let hint = format!("it counts from {from} up to {to}, which is not taken, in steps of {step}");
        check.faults.error(Code::BadFanOut, node.span, "`range` holds no number", hint);
        return None;
    }
    too_many(count, node.span, check).then_some(over)
}

/// Reads a number of a range, or a reference to one.
fn number<'t>(node: &'t Node, what: &str, check: &mut Check<'t>) -> Option<DraftNumber<'t>> {
    match &node.value {
        Value::Text(text) => Some(DraftNumber::Param((text, node.span))),
        _ => check.int(node, what).map(DraftNumber::Int),
    }
}

/// Says whether so many items are allowed.
fn too_many(count: u64, span: Span, check: &mut Check<'_>) -> bool {
    if count > items::MOST {
        let message = format!("the fan-out has {count} items");
        let hint = format!("at most {}: let each child do several", items::MOST);
        check.faults.error(Code::BadFanOut, span, message, hint);
    }
    count <= items::MOST
}

fn matrix<'t>(node: &'t Node, check: &mut Check<'t>) -> DraftOver<'t> {
    let Some(table) = check.open_table(node, "`matrix`") else { return DraftOver::Unknown };
    if table.entries.is_empty() || table.entries.len() > MOST_LISTS {
        let message = format!("`matrix` has {} lists", table.entries.len());
        let hint = format!("1 to {MOST_LISTS}, such as matrix = {{ region = [\"eu\", \"us\"] }}");
        check.faults.error(Code::BadFanOut, node.span, message, hint);
        return DraftOver::Unknown;
    }
    let before = check.faults.count();
    let mut lists = Vec::with_capacity(table.entries.len());
    let mut product = 1_u64;
    for entry in &table.entries {
        if !template::is_param_name(&entry.key.to_ascii_lowercase()) {
            let hint = "letters, digits and _: it is used as ${item.NAME}".to_owned();
            let message = format!("{} cannot name a list of `matrix`", quote(&entry.key));
            check.faults.error(Code::BadName, entry.key_span, message, hint);
        }
        let values = match &entry.node.value {
            // Stands for the items of the parameter, whose type is looked at later.
            Value::Text(text) => vec![Json::from(text.as_str())],
            Value::List(values) if values.is_empty() => {
                let hint = "without a value there is no combination".to_owned();
                let message = format!("the list {} of `matrix` is empty", quote(&entry.key));
                check.faults.error(Code::BadFanOut, entry.node.span, message, hint);
                continue;
            }
            Value::List(values) => {
                let what = format!("a value of {}", quote(&entry.key));
                let Some(values) = items_of(values, &what, check) else { continue };
                values
            }
            _ => {
                let hint = Some("[\"eu\", \"us\"], or \"${params.NAME}\"".to_owned());
                check.wrong_type(&entry.node, &quote(&entry.key), "a list or a list parameter", hint);
                continue;
            }
        };
        product = product.saturating_mul(values.len() as u64);
        lists.push((entry.key.clone(), values));
    }
    let fits = too_many(product, node.span, check);
    if fits && check.faults.count() == before { DraftOver::Matrix(lists) } else { DraftOver::Unknown }
}

/// Checks the strings in the lists of `matrix`, and that what stands in the place of a list is one.
fn combined(node: &Node, params: &mut Params, check: &mut Check<'_>) {
    let Value::Table(id) = node.value else { return };
    for entry in &check.tree.table(id).entries {
        match &entry.node.value {
            Value::Text(text) => drop(param((text, entry.node.span), &quote(&entry.key), LIST, params, check)),
            _ => strings_of(&entry.node, params, check),
        }
    }
}

/// A type that a reference must have: for the checker, for people, and what they may write besides.
#[derive(Clone, Copy)]
struct Wanted(ParamType, &'static str, &'static str);

const LIST: Wanted = Wanted(ParamType::List, "a list", "[\"eu\", \"us\"]");
const INT: Wanted = Wanted(ParamType::Int, "whole numbers", "10");

/// Gives the parameter that a string refers to.
fn param(
    (text, span): Spanned<'_>,
    what: &str,
    Wanted(kind, takes, instead): Wanted,
    params: &mut Params,
    check: &mut Check<'_>,
) -> Option<String> {
    let word = if kind == ParamType::Int { "int" } else { "list" };
    let Some(name) = template::exact(text) else {
        // A reference that is malformed or unknown says enough.
        if strings::references(text, span, Children::Never, params, check) {
            let hint = format!("{instead}, or \"${{params.NAME}}\" of a parameter of type {word}");
            check.faults.error(Code::BadFanOut, span, format!("{what} is text, and takes {takes}"), hint);
        }
        return None;
    };
    strings::references(text, span, Children::Never, params, check);
    let decl = params.refer(name)??;
    if decl.kind == kind {
        return Some(name.to_owned());
    }
    let message = format!("{what} takes {takes}, but {} is {}", quote(name), super::value::type_name(decl.kind));
    let hint = format!("declare it as {name} = {{ type = \"{word}\" }}");
    check.faults.error(Code::BadFanOut, span, message, hint);
    None
}

fn glob(pattern: &str, span: Span, check: &mut Check<'_>) {
    if pattern.is_empty() || pattern.contains('\0') || pattern.len() > LONGEST_PATTERN {
        check.faults.error(Code::BadFanOut, span, "`glob` names no files", "\"data/*.csv\"".to_owned());
    } else if let Err(error) = glob::Pattern::new(pattern) {
        let place = check.inside(span, pattern, error.pos.min(pattern.len()), 1);
        let hint = "`*` stands for any text, `**` for any folders, `?` for one character, `[ab]` for one of them";
        let message = format!("not a pattern of files: {}", error.msg);
        check.faults.error(Code::BadFanOut, place, message, hint.to_owned());
    } else if pattern.contains("://") {
        let hint = "list the objects in a task, and fan out over its output: { output = \"list.items\" }";
        check.faults.error(Code::BadFanOut, span, "`glob` looks at local files, not at URLs", hint.to_owned());
    }
}

/// Reports children of which two would have the same key, as far as their items are known now.
fn alike(fan_out: &FanOut, span: Span, check: &mut Check<'_>) {
    let known = |value: &Json| !value.to_string().contains("${params.");
    let static_ = match &fan_out.over {
        Over::Items(all) => all.iter().all(known),
        Over::Matrix(lists) => lists.iter().all(|(_, values)| values.iter().all(known)),
        Over::Range { .. } => fan_out.key.is_some(),
        _ => false,
    };
    if !static_ || fan_out.key.as_ref().is_some_and(|key| key.contains("${params.")) {
        return;
    }
    // What is too much to look at now is looked at when the run gets there.
    let count = items::items_of(&fan_out.over).map_or(0, |items| items.len());
    if !check.faults.may_look_at(count) {
        return;
    }
    if let Err(message) = items::check_keys(fan_out) {
        let hint = "add key = \"…\" with what tells them apart; \"${index}\" always does".to_owned();
        check.faults.error(Code::BadFanOut, span, message, hint);
    }
}

/// Gives the items of a list as JSON; nothing where one is none.
fn items_of(nodes: &[Node], what: &str, check: &mut Check<'_>) -> Option<Vec<Json>> {
    let all: Vec<Option<Json>> = nodes.iter().map(|node| json(node, what, check)).collect();
    all.into_iter().collect()
}

/// Gives any value as JSON. Recursion is as deep as the parser of the file lets values nest.
fn json(node: &Node, what: &str, check: &mut Check<'_>) -> Option<Json> {
    Some(match &node.value {
        Value::Text(text) => Json::from(text.as_str()),
        Value::Int(number) => Json::from(*number),
        Value::Float(number) if number.is_finite() => Json::from(*number),
        Value::Float(number) => {
            check.faults.error(Code::BadValue, node.span, format!("{what} cannot be {number}"), None);
            return None;
        }
        Value::Bool(value) => Json::from(*value),
        Value::List(nodes) => Json::Array(items_of(nodes, what, check)?),
        Value::Table(id) => {
            let mut map = Map::new();
            for entry in &check.tree.table(*id).entries {
                map.insert(entry.key.clone(), json(&entry.node, what, check)?);
            }
            Json::Object(map)
        }
        Value::Date | Value::Tables(_) => {
            check.wrong_type(node, what, "a string, number, boolean, list or table", None);
            return None;
        }
    })
}

/// Checks the references in every string of a value.
fn strings_of(node: &Node, params: &mut Params, check: &mut Check<'_>) {
    match &node.value {
        Value::Text(text) => drop(strings::references(text, node.span, Children::Never, params, check)),
        Value::List(items) => items.iter().for_each(|item| strings_of(item, params, check)),
        Value::Table(id) => {
            check.tree.table(*id).entries.iter().for_each(|entry| strings_of(&entry.node, params, check));
        }
        _ => {}
    }
}
