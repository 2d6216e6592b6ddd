//! Reads grammars in llama.cpp's GBNF.
//!
//! The notation is llama.cpp's (rules `name ::= ...`, literals, character
//! classes, `.`, groups, alternatives, `* + ? {m,n}`, token references, `#`
//! comments), but the parser is this crate's own: llama.cpp's recurses without
//! a limit, prints a faulty grammar to stderr, and its matcher keeps every way
//! to read the output so far, whose number can double with each character.
//! What is read here is handed to llguidance by [`super::lark`].
//!
//! Nothing in here recurses deeper than [`ConstraintLimits::max_depth`].

use std::collections::HashMap;

use super::gbnf_check::{check_left_recursion, check_size};
use crate::config::ConstraintLimits;
use crate::error::ConstraintError;

/// Of a rule's name, so much is repeated in an error.
const MAX_SHOWN: usize = 64;

/// A grammar: rules by number; rule 0 is `root`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grammar {
    pub(crate) rules: Vec<Rule>,
}

/// A rule: any of its sequences.
pub(crate) type Rule = Vec<Vec<Item>>;

/// One element of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) what: Symbol,
    pub(crate) min: usize,
    /// `None`: without an end.
    pub(crate) max: Option<usize>,
}

/// What an element stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Symbol {
    /// Exactly these characters, one after the other.
    Literal(Vec<char>),
    /// One character of these ranges, or none of them.
    Class { ranges: Vec<(char, char)>, negated: bool },
    /// Another rule; groups are rules too.
    Rule(usize),
    /// One token of the vocabulary, or any other one.
    Token { token: TokenName, negated: bool },
}

/// How a grammar names a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenName {
    /// By its number, `<[7]>`.
    Id(u32),
    /// By its text, brackets included, `<think>`.
    Text(String),
}

/// Reads and checks a grammar.
pub(crate) fn parse(text: &str, limits: &ConstraintLimits) -> Result<Grammar, ConstraintError> {
    if text.len() > limits.max_bytes {
        return Err(limit("size in bytes", limits.max_bytes));
    }
    let mut parser =
        Parser { text, at: 0, limits, names: HashMap::new(), rules: Vec::new(), n_symbols: 0 };
    parser.rule_id("root")?;
    parser.grammar()?;
    let mut rules = Vec::with_capacity(parser.rules.len());
    let mut is_group = Vec::with_capacity(parser.rules.len());
    for (name, rule) in parser.rules {
        let shown = || name.chars().take(MAX_SHOWN).collect::<String>();
        let rule = rule.ok_or_else(|| error(format!("undefined rule \"{}\"", shown())))?;
        rules.push(rule);
        is_group.push(name.is_empty());
    }
    let grammar = Grammar { rules };
    check_size(&grammar, &is_group, limits)?;
    check_left_recursion(&grammar)?;
    Ok(grammar)
}

pub(super) fn error(text: impl Into<String>) -> ConstraintError {
    ConstraintError::Grammar(text.into())
}

pub(super) fn limit(what: &'static str, limit: usize) -> ConstraintError {
    ConstraintError::Limit { kind: "grammar", what, limit }
}

/// Whether the end of a line ends a sequence: not inside a group.
#[derive(Clone, Copy, PartialEq)]
enum Newline {
    Ends,
    IsSpace,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    limits: &'a ConstraintLimits,
    names: HashMap<String, usize>,
    rules: Vec<(String, Option<Rule>)>,
    n_symbols: usize,
}

