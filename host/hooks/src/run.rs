//! One job's way through a chain, on the hooks' own runtime.
//!
//! Plugins run one after another; each sees what those before it made of the
//! request. A failure ends the job, because nothing may pass unchecked: there is
//! no policy yet that lets a job go on without a plugin. What a verdict must
//! satisfy is in `verdict`, how a guest is entered in `instance`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::bindings::v0_1::{
    context_to_wit, hook_error, prompt_hook, prompt_to_wit, request_hook, request_to_wit, types,
};
use crate::chain::ChainInner;
use crate::classify::{CallError, Stage};
use crate::config::{Limits, OptionCheck};
use crate::data::{Change, FieldChange, Prompt, PromptOutcome, Request, RequestOutcome, Verdict};
use crate::error::{Failure, FailureKind, Phase};
use crate::instance::{Budget, JobInstance, begin, guard, settle};
use crate::job::JobShared;
use crate::plugin::Plugin;
use crate::tokenizer::TokenizerError;
use crate::verdict::{apply, check_prompt, check_rejection, check_text, differences, text_change};
use crate::watch::Watch;

/// Everything of a job that moves between the caller and the hooks' runtime.
pub(crate) struct JobState {
    chain: Arc<ChainInner>,
    shared: Arc<JobShared>,
    /// By place in the chain; made when first needed.
    instances: Vec<Option<Box<JobInstance>>>,
    /// The right to have the instances, taken for all of them at once: jobs that
    /// took them one by one could wait for each other.
    permits: Option<OwnedSemaphorePermit>,
    /// Whether a plugin has ended the job.
    pub(crate) over: bool,
    pub(crate) model: String,
    pub(crate) changes: Vec<Change>,
    pub(crate) keep_text: bool,
    pub(crate) check: Option<OptionCheck>,
}

/// What a plugin's verdict means for the chain. Only a request can be responded
/// to; for the prompt phase that case has no values.
enum Step<T, R> {
    Pass,
    Change(T, Vec<FieldChange>),
    Respond(R),
    Reject(types::Rejection),
}

type RequestStep = Step<Request, String>;
type PromptStep = Step<String, Infallible>;

impl JobState {
    pub(crate) fn new(chain: Arc<ChainInner>, shared: Arc<JobShared>) -> Self {
        let mut instances = Vec::new();
        instances.resize_with(chain.plugins.len(), || None);
        Self {
            check: chain.host.config.option_check.clone(),
            chain,
            shared,
            instances,
            permits: None,
            over: false,
            model: String::new(),
            changes: Vec::new(),
            keep_text: false,
        }
    }

    pub(crate) fn has_instances(&self) -> bool {
        self.instances.iter().any(Option::is_some)
    }

    /// Drops every instance and ends the job for all later phases.
    fn end(&mut self) {
        self.over = true;
        self.instances.fill_with(|| None);
        self.permits = None;
    }

