//! Collects the faults of one check and puts them in file order.

use super::{
    code::Code,
    diagnostic::{Diagnostic, Place, Severity, quote},
};

/// Most faults that are listed: their renderings must fit into one message of the wire.
const MOST: usize = 1_000;
/// Comparisons of words that one check may spend on "did you mean": a file of 100,000 faults stays linear.
const COMPARISONS: usize = 300_000;
/// Children that one check may look at: tasks of a million each are written in one line.
const CHILDREN: u64 = 2_000_000;

/// A range of bytes of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// Narrows a span to a part of it, given in bytes from its start.
    pub const fn part(self, start: usize, length: usize) -> Self {
        Self { start: self.start + start, end: self.start + start + length }
    }
}

struct Fault {
    span: Span,
    diagnostic: Diagnostic,
}

/// The faults found so far.
pub(super) struct Faults {
    faults: Vec<Fault>,
    comparisons: usize,
    children: u64,
}

impl Faults {
    pub const fn new() -> Self {
        Self { faults: Vec::new(), comparisons: COMPARISONS, children: CHILDREN }
    }

    /// Adds an error.
    pub fn error(&mut self, code: Code, span: Span, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.faults.push(Fault { span, diagnostic: Diagnostic::error(code, message).hint(hint) });
    }

    /// Adds a warning.
    pub fn warning(&mut self, code: Code, span: Span, message: impl Into<String>, hint: impl Into<Option<String>>) {
        let diagnostic = Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message).hint(hint) };
        self.faults.push(Fault { span, diagnostic });
    }

    /// Says how many faults there are; a later, larger number means that something was found in between.
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    pub fn has_errors(&self) -> bool {
        self.faults.iter().any(|fault| fault.diagnostic.is_error())
    }

    /// Says whether so many children may still be looked at, and counts them.
    pub fn may_look_at(&mut self, children: u64) -> bool {
        let left = self.children.checked_sub(children);
        self.children = left.unwrap_or(self.children);
        left.is_some()
    }

    /// Asks "did you mean", where one of the candidates is near.
    pub fn did_you_mean<'c>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
        self.nearest(word, candidates).map(|found| format!("did you mean {}?", quote(found)))
    }

    /// Gives the candidate that a word was probably meant to be.
    pub fn nearest<'c>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
        nearest(
            word,
            candidates.into_iter().take_while(|_| {
                let left = self.comparisons > 0;
                self.comparisons = self.comparisons.saturating_sub(1);
                left
            }),
        )
    }

    /// Gives the faults in file order, each with its place.
    pub fn finish(mut self, text: &str) -> Vec<Diagnostic> {
        self.faults.sort_by_key(|fault| fault.span.start);
        let all = self.faults.len();
        if all > MOST {
            self.faults.sort_by_key(|fault| fault.diagnostic.severity);
            self.faults.truncate(MOST);
            self.faults.sort_by_key(|fault| fault.span.start);
        }
        let mut walk = Walk::default();
        let mut diagnostics: Vec<Diagnostic> = self
            .faults
            .into_iter()
            .map(|Fault { span, diagnostic }| Diagnostic { place: Some(walk.place(text, span)), ..diagnostic })
            .collect();
        if all > MOST {
            let message = format!("{} more faults are not listed", all - MOST);
            diagnostics
                .push(Diagnostic::error(Code::TooMany, message).hint("mend these first, then check again".to_owned()));
        }
        diagnostics
    }
}

/// Turns bytes into lines and columns in one pass over the text: spans come in order.
#[derive(Default)]
struct Walk {
    at: usize,
    line: u32,
    column: u32,
}

impl Walk {
    fn place(&mut self, text: &str, span: Span) -> Place {
        let start = span.start.min(text.len());
        if let Some(passed) = text.get(self.at..start) {
            for c in passed.chars() {
                if c == '\n' {
                    self.line += 1;
                    self.column = 0;
                } else {
                    self.column += 1;
                }
            }
            self.at = start;
        }
        // A caret line is cut anyway; counting further would make a file of one long line slow.
        const LONGEST: usize = 200;
        let marked = text.get(start..span.end.min(text.len())).unwrap_or_default();
        let length = marked.chars().take(LONGEST).take_while(|c| *c != '\n').count().max(1);
        Place { line: self.line + 1, column: self.column + 1, length: length as u32, offset: start }
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect())
    }

    /// Gives the line of a byte, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at) + 1
    }
}

/// Gives the candidate that a word was probably meant to be: at most a third of its letters differ.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST && candidate.len().abs_diff(word.len()) <= 2 * allowed)
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Lists words for a hint: a few of them, then how many there are.
pub(super) fn list<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    const SHOWN: usize = 16;
    // Each of many faults may list as many words, and nobody needs the count.
    const COUNTED: usize = 1_000;
    let words: Vec<&str> = words.into_iter().take(COUNTED).collect();
    let mut out = words.iter().take(SHOWN).map(|word| quote(word)).collect::<Vec<_>>().join(", ");
    if words.len() == COUNTED {
        out.push_str(" and many more");
    } else if words.len() > SHOWN {
        out.push_str(&format!(" and {} more", words.len() - SHOWN));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        let tasks = ["features", "clean", "rfm"];
        assert_eq!(nearest("featurs", tasks), Some("features"));
        assert_eq!(nearest("Clean", tasks), Some("clean"));
        assert_eq!(nearest("rmf", tasks), Some("rfm"));
        assert_eq!(nearest("x", tasks), None);
        assert_eq!(nearest("report", tasks), None);
        assert_eq!(nearest(&"c".repeat(1_000_000), tasks), None);
    }

    #[test]
    fn faults_come_in_file_order_with_lines_and_columns_in_characters() {
        let text = "é = 1\nb = 2\n";
        let mut faults = Faults::new();
        faults.error(Code::UnknownKey, Span { start: 7, end: 8 }, "second", None);
        faults.warning(Code::UnknownKey, Span { start: 5, end: 6 }, "first", None);
        let places: Vec<_> = faults
            .finish(text)
            .into_iter()
            .map(|fault| fault.place.map(|place| (fault.message, place.line, place.column)).unwrap())
            .collect();
        assert_eq!(places, [("first".to_owned(), 1, 5), ("second".to_owned(), 2, 1)]);
    }

    #[test]
    fn when_there_are_too_many_faults_warnings_give_way_to_errors() {
        let mut faults = Faults::new();
        for _ in 0..MOST {
            faults.warning(Code::UnusedParam, Span::default(), "warning", None);
        }
        faults.error(Code::NoTasks, Span { start: 1, end: 1 }, "error", None);
        let listed = faults.finish("text");
        assert_eq!(listed.len(), MOST + 1);
        assert!(listed.iter().any(|fault| fault.code == Code::NoTasks));
        assert_eq!(listed.last().unwrap().code, Code::TooMany);
    }
}
