//! How a value stands in the bucket: what it is and when it ends, in front of it.
//!
//! ```text
//!  byte 0      1 .. 8                          9                 10 ..
//!  version 1   end, ms since 1970, 0: never    kind: 0 value     the bytes
//!                                                    1 counter   64 bits, signed
//! ```
//!
//! All numbers are big-endian. Reading the clock is left to the caller.

use bytes::{BufMut, Bytes, BytesMut};

use super::tally::Line;

const VERSION: u8 = 1;
const VALUE: u8 = 0;
const COUNTER: u8 = 1;

/// What stands in front of the payload.
pub const HEADER_BYTES: usize = 10;

/// One entry of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Milliseconds since 1970 from which on the key is absent.
    pub ends: Option<u64>,
    /// What the key holds.
    pub content: Content,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Bytes that were set.
    Value(Vec<u8>),
    /// A number that is counted up and down.
    Counter(i64),
}

/// The entry was not written by a worker, or by a later version of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bucket holds something else under this key than a worker writes")]
pub struct Foreign;

impl Content {
    /// Bytes it takes, as quotas count them.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Value(bytes) => bytes.len(),
            Self::Counter(_) => size_of::<i64>(),
        }
    }

    /// As a plugin reads it: a counter in decimal digits.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Value(bytes) => bytes,
            Self::Counter(number) => number.to_string().into_bytes(),
        }
    }
}

impl Envelope {
    /// Whether the key is absent by now.
    pub fn is_over(&self, now: u64) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// Its line in the books of the quota.
    pub fn line(&self, key: &str) -> Line {
        Line { value: (), bytes: key.len() + self.content.bytes(), ends: self.ends }
    }

    /// As it is written.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.content.bytes());
        out.put_u8(VERSION);
        // Nothing that is written ends in 1970.
        out.put_u64(self.ends.unwrap_or(0));
        match &self.content {
            Content::Value(bytes) => {
                out.put_u8(VALUE);
                out.put_slice(bytes);
            }
            Content::Counter(number) => {
                out.put_u8(COUNTER);
                out.put_i64(*number);
            }
        }
        out.freeze()
    }

    /// What was written.
    ///
    /// # Errors
    /// [`Foreign`], whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, Foreign> {
        let (&[version, ref ends @ .., kind], payload) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Foreign)?;
        if version != VERSION {
            return Err(Foreign);
        }
        let ends = Some(u64::from_be_bytes(*ends)).filter(|ends| *ends != 0);
        let content = match kind {
            VALUE => Content::Value(payload.to_vec()),
            COUNTER => {
                let number = payload.try_into().map_err(|_| Foreign)?;
                Content::Counter(i64::from_be_bytes(number))
            }
            _ => return Err(Foreign),
        };
        Ok(Self { ends, content })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_what_other_workers_wrote() {
        let counter = Envelope { ends: Some(0x0102), content: Content::Counter(-2) };
        let bytes = [1, 0, 0, 0, 0, 0, 0, 1, 2, 1, 255, 255, 255, 255, 255, 255, 255, 254];
        assert_eq!(counter.encode(), bytes.as_slice());
        let value = Envelope { ends: None, content: Content::Value(b"hi".to_vec()) };
        assert_eq!(value.encode(), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'h', b'i'].as_slice());
    }

    #[test]
    fn what_is_foreign_is_said_to_be() {
        let good = Envelope { ends: None, content: Content::Counter(1) }.encode();
        assert!(Envelope::decode(&good).is_ok());
        for length in 0..good.len() {
            assert_eq!(Envelope::decode(&good[..length]), Err(Foreign), "{length}");
        }
        for (place, byte) in [(0, 0), (0, 2), (9, 2)] {
            let mut bad = good.to_vec();
            bad[place] = byte;
            assert_eq!(Envelope::decode(&bad), Err(Foreign));
        }
    }

    #[test]
    fn the_end_is_the_first_moment_without_it() {
        let envelope = Envelope { ends: Some(100), content: Content::Counter(0) };
        assert!(!envelope.is_over(99) && envelope.is_over(100));
        assert!(!Envelope { ends: None, ..envelope }.is_over(u64::MAX));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            ends in proptest::option::of(1..u64::MAX),
            bytes in proptest::collection::vec(any::<u8>(), 0..50),
            number in any::<i64>(),
        ) {
            for content in [Content::Value(bytes), Content::Counter(number)] {
                let envelope = Envelope { ends, content };
                prop_assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(envelope) = Envelope::decode(&bytes) {
                prop_assert_eq!(envelope.encode(), bytes);
            }
        }
    }
}
