//! What `[defaults]` and every task share: timeout, retry, resources, env. A task changes its defaults key by key.

use std::collections::BTreeMap;

use segue_proto::{failure::FailureClass, ids::PortName, resources::GpuPreference};

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Span, list, nearest},
    fields::Check,
    model::{Backoff, EnvValue, ResourceRequest, RetryPolicy},
    toml::{Node, Table, Value},
    units,
};

/// Keys that this module reads.
pub(super) const KEYS: [&str; 4] = ["timeout", "retry", "resources", "env"];

const MOST_CORES: f64 = 4_096.0;
const MOST_MEMORY: u64 = 1 << 50;
const MOST_GPUS: i64 = 1_024;
const MOST_TRIES: i64 = 100;

/// How a task is executed, whatever it executes.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
    pub resources: ResourceRequest,
    pub env: BTreeMap<String, EnvEntry>,
}

/// A variable, with its place for later checks.
#[derive(Debug, Clone)]
pub(super) struct EnvEntry {
    pub value: EnvValue,
    pub span: Span,
    /// Comes from `[defaults]`, where it is checked once for all tasks.
    pub inherited: bool,
}

impl Default for Policy {
    /// One core, no time limit, the usual retries.
    fn default() -> Self {
        let mut resources = ResourceRequest::default();
        resources.amounts.cpu_milli = 1_000;
        Self { timeout_ms: None, retry: RetryPolicy::default(), resources, env: BTreeMap::new() }
    }
}

impl Policy {
    /// Marks what tasks take over from here.
    pub fn inherit(&mut self) {
        self.env.values_mut().for_each(|entry| entry.inherited = true);
    }

    /// Gives about how many bytes every task copies.
    pub fn weight(&self) -> usize {
        const ENTRY: usize = 64;
        let text = |value: &EnvValue| match value {
            EnvValue::Text(text) | EnvValue::Secret(text) => text.len(),
        };
        let env = self.env.iter().map(|(name, entry)| ENTRY + name.len() + text(&entry.value));
        let labels = self.resources.labels.iter().map(|(name, value)| ENTRY + name.len() + value.len());
        let custom = self.resources.amounts.custom.keys().map(|name| ENTRY + name.len());
        env.chain(labels).chain(custom).sum()
    }

    /// Changes what a table says.
    pub fn read(&mut self, table: &Table, check: &mut Check<'_>) {
        if let Some(entry) = table.get("timeout")
            && let Some(ms) = duration(&entry.node, "`timeout`", check)
        {
            self.timeout_ms = Some(ms);
        }
        if let Some(entry) = table.get("retry") {
            retry(&entry.node, &mut self.retry, check);
        }
        if let Some(entry) = table.get("resources") {
            resources(&entry.node, &mut self.resources, check);
        }
        if let Some(entry) = table.get("env") {
            env(&entry.node, &mut self.env, check);
        }
    }
}

fn duration(node: &Node, what: &str, check: &mut Check<'_>) -> Option<u64> {
    if let Value::Int(number) = node.value {
        let hint = Some(format!("say of what: \"{number}s\" or \"{number}m\""));
        check.wrong_type(node, what, "a duration in quotes", hint);
        return None;
    }
    let text = check.string(node, what)?;
    units::duration_ms(text)
        .map_err(|why| {
            let hint = "write a number with a unit of d, h, m, s or ms, such as \"90s\" or \"1h30m\"";
            check.faults.error(
                Code::BadDuration,
                node.span,
                format!("{what} is {}, which {why}", quote(text)),
                hint.to_owned(),
            );
        })
        .ok()
}

