//! TOML text to a tree that keeps the span of every key and value.
//!
//! Built on the event parser beneath `toml_edit` instead of its document, for two reasons: every fault of the grammar
//! is reported and not the first alone, and time stays linear (`toml_edit` takes a table out of the middle of its
//! parent whenever `[a]` follows `[a.b]`). A property test compares the two on mutated files.

use std::{borrow::Cow, collections::HashMap};

use toml_parser::{
    ErrorSink as _, ParseError, Source,
    decoder::ScalarKind,
    parser::{Event, EventKind, RecursionGuard, ValidateWhitespace},
};

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Lines, Span},
    syntax::Errors,
};

/// Deepest nesting of arrays and inline tables, and longest dotted key.
const DEEPEST: u32 = 80;

/// Index of a table in its [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableId(usize);

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub span: Span,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Date,
    List(Vec<Node>),
    Table(TableId),
    /// `[[name]]`, which nothing in a pipeline file is.
    Tables(Vec<TableId>),
}

impl Value {
    /// Gives the type, with its article, for messages.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Tables(_) => "a list of tables",
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub node: Node,
}

/// How a table came to be, which decides what may still be added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// `[a]`, or the top of the file.
    Header,
    /// `a` of `[a.b]`: may get its own header later.
    Implicit,
    /// `a` of `a.b = 1`.
    Dotted,
    /// `{ … }`: closed for ever.
    Inline,
}

/// A table; its entries are in the order in which they were first mentioned.
#[derive(Debug)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
    index: HashMap<String, usize>,
    origin: Origin,
}

impl Table {
    fn new(origin: Origin) -> Self {
        Self { entries: Vec::new(), index: HashMap::new(), origin }
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.index.get(key).map(|&at| &self.entries[at])
    }
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Tree {
    tables: Vec<Table>,
}

impl Tree {
    /// Gives the table at the top of the file.
    pub fn root(&self) -> &Table {
        &self.tables[0]
    }

    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0]
    }
}

/// Parses a text. Faults of the grammar give no tree; a key that occurs twice is reported and its second value dropped.
pub(super) fn parse(text: &str, faults: &mut Faults) -> Option<Tree> {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut errors = Errors::default();
    let mut events: Vec<Event> = Vec::with_capacity(tokens.len());
    let mut receiver = ValidateWhitespace::new(&mut events, source);
    let mut receiver = RecursionGuard::new(&mut receiver, DEEPEST);
    toml_parser::parser::parse_document(&tokens, &mut receiver, &mut errors);
    drop(tokens);

    let mut builder = Builder {
        source,
        events: &events,
        at: 0,
        tree: Tree { tables: vec![Table::new(Origin::Header)] },
        current: TableId(0),
        errors,
        repeated: Vec::new(),
    };
    builder.document();
    let Builder { tree, errors, repeated, .. } = builder;
    let lines = Lines::new(text);
    for Repeated { name, span, first } in repeated {
        let hint = format!("first defined on line {}", lines.line(first.start));
        faults.error(Code::Duplicate, span, format!("{} is defined twice", quote(&name)), hint);
    }
    let grammatical = errors.is_empty();
    errors.report(text, &lines, faults);
    grammatical.then_some(tree)
}

/// Makes the tree of the events of a parse. After a fault of the grammar the tree is thrown away, so that all that
/// matters then is to report what else is wrong and not to panic.
struct Builder<'t> {
    source: Source<'t>,
    events: &'t [Event],
    at: usize,
    tree: Tree,
    /// The table that keys are added to.
    current: TableId,
    errors: Errors,
    repeated: Vec<Repeated>,
}

/// A key that was there already.
struct Repeated {
    name: String,
    span: Span,
    first: Span,
}

/// A part of a dotted key.
struct Key {
    text: String,
    span: Span,
}

fn span(event: &Event) -> Span {
    let span = event.span();
    Span { start: span.start(), end: span.end() }
}

