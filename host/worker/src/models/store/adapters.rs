//! The adapters of a job, and the memory that they take.
//!
//! An adapter that is loaded counts as a part of its model, from the moment its room
//! is taken until the engine has freed it: by the room's being dropped. Which ones are
//! kept is the engine's business; whether there is memory for one more is told here.

use std::sync::{Arc, Weak};

use llamero_engine::{Adapter, AdapterRoom};
use tokio::runtime::Handle;

use super::{Hold, Inner, Lease};
use crate::models::dir;
use crate::models::shelf;
use crate::models::types::{AdapterCause, AdapterFailure};

impl Lease {
    /// Adapters of the models folder for this model, by name and with their scales.
    /// Those that are not loaded are loaded away from the tasks that serve the
    /// network. They stay loaded while what is returned lives.
    ///
    /// # Errors
    /// [`AdapterFailure`] names the one at fault.
    pub async fn adapters(
        &self,
        wanted: &[(String, f32)],
    ) -> Result<Vec<(Adapter, f32)>, AdapterFailure> {
        let Some((first, _)) = wanted.first() else { return Ok(Vec::new()) };
        let failure = |name: &str, cause| AdapterFailure { name: name.to_owned(), cause };
        let max = self.hold.store.config.settings.max_adapters;
        if let Some((name, _)) = wanted.get(max).filter(|_| max > 0) {
            return Err(failure(name, AdapterCause::TooMany { max }));
        }
        let (hold, wanted) = (Arc::clone(&self.hold), wanted.to_vec());
        let load = move || -> Result<_, AdapterFailure> {
            let mut loaded = Vec::with_capacity(wanted.len());
            for (name, scale) in wanted {
                let adapter = hold.adapter(&name, &loaded).map_err(|cause| failure(&name, cause));
                loaded.push((adapter?, scale));
            }
            Ok(loaded)
        };
        tokio::task::spawn_blocking(load)
            .await
            .unwrap_or_else(|_| Err(failure(first, AdapterCause::Panicked)))
    }
}

impl Hold {
    /// The adapter of this name for a job that has some already. Blocks.
    fn adapter(&self, name: &str, others: &[(Adapter, f32)]) -> Result<Adapter, AdapterCause> {
        let settings = &self.store.config.settings;
        let path =
            dir::file(&settings.dir, name, settings.follow_links).ok_or(AdapterCause::Missing)?;
        let others = others.iter().map(|(adapter, _)| adapter.bytes()).sum();
        self.model.adapter_within(&path, |bytes, spare| self.adapter_room(bytes, others, spare))
    }

    /// Room for an adapter of a job whose others take so many bytes. What nobody uses
    /// makes room: adapters of the same model, then models. Blocks until models that
    /// go for it are gone.
    fn adapter_room(
        &self,
        bytes: u64,
        others: u64,
        spare: &mut dyn FnMut() -> bool,
    ) -> Result<AdapterRoom, AdapterCause> {
        let (store, id) = (&self.store, self.id);
        loop {
            let changed = store.changed.notified();
            if store.lock().shelf.add_adapter(id, bytes) {
                return Ok(Box::new(Room { store: Arc::downgrade(store), id, bytes }));
            }
            if spare() {
                continue;
            }
            let (is_enough, released) = store.lock().shelf.make_adapter_room(bytes);
            store.free(released);
            if !is_enough {
                return Err(self.no_adapter_room(bytes, others));
            }
            Handle::current().block_on(changed);
        }
    }

    fn no_adapter_room(&self, bytes: u64, others: u64) -> AdapterCause {
        let beside = self.model.info().memory.total().saturating_add(others);
        let budget = self.store.config.settings.ram.unwrap_or(u64::MAX);
        match beside.saturating_add(bytes) > budget {
            true => AdapterCause::TooLarge { bytes, beside, budget },
            false => AdapterCause::NoRoom,
        }
    }
}

/// What an adapter takes of the budget.
struct Room {
    store: Weak<Inner>,
    id: shelf::Id,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        // Without a store nobody counts any more.
        if let Some(store) = self.store.upgrade() {
            store.lock().shelf.remove_adapter(self.id, self.bytes);
            store.changed.notify_waiters();
        }
    }
}
