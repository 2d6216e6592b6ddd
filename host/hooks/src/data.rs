//! What goes into a chain and what comes out of it, in this crate's own types.
//!
//! They mirror the WIT package without being generated from it, so that several
//! lines of the package can be served by one chain later. Conversion is done in
//! `bindings`; the protocol's own types are the worker's business.

use std::ops::Range;
use std::time::Duration;

use crate::error::{Failure, Phase};

/// What a chain knows about the job that it serves.
#[derive(Debug, Clone, Default)]
pub struct JobContext {
    /// The client's job id.
    pub job: String,
    /// The subject on which the request arrived.
    pub subject: String,
    /// This worker's id.
    pub worker: String,
    /// Who is calling, as far as the worker can tell.
    pub account: Option<String>,
    /// W3C trace context, when the request carried one.
    pub traceparent: Option<String>,
    /// Headers that plugins may see. The worker must leave credentials out.
    pub headers: Vec<(String, String)>,
}

/// A request as plugins see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Name of the model that serves it.
    pub model: String,
    /// The text to work on.
    pub content: Content,
    /// Options that the client set, by their names on the wire. Names outside
    /// the protocol's table must already be gone.
    pub options: Vec<(String, serde_json::Value)>,
    /// Whether the client asked for a stream. Plugins see it and cannot change
    /// it.
    pub wants_stream: bool,
}

/// The text of a request, in the form in which the client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text to be continued.
    Completion {
        /// Kept whatever happens; empty when the client gave none.
        system: String,
        /// Joined with nothing between them; the first ones are dropped when the
        /// context is too small.
        input: Vec<String>,
    },
    /// A conversation, for the model's chat template.
    Chat(Vec<Message>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Role as on the wire, such as `user`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A rendered prompt, after the chat template and before the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The model that serves the job.
    pub model: String,
    /// The whole prompt.
    pub text: String,
    /// The parts of `text` in which control tokens are parsed, in bytes: nothing
    /// that a client wrote, unless the job wants its control tokens to take effect.
    /// They ascend, do not overlap, and begin and end between two characters.
    pub markup: Vec<Range<usize>>,
    /// How many tokens it is.
    pub tokens: u32,
    /// Size of the job's context, in tokens.
    pub context_length: u32,
    /// The chat template that made it; `None` for a completion.
    pub template: Option<String>,
}

/// What a plugin makes of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewPrompt {
    pub(crate) text: String,
    /// As in [`Prompt::markup`].
    pub(crate) markup: Vec<Range<usize>>,
}

/// What the request phase of a chain ended in.
#[derive(Debug)]
pub enum RequestOutcome {
    /// Go on with this request, changed or not.
    Continue(Request),
    /// Answer with this text, without inference.
    Responded(String),
    /// A plugin decided against the request. It is not a failure: code and
    /// reason go to the client as they are.
    Rejected {
        /// The plugin's id.
        plugin: String,
        /// Where it decided.
        phase: Phase,
        /// 1 to 10, or 1000 and above; `None` stands for the protocol's code of
        /// a failed hook.
        code: Option<u32>,
        /// Text for the client, never empty.
        reason: String,
    },
    /// A plugin failed; the job must not go on.
    Failed(Failure),
}

/// What the prompt phase of a chain ended in.
#[derive(Debug)]
pub enum PromptOutcome {
    /// Go on with this prompt.
    Continue {
        /// The prompt.
        text: String,
        /// As in [`Prompt::markup`].
        markup: Vec<Range<usize>>,
        /// Whether a plugin replaced it. A replaced prompt is tokenized again, with
        /// control tokens parsed in its markup.
        replaced: bool,
    },
    /// A plugin decided against the request. It is not a failure: code and
    /// reason go to the client as they are.
    Rejected {
        /// The plugin's id.
        plugin: String,
        /// Where it decided.
        phase: Phase,
        /// 1 to 10, or 1000 and above; `None` stands for the protocol's code of
        /// a failed hook.
        code: Option<u32>,
        /// Text for the client, never empty.
        reason: String,
    },
    /// A plugin failed; the job must not go on.
    Failed(Failure),
}

