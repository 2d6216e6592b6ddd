//! Makes a payload readable for a strict JSON parser without changing what Go
//! would read: bytes that are not UTF-8 and surrogate escapes without a partner
//! become U+FFFD, and numbers too large for a float its largest one. Also refuses
//! deep nesting, before anything recurses.
//!
//! It knows just enough JSON to tell strings from the rest; syntax errors are
//! left in place for the parser (`node`) to find.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// Deepest nesting of objects and arrays; the outermost object is level 1.
pub const MAX_NESTING: usize = 128;

const REPLACEMENT_ESCAPE: &str = "\\ufffd";

/// Repairs a payload. The common case, nothing to repair, borrows.
pub(super) fn repair(payload: &[u8]) -> Result<Cow<'_, str>, String> {
    match std::str::from_utf8(payload) {
        Ok(text) => repair_tokens(text),
        Err(_) => Ok(Cow::Owned(repair_tokens(&replace_invalid(payload))?.into_owned())),
    }
}

/// One U+FFFD for each byte that belongs to no character, as Go does;
/// `from_utf8_lossy` would make one of several.
fn replace_invalid(payload: &[u8]) -> String {
    let mut text = String::with_capacity(payload.len() + 16);
    for chunk in payload.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

fn repair_tokens(text: &str) -> Result<Cow<'_, str>, String> {
    let bytes = text.as_bytes();
    let mut patches = Patches { text, done: 0, repaired: None };
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'"' => scan_string(bytes, at + 1, &mut patches),
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(format!("it is nested deeper than {MAX_NESTING} levels"));
                }
                at + 1
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            b'-' | b'0'..=b'9' => scan_number(bytes, at, &mut patches),
            _ => at + 1,
        };
    }
    Ok(patches.finish())
}

/// From behind the opening quote to behind the closing one, or to the end.
fn scan_string(bytes: &[u8], mut at: usize, patches: &mut Patches<'_>) -> usize {
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => match unit(bytes, at) {
                Some(0xD800..=0xDBFF) => match unit(bytes, at + 6) {
                    Some(0xDC00..=0xDFFF) => 12,
                    // The escape behind it may begin a pair of its own.
                    _ => patches.replace(at, 6, REPLACEMENT_ESCAPE),
                },
                Some(0xDC00..=0xDFFF) => patches.replace(at, 6, REPLACEMENT_ESCAPE),
                _ => 2,
            },
            _ => 1,
        };
    }
    at
}

/// The UTF-16 unit of the escape `\uXXXX` at `at`, if there is a whole one.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits
        .iter()
        .try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

/// To behind the number at `at`. A legal one beyond the range of floats would
/// make the parser refuse the whole payload, unknown fields included. The largest
/// float in its place is refused by every option that takes a number.
fn scan_number(bytes: &[u8], at: usize, patches: &mut Patches<'_>) -> usize {
    let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let end = at + bytes[at..].iter().take_while(is_part).count();
    // Shorter ones cannot be that large.
    if end - at > 4
        && let Some(token) = patches.text.get(at..end)
        && token.parse::<f64>().is_ok_and(f64::is_infinite)
        && serde_json::from_str::<IgnoredAny>(token).is_ok()
    {
        let largest = if token.starts_with('-') { f64::MIN } else { f64::MAX };
        patches.replace(at, end - at, &format!("{largest:e}"));
    }
    end
}

/// Replacements in a text, in order; the text is copied at the first one.
struct Patches<'a> {
    text: &'a str,
    done: usize,
    repaired: Option<String>,
}

impl<'a> Patches<'a> {
    /// Replaces `len` bytes at `at` and returns `len`.
    fn replace(&mut self, at: usize, len: usize, with: &str) -> usize {
        let repaired =
            self.repaired.get_or_insert_with(|| String::with_capacity(self.text.len() + 32));
        // Both ends are beside ASCII characters, so the range is never refused.
        repaired.push_str(self.text.get(self.done..at).unwrap_or_default());
        repaired.push_str(with);
        self.done = at + len;
        len
    }

    fn finish(self) -> Cow<'a, str> {
        match self.repaired {
            None => Cow::Borrowed(self.text),
            Some(mut repaired) => {
                repaired.push_str(self.text.get(self.done..).unwrap_or_default());
                Cow::Owned(repaired)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(payload: &[u8], expected: &str) {
        assert_eq!(repair(payload).unwrap(), expected, "{}", payload.escape_ascii());
    }

    #[test]
    fn healthy_text_is_borrowed() {
        let text = r#"{"a":"\ud83d\ude00 \\ud800 \u00e9 \" ","b":[1e308,-2]}"#;
        assert!(matches!(repair(text.as_bytes()).unwrap(), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn each_stray_byte_becomes_one_replacement() {
        check(b"\"\xff\"", "\"\u{fffd}\"");
        check(b"\"\xe2\x82\"", "\"\u{fffd}\u{fffd}\"");
        check(b"\"\xed\xa0\x80\"", "\"\u{fffd}\u{fffd}\u{fffd}\"");
    }

    #[test]
    fn surrogates_without_partner_are_replaced() {
        check(br#""\ud800""#, r#""\ufffd""#);
        check(br#""\uDFFFx""#, r#""\ufffdx""#);
        check(br#""\ud800\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#);
        check(br#""\ud800\n\udc00""#, r#""\ufffd\n\ufffd""#);
        check(br#""\ud83d\u0041""#, r#""\ufffd\u0041""#);
        // Not escapes: a backslash of its own, and a broken one for the parser.
        check(br#""\\ud800""#, r#""\\ud800""#);
        check(br#""\ud80""#, r#""\ud80""#);
        check(br#"\ud800"#, r#"\ud800"#);
    }

    #[test]
    fn only_legal_numbers_out_of_range_are_replaced() {
        check(b"1e400", "1.7976931348623157e308");
        check(b"[-1E+999]", "[-1.7976931348623157e308]");
        check(b"01e400", "01e400");
        check(b"1.e400", "1.e400");
        check(b"1e-400", "1e-400");
        check(br#""1e400""#, r#""1e400""#);
    }

    #[test]
    fn nesting_is_limited_outside_of_strings() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(repair(deep(MAX_NESTING).as_bytes()).is_ok());
        assert!(repair(deep(MAX_NESTING + 1).as_bytes()).is_err());
        assert!(repair(format!("\"{}\"", deep(1000)).as_bytes()).is_ok());
        assert!(repair("[]".repeat(1000).as_bytes()).is_ok());
    }
}
