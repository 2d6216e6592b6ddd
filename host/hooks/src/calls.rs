//! Entering plugins on behalf of one job: the right to call, the instance, the
//! budget, and what the ending means under the plugin's policy.
//!
//! Which plugin is called when is the business of `run` (request, prompt and
//! observer) and of `outgoing`; how a guest is entered is `instance`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::bindings::v0_1::{context_to_wit, hook_error, types};
use crate::breaker::Admission;
use crate::chain::ChainInner;
use crate::classify::CallError;
use crate::clock::CallClock;
use crate::config::{Limits, OptionCheck};
use crate::data::{Change, FieldChange, Verdict};
use crate::error::{Failure, FailureKind, Phase};
use crate::instance::{Allowance, Budget, JobInstance, begin};
use crate::job::JobShared;
use crate::plugin::Plugin;
use crate::policy::{FailPolicy, Mode};
use crate::ready;
use crate::slice;
use crate::verdict::check_rejection;
use crate::watch::Watch;

/// Everything of a job that moves between the caller and the hooks' runtime.
pub(crate) struct JobState {
    pub(crate) chain: Arc<ChainInner>,
    pub(crate) shared: Arc<JobShared>,
    /// By place in the chain; made when first needed.
    instances: Vec<Option<Box<JobInstance>>>,
    /// The right to have the instances, taken for all of them at once: jobs that
    /// took them one by one could wait for each other.
    permits: Option<OwnedSemaphorePermit>,
    /// Whether a plugin has ended the job.
    pub(crate) over: bool,
    pub(crate) model: String,
    pub(crate) keep_text: bool,
    pub(crate) check: Option<OptionCheck>,
}

/// What a plugin's verdict means for the chain. Only a request can be responded
/// to; for the other phases that case has no values.
pub(crate) enum Step<T, R> {
    Pass,
    Change(T, Vec<FieldChange>),
    Respond(R),
    Reject(types::Rejection),
}

impl<T, R> Step<T, R> {
    fn verdict(&self, phase: Phase) -> Verdict {
        match self {
            Self::Pass => Verdict::Pass,
            Self::Change(..) if phase == Phase::Request => Verdict::Patch,
            Self::Change(..) => Verdict::Replace,
            Self::Respond(_) => Verdict::Respond,
            Self::Reject(_) => Verdict::Reject,
        }
    }
}

