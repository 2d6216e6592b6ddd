//! The host's side of one instance: what its store holds.
//!
//! Memory accounting, the end of its stderr, WASI without anything in it, and
//! the call in progress. The functions that a plugin may import are in
//! `imports`; the store itself is made in `engine`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::clock::CallClock;
use crate::engine::{MAX_INSTANCES_PER_COMPONENT, MAX_MEMORIES, MAX_TABLES};
use crate::error::{FailureKind, Phase};
use crate::instance::{Allowance, Budget};
use crate::job::JobShared;
use crate::plugin::PluginShared;

/// Bytes of a plugin's stdout and stderr that are kept for the operator.
const STDERR_BYTES: usize = 2 << 10;

/// Most random bytes that a plugin gets in one WASI call.
const RANDOM_BYTES: u64 = 64 << 10;

/// Data of a store.
pub(crate) struct GuestState {
    /// Made at first use: most Rust plugins import nothing of WASI.
    wasi: Option<WasiCtx>,
    table: ResourceTable,
    pub(crate) limiter: MemoryLimiter,
    pub(crate) stderr: TailPipe,
    pub(crate) plugin: Arc<PluginShared>,
    pub(crate) job: Arc<JobShared>,
    pub(crate) call: CallState,
    /// Notes that this plugin has left on the job.
    pub(crate) notes: usize,
}

/// The call in progress, or the last one.
pub(crate) struct CallState {
    /// `None` while the instance is made or configured.
    pub(crate) phase: Option<Phase>,
    pub(crate) budget: Budget,
    pub(crate) clock: Arc<CallClock>,
    /// Ticks that the guest has run through.
    pub(crate) ticks: u32,
    /// Why the epoch callback ended the call.
    pub(crate) cause: Option<FailureKind>,
    /// The model that serves the job, as far as it is known.
    pub(crate) model: String,
}

impl GuestState {
    pub(crate) fn new(plugin: Arc<PluginShared>, job: Arc<JobShared>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(plugin.limits.handles);
        Self {
            wasi: None,
            table,
            limiter: MemoryLimiter::new(plugin.limits.memory_bytes),
            stderr: TailPipe::default(),
            call: CallState {
                phase: None,
                budget: Allowance::Call.budget(&plugin.limits),
                clock: Arc::default(),
                ticks: 0,
                cause: None,
                model: String::new(),
            },
            notes: 0,
            plugin,
            job,
        }
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let stderr = &self.stderr;
        WasiCtxView {
            ctx: self.wasi.get_or_insert_with(|| closed_wasi(stderr)),
            table: &mut self.table,
        }
    }
}

/// WASI with nothing in it: no environment, arguments, files, sockets or name
/// look-ups. JavaScript and Python runtimes import it whether they use it or not.
fn closed_wasi(stderr: &TailPipe) -> WasiCtx {
    WasiCtx::builder()
        .stdout(stderr.clone())
        .stderr(stderr.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES)
        .build()
}

/// Sums all memories and tables of a store. wasmtime's own limiter bounds each
/// memory by itself.
pub(crate) struct MemoryLimiter {
    limit: usize,
    used: usize,
    last_growth: usize,
    /// The total that was refused first.
    pub(crate) refused: Option<usize>,
}

impl MemoryLimiter {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0, last_growth: 0, refused: None }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        unit: usize,
    ) -> bool {
        let growth = desired.saturating_sub(current).saturating_mul(unit);
        let total = self.used.saturating_add(growth);
        if total > self.limit {
            self.refused.get_or_insert(total);
            return false;
        }
        // Beyond the maximum that the plugin set itself: it gets what it asked
        // for, which is a failed growth, and the operator's limit is not at fault.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        self.used = total;
        self.last_growth = growth;
        true
    }

    fn undo(&mut self) {
        // The system refused what this limiter had granted.
        self.refused.get_or_insert(self.used);
        self.used -= self.last_growth;
        self.last_growth = 0;
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, 1))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, size_of::<usize>()))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES_PER_COMPONENT as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

/// Takes everything and keeps the end of it: panic messages come last.
///
/// wasmtime-wasi's own memory pipe traps or closes when it is full, which would
/// make a plugin fail for talking too much.
#[derive(Clone, Default)]
pub(crate) struct TailPipe {
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl TailPipe {
    pub(crate) fn text(&self) -> String {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(tail.make_contiguous()).trim().to_owned()
    }

    fn push(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = &bytes[bytes.len().saturating_sub(STDERR_BYTES)..];
        let excess = (tail.len() + keep.len()).saturating_sub(STDERR_BYTES);
        tail.drain(..excess);
        tail.extend(keep);
    }
}

impl StdoutStream for TailPipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl IsTerminal for TailPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl OutputStream for TailPipe {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        // Also the most that one `write-zeroes` makes the host allocate.
        Ok(64 << 10)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for TailPipe {
    async fn ready(&mut self) {}
}

impl AsyncWrite for TailPipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn memories_and_tables_are_summed() {
        let mut limiter = MemoryLimiter::new(1000);
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.table_growing(0, 50, None).unwrap());
        assert_eq!(limiter.used(), 1000);
        assert_eq!(limiter.refused, None);
        assert!(!limiter.table_growing(50, 51, None).unwrap());
        assert_eq!(limiter.refused, Some(1008));
        assert_eq!(limiter.used(), 1000);
    }

    #[test]
    fn a_maximum_of_the_plugin_is_not_the_operators() {
        let mut limiter = MemoryLimiter::new(1000);
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert_eq!((limiter.used(), limiter.refused), (0, None));
    }

    #[test]
    fn a_growth_that_the_system_refused_is_given_back() {
        let mut limiter = MemoryLimiter::new(1000);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.memory_growing(400, 900, None).unwrap());
        limiter.memory_grow_failed(wasmtime::format_err!("no memory")).unwrap();
        assert_eq!((limiter.used(), limiter.refused), (400, Some(900)));
    }

    #[test]
    fn the_pipe_keeps_the_end() {
        let pipe = TailPipe::default();
        for n in 0..2000 {
            pipe.push(format!("line {n}\n").as_bytes());
        }
        let text = pipe.text();
        assert!(text.len() <= STDERR_BYTES);
        assert!(text.ends_with("line 1999"), "{text}");
        pipe.push(&vec![b'x'; 3 * STDERR_BYTES]);
        assert_eq!(pipe.text(), "x".repeat(STDERR_BYTES));
    }
}
