//! E-mail addresses.
//!
//! An address is looked for around each `@`: to the left a local part, to the
//! right a domain of at least two labels whose last one has two letters or more.
//! Quoted local parts, address literals (`@[10.0.0.1]`) and addresses that are
//! spelled out ("jane at example dot com") are not recognised.

use std::ops::Range;

/// First character of the scripts that are written without spaces (CJK and what
/// follows it). An address in Latin letters that stands amid such text, with no
/// space around it, must not swallow the sentence.
const FIRST_UNSPACED: char = '\u{2e80}';

/// Addresses in `text[within]`, as ranges of `text`.
pub fn find(text: &str, within: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = within.start;
    while let Some(offset) = text[from..within.end].find('@') {
        let at = from + offset;
        let address = local_part(&text[from..at])
            .and_then(|local| Some((local, domain(&text[at + 1..within.end])?)));
        from = at + 1;
        if let Some((local, domain)) = address {
            from += domain;
            found.push(at - local..from);
        }
    }
    found
}

/// How many bytes at the end of `text` are a local part.
fn local_part(text: &str) -> Option<usize> {
    let unspaced = text.chars().next_back()? >= FIRST_UNSPACED;
    let start = text
        .char_indices()
        .rev()
        .take_while(|(_, character)| is_local(*character, unspaced))
        .last()?
        .0;
    // A dot in front belongs to the sentence, as do quotes and slashes.
    let local = text[start..].trim_start_matches(['.', '\'', '/', '-', '`', '=', '*', '{', '|']);
    // And nobody has an address of signs alone.
    local.chars().any(char::is_alphanumeric).then_some(local.len())
}

fn is_local(character: char, unspaced: bool) -> bool {
    // RFC 5322 `atext` and the dot.
    "!#$%&'*+-/=?^_`{|}~.".contains(character) || is_letter(character, unspaced)
}

fn is_letter(character: char, unspaced: bool) -> bool {
    character.is_alphanumeric() && (unspaced || character < FIRST_UNSPACED)
}

/// How many bytes at the start of `text` are a domain.
fn domain(text: &str) -> Option<usize> {
    let unspaced = text.chars().next()? >= FIRST_UNSPACED;
    let end = text
        .find(|character| !(is_letter(character, unspaced) || ".-_".contains(character)))
        .unwrap_or(text.len());
    // Labels are taken from the left for as long as they are right, so that
    // "b.org...and" and "b.org-" still give "b.org".
    let mut labels = 0;
    let mut valid = None;
    let mut start = 0;
    for label in text[..end].split('.') {
        let kept = label.trim_end_matches(['-', '_']);
        if kept.is_empty() || label.starts_with('-') {
            break;
        }
        labels += 1;
        let top_level = kept.chars().filter(|character| character.is_alphabetic()).count() >= 2
            && kept.chars().all(|character| character.is_alphanumeric() || character == '-');
        if labels >= 2 && top_level {
            valid = Some(start + kept.len());
        }
        if kept.len() < label.len() {
            break;
        }
        start += label.len() + 1;
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> =
            find(text, 0..text.len()).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn plain_addresses() {
        check("jane@example.com", &["jane@example.com"]);
        check("write to j.doe+tag@mail.example.co.uk now", &["j.doe+tag@mail.example.co.uk"]);
        check("A_B-C%d@EXAMPLE.COM", &["A_B-C%d@EXAMPLE.COM"]);
        check("o'brien@example.ie", &["o'brien@example.ie"]);
        check("a@b.xn--p1ai", &["a@b.xn--p1ai"]);
    }

    #[test]
    fn punctuation_around_stays() {
        check("<jane@example.com>,", &["jane@example.com"]);
        check("(jane@example.com).", &["jane@example.com"]);
        check("mailto:jane@example.com?subject=x", &["jane@example.com"]);
        check("'jane@example.com'", &["jane@example.com"]);
        check("Ask jane@example.com...please", &["jane@example.com"]);
        check("x=jane@example.com-", &["x=jane@example.com"]);
    }

    #[test]
    fn several_addresses() {
        check("a@b.de,c@d.fr;e@f.it", &["a@b.de", "c@d.fr", "e@f.it"]);
        check("a@b@c.de", &["b@c.de"]);
    }

    #[test]
    fn other_scripts() {
        check("josé@exämple.de", &["josé@exämple.de"]);
        check("请写信到jane@example.com谢谢", &["jane@example.com"]);
        check("用户@例子.广告", &["用户@例子.广告"]);
        check("иван@почта.рф", &["иван@почта.рф"]);
    }

    #[test]
    fn not_addresses() {
        for text in [
            "@",
            "a@",
            "@b.de",
            "user@localhost",
            "5 @ 3.50",
            "x@1.23",
            "@handle",
            "a@b.c",
            "a@.de",
            "a@-b.de",
            "...@b.de",
            "a @b.de",
        ] {
            check(text, &[]);
        }
    }

    /// Work per `@` must not grow with the text before it.
    #[test]
    fn many_at_signs_are_each_looked_at_once() {
        check(&"a@".repeat(200_000), &[]);
        check(&"@".repeat(400_000), &[]);
        check(&"a".repeat(400_000), &[]);
    }
}
