//! Holds bytes back until they are whole characters.

/// The longest incomplete character has three bytes.
const MAX_HELD: usize = 3;

/// Turns a stream of bytes into a stream of characters.
///
/// Bytes that can no longer become a character turn into U+FFFD, by the same
/// rule as [`String::from_utf8_lossy`], however the bytes are split.
#[derive(Debug, Default)]
pub(crate) struct Utf8Hold {
    held: Vec<u8>,
}

impl Utf8Hold {
    /// The characters that are complete with these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut out = String::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    self.held.clear();
                    return out;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(len) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            rest = after.get(len..).unwrap_or_default();
                        }
                        // The end of input: more bytes may complete it.
                        None => {
                            debug_assert!(after.len() <= MAX_HELD);
                            self.held = after.to_vec();
                            return out;
                        }
                    }
                }
            }
        }
    }

    /// What is held at the end can no longer become a character.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}
