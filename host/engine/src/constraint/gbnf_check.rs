//! Refuses grammars that could be read, but not worked with.
//!
//! Nothing in here recurses: a grammar may have thousands of rules in a row.

use super::gbnf::{Grammar, Item, Symbol, error, limit};
use crate::config::ConstraintLimits;
use crate::error::ConstraintError;

/// Repetitions multiply, and groups multiply them again: refuses a grammar whose
/// rules, written out, would be larger than the limit.
pub(super) fn check_size(
    grammar: &Grammar,
    is_group: &[bool],
    limits: &ConstraintLimits,
) -> Result<(), ConstraintError> {
    // A group comes after the groups in it, so one pass in order is enough for
    // them; named rules stand before their groups and come afterwards.
    let mut sizes = vec![1usize; grammar.rules.len()];
    let mut total = 0usize;
    for groups in [true, false] {
        for (id, rule) in grammar.rules.iter().enumerate() {
            if is_group[id] != groups {
                continue;
            }
            let mut size = 0usize;
            for item in rule.iter().flatten() {
                let one = match &item.what {
                    Symbol::Literal(chars) => chars.len().max(1),
                    Symbol::Class { ranges, .. } => ranges.len().max(1),
                    Symbol::Rule(other) if is_group[*other] => sizes[*other],
                    Symbol::Rule(_) | Symbol::Token { .. } => 1,
                };
                let times = item.max.unwrap_or(item.min).max(1);
                size = size.saturating_add(one.saturating_mul(times));
            }
            sizes[id] = size.max(1);
            if !groups {
                total = total.saturating_add(size);
            }
        }
    }
    if total > limits.max_symbols {
        return Err(limit("number of symbols", limits.max_symbols));
    }
    Ok(())
}

/// Refuses rules that begin with themselves, as llama.cpp does, so that a
/// grammar means the same to every worker.
pub(super) fn check_left_recursion(grammar: &Grammar) -> Result<(), ConstraintError> {
    let nullable = nullable_rules(grammar);
    let begins_with: Vec<Vec<usize>> = grammar
        .rules
        .iter()
        .map(|rule| {
            let mut first = Vec::new();
            for sequence in rule {
                for item in sequence {
                    if let Symbol::Rule(id) = item.what {
                        first.push(id);
                    }
                    if !is_nullable(item, &nullable) {
                        break;
                    }
                }
            }
            first
        })
        .collect();

    // Depth-first search for a cycle, with a stack of its own.
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; grammar.rules.len()];
    for start in 0..grammar.rules.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        let mut stack = vec![(start, 0usize)];
        while let Some((rule, next)) = stack.pop() {
            let Some(&child) = begins_with[rule].get(next) else {
                marks[rule] = Mark::Done;
                continue;
            };
            stack.push((rule, next + 1));
            match marks[child] {
                Mark::Open => return Err(error("left recursion is not supported")),
                Mark::New => {
                    marks[child] = Mark::Open;
                    stack.push((child, 0));
                }
                Mark::Done => {}
            }
        }
    }
    Ok(())
}

/// Which rules can match nothing at all.
fn nullable_rules(grammar: &Grammar) -> Vec<bool> {
    let mut nullable = vec![false; grammar.rules.len()];
    loop {
        let mut changed = false;
        for (id, rule) in grammar.rules.iter().enumerate() {
            if !nullable[id]
                && rule
                    .iter()
                    .any(|sequence| sequence.iter().all(|item| is_nullable(item, &nullable)))
            {
                nullable[id] = true;
                changed = true;
            }
        }
        if !changed {
            return nullable;
        }
    }
}

fn is_nullable(item: &Item, nullable: &[bool]) -> bool {
    item.min == 0
        || match &item.what {
            Symbol::Literal(chars) => chars.is_empty(),
            Symbol::Rule(id) => nullable.get(*id).copied().unwrap_or(false),
            Symbol::Class { .. } | Symbol::Token { .. } => false,
        }
}
