//! `retry`: when a failed attempt is tried again.

use segue_proto::failure::FailureClass;

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Span, list},
    fields::Check,
    keys,
    model::{Backoff, RetryPolicy, RetryRule},
    policy::duration,
    toml::{Node, Table, Value},
};

/// Most rules of one policy.
const MOST_RULES: usize = 64;

/// A rule as written: what it does not say comes from the policy of the task that it ends up in.
#[derive(Debug, Clone, Default)]
pub(super) struct Partial {
    pub on: Vec<FailureClass>,
    pub exit_codes: Vec<i32>,
    attempts: Option<u32>,
    backoff: Option<Backoff>,
    initial_ms: Option<u64>,
    max_ms: Option<u64>,
    jitter: Option<f64>,
}

impl Partial {
    /// Completes the rule.
    pub fn rule(&self, policy: &RetryPolicy) -> RetryRule {
        RetryRule {
            on: self.on.clone(),
            exit_codes: self.exit_codes.clone(),
            attempts: self.attempts.unwrap_or(policy.attempts),
            backoff: self.backoff.unwrap_or(policy.backoff),
            initial_ms: self.initial_ms.unwrap_or(policy.initial_ms),
            max_ms: self.max_ms.unwrap_or(policy.max_ms),
            jitter: self.jitter.unwrap_or(policy.jitter),
        }
    }
}

/// Changes what a table, or a number of attempts, says.
pub(super) fn read(node: &Node, policy: &mut RetryPolicy, rules: &mut Vec<Partial>, check: &mut Check<'_>) {
    if matches!(node.value, Value::Int(_)) {
        if let Some(number) = attempts(node, "`retry`", check) {
            policy.attempts = number;
        }
        return;
    }
    let Some(table) = check.table(node, "`retry`", &keys::RETRY) else { return };
    let said = delays(table, check);
    policy.attempts = said.attempts.unwrap_or(policy.attempts);
    policy.backoff = said.backoff.unwrap_or(policy.backoff);
    policy.initial_ms = said.initial_ms.unwrap_or(policy.initial_ms);
    policy.max_ms = said.max_ms.unwrap_or(policy.max_ms);
    policy.jitter = said.jitter.unwrap_or(policy.jitter);
    order(table, policy.initial_ms, policy.max_ms, check);
    if let Some(entry) = table.get("on")
        && let Some(words) = check.strings(&entry.node, "`on`")
    {
        policy.on = classes(&words, &mut check.faults);
    }
    if let Some(entry) = table.get("never") {
        policy.never = exit_codes(&entry.node, "`never`", check);
    }
    match table.get("rules") {
        Some(entry) => *rules = self::rules(&entry.node, policy, check),
        // The rules of `[defaults]` may not fit what this table changed.
        None => {
            if let Some(rule) = rules.iter().map(|rule| rule.rule(policy)).find(|rule| rule.initial_ms > rule.max_ms) {
                order(table, rule.initial_ms, rule.max_ms, check);
            }
        }
    }
}

fn rules(node: &Node, policy: &RetryPolicy, check: &mut Check<'_>) -> Vec<Partial> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => {
            let hint = Some("write rules = [{ on = [\"oom\"], attempts = 2 }]".to_owned());
            check.wrong_type(node, "`rules`", "a list of tables", hint);
            return Vec::new();
        }
    };
    if items.len() > MOST_RULES {
        let message = format!("`rules` has {} rules", items.len());
        check.faults.error(Code::BadRetry, node.span, message, format!("at most {MOST_RULES}"));
        return Vec::new();
    }
    let mut rules = Vec::with_capacity(items.len());
    for item in items {
        let Some(table) = check.table(item, "a rule of `retry`", &keys::RULE) else { continue };
        let mut rule = delays(table, check);
        if let Some(entry) = table.get("on")
            && let Some(words) = check.strings(&entry.node, "`on`")
        {
            rule.on = classes(&words, &mut check.faults);
        }
        if let Some(entry) = table.get("exit_codes") {
            rule.exit_codes = exit_codes(&entry.node, "`exit_codes`", check);
        }
        if table.get("on").is_none() && table.get("exit_codes").is_none() {
            let hint = "say which failures it is for: on = [\"oom\"], or exit_codes = [75]".to_owned();
            check.faults.error(Code::BadRetry, item.span, "this rule fits no failure", hint);
        }
        let whole = rule.rule(policy);
        order(table, whole.initial_ms, whole.max_ms, check);
        rules.push(rule);
    }
    rules
}

/// Reads what a policy and its rules have in common.
fn delays(table: &Table, check: &mut Check<'_>) -> Partial {
    let mut said = Partial::default();
    if let Some(entry) = table.get("attempts") {
        said.attempts = attempts(&entry.node, "`attempts`", check);
    }
    if let Some(entry) = table.get("backoff")
        && let Some(word) = check.string(&entry.node, "`backoff`")
    {
        match word {
            "constant" => said.backoff = Some(Backoff::Constant),
            "exponential" => said.backoff = Some(Backoff::Exponential),
            _ => {
                let hint = "write \"constant\" or \"exponential\"".to_owned();
                let message = format!("`backoff` cannot be {}", quote(word));
                check.faults.error(Code::BadRetry, entry.node.span, message, hint);
            }
        }
    }
    let mut delay = |key: &str| duration(&table.get(key)?.node, &format!("`{key}`"), check);
    said.initial_ms = delay("initial");
    said.max_ms = delay("max");
    if let Some(entry) = table.get("jitter")
        && let Some(share) = check.number(&entry.node, "`jitter`")
    {
        if (0.0..=1.0).contains(&share) {
            said.jitter = Some(share);
        } else {
            let hint = "it is a share of the delay, from 0 to 1".to_owned();
            check.faults.error(Code::BadRetry, entry.node.span, format!("`jitter` cannot be {share}"), hint);
        }
    }
    said
}

fn order(table: &Table, initial_ms: u64, max_ms: u64, check: &mut Check<'_>) {
    if initial_ms > max_ms
        && let Some(entry) = table.get("initial").or_else(|| table.get("max"))
    {
        let message = "`initial` is longer than `max`, the longest delay between two tries";
        let hint = format!("initial is {initial_ms} ms, max is {max_ms} ms");
        check.faults.error(Code::BadRetry, entry.node.span, message, hint);
    }
}

fn attempts(node: &Node, what: &str, check: &mut Check<'_>) -> Option<u32> {
    let number = check.int(node, what)?;
    if (1..=keys::MOST_TRIES).contains(&number) {
        return u32::try_from(number).ok();
    }
    let hint = format!("it counts the first try too: from 1 to {}", keys::MOST_TRIES);
    check.faults.error(Code::BadRetry, node.span, format!("{what} cannot be {number}"), hint);
    None
}

/// Gives exit codes, sorted, each once.
fn exit_codes(node: &Node, what: &str, check: &mut Check<'_>) -> Vec<i32> {
    let Value::List(items) = &node.value else {
        check.wrong_type(node, what, "a list of exit codes", Some("write [2, 64]".to_owned()));
        return Vec::new();
    };
    let item_of = format!("an exit code of {what}");
    let mut codes: Vec<i32> = items
        .iter()
        .filter_map(|item| check.within(item, &item_of, Code::BadRetry, 1, 255))
        .map(|n| n as i32)
        .collect();
    codes.sort_unstable();
    codes.dedup();
    codes
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
