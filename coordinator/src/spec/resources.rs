//! `resources`: what a task takes from a worker.

use std::collections::BTreeMap;

use segue_proto::{
    ids::PortName,
    resources::{GpuPreference, Resources, WHOLE_GPU},
};

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Span, list, nearest},
    fields::Check,
    keys::{self, MOST_CORES, MOST_GPUS},
    model::ResourceRequest,
    toml::{Entry, Node, Value},
    units,
};

const MOST_MEMORY: u64 = 1 << 50;
const MOST_ALTERNATIVES: usize = 16;
/// Memory of one GPU; far beyond any that is made.
const MOST_GPU_MEMORY: u64 = 1 << 44;

/// What a table says of amounts: the rest comes from the table around it.
#[derive(Debug, Clone, Default)]
pub(super) struct Amounts {
    cpu_milli: Option<u32>,
    memory_bytes: Option<u64>,
    /// Thousandths, and memory on each.
    gpu: Option<(u32, u64)>,
    custom: BTreeMap<String, u64>,
}

impl Amounts {
    /// Changes what is said.
    pub fn apply(&self, to: &mut Resources) {
        if let Some(cpu_milli) = self.cpu_milli {
            to.cpu_milli = cpu_milli;
        }
        if let Some(bytes) = self.memory_bytes {
            to.memory_bytes = bytes;
        }
        if let Some((milli, memory)) = self.gpu {
            to.gpu_milli = milli;
            to.gpu_memory_bytes = memory;
        }
        to.custom.extend(self.custom.iter().map(|(name, amount)| (name.clone(), *amount)));
    }

    /// Gives about how many bytes a copy takes.
    pub fn weight(&self) -> usize {
        self.custom.keys().map(|name| 64 + name.len()).sum::<usize>() + 64
    }
}

/// Makes the request of a task: the first alternative is what it asks for, the others are what it takes instead.
pub(super) fn complete(base: &ResourceRequest, any_of: &[Amounts]) -> ResourceRequest {
    let mut request = base.clone();
    let Some((first, rest)) = any_of.split_first() else { return request };
    request.alternatives = rest
        .iter()
        .map(|alternative| {
            let mut amounts = base.amounts.clone();
            alternative.apply(&mut amounts);
            amounts
        })
        .collect();
    first.apply(&mut request.amounts);
    if let Some((milli, _)) = first.gpu {
        request.gpu = preference(milli);
    }
    request
}

const fn preference(milli: u32) -> GpuPreference {
    if milli == 0 { GpuPreference::None } else { GpuPreference::Require }
}

/// Changes what a table says.
pub(super) fn read(node: &Node, request: &mut ResourceRequest, any_of: &mut Vec<Amounts>, check: &mut Check<'_>) {
    let Some(table) = check.open_table(node, "`resources`") else { return };
    let mut said = Amounts::default();
    for entry in &table.entries {
        let node = &entry.node;
        match entry.key.as_str() {
            "gpu" if matches!(&node.value, Value::Text(word) if word == "prefer") => {
                request.gpu = GpuPreference::Prefer;
                request.amounts.gpu_milli = 0;
                request.amounts.gpu_memory_bytes = 0;
            }
            "labels" => labels(node, request, check),
            "any_of" => *any_of = alternatives(node, check),
            _ => amount(entry, &mut said, &keys::RESOURCES.words().collect::<Vec<_>>(), check),
        }
    }
    if let Some((milli, _)) = said.gpu {
        request.gpu = preference(milli);
    }
    said.apply(&mut request.amounts);
}

