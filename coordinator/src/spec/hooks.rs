//! `[[hooks]]` and `sla`: whom a pipeline tells when a run of it ends or is late.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Span, list},
    fields::{COMMAND, Check},
    keys,
    model::{Backoff, EnvValue, ResourceRequest, RetryPolicy},
    policy::{self, Policy},
    secrets,
    template::{self, Malformed, Part},
    toml::{Entry, Node, Table, TableId, Value},
};

/// What the names of variables begin with that a hook may read from the coordinator's environment. Whoever submits a
/// pipeline chooses where its hooks send things, so that the coordinator's other credentials must be out of reach.
pub const SECRET_PREFIX: &str = "SEGUE_HOOK_";

const OF_WEBHOOKS: [&str; 2] = ["secret", "headers"];
const OF_COMMANDS: [&str; 2] = ["resources", "env"];

/// Most hooks of one pipeline: each ending of a run writes one record for each.
const MOST: usize = 32;
const LONGEST_URL: usize = 2_048;
const LONGEST_HEADER: usize = 4_096;
const MOST_HEADERS: usize = 32;
const WEBHOOK_TIMEOUT_MS: u64 = 10_000;
/// A receiver that needs longer than this should answer first and work then.
const LONGEST_TIMEOUT_MS: u64 = 60_000;

/// Headers that Segue or the connection sets.
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// Whom a pipeline tells, and what counts as late.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hooks {
    /// A run that still goes after this time is late.
    pub sla_ms: Option<u64>,
    /// In file order; an index is part of the identity of what is delivered.
    pub list: Vec<Hook>,
}

impl Hooks {
    /// Lists the variables of the coordinator that webhooks read.
    #[must_use]
    pub fn variables(&self) -> BTreeSet<&str> {
        let webhooks = self.list.iter().filter_map(|hook| match &hook.action {
            HookAction::Webhook(webhook) => Some(webhook),
            HookAction::Command(_) => None,
        });
        let references = webhooks.flat_map(|webhook| {
            let values = std::iter::once(&webhook.url).chain(webhook.headers.values());
            let secrets = values.filter_map(|value| match value {
                EnvValue::Secret(reference) => Some(reference.as_str()),
                EnvValue::Text(_) => None,
            });
            secrets.chain(webhook.secret.as_deref())
        });
        references.map(|reference| reference.strip_prefix("env:").unwrap_or(reference)).collect()
    }

    /// Says whether nobody is told anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sla_ms.is_none() && self.list.is_empty()
    }
}

/// One thing that is done when something happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    pub on: Vec<On>,
    pub action: HookAction,
}

/// What a hook waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    Success,
    Failure,
    Cancelled,
    SlaMiss,
}

impl On {
    /// Every one, in the order of this documentation.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Cancelled, Self::SlaMiss];

    /// Gives the word of pipeline files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::SlaMiss => "sla_miss",
        }
    }
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookAction {
    /// The coordinator sends a request.
    Webhook(Webhook),
    /// A worker executes a program.
    Command(HookCommand),
}

/// An HTTP request to be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// The address, or a reference to it where the address itself is a secret.
    pub url: EnvValue,
    /// Reference to the key of the signature.
    pub secret: Option<String>,
    pub headers: BTreeMap<String, EnvValue>,
    pub timeout_ms: u64,
    pub retry: RetryPolicy,
}

/// A program to be executed on a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookCommand {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, EnvValue>,
    pub resources: ResourceRequest,
    pub timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
}

/// Tries until the delivery is given up after a day.
fn webhook_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 100,
        backoff: Backoff::Exponential,
        initial_ms: 5_000,
        max_ms: 3_600_000,
        ..RetryPolicy::default()
    }
}

/// Reads every hook. `has_sla` says whether `[pipeline]` sets a time after which a run is late.
pub(super) fn read(node: &Node, has_sla: bool, check: &mut Check<'_>) -> Vec<Hook> {
    let tables = tables(node, check);
    if tables.len() > MOST {
        let message = format!("{} hooks, and at most {MOST} are taken", tables.len());
        check.faults.error(Code::BadHook, node.span, message, "let one receiver tell the others".to_owned());
        return Vec::new();
    }
    tables.into_iter().filter_map(|id| hook(check.tree.table(id), node.span, has_sla, check)).collect()
}

