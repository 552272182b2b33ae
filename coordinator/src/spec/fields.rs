//! Reads typed values from the tree, and reports those of another type.

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Span, list},
    keys,
    toml::{Entry, Node, Table, Tree, Value},
};

/// How faults name the key `command`, whose value is often written as in a shell.
pub const COMMAND: &str = "`command`";

/// Characters that mean something to a shell alone.
const OF_SHELLS: &[char] =
    &['|', '&', ';', '<', '>', '(', ')', '$', '`', '\\', '"', '\'', '*', '?', '[', ']', '#', '~', '\n'];

/// Words of other orchestrators for what is named otherwise here.
const OTHER_WORDS: [(&str, &str); 26] = [
    ("args", "with"),
    ("cmd", "command"),
    ("condition", "when"),
    ("depends_on", "after"),
    ("environment", "env"),
    ("expand", "foreach"),
    ("for_each", "foreach"),
    ("helptext", "help"),
    ("if", "when"),
    ("kind", "type"),
    ("loop", "foreach"),
    ("map", "foreach"),
    ("max_active_tis_per_dag", "max_parallel"),
    ("needs", "after"),
    ("on_exit", "finally"),
    ("operator", "op"),
    ("parallelism", "max_parallel"),
    ("parameters", "with"),
    ("params", "with"),
    ("retries", "retry"),
    ("run", "command"),
    ("secrets", "secret"),
    ("strategy", "matrix"),
    ("trigger_rule", "run_if"),
    ("uses", "op"),
    ("wait_for", "sensor"),
];

/// The keys that a table may have.
pub(super) trait Known {
    fn words(&self) -> Vec<&'static str>;
}

impl Known for keys::Table {
    fn words(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }
}

impl Known for [&'static str] {
    fn words(&self) -> Vec<&'static str> {
        self.to_vec()
    }
}

impl<const N: usize> Known for [&'static str; N] {
    fn words(&self) -> Vec<&'static str> {
        self.to_vec()
    }
}

/// What every reader needs: the text, its tree, and where faults go.
pub(super) struct Check<'t> {
    pub text: &'t str,
    pub tree: &'t Tree,
    pub faults: Faults,
}