fn alternatives(node: &Node, check: &mut Check<'_>) -> Vec<Amounts> {
    let Value::List(items) = &node.value else {
        let hint = Some("write any_of = [{ gpu = 1 }, { cpu = 8 }]".to_owned());
        check.wrong_type(node, "`any_of`", "a list of tables", hint);
        return Vec::new();
    };
    if !items.is_empty() && !(2..=MOST_ALTERNATIVES).contains(&items.len()) {
        let hint = format!("it lists what may be taken instead: 2 to {MOST_ALTERNATIVES} tables");
        let message = format!("`any_of` has {} alternative(s)", items.len());
        check.faults.error(Code::ImpossibleResource, node.span, message, hint);
        return Vec::new();
    }
    let known = keys::ALTERNATIVE.words().collect::<Vec<_>>();
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let Some(table) = check.open_table(item, "an alternative of `any_of`") else { continue };
        let mut said = Amounts::default();
        for entry in &table.entries {
            let node = &entry.node;
            match entry.key.as_str() {
                "labels" | "any_of" => {
                    let message = format!("an alternative has no {}", quote(&entry.key));
                    let hint = "write it beside `any_of`: it holds for all of them".to_owned();
                    check.faults.error(Code::UnknownKey, entry.key_span, message, hint);
                }
                "gpu" if matches!(&node.value, Value::Text(word) if word == "prefer") => {
                    let hint = "the order of `any_of` is the preference: write gpu = 1 in the first".to_owned();
                    impossible(node, "an alternative cannot prefer a GPU".to_owned(), hint, check);
                }
                _ => amount(entry, &mut said, &known, check),
            }
        }
        all.push(said);
    }
    all
}

/// Reads one amount.
fn amount(entry: &Entry, said: &mut Amounts, known: &[&str], check: &mut Check<'_>) {
    let node = &entry.node;
    match entry.key.as_str() {
        "cpu" => {
            let Some(cores) = check.number(node, "`cpu`") else { return };
            let milli = (cores * 1_000.0).round();
            if milli >= 1.0 && cores <= MOST_CORES {
                said.cpu_milli = Some(milli as u32);
            } else {
                let hint = format!("cores, such as 0.5 or 2, at most {MOST_CORES}");
                impossible(node, format!("no worker can give {cores} cpu"), hint, check);
            }
        }
        "memory" => said.memory_bytes = memory(node, "`memory`", MOST_MEMORY, check).or(said.memory_bytes),
        "gpu" => said.gpu = gpu(node, check).or(said.gpu),
        name => {
            if let Some(amount) = custom(name, entry.key_span, node, known, check) {
                said.custom.insert(name.to_owned(), amount);
            }
        }
    }
}

fn impossible(node: &Node, message: String, hint: String, check: &mut Check<'_>) {
    check.faults.error(Code::ImpossibleResource, node.span, message, hint);
}

fn memory(node: &Node, what: &str, most: u64, check: &mut Check<'_>) -> Option<u64> {
    if matches!(node.value, Value::Int(_) | Value::Float(_)) {
        let hint = Some("write \"512MiB\" or \"2GiB\"".to_owned());
        check.wrong_type(node, what, "a size with its unit, in quotes", hint);
        return None;
    }
    let text = check.string(node, what)?;
    match units::memory_bytes(text) {
        Ok(bytes) if (1..=most).contains(&bytes) => Some(bytes),
        Ok(_) => {
            let hint = format!("more than 0 and at most {}TiB", most >> 40);
            impossible(node, format!("no worker can give {} of memory", quote(text)), hint, check);
            None
        }
        Err(why) => {
            let hint = "write a number with a unit of KiB, MiB, GiB, TiB (or kB, MB, GB, TB), such as \"2GiB\"";
            let message = format!("{what} is {}, which {why}", quote(text));
            check.faults.error(Code::BadMemory, node.span, message, hint.to_owned());
            None
        }
    }
}

/// Gives thousandths of a GPU, and the memory that each must have.
fn gpu(node: &Node, check: &mut Check<'_>) -> Option<(u32, u64)> {
    match &node.value {
        Value::Table(_) => gpu_table(node, check),
        Value::Text(word) => {
            let hint = "a number of GPUs, a share of one, or \"prefer\" for a GPU where there is one".to_owned();
            impossible(node, format!("`gpu` cannot be {}", quote(word)), hint, check);
            None
        }
        Value::Int(count) if (0..=MOST_GPUS).contains(count) => Some((*count as u32 * WHOLE_GPU, 0)),
        Value::Int(count) => {
            impossible(node, format!("no worker can give {count} GPUs"), format!("from 0 to {MOST_GPUS}"), check);
            None
        }
        Value::Float(number) if number.fract() == 0.0 && (0.0..=MOST_GPUS as f64).contains(number) => {
            Some((*number as u32 * WHOLE_GPU, 0))
        }
        Value::Float(number) => share(node, *number, check).map(|milli| (milli, 0)),
        _ => {
            check.wrong_type(node, "`gpu`", "a number, a table, or \"prefer\"", None);
            None
        }
    }
}

