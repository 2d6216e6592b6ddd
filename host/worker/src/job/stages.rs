//! The stages of a job, in the order that protocol.md 5 fixes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use llamero_engine::{Adapter, Constraint, Job, PromptLimits, SubmitError};
use llamero_hooks::{JobContext, OptionCheck, OutgoingPipe, PromptOutcome, RequestOutcome};
use llamero_protocol::{
    ErrorBody, FinishReason, Options, PredictRequest, PredictResponse, ResolvedOptions, Timings,
    Usage, check_hook_options, check_model_name, grammar_set_by_hook, model_choice, resolve,
};

use super::account::Account;
use super::convert;
use super::{Answer, Incoming, Shared, outgoing, trace};
use crate::models::Lease;
use crate::wire;

/// Runs all stages. The result is what the last message says.
pub async fn run(
    shared: &Shared,
    incoming: Incoming<PredictRequest>,
    answer: &mut Answer<'_>,
    account: &mut Account,
) -> Result<PredictResponse, ErrorBody> {
    let Incoming { job, arrived, work: predict, caller, reply } = incoming;
    let client = predict.options.known();
    let stream = predict.stream.clone();

    let mut lease = lease(shared, &client).await?;
    tracing::Span::current().record("model", lease.name());
    account.queued = arrived.elapsed();

    let tenant = caller.tenant(&reply);
    let hooks = shared
        .hooks
        .chain()
        .begin(JobContext {
            job: job.to_string(),
            subject: shared.subject.clone(),
            worker: shared.worker.clone(),
            account: caller.account.clone(),
            traceparent: caller.traceparent,
            headers: caller.headers,
        })
        .with_check(option_check(client.clone()));
    let hooks = account.hooks.insert(trace::watched(hooks, shared.log_hook_text));
    let instructions = convert::instructions(&client, &shared.options);
    let request = convert::to_hooks(predict, lease.name(), &client, &instructions);
    let request = match hooks.on_request(request).await {
        RequestOutcome::Continue(request) => request,
        RequestOutcome::Responded(text) => {
            return respond(shared, answer, stream, text, account).await;
        }
        RequestOutcome::Rejected { plugin, phase, code, reason } => {
            return Err(wire::rejection(plugin, phase, code, reason));
        }
        RequestOutcome::Failed(failure) => return Err(wire::hook_failure(&failure)),
    };

    let mut options: Options = request.options.into_iter().collect();
    if request.model != lease.name() {
        options.insert("model", request.model.into());
    }
    if init_changed(&client, &options) {
        // A load may wait until this model is free.
        drop(lease);
        lease = self::lease(shared, &options).await?;
        tracing::Span::current().record("model", lease.name());
    }
    if !lease.model().info().generates {
        return Err(wire::submit(&SubmitError::CannotGenerate, lease.n_ctx()));
    }
    let allow_grammar = shared.allow_grammar || grammar_set_by_hook(&client, &options);
    let options = resolve(&options, &shared.options, allow_grammar)?;
    warn_about_tfs_z(shared, &options);

    let adapters = adapters(&lease, &options).await?;

    let content = convert::to_engine(request.content, &options, &instructions);
    let limits = PromptLimits {
        n_ctx: lease.n_ctx(),
        max_tokens: options.max_tokens,
        parse_special: options.parse_special,
    };
    let constraint = convert::constraint(&options);
    let (mut prompt, constraint) = prepare(&lease, content, limits, constraint).await?;

    let rendered = llamero_hooks::Prompt {
        model: lease.name().to_owned(),
        text: std::mem::take(&mut prompt.text),
        markup: std::mem::take(&mut prompt.markup),
        tokens: u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX),
        context_length: lease.n_ctx(),
        template: prompt.template.take(),
    };
    match hooks.on_prompt(rendered).await {
        PromptOutcome::Continue { replaced: false, .. } => {}
        PromptOutcome::Continue { text, markup, .. } => {
            let truncated = prompt.truncated_tokens;
            prompt = prepare_text(&lease, text, markup, limits).await?;
            prompt.truncated_tokens += truncated;
        }
        PromptOutcome::Rejected { plugin, phase, code, reason } => {
            return Err(wire::rejection(plugin, phase, code, reason));
        }
        PromptOutcome::Failed(failure) => return Err(wire::hook_failure(&failure)),
    }
    let pipe =
        hooks.open(!stream.is_empty()).await.map_err(|failure| wire::hook_failure(&failure))?;
    let in_hooks = hooks.elapsed();

    let truncated_tokens = prompt.truncated_tokens;
    let engine_job = Job {
        label: job.to_string(),
        prompt: prompt.tokens,
        n_ctx: lease.n_ctx(),
        max_tokens: options.max_tokens,
        stop: options.stop.clone(),
        sampling: convert::sampling(&options),
        constraint,
        guard: pipe.as_ref().and_then(OutgoingPipe::guard_plan).map(convert::guard_plan),
        cache_salt: convert::cache_salt(caller.account.as_deref(), &options.cache_salt),
        cache: options.cache_prompt,
        cache_pin: options.cache_pin,
        adapters,
        tenant,
        ..Job::default()
    };
    // Before the acknowledgement, so that a job the engine does not take is not
    // acknowledged. Its first events wait in their channel meanwhile.
    let prompt_tokens = u32::try_from(engine_job.prompt.len()).unwrap_or(u32::MAX);
    account.usage.prompt_tokens = prompt_tokens;
    let generation =
        lease.model().submit(engine_job).map_err(|error| wire::submit(&error, lease.n_ctx()))?;
    if !stream.is_empty() {
        answer.acknowledge(stream).await?;
    }

    let submitted = Instant::now();
    let output = outgoing::deliver(generation, pipe, answer, account).await?;
    let usage = Usage {
        prompt_tokens: account.usage.prompt_tokens,
        cached_tokens: account.usage.cached_tokens,
        completion_tokens: account.usage.completion_tokens,
        truncated_tokens,
    };
    let timings = match &output.finished {
        Some(finished) => Timings {
            draft_tokens: finished.draft_tokens,
            accepted_draft_tokens: finished.accepted_draft_tokens,
            ..Timings::from_durations(
                account.queued + finished.queue_time,
                in_hooks,
                finished.prompt_time,
                finished.predict_time,
            )
        },
        // A hook ended the output, so that the engine has not said how it spent
        // its time.
        None => {
            let first = account.first_text.unwrap_or_else(Instant::now);
            let prompt_time = first.saturating_duration_since(submitted);
            Timings::from_durations(account.queued, in_hooks, prompt_time, first.elapsed())
        }
    };
    Ok(done(shared, output.text, output.finish_reason, usage, timings))
}

