//! That no border between chunks changes what is masked, and that little is held.

#![allow(clippy::unwrap_used, reason = "a failed test should panic")]
use super::*;
use crate::redact::redact_text;

/// Does what a worker does with the steps, and checks them as a worker would.
fn stream<'a>(config: &Config, chunks: impl IntoIterator<Item = &'a str>) -> String {
    let mut output = Output::default();
    let mut sent = String::new();
    let mut held = String::new();
    for chunk in chunks {
        held.push_str(chunk);
        match output.push(config, chunk) {
            Step::Pass => sent.push_str(&std::mem::take(&mut held)),
            Step::Hold => {}
            Step::Release(bytes) => {
                let rest = held.split_off(bytes);
                sent.push_str(&std::mem::replace(&mut held, rest));
            }
            Step::Rewrite(emit, hold) => {
                sent.push_str(&emit);
                held = hold;
            }
        }
        assert_eq!(output.held(), held.len());
        // A chunk may be larger than the hold; what is held behind it may not.
        assert!(held.len() <= MAX_HOLD, "{} bytes are held", held.len());
    }
    sent.push_str(&output.close(config).unwrap_or(held));
    sent
}

fn whole(config: &Config, text: &str) -> String {
    let mut text = text.to_owned();
    redact_text(config, &mut text, &mut Counts::default());
    text
}

fn check<'a>(config: &Config, chunks: impl IntoIterator<Item = &'a str>, expected: &str) {
    let chunks: Vec<&str> = chunks.into_iter().collect();
    assert_eq!(stream(config, chunks.iter().copied()), expected, "{chunks:?}");
}

const SECRETS: [&str; 17] = [
    "jane@example.com",
    "o'brien+tag@mail.example.co.uk",
    "josé@exämple.de",
    "иван@почта.рф",
    "4111111111111111",
    "4012 8888 8888 1881",
    "6205 5000 0000 0000 004",
    "+49 (0) 171 / 23 45 67 8",
    "(+49) 171 2345678",
    "+1 (555) 123-4567",
    "0049 171 2345678",
    "555-123-4567",
    "(555)123-4567",
    "1-800-555-0199",
    "06.12.34.56.78",
    "+33\u{a0}6\u{a0}12\u{a0}34\u{a0}56\u{a0}78",
    "4111111111111111@example.com",
];

const SURROUNDINGS: [(&str, &str); 8] = [
    ("", ""),
    ("Call ", " now."),
    ("(", ")"),
    ("in 2024, ", "; or 31.12.2024"),
    ("1 2 3 ", "\n4 5 6"),
    ("naïve 漢字 ", " 漢字"),
    ("a@b ", " @c"),
    ("pay 5555 5555 5555 4444 ", " +49 30 123456"),
];

/// Every split of every secret into two and into three, and into characters.
#[test]
fn every_split_of_every_secret_is_masked() {
    let config = Config::default();
    for secret in SECRETS {
        for (before, after) in SURROUNDINGS {
            let text = format!("{before}{secret}{after}");
            let expected = whole(&config, &text);
            assert!(!expected.contains(secret), "{text:?} gives {expected:?}");
            let borders: Vec<usize> =
                (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
            for (index, first) in borders.iter().enumerate() {
                for second in &borders[index..] {
                    let chunks = [&text[..*first], &text[*first..*second], &text[*second..]];
                    check(&config, chunks, &expected);
                }
            }
            check(&config, borders.windows(2).map(|pair| &text[pair[0]..pair[1]]), &expected);
        }
    }
}

/// xorshift64: the same texts in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// Texts of the pieces that the rules look at, in chunks of all sizes.
#[test]
fn any_text_in_any_chunks_gives_the_same() {
    const PIECES: [&str; 40] = [
        "0",
        "1",
        "4",
        "9",
        "00",
        "+",
        "(",
        ")",
        "-",
        ".",
        "/",
        " ",
        " ",
        "  ",
        "@",
        "@",
        "a",
        "Z",
        "_",
        "é",
        "漢",
        "\u{a0}",
        "\n",
        ",",
        "com",
        "b.de",
        "4111111111111111",
        "4111 1111 1111 1111",
        "555",
        "0171",
        "2345678",
        "050 000 012",
        "31.12.2024",
        "2024-12-31",
        "12 34 56 78 ",
        "%",
        "🙂",
        "99999999999999999999",
        "word ",
        "x@y.io",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let masks = [Config::default(), Config::parse(r#"{"mask": ["phone"]}"#).unwrap()];
    for round in 0..30_000 {
        let config = &masks[round % 2];
        let length = 1 + random.below(if round % 10 == 0 { 120 } else { 16 });
        let text: String = (0..length).map(|_| PIECES[random.below(PIECES.len())]).collect();
        let most = 1 + random.below(12);
        let mut chunks = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let cut = rest.char_indices().map(|(at, _)| at).nth(1 + random.below(most));
            let (chunk, tail) = rest.split_at(cut.unwrap_or(rest.len()));
            chunks.push(chunk);
            rest = tail;
        }
        check(config, chunks, &whole(config, &text));
    }
}

/// Texts in which everything could go on for ever. `stream` checks the bound.
#[test]
fn little_is_held_of_texts_without_an_end() {
    let config = Config::default();
    for piece in [
        "a",
        "a.",
        "1",
        "12 ",
        "1 ",
        "12   ",
        "1 2 ",
        "1.",
        "(+(",
        "漢",
        "a@",
        "@a.",
        "a@b.",
        "d-",
        "0171 2345678 ",
        "4111 1111 1111 1111 ",
        "1\u{2009}\u{2009}\u{2009}",
        "1a",
        "31.12.2024 ",
    ] {
        let text = piece.repeat(6000 / piece.len());
        let expected = whole(&config, &text);
        let borders: Vec<usize> =
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        check(&config, borders.windows(2).map(|pair| &text[pair[0]..pair[1]]), &expected);
        check(&config, [text.as_str()], &expected);
        check(
            &config,
            [&text, "b.de", " 0171 2345678", "jane@example.com", "\n"],
            &whole(&config, &format!("{text}b.de 0171 2345678jane@example.com\n")),
        );
    }
}

#[test]
fn what_cannot_become_a_match_is_released_at_once() {
    let config = Config::default();
    let mut output = Output::default();
    for (chunk, expected) in [
        ("The ", Step::Pass),
        ("year", Step::Hold),
        (" was, ", Step::Pass),
        ("in the end", Step::Release(7)),
        (", ", Step::Pass),
        ("write to jane@exam", Step::Release(9)),
        ("ple.com", Step::Hold),
        (" or", Step::Rewrite("[email] ".to_owned(), "or".to_owned())),
        (" 0171", Step::Release(3)),
        (" 2345678", Step::Hold),
        (".\n", Step::Rewrite("[phone].\n".to_owned(), String::new())),
        ("Bye", Step::Hold),
    ] {
        assert_eq!(output.push(&config, chunk), expected, "{chunk:?}");
    }
    assert_eq!(output.close(&config), None, "the end is no match either");
    assert_eq!(output.counts.to_string(), "email=1 card=0 phone=1");
}

#[test]
fn the_end_is_masked_too() {
    let config = Config::default();
    let mut output = Output::default();
    assert_eq!(output.push(&config, "Mail jane@example.com"), Step::Release(5));
    assert_eq!(output.close(&config).as_deref(), Some("[email]"));
}
