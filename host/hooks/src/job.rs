//! One job: the caller's handle to it, and what its plugins share.
//!
//! The handle lends the job's state to a phase and waits for it to come back. What
//! happens in a phase is `run` and `outgoing`; on which threads is `slice`.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tracing::{Instrument, Span};

use crate::calls::{JobState, failure};
use crate::chain::ChainInner;
use crate::classify::CallError;
use crate::config::OptionCheck;
use crate::data::{Change, JobContext, Prompt, PromptOutcome, Request, RequestOutcome, Summary};
use crate::error::{Failure, FailureKind, Phase};
use crate::host::Observing;
use crate::outgoing::{Idle, OutgoingPipe, Parts, Pump, pipe};
use crate::slice;

/// The plugins of one job, from its first phase to its last. Dropping it drops
/// their instances.
pub struct JobHooks {
    chain: Arc<ChainInner>,
    shared: Arc<JobShared>,
    /// Away while a phase runs, and gone after one that was dropped.
    state: Option<Box<JobState>>,
    /// Gives the state back when the outgoing pipeline ends.
    outgoing: Option<oneshot::Receiver<Box<JobState>>>,
    /// The model as it was known last.
    model: String,
    elapsed: Duration,
}

/// What the instances of one job share.
pub(crate) struct JobShared {
    pub(crate) context: JobContext,
    notes: Mutex<Vec<(String, String)>>,
    changes: Mutex<Vec<Change>>,
    /// Place in the chain of the plugin that runs.
    pub(crate) current: AtomicUsize,
    cancelled: AtomicBool,
    cancel: Notify,
    /// While it runs on the thread of its caller: until when it may.
    slice: Mutex<Option<Instant>>,
}

impl JobShared {
    pub(crate) fn new(context: JobContext) -> Arc<Self> {
        Arc::new(Self {
            context,
            notes: Mutex::default(),
            changes: Mutex::default(),
            current: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            cancel: Notify::new(),
            slice: Mutex::default(),
        })
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_change(&self, change: Change) {
        self.changes().push(change);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(crate) fn set_slice(&self, end: Option<Instant>) {
        *self.slice.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Until when it may stay on the thread of its caller, if it runs there.
    pub(crate) fn slice_end(&self) -> Option<Instant> {
        *self.slice.lock().unwrap_or_else(PoisonError::into_inner)
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
        Self {
            chain,
            shared,
            state: Some(Box::new(state)),
            outgoing: None,
            model: String::new(),
            elapsed: Duration::ZERO,
        }
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
            self.note_model(&request.model);
            return RequestOutcome::Continue(request);
        }
        self.model.clone_from(&request.model);
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
            self.note_model(&prompt.model);
            return PromptOutcome::Continue {
                text: prompt.text,
                markup: prompt.markup,
                replaced: false,
            };
        }
        self.model.clone_from(&prompt.model);
        let phase = self.phase(Phase::Prompt, |mut state| async move {
            let outcome = state.on_prompt(prompt).await;
            (state, outcome)
        });
        phase.await.unwrap_or_else(PromptOutcome::Failed)
    }

    /// What the state knows, and this handle only while the state is away.
    fn note_model(&mut self, model: &String) {
        match &mut self.state {
            Some(state) => state.model.clone_from(model),
            None => self.model.clone_from(model),
        }
    }

    /// Opens the outgoing phases, before there is any text. `None` means that no
    /// plugin takes part, so that text may go straight to the client. After this no
    /// incoming phase can run.
    ///
    /// # Errors
    /// A plugin failed; the job must not go on.
    pub async fn open(&mut self, streams: bool) -> Result<Option<OutgoingPipe>, Failure> {
        let phases = [Phase::Token, Phase::Stream, Phase::Response, Phase::Observer];
        if !phases.iter().any(|phase| self.chain.has(*phase)) {
            // Instances of the incoming phases are not needed any more.
            let state = self.state.take();
            self.give_back(state);
            return Ok(None);
        }
        let opened = self.phase(Phase::Stream, |mut state| async move {
            state.keep_outgoing();
            let parts = state.open(streams).await;
            if parts.as_ref().is_ok_and(Parts::is_empty) {
                state.keep_only(|plugin| plugin.called_in(Phase::Observer));
            }
            (state, parts)
        });
        let parts = opened.await??;
        let Some(mut state) = self.state.take_if(|_| !parts.is_empty()) else {
            return Ok(None);
        };
        let idle = Arc::new(Idle::default());
        let (mut pipe, inlet) = pipe(parts.plan(), Arc::clone(&idle));
        let (back, state_back) = oneshot::channel();
        let work = async move {
            state.pump(parts, inlet).await;
            // Nobody wants it if the job has no observers.
            let _ = back.send(state);
        };
        pipe.start(Pump {
            chain: Arc::clone(&self.chain),
            job: Arc::clone(&self.shared),
            work: Box::pin(work),
            idle,
        });
        self.outgoing = Some(state_back);
        Ok(Some(pipe))
    }

    /// Tells the observers how the job ended. Returns at once; whatever they do
    /// changes and delays nothing.
    pub fn observe(mut self, summary: Summary) {
        if !self.chain.has(Phase::Observer) {
            return;
        }
        let (chain, shared) = (Arc::clone(&self.chain), Arc::clone(&self.shared));
        let (state, outgoing) = (self.state.take(), self.outgoing.take());
        let model = std::mem::take(&mut self.model);
        let counted = Observing::begin(&self.chain.host);
        let observers = async move {
            let _counted = counted;
            let state = match (state, outgoing) {
                (Some(state), _) => Some(state),
                (None, Some(outgoing)) => outgoing.await.ok(),
                // A phase was dropped, and the state with it.
                (None, None) => None,
            };
            let mut state =
                state.unwrap_or_else(|| Box::new(JobState::new(chain, Arc::clone(&shared))));
            if state.model.is_empty() {
                state.model = model;
            }
            // The job is over; that it was cancelled must not stop its account.
            shared.cancelled.store(false, Ordering::SeqCst);
            state.observe(&summary).await;
        };
        let observers = observers.instrument(Span::current());
        self.chain.host.runtime.handle().spawn(observers);
    }

    /// Runs a phase, here or on the hooks' runtime as `slice` says; the state goes
    /// with it, and comes back with the outcome.
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
        let slow = slice::takes_long(&self.chain, phase);
        let ended = slice::run(&self.chain.host, &self.shared, slow, running).await;
        self.elapsed += began.elapsed();
        match ended {
            Ok((state, outcome)) => {
                self.state = Some(state);
                Ok(outcome)
            }
            // A panic is a defect of this crate. It ends this job and nothing else.
            Err(error) => {
                let error = CallError::new(FailureKind::Host, error);
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
    pub fn changes(&self) -> Vec<Change> {
        self.shared.changes().clone()
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

impl JobHooks {
    /// Drops the state on the thread that makes instances: taking them down touches
    /// their memory, which is not the caller's work.
    fn give_back(&self, state: Option<Box<JobState>>) {
        if let Some(state) = state
            && state.has_instances()
        {
            self.chain.host.ticker.later(Box::new(move || drop(state)));
        }
    }
}

impl Drop for JobHooks {
    fn drop(&mut self) {
        // A pipeline that runs ends with its pipe.
        let state = self.state.take();
        self.give_back(state);
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