/// Checks the model's name and waits until it is loaded.
pub(super) async fn lease(shared: &Shared, options: &Options) -> Result<Lease, ErrorBody> {
    let choice = model_choice(options, &shared.options)?;
    shared.models.acquire(&choice).await.map_err(|error| {
        tracing::info!(%error, "no model for the job");
        wire::model(&error)
    })
}

/// The adapters that the options name.
async fn adapters(
    lease: &Lease,
    options: &ResolvedOptions,
) -> Result<Vec<(Adapter, f32)>, ErrorBody> {
    lease.adapters(&options.lora).await.map_err(|failure| {
        // With llama.cpp's reason, which the client does not get.
        tracing::info!(adapter = failure.name, cause = ?failure.cause, "no adapter for the job");
        wire::adapter(&failure)
    })
}

/// Whether hooks want another model or context.
fn init_changed(before: &Options, after: &Options) -> bool {
    ["model", "ctx_size"].iter().any(|name| before.get(name) != after.get(name))
}

/// What a hook may do to options and model; see `OptionCheck`.
fn option_check(client: Options) -> OptionCheck {
    Arc::new(move |request| {
        let options: Options = request.options.iter().cloned().collect();
        check_hook_options(&client, &options).map_err(|error| error.to_string())?;
        check_model_name(&request.model).map_err(|error| error.error)
    })
}

/// Tail-free sampling has left llama.cpp; the option is accepted for old clients.
fn warn_about_tfs_z(shared: &Shared, options: &ResolvedOptions) {
    #[allow(clippy::float_cmp, reason = "1 is the value that means off, not a result")]
    let is_set = options.tfs_z != 1.0;
    if is_set && !shared.tfs_z_warned.swap(true, Ordering::Relaxed) {
        tracing::warn!("option tfs_z has no effect: llama.cpp has no tail-free sampling any more");
    }
}

/// Template, tokenizer and grammar are CPU work: away from the tasks that serve
/// the network.
async fn prepare(
    lease: &Lease,
    content: llamero_engine::Content,
    limits: PromptLimits,
    constraint: Option<Constraint>,
) -> Result<(llamero_engine::Prompt, Option<llamero_engine::CompiledConstraint>), ErrorBody> {
    let model = lease.model().clone();
    blocking(move || {
        let compiled = constraint
            .map(|constraint| model.compile(&constraint))
            .transpose()
            .map_err(|error| wire::constraint(&error))?;
        let prompt = model.prepare(&content, &limits).map_err(|error| wire::prompt(&error))?;
        Ok((prompt, compiled))
    })
    .await
}

/// The text that hooks made of the prompt, and where its control tokens are parsed.
async fn prepare_text(
    lease: &Lease,
    text: String,
    markup: Vec<Range<usize>>,
    limits: PromptLimits,
) -> Result<llamero_engine::Prompt, ErrorBody> {
    let model = lease.model().clone();
    blocking(move || {
        model.prepare_text(&text, &markup, &limits).map_err(|error| wire::prompt(&error))
    })
    .await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, ErrorBody> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "preparing a prompt panicked");
            Err(wire::panicked())
        }
    }
}

/// The answer of a hook, without inference. It passes the outgoing hooks like any
/// other; for a stream there is the acknowledgement, one fragment with all of it,
/// then the final message.
async fn respond(
    shared: &Shared,
    answer: &mut Answer<'_>,
    stream: String,
    text: String,
    account: &mut Account,
) -> Result<PredictResponse, ErrorBody> {
    let Some(hooks) = &mut account.hooks else {
        return Err(wire::panicked());
    };
    let pipe =
        hooks.open(!stream.is_empty()).await.map_err(|failure| wire::hook_failure(&failure))?;
    let in_hooks = hooks.elapsed();
    if !stream.is_empty() {
        answer.acknowledge(stream).await?;
    }
    let output = outgoing::deliver_text(text, pipe, answer, account).await?;
    let timings = Timings::from_durations(account.queued, in_hooks, Duration::ZERO, Duration::ZERO);
    Ok(done(shared, output.text, output.finish_reason, Usage::default(), timings))
}

fn done(
    shared: &Shared,
    output: String,
    finish_reason: FinishReason,
    usage: Usage,
    timings: Timings,
) -> PredictResponse {
    if !shared.extras {
        return PredictResponse { output, ..PredictResponse::default() };
    }
    PredictResponse {
        output,
        finish_reason: Some(finish_reason),
        usage: Some(usage),
        timings: Some(timings),
    }
}
