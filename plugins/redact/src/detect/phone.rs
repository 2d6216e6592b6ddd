//! Telephone numbers.
//!
//! Digits alone do not make a telephone number, so one of these shapes is asked
//! for:
//!
//! | shape | digits | example |
//! |---|---|---|
//! | `+` and a country code (E.164) | 7 to 15 | `+49 (0)171 2345678` |
//! | `00` and a country code | 9 to 17 | `0033 6 12 34 56 78` |
//! | North American groups 3-3-4, `1` in front or not | 10, 11 | `(555) 123-4567` |
//! | `0` and a national number | 9 to 12 | `0171/2345678`, `020 7946 0958` |
//!
//! Ten digits in one piece are left alone unless they begin with `0`: they are
//! more often an identifier or a time than a North American number. So are
//! service numbers (`110`, `911`), which belong to nobody, and dates.

use std::ops::Range;

use super::numbers::{self, Group};

/// A piece of text that the rules here have claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Bytes of the text.
    pub range: Range<usize>,
    /// Whether it is a telephone number; otherwise it is a date, or would be a
    /// number if it did not belong to a longer name.
    pub is_phone: bool,
}

/// Telephone numbers in `text[within]` and what only looks like them, as ranges
/// of `text`.
pub fn find(text: &str, within: Range<usize>) -> Vec<Claim> {
    let mut found = Vec::new();
    for row in numbers::rows(text, within.clone()) {
        let mut first = 0;
        while first < row.groups.len() {
            let groups = &row.groups[first..];
            if is_date(text, groups) {
                let range = groups[0].range.start..groups[2].range.end;
                found.push(Claim { range, is_phone: false });
                first += 3;
                continue;
            }
            let Some(count) = phone_at(text, within.start, groups) else {
                first += 1;
                continue;
            };
            let end = row.groups[first + count - 1].range.end;
            let start = with_prefix(text, within.start, row.groups[first].range.start, end);
            found.push(Claim { range: start..end, is_phone: is_apart(text, start, end) });
            first += count;
        }
    }
    found
}

/// How many of the first `groups` are a telephone number.
fn phone_at(text: &str, from: usize, groups: &[Group]) -> Option<usize> {
    let start = groups[0].range.start;
    let before = &text[from..start];
    if before.ends_with('+') || before.ends_with("+(") {
        return longest(text, groups, 7..=15);
    }
    let digits = first_digits(text, groups);
    if let Some(rest) = digits.strip_prefix("00") {
        // No country code begins with 0.
        let is_international = !rest.starts_with('0') && !rest.is_empty();
        return is_international.then(|| longest(text, groups, 9..=17))?;
    }
    if digits.starts_with('0') {
        let first = groups[0].range.len();
        let national = longest(text, groups, 9..=12)?;
        // "0.123456789" is a fraction, and "10 000 050 000 012" is one large
        // number whose groups all have three digits.
        let fraction = first == 1;
        let thousands = numbers::follows_digits(text, start)
            && groups[..national].iter().all(|group| group.range.len() == 3);
        return (!fraction && !thousands).then_some(national);
    }
    north_american(text, groups)
}

/// Most groups whose digits together are as many as `wanted` allows.
fn longest(text: &str, groups: &[Group], wanted: std::ops::RangeInclusive<usize>) -> Option<usize> {
    let mut digits = 0;
    let mut best = None;
    for (index, group) in groups.iter().enumerate() {
        digits += group.range.len();
        // A second number after this one begins with its own `+`.
        let other = index > 0 && text[group.glue.clone()].contains('+');
        if other || digits > *wanted.end() {
            break;
        }
        if wanted.contains(&digits) {
            best = Some(index + 1);
        }
    }
    best
}

/// Enough of the leading digits to tell the prefixes apart.
fn first_digits(text: &str, groups: &[Group]) -> String {
    groups
        .iter()
        .take(3)
        .flat_map(|group| text[group.range.clone()].chars().take(3))
        .take(3)
        .collect()
}

/// Groups 3-3-4 with something between them. No area code begins with 0 or 1.
/// Nor does an exchange, but people who make up a number do not know that.
fn north_american(text: &str, groups: &[Group]) -> Option<usize> {
    let country = usize::from(&text[groups[0].range.clone()] == "1");
    let number = groups.get(country..country + 3)?;
    let fits = number.iter().zip([3, 3, 4]).all(|(group, length)| group.range.len() == length);
    let is_area = matches!(text.as_bytes()[number[0].range.start], b'2'..=b'9');
    (fits && is_area).then_some(country + 3)
}

