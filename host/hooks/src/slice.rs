//! Where a phase of a job runs: its first moments on the thread of the caller, and
//! whatever takes longer on the hooks' own runtime.
//!
//! Most calls take a few microseconds, and waking another thread for one takes
//! longer than the call. So a phase is begun where the job is. It moves to the
//! hooks' runtime when it waits for anything, when an instance has to be made for
//! it, and at the first tick of the ticker that finds it in a guest after its slice.
//! The caller's runtime is protected from guests in three ways: a slice is a tick long
//! and noticed to be over at the next tick, which is never more than
//! [`LOOK`](crate::ticker::LOOK) away; there is one slice at a time in the whole host;
//! and a plugin that has used one up gets none for its next [`CALLS_ELSEWHERE`] calls.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::task::unconstrained;

use crate::error::Phase;
use crate::host::Shared;
use crate::job::JobShared;
use crate::ticker::TICK;

/// Calls of a plugin that begin on the hooks' runtime after one that used up its
/// slice: a plugin that always computes for long holds the caller's thread until a
/// tick comes in one of so many calls.
const CALLS_ELSEWHERE: u32 = 64;

/// Whether a plugin version is known to take long.
#[derive(Debug, Default)]
pub(crate) struct Slow(AtomicU32);

impl Slow {
    /// A call used up its slice.
    pub(crate) fn mark(&self) {
        self.0.store(CALLS_ELSEWHERE, Ordering::Relaxed);
    }

    /// Whether the next call would begin elsewhere.
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Whether the next call begins elsewhere; asking counts as a call.
    fn is_marked(&self) -> bool {
        let one_less = |n: u32| n.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// The one slice that the host has to give.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    taken: AtomicBool,
    /// Callers that found it taken and try again when it is free.
    waiting: Mutex<Vec<Waker>>,
    waited_for: AtomicBool,
}

/// A slice that is in use.
pub(crate) struct Slice<'a> {
    slices: &'a Slices,
    job: &'a JobShared,
}

impl Slices {
    pub(crate) fn take<'a>(&'a self, job: &'a JobShared) -> Option<Slice<'a>> {
        if self.taken.swap(true, Ordering::SeqCst) {
            return None;
        }
        job.set_slice(Some(Instant::now() + TICK));
        Some(Slice { slices: self, job })
    }

    /// As `take`; if there is none, the task of `cx` hears when there may be one.
    fn take_or_wait<'a>(&'a self, job: &'a JobShared, cx: &mut Context<'_>) -> Option<Slice<'a>> {
        if let Some(slice) = self.take(job) {
            return Some(slice);
        }
        let mut waiting = self.waiting();
        // A task may be polled often before the slice is free.
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        self.waited_for.store(true, Ordering::SeqCst);
        // It may have become free before that, and nobody would say so.
        self.take(job)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        self.job.set_slice(None);
        self.slices.taken.store(false, Ordering::SeqCst);
        if self.slices.waited_for.swap(false, Ordering::SeqCst) {
            let waiting = std::mem::take(&mut *self.slices.waiting());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Work on a job's plugins that can be polled on any thread.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a slice ended.
pub(crate) enum Polled<T> {
    Ready(T),
    Pending,
    /// Another job has the slice.
    Taken,
    Panicked(String),
}

/// Polls `work` for `job` on this thread, in its `slice`.
fn poll_here<T>(
    host: &Shared,
    slice: Option<Slice<'_>>,
    work: &mut Work<T>,
    cx: &mut Context<'_>,
) -> Polled<T> {
    let Some(_slice) = slice else {
        return Polled::Taken;
    };
    // Timers that the work starts must belong to the runtime that it may move to.
    let _context = host.runtime.handle().enter();
    // A caller that has used up its turn on its runtime would make any wait in a call
    // look like one that takes long.
    let mut work = pin!(unconstrained(work.as_mut()));
    match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Ready(done)) => Polled::Ready(done),
        Ok(Poll::Pending) => Polled::Pending,
        Err(panic) => Polled::Panicked(panic_text(panic.as_ref())),
    }
}

/// Polls `work` for `job` on this thread, without its being told when to go on: that is
/// the caller's business, whose `cx` hears of the slice if another job has it.
pub(crate) fn poll_once<T>(
    host: &Shared,
    job: &JobShared,
    work: &mut Work<T>,
    cx: &mut Context<'_>,
) -> Polled<T> {
    let slice = host.slices.take_or_wait(job, cx);
    poll_here(host, slice, work, &mut Context::from_waker(Waker::noop()))
}

/// Runs `work`, a phase of `job`, here and elsewhere as the head of this module
/// says. Dropping the future stops the work.
///
/// # Errors
/// The text of a panic, which is a defect of this crate.
pub(crate) async fn run<T: Send + 'static>(
    host: &Shared,
    job: &JobShared,
    slow: bool,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, String> {
    let mut work: Work<T> = Box::pin(work);
    if !slow {
        let polled = poll_fn(|cx| {
            let slice = host.slices.take(job);
            Poll::Ready(poll_here(host, slice, &mut work, cx))
        });
        match polled.await {
            Polled::Ready(done) => return Ok(done),
            Polled::Pending | Polled::Taken => {}
            Polled::Panicked(text) => return Err(text),
        }
    }
    let mut task = AbortOnDrop(host.runtime.handle().spawn(work));
    (&mut task.0).await.map_err(|error| error.to_string())
}

/// Whether one of the plugins of `phase` is known to take long; asking counts as a
/// call.
pub(crate) fn takes_long(chain: &crate::chain::ChainInner, phase: Phase) -> bool {
    let mut long = false;
    for plugin in chain.plugins.iter().filter(|plugin| plugin.called_in(phase)) {
        long |= plugin.shared.slow.is_marked();
    }
    long
}

/// As [`takes_long`], without a call.
pub(crate) fn is_slow(chain: &crate::chain::ChainInner, phase: Phase) -> bool {
    let mut plugins = chain.plugins.iter().filter(|plugin| plugin.called_in(phase));
    plugins.any(|plugin| plugin.shared.slow.is_set())
}

/// Leaves the caller's thread, if this is it: what follows takes long.
pub(crate) async fn leave(job: &JobShared) {
    let mut left = job.slice_end().is_none();
    poll_fn(|cx| {
        if left {
            return Poll::Ready(());
        }
        left = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// As [`leave`], if the slice is used up.
pub(crate) async fn leave_if_over(job: &JobShared) {
    if job.slice_end().is_some_and(|end| Instant::now() > end) {
        leave(job).await;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a text"))
}

/// A task that ends with the future that waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
