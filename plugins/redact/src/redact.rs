//! Replaces what [`detect`](crate::detect) finds, in one text or over a list of
//! texts that the model will read as one.

use std::fmt;

use crate::config::Config;
use crate::detect::{self, Kind, Match};

/// How many matches of each kind were masked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    email: usize,
    card: usize,
    phone: usize,
}

impl Counts {
    /// All kinds together.
    pub fn total(&self) -> usize {
        self.email + self.card + self.phone
    }

    fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Email => self.email += 1,
            Kind::Card => self.card += 1,
            Kind::Phone => self.phone += 1,
        }
    }
}

/// `email=1 card=0 phone=2`.
impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { email, card, phone } = self;
        write!(formatter, "email={email} card={card} phone={phone}")
    }
}

/// Masks every match in `text`, in place.
pub fn redact_text(config: &Config, text: &mut String, counts: &mut Counts) {
    let matches = detect::find(text, &config.mask);
    if !matches.is_empty() {
        *text = replace(config, text, &matches, counts);
    }
}

/// Masks every match in `parts`, those included that are cut by a border between
/// two parts: the model reads the parts joined by `separator`, so an address that
/// is sent in two halves is an address all the same.
pub fn redact_parts(config: &Config, parts: &mut [String], separator: &str, counts: &mut Counts) {
    for part in parts.iter_mut() {
        redact_text(config, part, counts);
    }
    if parts.len() < 2 {
        return;
    }
    // What is left now crosses a border, or was masked already.
    let joined = parts.join(separator);
    let matches = detect::find(&joined, &config.mask);
    if matches.is_empty() {
        return;
    }
    let mut start = 0;
    for part in parts.iter_mut() {
        let end = start + part.len();
        *part = replace_within(config, &joined, start..end, &matches, counts);
        start = end + separator.len();
    }
}

fn replace(config: &Config, text: &str, matches: &[Match], counts: &mut Counts) -> String {
    replace_within(config, text, 0..text.len(), matches, counts)
}

/// The part `range` of `text` with its share of every match taken out; the
/// replacement stands in the part in which the match begins. Matches are in
/// order and do not overlap.
pub fn replace_within(
    config: &Config,
    text: &str,
    range: std::ops::Range<usize>,
    matches: &[Match],
    counts: &mut Counts,
) -> String {
    let mut output = String::with_capacity(range.len());
    let mut position = range.start;
    let first = matches.partition_point(|found| found.range.end <= range.start);
    for found in &matches[first..] {
        if found.range.start >= range.end {
            break;
        }
        if found.range.start >= range.start {
            output.push_str(&text[position..found.range.start]);
            output.push_str(&config.replacement_for(found.kind));
            counts.add(found.kind);
        }
        position = found.range.end.min(range.end);
    }
    output.push_str(&text[position..range.end]);
    output
}

/// Masks a sample that has one match of each kind.
///
/// # Errors
/// A text that names the kind that was not masked, or the part of the sample
/// that should have stayed.
pub fn self_test(config: &Config) -> Result<(), String> {
    const SAMPLE: [(Kind, &str); 3] = [
        (Kind::Email, "jane.doe@example.com"),
        (Kind::Card, "4111 1111 1111 1111"),
        (Kind::Phone, "+1 555 010 0199"),
    ];
    for (kind, sample) in SAMPLE {
        let mut text = format!("before {sample} after");
        let mut counts = Counts::default();
        redact_text(config, &mut text, &mut counts);
        let expected = if config.mask.contains(&kind) {
            format!("before {} after", config.replacement_for(kind))
        } else {
            format!("before {sample} after")
        };
        if text != expected {
            return Err(format!(
                "redact: self-test failed for {}: expected {expected:?}, got {text:?}",
                kind.name()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test should panic")]
    use super::*;

    fn parts(config: &Config, separator: &str, input: &[&str]) -> (Vec<String>, Counts) {
        let mut parts: Vec<String> = input.iter().map(|part| (*part).to_owned()).collect();
        let mut counts = Counts::default();
        redact_parts(config, &mut parts, separator, &mut counts);
        (parts, counts)
    }

    #[test]
    fn several_kinds_in_one_text() {
        let mut text = "Mail a@b.org, pay 5555-5555-5555-4444, call 0171 2345678.".to_owned();
        let mut counts = Counts::default();
        redact_text(&Config::default(), &mut text, &mut counts);
        assert_eq!(text, "Mail [email], pay [card], call [phone].");
        assert_eq!(counts.to_string(), "email=1 card=1 phone=1");
    }

    #[test]
    fn text_without_matches_is_untouched() {
        let (output, counts) = parts(&Config::default(), "", &["The year 2024", " was 366 days."]);
        assert_eq!(output, ["The year 2024", " was 366 days."]);
        assert_eq!(counts.total(), 0);
    }

    #[test]
    fn match_cut_by_a_border_is_masked_where_it_begins() {
        let (output, counts) =
            parts(&Config::default(), "", &["to jane@exam", "ple.com", " and bob@b.de"]);
        assert_eq!(output, ["to [email]", "", " and [email]"]);
        assert_eq!(counts.to_string(), "email=2 card=0 phone=0");
    }

    #[test]
    fn match_over_three_parts_leaves_the_rest_of_each() {
        let (output, _) = parts(&Config::default(), "", &["no 4111 11", "11 1111", " 1111 thanks"]);
        assert_eq!(output, ["no [card]", "", " thanks"]);
    }

    #[test]
    fn separator_that_ends_a_number_keeps_the_parts_apart() {
        let (output, counts) = parts(&Config::default(), "\n", &["4111 1111 1111", "1111"]);
        assert_eq!(output, ["4111 1111 1111", "1111"]);
        assert_eq!(counts.total(), 0);
    }

    #[test]
    fn only_the_configured_kinds_are_masked() {
        let config = Config::parse(r#"{"mask": ["email"], "replacement": "<{kind}>"}"#).unwrap();
        let mut text = "a@b.org 4111111111111111".to_owned();
        redact_text(&config, &mut text, &mut Counts::default());
        assert_eq!(text, "<email> 4111111111111111");
    }

    #[test]
    fn masking_twice_changes_nothing() {
        let mut text = "a@b.org, 4111111111111111, +49 171 2345678".to_owned();
        redact_text(&Config::default(), &mut text, &mut Counts::default());
        let once = text.clone();
        let mut counts = Counts::default();
        redact_text(&Config::default(), &mut text, &mut counts);
        assert_eq!((text, counts.total()), (once, 0));
    }

    #[test]
    fn self_test_holds_for_every_choice_of_kinds() {
        for mask in [r#"["email"]"#, r#"["card"]"#, r#"["phone"]"#, r#"["email","card","phone"]"#] {
            let config = Config::parse(&format!(r#"{{"mask": {mask}}}"#)).unwrap();
            self_test(&config).unwrap();
        }
    }
}