/// `31.12.2024`, `12/31/2024`, `2024-12-31`, also amid other numbers.
fn is_date(text: &str, groups: &[Group]) -> bool {
    let [first, second, third, ..] = groups else {
        return false;
    };
    let lengths = [first, second, third].map(|group| group.range.len());
    let glue = &text[second.glue.clone()];
    let year = match lengths {
        [1 | 2, 1 | 2, 4] => third,
        [4, 1 | 2, 1 | 2] => first,
        _ => return false,
    };
    let is_year = matches!(&text[year.range.start..year.range.start + 2], "18" | "19" | "20");
    is_year && glue == &text[third.glue.clone()] && matches!(glue, "." | "-" | "/")
}

/// Takes a `+` or an opening parenthesis before the digits into the match. The
/// parenthesis only if its end is in the match too: "(0171 2345678)" keeps both.
fn with_prefix(text: &str, from: usize, start: usize, end: usize) -> usize {
    let mut start = start;
    for prefix in ['(', '+', '('] {
        let count = |character| text[start..end].matches(character).count();
        let belongs = prefix == '+' || count(')') > count('(');
        if belongs && text[from..start].ends_with(prefix) {
            start -= prefix.len_utf8();
        }
    }
    start
}

/// Digits that are glued to letters are part of a name, as in `ISO0123456789`.
fn is_apart(text: &str, start: usize, end: usize) -> bool {
    let is_part = |character: Option<char>| {
        character.is_some_and(|character| character.is_ascii_alphanumeric() || character == '_')
    };
    !is_part(text[..start].chars().next_back()) && !is_part(text[end..].chars().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> = find(text, 0..text.len())
            .into_iter()
            .filter(|claim| claim.is_phone)
            .map(|claim| &text[claim.range])
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn numbers_as_people_write_them() {
        for number in [
            "+491712345678",
            "+49 171 2345678",
            "+49 (0)171 2345678",
            "+49 (0) 171 / 23 45 67 8",
            "(+49) 171 2345678",
            "+1-555-123-4567",
            "+1 (555) 123-4567",
            "+44 20 7946 0958",
            "+33\u{a0}6\u{a0}12\u{a0}34\u{a0}56\u{a0}78",
            "+86 138 0013 8000",
            "0049 171 2345678",
            "0033 6 12 34 56 78",
            "00 44 20 7946 0958",
            "555-123-4567",
            "(555) 123-4567",
            "(555)123-4567",
            "555.123.4567",
            "1 555 223 4567",
            "1-800-555-0199",
            "0171 2345678",
            "0171/2345678",
            "01712345678",
            "(030) 12345678",
            "020 7946 0958",
            "06 12 34 56 78",
            "06.12.34.56.78",
            "044 668 18 00",
        ] {
            check(number, &[number]);
            check(&format!("Call {number}, please."), &[number]);
            check(&format!("({number})"), &[number]);
        }
    }

    #[test]
    fn several_numbers() {
        check("+49 171 2345678 +49 30 123456", &["+49 171 2345678", "+49 30 123456"]);
        check("555-123-4567 555-987-6543", &["555-123-4567", "555-987-6543"]);
        check("030 123456 or 030 654321", &["030 123456", "030 654321"]);
        check("Invoice 2024 0171 2345678", &["0171 2345678"]);
    }

    #[test]
    fn not_telephone_numbers() {
        for text in [
            "911",
            "110",
            "12345",
            "2024-12-31",
            "31.12.2024",
            "31.12.2024 10:30",
            "31.12.2024 10",
            "01/02/2024 03/04/2024",
            "2024-01-02 05-06-07",
            "01.02.2024",
            "0.123456789",
            "3.141592653",
            "1 000 000 000 000",
            "10 000 050 000 012",
            "1700000000",
            "5551234567",
            "ISO0123456789",
            "0123456789_a",
            "192.168.100.200",
            "10.0.0.1",
            "1.2.3.4.5.6.7.8.9.0",
            "+1",
            "+ 5",
            "000000000000",
            "C++ 20",
            "155-123-4567",
            "055-1234",
            "12 + 3456",
        ] {
            check(text, &[]);
        }
    }

    #[test]
    fn long_rows_end() {
        check(&"1 ".repeat(100_000), &[]);
        check(&"0".repeat(200_000), &[]);
        check(&"0 ".repeat(100_000), &[]);
    }
}
