//! One job's instance of one plugin: made fresh, configured, used for every phase
//! of the job, and dropped.
//!
//! Every entry into a guest goes through [`guard`]: with a deadline, on the CPU
//! clock, while the ticker runs, and until the job is cancelled. Which guest is
//! called when is the business of `run` and `load`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime::component::Instance;

use crate::bindings::experimental::token_guard;
use crate::bindings::v0_1::{
    lifecycle, observer, prompt_hook, request_hook, response_hook, stream_filter,
};
use crate::classify::{CallError, Stage, add_stderr, classify, limit_text};
use crate::clock::CallClock;
use crate::config::Limits;
use crate::engine;
use crate::error::{FailureKind, Phase};
use crate::guest::GuestState;
use crate::host::Shared;
use crate::imports::millis;
use crate::job::JobShared;
use crate::plugin::Plugin;

/// Time without a processor that a call is forgiven, in multiples of its wall limit.
const STARVED_WALLS: u32 = 4;

/// What a call is allowed to take, by what it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Allowance {
    /// A call that a job waits for.
    Call,
    /// One piece of a stream.
    Push,
    /// A call that nobody waits for.
    Observer,
}

impl Allowance {
    /// The budget of a call that starts now.
    pub(crate) fn budget(self, limits: &Limits) -> Budget {
        let wall = self.wall(limits);
        let (wall_limit, cpu, cpu_limit) = match self {
            Self::Call => ("wall", limits.cpu, "cpu"),
            Self::Push => ("push_wall", limits.push_cpu, "push_cpu"),
            Self::Observer => ("observer_wall", limits.observer_cpu, "observer_cpu"),
        };
        Budget { deadline: Instant::now() + wall, wall, wall_limit, cpu, cpu_limit }
    }

    pub(crate) fn wall(self, limits: &Limits) -> Duration {
        match self {
            Self::Call => limits.wall,
            Self::Push => limits.push_wall,
            Self::Observer => limits.observer_wall,
        }
    }
}

/// Time for everything that is done for one plugin in one phase: making and
/// configuring the instance the first time, and the call. The names are those of
/// the limits that it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) deadline: Instant,
    pub(crate) wall: Duration,
    pub(crate) wall_limit: &'static str,
    pub(crate) cpu: Duration,
    pub(crate) cpu_limit: &'static str,
}

impl Budget {
    /// The budget of a step that no job waits for: a trial, or an instance that is
    /// made ready.
    pub(crate) fn trial(wall: Duration, cpu: Duration) -> Self {
        Self {
            deadline: Instant::now() + wall,
            wall,
            wall_limit: "trial_wall",
            cpu,
            cpu_limit: "cpu",
        }
    }

    /// When the wall time is over for a call that could not run for `starved`, because
    /// no processor was free: a busy machine is no fault of the plugin. That it gives up
    /// in the end is for the client who waits.
    pub(crate) fn ends(&self, starved: Duration) -> Instant {
        self.deadline + starved.min(self.wall.saturating_mul(STARVED_WALLS))
    }

    /// Milliseconds left, as a plugin gets them.
    pub(crate) fn remaining_ms(&self) -> u32 {
        millis(self.deadline.saturating_duration_since(Instant::now()))
    }
}

/// An instance and what is known of its exports.
pub(crate) struct JobInstance {
    pub(crate) store: Store<GuestState>,
    instance: Instance,
    pub(crate) lifecycle: Option<lifecycle::Guest>,
    pub(crate) request: Option<request_hook::Guest>,
    pub(crate) prompt: Option<prompt_hook::Guest>,
    pub(crate) guard: Option<token_guard::Guest>,
    pub(crate) stream: Option<stream_filter::Guest>,
    pub(crate) response: Option<response_hook::Guest>,
    pub(crate) observer: Option<observer::Guest>,
}

/// An export that does not have the type that its name promises.
pub(crate) struct BrokenExport {
    pub(crate) interface: &'static str,
    pub(crate) reason: String,
}

