//! From the bytes of tokens to the text a client sees.
//!
//! Bytes pass [`Utf8Hold`], which lets whole characters through, and then
//! [`StopFilter`], which holds back what may be the beginning of a stop string.
//! [`TextFilter`] is the two in a row. Joining pieces into messages is the
//! worker's business.

mod stop;
mod utf8;

pub(crate) use stop::StopFilter;
pub(crate) use utf8::Utf8Hold;

/// The way of one job's bytes from the sampler to its reader.
#[derive(Debug)]
pub(crate) struct TextFilter {
    utf8: Utf8Hold,
    stop: StopFilter,
}

impl TextFilter {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { utf8: Utf8Hold::default(), stop: StopFilter::new(stops) }
    }

    /// Takes the bytes of one token; appends to `out` what may be shown.
    /// Returns true when a stop string is complete: nothing more follows.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) -> bool {
        let text = self.utf8.push(bytes);
        self.stop.push(&text, out)
    }

    /// Appends what is still held; for every end but a stop string. Returns
    /// true if a stop string became complete by the last repaired bytes.
    pub(crate) fn finish(&mut self, out: &mut String) -> bool {
        let tail = self.utf8.finish();
        if self.stop.push(&tail, out) {
            return true;
        }
        self.stop.finish(out);
        false
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