fn tables(node: &Node, check: &mut Check<'_>) -> Vec<TableId> {
    let hint = || Some("write [[hooks]] in double brackets, once for each hook".to_owned());
    match &node.value {
        Value::Tables(tables) => tables.clone(),
        Value::List(items) => items
            .iter()
            .filter_map(|item| match item.value {
                Value::Table(id) => Some(id),
                _ => {
                    check.wrong_type(item, "a hook", "a table", hint());
                    None
                }
            })
            .collect(),
        _ => {
            check.wrong_type(node, "`hooks`", "a list of tables", hint());
            Vec::new()
        }
    }
}

fn hook(table: &Table, place: Span, has_sla: bool, check: &mut Check<'_>) -> Option<Hook> {
    check.known_keys(table, "a hook", &keys::HOOK);
    // Of several hooks, the first line of the one at fault.
    let place = table.entries.first().map_or(place, |entry| entry.key_span);
    let on = on(table, place, has_sla, check);
    let action = match (table.get("webhook"), table.get("command")) {
        (Some(url), None) => {
            not_for(table, &OF_COMMANDS, "a command; a webhook has `headers`", check);
            webhook(url, table, check).map(HookAction::Webhook)
        }
        (None, Some(argv)) => {
            not_for(table, &OF_WEBHOOKS, "a webhook; a command has `env`", check);
            command(argv, table, check).map(HookAction::Command)
        }
        (Some(_), Some(command)) => {
            let hint = "write two hooks, one for each".to_owned();
            check.faults.error(Code::BadHook, command.key_span, "a hook has both `webhook` and `command`", hint);
            None
        }
        (None, None) => {
            let hint = "add webhook = \"https://…\" or command = [\"program\", \"argument\"]".to_owned();
            check.faults.error(Code::BadHook, place, "a hook has neither `webhook` nor `command`", hint);
            None
        }
    };
    Some(Hook { on: on?, action: action? })
}

fn not_for(table: &Table, keys: &[&str], whom: &str, check: &mut Check<'_>) {
    for entry in table.entries.iter().filter(|entry| keys.contains(&entry.key.as_str())) {
        let message = format!("{} is for {whom}", quote(&entry.key));
        check.faults.error(Code::BadHook, entry.key_span, message, "take it away".to_owned());
    }
}

/// Gives what a hook waits for, each once.
fn on(table: &Table, place: Span, has_sla: bool, check: &mut Check<'_>) -> Option<Vec<On>> {
    let names = || On::ALL.iter().map(|on| on.name());
    let Some(entry) = table.get("on") else {
        let hint = format!("add on = [\"failure\"]; the words: {}", list(names()));
        check.faults.error(Code::MissingKey, place, "a hook does not say when", hint);
        return None;
    };
    let words = check.strings(&entry.node, "`on`")?;
    if words.is_empty() {
        let hint = format!("name at least one of {}", list(names()));
        check.faults.error(Code::BadHook, entry.node.span, "a hook that waits for nothing", hint);
    }
    for &(word, span) in &words {
        if !names().any(|name| name == word) {
            // `failed` is meant to be `failure`.
            let alike = || names().find(|name| word.get(..4).is_some_and(|start| name.starts_with(start)));
            let hint = check.faults.did_you_mean(word, names());
            let hint = hint.or_else(|| alike().map(|name| format!("did you mean {}?", quote(name))));
            let hint = hint.unwrap_or_else(|| format!("the words: {}", list(names())));
            check.faults.error(Code::BadHook, span, format!("{} is nothing that a hook waits for", quote(word)), hint);
        }
        if word == On::SlaMiss.name() && !has_sla {
            let message = "no run of this pipeline is ever late: `[pipeline]` has no `sla`";
            check.faults.error(Code::BadHook, span, message, "add sla = \"2h\" to [pipeline]".to_owned());
        }
    }
    Some(On::ALL.into_iter().filter(|on| words.iter().any(|(word, _)| *word == on.name())).collect())
}

