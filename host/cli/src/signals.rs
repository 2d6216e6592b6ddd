//! SIGINT and SIGTERM as one stream, for every command that has to tidy up.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals that ask a program to end.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes both signals over from the operating system's default, which would
    /// end the process at once. Must be called inside the tokio runtime.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of them and returns its name. Cancel safe.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
