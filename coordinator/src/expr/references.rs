//! What an expression reads, found without evaluating it.

use super::ast::{Ast, Id, Kind, Op, Span, parts};

/// A name that an expression reads, and where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub name: String,
    /// Bytes of the expression.
    pub offset: usize,
    pub length: usize,
}

/// What an expression reads of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskUse {
    pub task: String,
    pub part: Part,
    /// Bytes of the expression, from `tasks` on.
    pub offset: usize,
    pub length: usize,
}

/// A part of what is known of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    State,
    Children,
    Output(String),
    /// `outputs` without a name: any of them.
    Outputs,
    /// Nothing that a task has.
    Unknown(String),
    /// The task and no part of it.
    Whole,
}

/// A comparison of a task's state with a word, or with each word of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateTest {
    pub task: String,
    pub words: Vec<Use>,
}

/// What an expression reads, in the order of the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub params: Vec<Use>,
    /// Where `params` stands without a name: any parameter may be read.
    pub any_param: Option<Use>,
    pub tasks: Vec<TaskUse>,
    /// Where `tasks` stands without a name: any task may be read.
    pub any_task: Option<Use>,
    /// `item`, `key` and `index`: the value differs between the children of a fan-out.
    pub item: Vec<Use>,
    /// `id`, `state`, or empty for `run` as a whole.
    pub run: Vec<Use>,
    /// Names that mean nothing.
    pub unknown: Vec<Use>,
    pub states: Vec<StateTest>,
}

pub(super) fn of(ast: &Ast) -> References {
    let mut walk = Walk { ast, bound: Vec::new(), found: References::default() };
    walk.visit(ast.root());
    let mut found = walk.found;
    found.params.sort_by_key(|use_| use_.offset);
    found.tasks.sort_by_key(|use_| use_.offset);
    found.unknown.sort_by_key(|use_| use_.offset);
    found
}

struct Walk<'e> {
    ast: &'e Ast,
    /// Names of the items of the macros around.
    bound: Vec<&'e str>,
    found: References,
}

/// A name followed by fields: `tasks.check.outputs`.
struct Chain<'e> {
    root: &'e str,
    span: Span,
    fields: Vec<(&'e str, Span)>,
}

impl<'e> Walk<'e> {
    /// Recursion is as deep as the tree, which the parser bounds.
    fn visit(&mut self, id: Id) {
        let ast = self.ast;
        let kind = &ast.node(id).kind;
        if let Some(chain) = self.chain(id) {
            self.chained(&chain);
            return;
        }
        if let Kind::Binary { op, left, right } = kind {
            self.states(*op, *left, *right);
        }
        if let Kind::Macro { over, name, filter, body, .. } = kind {
            self.visit(*over);
            self.bound.push(name);
            filter.iter().for_each(|filter| self.visit(*filter));
            self.visit(*body);
            self.bound.pop();
            return;
        }
        parts(kind).into_iter().for_each(|part| self.visit(part));
    }

    /// Gives the chain that a node is the end of, where its root is a name of the scope.
    fn chain(&self, id: Id) -> Option<Chain<'e>> {
        let ast = self.ast;
        let mut fields = Vec::new();
        let mut at = id;
        loop {
            let node = ast.node(at);
            match &node.kind {
                Kind::Name(name) => {
                    fields.reverse();
                    let free = !self.bound.contains(&name.as_str());
                    return free.then_some(Chain { root: name, span: node.span, fields });
                }
                Kind::Field { of, field } | Kind::Has { of, field } => {
                    fields.push((field.as_str(), node.span));
                    at = *of;
                }
                Kind::Index { of, at: index } => match &ast.node(*index).kind {
                    Kind::Text(field) => {
                        fields.push((field, node.span));
                        at = *of;
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    fn chained(&mut self, chain: &Chain<'_>) {
        let found = &mut self.found;
        let until =
            |fields: usize| chain.fields.get(fields.wrapping_sub(1)).map_or(chain.span.end, |(_, span)| span.end);
        let use_of = |name: &str, fields: usize| Use {
            name: name.to_owned(),
            offset: chain.span.start,
            length: until(fields).saturating_sub(chain.span.start),
        };
        let first = chain.fields.first().map(|(name, _)| *name);
        match (chain.root, first) {
            ("params", Some(name)) => found.params.push(use_of(name, 1)),
            ("params", None) => drop(found.any_param.get_or_insert(use_of("params", 0))),
            ("tasks", Some(task)) => {
                let (part, fields) = match (chain.fields.get(1), chain.fields.get(2)) {
                    (None, _) => (Part::Whole, 1),
                    (Some(("state", _)), _) => (Part::State, 2),
                    (Some(("children", _)), _) => (Part::Children, 2),
                    (Some(("outputs", _)), None) => (Part::Outputs, 2),
                    (Some(("outputs", _)), Some((output, _))) => (Part::Output((*output).to_owned()), 3),
                    (Some((other, _)), _) => (Part::Unknown((*other).to_owned()), 2),
                };
                let Use { offset, length, .. } = use_of(task, fields);
                found.tasks.push(TaskUse { task: task.to_owned(), part, offset, length });
            }
            ("tasks", None) => drop(found.any_task.get_or_insert(use_of("tasks", 0))),
            ("item" | "key" | "index", _) => found.item.push(use_of(chain.root, 0)),
            ("run", field) => found.run.push(use_of(field.unwrap_or_default(), usize::from(field.is_some()))),
            (name, _) => found.unknown.push(use_of(name, 0)),
        }
    }

    /// Notes `tasks.x.state == "failed"` and `tasks.x.state in ["failed", "skipped"]`.
    fn states(&mut self, op: Op, left: Id, right: Id) {
        let (state, words) = match op {
            Op::Equal | Op::NotEqual => match (self.state_of(left), self.state_of(right)) {
                (Some(task), None) => (task, vec![right]),
                (None, Some(task)) => (task, vec![left]),
                _ => return,
            },
            Op::In => match (self.state_of(left), &self.ast.node(right).kind) {
                (Some(task), Kind::List(items)) => (task, items.clone()),
                _ => return,
            },
            _ => return,
        };
        let written = |word: Id| {
            let node = self.ast.node(word);
            let Kind::Text(text) = &node.kind else { return None };
            let length = node.span.end - node.span.start;
            Some(Use { name: text.clone(), offset: node.span.start, length })
        };
        // Where one of them is not written out, nothing is known of the comparison.
        if let Some(words) = words.into_iter().map(written).collect() {
            self.found.states.push(StateTest { task: state, words });
        }
    }

    fn state_of(&self, id: Id) -> Option<String> {
        let chain = self.chain(id)?;
        match (chain.root, chain.fields.as_slice()) {
            ("tasks", [(task, _), ("state", _)]) => Some((*task).to_owned()),
            _ => None,
        }
    }
}
