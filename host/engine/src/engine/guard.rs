//! Follows the answers of token guards.
//!
//! A job that has asked keeps its own copy of the logits and takes no part in
//! steps until its answer is there. What an answer may do is bounded here: it
//! names tokens of the vocabulary, it cannot go around the job's constraint, and
//! it cannot make the job choose among tokens that the guard has never seen by
//! banning all that it has.

use crate::engine::backend::Backend;
use crate::engine::scheduler::Engine;
use crate::engine::sequence::Question;
use crate::error::GenerationError;
use crate::job::{FinishReason, GuardVerdict};

impl<B: Backend> Engine<B> {
    /// Goes on with every job whose answer has come.
    pub(super) fn follow_guards(&mut self) {
        for slot in 0..self.slots.len() {
            let answered = self.slots[slot].as_mut().and_then(|job| job.answered());
            let Some((question, verdict)) = answered else { continue };
            if let Err(error) = self.follow(slot, question, verdict) {
                self.fail(slot, error);
            }
        }
    }

    fn follow(
        &mut self,
        slot: usize,
        mut question: Question,
        verdict: GuardVerdict,
    ) -> Result<(), GenerationError> {
        match verdict {
            GuardVerdict::End => {
                self.finish(slot, FinishReason::Stop);
                Ok(())
            }
            GuardVerdict::Force(tokens) => {
                known(&tokens, question.logits.len())?;
                self.force(slot, &tokens)
            }
            verdict => {
                edit(&mut question, verdict)?;
                let Some(job) = self.slots[slot].as_mut() else { return Ok(()) };
                let token = job.choose_from(&question.logits)?;
                self.deliver(slot, token);
                Ok(())
            }
        }
    }

    fn force(&mut self, slot: usize, tokens: &[u32]) -> Result<(), GenerationError> {
        if tokens.is_empty() {
            return Err(GenerationError::Guard("no token to force".to_string()));
        }
        for token in tokens {
            // A stop string, or the context, may have ended the job.
            let Some(job) = self.slots[slot].as_mut() else { break };
            if !job.force(*token)? {
                return Err(GenerationError::Guard(format!(
                    "the constraint refuses the forced token {token}"
                )));
            }
            self.deliver(slot, *token);
        }
        Ok(())
    }
}

/// Does to the logits what the answer says.
fn edit(question: &mut Question, verdict: GuardVerdict) -> Result<(), GenerationError> {
    let Question { logits, shown } = question;
    match verdict {
        GuardVerdict::Pass | GuardVerdict::Force(_) | GuardVerdict::End => return Ok(()),
        GuardVerdict::Ban(tokens) => {
            known(&tokens, logits.len())?;
            for token in tokens {
                logits[token as usize] = f32::NEG_INFINITY;
            }
        }
        GuardVerdict::Only(tokens) => {
            known(&tokens, logits.len())?;
            let mut only = vec![f32::NEG_INFINITY; logits.len()];
            for token in tokens {
                only[token as usize] = logits[token as usize];
            }
            *logits = only;
            // These were named, so they count as seen.
            return match logits.iter().any(|logit| *logit > f32::NEG_INFINITY) {
                true => Ok(()),
                false => Err(GenerationError::Guard("none of its tokens is allowed".to_string())),
            };
        }
        GuardVerdict::Bias(biases) => {
            let tokens: Vec<u32> = biases.iter().map(|bias| bias.0).collect();
            known(&tokens, logits.len())?;
            for (token, bias) in biases {
                if bias.is_nan() || bias == f32::INFINITY {
                    return Err(GenerationError::Guard(format!("the bias of {token} is {bias}")));
                }
                logits[token as usize] += bias;
            }
        }
    }
    if shown.iter().all(|token| logits[*token as usize] == f32::NEG_INFINITY) {
        return Err(GenerationError::Guard("every candidate is banned".to_string()));
    }
    Ok(())
}

fn known(tokens: &[u32], n_vocab: usize) -> Result<(), GenerationError> {
    match tokens.iter().find(|token| **token as usize >= n_vocab) {
        None => Ok(()),
        Some(token) => Err(GenerationError::Guard(format!(
            "token {token} is not in the vocabulary of {n_vocab} tokens"
        ))),
    }
}
