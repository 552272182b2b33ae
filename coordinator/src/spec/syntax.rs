//! Faults of the TOML grammar, in words that say what to do.

use toml_parser::{ErrorSink, Expected, ParseError};

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Lines, Span},
};

/// Faults that are shown; what follows the first few is mostly their consequence.
const MOST: usize = 20;

/// Collects the first faults of the grammar: the parser goes on after each.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<ParseError>);

impl ErrorSink for Errors {
    fn report_error(&mut self, error: ParseError) {
        // Room for those that are dropped later, as consequences of others.
        if self.0.len() < 8 * MOST {
            self.0.push(error);
        }
    }
}

impl Errors {
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reports one fault a line, up to the first list or table that is not closed.
    pub fn report(mut self, text: &str, lines: &Lines, faults: &mut Faults) {
        let start = |error: &ParseError| error.unexpected().or(error.context()).map_or(0, |span| span.start());
        self.0.sort_by_key(start);
        let mut last_line = 0;
        let mut shown = 0;
        for error in &self.0 {
            let from = start(error);
            let line = lines.line(from);
            if line == last_line || shown == MOST {
                continue;
            }
            last_line = line;
            shown += 1;
            let end = error.unexpected().map_or(from, |span| span.end());
            let span = Span { start: from, end };
            if let Some((line, what, close)) = opened_before(error, from, lines) {
                let message = format!("this does not belong into the {what} that is opened on line {line}");
                let hint = format!("close the {what} with `{close}`, or put a comma between its items");
                faults.error(Code::Syntax, span, message, hint);
                // Whatever follows is read as a part of it, and is no fault of its own.
                return;
            }
            let (message, hint) = explain(error, text.get(from..end).unwrap_or_default());
            faults.error(Code::Syntax, span, message, hint);
        }
    }
}

/// Says on which line a list or an inline table was opened that the parser still reads on a later line, what it is, and
/// what closes it.
fn opened_before(error: &ParseError, from: usize, lines: &Lines) -> Option<(usize, &'static str, char)> {
    let inside = [("array", "list", ']'), ("inline table", "table", '}')];
    let (_, what, close) = inside.into_iter().find(|(word, ..)| error.description().contains(word))?;
    let line = lines.line(error.context()?.start());
    (line < lines.line(from)).then_some((line, what, close))
}

fn explain(error: &ParseError, found: &str) -> (String, Option<String>) {
    let description = error.description();
    if let Some(control) = found.chars().next().filter(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        let code = u32::from(control);
        return (
            format!("a control character, U+{code:04X}"),
            Some(format!("take it away, or write \\u{code:04x} in a string")),
        );
    }
    match description {
        "string values must be quoted" => {
            let hint = match found {
                "yes" | "on" | "True" | "TRUE" => "write true, or put it in quotes".to_owned(),
                "no" | "off" | "False" | "FALSE" => "write false, or put it in quotes".to_owned(),
                _ => format!("put it in quotes: \"{}\"", quote(found).trim_matches('`')),
            };
            ("text must stand in quotes".to_owned(), Some(hint))
        }
        "invalid basic string" | "invalid literal string" if found.trim().is_empty() => {
            ("this string does not end".to_owned(), expected(error))
        }
        "cannot recurse further; max recursion depth met" => ("nested more than 80 deep".to_owned(), None),
        _ => (description.to_owned(), expected(error)),
    }
}

/// Says what the grammar expected.
fn expected(error: &ParseError) -> Option<String> {
    let words: Vec<String> = error
        .expected()?
        .iter()
        .map(|one| match one {
            Expected::Literal("\n") => "a new line".to_owned(),
            Expected::Literal(literal) => format!("`{literal}`"),
            Expected::Description(text) => (*text).to_owned(),
            _ => "something else".to_owned(),
        })
        .collect();
    if words.is_empty() { Some("take it away".to_owned()) } else { Some(format!("expected {}", words.join(" or "))) }
}