impl<'t> Check<'t> {
    /// Gives the table that a node is, and reports keys of it that mean nothing.
    pub fn table<K: Known + ?Sized>(&mut self, node: &Node, what: &str, known: &K) -> Option<&'t Table> {
        let table = self.open_table(node, what)?;
        self.known_keys(table, what, known);
        Some(table)
    }

    /// Reports the keys of a table that mean nothing.
    pub fn known_keys<K: Known + ?Sized>(&mut self, table: &Table, what: &str, known: &K) {
        let known = known.words();
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            self.unknown_key(entry, what, &known);
        }
    }

    /// Gives the table that a node is, whatever its keys are.
    pub fn open_table(&mut self, node: &Node, what: &str) -> Option<&'t Table> {
        match node.value {
            Value::Table(id) => Some(self.tree.table(id)),
            _ => {
                let hint = matches!(node.value, Value::Tables(_))
                    .then(|| "write [tasks.NAME] in single brackets, one for each task".to_owned());
                self.wrong_type(node, what, "a table", hint);
                None
            }
        }
    }

    /// Reports a key that means nothing in a table.
    pub fn unknown_key(&mut self, entry: &Entry, what: &str, known: &[&str]) {
        let other = OTHER_WORDS.iter().find(|(word, ours)| *word == entry.key && known.contains(ours));
        let hint = other
            .map(|(_, ours)| format!("did you mean {}?", quote(ours)))
            .or_else(|| self.faults.did_you_mean(&entry.key, known.iter().copied()))
            .or_else(|| (!known.is_empty()).then(|| format!("known here: {}", list(known.iter().copied()))));
        self.faults.error(Code::UnknownKey, entry.key_span, format!("{what} has no key {}", quote(&entry.key)), hint);
    }

    /// Reports a value of another type.
    pub fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str, hint: Option<String>) {
        let message = format!("{what} must be {wanted}, found {}", node.value.type_name());
        self.faults.error(Code::WrongType, node.span, message, hint);
    }

    /// Gives the text of a string.
    pub fn string<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            other => {
                let hint = matches!(other, Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Date)
                    .then(|| format!("put it in quotes: \"{}\"", self.source(node.span)));
                self.wrong_type(node, what, "a string", hint);
                None
            }
        }
    }

    /// Gives a whole number.
    pub fn int(&mut self, node: &Node, what: &str) -> Option<i64> {
        match node.value {
            Value::Int(value) => Some(value),
            _ => {
                let hint = self.unquoted(node);
                self.wrong_type(node, what, "a whole number", hint);
                None
            }
        }
    }

    /// Gives a number that is neither infinite nor undefined.
    pub fn number(&mut self, node: &Node, what: &str) -> Option<f64> {
        match node.value {
            Value::Int(value) => Some(value as f64),
            Value::Float(value) if value.is_finite() => Some(value),
            Value::Float(value) => {
                self.faults.error(
                    Code::WrongType,
                    node.span,
                    format!("{what} must be a finite number, found {value}"),
                    None,
                );
                None
            }
            _ => {
                let hint = self.unquoted(node);
                self.wrong_type(node, what, "a number", hint);
                None
            }
        }
    }

    /// Gives a boolean.
    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong_type(node, what, "true or false", None);
                None
            }
        }
    }

    /// Gives a whole number of a range.
    pub fn within(&mut self, node: &Node, what: &str, code: Code, least: i64, most: i64) -> Option<i64> {
        let number = self.int(node, what)?;
        if (least..=most).contains(&number) {
            return Some(number);
        }
        self.faults.error(code, node.span, format!("{what} cannot be {number}"), format!("from {least} to {most}"));
        None
    }

    /// Gives the one of some words that a string is.
    pub fn word(&mut self, node: &Node, what: &str, code: Code, words: &[&'static str]) -> Option<usize> {
        let word = self.string(node, what)?;
        if let Some(at) = words.iter().position(|known| *known == word) {
            return Some(at);
        }
        let near = self.faults.did_you_mean(word, words.iter().copied());
        let hint = near.unwrap_or_else(|| format!("one of {}", list(words.iter().copied())));
        self.faults.error(code, node.span, format!("{what} cannot be {}", quote(word)), hint);
        None
    }

    /// Gives the items of a list of strings, without those that are something else.
    pub fn strings<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n str, Span)>> {
        let Value::List(items) = &node.value else {
            let hint = match &node.value {
                Value::Text(text) if what == COMMAND => Some(as_command(text)),
                Value::Text(text) => Some(format!("write [\"{}\"]", quote(text).trim_matches('`'))),
                _ => None,
            };
            self.wrong_type(node, what, "a list of strings", hint);
            return None;
        };
        let what = format!("an item of {what}");
        Some(items.iter().filter_map(|item| Some((self.string(item, &what)?, item.span))).collect())
    }

    /// Says that quotes are too much around a number.
    fn unquoted(&self, node: &Node) -> Option<String> {
        let Value::Text(text) = &node.value else { return None };
        text.parse::<f64>().is_ok_and(f64::is_finite).then(|| format!("without quotes: {text}"))
    }

    /// Gives a short piece of the text for a hint.
    fn source(&self, span: Span) -> String {
        let text = self.text.get(span.start..span.end).unwrap_or_default();
        quote(text).trim_matches('`').to_owned()
    }

    /// Gives the place of a part of a string, as far as its escapes let that be known. `text` is its value.
    pub fn inside(&self, span: Span, text: &str, offset: usize, length: usize) -> Span {
        let Some(raw) = self.text.get(span.start..span.end) else { return span };
        if let Some(at) = raw.find(text).filter(|_| !text.is_empty()) {
            return span.part(at + offset, length);
        }
        // Walk both side by side: an escape is one character of the value.
        let quoted = raw.trim_start_matches('"');
        let mut at = raw.len() - quoted.len();
        let mut from = None;
        for (n, _) in text.char_indices() {
            if n >= offset {
                from.get_or_insert(at);
            }
            if n >= offset + length {
                break;
            }
            let mut rest = raw[at..].chars();
            at += match (rest.next(), rest.next()) {
                (Some('\\'), Some('x')) => 4,
                (Some('\\'), Some('u')) => 6,
                (Some('\\'), Some('U')) => 10,
                (Some('\\'), Some('\n' | '\r' | ' ' | '\t') | None) | (None, _) => return span,
                (Some('\\'), Some(escaped)) => 1 + escaped.len_utf8(),
                (Some(c), _) => c.len_utf8(),
            };
            if !raw.is_char_boundary(at) || at > raw.len() {
                return span;
            }
        }
        let start = from.unwrap_or(at);
        span.part(start, at.saturating_sub(start))
    }

    /// Narrows a span to a word inside it, where the word stands there as it is.
    pub fn narrow(&self, span: Span, word: &str) -> Span {
        match self.text.get(span.start..span.end).and_then(|text| text.find(word)) {
            Some(at) => span.part(at, word.len()),
            None => span,
        }
    }
}

/// Says how a command line is written as a list.
fn as_command(text: &str) -> String {
    let shown = |text: &str| quote(&text.replace('\\', "\\\\").replace('"', "\\\"")).trim_matches('`').to_owned();
    // A reference to a parameter is none of the shell's.
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        return "write a program and its arguments: [\"python3\", \"publish.py\"]".to_owned();
    }
    if text.replace("${", "").contains(OF_SHELLS) {
        return format!("no shell reads it: write [\"sh\", \"-c\", \"{}\"]", shown(text));
    }
    let words: Vec<String> = words.into_iter().map(|word| format!("\"{}\"", shown(word))).collect();
    format!("write [{}]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::as_command;

    #[test]
    fn a_command_line_is_shown_as_the_list_that_does_the_same() {
        assert_eq!(as_command("echo hi"), r#"write ["echo", "hi"]"#);
        assert_eq!(as_command("true"), r#"write ["true"]"#);
        assert_eq!(as_command("python3 load.py ${params.day}"), r#"write ["python3", "load.py", "${params.day}"]"#);
        assert_eq!(as_command("ls | wc -l"), r#"no shell reads it: write ["sh", "-c", "ls | wc -l"]"#);
        assert_eq!(as_command("echo \"a b\""), r#"no shell reads it: write ["sh", "-c", "echo \"a b\""]"#);
        assert!(as_command(" ").contains("a program and its arguments"));
        assert!(as_command(&"x ".repeat(100_000)).len() < 2_000_000);
    }
}
