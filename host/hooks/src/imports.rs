//! What a plugin may import: log, config, tokenizer and call.
//!
//! Every function here bounds what it takes and what it keeps, because its
//! caller is not trusted. The interfaces `state` and `metrics` are not offered
//! yet; `inspect` refuses plugins that import them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, debug, error, info, trace, warn};
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::v0_1::{
    call, config, log, model_info_to_wit, tokenizer, tokenizer_error_to_wit, types,
};
use crate::guest::GuestState;
use crate::tokenizer::{TokenizerError, TokenizerService};

/// Target of plugins' log messages, so that a filter can name them.
const TARGET: &str = "llamero::plugin";

/// Longest log message or field list; the rest is cut.
const LOG_MESSAGE_BYTES: usize = 4 << 10;

/// What a log line costs beside its text.
const LOG_OVERHEAD: usize = 64;

/// Longest key and value of a note.
const NOTE_KEY_BYTES: usize = 64;
const NOTE_VALUE_BYTES: usize = 1 << 10;

/// Text up to this size is tokenized on the spot; more moves to a thread for
/// blocking work, so that it cannot hold up other calls.
const INLINE_TOKENIZER_BYTES: usize = 4 << 10;

/// Offers everything to `linker`, WASI included.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    types::add_to_linker::<GuestState, HasSelf<GuestState>>(linker, |state| state)?;
    log::add_to_linker::<GuestState, HasSelf<GuestState>>(linker, |state| state)?;
    config::add_to_linker::<GuestState, HasSelf<GuestState>>(linker, |state| state)?;
    tokenizer::add_to_linker::<GuestState, HasSelf<GuestState>>(linker, |state| state)?;
    call::add_to_linker::<GuestState, HasSelf<GuestState>>(linker, |state| state)
}

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
    fn take(&self, bytes: usize, now: Instant) -> Option<u64> {
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

impl types::Host for GuestState {}

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

impl config::Host for GuestState {
    fn document(&mut self) -> wasmtime::Result<String> {
        Ok(self.plugin.config_text.clone())
    }

    fn get(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        Ok(self.plugin.config.pointer(&pointer).map(ToString::to_string))
    }

    fn secret(&mut self, name: String) -> wasmtime::Result<Result<String, config::SecretError>> {
        Ok(self.plugin.secrets.get(&name).cloned().ok_or(config::SecretError::NotGranted))
    }
}

/// Runs a look-up that grows with `size`, here or on a thread for blocking work.
async fn look_up<T, F>(
    service: Arc<dyn TokenizerService>,
    size: usize,
    f: F,
) -> wasmtime::Result<Result<T, tokenizer::Error>>
where
    T: Send + 'static,
    F: FnOnce(&dyn TokenizerService) -> Result<T, TokenizerError> + Send + 'static,
{
    let found = if size <= INLINE_TOKENIZER_BYTES {
        f(service.as_ref())
    } else {
        tokio::task::spawn_blocking(move || f(service.as_ref()))
            .await
            .map_err(|error| HostFault(format!("tokenizer: {error}")))?
    };
    Ok(found.map_err(tokenizer_error_to_wit))
}

impl GuestState {
    fn tokenizer(&self) -> Arc<dyn TokenizerService> {
        Arc::clone(&self.plugin.services.tokenizer)
    }

    fn check_size(&self, size: usize) -> Result<(), tokenizer::Error> {
        let limit = self.plugin.limits.tokenizer_bytes;
        if size > limit {
            return Err(tokenizer::Error::TooLarge(limit as u64));
        }
        Ok(())
    }
}

impl tokenizer::Host for GuestState {
    async fn describe(
        &mut self,
        model: String,
    ) -> wasmtime::Result<Result<tokenizer::ModelInfo, tokenizer::Error>> {
        let found = look_up(self.tokenizer(), 0, move |service| service.describe(&model)).await?;
        Ok(found.map(model_info_to_wit))
    }

    async fn count(
        &mut self,
        model: String,
        text: String,
    ) -> wasmtime::Result<Result<u32, tokenizer::Error>> {
        if let Err(error) = self.check_size(text.len()) {
            return Ok(Err(error));
        }
        look_up(self.tokenizer(), text.len(), move |service| service.count(&model, &text)).await
    }

    async fn encode(
        &mut self,
        model: String,
        text: String,
        parse_special: bool,
    ) -> wasmtime::Result<Result<Vec<u32>, tokenizer::Error>> {
        if let Err(error) = self.check_size(text.len()) {
            return Ok(Err(error));
        }
        look_up(self.tokenizer(), text.len(), move |service| {
            service.encode(&model, &text, parse_special)
        })
        .await
    }

    async fn decode(
        &mut self,
        model: String,
        tokens: Vec<u32>,
    ) -> wasmtime::Result<Result<String, tokenizer::Error>> {
        let size = tokens.len().saturating_mul(size_of::<u32>());
        if size > self.plugin.limits.tokenizer_bytes {
            let limit = self.plugin.limits.tokenizer_bytes / size_of::<u32>();
            return Ok(Err(tokenizer::Error::TooLarge(limit as u64)));
        }
        look_up(self.tokenizer(), size, move |service| service.decode(&model, &tokens)).await
    }
}

/// A failure of the host inside a host call; `classify` files it as such.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostFault(pub(crate) String);

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

/// Whole milliseconds, as plugins see durations.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
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
