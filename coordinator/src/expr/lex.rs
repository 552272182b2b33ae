//! Text to tokens.

use super::{ExprError, ast::Span};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// The digits of a whole number: its sign decides whether it fits.
    Int(u64),
    Double(f64),
    Text(String),
    /// A name or a word such as `in`.
    Word(String),
    Sign(&'static str),
    End,
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: [&str; 23] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{",
];

/// Splits a text; the last token is its end.
pub(super) fn lex(text: &str) -> Result<Vec<(Token, Span)>, ExprError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.0 == Token::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, wanted: impl Fn(char) -> bool) -> usize {
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += length;
        length
    }

    fn fault(&self, start: usize, message: impl Into<String>) -> ExprError {
        ExprError::new(message, Span { start, end: self.at })
    }

    fn next(&mut self) -> Result<(Token, Span), ExprError> {
        loop {
            self.eat(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}'));
            if !self.rest().starts_with("//") {
                break;
            }
            self.eat(|c| c != '\n');
        }
        let start = self.at;
        let Some(first) = self.peek() else { return Ok((Token::End, Span { start, end: start })) };
        let token = match first {
            '0'..='9' => self.number()?,
            '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            '"' | '\'' => self.string(start, false)?,
            '_' | 'a'..='z' | 'A'..='Z' => self.word(start)?,
            _ => self.sign(start, first)?,
        };
        Ok((token, Span { start, end: self.at }))
    }

    fn sign(&mut self, start: usize, first: char) -> Result<Token, ExprError> {
        if let Some(sign) = SIGNS.iter().chain(&["}"]).find(|sign| self.rest().starts_with(**sign)) {
            self.at += sign.len();
            return Ok(Token::Sign(sign));
        }
        self.at += first.len_utf8();
        let shown = if first.is_control() { first.escape_default().to_string() } else { first.to_string() };
        let fault = self.fault(start, format!("`{shown}` means nothing here"));
        Err(match first {
            '=' => fault.hint("equality is written =="),
            '&' => fault.hint("\"and\" is written &&"),
            '|' => fault.hint("\"or\" is written ||"),
            '$' => fault.hint("an expression names parameters without ${ }: params.NAME"),
            '“' | '”' | '‘' | '’' | '`' => fault.hint("text stands in straight quotes: 'text'"),
            _ => fault,
        })
    }

    fn number(&mut self) -> Result<Token, ExprError> {
        let start = self.at;
        if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.at += 2;
            let digits = self.at;
            self.eat(|c| c.is_ascii_hexdigit());
            let value = u64::from_str_radix(&self.text[digits..self.at], 16);
            self.no_word_follows(start)?;
            return value.map(Token::Int).map_err(|_| self.fault(start, "not a whole number of 64 bits"));
        }
        self.eat(|c| c.is_ascii_digit());
        let mut double = false;
        // `1.f()` is a call, `1.5` is a number.
        if self.rest().starts_with('.') && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) {
            double = true;
            self.at += 1;
            self.eat(|c| c.is_ascii_digit());
        }
        if self.rest().starts_with(['e', 'E']) {
            double = true;
            self.at += 1;
            if self.rest().starts_with(['+', '-']) {
                self.at += 1;
            }
            if self.eat(|c| c.is_ascii_digit()) == 0 {
                return Err(self.fault(start, "an exponent without digits"));
            }
        }
        self.no_word_follows(start)?;
        let digits = &self.text[start..self.at];
        if double {
            return match digits.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Token::Double(value)),
                _ => Err(self.fault(start, "a number beyond what 64 bits hold")),
            };
        }
        digits.parse().map(Token::Int).map_err(|_| self.fault(start, "not a whole number of 64 bits"))
    }

    fn no_word_follows(&mut self, start: usize) -> Result<(), ExprError> {
        if self.peek().is_some_and(|c| c == '_' || c.is_ascii_alphanumeric()) {
            let word = self.at;
            self.eat(|c| c == '_' || c.is_ascii_alphanumeric());
            let fault = self.fault(start, "letters directly after a number");
            return Err(match &self.text[word..self.at] {
                "u" | "U" => fault.hint("there are no unsigned numbers here: leave out the u"),
                _ => fault,
            });
        }
        Ok(())
    }

    fn word(&mut self, start: usize) -> Result<Token, ExprError> {
        self.eat(|c| c == '_' || c.is_ascii_alphanumeric());
        let word = &self.text[start..self.at];
        if self.rest().starts_with(['"', '\'']) {
            return match word {
                "r" | "R" => self.string(start, true),
                "b" | "B" => Err(self.fault(start, "there are no bytes here").hint("leave out the b")),
                _ => Err(self.fault(start, "a name directly before a string")),
            };
        }
        Ok(Token::Word(word.to_owned()))
    }

    /// Reads a string from its quote on; `raw` ones have no escapes.
    fn string(&mut self, start: usize, raw: bool) -> Result<Token, ExprError> {
        let quote = if self.rest().starts_with('"') { '"' } else { '\'' };
        let triple: String = [quote; 3].iter().collect();
        let long = self.rest().starts_with(&triple);
        self.at += if long { 3 } else { 1 };
        let mut value = String::new();
        loop {
            if long && self.rest().starts_with(&triple) {
                self.at += 3;
                return Ok(Token::Text(value));
            }
            let at = self.at;
            let Some(c) = self.peek() else { return Err(self.fault(start, "this string does not end")) };
            self.at += c.len_utf8();
            match c {
                c if c == quote && !long => return Ok(Token::Text(value)),
                '\n' | '\r' if !long => {
                    self.at = at;
                    return Err(self.fault(start, "this string does not end on its line"));
                }
                '\\' if !raw => value.push(self.escape(at)?),
                c => value.push(c),
            }
        }
    }

    fn escape(&mut self, start: usize) -> Result<char, ExprError> {
        let Some(c) = self.peek() else { return Err(self.fault(start, "this string does not end")) };
        self.at += c.len_utf8();
        Ok(match c {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '?' | '"' | '\'' | '`' => c,
            'x' | 'X' => self.code(start, 2, 16)?,
            'u' => self.code(start, 4, 16)?,
            'U' => self.code(start, 8, 16)?,
            '0'..='3' => {
                self.at -= 1;
                self.code(start, 3, 8)?
            }
            _ => {
                let fault = self.fault(start, "an unknown escape");
                return Err(fault.hint("a backslash is written \\\\; or put r before the string: r'\\d+'"));
            }
        })
    }

    /// Reads the digits of an escape.
    fn code(&mut self, start: usize, digits: usize, radix: u32) -> Result<char, ExprError> {
        let value = self
            .rest()
            .get(..digits)
            .filter(|text| text.chars().all(|c| c.is_digit(radix)))
            .and_then(|text| u32::from_str_radix(text, radix).ok());
        match value {
            Some(value) => {
                self.at += digits;
                char::from_u32(value).ok_or_else(|| self.fault(start, "not a character of Unicode"))
            }
            None => Err(self.fault(start, format!("this escape takes {digits} digits"))),
        }
    }
}