impl Parser<'_> {
    fn grammar(&mut self) -> Result<(), ConstraintError> {
        self.space(Newline::IsSpace);
        while self.peek().is_some() {
            let name = self.name()?;
            self.space(Newline::Ends);
            if !self.eat("::=") {
                return Err(self.expected("::="));
            }
            self.space(Newline::IsSpace);
            let id = self.rule_id(&name)?;
            let rule = self.alternatives(Newline::Ends, 0)?;
            // As in llama.cpp, a later rule of the same name replaces the first.
            if let Some(slot) = self.rules.get_mut(id) {
                slot.1 = Some(rule);
            }
            match self.peek() {
                None | Some('\n' | '\r') => self.space(Newline::IsSpace),
                Some(_) => return Err(self.expected("a new line")),
            }
        }
        Ok(())
    }

    fn alternatives(&mut self, newline: Newline, depth: usize) -> Result<Rule, ConstraintError> {
        if depth > self.limits.max_depth {
            return Err(limit("nesting", self.limits.max_depth));
        }
        let mut rule = vec![self.sequence(newline, depth)?];
        while self.eat("|") {
            self.space(Newline::IsSpace);
            rule.push(self.sequence(newline, depth)?);
        }
        Ok(rule)
    }

    fn sequence(&mut self, newline: Newline, depth: usize) -> Result<Vec<Item>, ConstraintError> {
        let mut items: Vec<Item> = Vec::new();
        while let Some(c) = self.peek() {
            let what = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Symbol::Class { ranges: Vec::new(), negated: true }
                }
                '(' => {
                    self.at += 1;
                    self.space(Newline::IsSpace);
                    let rule = self.alternatives(Newline::IsSpace, depth + 1)?;
                    if !self.eat(")") {
                        return Err(self.expected(")"));
                    }
                    Symbol::Rule(self.new_rule(String::new(), Some(rule))?)
                }
                '<' | '!' => self.token()?,
                '*' | '+' | '?' | '{' => {
                    let (min, max) = self.repetition()?;
                    self.space(newline);
                    let Some(last) = items.pop() else {
                        return Err(error(format!(
                            "{}: nothing stands in front of the repetition",
                            self.place()
                        )));
                    };
                    let repeated = if (last.min, last.max) == (1, Some(1)) {
                        Item { what: last.what, min, max }
                    } else {
                        // A repetition of a repetition, such as `x{2}*`.
                        let inner = self.new_rule(String::new(), Some(vec![vec![last]]))?;
                        Item { what: Symbol::Rule(inner), min, max }
                    };
                    items.push(repeated);
                    continue;
                }
                c if is_word(c) => {
                    let name = self.name()?;
                    Symbol::Rule(self.rule_id(&name)?)
                }
                _ => break,
            };
            self.space(newline);
            self.n_symbols += 1;
            if self.n_symbols > self.limits.max_symbols {
                return Err(limit("number of symbols", self.limits.max_symbols));
            }
            items.push(Item { what, min: 1, max: Some(1) });
        }
        Ok(items)
    }

    fn literal(&mut self) -> Result<Symbol, ConstraintError> {
        self.at += 1;
        let mut chars = Vec::new();
        while !self.eat("\"") {
            chars.push(self.character()?);
        }
        Ok(Symbol::Literal(chars))
    }

    fn class(&mut self) -> Result<Symbol, ConstraintError> {
        self.at += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let from = self.character()?;
            let rest = self.rest();
            let to = if rest.starts_with('-') && !rest.starts_with("-]") {
                self.at += 1;
                self.character()?
            } else {
                from
            };
            if to < from {
                return Err(error(format!(
                    "{}: character range ends before it begins",
                    self.place()
                )));
            }
            ranges.push((from, to));
        }
        if ranges.is_empty() && !negated {
            return Err(error(format!("{}: empty character class", self.place())));
        }
        Ok(Symbol::Class { ranges, negated })
    }

    fn token(&mut self) -> Result<Symbol, ConstraintError> {
        let negated = self.eat("!");
        let rest = self.rest();
        if !rest.starts_with('<') {
            return Err(self.expected("<"));
        }
        let Some(end) = rest.find('>') else {
            return Err(self.expected(">"));
        };
        let text = &rest[..=end];
        let token = match text.strip_prefix("<[").and_then(|t| t.strip_suffix("]>")) {
            Some(digits) => TokenName::Id(
                digits
                    .parse()
                    .map_err(|_| error(format!("{}: token number expected", self.place())))?,
            ),
            None => TokenName::Text(text.to_string()),
        };
        self.at += end + 1;
        Ok(Symbol::Token { token, negated })
    }

    fn repetition(&mut self) -> Result<(usize, Option<usize>), ConstraintError> {
        if self.eat("*") {
            return Ok((0, None));
        }
        if self.eat("+") {
            return Ok((1, None));
        }
        if self.eat("?") {
            return Ok((0, Some(1)));
        }
        self.at += 1;
        self.space(Newline::IsSpace);
        let min = self.count()?;
        self.space(Newline::IsSpace);
        let mut max = Some(min);
        if self.eat(",") {
            self.space(Newline::IsSpace);
            max = match self.peek() {
                Some(c) if c.is_ascii_digit() => Some(self.count()?),
                _ => None,
            };
            self.space(Newline::IsSpace);
        }
        if !self.eat("}") {
            return Err(self.expected("}"));
        }
        if max.is_some_and(|max| max < min) {
            return Err(error(format!("{}: repetition ends before it begins", self.place())));
        }
        Ok((min, max))
    }

    fn count(&mut self) -> Result<usize, ConstraintError> {
        let rest = self.rest();
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 {
            return Err(self.expected("a number"));
        }
        // Too many digits are too large as well.
        let value = rest[..len].parse().unwrap_or(usize::MAX);
        if value > self.limits.max_repetition {
            return Err(limit("repetition", self.limits.max_repetition));
        }
        self.at += len;
        Ok(value)
    }

    fn character(&mut self) -> Result<char, ConstraintError> {
        let Some(c) = self.peek() else {
            return Err(error("unexpected end"));
        };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let Some(escape) = self.peek() else {
            return Err(error("unexpected end"));
        };
        self.at += escape.len_utf8();
        match escape {
            'x' => self.hex(2),
            'u' => self.hex(4),
            'U' => self.hex(8),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            'n' => Ok('\n'),
            '\\' | '"' | '[' | ']' | '-' => Ok(escape),
            _ => Err(error(format!("{}: unknown escape", self.place()))),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<char, ConstraintError> {
        let text = self.rest().get(..digits).unwrap_or_default();
        let value = u32::from_str_radix(text, 16)
            .ok()
            .filter(|_| text.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(char::from_u32)
            .ok_or_else(|| self.expected(&format!("{digits} hex digits of a character")))?;
        self.at += digits;
        Ok(value)
    }

    fn name(&mut self) -> Result<String, ConstraintError> {
        let len = self.rest().chars().take_while(|c| is_word(*c)).count();
        if len == 0 {
            return Err(self.expected("a rule name"));
        }
        let name = self.rest()[..len].to_string();
        self.at += len;
        Ok(name)
    }

    fn rule_id(&mut self, name: &str) -> Result<usize, ConstraintError> {
        match self.names.get(name) {
            Some(id) => Ok(*id),
            None => {
                let id = self.new_rule(name.to_string(), None)?;
                self.names.insert(name.to_string(), id);
                Ok(id)
            }
        }
    }

    fn new_rule(&mut self, name: String, rule: Option<Rule>) -> Result<usize, ConstraintError> {
        if self.rules.len() >= self.limits.max_rules {
            return Err(limit("number of rules", self.limits.max_rules));
        }
        self.rules.push((name, rule));
        Ok(self.rules.len() - 1)
    }

    fn space(&mut self, newline: Newline) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if newline == Newline::IsSpace => self.at += 1,
                '#' => {
                    let rest = self.rest();
                    self.at += rest.find(['\r', '\n']).unwrap_or(rest.len());
                }
                _ => break,
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// Where the parser stands, for error texts.
    fn place(&self) -> String {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {line}, column {column}")
    }

    fn expected(&self, what: &str) -> ConstraintError {
        error(format!("{}: expected {what}", self.place()))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

#[cfg(test)]
#[path = "gbnf_tests.rs"]
mod tests;
