//! E-mail addresses.
//!
//! An address is looked for around each `@`: to the left a local part, to the
//! right a domain of at least two labels whose last one has two letters or more.
//! Neither is looked for beyond the lengths that mail servers take.
//! Quoted local parts, address literals (`@[10.0.0.1]`) and addresses that are
//! spelled out ("jane at example dot com") are not recognised.

use std::ops::Range;

/// First character of the scripts that are written without spaces (CJK and what
/// follows it). An address in Latin letters that stands amid such text, with no
/// space around it, must not swallow the sentence.
const FIRST_UNSPACED: char = '\u{2e80}';

/// Longest local part in bytes (RFC 5321, 4.5.3.1.1). Of a longer run of
/// characters in front of an `@` the last ones are the local part.
const MAX_LOCAL: usize = 64;

/// Longest domain in bytes (RFC 5321, 4.5.3.1.2).
const MAX_DOMAIN: usize = 255;

/// The addresses of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Bytes of the text.
    pub found: Vec<Range<usize>>,
    /// Where an address may begin that more text would complete or change; the
    /// end of the text if nothing follows.
    pub open: usize,
}

/// Addresses in `text[within]`, as ranges of `text`. When `more` text may follow,
/// an address that it could change is not among those found.
pub fn find(text: &str, within: Range<usize>, more: bool) -> Addresses {
    let mut found = Vec::new();
    let mut from = within.start;
    while let Some(offset) = text[from..within.end].find('@') {
        let at = from + offset;
        let local = local_part(&text[from..at]);
        let rest = &text[at + 1..within.end];
        from = at + 1;
        let Some(local) = local else { continue };
        if more && may_grow(rest) {
            return Addresses { found, open: at - local };
        }
        if let Some(domain) = domain(rest) {
            from += domain;
            found.push(at - local..from);
        }
    }
    let open = match more {
        // Whatever comes next, it may be an `@`.
        true => within.end - run_before(&text[from..within.end], true),
        false => within.end,
    };
    Addresses { found, open }
}

/// How many bytes at the end of `text` are a local part.
fn local_part(text: &str) -> Option<usize> {
    let unspaced = text.chars().next_back()? >= FIRST_UNSPACED;
    let run = &text[text.len() - run_before(text, unspaced)..];
    // A dot in front belongs to the sentence, as do quotes and slashes.
    let local = run.trim_start_matches(['.', '\'', '/', '-', '`', '=', '*', '{', '|']);
    // And nobody has an address of signs alone.
    local.chars().any(char::is_alphanumeric).then_some(local.len())
}

/// How many bytes at the end of `text` could be a local part, by their characters
/// and number.
fn run_before(text: &str, unspaced: bool) -> usize {
    let lengths = text.chars().rev().take_while(|c| is_local(*c, unspaced)).map(char::len_utf8);
    let mut run = 0;
    for length in lengths {
        if run + length > MAX_LOCAL {
            break;
        }
        run += length;
    }
    run
}

/// Whether `text`, which follows an `@`, is all domain and not the longest one yet.
fn may_grow(text: &str) -> bool {
    // Less the longest character: so that what is cut off does not change.
    text.len() < MAX_DOMAIN + 3 && text.chars().all(|character| is_domain(character, true))
}

fn is_local(character: char, unspaced: bool) -> bool {
    // RFC 5322 `atext` and the dot.
    "!#$%&'*+-/=?^_`{|}~.".contains(character) || is_letter(character, unspaced)
}

fn is_letter(character: char, unspaced: bool) -> bool {
    character.is_alphanumeric() && (unspaced || character < FIRST_UNSPACED)
}

fn is_domain(character: char, unspaced: bool) -> bool {
    is_letter(character, unspaced) || ".-_".contains(character)
}

/// How many bytes at the start of `text` are a domain.
fn domain(text: &str) -> Option<usize> {
    let unspaced = text.chars().next()? >= FIRST_UNSPACED;
    let text = &text[..text.floor_char_boundary(MAX_DOMAIN)];
    let end = text.find(|character| !is_domain(character, unspaced)).unwrap_or(text.len());
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
            find(text, 0..text.len(), false).found.into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    /// What is certain of a text that goes on, and what is not.
    fn check_open(text: &str, expected: &[&str], open: &str) {
        let addresses = find(text, 0..text.len(), true);
        let found: Vec<&str> = addresses.found.into_iter().map(|range| &text[range]).collect();
        assert_eq!((found.as_slice(), &text[addresses.open..]), (expected, open), "{text:?}");
    }

    #[test]
    fn what_may_become_an_address_is_open() {
        check_open("", &[], "");
        check_open("write to ", &[], "");
        check_open("write to ja", &[], "ja");
        check_open("write to jane@", &[], "jane@");
        check_open("write to jane@example.com", &[], "jane@example.com");
        check_open("write to jane@example.com.", &[], "jane@example.com.");
        check_open("write to jane@example.com. ", &["jane@example.com"], "");
        check_open("write to jane@example.com, jo", &["jane@example.com"], "jo");
        check_open("a@b@c", &[], "b@c");
        check_open("@handle", &[], "handle");
        check_open("请写信到jane", &[], "请写信到jane");
    }

    #[test]
    fn lengths_are_those_of_mail_servers() {
        let long = "x".repeat(100);
        check(&format!("{long}@b.de"), &[&format!("{}@b.de", &long[..64])]);
        check_open(&long, &[], &long[..64]);
        let domain = "d.".repeat(200);
        check_open(&format!("a@{domain}"), &[], &domain[..64]);
        check_open(&format!("a@{}", &domain[..257]), &[], &format!("a@{}", &domain[..257]));
        let deep = format!("{}de", &domain[..252]);
        check_open(&format!("a@{deep}.com.com"), &[&format!("a@{deep}")], ".com.com");
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
