//! Payment card numbers.
//!
//! A card number has 13 to 19 digits, begins with 2 to 6 (the payment networks'
//! ranges of ISO/IEC 7812; the other first digits belong to airlines, fuel and
//! health cards) and passes the Luhn check. It may be written in one piece or in
//! groups: the first of four or six digits, the last of any length, those between
//! of four to six.
//! About one number in ten passes the Luhn check by chance, so an order number
//! of that shape is masked too.

use std::ops::Range;

use super::numbers::{self, Group};

const MIN_DIGITS: usize = 13;
const MAX_DIGITS: usize = 19;

/// Card numbers in `text[within]`, as ranges of `text`.
pub fn find(text: &str, within: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for row in numbers::rows(text, within) {
        let mut first = 0;
        while first < row.groups.len() {
            match card_at(text, &row.groups[first..]) {
                Some(count) => {
                    let end = row.groups[first + count - 1].range.end;
                    found.push(row.groups[first].range.start..end);
                    first += count;
                }
                None => first += 1,
            }
        }
    }
    found
}

/// How many of the first `groups` are a card number. The longest reading wins:
/// the last group of a 19-digit number must not be left behind.
fn card_at(text: &str, groups: &[Group]) -> Option<usize> {
    let mut digits = String::with_capacity(MAX_DIGITS);
    let mut best = None;
    for (index, group) in groups.iter().enumerate() {
        let piece = &text[group.range.clone()];
        let glued = index == 0 || is_separator(&text[group.glue.clone()]);
        if !glued || digits.len() + piece.len() > MAX_DIGITS {
            break;
        }
        digits.push_str(piece);
        if digits.len() >= MIN_DIGITS && has_issuer(&digits) && luhn(&digits) {
            best = Some(index + 1);
        }
        // Whether another group may follow this one.
        let goes_on = match index {
            0 => matches!(piece.len(), 4 | 6),
            _ => matches!(piece.len(), 4..=6),
        };
        if !goes_on {
            break;
        }
    }
    best
}

/// Card numbers are grouped by one space, dash or dot.
fn is_separator(glue: &str) -> bool {
    let mut characters = glue.chars();
    match (characters.next(), characters.next()) {
        (Some(only), None) => numbers::is_space(only) || numbers::is_dash(only) || only == '.',
        _ => false,
    }
}

fn has_issuer(digits: &str) -> bool {
    matches!(digits.as_bytes().first(), Some(b'2'..=b'6'))
}

/// The check of ISO/IEC 7812-1 annex B: every second digit from the right is
/// doubled, the digits of the results are added, and the sum ends in 0.
fn luhn(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, byte)| {
            let digit = u32::from(byte - b'0');
            match (index % 2, digit * 2) {
                (0, _) => digit,
                (_, doubled) if doubled > 9 => doubled - 9,
                (_, doubled) => doubled,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> =
            find(text, 0..text.len()).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    /// The published test numbers of the card networks.
    #[test]
    fn networks_test_numbers() {
        for number in [
            "4111111111111111",
            "4222222222222",
            "4012 8888 8888 1881",
            "5555-5555-5555-4444",
            "5105.1051.0510.5100",
            "2223 0031 2200 3222",
            "3782 822463 10005",
            "371449635398431",
            "3056 930902 5904",
            "6011\u{a0}1111\u{a0}1111\u{a0}1117",
            "3530 1113 3330 0000",
            "6304 0000 0000 0000",
            "6205 5000 0000 0000 004",
            "620550 0000000000004",
        ] {
            check(number, &[number]);
            check(&format!("card {number}."), &[number]);
        }
    }

    #[test]
    fn one_wrong_digit_is_no_card() {
        for number in ["4111111111111112", "4012 8888 8888 1882", "378282246310006"] {
            check(number, &[]);
        }
    }

    #[test]
    fn every_transposition_of_neighbours_is_no_card() {
        let number = "4012888888881881";
        for index in 0..number.len() - 1 {
            let mut digits: Vec<char> = number.chars().collect();
            digits.swap(index, index + 1);
            let changed: String = digits.into_iter().collect();
            if changed != number {
                assert!(!luhn(&changed), "{changed}");
            }
        }
    }

    #[test]
    fn card_amid_other_numbers() {
        check("order 12345 4111 1111 1111 1111 2024", &["4111 1111 1111 1111"]);
        check(
            "4111 1111 1111 1111 4111 1111 1111 1111",
            &["4111 1111 1111 1111", "4111 1111 1111 1111"],
        );
        check("No.4111111111111111x", &["4111111111111111"]);
    }

    #[test]
    fn not_cards() {
        for text in [
            // Right sum, wrong shape: too short, too long, wrong first digit.
            "411111111119",
            "41111111111111111114",
            "0000000000000000",
            "1700000000003",
            // Groups of two, double spaces, lines.
            "41 11 11 11 11 11 11 11",
            "4111  1111  1111  1111",
            "4111 1111\n1111 1111",
            "4111, 1111, 1111, 1111",
            "550e8400-e29b-41d4-a716-446655440000",
        ] {
            check(text, &[]);
        }
    }
}
