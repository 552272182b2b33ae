//! Conditions: the text, then a line `---`, then what it sees as JSON. Without that line it sees a scope of everything.

use std::sync::LazyLock;

use segue_coordinator::expr::{Expr, Scope};
use serde_json::{Map, Value, json};

/// What is seen where the input does not say.
static EVERYTHING: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "params": {"mode": "full", "rounds": 3, "share": 0.5, "regions": ["eu", "us"], "on": true, "nothing": null,
                   "large": i64::MAX, "small": i64::MIN, "huge": 1e308, "deep": [[[[[1]]]]]},
        "tasks": {
            "check": {"state": "succeeded", "outputs": {"report": {"rows": 12, "auc": 1, "tags": ["a", "b"]}}},
            "my-task": {"state": "failed", "outputs": {}},
            "score": {"state": "failed", "outputs": {}, "children": {"eu": "failed", "us": "succeeded"}},
        },
        "item": {"id": 7, "region": "eu"},
        "key": "eu",
        "index": 3,
        "run": {"id": "run_1", "state": "failed"},
    })
});

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let Ok(input) = std::str::from_utf8(bytes) else { return };
    let (text, scope) = input.split_once("\n---\n").unwrap_or((input, ""));
    let expr = match Expr::parse(text) {
        Ok(expr) => expr,
        Err(fault) => {
            assert!(fault.offset <= text.len() && text.is_char_boundary(fault.offset), "{fault:?} of {text:?}");
            let end = fault.offset.saturating_add(fault.length);
            assert!(end <= text.len() && text.is_char_boundary(end), "{fault:?} of {text:?}");
            return;
        }
    };
    assert_eq!(expr.text(), text);
    let _ = (expr.references(), expr.kind());
    let told = if scope.is_empty() { None } else { serde_json::from_str::<Value>(scope).ok() };
    let seen = told.as_ref().unwrap_or(&EVERYTHING);
    let (empty, map) = (Map::new(), |name: &str| seen.get(name).and_then(Value::as_object));
    let scope = Scope {
        params: map("params").unwrap_or(&empty),
        tasks: map("tasks").unwrap_or(&empty),
        item: seen.get("item"),
        key: seen.get("key").and_then(Value::as_str),
        index: seen.get("index").and_then(Value::as_u64).and_then(|index| u32::try_from(index).ok()),
        run: map("run").unwrap_or(&empty),
    };
    let value = expr.eval(&scope);
    if let Err(fault) = &value {
        assert!(fault.offset <= text.len() && text.is_char_boundary(fault.offset), "{fault:?} of {text:?}");
    }
    assert_eq!(expr.eval(&scope), value, "the same text in the same scope has one value");
    // Of a choice the first branch is taken for both.
    if let (Ok(value), Some(kind), false) = (&value, expr.kind(), text.contains('?')) {
        assert!(fits(kind, value), "{text:?} is said to be {kind} and gives {value}");
    }
    let _ = expr.eval_bool(&scope);
}

/// Says whether a value can be of the kind that was known without it.
fn fits(kind: &str, value: &Value) -> bool {
    match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "a boolean",
        Value::Number(_) => matches!(kind, "a number" | "a sum"),
        Value::String(_) => matches!(kind, "text" | "a sum"),
        Value::Array(_) => matches!(kind, "a list" | "a sum"),
        Value::Object(_) => kind == "a map",
    }
}
