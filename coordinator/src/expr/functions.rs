//! The functions of expressions.

use std::{collections::HashMap, rc::Rc};

use regex::{Regex, RegexBuilder};

use super::{
    ast::Function,
    value::{Text, Value},
};

/// Bytes of a compiled pattern.
const LARGEST_PATTERN: usize = 512 * 1024;
/// Patterns that an evaluation keeps.
const MOST_PATTERNS: usize = 16;

/// Compiles a regular expression; what it then takes is linear in the text.
///
/// # Errors
/// Why it is none, on one line.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let built =
        RegexBuilder::new(text).size_limit(LARGEST_PATTERN).dfa_size_limit(LARGEST_PATTERN).nest_limit(32).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

/// Compiled patterns of one evaluation.
#[derive(Default)]
pub(super) struct Patterns(HashMap<String, Rc<Regex>>);

impl Patterns {
    pub fn has(&self, text: &str) -> bool {
        self.0.contains_key(text)
    }

    pub fn get(&mut self, text: &str) -> Result<Rc<Regex>, String> {
        if let Some(known) = self.0.get(text) {
            return Ok(Rc::clone(known));
        }
        let made = Rc::new(pattern(text)?);
        if self.0.len() == MOST_PATTERNS {
            self.0.clear();
        }
        self.0.insert(text.to_owned(), Rc::clone(&made));
        Ok(made)
    }
}

/// Applies a function of one value.
///
/// # Errors
/// What it does not take.
pub(super) fn convert<'a>(function: Function, value: Value<'a>) -> Result<Value<'a>, String> {
    let refused = |value: &Value<'_>| format!("`{}` does not take {}", function.name(), value.kind());
    Ok(match (function, value) {
        (Function::Size, Value::Text(text)) => Value::Int(text.as_str().chars().count() as i64),
        (Function::Size, Value::List(items)) => Value::Int(items.len() as i64),
        (Function::Size, Value::Map(map)) => Value::Int(map.len() as i64),

        (Function::Int, Value::Int(value)) => Value::Int(value),
        (Function::Int, Value::Double(value)) => {
            // The next doubles beyond these bounds do not fit.
            if !(value > -9_223_372_036_854_775_809.0 && value < 9_223_372_036_854_775_808.0) {
                return Err(format!("{value} is no whole number of 64 bits"));
            }
            Value::Int(value as i64)
        }
        (Function::Int, Value::Text(text)) => {
            Value::Int(text.as_str().parse().map_err(|_| format!("{} is no whole number", quoted(text.as_str())))?)
        }
        (Function::Double, Value::Int(value)) => Value::Double(value as f64),
        (Function::Double, Value::Double(value)) => Value::Double(value),
        (Function::Double, Value::Text(text)) => {
            Value::Double(text.as_str().parse().map_err(|_| format!("{} is no number", quoted(text.as_str())))?)
        }
        (Function::Text, Value::Text(text)) => Value::Text(text),
        (Function::Text, Value::Int(value)) => own(&value.to_string()),
        (Function::Text, Value::Double(value)) => own(&value.to_string()),
        (Function::Text, Value::Bool(value)) => own(if value { "true" } else { "false" }),
        (Function::Bool, Value::Bool(value)) => Value::Bool(value),
        (Function::Bool, Value::Text(text)) => Value::Bool(match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => return Err(format!("{} is neither true nor false", quoted(other))),
        }),
        (_, value) => return Err(refused(&value)),
    })
}

/// Applies a function of two texts.
pub(super) fn on_texts(function: Function, text: &str, argument: &str) -> bool {
    match function {
        Function::StartsWith => text.starts_with(argument),
        Function::EndsWith => text.ends_with(argument),
        _ => text.contains(argument),
    }
}

pub(super) fn own<'a>(text: &str) -> Value<'a> {
    Value::Text(Text::Own(text.into()))
}

/// Quotes a short piece of a text for a message.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::from("`");
    for (n, c) in text.chars().enumerate() {
        if n == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('`');
    out
}
