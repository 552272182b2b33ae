//! Values while an expression is evaluated: what the scope holds is lent and not copied.

use std::{cmp::Ordering, rc::Rc};

use serde_json::{Map, Number, Value as Json};

#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Text<'a>),
    List(List<'a>),
    Map(Table<'a>),
}

#[derive(Debug, Clone)]
pub(super) enum Text<'a> {
    Lent(&'a str),
    Own(Rc<str>),
}

#[derive(Debug, Clone)]
pub(super) enum List<'a> {
    Lent(&'a [Json]),
    Own(Rc<[Value<'a>]>),
}

#[derive(Debug, Clone)]
pub(super) enum Table<'a> {
    Lent(&'a Map<String, Json>),
    /// As written, so few entries that they are searched one by one.
    Own(Rc<[(Text<'a>, Value<'a>)]>),
}

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Lent(text) => text,
            Self::Own(text) => text,
        }
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Lent(items) => items.len(),
            Self::Own(items) => items.len(),
        }
    }

    pub fn get(&self, at: usize) -> Option<Value<'a>> {
        match self {
            Self::Lent(items) => items.get(at).map(Value::from),
            Self::Own(items) => items.get(at).cloned(),
        }
    }
}

impl<'a> Table<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Lent(map) => map.len(),
            Self::Own(entries) => entries.len(),
        }
    }

    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        match self {
            Self::Lent(map) => map.get(key).map(Value::from),
            Self::Own(entries) => entries.iter().find(|(name, _)| name.as_str() == key).map(|(_, value)| value.clone()),
        }
    }

    pub fn keys(&self) -> Vec<Text<'a>> {
        match self {
            Self::Lent(map) => map.keys().map(|key| Text::Lent(key)).collect(),
            Self::Own(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
        }
    }
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(Text::Lent(text)),
            Json::Array(items) => Self::List(List::Lent(items)),
            Json::Object(map) => Self::Map(Table::Lent(map)),
        }
    }
}

impl Value<'_> {
    /// Gives the type with its article.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a whole number",
            Self::Double(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// Says how two values of types that have an order stand to each other; NaN to nothing.
    pub fn order(&self, other: &Self) -> Option<Option<Ordering>> {
        Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => int_to_double(*a, *b),
            (Self::Double(a), Self::Int(b)) => int_to_double(*b, *a).map(Ordering::reverse),
            (Self::Text(a), Self::Text(b)) => Some(a.as_str().cmp(b.as_str())),
            _ => return None,
        })
    }
}

/// Compares exactly: above 2^53 neighbours of whole numbers are the same double.
fn int_to_double(int: i64, double: f64) -> Option<Ordering> {
    const TOO_LARGE: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= TOO_LARGE {
        return Some(Ordering::Less);
    }
    if double < -TOO_LARGE {
        return Some(Ordering::Greater);
    }
    let whole = double.trunc();
    Some(int.cmp(&(whole as i64)).then_with(|| 0.0.partial_cmp(&(double - whole)).unwrap_or(Ordering::Equal)))
}

/// Gives a number of 64 bits as JSON, unless JSON cannot say it.
pub(super) fn number(value: f64) -> Option<Json> {
    Number::from_f64(value).map(Json::Number)
}

/// Gives the type of a JSON value with its article.
pub(super) const fn json_kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "a map",
    }
}
