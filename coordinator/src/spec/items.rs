//! The items of a fan-out, and what a child makes of its own.

use std::collections::{BTreeMap, HashSet};

use segue_proto::ids::ItemKey;
use serde_json::{Map, Value};

use super::{
    bind::resolve,
    model::{BoundTask, EnvValue, FanOut, Over, Work},
    template::{self, Child},
    value::text_of,
};

/// Most children of a fan-out.
pub const MOST: u64 = 1_000_000;
/// Most children of all fan-outs of a run.
pub const MOST_OF_RUN: u64 = 2_000_000;

/// The items of a fan-out by number, without those of a range or a matrix being made.
#[derive(Debug, Clone, Copy)]
pub struct Items<'a>(&'a Over);

/// Gives the items; nothing where they are not known yet.
#[must_use]
pub fn items_of(over: &Over) -> Option<Items<'_>> {
    matches!(over, Over::Items(_) | Over::Range { .. } | Over::Matrix(_)).then_some(Items(over))
}

impl Items<'_> {
    /// Counts them; a product beyond what a number holds counts as the largest.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self.0 {
            Over::Items(items) => items.len() as u64,
            Over::Range { from, to, step } => count(*from, *to, *step),
            Over::Matrix(lists) if lists.is_empty() => 0,
            Over::Matrix(lists) => {
                lists.iter().map(|(_, values)| values.len() as u64).fold(1, |all, more| all.saturating_mul(more))
            }
            Over::Param(_) | Over::Glob(_) | Over::RangeOf { .. } | Over::Output(_) => 0,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the item of a number, from 0.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<Value> {
        if index >= self.len() {
            return None;
        }
        match self.0 {
            Over::Items(items) => items.get(usize::try_from(index).ok()?).cloned(),
            Over::Range { from, step, .. } => {
                let value = i128::from(*from) + i128::from(*step) * i128::from(index);
                i64::try_from(value).ok().map(Value::from)
            }
            Over::Matrix(lists) => {
                let mut rest = index;
                let mut picked = Vec::with_capacity(lists.len());
                // The last list changes fastest.
                for (name, values) in lists.iter().rev() {
                    let count = values.len() as u64;
                    picked.push((name.clone(), values.get((rest % count) as usize)?.clone()));
                    rest /= count;
                }
                Some(Value::Object(picked.into_iter().rev().collect()))
            }
            Over::Param(_) | Over::Glob(_) | Over::RangeOf { .. } | Over::Output(_) => None,
        }
    }

    /// Iterates over them in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        (0..self.len()).map_while(|index| self.get(index))
    }
}

/// Counts the numbers of a range.
pub(super) fn count(from: i64, to: i64, step: i64) -> u64 {
    let span = i128::from(to) - i128::from(from);
    let step = i128::from(step);
    if step == 0 || span.signum() != step.signum() {
        return 0;
    }
    u64::try_from((span.abs() + step.abs() - 1) / step.abs()).unwrap_or(u64::MAX)
}

/// Gives the value at a path such as `a.b` or `list.0`.
pub(super) fn field<'v>(item: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(item, |value, name| match value {
        Value::Object(map) => map.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Gives the key of a child: what its template says, else the text of its item (of a path, its last part), the values of
/// its combination joined by `+`, or, for any other table or list, its number.
///
/// # Errors
/// What the template names and the item does not have.
pub fn child_key(fan_out: &FanOut, item: &Value, index: u32) -> Result<ItemKey, String> {
    let text = match (&fan_out.key, item) {
        (Some(template), _) => {
            let own = Own { item, key: None, index };
            template::fill_child(template, |child| own.text(child))?
        }
        (None, Value::Object(values)) if matches!(fan_out.over, Over::Matrix(_)) => {
            values.values().map(text_of).collect::<Vec<_>>().join("+")
        }
        (None, Value::Object(_) | Value::Array(_)) => index.to_string(),
        (None, plain) => text_of(plain),
    };
    let key = ItemKey::from_text(&text);
    // Of a path, people know the end. The digest of the whole keeps files of one name in two folders apart.
    Ok(match text.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() && key.as_str() != text => {
            let digest = &blake3::hash(text.as_bytes()).to_hex()[..8];
            let name: String = name.chars().filter(char::is_ascii).take(48).collect();
            ItemKey::from_text(&format!("{name}-{digest}"))
        }
        _ => key,
    })
}