fn webhook(url: &Entry, table: &Table, check: &mut Check<'_>) -> Option<Webhook> {
    let mut policy = Policy::with_retry(webhook_retry());
    // What is only for commands is reported already.
    for key in ["timeout", "retry"] {
        policy.read_key(table, key, check);
    }
    if let Some(entry) = table.get("retry")
        && let Value::Table(id) = entry.node.value
        && let Some(on) = check.tree.table(id).get("on")
    {
        let message = "the `retry` of a webhook has no `on`: every failure is tried again";
        check.faults.error(Code::BadHook, on.key_span, message, "take it away".to_owned());
    }
    let timeout_ms = policy.timeout_ms.unwrap_or(WEBHOOK_TIMEOUT_MS);
    if let Some(entry) = table.get("timeout")
        && timeout_ms > LONGEST_TIMEOUT_MS
    {
        let hint = "at most 60s: let the receiver answer first and work then".to_owned();
        check.faults.error(Code::BadHook, entry.node.span, "`timeout` is too long for a webhook", hint);
    }
    let headers = table.get("headers").map(|entry| headers(&entry.node, check)).unwrap_or_default();
    let secret = table.get("secret").and_then(|entry| signing_key(&entry.node, check));
    let place = url.node.span;
    let url = value(&url.node, "`webhook`", check)?;
    if let EnvValue::Text(text) = &url {
        address(text, place, &headers, check)?;
    }
    Some(Webhook { url, secret, headers, timeout_ms, retry: policy.retry() })
}

/// Checks an address that stands in the file.
fn address(text: &str, place: Span, headers: &BTreeMap<String, EnvValue>, check: &mut Check<'_>) -> Option<()> {
    let secret = "{ secret = \"env:SEGUE_HOOK_URL\" }";
    let mut bad = |message: String, hint: String| {
        check.faults.error(Code::BadHook, place, message, hint);
        None
    };
    if text.contains("${") {
        let hint = format!("write the address itself, or {secret} for one that is not to be seen");
        return bad("`webhook` takes no parameters".to_owned(), hint);
    }
    if text.len() > LONGEST_URL {
        return bad(format!("`webhook` is longer than {LONGEST_URL} bytes"), "shorten it".to_owned());
    }
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => url,
        Ok(_) => return bad(format!("{} is no web address", quote(text)), "write https://…".to_owned()),
        Err(e) => return bad(format!("{} is no web address: {e}", quote(text)), "write https://…".to_owned()),
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = format!("give the whole address as {secret}, or a header with a secret");
        return bad("`webhook` holds a name or a password, which would be stored and shown".to_owned(), hint);
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        if headers.values().any(|value| matches!(value, EnvValue::Secret(_))) {
            return bad("a header with a secret must not go over plain http".to_owned(), "use https://".to_owned());
        }
        let message = "everybody on the way can read what this hook sends";
        check.faults.warning(Code::HookInClear, place, message, "use https:// where the receiver has it".to_owned());
    }
    Some(())
}

/// Says whether a URL stays on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

fn headers(node: &Node, check: &mut Check<'_>) -> BTreeMap<String, EnvValue> {
    let mut headers = BTreeMap::new();
    let Some(table) = check.open_table(node, "`headers`") else { return headers };
    if table.entries.len() > MOST_HEADERS {
        let message = format!("{} headers, and at most {MOST_HEADERS} are taken", table.entries.len());
        check.faults.error(Code::BadHook, node.span, message, None);
        return headers;
    }
    for entry in &table.entries {
        let name = entry.key.to_ascii_lowercase();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || name.len() > 128 || !name.chars().all(token) {
            let message = format!("{} cannot name a header", quote(&entry.key));
            check.faults.error(Code::BadHook, entry.key_span, message, "letters, digits and -".to_owned());
            continue;
        }
        if OWN_HEADERS.contains(&name.as_str()) {
            let message = format!("the header {} is set by Segue", quote(&entry.key));
            check.faults.error(Code::BadHook, entry.key_span, message, "take it away".to_owned());
            continue;
        }
        let what = format!("the header {}", quote(&entry.key));
        let Some(value) = value(&entry.node, &what, check) else { continue };
        if let EnvValue::Text(text) = &value {
            let visible = |c: char| c == ' ' || c == '\t' || c.is_ascii_graphic();
            if text.len() > LONGEST_HEADER || !text.chars().all(visible) {
                let hint = format!("printable ASCII, at most {LONGEST_HEADER} bytes");
                check.faults.error(Code::BadHook, entry.node.span, format!("{what} cannot have this value"), hint);
                continue;
            }
            if name == "authorization" || name == "cookie" || secrets::tells(&name) {
                let hint = "write { secret = \"env:SEGUE_HOOK_NAME\" }: it is then read by the coordinator alone";
                let message = format!("{what} looks like a secret, and would be stored and shown");
                check.faults.warning(Code::SecretInClear, entry.node.span, message, hint.to_owned());
            }
        }
        headers.insert(name, value);
    }
    headers
}

