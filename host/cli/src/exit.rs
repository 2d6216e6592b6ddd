//! The exit codes of every command, and the error that carries one.
//!
//! Scripts decide by these numbers, so a number never changes its meaning. What
//! an error of the worker means in the protocol is `llamero-protocol`'s
//! knowledge; here stands only which exit code and which advice belong to it.

use std::fmt;
use std::process::ExitCode;

use llamero_protocol::ErrorBody;

/// How a command ended, as the number that the shell sees.
///
/// 64, 69 and 75 are those of BSD's `sysexits.h`, 124 is that of `timeout(1)`,
/// and 130 is what a shell reports for a program ended by Ctrl-C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did what it was asked to. A worker drained within its grace.
    Ok = 0,
    /// The command failed while it ran: the worker answered with an error, the
    /// grace of a draining worker ran out, or its subscription ended.
    Failure = 1,
    /// The arguments or the prompt cannot be used.
    Usage = 2,
    /// The configuration is invalid; every problem was printed.
    Config = 64,
    /// NATS cannot be reached, or no worker listens on the subject.
    Unavailable = 69,
    /// The worker is busy or shutting down; the same command may succeed later.
    Busy = 75,
    /// No complete answer came within `--timeout`.
    Timeout = 124,
    /// The job was interrupted, by Ctrl-C or by `llamero interrupt`.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The table of exit codes as `llamero --help` prints it.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done
  1    failed while running; the message names the cause
  2    arguments or prompt cannot be used
  64   configuration invalid; all problems are printed at once
  69   NATS unreachable, or no worker listens on the subject
  75   worker busy or shutting down; try again
  124  no complete answer within --timeout
  130  interrupted";

/// A command's failure: what happened, what to do about it, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened; for `Config` one problem a line.
    pub message: String,
    /// What the user can do about it, if that is not obvious.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure that an error answer of the worker means to a client command.
    pub fn from_worker(error: &ErrorBody) -> Self {
        let mut message = format!("{} ({}", error.error, describe_code(error.code));
        if let Some(hook) = &error.hook {
            message.push_str(&format!(
                "; plugin {}, phase {}, kind {}",
                hook.plugin, hook.phase, hook.kind
            ));
        }
        message.push(')');
        Self {
            exit: exit_for(error),
            message,
            hint: advice(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, format!("{error:#}"))
    }
}