fn retry(node: &Node, policy: &mut RetryPolicy, check: &mut Check<'_>) {
    if matches!(node.value, Value::Int(_)) {
        if let Some(attempts) = attempts(node, "`retry`", check) {
            policy.attempts = attempts;
        }
        return;
    }
    let known = ["attempts", "backoff", "initial", "max", "jitter", "on"];
    let Some(table) = check.table(node, "`retry`", &known) else { return };
    if let Some(entry) = table.get("attempts")
        && let Some(attempts) = attempts(&entry.node, "`attempts`", check)
    {
        policy.attempts = attempts;
    }
    if let Some(entry) = table.get("backoff")
        && let Some(word) = check.string(&entry.node, "`backoff`")
    {
        match word {
            "constant" => policy.backoff = Backoff::Constant,
            "exponential" => policy.backoff = Backoff::Exponential,
            _ => {
                let hint = "write \"constant\" or \"exponential\"".to_owned();
                let message = format!("`backoff` cannot be {}", quote(word));
                check.faults.error(Code::BadRetry, entry.node.span, message, hint);
            }
        }
    }
    let mut delay = |key: &str, into: &mut u64| {
        let Some(entry) = table.get(key) else { return };
        if let Some(ms) = duration(&entry.node, &format!("`{key}`"), check) {
            *into = ms;
        }
    };
    delay("initial", &mut policy.initial_ms);
    delay("max", &mut policy.max_ms);
    if policy.initial_ms > policy.max_ms
        && let Some(entry) = table.get("initial").or_else(|| table.get("max"))
    {
        let message = "`initial` is longer than `max`, the longest delay between two tries";
        let hint = format!("initial is {} ms, max is {} ms", policy.initial_ms, policy.max_ms);
        check.faults.error(Code::BadRetry, entry.node.span, message, hint);
    }
    if let Some(entry) = table.get("jitter")
        && let Some(share) = check.number(&entry.node, "`jitter`")
    {
        if (0.0..=1.0).contains(&share) {
            policy.jitter = share;
        } else {
            let hint = "it is a share of the delay, from 0 to 1".to_owned();
            check.faults.error(Code::BadRetry, entry.node.span, format!("`jitter` cannot be {share}"), hint);
        }
    }
    if let Some(entry) = table.get("on")
        && let Some(words) = check.strings(&entry.node, "`on`")
    {
        policy.on = classes(&words, &mut check.faults);
    }
}

fn attempts(node: &Node, what: &str, check: &mut Check<'_>) -> Option<u32> {
    let number = check.int(node, what)?;
    if (1..=MOST_TRIES).contains(&number) {
        return u32::try_from(number).ok();
    }
    let hint = format!("it counts the first try too: from 1 to {MOST_TRIES}");
    check.faults.error(Code::BadRetry, node.span, format!("{what} cannot be {number}"), hint);
    None
}

/// Gives the classes in the order of the wire, each once.
fn classes(words: &[(&str, Span)], faults: &mut Faults) -> Vec<FailureClass> {
    let names = || FailureClass::ALL.iter().map(|class| class.name());
    for (word, span) in words {
        if !names().any(|name| name == *word) {
            let hint = faults.did_you_mean(word, names()).unwrap_or_else(|| format!("classes: {}", list(names())));
            faults.error(Code::BadRetry, *span, format!("{} is not a class of failure", quote(word)), hint);
        }
    }
    FailureClass::ALL.into_iter().filter(|class| words.iter().any(|(word, _)| *word == class.name())).collect()
}

fn resources(node: &Node, request: &mut ResourceRequest, check: &mut Check<'_>) {
    let Some(table) = check.open_table(node, "`resources`") else { return };
    for entry in &table.entries {
        let node = &entry.node;
        match entry.key.as_str() {
            "cpu" => {
                let Some(cores) = check.number(node, "`cpu`") else { continue };
                let milli = (cores * 1_000.0).round();
                if milli >= 1.0 && cores <= MOST_CORES {
                    request.amounts.cpu_milli = milli as u32;
                } else {
                    let hint = format!("cores, such as 0.5 or 2, at most {MOST_CORES}");
                    impossible(node, format!("no worker can give {cores} cpu"), hint, check);
                }
            }
            "memory" => {
                if let Some(bytes) = memory(node, check) {
                    request.amounts.memory_bytes = bytes;
                }
            }
            "gpu" => gpu(node, request, check),
            "labels" => labels(node, request, check),
            name => {
                if let Some(amount) = custom(name, entry.key_span, node, check) {
                    request.amounts.custom.insert(name.to_owned(), amount);
                }
            }
        }
    }
}

fn impossible(node: &Node, message: String, hint: String, check: &mut Check<'_>) {
    check.faults.error(Code::ImpossibleResource, node.span, message, hint);
}

fn memory(node: &Node, check: &mut Check<'_>) -> Option<u64> {
    if matches!(node.value, Value::Int(_) | Value::Float(_)) {
        let hint = Some("write \"512MiB\" or \"2GiB\"".to_owned());
        check.wrong_type(node, "`memory`", "a size with its unit, in quotes", hint);
        return None;
    }
    let text = check.string(node, "`memory`")?;
    match units::memory_bytes(text) {
        Ok(bytes) if (1..=MOST_MEMORY).contains(&bytes) => Some(bytes),
        Ok(_) => {
            let hint = "more than 0 and at most 1024TiB".to_owned();
            impossible(node, format!("no worker can give {} of memory", quote(text)), hint, check);
            None
        }
        Err(why) => {
            let hint = "write a number with a unit of KiB, MiB, GiB, TiB (or kB, MB, GB, TB), such as \"2GiB\"";
            check.faults.error(
                Code::BadMemory,
                node.span,
                format!("`memory` is {}, which {why}", quote(text)),
                hint.to_owned(),
            );
            None
        }
    }
}

