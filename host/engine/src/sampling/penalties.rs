//! Makes recent tokens less likely.

use std::collections::HashMap;

use crate::job::Sampling;

/// The three penalties of llama.cpp, applied to the tokens of the window only.
#[derive(Debug)]
pub(super) struct Penalties {
    last_n: Option<usize>,
    repeat: f32,
    frequency: f32,
    presence: f32,
    /// A token that is spared.
    spared: Option<u32>,
    counts: HashMap<u32, u32>,
}

impl Penalties {
    pub(super) fn new(options: &Sampling, newline: Option<u32>) -> Self {
        Self {
            last_n: usize::try_from(options.repeat_last_n).ok(),
            repeat: options.repeat_penalty,
            frequency: options.frequency_penalty,
            presence: options.presence_penalty,
            spared: newline.filter(|_| !options.penalize_newline),
            counts: HashMap::new(),
        }
    }

    pub(super) fn apply(&mut self, logits: &mut [f32], history: &[u32]) {
        let off = self.repeat == 1.0 && self.frequency == 0.0 && self.presence == 0.0;
        if off || self.last_n == Some(0) {
            return;
        }
        let n = self.last_n.unwrap_or(history.len()).min(history.len());
        self.counts.clear();
        for token in &history[history.len() - n..] {
            *self.counts.entry(*token).or_default() += 1;
        }
        for (token, count) in &self.counts {
            if self.spared == Some(*token) {
                continue;
            }
            let Some(logit) = logits.get_mut(*token as usize) else {
                continue;
            };
            // Dividing a negative logit would make the token likelier.
            if *logit <= 0.0 {
                *logit *= self.repeat;
            } else {
                *logit /= self.repeat;
            }
            *logit -= *count as f32 * self.frequency + self.presence;
        }
    }
}
