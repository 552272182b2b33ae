//! A tree and a scope to a value, in a bounded number of steps.

use std::{cmp::Ordering, rc::Rc};

use serde_json::{Map, Value as Json};

use super::{
    EvalError, Scope,
    ast::{Ast, Function, Id, Kind, Macro, Op},
    functions::{self, Patterns, quoted},
    value::{self, List, Table, Text, Value},
};

/// Steps of one evaluation: a node, an item that is looked at, some bytes of text. A tenth of a second at most.
const MOST_STEPS: u64 = 1_000_000;
/// Bytes of text that count as one step.
const BYTES: usize = 16;
/// Steps of compiling a regular expression.
const PATTERN: u64 = 5_000;

type Outcome<'a> = Result<Value<'a>, EvalError>;

pub(super) fn eval(ast: &Ast, text: &str, scope: &Scope<'_>) -> Result<Json, EvalError> {
    let mut machine = Machine { ast, text, scope, names: Vec::new(), steps: 0, patterns: Patterns::default() };
    let value = machine.value(ast.root())?;
    machine.json(&value, ast.root())
}

struct Machine<'a, 'e> {
    ast: &'e Ast,
    text: &'e str,
    scope: &'e Scope<'a>,
    /// Items of the macros around, the innermost last.
    names: Vec<(&'e str, Value<'a>)>,
    steps: u64,
    patterns: Patterns,
}

impl<'a, 'e> Machine<'a, 'e> {
    fn fault(&self, at: Id, message: impl Into<String>) -> EvalError {
        EvalError { message: message.into(), offset: self.ast.node(at).span.start }
    }

    fn source(&self, at: Id) -> String {
        let span = self.ast.node(at).span;
        quoted(self.text.get(span.start..span.end).unwrap_or_default())
    }

