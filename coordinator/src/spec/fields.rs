//! Reads typed values from the tree, and reports those of another type.

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Span, list},
    toml::{Entry, Node, Table, Tree, Value},
};

/// Words of other orchestrators for what is named otherwise here.
const OTHER_WORDS: [(&str, &str); 14] = [
    ("args", "with"),
    ("cmd", "command"),
    ("depends_on", "after"),
    ("environment", "env"),
    ("helptext", "help"),
    ("kind", "type"),
    ("needs", "after"),
    ("operator", "op"),
    ("parameters", "with"),
    ("params", "with"),
    ("retries", "retry"),
    ("run", "command"),
    ("secrets", "secret"),
    ("uses", "op"),
];

/// What every reader needs: the text, its tree, and where faults go.
pub(super) struct Check<'t> {
    pub text: &'t str,
    pub tree: &'t Tree,
    pub faults: Faults,
}

impl<'t> Check<'t> {
    /// Gives the table that a node is, and reports keys of it that mean nothing.
    pub fn table(&mut self, node: &Node, what: &str, known: &[&str]) -> Option<&'t Table> {
        let table = self.open_table(node, what)?;
        for entry in &table.entries {
            if !known.contains(&entry.key.as_str()) {
                self.unknown_key(entry, what, known);
            }
        }
        Some(table)
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

    /// Gives the items of a list of strings, without those that are something else.
    pub fn strings<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n str, Span)>> {
        let Value::List(items) = &node.value else {
            let hint = match &node.value {
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

    /// Narrows a span to a word inside it, where the word stands there as it is.
    pub fn narrow(&self, span: Span, word: &str) -> Span {
        match self.text.get(span.start..span.end).and_then(|text| text.find(word)) {
            Some(at) => span.part(at, word.len()),
            None => span,
        }
    }
}
