//! Rows of digit groups: what card and telephone numbers have in common.
//!
//! `+49 (0) 171-2345678` is one [`Row`] of four groups. This module only cuts
//! text into rows; what a row means is decided by its users.

use std::ops::Range;

/// Most characters that may stand between two groups of one row, as in
/// `(555) - 123`.
const MAX_GLUE: usize = 3;

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

/// The rows in `text[within]`. Two rows never share a group.
pub fn rows(text: &str, within: Range<usize>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut position = within.start;
    let mut previous_end: Option<usize> = None;
    while let Some(offset) = text[position..within.end].find(|c: char| c.is_ascii_digit()) {
        let start = position + offset;
        let end = text[start..within.end]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(within.end, |length| start + length);
        let glue = previous_end.unwrap_or(start)..start;
        let group = Group { range: start..end, glue: glue.clone() };
        match rows.last_mut() {
            Some(row) if previous_end.is_some() && is_glue(&text[glue]) => row.groups.push(group),
            _ => rows.push(Row { groups: vec![group] }),
        }
        previous_end = Some(end);
        position = end;
    }
    rows
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
    fn only_the_asked_range_is_read() {
        let text = "111 222 333";
        let found = rows(text, 4..8);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].groups[0].range, 4..7);
    }
}
