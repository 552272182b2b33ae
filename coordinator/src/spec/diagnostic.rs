//! A fault as people see it: code, place, source line, caret, hint.

use std::{
    fmt::{self, Write as _},
    ops::Range,
};

use segue_proto::v1;
use unicode_width::UnicodeWidthChar as _;

use super::code::Code;

/// Most characters of a source line that are shown; a longer line is cut around the caret.
const SHOWN: usize = 120;
/// Characters kept before the caret when the line is cut.
const BEFORE: usize = 60;

/// Whether a fault stops the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Error,
    Warning,
}

/// Where a fault is. Lines and columns count from 1, columns and lengths in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: u32,
    pub column: u32,
    /// Characters on the first line of the fault, at least 1.
    pub length: u32,
    /// Byte of the text at which the fault begins.
    pub offset: usize,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Absent where no text is at fault, such as a parameter given at submission.
    pub place: Option<Place>,
}

impl Diagnostic {
    /// Makes an error without a place.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), hint: None, place: None }
    }

    /// Adds what to do about it, where anything is known.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says whether it stops the pipeline.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Renders the fault in the form of a compiler. `text` is the text that was checked; `path` names it.
    #[must_use]
    pub fn render(&self, path: &str, text: &str, color: bool) -> String {
        let paint = Paint(color);
        let (word, tone) = match self.severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        let mut out = String::new();
        // Writing to a String cannot fail, so results are dropped.
        let _ = writeln!(out, "{}: {}", paint.on(tone, format_args!("{word}[{}]", self.code)), clean(&self.message));
        if let Some(place) = self.place {
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            let path = clean(path);
            let _ = writeln!(out, "{gutter}{} {path}:{}:{}", paint.on(BLUE, "-->"), place.line, place.column);
            let (line, caret) = excerpt(text, place);
            let _ = writeln!(out, "{} {line}", paint.on(BLUE, format_args!("{number} |")));
            let under = format!("{}{}", " ".repeat(caret.start), "^".repeat(caret.len().max(1)));
            let _ = writeln!(
                out,
                "{} {}",
                paint.on(BLUE, format_args!("{gutter} |")),
                under.replacen('^', &format!("{}^", paint.start(tone)), 1) + paint.end()
            );
        } else if !path.is_empty() {
            let _ = writeln!(out, " {} {}", paint.on(BLUE, "-->"), clean(path));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{}: {}", paint.on(CYAN, "hint"), clean(hint));
        }
        out
    }

    /// Converts to the wire, rendered without colours.
    #[must_use]
    pub fn to_wire(&self, path: &str, text: &str) -> v1::Diagnostic {
        v1::Diagnostic {
            code: self.code.as_str().to_owned(),
            error: self.is_error(),
            message: self.message.clone(),
            hint: self.hint.clone().unwrap_or_default(),
            path: path.to_owned(),
            line: self.place.map_or(0, |place| place.line),
            column: self.place.map_or(0, |place| place.column),
            rendered: self.render(path, text, false),
        }
    }
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BLUE: &str = "\x1b[1;34m";
const CYAN: &str = "\x1b[1;36m";

/// Colours, or nothing.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn on(self, tone: &'static str, what: impl fmt::Display) -> String {
        format!("{}{what}{}", self.start(tone), self.end())
    }

    const fn start(self, tone: &'static str) -> &'static str {
        if self.0 { tone } else { "" }
    }

    const fn end(self) -> &'static str {
        if self.0 { "\x1b[0m" } else { "" }
    }
}

/// Gives the part of the source line to show, and the display columns under which the caret goes.
///
/// Looks only at a window around the place, so that a file of one long line costs no more than another.
fn excerpt(text: &str, place: Place) -> (String, Range<usize>) {
    let at = floor(text, place.offset.min(text.len()));
    // A character has at most 4 bytes.
    let from = floor(text, at.saturating_sub(4 * SHOWN));
    let until = floor(text, at.saturating_add(4 * SHOWN).min(text.len()));
    let (before, after) = (&text[from..at], &text[at..until]);
    let before = before.rfind('\n').map_or(before, |newline| &before[newline + 1..]);
    let after = after.find('\n').map_or(after, |newline| &after[..newline]);
    let after = after.strip_suffix('\r').unwrap_or(after);

    let column = (place.column as usize).saturating_sub(1);
    let known = before.chars().count();
    let skipped = known.saturating_sub(BEFORE);
    let cut_left = column > known - skipped;
    let mut line = String::new();
    let mut width = 0;
    if cut_left {
        line.push_str("...");
        width += 3;
    }
    for c in before.chars().skip(skipped) {
        width += push(&mut line, c);
    }
    let start = width;
    let mut end = start;
    let room = SHOWN - (known - skipped);
    for (n, c) in after.chars().enumerate() {
        if n == room {
            line.push_str("...");
            break;
        }
        width += push(&mut line, c);
        if n < place.length as usize {
            end = width;
        }
    }
    (line.trim_end().to_owned(), start..end)
}

