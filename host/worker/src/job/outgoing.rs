//! From the model to the client: generated text, and what the outgoing hooks let
//! pass of it.
//!
//! Without such hooks text goes straight on. With them it goes through their
//! pipeline, and the output is what came out of it: held or rejected text is in no
//! fragment and not in the final message either.

use llamero_engine::{Event, Finished, Generation, GenerationError, GuardVerdict};
use llamero_hooks::{Candidate, FinishReason as HookFinish, Outgoing, OutgoingPipe};
use llamero_protocol::{ErrorBody, FinishReason};

use super::account::Account;
use super::{Answer, convert};
use crate::wire;

/// The whole output and how it ended.
pub struct Output {
    /// What was released.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The engine's account; `None` if a hook ended the output before the engine
    /// did.
    pub finished: Option<Finished>,
}

/// Takes text from the model to the client, through the pipeline if there is one.
pub async fn deliver(
    mut generation: Generation,
    pipe: Option<OutgoingPipe>,
    answer: &Answer<'_>,
    account: &mut Account,
) -> Result<Output, ErrorBody> {
    match pipe {
        None => straight(&mut generation, answer, account).await,
        Some(pipe) => filtered(&mut generation, pipe, answer, account).await,
    }
}

async fn straight(
    generation: &mut Generation,
    answer: &Answer<'_>,
    account: &mut Account,
) -> Result<Output, ErrorBody> {
    let mut text = String::new();
    loop {
        match event(generation.next().await, account)? {
            Generated::Text(piece, _) => {
                answer.text(&piece);
                text.push_str(&piece);
            }
            // Only jobs with a pipeline have a token guard.
            Generated::Candidates(..) => decide(generation, GuardVerdict::Pass),
            Generated::End(finished, finish_reason) => {
                return Ok(Output { text, finish_reason, finished: Some(finished) });
            }
        }
    }
}

async fn filtered(
    generation: &mut Generation,
    mut pipe: OutgoingPipe,
    answer: &Answer<'_>,
    account: &mut Account,
) -> Result<Output, ErrorBody> {
    let mut text = String::new();
    let mut ended: Option<(Finished, FinishReason)> = None;
    let room = pipe.room();
    loop {
        tokio::select! {
            biased;
            released = pipe.next() => match released {
                Outgoing::Text(piece) => {
                    answer.text(&piece);
                    text.push_str(&piece);
                }
                other => return end(other, text, ended, account),
            },
            generated = async { room.wait().await; generation.next().await },
                if ended.is_none() =>
            {
                match event(generated, account)? {
                    Generated::Text(piece, tokens) => pipe.push(piece, tokens),
                    Generated::Candidates(previous, candidates) => {
                        // Without a verdict the output has ended, and the pipeline
                        // says how.
                        if let Some(verdict) = pipe.judge(previous, candidates).await {
                            decide(generation, convert::guard_verdict(verdict));
                        }
                    }
                    Generated::End(finished, reason) => {
                        pipe.close(convert::finish_to_hooks(Some(&reason)), account.usage);
                        ended = Some((finished, reason));
                    }
                }
            }
        }
    }
}

/// Sends an answer that needed no model through the pipeline.
pub async fn deliver_text(
    text: String,
    pipe: Option<OutgoingPipe>,
    answer: &Answer<'_>,
    account: &mut Account,
) -> Result<Output, ErrorBody> {
    let Some(mut pipe) = pipe else {
        if !text.is_empty() {
            answer.text(&text);
        }
        return Ok(Output { text, finish_reason: FinishReason::Stop, finished: None });
    };
    if !text.is_empty() {
        pipe.push(text, Vec::new());
    }
    pipe.close(HookFinish::Stop, account.usage);
    let mut released = String::new();
    loop {
        match pipe.next().await {
            Outgoing::Text(piece) => {
                answer.text(&piece);
                released.push_str(&piece);
            }
            other => return end(other, released, None, account),
        }
    }
}

/// What the end of the pipeline means for the job.
fn end(
    end: Outgoing,
    text: String,
    ended: Option<(Finished, FinishReason)>,
    account: &mut Account,
) -> Result<Output, ErrorBody> {
    match end {
        Outgoing::Done(HookFinish::Filtered(reason)) => {
            account.halted = Some(reason);
            let finished = ended.map(|(finished, _)| finished);
            Ok(Output { text, finish_reason: FinishReason::Filtered, finished })
        }
        Outgoing::Done(_) => {
            let (finished, finish_reason) = match ended {
                Some((finished, reason)) => (Some(finished), reason),
                None => (None, FinishReason::Stop),
            };
            Ok(Output { text, finish_reason, finished })
        }
        Outgoing::Rejected { plugin, phase, code, reason } => {
            Err(wire::rejection(plugin, phase, code, reason))
        }
        Outgoing::Failed(failure) => Err(wire::hook_failure(&failure)),
        // It is taken care of where text is.
        Outgoing::Text(_) => Err(wire::panicked()),
    }
}

/// Answers the engine, which waits with this job only.
fn decide(generation: &mut Generation, verdict: GuardVerdict) {
    if let Err(error) = generation.decide(verdict) {
        // It has asked, so that this is a defect; the job's next event tells more.
        tracing::error!(%error, "a verdict on a token was not taken");
    }
}

enum Generated {
    Text(String, Vec<u32>),
    Candidates(Option<u32>, Vec<Candidate>),
    End(Finished, FinishReason),
}

/// An event of the engine, entered into the account.
fn event(event: Option<Event>, account: &mut Account) -> Result<Generated, ErrorBody> {
    match event {
        Some(Event::Text(piece)) => {
            account.first_text.get_or_insert_with(std::time::Instant::now);
            let n = u32::try_from(piece.tokens.len()).unwrap_or(u32::MAX);
            account.usage.completion_tokens = account.usage.completion_tokens.saturating_add(n);
            Ok(Generated::Text(piece.text, piece.tokens))
        }
        Some(Event::Candidates { previous, candidates }) => {
            let candidate = |(token, logprob)| Candidate { token, logprob };
            Ok(Generated::Candidates(previous, candidates.into_iter().map(candidate).collect()))
        }
        Some(Event::Finished(finished)) => {
            let reason = convert::finish_reason(finished.reason)?;
            account.usage = llamero_hooks::Usage {
                prompt_tokens: finished.prompt_tokens,
                cached_tokens: finished.cached_tokens,
                completion_tokens: finished.completion_tokens,
            };
            Ok(Generated::End(finished, reason))
        }
        Some(Event::Failed(error)) => Err(wire::generation(&error)),
        None => Err(wire::generation(&GenerationError::Stopped)),
    }
}
