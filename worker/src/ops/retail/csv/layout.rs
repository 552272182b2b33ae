//! Where the records of a CSV begin and end, before anything is parsed.
//!
//! One pass finds the records that a CSV reader would choke on, so that one bad line costs one row and keeps its number.
//! A tidy body is handed on as it is; an untidy one is rewritten.

use std::{borrow::Cow, io::BufRead};

/// A quoted field that runs longer than this was never closed.
const MAX_RECORD_BYTES: usize = 256 * 1024;

/// A row that was dropped, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Line of the file, from 1.
    pub line: u64,
    pub reason: String,
}

/// The records of a body.
#[derive(Debug)]
pub struct Layout<'a> {
    /// One record a row, each of the right number of fields, quoted strictly, ended by a line feed alone.
    pub body: Cow<'a, str>,
    /// Records in `body`.
    pub rows: usize,
    /// Records left out of `body`, in file order.
    pub ragged: Vec<BadRow>,
    lines: Lines,
}

#[derive(Debug)]
enum Lines {
    /// Row `i` is on line `first + i`.
    Straight {
        first: u64,
    },
    Listed(Vec<u64>),
}

impl Layout<'_> {
    /// Gives the line of the file on which row `row` of `body` begins.
    #[must_use]
    pub fn line_of(&self, row: usize) -> u64 {
        match &self.lines {
            Lines::Straight { first } => first + row as u64,
            Lines::Listed(lines) => lines.get(row).copied().unwrap_or(0),
        }
    }
}

/// Finds the records of `text`, whose first line is line `first_line` of the file, and which should have `fields` fields.
#[must_use]
pub fn lay_out(text: &str, fields: usize, first_line: u64) -> Layout<'_> {
    let mut scan = Scan { text, rewritten: None, lines: None, rows: 0, first_line };
    let mut ragged = Vec::new();
    let (mut at, mut line) = (0, first_line);
    while at < text.len() {
        let rest = &text[at..];
        let length = line_length(rest);
        let physical = trim_end_of_line(&rest[..length]);
        let (commas, quoted) = count(physical.as_bytes());
        if !quoted {
            match commas + 1 {
                _ if physical.trim().is_empty() => scan.leave_out(at),
                found if found == fields => scan.take(at, at + length, physical, line),
                found => {
                    scan.leave_out(at);
                    ragged.push(BadRow { line, reason: format!("{found} fields instead of {fields}") });
                }
            }
            (at, line) = (at + length, line + 1);
            continue;
        }
        let record = measure(rest);
        // Over several lines quotes must be strict: else a stray one has met the quote of another record.
        if record.closed && record.fields == fields && (record.strict || record.newlines == 1) {
            let inside = trim_end_of_line(&rest[..record.length]);
            if record.strict {
                scan.take(at, at + record.length, inside, line);
            } else {
                scan.take(at, at + record.length, &requote(inside), line);
            }
            if record.newlines > 1 {
                scan.list_lines();
            }
            (at, line) = (at + record.length, line + record.newlines);
        } else {
            // Only this line is given up: a stray quote must not swallow the records after it.
            let reason = match (record.closed, record.newlines > 1) {
                (true, false) => format!("{} fields instead of {fields}", record.fields),
                _ => "a quote is opened and not closed".to_owned(),
            };
            scan.leave_out(at);
            ragged.push(BadRow { line, reason });
            (at, line) = (at + length, line + 1);
        }
    }
    scan.finish(ragged)
}

/// Splits one record, the first of `text`, into its fields. Gives them, the bytes and the lines it takes.
#[must_use]
pub fn first_record(text: &str) -> (Vec<String>, usize, u64) {
    let record = measure(text);
    let (length, newlines) = if record.closed { (record.length, record.newlines) } else { (line_length(text), 1) };
    (split(trim_end_of_line(&text[..length])), length, newlines)
}