/// Reads how much memory an attempt may take.
pub(super) fn memory_limit(node: &Node, check: &mut Check<'_>) -> Option<u64> {
    memory(node, "`memory_limit`", MOST_MEMORY, check)
}

fn gpu_table(node: &Node, check: &mut Check<'_>) -> Option<(u32, u64)> {
    let table = check.table(node, "`gpu`", &keys::GPU)?;
    let memory = match table.get("memory") {
        Some(entry) => memory(&entry.node, "`memory` of `gpu`", MOST_GPU_MEMORY, check),
        None => Some(0),
    };
    let milli = match (table.get("count"), table.get("share")) {
        (Some(_), Some(entry)) => {
            let hint = "whole GPUs are counted, and a share is of one".to_owned();
            impossible(&entry.node, "`gpu` has both `count` and `share`".to_owned(), hint, check);
            return None;
        }
        (Some(entry), None) => {
            check.within(&entry.node, "`count` of `gpu`", Code::ImpossibleResource, 1, MOST_GPUS)? as u32 * WHOLE_GPU
        }
        (None, Some(entry)) => {
            let number = check.number(&entry.node, "`share` of `gpu`")?;
            if number == 1.0 { WHOLE_GPU } else { share(&entry.node, number, check)? }
        }
        (None, None) => WHOLE_GPU,
    };
    Some((milli, memory?))
}

fn share(node: &Node, number: f64, check: &mut Check<'_>) -> Option<u32> {
    let milli = (number * f64::from(WHOLE_GPU)).round();
    if number.is_finite() && number < 1.0 && milli >= 1.0 {
        return Some(milli as u32);
    }
    let hint = if number > 1.0 && number.is_finite() {
        format!(
            "a share is of one GPU, from 0.001 to 1; more than one are whole: {} or {}",
            number.floor(),
            number.ceil()
        )
    } else {
        "a share of one GPU, from 0.001 to 1".to_owned()
    };
    impossible(node, format!("no worker can give {number} GPUs"), hint, check);
    None
}

fn labels(node: &Node, request: &mut ResourceRequest, check: &mut Check<'_>) {
    let Some(table) = check.open_table(node, "`labels`") else { return };
    for entry in &table.entries {
        let what = format!("the label {}", quote(&entry.key));
        let Some(value) = check.string(&entry.node, &what) else { continue };
        let name = entry.key.clone();
        // A task that says something of a label takes back what the defaults said.
        request.labels.remove(&name);
        request.not_labels.remove(&name);
        match value.strip_prefix('!') {
            Some(value) => request.not_labels.insert(name, value.to_owned()),
            None => request.labels.insert(name, value.to_owned()),
        };
    }
}

/// Reads a resource that only this site knows. A name one letter away from a built-in one is a slip, not a resource.
fn custom(name: &str, key: Span, node: &Node, known: &[&str], check: &mut Check<'_>) -> Option<u64> {
    let built_in = nearest(name, known.iter().copied());
    if built_in.is_some() || name.parse::<PortName>().is_err() {
        let hint = built_in.map_or_else(
            || "resources of your own are named with a-z, 0-9, _ and -".to_owned(),
            |near| format!("did you mean {}?", quote(near)),
        );
        check.faults.error(Code::UnknownKey, key, format!("`resources` has no key {}", quote(name)), hint);
        return None;
    }
    if matches!(node.value, Value::Table(_)) {
        let message = format!("`resources` has no table {}", quote(name));
        let hint = format!("known here: {}", list(known.iter().copied()));
        check.faults.error(Code::UnknownKey, key, message, hint);
        return None;
    }
    let what = format!("the amount of {}", quote(name));
    let amount = check.int(node, &what)?;
    if amount >= 1 {
        return u64::try_from(amount).ok();
    }
    impossible(node, format!("{what} cannot be {amount}"), "at least 1".to_owned(), check);
    None
}
