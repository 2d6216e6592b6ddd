//! Writes a GBNF grammar in llguidance's Lark dialect.
//!
//! GBNF works on characters and takes every way to read a text into account; a
//! Lark terminal is longest-match. So each terminal written here is exactly one
//! character: then there is nothing to prefer, and both mean the same.

use std::collections::HashMap;
use std::fmt::Write;

use super::gbnf::{Grammar, Item, Symbol, TokenName};

/// The grammar's text for llguidance. `token_id` finds a token by its text.
///
/// # Errors
/// The message for a token that the vocabulary does not have.
pub(crate) fn write(
    grammar: &Grammar,
    n_vocab: u32,
    token_id: impl Fn(&str) -> Option<u32>,
) -> Result<String, String> {
    let mut writer =
        Writer { terminals: HashMap::new(), out: String::from("start: r0\n"), n_vocab, token_id };
    for (id, rule) in grammar.rules.iter().enumerate() {
        let mut line = format!("r{id}: ");
        for (index, sequence) in rule.iter().enumerate() {
            if index > 0 {
                line.push_str(" | ");
            }
            let before = line.len();
            for item in sequence {
                writer.item(item, &mut line)?;
            }
            if line.len() == before {
                line.push_str("\"\"");
            }
        }
        writer.out.push_str(&line);
        writer.out.push('\n');
    }
    let mut out = writer.out;
    let mut terminals: Vec<_> = writer.terminals.into_iter().collect();
    terminals.sort_by_key(|(_, id)| *id);
    for (pattern, id) in terminals {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "T{id}: /{pattern}/");
    }
    Ok(out)
}

struct Writer<F> {
    /// Numbers of the terminals, by pattern: equal ones are shared.
    terminals: HashMap<String, usize>,
    out: String,
    n_vocab: u32,
    token_id: F,
}

impl<F: Fn(&str) -> Option<u32>> Writer<F> {
    fn item(&mut self, item: &Item, line: &mut String) -> Result<(), String> {
        if item.max == Some(0) {
            return Ok(());
        }
        let once = self.symbol(&item.what)?;
        if once.is_empty() {
            return Ok(());
        }
        line.push(' ');
        match (item.min, item.max) {
            (1, Some(1)) => line.push_str(&once),
            (0, None) => line.push_str(&format!("({once})*")),
            (1, None) => line.push_str(&format!("({once})+")),
            (0, Some(1)) => line.push_str(&format!("({once})?")),
            (min, None) => line.push_str(&format!("({once}){{{min},}}")),
            (min, Some(max)) => line.push_str(&format!("({once}){{{min},{max}}}")),
        }
        Ok(())
    }

    /// One occurrence of the symbol; empty if it stands for no text.
    fn symbol(&mut self, symbol: &Symbol) -> Result<String, String> {
        match symbol {
            Symbol::Rule(id) => Ok(format!("r{id}")),
            Symbol::Literal(chars) => {
                let names: Vec<String> =
                    chars.iter().map(|c| self.terminal(class(&[(*c, *c)], false))).collect();
                Ok(names.join(" "))
            }
            Symbol::Class { ranges, negated } => Ok(self.terminal(class(ranges, *negated))),
            Symbol::Token { token, negated } => {
                let id = match token {
                    TokenName::Id(id) => Some(*id).filter(|id| *id < self.n_vocab),
                    TokenName::Text(text) => (self.token_id)(text),
                };
                let id = id.ok_or("token reference is not one token of the vocabulary")?;
                let not = if *negated { "^" } else { "" };
                Ok(format!("<[{not}{id}]>"))
            }
        }
    }

    fn terminal(&mut self, pattern: String) -> String {
        let next = self.terminals.len();
        format!("T{}", self.terminals.entry(pattern).or_insert(next))
    }
}

/// A character class for the regex engine, without any character that could
/// mean something else there.
fn class(ranges: &[(char, char)], negated: bool) -> String {
    if ranges.is_empty() && negated {
        // Any character, line ends included.
        return r"[\x{0}-\x{10FFFF}]".to_string();
    }
    let mut pattern = String::from(if negated { "[^" } else { "[" });
    for (from, to) in ranges {
        let _ = write!(pattern, r"\x{{{:X}}}-\x{{{:X}}}", *from as u32, *to as u32);
    }
    pattern.push(']');
    pattern
}