/// The state of a pass: what was copied so far, if anything had to be.
struct Scan<'a> {
    text: &'a str,
    rewritten: Option<String>,
    lines: Option<Vec<u64>>,
    rows: usize,
    first_line: u64,
}

impl<'a> Scan<'a> {
    fn take(&mut self, from: usize, to: usize, record: &str, line: u64) {
        let as_it_is = self.text[from..to].strip_suffix('\n').unwrap_or(&self.text[from..to]) == record;
        if !as_it_is {
            self.copy_until(from);
        }
        if let Some(copy) = &mut self.rewritten {
            copy.push_str(record);
            copy.push('\n');
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
        self.rows += 1;
    }

    fn leave_out(&mut self, from: usize) {
        self.copy_until(from);
        self.list_lines();
    }

    /// Starts the copy with everything before `at`, which was fine as it was.
    fn copy_until(&mut self, at: usize) {
        if self.rewritten.is_none() {
            let mut copy = String::with_capacity(self.text.len() + 1);
            copy.push_str(&self.text[..at]);
            self.rewritten = Some(copy);
        }
    }

    /// From here on lines are listed one by one; the rows before lie straight.
    fn list_lines(&mut self) {
        let (rows, first) = (self.rows as u64, self.first_line);
        self.lines.get_or_insert_with(|| (0..rows).map(|row| first + row).collect());
    }

    fn finish(self, ragged: Vec<BadRow>) -> Layout<'a> {
        Layout {
            body: self.rewritten.map_or(Cow::Borrowed(self.text), Cow::Owned),
            rows: self.rows,
            ragged,
            lines: self.lines.map_or(Lines::Straight { first: self.first_line }, Lines::Listed),
        }
    }
}

/// Bytes of the first line, its line feed included.
fn line_length(text: &str) -> usize {
    // The standard library searches here with the vectorised `memchr` of the platform.
    let mut bytes = text.as_bytes();
    bytes.skip_until(b'\n').expect("reading from memory cannot fail")
}

fn trim_end_of_line(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// Counts commas, and says whether there is any quote. Written so that the compiler vectorises it.
fn count(line: &[u8]) -> (usize, bool) {
    let (mut commas, mut quotes) = (0usize, 0u8);
    for piece in line.chunks(255) {
        let mut in_piece = 0u8;
        for byte in piece {
            in_piece += u8::from(*byte == b',');
            quotes |= u8::from(*byte == b'"');
        }
        commas += usize::from(in_piece);
    }
    (commas, quotes != 0)
}

struct Record {
    /// Bytes, the line feed included.
    length: usize,
    newlines: u64,
    fields: usize,
    /// Every quote is the first or last of its field, or doubled inside one.
    strict: bool,
    /// The record ended before the text and the limit did.
    closed: bool,
}

/// Measures the first record of `text` as spreadsheets understand it: a quote opens a field only at its start.
fn measure(text: &str) -> Record {
    let bytes = &text.as_bytes()[..text.len().min(MAX_RECORD_BYTES)];
    let mut record = Record { length: bytes.len(), newlines: 0, fields: 1, strict: true, closed: true };
    let (mut at, mut field_start, mut inside) = (0, true, false);
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        if inside {
            match byte {
                b'"' if bytes.get(at) == Some(&b'"') => at += 1,
                b'"' => {
                    inside = false;
                    let after = bytes.get(at).copied();
                    let ends = match after {
                        None | Some(b',' | b'\n') => true,
                        Some(b'\r') => matches!(bytes.get(at + 1), None | Some(b'\n')),
                        Some(_) => false,
                    };
                    record.strict &= ends;
                }
                b'\n' => record.newlines += 1,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' if field_start => inside = true,
            b'"' => record.strict = false,
            b',' => record.fields += 1,
            b'\n' => {
                record.newlines += 1;
                record.length = at;
                return record;
            }
            _ => {}
        }
        field_start = byte == b',';
    }
    record.newlines += 1;
    // The end of the file ends a record too, unless a quote is open or the limit cut it.
    record.closed = !inside && bytes.len() == text.len();
    record
}

/// Splits a record without its end of line.
fn split(record: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut field_start, mut inside) = (true, false);
    let mut chars = record.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is always a field");
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if inside => inside = false,
            '"' if field_start => inside = true,
            ',' if !inside => {
                fields.push(String::new());
                field_start = true;
                continue;
            }
            c => field.push(c),
        }
        field_start = false;
    }
    fields
}

