//! Values of parameters: their types, their limits, and their text.

use segue_proto::{
    ids::Digest,
    operator::{ParamSpec, ParamType},
};
use serde_json::Value;

use super::{diagnostic::quote, faults::list, model::ParamDecl};

/// What a parameter takes, of a pipeline or of an operator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule<'a> {
    pub kind: ParamType,
    pub one_of: &'a [String],
    pub min: Option<f64>,
    pub max: Option<f64>,
}

impl<'a> From<&'a ParamDecl> for Rule<'a> {
    fn from(param: &'a ParamDecl) -> Self {
        Self { kind: param.kind, one_of: &param.one_of, min: param.min, max: param.max }
    }
}

impl<'a> From<&'a ParamSpec> for Rule<'a> {
    fn from(param: &'a ParamSpec) -> Self {
        Self { kind: param.kind, one_of: &param.one_of, min: param.min, max: param.max }
    }
}

/// Why a value is refused, for use after the name of its parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: String,
    pub hint: Option<String>,
}

impl Refusal {
    fn new(reason: String) -> Self {
        Self { reason, hint: None }
    }
}

impl Rule<'_> {
    /// Checks a value, and gives it in the form that its type has: a whole number becomes a float where one is taken.
    pub fn admit(&self, value: Value) -> Result<Value, Refusal> {
        let value = conform(self.kind, value).map_err(|value| {
            let hint = match (self.kind, &value) {
                (ParamType::List, Value::String(text)) => {
                    Some(format!("write [\"{}\"]", quote(text).trim_matches('`')))
                }
                (ParamType::Int | ParamType::Float, Value::String(text)) if text.parse::<f64>().is_ok() => {
                    Some(format!("without quotes: {text}"))
                }
                (ParamType::String, Value::Number(number)) => Some(format!("put it in quotes: \"{number}\"")),
                _ => None,
            };
            Refusal { reason: format!("takes {}, found {}", type_name(self.kind), describe(&value)), hint }
        })?;
        self.limits(&value)?;
        Ok(value)
    }

    /// Reads a value from text, as given on a command line.
    pub fn parse(&self, text: &str) -> Result<Value, Refusal> {
        let refused = || Refusal::new(format!("takes {}, found {}", type_name(self.kind), quote(text)));
        let value = match self.kind {
            ParamType::String | ParamType::Path => Value::from(text),
            ParamType::Int => Value::from(text.trim().parse::<i64>().map_err(|_| refused())?),
            ParamType::Float => {
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                Value::from(number.ok_or_else(refused)?)
            }
            ParamType::Bool => match text.trim() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err(Refusal { hint: Some("write true or false".to_owned()), ..refused() }),
            },
            ParamType::List if text.trim_start().starts_with('[') => serde_json::from_str(text)
                .map_err(|error| Refusal::new(format!("takes a list, but this is not one: {error}")))?,
            ParamType::List if text.trim().is_empty() => Value::Array(Vec::new()),
            ParamType::List => text.split(',').map(|item| Value::from(item.trim())).collect(),
        };
        self.admit(value)
    }

    fn limits(&self, value: &Value) -> Result<(), Refusal> {
        if let Value::Array(items) = value {
            return items.iter().try_for_each(|item| self.limits(item));
        }
        let text = text_of(value);
        if !self.one_of.is_empty() && !self.one_of.contains(&text) {
            let allowed = self.one_of.iter().map(String::as_str);
            let hint = super::faults::nearest(&text, allowed.clone())
                .map_or_else(|| format!("allowed: {}", list(allowed)), |near| format!("did you mean {}?", quote(near)));
            return Err(Refusal { reason: format!("cannot be {}", quote(&text)), hint: Some(hint) });
        }
        let Some(number) = value.as_f64() else { return Ok(()) };
        let below = self.min.is_some_and(|min| number < min);
        let above = self.max.is_some_and(|max| number > max);
        if !below && !above {
            return Ok(());
        }
        let range = match (self.min, self.max) {
            (Some(min), Some(max)) => format!("from {min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => String::new(),
        };
        Err(Refusal { reason: format!("cannot be {text}"), hint: Some(format!("it must be {range}")) })
    }
}

/// Gives a value in the form of a type, or gives it back.
fn conform(kind: ParamType, value: Value) -> Result<Value, Value> {
    let fits = match (kind, &value) {
        (ParamType::String, Value::String(_)) | (ParamType::Bool, Value::Bool(_)) => true,
        (ParamType::Path, Value::String(path)) => !path.is_empty() && !path.contains('\0'),
        (ParamType::Int, Value::Number(number)) => number.is_i64(),
        (ParamType::Float, Value::Number(number)) => {
            return number.as_f64().map(Value::from).ok_or(value);
        }
        (ParamType::List, Value::Array(items)) => {
            items.iter().all(Value::is_string) || items.iter().all(Value::is_number)
        }
        _ => false,
    };
    if fits { Ok(value) } else { Err(value) }
}

/// Gives the type with its article.
pub(super) const fn type_name(kind: ParamType) -> &'static str {
    match kind {
        ParamType::String => "a string",
        ParamType::Int => "a whole number",
        ParamType::Float => "a number",
        ParamType::Bool => "a boolean",
        ParamType::Path => "a path",
        ParamType::List => "a list of strings or of numbers",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) if value.is_empty() => "an empty string".to_owned(),
        Value::String(value) => format!("the string {}", quote(value)),
        Value::Array(_) => "a list of other things".to_owned(),
        Value::Object(_) => "a table".to_owned(),
    }
}

/// Gives the text of a value as it stands in environments, commands and lists of parameters.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Says whether a value of one type may be given where another is taken.
pub(super) fn assignable(from: ParamType, to: ParamType) -> bool {
    from == to
        || matches!(
            (from, to),
            (ParamType::Int, ParamType::Float)
                | (ParamType::String, ParamType::Path)
                | (ParamType::Path, ParamType::String)
        )
}

/// Whether a path is resolved against the directory of the pipeline: not if it is a URL or an uploaded file.
pub(super) fn is_remote(path: &str) -> bool {
    path.starts_with(BLOB)
        || path.split_once("://").is_some_and(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-'))
        })
}

/// Begins a path that is an uploaded file.
pub(super) const BLOB: &str = "blob:";

/// Checks the form of a path: an uploaded file is named by its digest.
pub(super) fn check_path(path: &str) -> Result<(), Refusal> {
    match path.strip_prefix(BLOB).map(str::parse::<Digest>) {
        Some(Err(error)) => Err(Refusal::new(format!("names an uploaded file, but {error}"))),
        _ => Ok(()),
    }
}
