//! Tokens to a tree, by precedence climbing.

use super::{
    ExprError, LONGEST,
    ast::{Ast, Function, Id, Kind, Macro, Op, Span},
    lex::{Token, lex},
};
use crate::spec::nearest;

/// Deepest nesting of brackets and the like.
const DEEPEST_NESTING: u32 = 48;
/// Deepest tree, which chains such as `a + b + c` make too.
const DEEPEST_TREE: u32 = 200;

/// Words that CEL keeps for itself: no name may be one of them.
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn parse(text: &str) -> Result<Ast, ExprError> {
    if text.len() > LONGEST {
        let message = format!("the expression has {} bytes, and at most {LONGEST} are taken", text.len());
        return Err(ExprError::new(message, Span::default()));
    }
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, at: 0, ast: Ast::new(), nesting: 0 };
    if parser.token() == &Token::End {
        return Err(ExprError::new("the expression is empty", Span { start: 0, end: text.len() }));
    }
    let root = parser.expression()?;
    if parser.token() == &Token::End {
        Ok(parser.ast.rooted(root))
    } else {
        Err(parser.unexpected("an operator or the end"))
    }
}

struct Parser {
    /// Ends with [`Token::End`], beyond which nothing steps.
    tokens: Vec<(Token, Span)>,
    at: usize,
    ast: Ast,
    nesting: u32,
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn span(&self) -> Span {
        self.tokens[self.at].1
    }

