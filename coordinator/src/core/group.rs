//! An expanded fan-out: its items, its children, and what has become of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use segue_proto::ids::ItemKey;
use serde_json::Value;

use super::{TaskState, run::count};
use crate::spec::{FanOut, Over};

/// Most children of one fan-out: more is a slip, and would fill the memory of the coordinator.
pub const MOST_CHILDREN: usize = 1_000_000;

/// Most children of all fan-outs of a run, for the same reason.
pub const MOST_CHILDREN_OF_RUN: usize = crate::spec::MOST_CHILDREN_OF_RUN as usize;

/// Says whether a run that has some children may get more of them.
pub fn room(children: usize, more: usize, most: usize) -> Result<(), String> {
    let all = children.saturating_add(more);
    if all > most {
        return Err(format!("with its {more} items the run would have {all} children, and at most {most} are allowed"));
    }
    Ok(())
}

/// The items of a fan-out, by ordinal. A child keeps its ordinal for as long as the run lives.
#[derive(Debug, Clone, PartialEq)]
pub enum Items {
    /// Kept as three numbers, however many they are.
    Range {
        from: i64,
        step: i64,
        count: u32,
    },
    List(Vec<(ItemKey, Value)>),
}

impl Items {
    /// Counts them.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Range { count, .. } => *count as usize,
            Self::List(list) => list.len(),
        }
    }

    /// Says whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the key and value of an item.
    #[must_use]
    pub fn get(&self, ordinal: u32) -> Option<(ItemKey, Value)> {
        match self {
            Self::Range { from, step, count } => {
                let number = i128::from(*from) + i128::from(*step) * i128::from(ordinal);
                let number = i64::try_from(number).ok().filter(|_| ordinal < *count)?;
                Some((ItemKey::from_text(&number.to_string()), Value::from(number)))
            }
            Self::List(list) => list.get(ordinal as usize).cloned(),
        }
    }

    /// Makes the items of a fan-out. `output` is the JSON that it reads, where it reads one.
    ///
    /// # Errors
    /// Says what is wrong with the items, for the author of the pipeline.
    pub fn of(fan_out: &FanOut, output: Option<&Value>) -> Result<Self, String> {
        let values: Vec<Value> = match &fan_out.over {
            Over::Range { from, to, step } if fan_out.key.is_none() => {
                let (span, wide) = (i128::from(*to) - i128::from(*from), i128::from(*step));
                if span.signum() * wide.signum() <= 0 {
                    return Ok(Self::Range { from: *from, step: 1, count: 0 });
                }
                let n = (span.abs() + wide.abs() - 1) / wide.abs();
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                too_many(n)?;
                return Ok(Self::Range { from: *from, step: *step, count: count(n) });
            }
            Over::Output(from) => match output {
                Some(Value::Array(values)) => values.clone(),
                Some(Value::Object(table)) => {
                    // A table gives one item for each name, which is its key.
                    too_many(table.len())?;
                    return unique(
                        table.iter().map(|(name, value)| Ok((ItemKey::from_text(name), value.clone()))).collect(),
                    );
                }
                Some(_) => {
                    return Err(format!("the output `{}` holds neither a JSON array nor an object", from.output));
                }
                None => return Err(format!("the output `{}` was not delivered with its task", from.output)),
            },
            over => {
                let Some(items) = crate::spec::items_of(over) else {
                    return Err("its items were not found at submission".to_owned());
                };
                too_many(usize::try_from(items.len()).unwrap_or(usize::MAX))?;
                items.iter().collect()
            }
        };
        too_many(values.len())?;
        unique(
            values
                .into_iter()
                .enumerate()
                .map(|(at, value)| Ok((crate::spec::child_key(fan_out, &value, count(at))?, value)))
                .collect(),
        )
    }
}

fn too_many(n: usize) -> Result<(), String> {
    if n > MOST_CHILDREN {
        return Err(format!("{n} items are more than the {MOST_CHILDREN} that one task can have"));
    }
    Ok(())
}

