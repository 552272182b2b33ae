//! `[params]`: what a run may set.

use std::collections::HashMap;

use segue_proto::operator::ParamType;
use serde_json::Value as Json;

use super::{
    code::Code,
    diagnostic::quote,
    faults::Span,
    fields::Check,
    keys,
    model::ParamDecl,
    template,
    toml::{Entry, Node, Value},
    value::{self, Rule},
};

/// The declared parameters, and which of them something refers to.
#[derive(Debug, Default)]
pub(super) struct Params {
    list: Vec<Declared>,
    index: HashMap<String, usize>,
}

#[derive(Debug)]
struct Declared {
    name: String,
    /// Absent where the declaration is at fault: references to it are still good.
    decl: Option<ParamDecl>,
    span: Span,
    used: bool,
}

impl Params {
    /// Reads `[params]`.
    pub fn read(node: &Node, check: &mut Check<'_>) -> Self {
        let mut params = Self::default();
        let Some(table) = check.open_table(node, "`params`") else { return params };
        for entry in &table.entries {
            let decl = declaration(entry, check);
            params.index.insert(entry.key.clone(), params.list.len());
            params.list.push(Declared { name: entry.key.clone(), decl, span: entry.key_span, used: false });
        }
        params
    }

    /// Marks a parameter as used. Gives nothing if there is none, and `Some(None)` if its declaration is at fault.
    pub fn refer(&mut self, name: &str) -> Option<Option<&ParamDecl>> {
        let declared = &mut self.list[*self.index.get(name)?];
        declared.used = true;
        Some(declared.decl.as_ref())
    }

    /// Gives a parameter without marking it as used. As for [`Params::refer`].
    pub fn get(&self, name: &str) -> Option<Option<&ParamDecl>> {
        self.index.get(name).map(|&at| self.list[at].decl.as_ref())
    }

    /// Gives the declarations without fault, in file order.
    pub fn decls(&self) -> impl Iterator<Item = &ParamDecl> {
        self.list.iter().filter_map(|declared| declared.decl.as_ref())
    }

    /// Marks every parameter as used: which ones are read shows only while a run goes on.
    pub fn refer_all(&mut self) {
        self.list.iter_mut().for_each(|declared| declared.used = true);
    }

    /// Gives the names in file order, for hints.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|declared| declared.name.as_str())
    }

    /// Gives a parameter that is a path, for hints.
    pub fn path(&self) -> Option<&str> {
        let is_path = |declared: &&Declared| declared.decl.as_ref().is_some_and(|decl| decl.kind == ParamType::Path);
        self.list.iter().find(is_path).map(|declared| declared.name.as_str())
    }

    /// Warns of parameters that nothing refers to.
    pub fn warn_of_unused(&self, check: &mut Check<'_>) {
        for declared in self.list.iter().filter(|declared| !declared.used) {
            let Some(decl) = &declared.decl else { continue };
            let message = format!("nothing refers to the parameter {}", quote(&decl.name));
            let hint = format!("write ${{params.{}}} where it is meant, or take it away", decl.name);
            check.faults.warning(Code::UnusedParam, declared.span, message, hint);
        }
    }

    /// Gives the declarations in file order.
    pub fn into_decls(self) -> Vec<ParamDecl> {
        self.list.into_iter().filter_map(|declared| declared.decl).collect()
    }
}

fn declaration(entry: &Entry, check: &mut Check<'_>) -> Option<ParamDecl> {
    if !template::is_param_name(&entry.key) {
        let hint = "1 to 64 of a-z, 0-9 and _, not beginning with a digit".to_owned();
        let message = format!("{} cannot name a parameter", quote(&entry.key));
        check.faults.error(Code::BadName, entry.key_span, message, hint);
        return None;
    }
    if matches!(entry.node.value, Value::Table(_)) { long(entry, check) } else { short(entry, check) }
}

/// Reads `rounds = 200`: the type is that of the value.
fn short(entry: &Entry, check: &mut Check<'_>) -> Option<ParamDecl> {
    let kind = match &entry.node.value {
        Value::Text(_) => ParamType::String,
        Value::Int(_) => ParamType::Int,
        Value::Float(_) => ParamType::Float,
        Value::Bool(_) => ParamType::Bool,
        Value::List(_) => ParamType::List,
        _ => {
            let hint = Some("give a value, or { type = \"string\", default = \"…\" }".to_owned());
            check.wrong_type(&entry.node, &quote(&entry.key), "a value or a table", hint);
            return None;
        }
    };
    let mut decl = empty(&entry.key, kind);
    decl.default = Some(default(&decl, &entry.node, check)?);
    Some(decl)
}

