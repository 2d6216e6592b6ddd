//! The clock that interrupts guests: one thread that advances the engine's epoch
//! every millisecond while any call is in progress.
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

/// Length of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without a call after which the thread goes to sleep. Waking it costs a
/// system call, so that calls in quick succession should find it awake.
const LINGER_TICKS: u32 = 64;

/// The thread, which ends when this is dropped or the engine is gone.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

struct Shared {
    calls: AtomicUsize,
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
    pub(crate) fn start(engine: EngineWeak) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            calls: AtomicUsize::new(0),
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
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        // The thread sets `parked` before it looks at `calls`, and this looks in
        // the opposite order, so that one of the two always sees the other.
        if self.shared.parked.load(Ordering::SeqCst) {
            self.shared.notify();
        }
        Ticking { shared: &self.shared }
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
    fn notify(&self) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_one();
    }

    fn run(&self, engine: &EngineWeak) {
        let mut idle = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            if self.calls.load(Ordering::SeqCst) > 0 {
                idle = 0;
            } else {
                idle += 1;
            }
            if idle > LINGER_TICKS {
                self.park();
                idle = 0;
                continue;
            }
            thread::sleep(TICK);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
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
