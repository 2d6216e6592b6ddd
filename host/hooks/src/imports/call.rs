//! The import `call`: facts of the call in progress, and the notes that plugins
//! leave for those after them.

use std::time::Instant;

use tracing::warn;

use super::log::LOG_OVERHEAD;
use super::{TARGET, millis};
use crate::bindings::v0_1::call;
use crate::guest::GuestState;

/// Longest key and value of a note.
const NOTE_KEY_BYTES: usize = 64;
const NOTE_VALUE_BYTES: usize = 1 << 10;

impl call::Host for GuestState {
    fn remaining_ms(&mut self) -> wasmtime::Result<u32> {
        Ok(millis(self.call.budget.deadline.saturating_duration_since(Instant::now())))
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.job.is_cancelled())
    }

    fn model(&mut self) -> wasmtime::Result<String> {
        Ok(self.call.model.clone())
    }

    fn note(&mut self, key: String, value: String) -> wasmtime::Result<()> {
        let plugin = &self.plugin;
        if key.is_empty() || key.len() > NOTE_KEY_BYTES || value.len() > NOTE_VALUE_BYTES {
            // Warnings that a plugin can cause count against its log budget.
            if plugin.log.take(LOG_OVERHEAD, Instant::now()).is_some() {
                warn!(
                    target: TARGET,
                    plugin = plugin.id,
                    key_bytes = key.len(),
                    value_bytes = value.len(),
                    "a note of a plugin dropped: its key or value has no fitting size"
                );
            }
            return Ok(());
        }
        let name = format!("{}.{key}", plugin.id);
        let mut notes = self.job.notes();
        if let Some(note) = notes.iter_mut().find(|(existing, _)| *existing == name) {
            note.1 = value;
        } else if self.notes < plugin.limits.notes {
            self.notes += 1;
            notes.push((name, value));
        } else {
            drop(notes);
            if plugin.log.take(LOG_OVERHEAD, Instant::now()).is_some() {
                warn!(
                    target: TARGET,
                    plugin = plugin.id,
                    limit = plugin.limits.notes,
                    "a note of a plugin dropped: it has left as many as it may"
                );
            }
        }
        Ok(())
    }

    fn read_note(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        let notes = self.job.notes();
        Ok(notes.iter().find(|(existing, _)| *existing == name).map(|(_, value)| value.clone()))
    }
}
