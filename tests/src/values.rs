//! Comparison of figures with what they must be.

use serde_json::Value;

/// Gives the number at a place such as `describe.Quantity.mean` or `candidates.0.k`.
///
/// # Panics
/// If there is none.
#[must_use]
#[track_caller]
pub fn number(value: &Value, path: &str) -> f64 {
    at(value, path).as_f64().unwrap_or_else(|| panic!("no number at `{path}` in {value}"))
}

/// Gives the text at a place.
///
/// # Panics
/// If there is none.
#[must_use]
#[track_caller]
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_else(|| panic!("no text at `{path}` in {value}"))
}

/// Gives the list at a place.
///
/// # Panics
/// If there is none.
#[must_use]
#[track_caller]
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().unwrap_or_else(|| panic!("no list at `{path}` in {value}"))
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    let pointer: String = path.split('.').filter(|part| !part.is_empty()).map(|part| format!("/{part}")).collect();
    value.pointer(&pointer).unwrap_or(&Value::Null)
}

/// Checks that two numbers are equal up to a share of the expected one.
///
/// # Panics
/// If they are not.
#[track_caller]
pub fn relative(what: &str, actual: f64, expected: f64, share: f64) {
    let off = (actual - expected).abs() / expected.abs();
    assert!(off <= share, "{what} is {actual}, expected {expected} within a share of {share}, off by {off:e}");
}

/// Checks that two numbers are equal up to an amount.
///
/// # Panics
/// If they are not.
#[track_caller]
pub fn absolute(what: &str, actual: f64, expected: f64, amount: f64) {
    let off = (actual - expected).abs();
    assert!(off <= amount, "{what} is {actual}, expected {expected} within {amount}, off by {off:e}");
}

/// Checks that a number is at most another one.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn at_most(what: &str, actual: f64, limit: f64) {
    assert!(actual <= limit, "{what} is {actual}, must be at most {limit}");
}

/// Checks that a number is at least another one.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn at_least(what: &str, actual: f64, limit: f64) {
    assert!(actual >= limit, "{what} is {actual}, must be at least {limit}");
}
