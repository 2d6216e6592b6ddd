//! One job's way through the incoming phases of a chain, and its observers, on
//! the hooks' own runtime.
//!
//! Plugins run one after another; each sees what those before it made of the
//! request. What a verdict must satisfy is in `verdict`, what a failure means in
//! `calls`, and the generated text is the business of `outgoing`.

use std::convert::Infallible;
use std::sync::Arc;

use tracing::Instrument;

use crate::bindings::v0_1::{
    prompt_hook, prompt_to_wit, request_hook, request_to_wit, summary_to_wit, types,
};
use crate::calls::{JobState, Step, checked, invalid, missing, returned_error};
use crate::classify::{CallError, Stage};
use crate::data::{NewPrompt, Prompt, PromptOutcome, Request, RequestOutcome, Summary};
use crate::error::{FailureKind, Phase};
use crate::instance::{Allowance, guard, settle};
use crate::tokenizer::TokenizerError;
use crate::verdict::{apply, check_prompt, check_text, differences, prompt_differences};
use crate::watch::Watch;

type RequestStep = Step<Request, String>;
type PromptStep = Step<NewPrompt, Infallible>;
type ObserverStep = Step<Infallible, Infallible>;

impl JobState {
    pub(crate) async fn on_request(&mut self, mut request: Request) -> RequestOutcome {
        let chain = Arc::clone(&self.chain);
        let mut given = request_to_wit(&request);
        self.model.clone_from(&request.model);
        for (place, plugin) in chain.plugins.iter().enumerate() {
            if !self.calls(plugin, Phase::Request) {
                continue;
            }
            let watch = Watch::start(plugin, Phase::Request, &self.shared);
            let span = watch.span.clone();
            // Boxed, here and elsewhere: futures are moved into each future around
            // them, and those of calls are large.
            let step = Box::pin(self.request_step(place, &watch, &request, &given));
            let step = step.instrument(span).await;
            match self.leave(place, watch, step) {
                Ok(Step::Pass) => {}
                Ok(Step::Change(changed, _)) => {
                    given = request_to_wit(&changed);
                    request = changed;
                    self.model.clone_from(&request.model);
                }
                Ok(Step::Respond(text)) => return RequestOutcome::Responded(text),
                Ok(Step::Reject(rejection)) => {
                    return RequestOutcome::Rejected {
                        plugin: plugin.info.id.clone(),
                        phase: Phase::Request,
                        code: rejection.code,
                        reason: rejection.reason,
                    };
                }
                Err(failure) => return RequestOutcome::Failed(failure),
            }
        }
        RequestOutcome::Continue(request)
    }

    async fn request_step(
        &mut self,
        place: usize,
        watch: &Watch,
        request: &Request,
        given: &types::Request,
    ) -> Result<RequestStep, CallError> {
        let chain = Arc::clone(&self.chain);
        let limits = &chain.plugins[place].shared.limits;
        let entry = self.enter(place, watch, Allowance::Call).await?;
        let context = self.context(&entry);
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(place)?;
        let Some(guest) = &instance.request else {
            return Err(missing(Phase::Request));
        };
        let call = guest.call_on_request(&mut instance.store, &context, given);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        let verdict = match settle(&instance.store, Stage::Call, ended)? {
            Ok(verdict) => verdict,
            Err(error) => return Err(returned_error(instance, error)),
        };
        match verdict {
            request_hook::Verdict::Pass => Ok(Step::Pass),
            request_hook::Verdict::Patch(patch) => {
                let changed = apply(request, patch, limits).map_err(invalid)?;
                if let Some(check) = &self.check {
                    check(&changed).map_err(invalid)?;
                }
                let fields = differences(request, &changed, self.keep_text);
                Ok(Step::Change(changed, fields))
            }
            request_hook::Verdict::Respond(text) => {
                check_text("the answer", &text, limits).map_err(invalid)?;
                Ok(Step::Respond(text))
            }
            request_hook::Verdict::Reject(rejection) => {
                checked(rejection, limits).map(Step::Reject)
            }
        }
    }

