//! Work that nobody waits for: taking instances down, filling pools up.
//!
//! Handing a task to a sleeping runtime costs the one who hands it over a system
//! call or two, as much as a whole call of a small plugin. So chores are put on a
//! list, and the ticker, which is awake while calls happen, hands over what has
//! come together since its last tick. What a chore does is its maker's business.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;

/// Something that may happen a tick later, on the thread that makes instances.
pub(crate) type Chore = Box<dyn FnOnce() + Send>;

pub(crate) struct Chores {
    runtime: Handle,
    waiting: Mutex<Vec<Chore>>,
}

impl Chores {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, waiting: Mutex::default() }
    }

    pub(crate) fn add(&self, chore: Chore) {
        self.waiting().push(chore);
    }

    /// Gives everything that waits to the runtime, and says how much it was.
    pub(crate) fn hand_over(&self) -> usize {
        let chores = std::mem::take(&mut *self.waiting());
        let n = chores.len();
        if n > 0 {
            self.runtime.spawn(async move {
                for chore in chores {
                    chore();
                    // Calls are more urgent than any number of chores.
                    tokio::task::yield_now().await;
                }
            });
        }
        n
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Chore>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