/// Adds a character as it may safely be shown and gives its width on the screen.
fn push(line: &mut String, c: char) -> usize {
    match c {
        '\t' => {
            line.push_str("    ");
            4
        }
        c if hostile(c) => {
            line.push('\u{fffd}');
            1
        }
        c => {
            line.push(c);
            c.width().unwrap_or(0)
        }
    }
}

/// Says whether a character could move the cursor, colour the screen or reverse the text of a terminal.
fn hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Replaces what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if hostile(c) { '\u{fffd}' } else { c }).collect()
}

/// Quotes what a file says for use in a message: short, on one line, between back-ticks.
pub(super) fn quote(word: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::from("`");
    for (n, c) in word.chars().enumerate() {
        if n == LONGEST {
            out.push('…');
            break;
        }
        if hostile(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('`');
    out
}

/// Gives the character boundary at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(text: &str, needle: &str) -> Diagnostic {
        let offset = text.find(needle).unwrap();
        let line_start = text[..offset].rfind('\n').map_or(0, |n| n + 1);
        let place = Place {
            line: text[..offset].matches('\n').count() as u32 + 1,
            column: text[line_start..offset].chars().count() as u32 + 1,
            length: needle.chars().count() as u32,
            offset,
        };
        Diagnostic { place: Some(place), ..Diagnostic::error(Code::UnknownTask, "no such task") }
    }

    #[test]
    fn a_fault_is_shown_with_its_line_and_a_caret_under_it() {
        let text = "[tasks.a]\nafter = [\"featurs\"]\n";
        let rendered =
            at(text, "\"featurs\"").hint("did you mean `features`?".to_owned()).render("p.toml", text, false);
        assert_eq!(
            rendered,
            "error[P007]: no such task\n --> p.toml:2:10\n2 | after = [\"featurs\"]\n  |          ^^^^^^^^^\nhint: did you mean `features`?\n"
        );
    }

    #[test]
    fn carets_stand_under_the_fault_after_tabs_and_wide_characters() {
        let text = "\tn = \"日本\", x";
        let rendered = at(text, "x").render("p", text, false);
        assert!(rendered.contains("p:1:12\n"), "the column counts characters: {rendered}");
        assert!(rendered.contains("1 |     n = \"日本\", x\n  |                 ^\n"), "{rendered}");
    }

    #[test]
    fn a_line_without_end_is_cut_around_the_caret() {
        let text = format!("{}BAD{}", "x".repeat(100_000), "y".repeat(100_000));
        let rendered = at(&text, "BAD").render("p", &text, false);
        let lines: Vec<&str> = rendered.lines().collect();
        assert!(lines[2].len() < 200);
        assert_eq!(lines[2].find("BAD"), lines[3].find("^^^"));
    }

    #[test]
    fn a_terminal_is_not_given_escapes_from_the_file() {
        let text = "\u{1b}[31m x\u{202e}";
        let rendered = at(text, "x").render("p\u{7}", text, false);
        assert!(!rendered.contains(['\u{1b}', '\u{202e}', '\u{7}']));
        assert_eq!(quote("a\u{1b}b"), "`a\\u{1b}b`");
    }

    #[test]
    fn rendering_against_another_text_does_not_panic() {
        let text = "ä".repeat(50);
        let fault = at(&text, "ä");
        for offset in [0, 1, 7, 99, 100, 10_000, usize::MAX] {
            let place = fault.place.map(|place| Place { offset, column: u32::MAX, ..place });
            let _ = Diagnostic { place, ..fault.clone() }.render("p", &text, true);
        }
    }

    #[test]
    fn colours_are_only_written_when_asked_for() {
        let text = "x";
        assert!(at(text, "x").render("p", text, true).contains("\x1b[1;31m^"));
        assert!(!at(text, "x").render("p", text, false).contains('\x1b'));
    }
}
