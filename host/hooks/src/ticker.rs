//! The clock that interrupts guests: one thread that advances the engine's epoch
//! every millisecond while a call is in progress. It also hands over the chores that
//! came together since the last tick (`chores`).
//!
//! A thread that wakes up takes a processor from whoever computes, and one that
//! generates text waits for all of its threads at every operation. So while calls are
//! short, as those of stream filters are, and none is found in progress, the thread
//! looks less often ([`LOOK`]).
//!
//! It is an OS thread and no task, because a runaway guest occupies the very
//! runtime that a task would need. What happens at a tick is decided by the
//! store's callback in `engine`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::EngineWeak;

use crate::chores::{Chore, Chores};

/// Length of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Time to the next tick after [`QUIET_TICKS`]: so long a call may run before its first
/// tick.
pub(crate) const LOOK: Duration = Duration::from_millis(8);

/// Ticks in a row at which there was neither a call in progress nor a chore, before they
/// come at longer intervals. Where jobs come and go there are more chores soon, and
/// instances that wait to be taken down keep memory from those that are made.
const QUIET_TICKS: u32 = 16;

/// Quiet ticks in a row after which the thread goes to sleep. Waking it costs a system
/// call, so that calls in quick succession should find it awake.
const LAST_TICK: u32 = QUIET_TICKS + 8;

/// The thread, which ends when this is dropped or the engine is gone.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

struct Shared {
    /// Calls in progress, and chores that wait.
    calls: AtomicUsize,
    chores: Chores,
    parked: AtomicBool,
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// Keeps the ticker running as long as it lives.
pub(crate) struct Ticking<'a> {
    shared: &'a Shared,
}

impl Ticker {
    pub(crate) fn start(engine: EngineWeak, chores: Chores) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            calls: AtomicUsize::new(0),
            chores,
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("hooks-ticker".to_owned())
            .spawn(move || of_thread.run(&engine))?;
        Ok(Self { shared })
    }

    /// Announces a call. Ticks come at least until the guard is dropped.
    pub(crate) fn enter(&self) -> Ticking<'_> {
        self.shared.begin();
        Ticking { shared: &self.shared }
    }

    /// Has a chore done, about a tick from now.
    pub(crate) fn later(&self, chore: Chore) {
        self.shared.chores.add(chore);
        self.shared.begin();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.notify();
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.shared.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn begin(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // The thread sets `parked` before it looks at `calls`, and this looks in
        // the opposite order, so that one of the two always sees the other.
        if self.parked.load(Ordering::SeqCst) {
            self.notify();
        }
    }

    fn notify(&self) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_one();
    }

    fn run(&self, engine: &EngineWeak) {
        let mut quiet = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            thread::sleep(if quiet < QUIET_TICKS { TICK } else { LOOK });
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
            let done = self.chores.hand_over();
            let calls = self.calls.fetch_sub(done, Ordering::SeqCst) - done;
            if calls > 0 || done > 0 {
                quiet = 0;
                continue;
            }
            quiet += 1;
            if quiet >= LAST_TICK {
                self.park();
                // Whoever woke it is most likely done before a tick is over.
                quiet = QUIET_TICKS;
            }
        }
    }

    fn park(&self) {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.store(true, Ordering::SeqCst);
        while self.calls.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            held = self.wake.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.store(false, Ordering::SeqCst);
        drop(held);
    }
}
