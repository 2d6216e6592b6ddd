//! CPU time of one call, measured with the clock of whichever thread runs it.
//!
//! A call is a future that several threads may poll in turn, so its CPU time is
//! the sum over its polls. Comparing it with a limit is the epoch callback's
//! task, in `engine`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::ticker::TICK;

/// Counts one call's CPU time. The future writes it and the epoch callback, on
/// the same thread and inside the same poll, reads it; the atomics are there for
/// the type system, and for polls that move between threads.
///
/// Reading the thread's clock is a system call that takes as long as a small plugin.
/// So a poll that sees no tick is charged what passed on the wall, and at most a
/// tick; one that sees a tick is on the thread's clock from then on. A thread that
/// was not scheduled is charged a tick at most, once a poll.
#[derive(Debug, Default)]
pub(crate) struct CpuClock {
    /// CPU time of the finished polls.
    spent: AtomicU64,
    /// When the poll in progress began, on the wall.
    poll_began: AtomicU64,
    /// What was charged for the poll in progress before its first tick, and the
    /// thread's clock at that tick; 0 before it.
    head: AtomicU64,
    thread_base: AtomicU64,
}

impl CpuClock {
    pub(crate) fn reset(&self) {
        self.spent.store(0, Ordering::Relaxed);
    }

    /// CPU time so far, called at a tick and so from inside a poll.
    pub(crate) fn used(&self) -> Duration {
        let base = self.thread_base.load(Ordering::Relaxed);
        let poll = if base == 0 {
            let head = self.since_poll_began();
            self.head.store(head, Ordering::Relaxed);
            self.thread_base.store(thread_nanos().max(1), Ordering::Relaxed);
            head
        } else {
            self.head.load(Ordering::Relaxed) + thread_nanos().saturating_sub(base)
        };
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
            self.thread_base.store(0, Ordering::Relaxed);
            self.poll_began.store(wall_nanos(), Ordering::Relaxed);
            let polled = future.as_mut().poll(cx);
            let base = self.thread_base.load(Ordering::Relaxed);
            let poll = if base == 0 {
                self.since_poll_began()
            } else {
                self.head.load(Ordering::Relaxed) + thread_nanos().saturating_sub(base)
            };
            self.spent.fetch_add(poll, Ordering::Relaxed);
            polled
        })
        .await
    }

    fn since_poll_began(&self) -> u64 {
        let wall = wall_nanos().saturating_sub(self.poll_began.load(Ordering::Relaxed));
        wall.min(TICK.as_nanos() as u64)
    }
}

/// The wall clock, from the first time that anybody asked.
fn wall_nanos() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = ORIGIN.get_or_init(Instant::now);
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
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

        // Without a tick nobody can tell computing from not being scheduled.
        let spin = |nanos| {
            let began = thread_nanos();
            while thread_nanos() - began < nanos {
                std::hint::spin_loop();
            }
        };
        clock.reset();
        runtime.block_on(clock.metered(async { spin(5_000_000) }));
        assert_eq!(clock.total(), TICK);

        clock.reset();
        runtime.block_on(clock.metered(async {
            spin(1_000_000);
            clock.used();
            spin(20_000_000);
        }));
        let busy = clock.total();
        assert!(busy >= Duration::from_millis(21), "{busy:?}");
    }
}
