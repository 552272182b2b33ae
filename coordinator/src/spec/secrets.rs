//! Secrets that would be stored and shown: in parameters, in arguments, as text in `env`.

use super::{
    code::Code,
    diagnostic::quote,
    faults::Span,
    fields::Check,
    toml::{Entry, Value},
};

const WORDS: [&str; 7] = ["password", "passwd", "secret", "token", "api_key", "apikey", "private_key"];
const HINT: &str =
    "give it to the task as env = { NAME = { secret = \"env:NAME\" } }; it is then read on the worker alone";

/// Says whether a name is that of a secret.
pub(super) fn tells(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    WORDS.iter().any(|word| name.split('_').any(|part| part == *word) || (word.contains('_') && name.contains(word)))
}

/// Warns of a value under the name of a secret.
pub(super) fn named(name: &str, value: &str, span: Span, check: &mut Check<'_>) {
    if !value.is_empty() && tells(name) {
        warn(&format!("{} looks like a secret", quote(name)), span, check);
    }
}

/// Warns of an argument such as `--token=abc`.
pub(super) fn argument(argument: &str, span: Span, check: &mut Check<'_>) {
    if let Some((name, value)) = argument.split_once('=')
        && !value.is_empty()
        && tells(name.trim_start_matches('-'))
    {
        warn(&format!("the argument {} looks like a secret", quote(name)), span, check);
    }
}

/// Warns of an address with a name, a password or a token in it.
pub(super) fn address(text: &str, span: Span, check: &mut Check<'_>) {
    let Ok(url) = url::Url::parse(text) else { return };
    if url.has_host() && (!url.username().is_empty() || url.password().is_some()) {
        warn("the address holds a name or a password", span, check);
    }
    if let Some((name, _)) = url.query_pairs().find(|(name, value)| !value.is_empty() && tells(name)) {
        warn(&format!("{} in the address looks like a secret", quote(&name)), span, check);
    }
}

/// Reports `{ secret = … }` outside `env`, and says whether it was there.
pub(super) fn table(entry: &Entry, check: &mut Check<'_>) -> bool {
    let Value::Table(id) = entry.node.value else { return false };
    if check.tree.table(id).get("secret").is_none() {
        return false;
    }
    let message = format!("the parameter {} cannot be a secret: parameters are stored and shown", quote(&entry.key));
    check.faults.error(Code::BadSecret, entry.node.span, message, HINT.to_owned());
    true
}

fn warn(what: &str, span: Span, check: &mut Check<'_>) {
    check.faults.warning(Code::SecretInClear, span, format!("{what}, and would be stored and shown"), HINT.to_owned());
}