impl JobInstance {
    /// Makes an instance, without looking at its exports.
    pub(crate) async fn make(
        host: &Shared,
        plugin: &Plugin,
        job: &Arc<JobShared>,
        phase: Option<Phase>,
        budget: Budget,
    ) -> Result<Self, CallError> {
        let mut store = engine::store(&host.engine, &plugin.shared, job)
            .map_err(|error| CallError::new(FailureKind::Instantiate, format!("{error:#}")))?;
        begin(&mut store, phase, budget);
        let clock = Arc::clone(&store.data().call.clock);
        let making = plugin.pre.instantiate_async(&mut store);
        let ended = guard(host, job, &clock, budget, making).await;
        let instance = settle(&store, Stage::Make, ended)?;
        Ok(Self {
            store,
            instance,
            lifecycle: None,
            request: None,
            prompt: None,
            guard: None,
            stream: None,
            response: None,
            observer: None,
        })
    }

    /// Makes an instance, finds its exports and lets it read its configuration: all
    /// that a job needs of it.
    pub(crate) async fn configured(
        host: &Shared,
        plugin: &Plugin,
        job: &Arc<JobShared>,
        phase: Option<Phase>,
        budget: Budget,
    ) -> Result<Box<Self>, CallError> {
        let mut instance = Box::new(Self::make(host, plugin, job, phase, budget).await?);
        instance
            .load(plugin)
            .map_err(|broken| CallError::new(FailureKind::Instantiate, broken.reason))?;
        let configured = instance.configure(host, job, budget).await?;
        configured.map_err(|text| {
            let text = instance.with_stderr(format!("configure: {text}"));
            CallError::new(FailureKind::Instantiate, text)
        })?;
        Ok(instance)
    }

    /// Gives an instance that was made ahead to a job.
    pub(crate) fn adopt(&mut self, job: &Arc<JobShared>) {
        let state = self.store.data_mut();
        state.job = Arc::clone(job);
        state.notes = 0;
    }

    /// Finds the functions of every export and checks their types.
    pub(crate) fn load(&mut self, plugin: &Plugin) -> Result<(), BrokenExport> {
        let broken = |interface| {
            move |error: wasmtime::Error| BrokenExport { interface, reason: format!("{error:#}") }
        };
        let (store, instance, exports) = (&mut self.store, &self.instance, &plugin.exports);
        if let Some(indices) = &exports.lifecycle {
            let guest = indices.load(&mut *store, instance);
            self.lifecycle = Some(guest.map_err(broken("lifecycle"))?);
        }
        if let Some(indices) = &exports.request {
            let guest = indices.load(&mut *store, instance);
            self.request = Some(guest.map_err(broken("request-hook"))?);
        }
        if let Some(indices) = &exports.prompt {
            let guest = indices.load(&mut *store, instance);
            self.prompt = Some(guest.map_err(broken("prompt-hook"))?);
        }
        if let Some(indices) = &exports.guard {
            let guest = indices.load(&mut *store, instance);
            self.guard = Some(guest.map_err(broken("token-guard"))?);
        }
        if let Some(indices) = &exports.stream {
            let guest = indices.load(&mut *store, instance);
            self.stream = Some(guest.map_err(broken("stream-filter"))?);
        }
        if let Some(indices) = &exports.response {
            let guest = indices.load(&mut *store, instance);
            self.response = Some(guest.map_err(broken("response-hook"))?);
        }
        if let Some(indices) = &exports.observer {
            let guest = indices.load(&mut *store, instance);
            self.observer = Some(guest.map_err(broken("observer"))?);
        }
        Ok(())
    }

    /// Lets the plugin read its configuration; the inner error is its own text.
    pub(crate) async fn configure(
        &mut self,
        host: &Shared,
        job: &JobShared,
        budget: Budget,
    ) -> Result<Result<(), String>, CallError> {
        let Some(guest) = &self.lifecycle else {
            return Ok(Ok(()));
        };
        let clock = Arc::clone(&self.store.data().call.clock);
        let call = guest.call_configure(&mut self.store);
        let ended = guard(host, job, &clock, budget, call).await;
        settle(&self.store, Stage::Call, ended)
    }