/// The rights and the budget of one call.
pub(crate) struct Entry {
    pub(crate) budget: Budget,
    pub(crate) clock: Arc<CallClock>,
    _slots: [OwnedSemaphorePermit; 2],
}

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
            keep_text: false,
        }
    }

    pub(crate) fn has_instances(&self) -> bool {
        self.instances.iter().any(Option::is_some)
    }

    /// Whether the operator wants `plugin` called for this job in `phase`.
    pub(crate) fn calls(&self, plugin: &Plugin, phase: Phase) -> bool {
        let context = &self.shared.context;
        plugin.called_in(phase)
            && plugin.shared.policy.matches.applies(
                &context.subject,
                context.account.as_deref(),
                &self.model,
            )
    }

    /// Ends the job for all phases but the observers'.
    pub(crate) fn end(&mut self) {
        self.over = true;
        self.keep_only(|plugin| plugin.called_in(Phase::Observer));
    }

    /// Gives up the instances of plugins that are not called again.
    pub(crate) fn keep_only(&mut self, keep: impl Fn(&Plugin) -> bool) {
        let mut kept = 0;
        for (instance, plugin) in self.instances.iter_mut().zip(&self.chain.plugins) {
            if keep(plugin) {
                kept += 1;
            } else {
                *instance = None;
            }
        }
        // A permit for each plugin that is still called, whether it has an instance
        // or will need one.
        if let Some(permits) = &mut self.permits {
            let excess = permits.num_permits().saturating_sub(kept);
            drop(permits.split(excess));
        }
        if kept == 0 {
            self.permits = None;
        }
    }

    pub(crate) fn drop_instance(&mut self, place: usize) {
        self.instances[place] = None;
    }

    /// Waits for the right to call, for at most the call's wall time, sees to it
    /// that there is an instance, and starts the budget.
    pub(crate) async fn enter(
        &mut self,
        place: usize,
        watch: &Watch,
        allowance: Allowance,
    ) -> Result<Entry, CallError> {
        let chain = Arc::clone(&self.chain);
        let (host, plugin, phase) = (&chain.host, &chain.plugins[place], watch.phase);
        if let Admission::Refused { retry_in } = watch.admission() {
            return Err(CallError::new(
                FailureKind::Quarantined,
                format!("it has failed too often, and is tried again in {retry_in:?}"),
            ));
        }
        self.shared.current.store(place, Ordering::SeqCst);
        slice::leave_if_over(&self.shared).await;
        let limits = &plugin.shared.limits;
        let job = &self.shared;
        let deadline = Instant::now() + allowance.wall(limits);
        if self.permits.is_none() {
            let all = u32::try_from(self.instances.len()).unwrap_or(u32::MAX);
            self.permits = Some(permits(job, &host.instances, all, deadline, "instance").await?);
        }
        let own = permits(job, &plugin.calls, 1, deadline, "call slot").await?;
        let shared = permits(job, &host.calls, 1, deadline, "call slot").await?;
        let mut budget = allowance.budget(limits);

        let slot = &mut self.instances[place];
        let instance = match slot.take() {
            Some(mut instance) => {
                begin(&mut instance.store, Some(phase), budget);
                instance
            }
            None => {
                let began = Instant::now();
                let taken = plugin.ready.take();
                ready::fill_later(host, plugin);
                if let Some(mut instance) = taken {
                    instance.adopt(job);
                    begin(&mut instance.store, Some(phase), budget);
                    plugin.shared.stats.instance(true, began.elapsed());
                    instance
                } else {
                    slice::leave(job).await;
                    // Getting a thread may have taken long, and is not the plugin's fault.
                    budget = allowance.budget(limits);
                    let made =
                        JobInstance::configured(host, plugin, job, Some(phase), budget).await;
                    plugin.shared.stats.instance(false, began.elapsed());
                    made?
                }
            }
        };
        let instance = slot.insert(instance);
        instance.store.data_mut().call.model.clone_from(&self.model);
        instance.store.set_epoch_deadline(1);
        Ok(Entry {
            clock: Arc::clone(&instance.store.data().call.clock),
            budget,
            _slots: [own, shared],
        })
    }

    /// What a guest is told about the call.
    pub(crate) fn context(&self, entry: &Entry) -> types::CallContext {
        context_to_wit(&self.shared.context, entry.budget.remaining_ms())
    }

    /// The instance that [`Self::enter`] made ready.
    pub(crate) fn instance(&mut self, place: usize) -> Result<&mut JobInstance, CallError> {
        self.instances[place].as_deref_mut().ok_or_else(|| {
            CallError::new(FailureKind::Host, "the plugin was called without an instance")
        })
    }

    /// CPU time that the plugin used since it was entered.
    pub(crate) fn cpu(&self, place: usize) -> Duration {
        let instance = self.instances[place].as_ref();
        instance.map_or(Duration::ZERO, |instance| instance.store.data().call.clock.total().cpu)
    }

    /// Records how a step ended, and decides under the plugin's policy what it
    /// means: an error is the end of the job.
    pub(crate) fn leave<T, R>(
        &mut self,
        place: usize,
        watch: Watch,
        step: Result<Step<T, R>, CallError>,
    ) -> Result<Step<T, R>, Failure> {
        let chain = Arc::clone(&self.chain);
        let plugin: &Plugin = &chain.plugins[place];
        let phase = watch.phase;
        let verdict = step.as_ref().map_or(Verdict::Failed, |step| step.verdict(phase));
        let fields = match &step {
            Ok(Step::Change(_, fields)) => fields.clone(),
            _ => Vec::new(),
        };
        let wall = watch.settle(&self.shared, verdict, self.cpu(place), step.as_ref().err());
        let shadow = plugin.shared.policy.mode == Mode::Shadow;
        self.shared.add_change(Change {
            plugin: plugin.info.id.clone(),
            phase,
            verdict,
            shadow,
            fields,
            wall,
        });
        match step {
            Err(error) => {
                // After an error the store is poisoned.
                self.drop_instance(place);
                if self.lets_pass(plugin, phase, error.kind) {
                    plugin.shared.stats.skipped(phase);
                    return Ok(Step::Pass);
                }
                self.end();
                Err(failure(&plugin.info.id, phase, error))
            }
            Ok(_) if shadow => Ok(Step::Pass),
            Ok(step) => {
                if matches!(step, Step::Reject(_)) {
                    self.end();
                }
                Ok(step)
            }
        }
    }

    /// Whether the job goes on without a plugin that failed.
    pub(crate) fn lets_pass(&self, plugin: &Plugin, phase: Phase, kind: FailureKind) -> bool {
        let policy = &plugin.shared.policy;
        kind != FailureKind::Cancelled
            && (policy.mode == Mode::Shadow || policy.fail.of(phase) == FailPolicy::Open)
    }
}

/// So many permits, waited for until `deadline`, or until the job is cancelled.
async fn permits(
    job: &JobShared,
    of: &Arc<Semaphore>,
    n: u32,
    deadline: Instant,
    what: &str,
) -> Result<OwnedSemaphorePermit, CallError> {
    // Mostly they are there, and no timer is needed to find out.
    if let Ok(permits) = Arc::clone(of).try_acquire_many_owned(n) {
        return Ok(permits);
    }
    let permits = Arc::clone(of).acquire_many_owned(n);
    tokio::select! {
        biased;
        () = job.cancelled() => {
            Err(CallError::new(FailureKind::Cancelled, "the job was cancelled"))
        }
        permits = tokio::time::timeout_at(deadline.into(), permits) => match permits {
            Ok(Ok(permits)) => Ok(permits),
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

pub(crate) fn invalid(detail: String) -> CallError {
    CallError::new(FailureKind::InvalidOutput, detail)
}

pub(crate) fn missing(phase: Phase) -> CallError {
    let detail = format!("the chain called phase {phase}, which the plugin does not have");
    CallError::new(FailureKind::Host, detail)
}

pub(crate) fn checked(
    rejection: types::Rejection,
    limits: &Limits,
) -> Result<types::Rejection, CallError> {
    check_rejection(&rejection, limits).map_err(invalid)?;
    Ok(rejection)
}

pub(crate) fn returned_error(instance: &JobInstance, error: types::HookError) -> CallError {
    let (text, retryable) = hook_error(error);
    CallError { kind: FailureKind::Guest, retryable, detail: instance.with_stderr(text) }
}