fn long(entry: &Entry, check: &mut Check<'_>) -> Option<ParamDecl> {
    let what = format!("the parameter {}", quote(&entry.key));
    let before = check.faults.count();
    let table = check.table(&entry.node, &what, &keys::PARAM)?;
    let types = ParamType::ALL.map(ParamType::name);
    let Some(kind) = table.get("type") else {
        // A table in the place of a value: most likely the type was forgotten.
        let hint = format!("add type = one of {}", types.map(|name| format!("\"{name}\"")).join(", "));
        check.faults.error(Code::MissingKey, entry.key_span, format!("{what} has no type"), hint);
        return None;
    };
    let word = check.string(&kind.node, "`type`")?;
    let Some(kind_of) = ParamType::ALL.into_iter().find(|kind| kind.name() == word) else {
        let hint = check.faults.did_you_mean(word, types);
        let hint = hint.unwrap_or_else(|| format!("types: {}", types.join(", ")));
        check.faults.error(Code::BadValue, kind.node.span, format!("{} is not a type of parameter", quote(word)), hint);
        return None;
    };
    let mut decl = empty(&entry.key, kind_of);
    if let Some(entry) = table.get("help")
        && let Some(help) = check.string(&entry.node, "`help`")
    {
        decl.help = help.to_owned();
    }
    if let Some(entry) = table.get("one_of") {
        decl.one_of = one_of(kind_of, &entry.node, check);
    }
    let numeric = matches!(kind_of, ParamType::Int | ParamType::Float);
    let mut bound = |key: &str| {
        let entry = table.get(key)?;
        if numeric {
            return check.number(&entry.node, &format!("`{key}`"));
        }
        let message = format!("`{key}` bounds numbers, but {what} is {}", value::type_name(kind_of));
        check.faults.error(Code::BadValue, entry.key_span, message, None);
        None
    };
    decl.min = bound("min");
    decl.max = bound("max");
    if let (Some(min), Some(max), Some(entry)) = (decl.min, decl.max, table.get("min"))
        && min > max
    {
        check.faults.error(Code::BadValue, entry.node.span, "`min` is more than `max`", None);
    }
    if check.faults.count() == before
        && let Some(entry) = table.get("default")
    {
        decl.default = default(&decl, &entry.node, check);
    }
    (check.faults.count() == before).then_some(decl)
}

fn empty(name: &str, kind: ParamType) -> ParamDecl {
    ParamDecl {
        name: name.to_owned(),
        kind,
        default: None,
        one_of: Vec::new(),
        min: None,
        max: None,
        help: String::new(),
    }
}

fn one_of(kind: ParamType, node: &Node, check: &mut Check<'_>) -> Vec<String> {
    if matches!(kind, ParamType::Bool | ParamType::List) {
        let message = format!("`one_of` does not go with {}", value::type_name(kind));
        check.faults.error(Code::BadValue, node.span, message, None);
        return Vec::new();
    }
    let Value::List(items) = &node.value else {
        check.wrong_type(node, "`one_of`", "a list of values", None);
        return Vec::new();
    };
    if items.is_empty() {
        let hint = "list the allowed values, or leave it out".to_owned();
        check.faults.error(Code::BadValue, node.span, "`one_of` allows nothing", hint);
    }
    let rule = Rule { kind, one_of: &[], min: None, max: None };
    let mut allowed = Vec::new();
    for item in items {
        let Some(json) = literal(item, "an item of `one_of`", check) else { continue };
        match rule.admit(json) {
            Ok(json) => allowed.push(value::text_of(&json)),
            Err(refusal) => {
                check.faults.error(Code::BadValue, item.span, format!("`one_of` {}", refusal.reason), refusal.hint);
            }
        }
    }
    allowed
}

fn default(decl: &ParamDecl, node: &Node, check: &mut Check<'_>) -> Option<Json> {
    let json = literal(node, &format!("the default of {}", quote(&decl.name)), check)?;
    let refusal = match Rule::from(decl).admit(json) {
        Ok(json) => match decl.kind {
            ParamType::Path => match value::check_path(&value::text_of(&json)) {
                Ok(()) => return Some(json),
                Err(refusal) => refusal,
            },
            _ => return Some(json),
        },
        Err(refusal) => refusal,
    };
    let message = format!("the default of {} {}", quote(&decl.name), refusal.reason);
    check.faults.error(Code::BadValue, node.span, message, refusal.hint);
    None
}

/// Gives a value or a list of values as JSON.
pub(super) fn literal(node: &Node, what: &str, check: &mut Check<'_>) -> Option<Json> {
    match &node.value {
        Value::Text(text) => Some(Json::from(text.as_str())),
        Value::Int(number) => Some(Json::from(*number)),
        Value::Float(number) if number.is_finite() => Some(Json::from(*number)),
        Value::Float(number) => {
            check.faults.error(Code::BadValue, node.span, format!("{what} cannot be {number}"), None);
            None
        }
        Value::Bool(value) => Some(Json::from(*value)),
        Value::List(items) => {
            let mut all = Vec::with_capacity(items.len());
            for item in items {
                if matches!(item.value, Value::List(_)) {
                    check.wrong_type(item, &format!("an item of {what}"), "a string or a number", None);
                    return None;
                }
                all.push(literal(item, what, check)?);
            }
            Some(Json::Array(all))
        }
        Value::Date => {
            let hint = Some("write dates in quotes".to_owned());
            check.wrong_type(node, what, "a string, number, boolean or list", hint);
            None
        }
        Value::Table(_) | Value::Tables(_) => {
            check.wrong_type(node, what, "a string, number, boolean or list", None);
            None
        }
    }
}
