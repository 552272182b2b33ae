//! Items of a fan-out by ordinal.
use super::model::{BoundTask, EnvValue, FanOut, Over, Work};
use segue_proto::ids::ItemKey;
use serde_json::Value;
use std::collections::BTreeMap;

/// Counts the items.
#[must_use]
pub fn len(over: &Over) -> usize {
    match over {
        Over::Items(items) => items.len(),
        Over::Range { from, to, step } => {
            if *step == 0 {
                0
            } else {
                usize::try_from((to - from + step - 1) / step).unwrap_or(0)
            }
        }
        Over::Matrix(axes) => axes.iter().map(|(_, values)| values.len()).product(),
        _ => 0,
    }
}
/// Gives an item.
#[must_use]
pub fn get(over: &Over, at: usize) -> Option<Value> {
    match over {
        Over::Items(items) => items.get(at).cloned(),
        Over::Range { from, step, .. } => Some(Value::from(from + step * at as i64)),
        Over::Matrix(axes) => {
            let mut rest = at;
            let mut out = serde_json::Map::new();
            for (name, values) in axes.iter().rev() {
                out.insert(name.clone(), values.get(rest % values.len())?.clone());
                rest /= values.len();
            }
            Some(Value::Object(out))
        }
        _ => None,
    }
}
pub fn child_key(_fan_out: &FanOut, item: &Value, index: u32) -> Result<ItemKey, String> {
    Ok(match item {
        Value::String(text) => ItemKey::from_text(text),
        Value::Number(n) => ItemKey::from_text(&n.to_string()),
        Value::Bool(b) => ItemKey::from_text(&b.to_string()),
        _ => ItemKey::from_text(&index.to_string()),
    })
}
pub fn fill_item(text: &str, item: &Value, key: &str, index: u32) -> Result<String, String> {
    let item = match item {
        Value::String(s) => s.clone(),
        v => v.to_string(),
    };
    Ok(text.replace("${item}", &item).replace("${key}", key).replace("${index}", &index.to_string()))
}
#[derive(Debug)]
pub struct ResolvedChild {
    pub work: Work,
    pub params: serde_json::Map<String, Value>,
    pub env: BTreeMap<String, EnvValue>,
    pub limit_key: Option<String>,
}
pub fn resolve_child(task: &BoundTask, item: &Value, key: &str, index: u32) -> Result<ResolvedChild, String> {
    let fill = |t: &str| fill_item(t, item, key, index).unwrap_or_default();
    Ok(ResolvedChild {
        work: match &task.work {
            Work::Command { argv } => Work::Command { argv: argv.iter().map(|a| fill(a)).collect() },
            w => w.clone(),
        },
        params: task
            .params
            .iter()
            .map(|(n, v)| {
                (
                    n.clone(),
                    match v {
                        Value::String(s) if s == "${item}" => item.clone(),
                        Value::String(s) => Value::from(fill(s)),
                        v => v.clone(),
                    },
                )
            })
            .collect(),
        env: task.env.clone(),
        limit_key: None,
    })
}
