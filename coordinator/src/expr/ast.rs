//! The tree of an expression, in one list: nodes name their parts by index, so that nothing recurses to free it.

/// A range of bytes of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// Covers both spans and what lies between them.
    pub const fn to(self, other: Self) -> Self {
        Self { start: self.start, end: other.end }
    }
}

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub kind: Kind,
    pub span: Span,
    /// Nodes on the longest way down, this one included.
    depth: u32,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Name(String),
    /// `of.field`
    Field {
        of: Id,
        field: String,
    },
    /// `has(of.field)`
    Has {
        of: Id,
        field: String,
    },
    /// `of[at]`
    Index {
        of: Id,
        at: Id,
    },
    List(Vec<Id>),
    Map(Vec<(Id, Id)>),
    Not(Id),
    Minus(Id),
    Binary {
        op: Op,
        left: Id,
        right: Id,
    },
    /// `a && b && c`
    All(Vec<Id>),
    /// `a || b || c`
    Any(Vec<Id>),
    Choice {
        when: Id,
        then: Id,
        otherwise: Id,
    },
    Call {
        function: Function,
        /// The receiver first, where there is one.
        arguments: Vec<Id>,
    },
    /// `over.all(name, body)`
    Macro {
        kind: Macro,
        over: Id,
        name: String,
        /// Of `map` with three arguments.
        filter: Option<Id>,
        body: Id,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Op {
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    Matches,
    Int,
    Double,
    Text,
    Bool,
}

impl Function {
    pub const ALL: [Self; 9] = [
        Self::Size,
        Self::StartsWith,
        Self::EndsWith,
        Self::Contains,
        Self::Matches,
        Self::Int,
        Self::Double,
        Self::Text,
        Self::Bool,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Contains => "contains",
            Self::Matches => "matches",
            Self::Int => "int",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bool => "bool",
        }
    }

    /// Says how many arguments a call takes, and whether it is written `f(x)` or `x.f()`.
    pub const fn takes(self, receiver: bool) -> Option<usize> {
        match (self, receiver) {
            (Self::Size, false) | (Self::Int | Self::Double | Self::Text | Self::Bool, false) => Some(1),
            (Self::Size, true) => Some(0),
            (Self::StartsWith | Self::EndsWith | Self::Contains | Self::Matches, true) => Some(1),
            (Self::Matches, false) => Some(2),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl Macro {
    pub const ALL: [Self; 5] = [Self::All, Self::Exists, Self::ExistsOne, Self::Filter, Self::Map];

    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exists => "exists",
            Self::ExistsOne => "exists_one",
            Self::Filter => "filter",
            Self::Map => "map",
        }
    }
}

/// A parsed text.
#[derive(Debug, Clone)]
pub(super) struct Ast {
    nodes: Vec<Node>,
    root: Id,
}

impl Ast {
    pub const fn new() -> Self {
        Self { nodes: Vec::new(), root: Id(0) }
    }

    /// Adds a node and says how deep the tree is below it. An expression is short, so that its nodes are few.
    pub fn add(&mut self, kind: Kind, span: Span) -> (Id, u32) {
        let below = parts(&kind).into_iter().map(|id| self.node(id).depth).max().unwrap_or(0);
        let depth = below + 1;
        self.nodes.push(Node { kind, span, depth });
        (Id(self.nodes.len() as u32 - 1), depth)
    }

    /// Says which node the whole text is.
    pub const fn rooted(mut self, root: Id) -> Self {
        self.root = root;
        self
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub const fn root(&self) -> Id {
        self.root
    }

    /// Gives the type of the value with its article, where that is sure.
    pub fn kind(&self) -> Option<&'static str> {
        let (mut open, mut found) = (vec![self.root], None);
        while let Some(at) = open.pop() {
            let kind = match &self.node(at).kind {
                // One kind only if both ways have it.
                Kind::Choice { then, otherwise, .. } => {
                    open.extend([*then, *otherwise]);
                    continue;
                }
                Kind::Null => "null",
                Kind::Int(_) | Kind::Double(_) | Kind::Minus(_) => "a number",
                Kind::Text(_) => "text",
                Kind::List(_) => "a list",
                Kind::Map(_) => "a map",
                Kind::Binary { op: Op::Add, .. } => "a sum",
                Kind::Binary { op: Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder, .. } => "a number",
                Kind::Call { function: Function::Size | Function::Int | Function::Double, .. } => "a number",
                Kind::Call { function: Function::Text, .. } => "text",
                Kind::Macro { kind: Macro::Filter | Macro::Map, .. } => "a list",
                Kind::Bool(_) | Kind::Has { .. } | Kind::Not(_) | Kind::Binary { .. } | Kind::All(_) | Kind::Any(_) => {
                    "a boolean"
                }
                Kind::Call { .. } | Kind::Macro { .. } => "a boolean",
                Kind::Name(_) | Kind::Field { .. } | Kind::Index { .. } => return None,
            };
            if found.replace(kind).is_some_and(|before| before != kind) {
                return None;
            }
        }
        found
    }
}

/// Gives the nodes that a node consists of.
pub(super) fn parts(kind: &Kind) -> Vec<Id> {
    match kind {
        Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Double(_) | Kind::Text(_) | Kind::Name(_) => Vec::new(),
        Kind::Field { of, .. } | Kind::Has { of, .. } => vec![*of],
        Kind::Index { of, at } => vec![*of, *at],
        Kind::List(items) | Kind::All(items) | Kind::Any(items) => items.clone(),
        Kind::Map(entries) => entries.iter().flat_map(|(key, value)| [*key, *value]).collect(),
        Kind::Not(of) | Kind::Minus(of) => vec![*of],
        Kind::Binary { left, right, .. } => vec![*left, *right],
        Kind::Choice { when, then, otherwise } => vec![*when, *then, *otherwise],
        Kind::Call { arguments, .. } => arguments.clone(),
        Kind::Macro { over, filter, body, .. } => {
            let mut all = vec![*over, *body];
            all.extend(filter);
            all
        }
    }
}
