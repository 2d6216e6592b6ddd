//! Sets up `tracing` for the process: to stderr, as text or JSON, filtered.
//!
//! What is logged is the libraries' choice, the default filter is a setting of
//! `llamero-worker`. The progress bar of `llamero worker` lives here too,
//! because a bar and log lines share one terminal and must not tear each other.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use indicatif::MultiProgress;
use llamero_worker::settings::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::{Exit, Failure};

/// The terminal's progress bars. Log lines are written while they are hidden.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Where commands add their progress bars.
pub fn bars() -> &'static MultiProgress {
    &BARS
}

/// Starts logging. Must be called once, before anything logs.
///
/// # Errors
/// The filter is malformed, or logging was started before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Failure> {
    let filter = check_filter(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Stderr);
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Failure::new(Exit::Failure, format!("logging cannot start: {error}")))
}

/// Reads a filter.
///
/// # Errors
/// The filter is malformed.
pub fn check_filter(filter: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(Exit::Config, format!("log: `{filter}` is no log filter: {error}"))
            .with_hint("write a level, or target=level pairs: --log info,llamero_worker=debug")
    })
}

/// Makes writers to stderr that step around the progress bars.
#[derive(Debug, Clone, Copy)]
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The subscriber hands over whole lines, so one `suspend` is one line.
        BARS.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