impl<'t> Builder<'t> {
    fn document(&mut self) {
        while let Some(event) = self.next() {
            match event.kind() {
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                    self.header(event.kind() == EventKind::ArrayTableOpen)
                }
                EventKind::SimpleKey => {
                    let path = self.path(event);
                    if let Some(value) = self.value_after_key() {
                        self.insert(self.current, path, value);
                    }
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Option<&'t Event> {
        let event = self.events.get(self.at);
        self.at += 1;
        event
    }

    /// Reads the rest of a dotted key, up to but without what follows it.
    fn path(&mut self, first: &Event) -> Vec<Key> {
        let mut path = vec![self.key(first)];
        while let Some(event) = self.events.get(self.at) {
            match event.kind() {
                EventKind::SimpleKey => path.push(self.key(event)),
                EventKind::KeySep | EventKind::Whitespace => {}
                _ => break,
            }
            self.at += 1;
        }
        if path.len() > DEEPEST as usize {
            let span = toml_parser::Span::new_unchecked(path[0].span.start, path[0].span.end);
            self.errors.report_error(ParseError::new("a dotted key of more than 80 parts").with_unexpected(span));
            path.truncate(DEEPEST as usize);
        }
        path
    }

    fn key(&mut self, event: &Event) -> Key {
        let mut text = Cow::Borrowed("");
        if let Some(raw) = self.source.get(event) {
            raw.decode_key(&mut text, &mut self.errors);
        }
        Key { text: text.into_owned(), span: span(event) }
    }

    /// Reads `= value`. Nothing where the grammar broke before a value came.
    fn value_after_key(&mut self) -> Option<Node> {
        while let Some(event) = self.events.get(self.at) {
            match event.kind() {
                EventKind::KeyValSep | EventKind::Whitespace => self.at += 1,
                EventKind::Scalar | EventKind::ArrayOpen | EventKind::InlineTableOpen => {
                    self.at += 1;
                    return Some(self.value(event));
                }
                _ => return None,
            }
        }
        None
    }

    /// Reads the value that an event opens. Recursion is as deep as the guard lets the parser go.
    fn value(&mut self, event: &Event) -> Node {
        match event.kind() {
            EventKind::ArrayOpen => self.array(event),
            EventKind::InlineTableOpen => self.inline(event),
            _ => Node { span: span(event), value: self.scalar(event) },
        }
    }

    fn array(&mut self, open: &Event) -> Node {
        let mut items = Vec::new();
        let mut end = open.span().end();
        while let Some(event) = self.next() {
            end = event.span().end();
            match event.kind() {
                EventKind::Scalar | EventKind::ArrayOpen | EventKind::InlineTableOpen => items.push(self.value(event)),
                EventKind::ArrayClose => break,
                _ => {}
            }
        }
        Node { span: Span { start: open.span().start(), end }, value: Value::List(items) }
    }

    fn inline(&mut self, open: &Event) -> Node {
        let table = self.add(Origin::Inline);
        let mut end = open.span().end();
        while let Some(event) = self.next() {
            end = event.span().end();
            match event.kind() {
                EventKind::SimpleKey => {
                    let path = self.path(event);
                    if let Some(value) = self.value_after_key() {
                        self.insert(table, path, value);
                    }
                }
                EventKind::InlineTableClose => break,
                _ => {}
            }
        }
        Node { span: Span { start: open.span().start(), end }, value: Value::Table(table) }
    }

    fn scalar(&mut self, event: &Event) -> Value {
        let mut text = Cow::Borrowed("");
        let Some(raw) = self.source.get(event) else { return Value::Date };
        let kind = raw.decode_scalar(&mut text, &mut self.errors);
        let mut bad = |what: &'static str| {
            self.errors.report_error(ParseError::new(what).with_unexpected(event.span()));
            Value::Date
        };
        match kind {
            ScalarKind::String => Value::Text(text.into_owned()),
            ScalarKind::Boolean(value) => Value::Bool(value),
            ScalarKind::Integer(radix) => match i64::from_str_radix(&text, radix.value()) {
                Ok(value) => Value::Int(value),
                Err(_) => bad("a whole number beyond 64 bits"),
            },
            ScalarKind::Float => match text.parse::<f64>() {
                Ok(value) if value.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) => {
                    bad("a number beyond what 64 bits hold")
                }
                Ok(value) => Value::Float(value),
                Err(_) => bad("not a number"),
            },
            // Nothing in a pipeline file takes a date, so its digits are not looked at.
            ScalarKind::DateTime => Value::Date,
        }
    }