    pub(crate) async fn on_request(&mut self, mut request: Request) -> RequestOutcome {
        let chain = Arc::clone(&self.chain);
        let mut given = request_to_wit(&request);
        self.model.clone_from(&request.model);
        for (place, plugin) in chain.in_phase(Phase::Request) {
            let watch = Watch::start(plugin, Phase::Request, &self.shared);
            let step = self
                .request_step(place, plugin, &request, &given)
                .instrument(watch.span.clone())
                .await;
            match self.settle(watch, plugin, step) {
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
        plugin: &Plugin,
        request: &Request,
        given: &types::Request,
    ) -> Result<RequestStep, CallError> {
        let chain = Arc::clone(&self.chain);
        let host = &chain.host;
        let (budget, _slot) = self.enter(place, plugin).await?;
        let shared = Arc::clone(&self.shared);
        let instance = self.ready(place, plugin, Phase::Request, budget).await?;
        let Some(guest) = &instance.request else {
            return Err(missing(Phase::Request));
        };
        let context = context_to_wit(&shared.context, budget.remaining_ms());
        let clock = Arc::clone(&instance.store.data().call.clock);
        let call = guest.call_on_request(&mut instance.store, &context, given);
        let ended = guard(host, &shared, &clock, budget, call).await;
        let verdict = match settle(&instance.store, Stage::Call, ended)? {
            Ok(verdict) => verdict,
            Err(error) => return Err(returned_error(instance, error)),
        };
        let limits = &plugin.shared.limits;
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
        for (place, plugin) in chain.in_phase(Phase::Prompt) {
            let watch = Watch::start(plugin, Phase::Prompt, &self.shared);
            let step = self
                .prompt_step(place, plugin, &mut prompt, replaced)
                .instrument(watch.span.clone())
                .await;
            match self.settle(watch, plugin, step) {
                Ok(Step::Pass) => {}
                Ok(Step::Change(text, _)) => {
                    prompt.text = text;
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
        PromptOutcome::Continue { text: prompt.text, replaced }
    }

    async fn prompt_step(
        &mut self,
        place: usize,
        plugin: &Plugin,
        prompt: &mut Prompt,
        count_again: bool,
    ) -> Result<PromptStep, CallError> {
        let chain = Arc::clone(&self.chain);
        let host = &chain.host;
        let (budget, _slot) = self.enter(place, plugin).await?;
        if count_again {
            // As the worker will tokenize it: one piece, control tokens parsed.
            let tokens = host.services.tokenizer.encode(&prompt.model, &prompt.text, true);
            let tokens = tokens.map_err(|error: TokenizerError| {
                CallError::new(FailureKind::Host, format!("tokens of the prompt: {error}"))
            })?;
            prompt.tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        }
        let shared = Arc::clone(&self.shared);
        let instance = self.ready(place, plugin, Phase::Prompt, budget).await?;
        let Some(guest) = &instance.prompt else {
            return Err(missing(Phase::Prompt));
        };
        let context = context_to_wit(&shared.context, budget.remaining_ms());
        let given = prompt_to_wit(prompt);
        let clock = Arc::clone(&instance.store.data().call.clock);
        let call = guest.call_on_prompt(&mut instance.store, &context, &given);
        let ended = guard(host, &shared, &clock, budget, call).await;
        let verdict = match settle(&instance.store, Stage::Call, ended)? {
            Ok(verdict) => verdict,
            Err(error) => return Err(returned_error(instance, error)),
        };
        let limits = &plugin.shared.limits;
        match verdict {
            prompt_hook::Verdict::Pass => Ok(Step::Pass),
            prompt_hook::Verdict::Replace(text) => {
                check_prompt(&text, limits).map_err(invalid)?;
                let fields = text_change("prompt", &prompt.text, &text, self.keep_text);
                Ok(Step::Change(text, fields))
            }
            prompt_hook::Verdict::Reject(rejection) => checked(rejection, limits).map(Step::Reject),
        }
    }

    /// Waits for the right to call, for at most the plugin's wall time, and starts
    /// its budget.
    async fn enter(
        &mut self,
        place: usize,
        plugin: &Plugin,
    ) -> Result<(Budget, OwnedSemaphorePermit), CallError> {
        self.shared.current.store(place, Ordering::SeqCst);
        let host = &self.chain.host;
        let limits = &plugin.shared.limits;
        let deadline = Instant::now() + limits.wall;
        if self.permits.is_none() {
            let all = u32::try_from(self.instances.len()).unwrap_or(u32::MAX);
            let permits = Arc::clone(&host.instances).acquire_many_owned(all);
            self.permits = Some(wait(&self.shared, deadline, "instance", permits).await?);
        }
        let slot = Arc::clone(&host.calls).acquire_owned();
        let slot = wait(&self.shared, deadline, "call slot", slot).await?;
        Ok((Budget::new(limits.wall, limits.cpu), slot))
    }

    /// The job's instance of a plugin, made and configured when it is the first
    /// time.
    async fn ready(
        &mut self,
        place: usize,
        plugin: &Plugin,
        phase: Phase,
        budget: Budget,
    ) -> Result<&mut JobInstance, CallError> {
        let slot = &mut self.instances[place];
        let instance = match slot.take() {
            Some(mut instance) => {
                begin(&mut instance.store, Some(phase), budget);
                instance
            }
            None => {
                let host = &self.chain.host;
                let job = &self.shared;
                let made = JobInstance::make(host, plugin, job, Some(phase), budget).await?;
                let mut instance = Box::new(made);
                instance
                    .load(plugin)
                    .map_err(|broken| CallError::new(FailureKind::Instantiate, broken.reason))?;
                let configured = instance.configure(host, job, budget).await?;
                configured.map_err(|text| {
                    let text = instance.with_stderr(format!("configure: {text}"));
                    CallError::new(FailureKind::Instantiate, text)
                })?;
                instance
            }
        };
        let instance = slot.insert(instance);
        instance.store.data_mut().call.model.clone_from(&self.model);
        instance.store.set_epoch_deadline(1);
        Ok(instance)
    }

    /// Records how a step ended, and ends the job if it did not pass.
    fn settle<T, R>(
        &mut self,
        watch: Watch,
        plugin: &Plugin,
        step: Result<Step<T, R>, CallError>,
    ) -> Result<Step<T, R>, Failure> {
        let wall = watch.began.elapsed();
        let (verdict, fields) = match &step {
            Ok(Step::Pass) => (Verdict::Pass, Vec::new()),
            Ok(Step::Change(_, fields)) => match watch.phase {
                Phase::Request => (Verdict::Patch, fields.clone()),
                _ => (Verdict::Replace, fields.clone()),
            },
            Ok(Step::Respond(_)) => (Verdict::Respond, Vec::new()),
            Ok(Step::Reject(_)) => (Verdict::Reject, Vec::new()),
            Err(_) => (Verdict::Failed, Vec::new()),
        };
        self.changes.push(Change {
            plugin: plugin.info.id.clone(),
            phase: watch.phase,
            verdict,
            fields,
            wall,
        });
        watch.report(plugin, &self.shared, verdict, wall, step.as_ref().err());
        if matches!(step, Ok(Step::Reject(_)) | Err(_)) {
            self.end();
        }
        step.map_err(|error| failure(&plugin.info.id, watch.phase, error))
    }
}

/// Waits for a permit until `deadline`, or until the job is cancelled.
async fn wait<T, E>(
    job: &JobShared,
    deadline: Instant,
    what: &str,
    permit: impl Future<Output = Result<T, E>>,
) -> Result<T, CallError> {
    tokio::select! {
        biased;
        () = job.cancelled() => {
            Err(CallError::new(FailureKind::Cancelled, "the job was cancelled"))
        }
        permit = tokio::time::timeout_at(deadline.into(), permit) => match permit {
            Ok(Ok(permit)) => Ok(permit),
            // The host never closes its semaphores.
            Ok(Err(_closed)) => Err(CallError::new(FailureKind::Host, "the host is closed")),
            Err(_elapsed) => Err(CallError::new(
                FailureKind::Busy,
                format!("no {what} came free within the plugin's wall time"),
            )),
        },
    }
}

/// The failure that the caller gets.
pub(crate) fn failure(plugin: &str, phase: Phase, error: CallError) -> Failure {
    Failure {
        plugin: plugin.to_owned(),
        phase,
        kind: error.kind,
        retryable: error.retryable,
        detail: error.detail,
    }
}

fn invalid(detail: String) -> CallError {
    CallError::new(FailureKind::InvalidOutput, detail)
}

fn missing(phase: Phase) -> CallError {
    let detail = format!("the chain called phase {phase}, which the plugin does not have");
    CallError::new(FailureKind::Host, detail)
}

fn checked(rejection: types::Rejection, limits: &Limits) -> Result<types::Rejection, CallError> {
    check_rejection(&rejection, limits).map_err(invalid)?;
    Ok(rejection)
}

fn returned_error(instance: &JobInstance, error: types::HookError) -> CallError {
    let (text, retryable) = hook_error(error);
    CallError { kind: FailureKind::Guest, retryable, detail: instance.with_stderr(text) }
}