/// One plugin's effect on a job, for the log and for people who try plugins out.
#[derive(Debug, Clone)]
pub struct Change {
    /// The plugin's id.
    pub plugin: String,
    /// The phase in which it was called.
    pub phase: Phase,
    /// What it decided.
    pub verdict: Verdict,
    /// Whether the decision had no effect, because the plugin is only tried out.
    pub shadow: bool,
    /// What it changed; empty unless the verdict is a patch or a replacement.
    pub fields: Vec<FieldChange>,
    /// Wall time of the call.
    pub wall: Duration,
}

/// A plugin's decision, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing to do.
    Pass,
    /// The request was changed.
    Patch,
    /// The prompt was replaced.
    Replace,
    /// Answered without inference.
    Respond,
    /// Decided against the request or its output.
    Reject,
    /// Ended the output.
    Halt,
    /// The call failed.
    Failed,
}

impl Verdict {
    /// Its name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Patch => "patch",
            Self::Replace => "replace",
            Self::Respond => "respond",
            Self::Reject => "reject",
            Self::Halt => "halt",
            Self::Failed => "failed",
        }
    }
}

/// One part of a request that a plugin changed. Sizes are always safe to log;
/// the text is there only if [`crate::JobHooks::keep_text`] asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// `model`, `content`, `system`, `input[0]`, `messages[1]`,
    /// `options.temperature`, `prompt`, or `markup`: those parts of a prompt in which
    /// control tokens are parsed, as one text.
    pub field: String,
    /// Bytes before the change; `None` when the field is new.
    pub before_bytes: Option<usize>,
    /// Bytes after the change; `None` when the field was taken away.
    pub after_bytes: Option<usize>,
    /// The field before and after the change.
    pub text: Option<(String, String)>,
}

/// Token counts of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that came out of the prefix cache.
    pub cached_tokens: u32,
    /// Tokens that were generated.
    pub completion_tokens: u32,
}

/// Why an output ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// End of text, or a stop string.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// Ended by a plugin, with the reason that it gave.
    Filtered(String),
    /// The job was cancelled.
    Cancelled,
}

/// What a token guard wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardPlan {
    /// How many of the likeliest candidates it wants to see, 1 to 64.
    pub top_k: u32,
    /// It is asked about every n-th token of the output, at least 1.
    pub every: u32,
}

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability, before the sampling options.
    pub logprob: f32,
}

/// What a token guard decided about the next token. Whether the tokens exist is for
/// the engine to check.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardVerdict {
    /// Sample as without a guard.
    Pass,
    /// None of these.
    Ban(Vec<u32>),
    /// One of these.
    Only(Vec<u32>),
    /// Tokens, and finite numbers to be added to their logits.
    Bias(Vec<(u32, f32)>),
    /// These, in order; at least one.
    Force(Vec<u32>),
    /// The text ends here.
    End,
}

/// What the outgoing side of a chain gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// Text that every plugin has released, in order; never empty.
    Text(String),
    /// Nothing follows. `Filtered` means that a plugin ended the output and the
    /// generation should stop; otherwise it is the reason given to `close`.
    Done(FinishReason),
    /// A plugin decided against the output; what was not released never will be.
    Rejected {
        /// The plugin's id.
        plugin: String,
        /// Where it decided.
        phase: Phase,
        /// As in [`RequestOutcome::Rejected`].
        code: Option<u32>,
        /// Text for the client, never empty.
        reason: String,
    },
    /// A plugin failed; what was not released never will be.
    Failed(Failure),
}

/// What an observer is told about a job that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How it ended.
    pub outcome: Completion,
    /// Its tokens.
    pub usage: Usage,
    /// From its arrival to its first stage.
    pub queued: Duration,
    /// From its arrival to its first generated text.
    pub first_token: Option<Duration>,
    /// From its arrival to its last message.
    pub total: Duration,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// With an output.
    Completed(FinishReason),
    /// A plugin decided against it.
    Rejected {
        /// The code that the client got.
        code: u32,
        /// The text that the client got.
        reason: String,
    },
    /// With an error.
    Failed {
        /// The code that the client got.
        code: u32,
        /// The text that the client got.
        reason: String,
    },
}