    pub(crate) async fn on_prompt(&mut self, mut prompt: Prompt) -> PromptOutcome {
        let chain = Arc::clone(&self.chain);
        self.model.clone_from(&prompt.model);
        let mut replaced = false;
        for (place, plugin) in chain.plugins.iter().enumerate() {
            if !self.calls(plugin, Phase::Prompt) {
                continue;
            }
            let watch = Watch::start(plugin, Phase::Prompt, &self.shared);
            let span = watch.span.clone();
            let step = Box::pin(self.prompt_step(place, &watch, &mut prompt, replaced));
            let step = step.instrument(span).await;
            match self.leave(place, watch, step) {
                Ok(Step::Pass) => {}
                Ok(Step::Change(new, _)) => {
                    prompt.text = new.text;
                    prompt.markup = new.markup;
                    replaced = true;
                }
                Ok(Step::Respond(never)) => match never {},
                Ok(Step::Reject(rejection)) => {
                    return PromptOutcome::Rejected {
                        plugin: plugin.info.id.clone(),
                        phase: Phase::Prompt,
                        code: rejection.code,
                        reason: rejection.reason,
                    };
                }
                Err(failure) => return PromptOutcome::Failed(failure),
            }
        }
        PromptOutcome::Continue { text: prompt.text, markup: prompt.markup, replaced }
    }

    async fn prompt_step(
        &mut self,
        place: usize,
        watch: &Watch,
        prompt: &mut Prompt,
        count_again: bool,
    ) -> Result<PromptStep, CallError> {
        let chain = Arc::clone(&self.chain);
        let host = &chain.host;
        let limits = &chain.plugins[place].shared.limits;
        if count_again {
            let tokenizer = &host.services.tokenizer;
            let tokens = tokenizer.count_prompt(&prompt.model, &prompt.text, &prompt.markup);
            prompt.tokens = tokens.map_err(|error: TokenizerError| {
                CallError::new(FailureKind::Host, format!("tokens of the prompt: {error}"))
            })?;
        }
        let entry = self.enter(place, watch, Allowance::Call).await?;
        let context = self.context(&entry);
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(place)?;
        let Some(guest) = &instance.prompt else {
            return Err(missing(Phase::Prompt));
        };
        let given = prompt_to_wit(prompt);
        let call = guest.call_on_prompt(&mut instance.store, &context, &given);
        let ended = guard(host, &shared, &entry.clock, entry.budget, call).await;
        let verdict = match settle(&instance.store, Stage::Call, ended)? {
            Ok(verdict) => verdict,
            Err(error) => return Err(returned_error(instance, error)),
        };
        match verdict {
            prompt_hook::Verdict::Pass => Ok(Step::Pass),
            prompt_hook::Verdict::Replace(replacement) => {
                let new = check_prompt(replacement, limits).map_err(invalid)?;
                let fields = prompt_differences(prompt, &new, self.keep_text);
                Ok(Step::Change(new, fields))
            }
            prompt_hook::Verdict::Reject(rejection) => checked(rejection, limits).map(Step::Reject),
        }
    }

    /// Tells every observer how the job ended. Their failures are only counted.
    pub(crate) async fn observe(&mut self, summary: &Summary) {
        let chain = Arc::clone(&self.chain);
        self.keep_only(|plugin| plugin.called_in(Phase::Observer));
        for (place, plugin) in chain.plugins.iter().enumerate() {
            if !self.calls(plugin, Phase::Observer) {
                continue;
            }
            let watch = Watch::start(plugin, Phase::Observer, &self.shared);
            let span = watch.span.clone();
            let step = self.observer_step(place, &watch, summary).instrument(span).await;
            // Observers are always open, so that nothing is left to decide.
            let _ = self.leave(place, watch, step);
            self.drop_instance(place);
        }
    }

    async fn observer_step(
        &mut self,
        place: usize,
        watch: &Watch,
        summary: &Summary,
    ) -> Result<ObserverStep, CallError> {
        let chain = Arc::clone(&self.chain);
        let entry = self.enter(place, watch, Allowance::Observer).await?;
        let context = self.context(&entry);
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(place)?;
        let Some(guest) = &instance.observer else {
            return Err(missing(Phase::Observer));
        };
        let given = summary_to_wit(summary);
        let call = guest.call_on_complete(&mut instance.store, &context, &given);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        settle(&instance.store, Stage::Call, ended)?;
        Ok(Step::Pass)
    }
}
