#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use proptest::prelude::*;

use super::{StopFilter, TextFilter, Utf8Hold};

/// One row of the protocol's table: stops, pieces, what each piece emits,
/// whether a stop matched, what is held at the end.
fn check(stops: &[&str], pieces: &[&str], emitted: &[&str], matched: bool, held: &str) {
    let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
    let mut filter = StopFilter::new(&stops);
    let mut done = false;
    for (piece, expected) in pieces.iter().zip(emitted) {
        let mut out = String::new();
        done = filter.push(piece, &mut out);
        assert_eq!(&out, expected, "after {piece:?} of {pieces:?}, stops {stops:?}");
    }
    assert_eq!(pieces.len(), emitted.len(), "row is complete");
    assert_eq!(done, matched, "{pieces:?}, stops {stops:?}");
    let mut tail = String::new();
    filter.finish(&mut tail);
    assert_eq!(tail, held, "{pieces:?}, stops {stops:?}");
}

#[test]
fn stop_table_of_the_protocol() {
    check(&["abc"], &["abc"], &[""], true, "");
    check(&["abc"], &["defabc"], &["def"], true, "");
    check(&["abc"], &["defabcghi"], &["def"], true, "");
    check(&["abc"], &["ab"], &[""], false, "ab");
    check(&["abc"], &["def", "ab", "_ghi"], &["def", "", "ab_ghi"], false, "");
    check(&["abc"], &["xa", "b", "cd"], &["x", "", ""], true, "");
    check(&["abcd", "b"], &["ab"], &["a"], true, "");
    check(&[""], &["abc"], &["abc"], false, "");
}

#[test]
fn stop_that_overlaps_itself() {
    check(&["aab"], &["aaab"], &["a"], true, "");
    check(&["abab"], &["abaabab"], &["aba"], true, "");
}

#[test]
fn nothing_follows_a_stop() {
    let mut filter = StopFilter::new(&["x".to_string()]);
    let mut out = String::new();
    assert!(filter.push("axb", &mut out));
    assert!(filter.push("more", &mut out));
    filter.finish(&mut out);
    assert_eq!(out, "a");
}

#[test]
fn two_stops_that_end_together_take_the_longer() {
    check(&["b", "ab"], &["xab"], &["x"], true, "");
}

/// What the filter has to do, said without a stream: the first complete match
/// in reading order; of those that end together, the longest.
fn reference(stops: &[String], text: &str) -> (String, bool) {
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let start = stops
            .iter()
            .filter(|s| !s.is_empty() && text[..end].ends_with(s.as_str()))
            .map(|s| end - s.len())
            .min();
        if let Some(start) = start {
            return (text[..start].to_string(), true);
        }
    }
    (text.to_string(), false)
}

proptest! {
    /// Every way to split the bytes gives the same output.
    #[test]
    fn any_split_gives_the_same_output(
        stops in prop::collection::vec("[abß]{0,4}", 0..4),
        bytes in prop::collection::vec(prop_oneof![
            8 => Just(b"a".to_vec()), 8 => Just(b"b".to_vec()), 3 => Just("ß".as_bytes().to_vec()),
            1 => Just(vec![0xC3]), 1 => Just(vec![0xF0, 0x9F]), 1 => Just("😀".as_bytes().to_vec()),
        ], 0..24).prop_map(|parts| parts.concat()),
        cuts in prop::collection::vec(0usize..32, 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.push(0);
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut filter = TextFilter::new(&stops);
        let mut out = String::new();
        let mut done = false;
        for pair in cuts.windows(2) {
            let before = out.len();
            done = filter.push(&bytes[pair[0]..pair[1]], &mut out);
            prop_assert!(out.is_char_boundary(before));
            if done { break; }
        }
        if !done {
            done = filter.finish(&mut out);
        }
        let (expected, stopped) = reference(&stops, &String::from_utf8_lossy(&bytes));
        prop_assert_eq!(out, expected);
        prop_assert_eq!(done, stopped);
    }

    /// Held bytes are never more than an incomplete character, and nothing is
    /// lost or invented.
    #[test]
    fn utf8_equals_lossy_decoding(bytes in prop::collection::vec(any::<u8>(), 0..64), step in 1usize..5) {
        let mut hold = Utf8Hold::default();
        let mut out = String::new();
        for chunk in bytes.chunks(step) {
            out.push_str(&hold.push(chunk));
        }
        out.push_str(&hold.finish());
        prop_assert_eq!(out, String::from_utf8_lossy(&bytes).into_owned());
    }
}