fn gpu(node: &Node, request: &mut ResourceRequest, check: &mut Check<'_>) {
    match &node.value {
        Value::Text(word) if word == "prefer" => {
            request.gpu = GpuPreference::Prefer;
            request.amounts.gpu_milli = 0;
        }
        Value::Text(word) => {
            let hint = "a number of GPUs, or \"prefer\" for a GPU where there is one".to_owned();
            impossible(node, format!("`gpu` cannot be {}", quote(word)), hint, check);
        }
        Value::Int(count) if (0..=MOST_GPUS).contains(count) => {
            request.gpu = if *count == 0 { GpuPreference::None } else { GpuPreference::Require };
            request.amounts.gpu_milli = *count as u32 * 1_000;
        }
        Value::Int(count) => {
            let hint = format!("from 0 to {MOST_GPUS}");
            impossible(node, format!("no worker can give {count} GPUs"), hint, check);
        }
        _ => check.wrong_type(node, "`gpu`", "a whole number or \"prefer\"", None),
    }
}

fn labels(node: &Node, request: &mut ResourceRequest, check: &mut Check<'_>) {
    let Some(table) = check.open_table(node, "`labels`") else { return };
    for entry in &table.entries {
        let what = format!("the label {}", quote(&entry.key));
        if let Some(value) = check.string(&entry.node, &what) {
            request.labels.insert(entry.key.clone(), value.to_owned());
        }
    }
}

/// Reads a resource that only this site knows. A name one letter away from a built-in one is a slip, not a resource.
fn custom(name: &str, key: Span, node: &Node, check: &mut Check<'_>) -> Option<u64> {
    let built_in = nearest(name, ["cpu", "memory", "gpu", "labels"]);
    if built_in.is_some() || name.parse::<PortName>().is_err() {
        let hint = built_in.map_or_else(
            || "resources of your own are named with a-z, 0-9, _ and -".to_owned(),
            |near| format!("did you mean {}?", quote(near)),
        );
        check.faults.error(Code::UnknownKey, key, format!("`resources` has no key {}", quote(name)), hint);
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

fn env(node: &Node, variables: &mut BTreeMap<String, EnvEntry>, check: &mut Check<'_>) {
    let Some(table) = check.open_table(node, "`env`") else { return };
    for entry in &table.entries {
        let name = entry.key.as_str();
        let formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !formed || name.starts_with("SEGUE_") {
            let hint = "letters, digits and _; names that begin with SEGUE_ are given by Segue".to_owned();
            let message = format!("{} cannot name an environment variable", quote(name));
            check.faults.error(Code::BadName, entry.key_span, message, hint);
            continue;
        }
        if let Some(value) = env_value(name, &entry.node, check) {
            variables.insert(name.to_owned(), EnvEntry { value, span: entry.node.span, inherited: false });
        }
    }
}

fn env_value(name: &str, node: &Node, check: &mut Check<'_>) -> Option<EnvValue> {
    let what = quote(name);
    if let Value::Table(_) = node.value {
        let table = check.table(node, &what, &["secret"])?;
        let Some(entry) = table.get("secret") else {
            // Any other key is reported already.
            if table.entries.is_empty() {
                let hint = "{ secret = \"env:NAME\" }".to_owned();
                check.faults.error(Code::MissingKey, node.span, format!("{what} names no secret"), hint);
            }
            return None;
        };
        let reference = check.string(&entry.node, "`secret`")?;
        let variable = reference.strip_prefix("env:").unwrap_or_default();
        if variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            return Some(EnvValue::Secret(reference.to_owned()));
        }
        // The text is not repeated: it may be the secret itself.
        let hint = "name a variable of the worker's environment: { secret = \"env:NAME\" }".to_owned();
        check.faults.error(Code::BadSecret, entry.node.span, "this is not a reference to a secret", hint);
        return None;
    }
    let text = check.string(node, &what)?;
    if text.contains('\0') {
        check.faults.error(Code::BadValue, node.span, format!("{what} holds a NUL character"), None);
        return None;
    }
    Some(EnvValue::Text(text.to_owned()))
}