    fn step(&mut self) -> Span {
        let span = self.span();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        span
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.token(), Token::Sign(found) if *found == sign)
    }

    fn eat(&mut self, sign: &str) -> Option<Span> {
        self.is(sign).then(|| self.step())
    }

    fn expect(&mut self, sign: &str) -> Result<Span, ExprError> {
        self.eat(sign).ok_or_else(|| self.unexpected(&format!("`{sign}`")))
    }

    /// Says what stands where something else should.
    fn unexpected(&self, wanted: &str) -> ExprError {
        let (message, hint) = match self.token() {
            Token::End => (format!("the expression ends where {wanted} should be"), None),
            Token::Word(word) => {
                let hint = match word.to_ascii_lowercase().as_str() {
                    "and" => Some("\"and\" is written &&"),
                    "or" => Some("\"or\" is written ||"),
                    "not" => Some("\"not\" is written !"),
                    "is" => Some("equality is written =="),
                    _ => None,
                };
                (format!("`{}` where {wanted} should be", clip(word)), hint)
            }
            Token::Sign(sign) => (format!("`{sign}` where {wanted} should be"), None),
            Token::Int(_) | Token::Double(_) => (format!("a number where {wanted} should be"), None),
            Token::Text(_) => (format!("text where {wanted} should be"), None),
        };
        let fault = ExprError::new(message, self.span());
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    fn add(&mut self, kind: Kind, span: Span) -> Result<Id, ExprError> {
        let (id, depth) = self.ast.add(kind, span);
        if depth > DEEPEST_TREE {
            return Err(ExprError::new(format!("more than {DEEPEST_TREE} operations inside each other"), span)
                .hint("a long list of values is searched with `in`"));
        }
        Ok(id)
    }

    fn of(&self, id: Id) -> Span {
        self.ast.node(id).span
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, ExprError>) -> Result<T, ExprError> {
        if self.nesting == DEEPEST_NESTING {
            let message = format!("nested more than {DEEPEST_NESTING} deep");
            return Err(ExprError::new(message, self.span()));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    /// `or ? expression : expression`
    fn expression(&mut self) -> Result<Id, ExprError> {
        self.nested(|parser| {
            let when = parser.or()?;
            if parser.eat("?").is_none() {
                return Ok(when);
            }
            let then = parser.or()?;
            parser.expect(":")?;
            let otherwise = parser.expression()?;
            let span = parser.of(when).to(parser.of(otherwise));
            parser.add(Kind::Choice { when, then, otherwise }, span)
        })
    }

    fn or(&mut self) -> Result<Id, ExprError> {
        let first = self.and()?;
        if !self.is("||") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.eat("||").is_some() {
            all.push(self.and()?);
        }
        let span = self.of(first).to(self.of(all[all.len() - 1]));
        self.add(Kind::Any(all), span)
    }

    fn and(&mut self) -> Result<Id, ExprError> {
        let first = self.binary(0)?;
        if !self.is("&&") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.eat("&&").is_some() {
            all.push(self.binary(0)?);
        }
        let span = self.of(first).to(self.of(all[all.len() - 1]));
        self.add(Kind::All(all), span)
    }

    /// Operators from a strength on: comparisons 0, sums 1, products 2.
    fn binary(&mut self, weakest: u8) -> Result<Id, ExprError> {
        let mut left = self.unary()?;
        while let Some((op, strength)) = self.operator().filter(|(_, strength)| *strength >= weakest) {
            self.step();
            let right = self.binary(strength + 1)?;
            let span = self.of(left).to(self.of(right));
            left = self.add(Kind::Binary { op, left, right }, span)?;
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(Op, u8)> {
        Some(match self.token() {
            Token::Word(word) if word == "in" => (Op::In, 0),
            Token::Sign(sign) => match *sign {
                "==" => (Op::Equal, 0),
                "!=" => (Op::NotEqual, 0),
                "<" => (Op::Less, 0),
                "<=" => (Op::LessOrEqual, 0),
                ">" => (Op::Greater, 0),
                ">=" => (Op::GreaterOrEqual, 0),
                "+" => (Op::Add, 1),
                "-" => (Op::Subtract, 1),
                "*" => (Op::Multiply, 2),
                "/" => (Op::Divide, 2),
                "%" => (Op::Remainder, 2),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn unary(&mut self) -> Result<Id, ExprError> {
        let start = self.span();
        if self.eat("!").is_some() {
            return self.nested(|parser| {
                let of = parser.unary()?;
                let span = start.to(parser.of(of));
                parser.add(Kind::Not(of), span)
            });
        }
        if self.eat("-").is_some() {
            // The smallest number has no positive counterpart, so its sign belongs to it.
            if let Token::Int(digits) = *self.token() {
                let span = start.to(self.step());
                let value = 0_i64.checked_sub_unsigned(digits).ok_or_else(|| too_large(span))?;
                let literal = self.add(Kind::Int(value), span)?;
                return self.member(literal);
            }
            return self.nested(|parser| {
                let of = parser.unary()?;
                let span = start.to(parser.of(of));
                parser.add(Kind::Minus(of), span)
            });
        }
        let primary = self.primary()?;
        self.member(primary)
    }

    /// Fields, indices and calls after an operand.
    fn member(&mut self, mut of: Id) -> Result<Id, ExprError> {
        loop {
            if self.eat(".").is_some() {
                let name_span = self.span();
                let Token::Word(field) = self.token().clone() else { return Err(self.unexpected("a name")) };
                if matches!(field.as_str(), "in" | "true" | "false" | "null") {
                    let hint = format!("write [\"{field}\"] for a field of this name");
                    return Err(self.unexpected("a name").hint(hint));
                }
                self.step();
                if self.is("(") {
                    of = self.method(of, &field, name_span)?;
                } else {
                    let span = self.of(of).to(name_span);
                    of = self.add(Kind::Field { of, field }, span)?;
                }
            } else if self.eat("[").is_some() {
                let at = self.expression()?;
                let close = self.expect("]")?;
                let span = self.of(of).to(close);
                of = self.add(Kind::Index { of, at }, span)?;
            } else {
                return Ok(of);
            }
        }
    }

    fn primary(&mut self) -> Result<Id, ExprError> {
        let span = self.span();
        match self.token().clone() {
            Token::Int(digits) => {
                self.step();
                let value = i64::try_from(digits).map_err(|_| too_large(span))?;
                self.add(Kind::Int(value), span)
            }
            Token::Double(value) => {
                self.step();
                self.add(Kind::Double(value), span)
            }
            Token::Text(text) => {
                self.step();
                self.add(Kind::Text(text), span)
            }
            Token::Word(word) => self.word(word),
            Token::Sign("(") => {
                self.step();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                self.step();
                let items = self.list("]")?;
                let close = self.expect("]")?;
                self.add(Kind::List(items), span.to(close))
            }
            Token::Sign("{") => {
                self.step();
                let mut entries = Vec::new();
                while !self.is("}") {
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((key, self.expression()?));
                    if self.eat(",").is_none() {
                        break;
                    }
                }
                let close = self.expect("}")?;
                self.add(Kind::Map(entries), span.to(close))
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Items up to a closing bracket, which stays; a comma may follow the last.
    fn list(&mut self, close: &str) -> Result<Vec<Id>, ExprError> {
        let mut items = Vec::new();
        while !self.is(close) {
            items.push(self.expression()?);
            if self.eat(",").is_none() {
                break;
            }
        }
        Ok(items)
    }

    fn word(&mut self, word: String) -> Result<Id, ExprError> {
        let span = self.span();
        let kind = match word.as_str() {
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            "null" => Kind::Null,
            "has" if matches!(self.tokens.get(self.at + 1), Some((Token::Sign("("), _))) => return self.has(),
            word if RESERVED.contains(&word) => {
                let message = format!("`{word}` is a reserved word");
                let fault = ExprError::new(message, span);
                return Err(match word {
                    "if" | "else" => fault.hint("a choice is written: condition ? value : other"),
                    _ => fault,
                });
            }
            word if word.eq_ignore_ascii_case("not") => return Err(self.unexpected("a value")),
            _ => {
                self.step();
                if !self.is("(") {
                    return self.add(Kind::Name(word), span);
                }
                return self.function(&word, span);
            }
        };
        self.step();
        self.add(kind, span)
    }

    /// `has(a.b)`
    fn has(&mut self) -> Result<Id, ExprError> {
        let start = self.step();
        self.expect("(")?;
        let argument = self.expression()?;
        let span = start.to(self.expect(")")?);
        let node = self.ast.node(argument);
        let kind = match &node.kind {
            Kind::Field { of, field } => Some((*of, field.clone())),
            // A field whose name cannot be written after a dot.
            Kind::Index { of, at } => match &self.ast.node(*at).kind {
                Kind::Text(field) => Some((*of, field.clone())),
                _ => None,
            },
            _ => None,
        };
        let Some((of, field)) = kind else {
            let fault = ExprError::new("`has` asks for a field", node.span);
            return Err(fault.hint("write has(params.NAME)"));
        };
        self.add(Kind::Has { of, field }, span)
    }

    fn function(&mut self, name: &str, span: Span) -> Result<Id, ExprError> {
        let function = Function::ALL.into_iter().find(|function| function.name() == name);
        let Some((function, count)) = function.and_then(|function| Some((function, function.takes(false)?))) else {
            if let Some(method) = function {
                let fault = ExprError::new(format!("`{name}` is written after its text"), span);
                return Err(fault.hint(format!("text.{}(…)", method.name())));
            }
            let known = Function::ALL.into_iter().filter(|function| function.takes(false).is_some());
            return Err(unknown(name, span, known.map(Function::name).chain(["has"])));
        };
        let (arguments, close) = self.arguments()?;
        self.call(function, count, arguments, 0, span.to(close))
    }

    fn method(&mut self, of: Id, name: &str, name_span: Span) -> Result<Id, ExprError> {
        if let Some(kind) = Macro::ALL.into_iter().find(|kind| kind.name() == name) {
            return self.comprehension(of, kind, name_span);
        }
        let function = Function::ALL.into_iter().find(|function| function.name() == name);
        let Some((function, count)) = function.and_then(|function| Some((function, function.takes(true)?))) else {
            if function.is_some() {
                let fault = ExprError::new(format!("`{name}` stands before its value"), name_span);
                return Err(fault.hint(format!("write {name}(…)")));
            }
            let known = Function::ALL.into_iter().filter(|function| function.takes(true).is_some());
            let known = known.map(Function::name).chain(Macro::ALL.map(Macro::name));
            return Err(unknown(name, name_span, known));
        };
        let (mut arguments, close) = self.arguments()?;
        arguments.insert(0, of);
        let span = self.of(of).to(close);
        self.call(function, count, arguments, 1, span)
    }

    fn arguments(&mut self) -> Result<(Vec<Id>, Span), ExprError> {
        self.expect("(")?;
        let arguments = self.list(")")?;
        Ok((arguments, self.expect(")")?))
    }

    fn call(
        &mut self,
        function: Function,
        count: usize,
        arguments: Vec<Id>,
        receivers: usize,
        span: Span,
    ) -> Result<Id, ExprError> {
        let given = arguments.len() - receivers;
        if given != count {
            let message = format!("`{}` takes {count} argument(s) here, found {given}", function.name());
            return Err(ExprError::new(message, span));
        }
        // A pattern that is written out is checked now.
        if function == Function::Matches
            && let Kind::Text(pattern) = &self.ast.node(arguments[1]).kind
            && let Err(reason) = super::functions::pattern(pattern)
        {
            let message = format!("not a regular expression: {reason}");
            return Err(ExprError::new(message, self.of(arguments[1])));
        }
        self.add(Kind::Call { function, arguments }, span)
    }

    /// `of.all(name, body)`; `map` may have a filter before its body.
    fn comprehension(&mut self, of: Id, kind: Macro, name_span: Span) -> Result<Id, ExprError> {
        self.expect("(")?;
        let variable = self.span();
        let Token::Word(name) = self.token().clone() else { return Err(self.unexpected("the name of an item")) };
        if RESERVED.contains(&name.as_str()) || matches!(name.as_str(), "true" | "false" | "null") {
            return Err(self.unexpected("the name of an item"));
        }
        if matches!(name.as_str(), "params" | "tasks" | "run") {
            let message = format!("`{name}` has a meaning already");
            return Err(ExprError::new(message, variable).hint("take another name for the item"));
        }
        self.step();
        self.expect(",")?;
        let mut body = self.expression()?;
        let mut filter = None;
        if kind == Macro::Map && self.eat(",").is_some() {
            filter = Some(body);
            body = self.expression()?;
        }
        let close = self
            .eat(")")
            .ok_or_else(|| self.unexpected("`)`").hint(format!("write list.{}(x, condition of x)", kind.name())))?;
        let span = Span { start: self.of(of).start, end: close.end.max(name_span.end) };
        self.add(Kind::Macro { kind, over: of, name, filter, body }, span)
    }
}

fn too_large(span: Span) -> ExprError {
    ExprError::new("not a whole number of 64 bits", span)
}

fn unknown<'n>(name: &str, span: Span, known: impl Iterator<Item = &'n str>) -> ExprError {
    let known: Vec<&str> = known.collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    ExprError::new(format!("there is no function `{}`", clip(name)), span).hint(hint)
}

/// Keeps a long name from filling a message.
fn clip(word: &str) -> String {
    const LONGEST: usize = 40;
    if word.chars().count() <= LONGEST { word.to_owned() } else { word.chars().take(LONGEST).chain(['…']).collect() }
}
