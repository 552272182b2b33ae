//! What `[defaults]` and every task share: times, retry, resources, env, pools. A task changes its defaults key by key.

use std::collections::BTreeMap;

use segue_proto::ids::PortName;

use super::{
    code::Code,
    diagnostic::quote,
    faults::Span,
    fields::Check,
    keys,
    model::{EnvValue, ResourceRequest, RetryPolicy},
    resources::{self, Amounts},
    retry::{self, Partial},
    toml::{Node, Table, Value},
    units,
};

/// Longest time that a worker waits before it kills.
const LONGEST_GRACE_MS: u64 = 3_600_000;
/// Most pools that a task can hold slots of.
const MOST_POOLS: usize = 16;

/// How a task is executed, whatever it executes.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub timeout_ms: Option<u64>,
    pub queue_timeout_ms: Option<u64>,
    pub heartbeat_timeout_ms: Option<u64>,
    pub grace_ms: Option<u32>,
    pub memory_limit_bytes: Option<u64>,
    retry: RetryPolicy,
    rules: Vec<Partial>,
    resources: ResourceRequest,
    any_of: Vec<Amounts>,
    pub env: BTreeMap<String, EnvEntry>,
    pub pools: BTreeMap<String, u32>,
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
        Self {
            timeout_ms: None,
            queue_timeout_ms: None,
            heartbeat_timeout_ms: None,
            grace_ms: None,
            memory_limit_bytes: None,
            retry: RetryPolicy::default(),
            rules: Vec::new(),
            resources,
            any_of: Vec::new(),
            env: BTreeMap::new(),
            pools: BTreeMap::new(),
        }
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
        let labels = self.resources.labels.iter().chain(&self.resources.not_labels);
        let labels = labels.map(|(name, value)| ENTRY + name.len() + value.len());
        let custom = self.resources.amounts.custom.keys().map(|name| ENTRY + name.len());
        let alternatives = self.any_of.iter().map(Amounts::weight);
        let rules = self.rules.iter().map(|rule| ENTRY + rule.on.len() + 4 * rule.exit_codes.len());
        let pools = self.pools.keys().map(|name| ENTRY + name.len());
        env.chain(labels).chain(custom).chain(alternatives).chain(rules).chain(pools).sum::<usize>()
            + 4 * self.retry.never.len()
    }

    /// Starts from another retry policy.
    pub fn with_retry(retry: RetryPolicy) -> Self {
        Self { retry, ..Self::default() }
    }

    /// Gives the retry policy, its rules complete.
    pub fn retry(&self) -> RetryPolicy {
        let rules = self.rules.iter().map(|rule| rule.rule(&self.retry)).collect();
        RetryPolicy { rules, ..self.retry.clone() }
    }

    /// Gives the request, its alternatives complete.
    pub fn resources(&self) -> ResourceRequest {
        resources::complete(&self.resources, &self.any_of)
    }

    /// Changes what a table says.
    pub fn read(&mut self, table: &Table, check: &mut Check<'_>) {
        for key in keys::DEFAULTS.words() {
            self.read_key(table, key, check);
        }
    }

    /// Changes what a table says under one key.
    pub fn read_key(&mut self, table: &Table, key: &str, check: &mut Check<'_>) {
        let Some(entry) = table.get(key) else { return };
        let node = &entry.node;
        let mut time = |into: &mut Option<u64>| {
            if let Some(ms) = duration(node, &quote(key), check) {
                *into = Some(ms);
            }
        };
        match key {
            "timeout" => time(&mut self.timeout_ms),
            "queue_timeout" => time(&mut self.queue_timeout_ms),
            "heartbeat_timeout" => time(&mut self.heartbeat_timeout_ms),
            "grace" => self.grace_ms = grace(node, check).or(self.grace_ms),
            "memory_limit" => {
                self.memory_limit_bytes = resources::memory_limit(node, check).or(self.memory_limit_bytes);
            }
            "retry" => retry::read(node, &mut self.retry, &mut self.rules, check),
            "resources" => resources::read(node, &mut self.resources, &mut self.any_of, check),
            "env" => env(node, &mut self.env, check),
            "pools" => pools(node, &mut self.pools, check),
            "pool" => {
                if table.get("pools").is_some() {
                    let hint = "keep `pools`, which holds any number of them".to_owned();
                    let message = "`pool` and `pools` say the same";
                    check.faults.error(Code::BadLimit, entry.key_span, message, hint);
                } else if let Some(name) = check.string(node, "`pool`").map(str::to_owned)
                    && pool_name(&name, node.span, check)
                {
                    self.pools.insert(name, 1);
                }
            }
            _ => {}
        }
    }
}

/// Reads a span of time.
pub(super) fn duration(node: &Node, what: &str, check: &mut Check<'_>) -> Option<u64> {
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

fn grace(node: &Node, check: &mut Check<'_>) -> Option<u32> {
    let ms = duration(node, "`grace`", check)?;
    if ms > LONGEST_GRACE_MS {
        let hint = "it is the time that a program has to end after it is told to".to_owned();
        check.faults.error(Code::BadDuration, node.span, "`grace` is longer than an hour", hint);
        return None;
    }
    u32::try_from(ms).ok()
}

fn pools(node: &Node, pools: &mut BTreeMap<String, u32>, check: &mut Check<'_>) {
    if let Value::Text(name) = &node.value {
        let hint = Some(format!("write pool = \"{0}\", or pools = {{ {0} = 1 }}", quote(name).trim_matches('`')));
        check.wrong_type(node, "`pools`", "a table of names and slots", hint);
        return;
    }
    let Some(table) = check.open_table(node, "`pools`") else { return };
    for entry in &table.entries {
        let named = pool_name(&entry.key, entry.key_span, check);
        let what = format!("the slots of {}", quote(&entry.key));
        match check.within(&entry.node, &what, Code::BadLimit, 0, keys::MOST_SLOTS) {
            Some(0) => drop(pools.remove(&entry.key)),
            Some(slots) if named => drop(pools.insert(entry.key.clone(), slots as u32)),
            _ => {}
        }
    }
    if pools.len() > MOST_POOLS {
        let message = format!("a task holds slots of {} pools", pools.len());
        check.faults.error(Code::BadLimit, node.span, message, format!("at most {MOST_POOLS}"));
        pools.clear();
    }
}

fn pool_name(name: &str, span: Span, check: &mut Check<'_>) -> bool {
    // Pools are named as ports are.
    let good = name.parse::<PortName>().is_ok();
    if !good {
        let hint = "1 to 64 of a-z, 0-9, _ and -".to_owned();
        check.faults.error(Code::BadName, span, format!("{} cannot name a pool", quote(name)), hint);
    }
    good
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
        let table = check.table(node, &what, &keys::SECRET)?;
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
