//! Rows of digit groups: what card and telephone numbers have in common.
//!
//! `+49 (0) 171-2345678` is one [`Row`] of four groups. This module cuts text
//! into rows, and says from where on a row may still change when more text
//! follows; what a row means is decided by its users.

use std::ops::Range;

/// Most characters that may stand between two groups of one row, as in
/// `(555) - 123`.
const MAX_GLUE: usize = 3;

/// Most digits of a group that is part of a number: a card number in one piece.
/// Longer ones, as in the decimals of pi, belong to no row.
const MAX_GROUP: usize = 19;

/// Complete digits that must follow the beginning of a group before it is certain
/// what the group is: the 17 of the longest telephone number, and those of a card
/// number that could still begin among them.
const LOOK_AHEAD: usize = 40;

/// Most characters that stand between the beginning of a number and its first
/// digit, as in `(+(`.
const MAX_PREFIX: usize = 3;

/// Characters before a text that its rules look at: a digit and the glue behind
/// it.
pub const LOOK_BEHIND: usize = MAX_GLUE + 1;

/// Digits without anything between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Bytes of the text.
    pub range: Range<usize>,
    /// Characters between the group before and this one.
    pub glue: Range<usize>,
}

/// Groups of digits with nothing but a few spaces, dots, dashes, slashes or
/// parentheses between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// At least one.
    pub groups: Vec<Group>,
}

/// The rows in `text[within]`. Two rows never share a group, and a group that is
/// too long for any number is in none.
pub fn rows(text: &str, within: Range<usize>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut position = within.start;
    let mut previous_end: Option<usize> = None;
    while let Some(offset) = text[position..within.end].find(|c: char| c.is_ascii_digit()) {
        let start = position + offset;
        let end = text[start..within.end]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(within.end, |length| start + length);
        position = end;
        if end - start > MAX_GROUP {
            previous_end = None;
            continue;
        }
        let glue = previous_end.unwrap_or(start)..start;
        let group = Group { range: start..end, glue: glue.clone() };
        match rows.last_mut() {
            Some(row) if previous_end.is_some() && is_glue(&text[glue]) => row.groups.push(group),
            _ => rows.push(Row { groups: vec![group] }),
        }
        previous_end = Some(end);
    }
    rows
}

/// How much of `text[within]` is certain to keep its rows and what they mean,
/// whatever follows `within`, when everything from `limit` on may become something
/// else. A search that begins there later finds what a search of the whole finds.
pub fn settled(text: &str, within: Range<usize>, limit: usize) -> usize {
    let all = rows(text, within.clone());
    let open = all.iter().find(|row| {
        let end = row.groups.last().map_or(0, |group| group.range.end);
        end > limit || is_glue(&text[end..within.end])
    });
    let mut cut = outside_long_group(text, within.start, limit);
    if let Some(row) = open {
        cut = cut.min(settled_in(row, within.end, limit));
    }
    // What may be the beginning of a number that has no digit yet.
    let prefix = text[within.start..cut].chars().rev().take(MAX_PREFIX);
    cut - prefix.take_while(|character| "(+".contains(*character)).count()
}

/// Where the groups begin of which it is not certain yet what they are.
fn settled_in(row: &Row, end: usize, limit: usize) -> usize {
    let mut digits = 0;
    for group in row.groups.iter().rev() {
        // The last group may grow, one behind the limit may become something else.
        if group.range.end <= limit && group.range.end < end {
            digits += group.range.len();
        }
        if digits >= LOOK_AHEAD {
            return group.range.end;
        }
    }
    row.groups.first().map_or(limit, |group| group.range.start)
}

/// `cut`, unless that leaves so few digits of a long group that they would look
/// like a number of their own.
fn outside_long_group(text: &str, from: usize, cut: usize) -> usize {
    let is_digit = |character: char| character.is_ascii_digit();
    let before = text[from..cut].chars().rev().take_while(|c| is_digit(*c)).count();
    let after = text[cut..].chars().take_while(|c| is_digit(*c)).count();
    if before == 0 || after == 0 || after > MAX_GROUP {
        return cut;
    }
    cut - before.min(MAX_GROUP + 1 - after)
}

