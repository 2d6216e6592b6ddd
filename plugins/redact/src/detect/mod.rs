//! Finds personal data in text: e-mail addresses, payment card numbers and
//! telephone numbers.
//!
//! Each kind has its own module and rules. This one runs them in a fixed order
//! over what the ones before left, so that no piece of text is two things: the
//! card number inside a longer row of digits is never called a phone number.
//! Everything here is linear in the length of the text, because the worker stops
//! a plugin that thinks for long.
//!
//! A text may arrive in pieces: [`scan`] then says how much of it is settled, so
//! that its caller keeps the rest and looks again when more is there. Everything
//! that a match may be made of is bounded in length, and so is what is kept.
//!
//! The rules prefer masking too much over too little where the two are close, but
//! they know shapes only: a name, a street or a number that is spelled out passes.

mod card;
mod email;
mod numbers;
mod phone;

use std::ops::Range;

use serde::Deserialize;

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A payment card number that passes the Luhn check.
    Card,
    /// A telephone number.
    Phone,
}

impl Kind {
    /// Every kind, in the order in which they are looked for.
    pub const ALL: [Self; 3] = [Self::Email, Self::Card, Self::Phone];

    /// The name in the configuration and in replacements.
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Card => "card",
            Self::Phone => "phone",
        }
    }
}

/// A piece of text that is personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Bytes of the text, on character borders.
    pub range: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

/// What is known of a text that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// All matches in the settled part, in order, none overlapping another.
    pub matches: Vec<Match>,
    /// Everything before this byte is settled: nothing that follows the text
    /// changes its matches, and a scan that begins here later finds the others.
    pub settled: usize,
}

/// Characters before a text that [`scan`] looks at.
pub const LOOK_BEHIND: usize = numbers::LOOK_BEHIND;

/// All matches of the wanted kinds, in order, none overlapping another.
pub fn find(text: &str, wanted: &[Kind]) -> Vec<Match> {
    scan(text, 0, false, wanted).matches
}

/// Looks at `text` from byte `from` on, which is where an earlier scan was
/// settled or the beginning; at least [`LOOK_BEHIND`] characters of the text are
/// before it, if there are as many. `more` says that the text may go on.
pub fn scan(text: &str, from: usize, more: bool, wanted: &[Kind]) -> Scan {
    // A kind that is not wanted still claims its text: otherwise a card number,
    // left in place on purpose, could be masked as a phone number.
    let emails = email::find(text, from..text.len(), more);
    let mut claims: Vec<Claim> = emails.found.into_iter().map(Claim::of(Kind::Email)).collect();
    let last = from..text.len();
    let last = claims.last().map_or(last.start, |claim| claim.range.end)..last.end;

    let cards: Vec<_> =
        gaps(from..text.len(), &claims).into_iter().flat_map(|gap| card::find(text, gap)).collect();
    claims.extend(cards.into_iter().map(Claim::of(Kind::Card)));
    claims.sort_by_key(|claim| claim.range.start);

    let phones: Vec<_> = gaps(from..text.len(), &claims)
        .into_iter()
        .flat_map(|gap| phone::find(text, gap))
        .collect();
    claims.extend(
        phones
            .into_iter()
            .map(|claim| Claim { range: claim.range, kind: claim.is_phone.then_some(Kind::Phone) }),
    );
    claims.sort_by_key(|claim| claim.range.start);

    let mut settled = text.len();
    if more {
        settled = numbers::settled(text, last, emails.open);
        // Where a row has gone on for long, a number that is certain may lie across.
        for claim in &claims {
            if claim.range.start < settled && settled < claim.range.end {
                settled = claim.range.end;
            }
        }
    }
    let matches = claims.into_iter().filter(|claim| claim.range.end <= settled);
    let matches = matches.filter_map(|claim| {
        let kind = claim.kind.filter(|kind| wanted.contains(kind))?;
        Some(Match { range: claim.range, kind })
    });
    Scan { matches: matches.collect(), settled }
}

/// A piece of text that one set of rules has taken from those after it.
struct Claim {
    range: Range<usize>,
    /// `None` for what only looks like personal data, such as a date.
    kind: Option<Kind>,
}

impl Claim {
    fn of(kind: Kind) -> impl Fn(Range<usize>) -> Self {
        move |range| Self { range, kind: Some(kind) }
    }
}

/// The ranges of `within` between `claims`.
fn gaps(within: Range<usize>, claims: &[Claim]) -> Vec<Range<usize>> {
    let mut gaps = Vec::with_capacity(claims.len() + 1);
    let mut start = within.start;
    for claim in claims {
        gaps.push(start..claim.range.start);
        start = claim.range.end;
    }
    gaps.push(start..within.end);
    gaps.retain(|gap| !gap.is_empty());
    gaps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test should panic")]
    use super::*;

    /// The matched texts with their kinds.
    fn check(text: &str, expected: &[(&str, Kind)]) {
        let found: Vec<(&str, Kind)> = find(text, &Kind::ALL)
            .into_iter()
            .map(|found| (&text[found.range], found.kind))
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn kinds_do_not_overlap() {
        check(
            "0171 2345678 4111 1111 1111 1111 x@y.io",
            &[
                ("0171 2345678", Kind::Phone),
                ("4111 1111 1111 1111", Kind::Card),
                ("x@y.io", Kind::Email),
            ],
        );
        check("4111111111111111@example.com", &[("4111111111111111@example.com", Kind::Email)]);
    }

    #[test]
    fn unwanted_kind_is_left_alone_by_the_others() {
        assert_eq!(find("06011 1111 1111 1111 17", &[Kind::Email]), []);
        let card = "6011 0009 9013 9424";
        assert_eq!(find(card, &[Kind::Email, Kind::Phone]), []);
    }

    #[test]
    fn nothing_in_nothing() {
        check("", &[]);
        check("@ + ( 0 - .", &[]);
    }

    /// Any text at all must go through without a panic, and every match must lie
    /// on character borders and in order. The texts are made from the characters
    /// that the rules look at, by a small fixed generator.
    #[test]
    fn random_texts_never_panic() {
        const ALPHABET: [&str; 24] = [
            "0",
            "1",
            "4",
            "9",
            "+",
            "(",
            ")",
            "-",
            ".",
            "/",
            " ",
            "@",
            "a",
            "Z",
            "_",
            "é",
            "漢",
            "\u{a0}",
            "\n",
            "com",
            "4111111111111111",
            "555",
            "%",
            "🙂",
        ];
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..(seed >> 59) + 4 {
                // xorshift64.
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                text.push_str(ALPHABET[usize::try_from(seed % 24).unwrap()]);
            }
            let mut end = 0;
            for found in find(&text, &Kind::ALL) {
                assert!(found.range.start >= end, "{text:?}");
                assert!(text.get(found.range.clone()).is_some(), "{text:?}");
                assert!(!found.range.is_empty(), "{text:?}");
                end = found.range.end;
            }
        }
    }
}