    fn add(&mut self, origin: Origin) -> TableId {
        self.tree.tables.push(Table::new(origin));
        TableId(self.tree.tables.len() - 1)
    }

    fn put(&mut self, table: TableId, key: Key, node: Node) {
        let table = &mut self.tree.tables[table.0];
        table.index.insert(key.text.clone(), table.entries.len());
        table.entries.push(Entry { key: key.text, key_span: key.span, node });
    }

    fn repeat(&mut self, key: &Key, table: TableId) {
        let first = self.tree.table(table).get(&key.text).map_or(key.span, |entry| entry.key_span);
        self.repeated.push(Repeated { name: key.text.clone(), span: key.span, first });
    }

    /// Adds `path = node` to a table.
    fn insert(&mut self, table: TableId, mut path: Vec<Key>, node: Node) {
        let Some(last) = path.pop() else { return };
        let mut table = table;
        for key in path {
            let next = match self.tree.table(table).get(&key.text).map(|entry| &entry.node.value) {
                None => {
                    let new = self.add(Origin::Dotted);
                    let node = Node { span: key.span, value: Value::Table(new) };
                    self.put(table, key, node);
                    new
                }
                Some(&Value::Table(next)) if self.tree.table(next).origin == Origin::Dotted => next,
                Some(&Value::Table(next)) if self.tree.table(next).origin == Origin::Implicit => {
                    self.tree.tables[next.0].origin = Origin::Dotted;
                    next
                }
                Some(_) => return self.repeat(&key, table),
            };
            table = next;
        }
        if self.tree.table(table).get(&last.text).is_some() {
            return self.repeat(&last, table);
        }
        self.put(table, last, node);
    }

    /// Reads `[path]` or `[[path]]` and makes its table the current one.
    fn header(&mut self, array: bool) {
        let mut path = Vec::new();
        while let Some(event) = self.next() {
            match event.kind() {
                EventKind::SimpleKey => path = self.path(event),
                EventKind::StdTableClose | EventKind::ArrayTableClose | EventKind::Newline => break,
                _ => {}
            }
        }
        self.current = match self.open(path, array) {
            Some(table) => table,
            // What follows a repeated header is read, but belongs to nothing.
            None => self.add(Origin::Header),
        };
    }

    fn open(&mut self, mut path: Vec<Key>, array: bool) -> Option<TableId> {
        let last = path.pop()?;
        let mut table = TableId(0);
        for key in path {
            table = match self.tree.table(table).get(&key.text).map(|entry| &entry.node.value) {
                None => {
                    let new = self.add(Origin::Implicit);
                    let node = Node { span: key.span, value: Value::Table(new) };
                    self.put(table, key, node);
                    new
                }
                Some(&Value::Table(next)) if self.tree.table(next).origin != Origin::Inline => next,
                Some(Value::Tables(tables)) => *tables.last()?,
                Some(_) => {
                    self.repeat(&key, table);
                    return None;
                }
            };
        }
        let at = self.tree.table(table).index.get(&last.text).copied();
        let Some(at) = at else {
            let new = self.add(Origin::Header);
            let value = if array { Value::Tables(vec![new]) } else { Value::Table(new) };
            let node = Node { span: last.span, value };
            self.put(table, last, node);
            return Some(new);
        };
        if array {
            if matches!(self.tree.table(table).entries[at].node.value, Value::Tables(_)) {
                let new = self.add(Origin::Header);
                if let Value::Tables(tables) = &mut self.tree.tables[table.0].entries[at].node.value {
                    tables.push(new);
                }
                return Some(new);
            }
        } else if let Value::Table(existing) = self.tree.table(table).entries[at].node.value
            && self.tree.table(existing).origin == Origin::Implicit
        {
            self.tree.tables[existing.0].origin = Origin::Header;
            let entry = &mut self.tree.tables[table.0].entries[at];
            entry.key_span = last.span;
            entry.node.span = last.span;
            return Some(existing);
        }
        self.repeat(&last, table);
        None
    }
}