/// Whether digits stand before `start`, with nothing or glue between.
pub fn follows_digits(text: &str, start: usize) -> bool {
    let mut before = text[..start].chars().rev();
    let digit = before.by_ref().take(LOOK_BEHIND).position(|c| c.is_ascii_digit());
    digit.is_some_and(|glue| {
        text[..start]
            .chars()
            .rev()
            .take(glue)
            .all(|character| is_glue(character.encode_utf8(&mut [0; 4])))
    })
}

/// Whether `text` may stand between two groups of one number.
fn is_glue(text: &str) -> bool {
    text.chars().count() <= MAX_GLUE
        && text.chars().all(|character| {
            is_space(character) || is_dash(character) || "./()".contains(character)
        })
}

/// A space of any width that does not end a line: numbers are pasted from web
/// pages and documents.
pub fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\u{a0}' | '\u{2007}' | '\u{2009}' | '\u{202f}')
}

/// A hyphen, or what word processors make of it.
pub fn is_dash(character: char) -> bool {
    matches!(character, '-' | '\u{2010}' | '\u{2011}' | '\u{2012}' | '\u{2013}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&[&str]]) {
        let found: Vec<Vec<&str>> = rows(text, 0..text.len())
            .iter()
            .map(|row| row.groups.iter().map(|group| &text[group.range.clone()]).collect())
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn groups_and_rows() {
        check("12 34-56.78", &[&["12", "34", "56", "78"]]);
        check("12, 34", &[&["12"], &["34"]]);
        check("12\n34", &[&["12"], &["34"]]);
        check("12    34", &[&["12"], &["34"]]);
        check("+49 (0) 171", &[&["49", "0", "171"]]);
        check("12\u{a0}34\u{2011}56", &[&["12", "34", "56"]]);
        check("no digits", &[]);
        check("12:30 +7", &[&["12"], &["30"], &["7"]]);
    }

    #[test]
    fn long_groups_are_in_no_row() {
        let long = "1".repeat(20);
        check(&format!("12 {long} 34"), &[&["12"], &["34"]]);
        check(&long, &[]);
        check(&long[1..], &[&[&long[1..]]]);
    }

    #[test]
    fn digits_before_a_group() {
        for (text, expected) in [
            ("1 ", true),
            ("1", true),
            ("1 (", true),
            ("1    ", false),
            ("a ", false),
            ("1,", false),
            ("", false),
        ] {
            assert_eq!(follows_digits(text, text.len()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_row_is_settled_when_it_has_ended_or_gone_on_for_long() {
        for (text, expected) in [
            ("in 2024 we", 8),
            ("in 2024 ", 3),
            ("in 2024", 3),
            ("in 2024,", 8),
            ("in 2024    ", 11),
            ("call +(49) 171", 5),
            ("call (+", 5),
            ("", 0),
        ] {
            // The limit is the last word, as it is for e-mail addresses.
            let limit = text.rfind(' ').map_or(0, |space| space + 1);
            let limit = if text.ends_with([',', '+']) { text.len() } else { limit };
            assert_eq!(settled(text, 0..text.len(), limit), expected, "{text:?}");
        }
        let row = "12 34 ".repeat(50);
        let settled = settled(&row, 0..row.len(), row.len());
        assert!((row.len() - 70..row.len() - 50).contains(&settled), "{settled}");
    }

    #[test]
    fn a_long_group_is_never_cut_short() {
        let digits = "7".repeat(100);
        let text = format!("{digits}abcdef");
        assert_eq!(settled(&text, 0..text.len(), 50), 50);
        assert_eq!(settled(&text, 0..text.len(), 96), 80);
        assert_eq!(settled(&text, 0..text.len(), 100), 100);
    }

    #[test]
    fn only_the_asked_range_is_read() {
        let text = "111 222 333";
        let found = rows(text, 4..8);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].groups[0].range, 4..7);
    }
}