fn unique(keyed: Vec<Result<(ItemKey, Value), String>>) -> Result<Items, String> {
    let mut seen = BTreeSet::new();
    let mut list = Vec::with_capacity(keyed.len());
    for entry in keyed {
        let (key, value) = entry?;
        if !seen.insert(key.clone()) {
            return Err(format!("two items have the key `{key}`: name a unique field with `key`"));
        }
        list.push((key, value));
    }
    Ok(Items::List(list))
}

/// The children of a fan-out and their count by fate.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub items: Items,
    /// Index of each child, by ordinal.
    pub members: Vec<u32>,
    pub open: u32,
    /// Ended without success, neither skipped nor dropped.
    pub failed: u32,
    /// Of them, cancelled.
    pub cancelled: u32,
    /// Children that a rerun asked for alone, until the fan-out expands; empty: all of them.
    pub asked: BTreeSet<u32>,
    /// Children that take a place of `max_parallel`: in the queue, at a worker, or between two tries.
    pub(super) going: u32,
    /// Ready, and held back by `max_parallel`; some may have been cancelled since.
    pub(super) held: VecDeque<u32>,
    /// One failure too many has cancelled the other children.
    pub(super) stopped: bool,
}

impl Group {
    /// Makes a group whose children have not begun.
    #[must_use]
    pub fn new(items: Items, members: Vec<u32>) -> Self {
        Self {
            open: count(members.len()),
            items,
            members,
            failed: 0,
            cancelled: 0,
            asked: BTreeSet::new(),
            going: 0,
            held: VecDeque::new(),
            stopped: false,
        }
    }

    /// Counts anew, for a run whose ready children are not in the queue yet.
    pub(super) fn recount<'a>(&mut self, state: impl Fn(u32) -> Option<&'a TaskState>) {
        (self.open, self.failed, self.cancelled, self.going) = (0, 0, 0, 0);
        for state in self.members.iter().filter_map(|&member| state(member)) {
            self.open += u32::from(!state.is_terminal());
            self.failed += u32::from(state.is_failure());
            self.cancelled += u32::from(*state == TaskState::Cancelled);
            self.going += u32::from(matches!(state, TaskState::Live(_) | TaskState::Backoff { .. }));
        }
    }

    /// Finds a child by key.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<u32> {
        let ordinal = match &self.items {
            Items::Range { from, step, count } => {
                let offset = key.parse::<i64>().ok()?.checked_sub(*from)?;
                let ordinal = offset.checked_div(*step)?;
                (offset.checked_rem(*step)? == 0 && ordinal >= 0 && ordinal < i64::from(*count)).then_some(ordinal)?
                    as usize
            }
            Items::List(list) => list.iter().position(|(known, _)| known.as_str() == key)?,
        };
        self.members.get(ordinal).copied()
    }

    /// Takes new items: children keep their index by key, new ones get `next` and what follows, those whose item is gone
    /// stay in their place. Gives the indices of the children that the new items have, in their order.
    pub(super) fn replace(&mut self, items: Items, mut next: u32) -> Vec<u32> {
        if items == self.items {
            return self.members.clone();
        }
        let mut list: Vec<(ItemKey, Value)> =
            (0..count(self.items.len())).filter_map(|at| self.items.get(at)).collect();
        let mut known: BTreeMap<ItemKey, usize> =
            list.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect();
        let mut present = Vec::with_capacity(items.len());
        for (key, value) in (0..count(items.len())).filter_map(|at| items.get(at)) {
            let at = *known.entry(key.clone()).or_insert_with(|| {
                list.push((key, Value::Null));
                self.members.push(next);
                next += 1;
                list.len() - 1
            });
            list[at].1 = value;
            present.push(self.members[at]);
        }
        self.items = Items::List(list);
        present
    }
}
