//! What one call used: CPU time, by the clock of whichever thread runs it, and the
//! time in which it could have run and did not, because no processor was free for it.
//!
//! A call is a future that several threads may poll in turn, so both are sums over
//! its polls. Comparing them with limits is the business of the epoch callback, in
//! `engine`, and of `instance`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::ticker::TICK;

/// Counts one call's time. The future writes it and the epoch callback, on the same
/// thread and inside the same poll, reads it; the atomics are there for the type
/// system, and for polls that move between threads.
///
/// Reading the thread's clock is a system call that takes as long as a small plugin.
/// So a poll that sees no tick is charged what passed on the wall, and at most a
/// tick; one that sees a tick is on the thread's clock from then on. A thread that
/// was not scheduled is charged a tick at most, once a poll; and one that computed
/// until a late first tick ([`LOOK`](crate::ticker::LOOK)) has the difference for
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct CallClock {
    /// CPU time of the finished polls.
    spent: AtomicU64,
    /// Time in which the finished polls, and the call between them, waited for a
    /// processor.
    starved: AtomicU64,
    /// When the call gave its thread up although it could have gone on; 0 if it has
    /// not.
    yielded: AtomicU64,
    /// When the poll in progress began, on the wall.
    poll_began: AtomicU64,
    /// What was charged for the poll in progress before its first tick, and the
    /// thread's clock at that tick; 0 before it.
    head: AtomicU64,
    thread_base: AtomicU64,
}

/// What a call used up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// Time in which it could have run, and no processor was free.
    pub(crate) starved: Duration,
}

impl CallClock {
    pub(crate) fn reset(&self) {
        self.spent.store(0, Ordering::Relaxed);
        self.starved.store(0, Ordering::Relaxed);
        self.yielded.store(0, Ordering::Relaxed);
    }

    /// What the call used so far, asked at a tick and so from inside a poll.
    pub(crate) fn at_tick(&self) -> Used {
        let wall = self.since_poll_began();
        let base = self.thread_base.load(Ordering::Relaxed);
        let cpu = if base == 0 {
            let head = charged_without_tick(wall);
            self.head.store(head, Ordering::Relaxed);
            self.thread_base.store(thread_nanos().max(1), Ordering::Relaxed);
            head
        } else {
            self.charged_since(base)
        };
        self.sum(cpu, wall)
    }

    /// What the finished polls used.
    pub(crate) fn total(&self) -> Used {
        self.sum(0, 0)
    }

    /// The call leaves its thread to others from inside a poll, and wants to be polled
    /// again as soon as may be.
    pub(crate) fn yields(&self) {
        self.yielded.store(wall_nanos(), Ordering::Relaxed);
    }

    /// Runs `future` on this clock.
    pub(crate) async fn metered<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let now = wall_nanos();
            let yielded = self.yielded.swap(0, Ordering::Relaxed);
            if yielded != 0 {
                self.starved.fetch_add(now.saturating_sub(yielded), Ordering::Relaxed);
            }
            self.thread_base.store(0, Ordering::Relaxed);
            self.poll_began.store(now, Ordering::Relaxed);
            let polled = future.as_mut().poll(cx);
            let wall = self.since_poll_began();
            let base = self.thread_base.load(Ordering::Relaxed);
            let cpu = if base == 0 { charged_without_tick(wall) } else { self.charged_since(base) };
            self.spent.fetch_add(cpu, Ordering::Relaxed);
            self.starved.fetch_add(wall.saturating_sub(cpu), Ordering::Relaxed);
            polled
        })
        .await
    }

    /// Of the poll in progress, on the thread's clock since its first tick.
    fn charged_since(&self, base: u64) -> u64 {
        self.head.load(Ordering::Relaxed) + thread_nanos().saturating_sub(base)
    }

    /// The finished polls and one more, which used `cpu` in `wall`.
    fn sum(&self, cpu: u64, wall: u64) -> Used {
        let starved = self.starved.load(Ordering::Relaxed) + wall.saturating_sub(cpu);
        Used {
            cpu: Duration::from_nanos(self.spent.load(Ordering::Relaxed) + cpu),
            starved: Duration::from_nanos(starved),
        }
    }

    fn since_poll_began(&self) -> u64 {
        wall_nanos().saturating_sub(self.poll_began.load(Ordering::Relaxed))
    }
}

/// What a poll is charged that has seen no tick.
fn charged_without_tick(wall: u64) -> u64 {
    wall.min(TICK.as_nanos() as u64)
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
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn waiting_is_not_charged_and_working_is() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
        let clock = CallClock::default();
        runtime.block_on(clock.metered(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }));
        let idle = clock.total();
        assert!(idle.cpu < Duration::from_millis(25), "{idle:?}");
        // It waited for something else than a processor.
        assert!(idle.starved < Duration::from_millis(50), "{idle:?}");

        // Without a tick nobody can tell computing from not being scheduled.
        let spin = |nanos| {
            let began = thread_nanos();
            while thread_nanos() - began < nanos {
                std::hint::spin_loop();
            }
        };
        clock.reset();
        runtime.block_on(clock.metered(async { spin(5_000_000) }));
        let used = clock.total();
        assert_eq!(used.cpu, TICK);
        assert!(used.starved >= Duration::from_millis(4), "{used:?}");

        clock.reset();
        runtime.block_on(clock.metered(async {
            spin(1_000_000);
            clock.at_tick();
            spin(20_000_000);
        }));
        let busy = clock.total();
        assert!(busy.cpu >= Duration::from_millis(21), "{busy:?}");
    }

    #[test]
    fn waiting_for_a_thread_is_not_waiting_for_anything_else() {
        let clock = CallClock::default();
        let poll = |wait: bool| {
            let mut polled = false;
            let future = poll_fn(|_| {
                if polled {
                    return Poll::Ready(());
                }
                polled = true;
                if wait {
                    clock.yields();
                }
                Poll::Pending
            });
            let mut metered = pin!(clock.metered(future));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(metered.as_mut().poll(&mut cx).is_pending());
            std::thread::sleep(Duration::from_millis(20));
            assert!(metered.as_mut().poll(&mut cx).is_ready());
            clock.total()
        };
        let parked = poll(false).starved;
        clock.reset();
        let yielded = poll(true).starved;
        assert!(yielded >= Duration::from_millis(20), "{yielded:?}");
        assert!(parked < yielded, "{parked:?} {yielded:?}");
        clock.reset();
        assert_eq!(clock.total(), Used::default());
    }

    #[test]
    fn a_poll_in_progress_is_counted_at_a_tick() {
        let clock = CallClock::default();
        let mut metered = pin!(clock.metered(async {
            clock.at_tick();
            // On no processor, as it looks to a guest that was not scheduled.
            std::thread::sleep(Duration::from_millis(30));
            clock.at_tick()
        }));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(used) = metered.as_mut().poll(&mut cx) else {
            panic!("it waits for nothing");
        };
        assert!(used.starved >= Duration::from_millis(29), "{used:?}");
        assert!(used.cpu < Duration::from_millis(20), "{used:?}");
    }
}
