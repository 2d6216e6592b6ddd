//! Prompts that no cache has seen, with an exact number of tokens.
//!
//! They are made of words that the model's vocabulary holds as one token each,
//! with the space before them. Which words these are is found out by letting the
//! tokenizer cut a text of many words; asking it is the benchmark's business.

use crate::random::Random;

/// Shortest and longest word that is used: very short ones are often parts of
/// other words.
const LETTERS: std::ops::RangeInclusive<usize> = 3..=12;

/// Words of one token each.
#[derive(Debug, Clone)]
pub struct Words(Vec<String>);

impl Words {
    /// The words among `pieces`, the tokens of a text of words: those that are a
    /// whole word by themselves.
    pub fn from_pieces(pieces: &[String]) -> Self {
        let begins_word = |piece: Option<&String>| piece.is_none_or(|p| p.starts_with(' '));
        let mut words: Vec<String> = pieces
            .iter()
            .enumerate()
            .filter(|(n, _)| begins_word(pieces.get(n + 1)))
            .filter_map(|(_, piece)| piece.strip_prefix(' '))
            .filter(|word| is_word(word))
            .map(str::to_owned)
            .collect();
        words.sort_unstable();
        words.dedup();
        Self(words)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none, and no prompt can be made.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text of `tokens` tokens, drawn at random.
    pub fn text(&self, random: &mut Random, tokens: usize) -> String {
        let mut text = String::new();
        for _ in 0..tokens {
            if let Some(word) = self.0.get(random.below(self.0.len())) {
                text.push(' ');
                text.push_str(word);
            }
        }
        text
    }
}

/// The words of any text, as candidates for [`Words`]: each once, lower case.
pub fn candidates(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split(' ').filter(|word| is_word(word)).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn is_word(text: &str) -> bool {
    LETTERS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn only_whole_words_are_kept() {
        let words = Words::from_pieces(&pieces(&[
            " river", " un", "known", " stone", " It", " of", " sea",
        ]));
        assert_eq!(words.0, ["river", "sea", "stone"]);
    }

    #[test]
    fn a_text_has_as_many_words_as_asked_for() {
        let words = Words::from_pieces(&pieces(&[" river", " stone", " winter"]));
        let mut random = Random::new(3);
        let text = words.text(&mut random, 200);
        assert_eq!(text.matches(' ').count(), 200);
        assert!(text.split(' ').skip(1).all(|word| ["river", "stone", "winter"].contains(&word)));
        assert_ne!(words.text(&mut random, 200), text);
    }

    #[test]
    fn candidates_are_plain_words() {
        assert_eq!(candidates(" river The x1 river\nstone stone"), ["river", "stone"]);
    }
}
