//! Conditions: a strict subset of the Common Expression Language (<https://cel.dev>), without clock, input or output.
//!
//! Taken from the language: literals, lists and maps, fields and indices, `in`, comparisons, arithmetic, `&&`, `||`, `!`,
//! `? :`, `has()`, `size()`, `startsWith`, `endsWith`, `contains`, `matches`, conversions (`int`, `double`, `string`,
//! `bool`) and the macros `all`, `exists`, `exists_one`, `filter` and `map`. Left out: unsigned numbers, bytes, times,
//! messages and types as values. One thing differs: a whole number and a double may be added, because JSON does not say
//! which of the two `3` is.
//!
//! Own code and not a crate, because expressions come from strangers and are evaluated by the coordinator itself: `cel`
//! 0.15 overflows the stack on 4 KiB of `a.b.b.b…`, cannot be stopped inside nested macros over long lists, and keeps no
//! interface for longer than a release.

mod ast;
mod eval;
mod functions;
mod lex;
mod parse;
mod references;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::{Map, Value};

pub use references::{Part, References, StateTest, TaskUse, Use};

/// Longest expression, in bytes.
pub const LONGEST: usize = 4 * 1024;

/// A parsed expression.
#[derive(Debug, Clone)]
pub struct Expr {
    text: String,
    ast: ast::Ast,
}

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
    /// Byte of the text at which the fault begins.
    pub offset: usize,
    /// Bytes of the fault; may be 0 at the end of the text.
    pub length: usize,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    pub message: String,
    /// Byte of the expression at which the fault lies.
    pub offset: usize,
}

/// What an expression can see.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Parameters of the run by name.
    pub params: &'a Map<String, Value>,
    /// By name: `{"state": "succeeded", "outputs": {"report": …}, "children": {"eu": "failed"}}`.
    pub tasks: &'a Map<String, Value>,
    /// Of a child of a fan-out.
    pub item: Option<&'a Value>,
    pub key: Option<&'a str>,
    pub index: Option<u32>,
    /// `{"id": …, "state": …}`; the state is for `finally` alone.
    pub run: &'a Map<String, Value>,
}

impl Expr {
    /// Parses a text.
    ///
    /// # Errors
    /// The first fault, at its place.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        Ok(Self { ast: parse::parse(text)?, text: text.to_owned() })
    }

    /// Gives the text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Gives what the expression reads.
    #[must_use]
    pub fn references(&self) -> References {
        references::of(&self.ast)
    }

    /// Gives the type of the value with its article, where that is sure without evaluating, such as "text".
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        self.ast.kind()
    }

    /// Evaluates the expression. The work is bounded, whatever the expression and the scope are.
    ///
    /// # Errors
    /// What is missing or of the wrong type, and where.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Value, EvalError> {
        eval::eval(&self.ast, &self.text, scope)
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// As [`Expr::eval`], and if the value is neither true nor false.
    pub fn eval_bool(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        match self.eval(scope)? {
            Value::Bool(value) => Ok(value),
            other => {
                let message = format!("the condition gives {}, neither true nor false", value::json_kind(&other));
                Err(EvalError { message, offset: 0 })
            }
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ExprError {
    fn new(message: impl Into<String>, span: ast::Span) -> Self {
        Self { message: message.into(), hint: None, offset: span.start, length: span.end.saturating_sub(span.start) }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