/// Checks that every child of a fan-out whose items are known has a key of its own.
pub(super) fn check_keys(fan_out: &FanOut) -> Result<(), String> {
    let Some(items) = items_of(&fan_out.over) else { return Ok(()) };
    if fan_out.key.is_none() && matches!(fan_out.over, Over::Range { .. }) {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let key = child_key(fan_out, &item, u32::try_from(index).unwrap_or(u32::MAX))?;
        if seen.contains(&key) {
            return Err(format!("two children would have the same key, `{key}`"));
        }
        seen.insert(key);
    }
    Ok(())
}

/// What differs between a task and one of its children.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedChild {
    pub work: Work,
    pub params: Map<String, Value>,
    pub env: BTreeMap<String, EnvValue>,
    pub limit_key: Option<String>,
}

/// Fills an item into a bound task. A string that is one reference alone takes the type of its value. Relative paths
/// that an item brings are resolved against `working_dir`, where that is absolute.
///
/// # Errors
/// What a text names and the item does not have.
pub fn resolve_child(
    task: &BoundTask,
    working_dir: &str,
    item: &Value,
    key: &str,
    index: u32,
) -> Result<ResolvedChild, String> {
    let own = Own { item, key: Some(key), index };
    let fill = |text: &str| {
        template::fill_child(text, |child| own.text(child))
            .map_err(|why| format!("the child `{key}` of `{}`: {why}", task.name))
    };
    let work = match &task.work {
        Work::Command { argv } => Work::Command { argv: argv.iter().map(|text| fill(text)).collect::<Result<_, _>>()? },
        other => other.clone(),
    };
    let mut env = BTreeMap::new();
    for (name, value) in &task.env {
        let value = match value {
            EnvValue::Text(text) => EnvValue::Text(fill(text)?),
            EnvValue::Secret(reference) => EnvValue::Secret(reference.clone()),
        };
        env.insert(name.clone(), value);
    }
    let mut params = Map::new();
    for (name, value) in &task.params {
        let mut value = own.value(value, &fill)?;
        if let Value::String(path) = &value
            && task.path_params.contains(name)
        {
            value = Value::from(resolve(path, super::bind::base(working_dir)));
        }
        params.insert(name.clone(), value);
    }
    let limit_key = task.flow.limit.as_ref().map(|limit| fill(&limit.key)).transpose()?;
    Ok(ResolvedChild { work, params, env, limit_key })
}

/// Fills an item into a text.
///
/// # Errors
/// What the text names and the item does not have.
pub fn fill_item(text: &str, item: &Value, key: &str, index: u32) -> Result<String, String> {
    let own = Own { item, key: Some(key), index };
    template::fill_child(text, |child| own.text(child))
}

/// What one child is given.
#[derive(Clone, Copy)]
struct Own<'a> {
    item: &'a Value,
    /// Absent while the key itself is made.
    key: Option<&'a str>,
    index: u32,
}

impl Own<'_> {
    fn json(&self, child: Child<'_>) -> Result<Value, String> {
        Ok(match child {
            Child::Item("") => self.item.clone(),
            Child::Item(path) => field(self.item, path).cloned().ok_or_else(|| self.lacks(path))?,
            Child::Key => Value::from(self.key.ok_or("a key cannot hold ${key}")?),
            Child::Index => Value::from(self.index),
        })
    }

    fn text(&self, child: Child<'_>) -> Result<String, String> {
        self.json(child).map(|value| text_of(&value))
    }

    fn lacks(&self, path: &str) -> String {
        const SHOWN: usize = 80;
        let text = self.item.to_string();
        let short: String = text.chars().take(SHOWN).collect();
        let more = if short.len() < text.len() { "…" } else { "" };
        format!("its item has no {path}: {short}{more}")
    }

    /// Fills a value. Recursion is as deep as values of a pipeline nest: lists in tables and no further.
    fn value(&self, value: &Value, fill: &impl Fn(&str) -> Result<String, String>) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => match template::exact_child(text) {
                // Through `fill` first, for its words about what is missing.
                Some(child) => fill(text).and_then(|_| self.json(child))?,
                None => Value::from(fill(text)?),
            },
            Value::Array(items) => items.iter().map(|item| self.value(item, fill)).collect::<Result<_, _>>()?,
            other => other.clone(),
        })
    }
}
