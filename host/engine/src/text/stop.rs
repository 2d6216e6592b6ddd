//! Ends an output at the first stop string.

/// Looks for stop strings in a stream of text and holds back what may be the
/// beginning of one.
///
/// When several are in the text, the one that begins first counts, and the text
/// in front of it is the output. A stop string that is complete while an
/// earlier one is still possible wins all the same: an output must not wait for
/// a match that may never come.
#[derive(Debug)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
    matched: bool,
}

impl StopFilter {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
            matched: false,
        }
    }

    /// Takes a piece of text; appends to `out` what can be no part of a stop
    /// string. Returns true when one is complete, now or before.
    #[must_use]
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.matched {
            return true;
        }
        if self.stops.is_empty() {
            out.push_str(text);
            return false;
        }
        // Character by character, so that the result cannot depend on how the
        // text was split.
        for c in text.chars() {
            self.held.push(c);
            if let Some(start) = self.complete_match() {
                out.push_str(&self.held[..start]);
                self.held.clear();
                self.matched = true;
                return true;
            }
            let keep = self.possible_start();
            out.push_str(&self.held[..keep]);
            self.held.drain(..keep);
        }
        false
    }

    /// Appends what is held; the end has shown that it was no stop string.
    pub(crate) fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }

    /// Where the earliest stop string that ends with the held text begins.
    fn complete_match(&self) -> Option<usize> {
        self.stops
            .iter()
            .filter(|stop| self.held.ends_with(stop.as_str()))
            .map(|stop| self.held.len() - stop.len())
            .min()
    }

    /// Where the longest tail of the held text begins that starts a stop string.
    fn possible_start(&self) -> usize {
        self.held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }
}
