//! One job: the caller's handle to it, and what its plugins share.
//!
//! The handle moves the job's state to the hooks' own runtime for each phase and
//! waits for it to come back, so that a guest never runs on the caller's threads.
//! What happens over there is `run`.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use crate::chain::ChainInner;
use crate::classify::CallError;
use crate::config::OptionCheck;
use crate::data::{Change, JobContext, Prompt, PromptOutcome, Request, RequestOutcome};
use crate::error::{Failure, FailureKind, Phase};
use crate::run::{JobState, failure};

/// The plugins of one job, from its first phase to its last. Dropping it drops
/// their instances.
pub struct JobHooks {
    chain: Arc<ChainInner>,
    shared: Arc<JobShared>,
    /// Away while a phase runs, and gone after one that was dropped.
    state: Option<Box<JobState>>,
    elapsed: Duration,
}

/// What the instances of one job share.
pub(crate) struct JobShared {
    pub(crate) context: JobContext,
    notes: Mutex<Vec<(String, String)>>,
    /// Place in the chain of the plugin that runs.
    pub(crate) current: AtomicUsize,
    cancelled: AtomicBool,
    cancel: Notify,
}

impl JobShared {
    pub(crate) fn new(context: JobContext) -> Arc<Self> {
        Arc::new(Self {
            context,
            notes: Mutex::default(),
            current: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            cancel: Notify::new(),
        })
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Ends when the job is cancelled.
    pub(crate) async fn cancelled(&self) {
        loop {
            let notified = self.cancel.notified();
            // It hears of every cancellation from here on, so that the look at the
            // flag misses nothing.
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }
}

impl JobHooks {
    pub(crate) fn new(chain: Arc<ChainInner>, context: JobContext) -> Self {
        let shared = JobShared::new(context);
        let state = JobState::new(Arc::clone(&chain), Arc::clone(&shared));
        Self { chain, shared, state: Some(Box::new(state)), elapsed: Duration::ZERO }
    }

    /// Checks changed requests with `check` instead of
    /// [`crate::HostConfig::option_check`].
    #[must_use]
    pub fn with_check(mut self, check: OptionCheck) -> Self {
        if let Some(state) = &mut self.state {
            state.check = Some(check);
        }
        self
    }

    /// Keeps the text before and after each change in [`Self::changes`], for
    /// people who try plugins out. The default keeps sizes only.
    #[must_use]
    pub fn keep_text(mut self) -> Self {
        if let Some(state) = &mut self.state {
            state.keep_text = true;
        }
        self
    }

    /// Runs the request phase through every plugin that has it. Dropping the
    /// future stops the plugin that runs; the job can then not go on.
    pub async fn on_request(&mut self, request: Request) -> RequestOutcome {
        if !self.chain.has(Phase::Request) {
            if let Some(state) = &mut self.state {
                state.model.clone_from(&request.model);
            }
            return RequestOutcome::Continue(request);
        }
        let phase = self.phase(Phase::Request, |mut state| async move {
            let outcome = state.on_request(request).await;
            (state, outcome)
        });
        phase.await.unwrap_or_else(RequestOutcome::Failed)
    }

    /// Runs the prompt phase through every plugin that has it. Dropping the
    /// future stops the plugin that runs; the job can then not go on.
    pub async fn on_prompt(&mut self, prompt: Prompt) -> PromptOutcome {
        if !self.chain.has(Phase::Prompt) {
            return PromptOutcome::Continue { text: prompt.text, replaced: false };
        }
        let phase = self.phase(Phase::Prompt, |mut state| async move {
            let outcome = state.on_prompt(prompt).await;
            (state, outcome)
        });
        phase.await.unwrap_or_else(PromptOutcome::Failed)
    }

    /// Moves the state to the hooks' runtime, and back with the outcome.
    async fn phase<T, F, Fut>(&mut self, phase: Phase, run: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(Box<JobState>) -> Fut,
        Fut: Future<Output = (Box<JobState>, T)> + Send + 'static,
    {
        let state = match self.state.take() {
            Some(state) if !state.over => state,
            other => {
                self.state = other;
                let text = "an earlier phase has ended this job";
                let error = CallError::new(FailureKind::Cancelled, text);
                return Err(self.failure(phase, error));
            }
        };
        let began = Instant::now();
        let running = run(state).instrument(Span::current());
        let mut task = AbortOnDrop(self.chain.host.runtime.handle().spawn(running));
        let joined = (&mut task.0).await;
        self.elapsed += began.elapsed();
        match joined {
            Ok((state, outcome)) => {
                self.state = Some(state);
                Ok(outcome)
            }
            // A panic is a defect of this crate. It ends this job and nothing else.
            Err(error) => {
                let error = CallError::new(FailureKind::Host, error.to_string());
                Err(self.failure(phase, error))
            }
        }
    }

    fn failure(&self, phase: Phase, error: CallError) -> Failure {
        let current = self.shared.current.load(Ordering::SeqCst);
        let plugin = self.chain.plugins.get(current);
        failure(plugin.map_or("", |plugin| &plugin.info.id), phase, error)
    }

    /// Wall time that the job has spent in hooks so far, waiting included.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// What each plugin decided so far, in order.
    pub fn changes(&self) -> &[Change] {
        self.state.as_ref().map_or(&[], |state| &state.changes)
    }

    /// Notes that plugins left, as `PLUGIN.key` and value, for the job's log line.
    pub fn notes(&self) -> Vec<(String, String)> {
        self.shared.notes().clone()
    }

    /// A way to stop this job's plugins from elsewhere.
    pub fn canceller(&self) -> HookCanceller {
        HookCanceller { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for JobHooks {
    fn drop(&mut self) {
        // Taking instances down touches their memory, which is the hooks' threads'
        // work and not the caller's.
        if let Some(state) = self.state.take()
            && state.has_instances()
        {
            self.chain.host.runtime.handle().spawn(async move { drop(state) });
        }
    }
}

impl fmt::Debug for JobHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHooks")
            .field("job", &self.shared.context.job)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

/// A task that ends with the future that waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Cancels the hooks of one job: the call in progress, and every later one, ends
/// with failure kind `cancelled`.
#[derive(Clone)]
pub struct HookCanceller {
    shared: Arc<JobShared>,
}

impl HookCanceller {
    /// Cancels. A guest that runs is stopped within a few milliseconds.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::SeqCst);
        self.shared.cancel.notify_waiters();
    }
}

impl fmt::Debug for HookCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookCanceller")
            .field("job", &self.shared.context.job)
            .field("cancelled", &self.shared.is_cancelled())
            .finish()
    }
}