    fn spend(&mut self, steps: u64, at: Id) -> Result<(), EvalError> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MOST_STEPS {
            return Err(self.fault(at, format!("the expression takes more than {MOST_STEPS} steps")));
        }
        Ok(())
    }

    fn read(&mut self, bytes: usize, at: Id) -> Result<(), EvalError> {
        self.spend((bytes / BYTES) as u64, at)
    }

    /// Recursion is as deep as the tree, which the parser bounds.
    fn value(&mut self, id: Id) -> Outcome<'a> {
        self.spend(1, id)?;
        let ast = self.ast;
        Ok(match &ast.node(id).kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => Value::Int(*value),
            Kind::Double(value) => Value::Double(*value),
            Kind::Text(text) => {
                self.read(text.len(), id)?;
                functions::own(text)
            }
            Kind::Name(name) => self.name(name, id)?,
            Kind::Field { of, field } => match self.field(*of, field)? {
                Some(value) => value,
                None => return Err(self.fault(id, format!("{} has no {}", self.source(*of), quoted(field)))),
            },
            Kind::Has { of, field } => Value::Bool(self.field(*of, field)?.is_some()),
            Kind::Index { of, at } => self.index(*of, *at)?,
            Kind::List(items) => {
                let items = items.iter().map(|item| self.value(*item)).collect::<Result<Vec<_>, _>>()?;
                Value::List(List::Own(items.into()))
            }
            Kind::Map(entries) => self.map(entries)?,
            Kind::Not(of) => Value::Bool(!self.truth(*of, "!")?),
            Kind::Minus(of) => match self.value(*of)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or_else(|| self.overflow(id))?),
                Value::Double(value) => Value::Double(-value),
                other => return Err(self.fault(id, format!("{} has no negative", other.kind()))),
            },
            Kind::Binary { op, left, right } => self.binary(*op, *left, *right, id)?,
            Kind::All(all) => Value::Bool(self.each(all, "&&", false)?),
            Kind::Any(all) => Value::Bool(self.each(all, "||", true)?),
            Kind::Choice { when, then, otherwise } => {
                let chosen = if self.truth(*when, "?")? { *then } else { *otherwise };
                self.value(chosen)?
            }
            Kind::Call { function, arguments } => self.call(*function, arguments, id)?,
            Kind::Macro { kind, over, name, filter, body } => self.comprehension(*kind, *over, name, *filter, *body)?,
        })
    }

    fn name(&mut self, name: &str, at: Id) -> Outcome<'a> {
        if let Some((_, value)) = self.names.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        let scope = self.scope;
        let missing = || self.fault(at, format!("`{name}` is for the children of a fan-out"));
        Ok(match name {
            "params" => Value::Map(Table::Lent(scope.params)),
            "tasks" => Value::Map(Table::Lent(scope.tasks)),
            "run" => Value::Map(Table::Lent(scope.run)),
            "item" => scope.item.map(Value::from).ok_or_else(missing)?,
            "key" => Value::Text(Text::Lent(scope.key.ok_or_else(missing)?)),
            "index" => Value::Int(i64::from(scope.index.ok_or_else(missing)?)),
            _ => return Err(self.fault(at, format!("there is no {}", quoted(name)))),
        })
    }

    /// Gives a field; nothing where the map does not have it.
    fn field(&mut self, of: Id, field: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self.value(of)? {
            Value::Map(map) => {
                if let Table::Own(entries) = &map {
                    self.spend(entries.len() as u64, of)?;
                }
                Ok(map.get(field))
            }
            other => {
                let message = format!("{} is {}, which has no {}", self.source(of), other.kind(), quoted(field));
                Err(self.fault(of, message))
            }
        }
    }

    fn index(&mut self, of: Id, at: Id) -> Outcome<'a> {
        let holder = self.value(of)?;
        let index = self.value(at)?;
        match (&holder, &index) {
            (Value::Map(map), Value::Text(key)) => {
                self.spend(if matches!(map, Table::Own(_)) { map.len() as u64 } else { 0 }, of)?;
                map.get(key.as_str())
                    .ok_or_else(|| self.fault(at, format!("{} has no {}", self.source(of), quoted(key.as_str()))))
            }
            (Value::List(items), Value::Int(number)) => {
                usize::try_from(*number).ok().and_then(|at| items.get(at)).ok_or_else(|| {
                    let message = format!("{} has {} items and no [{number}]", self.source(of), items.len());
                    self.fault(at, message)
                })
            }
            (Value::Map(_), other) => {
                Err(self.fault(at, format!("the keys of {} are text, not {}", self.source(of), other.kind())))
            }
            (Value::List(_), other) => {
                Err(self.fault(at, format!("{} is indexed by whole numbers, not {}", self.source(of), other.kind())))
            }
            (other, _) => Err(self.fault(of, format!("{} is {}, which has no items", self.source(of), other.kind()))),
        }
    }

    fn map(&mut self, entries: &[(Id, Id)]) -> Outcome<'a> {
        let mut made: Vec<(Text<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let name = match self.value(*key)? {
                Value::Text(name) => name,
                other => return Err(self.fault(*key, format!("a key of a map must be text, not {}", other.kind()))),
            };
            self.spend(made.len() as u64, *key)?;
            if made.iter().any(|(known, _)| known.as_str() == name.as_str()) {
                return Err(self.fault(*key, format!("the key {} occurs twice", quoted(name.as_str()))));
            }
            let value = self.value(*value)?;
            made.push((name, value));
        }
        Ok(Value::Map(Table::Own(made.into())))
    }

    fn truth(&mut self, id: Id, sign: &str) -> Result<bool, EvalError> {
        match self.value(id)? {
            Value::Bool(value) => Ok(value),
            other => {
                Err(self.fault(id, format!("{} is {}, and `{sign}` takes booleans", self.source(id), other.kind())))
            }
        }
    }

    /// `&&` is decided by one false, `||` by one true, even where another operand is at fault.
    fn each(&mut self, all: &[Id], sign: &str, decides: bool) -> Result<bool, EvalError> {
        let mut fault = None;
        for id in all {
            match self.truth(*id, sign) {
                Ok(value) if value == decides => return Ok(decides),
                Ok(_) => {}
                Err(error) => self.keep(&mut fault, error)?,
            }
        }
        fault.map_or(Ok(!decides), Err)
    }

    /// Keeps the first fault for later, unless the steps are used up: nothing may go on then.
    fn keep(&self, fault: &mut Option<EvalError>, error: EvalError) -> Result<(), EvalError> {
        if self.steps > MOST_STEPS {
            return Err(error);
        }
        fault.get_or_insert(error);
        Ok(())
    }

    fn overflow(&self, id: Id) -> EvalError {
        self.fault(id, format!("{} goes beyond whole numbers of 64 bits", self.source(id)))
    }

    fn binary(&mut self, op: Op, left: Id, right: Id, id: Id) -> Outcome<'a> {
        let a = self.value(left)?;
        let b = self.value(right)?;
        match op {
            Op::Equal => Ok(Value::Bool(self.equal(&a, &b, id)?)),
            Op::NotEqual => Ok(Value::Bool(!self.equal(&a, &b, id)?)),
            Op::In => self.contains(&a, &b, right).map(Value::Bool),
            Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
                if let (Value::Text(a), Value::Text(b)) = (&a, &b) {
                    self.read(a.as_str().len().min(b.as_str().len()), id)?;
                }
                let Some(order) = a.order(&b) else { return Err(self.no_such(op, &a, &b, id)) };
                Ok(Value::Bool(match (op, order) {
                    (_, None) => false,
                    (Op::Less, Some(order)) => order == Ordering::Less,
                    (Op::LessOrEqual, Some(order)) => order != Ordering::Greater,
                    (Op::Greater, Some(order)) => order == Ordering::Greater,
                    (_, Some(order)) => order != Ordering::Less,
                }))
            }
            Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder => self.arithmetic(op, a, b, id),
        }
    }

    fn no_such(&self, op: Op, a: &Value<'_>, b: &Value<'_>, id: Id) -> EvalError {
        self.fault(id, format!("`{}` does not go between {} and {}", op.sign(), a.kind(), b.kind()))
    }

    fn arithmetic(&mut self, op: Op, a: Value<'a>, b: Value<'a>, id: Id) -> Outcome<'a> {
        match (op, a, b) {
            (_, Value::Int(a), Value::Int(b)) => {
                if b == 0 && matches!(op, Op::Divide | Op::Remainder) {
                    return Err(self.fault(id, format!("{} divides by zero", self.source(id))));
                }
                let value = match op {
                    Op::Add => a.checked_add(b),
                    Op::Subtract => a.checked_sub(b),
                    Op::Multiply => a.checked_mul(b),
                    Op::Divide => a.checked_div(b),
                    _ => a.checked_rem(b),
                };
                value.map(Value::Int).ok_or_else(|| self.overflow(id))
            }
            (Op::Add, Value::Text(a), Value::Text(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                self.read(a.len() + b.len(), id)?;
                Ok(Value::Text(Text::Own([a, b].concat().into())))
            }
            (Op::Add, Value::List(a), Value::List(b)) => {
                self.spend((a.len() + b.len()) as u64, id)?;
                let all: Rc<[Value<'a>]> =
                    (0..a.len()).filter_map(|n| a.get(n)).chain((0..b.len()).filter_map(|n| b.get(n))).collect();
                Ok(Value::List(List::Own(all)))
            }
            (op, a, b) => {
                let number = |value: &Value<'_>| match value {
                    Value::Int(value) => Some(*value as f64),
                    Value::Double(value) => Some(*value),
                    _ => None,
                };
                let (Some(x), Some(y)) = (number(&a), number(&b)) else { return Err(self.no_such(op, &a, &b, id)) };
                Ok(Value::Double(match op {
                    Op::Add => x + y,
                    Op::Subtract => x - y,
                    Op::Multiply => x * y,
                    Op::Divide => x / y,
                    _ => return Err(self.no_such(op, &a, &b, id)),
                }))
            }
        }
    }

    /// Values of different types differ, but a whole number may equal a double.
    fn equal(&mut self, a: &Value<'a>, b: &Value<'a>, at: Id) -> Result<bool, EvalError> {
        self.spend(1, at)?;
        match (a, b) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Text(a), Value::Text(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                self.read(if a.len() == b.len() { a.len() } else { 0 }, at)?;
                Ok(a == b)
            }
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for n in 0..a.len() {
                    let (Some(x), Some(y)) = (a.get(n), b.get(n)) else { return Ok(false) };
                    if !self.equal(&x, &y, at)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for key in a.keys() {
                    self.spend(b.len().min(64) as u64, at)?;
                    let (Some(x), Some(y)) = (a.get(key.as_str()), b.get(key.as_str())) else { return Ok(false) };
                    if !self.equal(&x, &y, at)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (a, b) => Ok(a.order(b) == Some(Some(Ordering::Equal))),
        }
    }

    fn contains(&mut self, wanted: &Value<'a>, holder: &Value<'a>, at: Id) -> Result<bool, EvalError> {
        match (wanted, holder) {
            (wanted, Value::List(items)) => {
                for n in 0..items.len() {
                    let Some(item) = items.get(n) else { break };
                    if self.equal(wanted, &item, at)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Value::Text(key), Value::Map(map)) => {
                self.spend(map.len().min(64) as u64, at)?;
                Ok(map.get(key.as_str()).is_some())
            }
            (_, Value::Map(_)) => Ok(false),
            (_, Value::Text(_)) => Err(self.fault(at, format!("{} is text: write text.contains(…)", self.source(at)))),
            (_, other) => {
                Err(self.fault(at, format!("{} is {}, which `in` does not search", self.source(at), other.kind())))
            }
        }
    }

    fn call(&mut self, function: Function, arguments: &[Id], id: Id) -> Outcome<'a> {
        let mut values = Vec::with_capacity(2);
        for argument in arguments {
            values.push(self.value(*argument)?);
        }
        let (first, second) = match (values.len(), values.pop(), values.pop()) {
            (2, Some(second), Some(first)) => (first, second),
            (1, Some(only), None) => {
                if let Value::Text(text) = &only {
                    self.read(text.as_str().len(), id)?;
                }
                return functions::convert(function, only).map_err(|message| self.fault(id, message));
            }
            // The parser counts arguments.
            _ => return Err(self.fault(id, "a call with a wrong number of arguments")),
        };
        let (Value::Text(text), Value::Text(argument)) = (&first, &second) else {
            let message = format!("`{}` takes two texts, not {} and {}", function.name(), first.kind(), second.kind());
            return Err(self.fault(id, message));
        };
        let (text, argument) = (text.as_str(), argument.as_str());
        self.read(text.len() + argument.len(), id)?;
        if function != Function::Matches {
            return Ok(Value::Bool(functions::on_texts(function, text, argument)));
        }
        if !self.patterns.has(argument) {
            self.spend(PATTERN, id)?;
        }
        // Matching is linear, but its automaton is slower than a comparison.
        self.read(text.len().saturating_mul(8), id)?;
        match self.patterns.get(argument) {
            Ok(pattern) => Ok(Value::Bool(pattern.is_match(text))),
            Err(reason) => Err(self.fault(id, format!("{} is not a regular expression: {reason}", quoted(argument)))),
        }
    }

    /// Applies a macro to every item of a list, or to every key of a map.
    fn comprehension(&mut self, kind: Macro, over: Id, name: &'e str, filter: Option<Id>, body: Id) -> Outcome<'a> {
        let items = match self.value(over)? {
            Value::List(items) => items,
            Value::Map(map) => {
                self.spend(map.len() as u64, over)?;
                List::Own(map.keys().into_iter().map(Value::Text).collect())
            }
            other => {
                let message =
                    format!("{} is {}, which `{}` does not walk", self.source(over), other.kind(), kind.name());
                return Err(self.fault(over, message));
            }
        };
        let mut made: Vec<Value<'a>> = Vec::new();
        let mut hits = 0_u64;
        let mut fault = None;
        for n in 0..items.len() {
            let Some(item) = items.get(n) else { break };
            self.names.push((name, item.clone()));
            let outcome = self.visit(kind, filter, body);
            self.names.pop();
            match (kind, outcome) {
                (Macro::All, Ok(Some(Value::Bool(false)))) => return Ok(Value::Bool(false)),
                (Macro::Exists, Ok(Some(Value::Bool(true)))) => return Ok(Value::Bool(true)),
                (Macro::All | Macro::Exists, Ok(_)) => {}
                (Macro::All | Macro::Exists, Err(error)) => self.keep(&mut fault, error)?,
                (_, Err(error)) => return Err(error),
                (Macro::ExistsOne, Ok(Some(Value::Bool(true)))) => hits += 1,
                (Macro::Filter, Ok(Some(Value::Bool(true)))) => made.push(item),
                (Macro::Map, Ok(Some(value))) => made.push(value),
                (Macro::ExistsOne | Macro::Filter | Macro::Map, Ok(_)) => {}
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        Ok(match kind {
            Macro::All => Value::Bool(true),
            Macro::Exists => Value::Bool(false),
            Macro::ExistsOne => Value::Bool(hits == 1),
            Macro::Filter | Macro::Map => Value::List(List::Own(made.into())),
        })
    }

    /// Evaluates the body for one item; nothing where the filter of `map` leaves the item out.
    fn visit(&mut self, kind: Macro, filter: Option<Id>, body: Id) -> Result<Option<Value<'a>>, EvalError> {
        if kind != Macro::Map {
            return self.truth(body, kind.name()).map(|value| Some(Value::Bool(value)));
        }
        if let Some(filter) = filter
            && !self.truth(filter, kind.name())?
        {
            return Ok(None);
        }
        self.value(body).map(Some)
    }

    fn json(&mut self, value: &Value<'a>, at: Id) -> Result<Json, EvalError> {
        self.spend(1, at)?;
        Ok(match value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Double(value) => value::number(*value)
                .ok_or_else(|| self.fault(at, format!("the value is {value}, which is not a number of JSON")))?,
            Value::Text(text) => {
                self.read(text.as_str().len(), at)?;
                Json::from(text.as_str())
            }
            Value::List(items) => {
                let mut made = Vec::new();
                for n in 0..items.len() {
                    if let Some(item) = items.get(n) {
                        made.push(self.json(&item, at)?);
                    }
                }
                Json::Array(made)
            }
            Value::Map(map) => {
                let mut made = Map::new();
                for key in map.keys() {
                    if let Some(value) = map.get(key.as_str()) {
                        let value = self.json(&value, at)?;
                        made.insert(key.as_str().to_owned(), value);
                    }
                }
                Json::Object(made)
            }
        })
    }
}
