//! Calling a plugin with a golden case, on a fresh instance, and turning what it
//! decides into JSON.
//!
//! What counts as a verdict is the same as for a job: a patch must apply, a
//! rejection must have a reason, held text is held by this side. The limits are
//! those of the trial.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::matches;
use crate::bindings::v0_1::{
    context_to_wit, hook_error, prompt_hook, prompt_to_wit, request_hook, request_to_wit,
    response_hook, stream_filter, types,
};
use crate::classify::{CallError, Stage};
use crate::config::Limits;
use crate::data::{Content, JobContext, Prompt, Request};
use crate::error::{FailureKind, LoadCause, Phase};
use crate::host::Shared;
use crate::imports::millis;
use crate::instance::{Budget, JobInstance, begin, guard, settle};
use crate::job::JobShared;
use crate::plugin::Plugin;
use crate::policy::{GoldenCase, GoldenInput};
use crate::verdict::{apply, check_prompt, check_rejection, check_text};

/// Bytes of a verdict in an error.
const SHOWN_BYTES: usize = 600;

/// Runs one case.
pub(crate) async fn run(
    host: &Shared,
    plugin: &Plugin,
    case: &GoldenCase,
) -> Result<(), LoadCause> {
    let phase = case.input.phase();
    if !plugin.exports.has(phase) {
        return Err(LoadCause::Settings(format!(
            "golden case `{}` is for phase {phase}, which the plugin does not export",
            case.name
        )));
    }
    let got = match decide(host, plugin, &case.input).await {
        Ok(verdict) => verdict,
        Err(error) => json!({
            "verdict": "failed", "kind": error.kind.as_str(), "detail": error.detail,
        }),
    };
    if matches(&case.want, &got) {
        return Ok(());
    }
    Err(LoadCause::Golden { case: case.name.clone(), want: shown(&case.want), got: shown(&got) })
}

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN_BYTES {
        let end = (0..=SHOWN_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

async fn decide(host: &Shared, plugin: &Plugin, input: &GoldenInput) -> Result<Value, CallError> {
    let mut trial = Trial::begin(host, plugin, input).await?;
    match input {
        GoldenInput::Request(request) => trial.request(request).await,
        GoldenInput::Prompt(prompt) => trial.prompt(prompt).await,
        GoldenInput::Response(text) => trial.response(text).await,
        GoldenInput::Stream(chunks) => trial.stream(chunks).await,
    }
}

/// Calls a function of the guest under a budget of its own. A macro, because each
/// of them has types of its own.
macro_rules! call {
    ($trial:ident, $phase:ident, $guest:ident.$function:ident($($argument:expr),*)) => {{
        let Some(guest) = $trial.instance.$guest.clone() else {
            // `run` looked at the exports.
            return Err(CallError::new(FailureKind::Host, "the phase has no function"));
        };
        let budget = $trial.enter(Phase::$phase);
        let clock = Arc::clone(&$trial.instance.store.data().call.clock);
        let entry = guest.$function(&mut $trial.instance.store $(, $argument)*);
        let ended = guard($trial.host, &$trial.job, &clock, budget, entry).await;
        let returned = settle(&$trial.instance.store, Stage::Call, ended)?;
        $trial.returned(returned)?
    }};
}

/// One case's instance.
struct Trial<'a> {
    host: &'a Shared,
    job: Arc<JobShared>,
    limits: &'a Limits,
    instance: JobInstance,
}

impl<'a> Trial<'a> {
    async fn begin(
        host: &'a Shared,
        plugin: &'a Plugin,
        input: &GoldenInput,
    ) -> Result<Self, CallError> {
        let job = JobShared::new(JobContext { job: "golden".to_owned(), ..Default::default() });
        let limits = &plugin.shared.limits;
        let budget = Budget::trial(host.config.trial_wall, limits.cpu);
        let mut instance = JobInstance::make(host, plugin, &job, None, budget).await?;
        let unusable = |text| CallError::new(FailureKind::Instantiate, text);
        instance.load(plugin).map_err(|broken| unusable(broken.reason))?;
        let configured = instance.configure(host, &job, budget).await?;
        configured.map_err(|text| unusable(instance.with_stderr(format!("configure: {text}"))))?;
        let model = match input {
            GoldenInput::Request(request) => request.model.as_str(),
            GoldenInput::Prompt(prompt) => prompt.model.as_str(),
            GoldenInput::Stream(_) | GoldenInput::Response(_) => "",
        };
        model.clone_into(&mut instance.store.data_mut().call.model);
        Ok(Self { host, job, limits, instance })
    }

    fn context(&self) -> types::CallContext {
        context_to_wit(&self.job.context, millis(self.host.config.trial_wall))
    }

    /// Starts the budget of one call.
    fn enter(&mut self, phase: Phase) -> Budget {
        let budget = Budget::trial(self.host.config.trial_wall, self.limits.cpu);
        begin(&mut self.instance.store, Some(phase), budget);
        self.instance.store.set_epoch_deadline(1);
        budget
    }

    fn returned<T>(&self, result: Result<T, types::HookError>) -> Result<T, CallError> {
        result.map_err(|error| {
            let (text, retryable) = hook_error(error);
            let detail = self.instance.with_stderr(text);
            CallError { kind: FailureKind::Guest, retryable, detail }
        })
    }

    async fn request(&mut self, request: &Request) -> Result<Value, CallError> {
        let context = self.context();
        let given = request_to_wit(request);
        let verdict = call!(self, Request, request.call_on_request(&context, &given));
        match verdict {
            request_hook::Verdict::Pass => Ok(json!({"verdict": "pass"})),
            request_hook::Verdict::Patch(patch) => self.patch(request, patch),
            request_hook::Verdict::Respond(text) => {
                check_text("the answer", &text, self.limits).map_err(invalid)?;
                Ok(json!({"verdict": "respond", "text": text}))
            }
            request_hook::Verdict::Reject(rejection) => self.reject(&rejection),
        }
    }

    fn patch(&self, request: &Request, patch: request_hook::Patch) -> Result<Value, CallError> {
        let (model, content) = (patch.model.is_some(), patch.content.is_some());
        let named = |option: &types::OptionValue| {
            // Checked when the patch is applied.
            let value = serde_json::from_str(&option.json).unwrap_or_default();
            (option.name.clone(), value)
        };
        let options: Map<String, Value> = patch.options.iter().map(named).collect();
        let changed = apply(request, patch, self.limits).map_err(invalid)?;
        if let Some(check) = &self.host.config.option_check {
            check(&changed).map_err(invalid)?;
        }
        let mut verdict = json!({"verdict": "patch"});
        if model {
            verdict["model"] = json!(changed.model);
        }
        if content {
            verdict["content"] = content_json(&changed.content);
        }
        if !options.is_empty() {
            verdict["options"] = Value::Object(options);
        }
        Ok(verdict)
    }

    async fn prompt(&mut self, prompt: &Prompt) -> Result<Value, CallError> {
        let context = self.context();
        let given = prompt_to_wit(prompt);
        let verdict = call!(self, Prompt, prompt.call_on_prompt(&context, &given));
        match verdict {
            prompt_hook::Verdict::Pass => Ok(json!({"verdict": "pass"})),
            prompt_hook::Verdict::Replace(replacement) => {
                let new = check_prompt(replacement, self.limits).map_err(invalid)?;
                let markup: Vec<Value> =
                    new.markup.iter().map(|span| json!([span.start, span.end])).collect();
                Ok(json!({"verdict": "replace", "text": new.text, "markup": markup}))
            }
            prompt_hook::Verdict::Reject(rejection) => self.reject(&rejection),
        }
    }

    async fn response(&mut self, text: &str) -> Result<Value, CallError> {
        let context = self.context();
        let given = response_hook::Response {
            text: text.to_owned(),
            finish: types::FinishReason::Stop,
            usage: NO_USAGE,
        };
        let verdict = call!(self, Response, response.call_on_response(&context, &given));
        match verdict {
            response_hook::Verdict::Pass => Ok(json!({"verdict": "pass"})),
            response_hook::Verdict::Replace(text) => {
                check_text("the response", &text, self.limits).map_err(invalid)?;
                Ok(json!({"verdict": "replace", "text": text}))
            }
            response_hook::Verdict::Reject(rejection) => self.reject(&rejection),
        }
    }

    async fn stream(&mut self, chunks: &[String]) -> Result<Value, CallError> {
        let context = self.context();
        let plan = call!(self, Stream, stream.call_open(&context));
        let Some(plan) = plan else {
            // Not interested: everything goes past it.
            return Ok(json!({"verdict": "done", "text": chunks.concat()}));
        };
        let cap = usize::try_from(plan.max_hold_bytes).unwrap_or(usize::MAX);
        let mut text = HeldText::new(self.limits.hold_bytes.min(cap));
        for (seq, chunk) in (0..).zip(chunks) {
            let given = stream_filter::Chunk {
                seq,
                text: chunk.clone(),
                tokens: Vec::new(),
                held_bytes: text.held_bytes(),
            };
            let verdict = call!(self, Stream, stream.call_push(&given));
            text.held.push_str(chunk);
            match verdict {
                stream_filter::Verdict::Pass => text.release(text.held.len())?,
                stream_filter::Verdict::Hold => {}
                stream_filter::Verdict::Release(bytes) => {
                    text.release(usize::try_from(bytes).unwrap_or(usize::MAX))?;
                }
                stream_filter::Verdict::Rewrite(rewrite) => {
                    check_text("the rewrite", &rewrite.emit, self.limits).map_err(invalid)?;
                    text.released.push_str(&rewrite.emit);
                    text.held = rewrite.hold;
                }
                stream_filter::Verdict::Halt(halt) => {
                    check_text("the last text", &halt.text, self.limits).map_err(invalid)?;
                    let all = text.released + &halt.text;
                    return Ok(json!({"verdict": "halt", "text": all, "reason": halt.reason}));
                }
                stream_filter::Verdict::Reject(rejection) => return self.reject(&rejection),
            }
            text.check_cap()?;
        }
        let ending = stream_filter::Ending {
            finish: types::FinishReason::Stop,
            usage: NO_USAGE,
            held_bytes: text.held_bytes(),
        };
        let tail = call!(self, Stream, stream.call_close(&ending));
        match tail {
            stream_filter::Tail::Release => text.release(text.held.len())?,
            stream_filter::Tail::Replace(last) => {
                check_text("the tail", &last, self.limits).map_err(invalid)?;
                text.released.push_str(&last);
            }
            stream_filter::Tail::Discard => {}
            stream_filter::Tail::Reject(rejection) => return self.reject(&rejection),
        }
        Ok(json!({"verdict": "done", "text": text.released}))
    }

    fn reject(&self, rejection: &types::Rejection) -> Result<Value, CallError> {
        check_rejection(rejection, self.limits).map_err(invalid)?;
        Ok(json!({
            "verdict": "reject", "code": rejection.code, "reason": rejection.reason,
        }))
    }
}

const NO_USAGE: types::Usage =
    types::Usage { prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0 };

/// What a filter has released of a stream, and what it holds back.
struct HeldText {
    released: String,
    held: String,
    cap: usize,
}

impl HeldText {
    fn new(cap: usize) -> Self {
        Self { released: String::new(), held: String::new(), cap }
    }

    fn held_bytes(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    /// Releases the first bytes of what is held.
    fn release(&mut self, bytes: usize) -> Result<(), CallError> {
        if !self.held.is_char_boundary(bytes) {
            return Err(invalid(format!(
                "release({bytes}) of {} bytes: it must end between two characters",
                self.held.len()
            )));
        }
        let rest = self.held.split_off(bytes);
        self.released.push_str(&self.held);
        self.held = rest;
        Ok(())
    }

    fn check_cap(&self) -> Result<(), CallError> {
        if self.held.len() <= self.cap {
            return Ok(());
        }
        let detail = format!("{} bytes are held, the limit is {}", self.held.len(), self.cap);
        Err(CallError::new(FailureKind::Hold, detail))
    }
}

fn content_json(content: &Content) -> Value {
    match content {
        Content::Completion { system, input } => json!({"system": system, "input": input}),
        Content::Chat(messages) => {
            let message = |message: &crate::data::Message| json!({"role": message.role, "content": message.content});
            json!({"messages": messages.iter().map(message).collect::<Vec<_>>()})
        }
    }
}

fn invalid(detail: String) -> CallError {
    CallError::new(FailureKind::InvalidOutput, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn held_text_is_cut_between_characters_only() {
        let mut text = HeldText::new(10);
        text.held.push_str("aé");
        assert_eq!(text.release(2).unwrap_err().kind, FailureKind::InvalidOutput);
        assert_eq!(text.release(4).unwrap_err().kind, FailureKind::InvalidOutput);
        text.release(1).unwrap();
        assert_eq!((text.released.as_str(), text.held.as_str()), ("a", "é"));
        text.held.push_str("0123456789");
        assert_eq!(text.check_cap().unwrap_err().kind, FailureKind::Hold);
        text.release(text.held.len()).unwrap();
        assert_eq!(text.released, "aé0123456789");
        text.check_cap().unwrap();
    }

    #[test]
    fn what_is_shown_is_cut() {
        let text = shown(&json!({"text": "é".repeat(1000)}));
        assert!(text.len() <= SHOWN_BYTES + 3 && text.ends_with('…'));
        assert_eq!(shown(&json!({"a": 1})), "{\"a\":1}");
    }
}