/// Reads a text, or a reference to one in the coordinator's environment.
fn value(node: &Node, what: &str, check: &mut Check<'_>) -> Option<EnvValue> {
    match node.value {
        Value::Table(_) => reference(node, what, check).map(EnvValue::Secret),
        _ => check.string(node, what).map(|text| EnvValue::Text(text.to_owned())),
    }
}

fn signing_key(node: &Node, check: &mut Check<'_>) -> Option<String> {
    if let Value::Text(_) = node.value {
        // The text is not repeated: it may be the key itself.
        let hint = "write secret = { secret = \"env:SEGUE_HOOK_KEY\" }".to_owned();
        check.faults.error(Code::BadSecret, node.span, "a key must not stand in the file", hint);
        return None;
    }
    reference(node, "`secret`", check)
}

/// Reads `{ secret = "env:SEGUE_HOOK_NAME" }`.
fn reference(node: &Node, what: &str, check: &mut Check<'_>) -> Option<String> {
    let table = check.table(node, what, &["secret"])?;
    let Some(entry) = table.get("secret") else {
        if table.entries.is_empty() {
            let hint = "{ secret = \"env:SEGUE_HOOK_NAME\" }".to_owned();
            check.faults.error(Code::MissingKey, node.span, format!("{what} names no secret"), hint);
        }
        return None;
    };
    let text = check.string(&entry.node, "`secret`")?;
    if is_reference(text) {
        return Some(text.to_owned());
    }
    let hint = format!(
        "name a variable of the coordinator's environment that begins with {SECRET_PREFIX}: \
         {{ secret = \"env:{SECRET_PREFIX}KEY\" }}"
    );
    check.faults.error(Code::BadSecret, entry.node.span, "this is not a secret that a hook may read", hint);
    None
}

/// Says whether a text names a variable that hooks may read. Asked again before it is read: stored runs may be older
/// than the rule.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    let name = text.strip_prefix("env:").and_then(|name| name.strip_prefix(SECRET_PREFIX));
    name.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

fn command(argv: &Entry, table: &Table, check: &mut Check<'_>) -> Option<HookCommand> {
    let mut policy = Policy::default();
    policy.read(table, check);
    let words = check.strings(&argv.node, COMMAND)?;
    if words.first().is_none_or(|(program, _)| program.trim().is_empty()) {
        let hint = "name a program first: [\"python3\", \"notify.py\"]".to_owned();
        check.faults.error(Code::EmptyCommand, argv.node.span, "`command` names no program", hint);
        return None;
    }
    let mut filled = Vec::with_capacity(words.len());
    for (word, span) in words {
        secrets::argument(word, span, check);
        filled.push(literal(word, span, check)?);
    }
    let (resources, retry) = (policy.resources(), policy.retry());
    let mut env = BTreeMap::new();
    for (name, entry) in policy.env {
        let value = match entry.value {
            EnvValue::Text(text) => {
                secrets::named(&name, &text, entry.span, check);
                EnvValue::Text(literal(&text, entry.span, check)?)
            }
            secret @ EnvValue::Secret(_) => secret,
        };
        env.insert(name, value);
    }
    Some(HookCommand { argv: filled, env, resources, timeout_ms: policy.timeout_ms, retry })
}

/// Gives a text whose `$${` stand for `${`; a hook has no parameters that others could be filled in from.
fn literal(text: &str, span: Span, check: &mut Check<'_>) -> Option<String> {
    if text.contains('\0') {
        check.faults.error(Code::BadValue, span, "this cannot hold a NUL character", None);
        return None;
    }
    let what = match template::parts(text) {
        Ok(parts) => parts.iter().find_map(|part| match part {
            Part::Param(name) => Some(format!("${{params.{name}}}")),
            Part::Child(..) => Some("${item}".to_owned()),
            Part::Text(_) => None,
        }),
        Err(Malformed(what)) => Some(what.to_owned()),
    };
    let Some(what) = what else { return template::fill(text, |_| None) };
    let hint = "a hook gets the facts of its event as $SEGUE_PARAM_RUN, $SEGUE_PARAM_STATE and so on; a literal ${ is \
                written $${";
    let place = check.narrow(span, &what);
    check.faults.error(Code::BadReference, place, format!("{} cannot stand in a hook", quote(&what)), hint.to_owned());
    None
}

/// Reads the time after which a run is late.
pub(super) fn sla(entry: &Entry, check: &mut Check<'_>) -> Option<u64> {
    policy::duration(&entry.node, "`sla`", check)
}
