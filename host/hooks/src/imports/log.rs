//! The import `log`: messages of plugins among the worker's own.
//!
//! A plugin has a budget of bytes a second, over all its instances. What the host
//! itself has to say about a plugin that misuses another import is charged to the
//! same budget, because it is the plugin that causes it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::{Level, debug, error, info, trace, warn};

use super::TARGET;
use crate::bindings::v0_1::log;
use crate::guest::GuestState;

/// Longest log message or field list; the rest is cut.
const LOG_MESSAGE_BYTES: usize = 4 << 10;

/// What a log line costs beside its text.
pub(super) const LOG_OVERHEAD: usize = 64;

/// How many bytes a plugin may still log, over all its instances.
pub(crate) struct LogBudget {
    per_second: usize,
    state: Mutex<Bucket>,
}

struct Bucket {
    left: usize,
    filled: Instant,
    dropped: u64,
}

impl LogBudget {
    pub(crate) fn new(per_second: usize) -> Self {
        Self {
            per_second,
            state: Mutex::new(Bucket { left: per_second, filled: Instant::now(), dropped: 0 }),
        }
    }

    /// Takes `bytes`, or counts a dropped message. The first message that passes
    /// after drops gets their number.
    pub(super) fn take(&self, bytes: usize, now: Instant) -> Option<u64> {
        let mut bucket = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(bucket.filled);
        let refill = elapsed.as_secs_f64() * self.per_second as f64;
        if refill >= 1.0 {
            bucket.left = bucket.left.saturating_add(refill as usize).min(self.per_second);
            bucket.filled = now;
        }
        if bytes > bucket.left {
            bucket.dropped += 1;
            return None;
        }
        bucket.left -= bytes;
        Some(std::mem::take(&mut bucket.dropped))
    }
}

impl log::Host for GuestState {
    fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<log::Field>,
    ) -> wasmtime::Result<()> {
        let size =
            message.len() + fields.iter().map(|f| f.key.len() + f.value.len()).sum::<usize>();
        let cost = size.min(2 * LOG_MESSAGE_BYTES) + LOG_OVERHEAD;
        let Some(dropped) = self.plugin.log.take(cost, Instant::now()) else {
            return Ok(());
        };
        if dropped > 0 {
            warn!(
                target: TARGET,
                plugin = self.plugin.id,
                dropped,
                "log messages of a plugin dropped, it logs more than it may"
            );
        }
        let plugin = self.plugin.id.as_str();
        let phase = self.call.phase.map(|phase| phase.as_str());
        let job = loggable(&self.job.context.job);
        let fields = field_list(&fields);
        let message = loggable(&message);
        macro_rules! write_at {
            ($macro:ident) => {
                $macro!(target: TARGET, plugin, phase, job, fields, "{message}")
            };
        }
        match level {
            log::Level::Trace => write_at!(trace),
            log::Level::Debug => write_at!(debug),
            log::Level::Info => write_at!(info),
            log::Level::Warn => write_at!(warn),
            log::Level::Error => write_at!(error),
        }
        Ok(())
    }

    fn enabled(&mut self, level: log::Level) -> wasmtime::Result<bool> {
        Ok(match level {
            log::Level::Trace => tracing::enabled!(target: TARGET, Level::TRACE),
            log::Level::Debug => tracing::enabled!(target: TARGET, Level::DEBUG),
            log::Level::Info => tracing::enabled!(target: TARGET, Level::INFO),
            log::Level::Warn => tracing::enabled!(target: TARGET, Level::WARN),
            log::Level::Error => tracing::enabled!(target: TARGET, Level::ERROR),
        })
    }
}

fn field_list(fields: &[log::Field]) -> String {
    let mut list = String::new();
    for field in fields {
        if list.len() >= LOG_MESSAGE_BYTES {
            list.push('…');
            break;
        }
        if !list.is_empty() {
            list.push(' ');
        }
        list.push_str(&loggable(&field.key));
        list.push('=');
        list.push_str(&loggable(&field.value));
    }
    list
}

/// `text` cut to size, with control characters escaped: a plugin must not be able
/// to write lines of its own into the log.
fn loggable(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(LOG_MESSAGE_BYTES)];
    let mut clean = String::with_capacity(cut.len());
    for c in cut.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    if cut.len() < text.len() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn log_budget_drops_counts_and_refills() {
        let budget = LogBudget::new(100);
        let start = Instant::now();
        assert_eq!(budget.take(60, start), Some(0));
        assert_eq!(budget.take(60, start), None);
        assert_eq!(budget.take(60, start), None);
        let later = start + Duration::from_millis(500);
        assert_eq!(budget.take(60, later), Some(2));
        assert_eq!(budget.take(101, later + Duration::from_secs(9)), None);
        assert_eq!(budget.take(100, later + Duration::from_secs(9)), Some(1));
    }

    #[test]
    fn control_characters_and_length_of_log_messages_are_tamed() {
        assert_eq!(loggable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        let long = "ä".repeat(LOG_MESSAGE_BYTES);
        let cut = loggable(&long);
        assert!(cut.len() <= LOG_MESSAGE_BYTES + 4 && cut.ends_with('…'));
    }
}