/// Writes a record with every field quoted.
fn requote(record: &str) -> String {
    let fields: Vec<_> = split(record).iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
    fields.join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn reasons(layout: &Layout<'_>) -> Vec<(u64, String)> {
        layout.ragged.iter().map(|bad| (bad.line, bad.reason.clone())).collect()
    }

    #[test]
    fn a_tidy_body_is_not_copied() {
        let layout = lay_out("1,2\n\"a \"\"b\"\", c\",\n3,4", 2, 2);
        assert!(matches!(layout.body, Cow::Borrowed(_)));
        assert_eq!((layout.rows, layout.line_of(2)), (3, 4));
    }

    #[test]
    fn carriage_returns_and_blank_lines_are_removed_and_lines_keep_their_numbers() {
        let layout = lay_out("1,2\r\n\r\n3,4\r\n   \n5,\"6\"\r\n", 2, 2);
        assert_eq!(layout.body, "1,2\n3,4\n5,\"6\"\n");
        assert_eq!([0, 1, 2].map(|row| layout.line_of(row)), [2, 4, 6]);
    }

    #[test]
    fn a_quoted_line_feed_moves_the_lines_after_it() {
        let layout = lay_out("1,\"a\nb\"\n2,c\n", 2, 2);
        assert_eq!((layout.rows, layout.line_of(0), layout.line_of(1)), (2, 2, 4));
        assert!(matches!(layout.body, Cow::Borrowed(_)));
    }

    #[test]
    fn records_of_another_width_are_left_out_with_line_and_reason() {
        let layout = lay_out("1,2\n3\n4,5,6\n7,8\n9", 2, 2);
        assert_eq!(layout.body, "1,2\n7,8\n");
        let bad = |line, found: u32| (line, format!("{found} fields instead of 2"));
        assert_eq!(reasons(&layout), [bad(3, 1), bad(4, 3), bad(6, 1)]);
        assert_eq!(layout.line_of(1), 5);
    }

    #[test]
    fn a_quote_inside_a_plain_field_is_text() {
        let layout = lay_out("1,12\" PLATE\n2,\"a\"b\n", 2, 2);
        assert_eq!(layout.body, "\"1\",\"12\"\" PLATE\"\n\"2\",\"ab\"\n");
        assert!(layout.ragged.is_empty());
    }

    #[test]
    fn an_open_quote_costs_its_own_line_only() {
        let layout = lay_out("1,\"open\n2,b\n3,\"c\"\n4,\"never\n", 2, 2);
        assert_eq!(layout.body, "2,b\n3,\"c\"\n");
        let open = "a quote is opened and not closed".to_owned();
        assert_eq!(reasons(&layout), [(2, open.clone()), (5, open)]);
    }

    #[test]
    fn the_first_record_is_split_with_its_quotes_resolved() {
        let (fields, length, lines) = first_record("\"a \"\"x\"\"\",b,\" c\nd\"\r\n1,2,3\n");
        assert_eq!(fields, ["a \"x\"", "b", " c\nd"]);
        assert_eq!((length, lines), (20, 2));
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_records_of_the_right_width(text in "[a,\"\n\r£ ]{0,200}") {
            let layout = lay_out(&text, 3, 1);
            let mut rest = &*layout.body;
            let mut rows = 0;
            while !rest.is_empty() {
                let (fields, length, _) = first_record(rest);
                proptest::prop_assert_eq!(fields.len(), 3);
                rest = &rest[length..];
                rows += 1;
            }
            proptest::prop_assert_eq!(rows, layout.rows);
        }
    }
}