    /// Text of an error that the plugin returned, with the end of its stderr.
    pub(crate) fn with_stderr(&self, mut text: String) -> String {
        add_stderr(self.store.data(), &mut text);
        text
    }
}

/// Starts a budget. Calls under it share their CPU time.
pub(crate) fn begin(store: &mut Store<GuestState>, phase: Option<Phase>, budget: Budget) {
    let state = store.data_mut();
    // What an earlier phase was refused and lived with does not explain a later
    // failure.
    state.limiter.refused = None;
    let call = &mut state.call;
    call.phase = phase;
    call.budget = budget;
    call.cause = None;
    call.clock.reset();
}

/// How an entry into a guest ended.
pub(crate) enum Ended<T> {
    Done(T),
    Error(wasmtime::Error),
    OutOfTime,
    Cancelled,
}

/// Runs `entry` until it ends, its deadline passes, or the job is cancelled. In
/// the last two cases the guest's stack is unwound before this returns.
pub(crate) async fn guard<T>(
    host: &Shared,
    job: &JobShared,
    clock: &CallClock,
    budget: Budget,
    entry: impl Future<Output = wasmtime::Result<T>>,
) -> Ended<T> {
    if job.is_cancelled() {
        return Ended::Cancelled;
    }
    let _ticking = host.ticker.enter();
    // It is large, and would otherwise be moved once for each layer around it.
    let entry = pin!(entry);
    let mut entry = pin!(clock.metered(entry));
    // Most calls wait for nothing, and need neither a timer nor to hear of the job.
    if let Poll::Ready(ended) = poll_fn(|cx| Poll::Ready(entry.as_mut().poll(cx))).await {
        return ended.into();
    }
    let mut ends = budget.ends(clock.total().starved);
    loop {
        tokio::select! {
            biased;
            () = job.cancelled() => return Ended::Cancelled,
            ended = &mut entry => return ended.into(),
            () = tokio::time::sleep_until(ends.into()) => {}
        }
        let later = budget.ends(clock.total().starved);
        if later <= ends {
            return Ended::OutOfTime;
        }
        ends = later;
    }
}

impl<T> From<wasmtime::Result<T>> for Ended<T> {
    fn from(ended: wasmtime::Result<T>) -> Self {
        match ended {
            Ok(value) => Self::Done(value),
            Err(error) => Self::Error(error),
        }
    }
}

/// Turns an ending into a result. After an error the store is poisoned, and the
/// instance must be dropped.
pub(crate) fn settle<T>(
    store: &Store<GuestState>,
    stage: Stage,
    ended: Ended<T>,
) -> Result<T, CallError> {
    match ended {
        Ended::Done(value) => Ok(value),
        Ended::Error(error) => Err(classify(store.data(), stage, &error)),
        Ended::Cancelled => Err(CallError::new(FailureKind::Cancelled, "the job was cancelled")),
        Ended::OutOfTime => {
            let mut detail = limit_text(store.data(), FailureKind::Wall).unwrap_or_default();
            add_stderr(store.data(), &mut detail);
            Err(CallError::new(FailureKind::Wall, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_longer_by_what_no_processor_was_free_for_but_not_endlessly() {
        let wall = Duration::from_millis(250);
        let budget = Budget::trial(wall, Duration::from_millis(50));
        let longer = |starved| budget.ends(starved) - budget.deadline;
        assert_eq!(longer(Duration::ZERO), Duration::ZERO);
        assert_eq!(longer(wall / 5), wall / 5);
        assert_eq!(longer(wall * STARVED_WALLS), wall * STARVED_WALLS);
        assert_eq!(longer(wall * STARVED_WALLS * 10), wall * STARVED_WALLS);
        assert_eq!(longer(Duration::MAX), wall * STARVED_WALLS);
    }
}
