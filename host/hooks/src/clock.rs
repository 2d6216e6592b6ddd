//! CPU time of one call, measured with the clock of whichever thread runs it.
//!
//! A call is a future that several threads may poll in turn, so its CPU time is
//! the sum over its polls. Comparing it with a limit is the epoch callback's
//! task, in `engine`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Counts one call's CPU time. The future writes it and the epoch callback, on
/// the same thread and inside the same poll, reads it; the atomics are there for
/// the type system, and for polls that move between threads.
#[derive(Debug, Default)]
pub(crate) struct CpuClock {
    spent: AtomicU64,
    poll_began: AtomicU64,
}

impl CpuClock {
    pub(crate) fn reset(&self) {
        self.spent.store(0, Ordering::Relaxed);
    }

    /// CPU time so far, called from inside a poll.
    pub(crate) fn used(&self) -> Duration {
        let poll = thread_nanos().saturating_sub(self.poll_began.load(Ordering::Relaxed));
        Duration::from_nanos(self.spent.load(Ordering::Relaxed) + poll)
    }

    /// CPU time of the finished polls.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Runs `future` on this clock.
    pub(crate) async fn metered<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let began = thread_nanos();
            self.poll_began.store(began, Ordering::Relaxed);
            let polled = future.as_mut().poll(cx);
            self.spent.fetch_add(thread_nanos().saturating_sub(began), Ordering::Relaxed);
            polled
        })
        .await
    }
}

fn thread_nanos() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_charged_and_working_is() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
        let clock = CpuClock::default();
        runtime.block_on(clock.metered(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }));
        let idle = clock.total();
        assert!(idle < Duration::from_millis(25), "{idle:?}");

        clock.reset();
        runtime.block_on(clock.metered(async {
            let began = thread_nanos();
            while thread_nanos() - began < 20_000_000 {
                std::hint::spin_loop();
            }
        }));
        let busy = clock.total();
        assert!(busy >= Duration::from_millis(20), "{busy:?}");
    }
}
