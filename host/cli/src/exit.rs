//! The exit codes of every command, and the error that carries one.
//!
//! Scripts decide by these numbers, so a number never changes its meaning. What
//! an error of the worker means in the protocol is `llamero-protocol`'s
//! knowledge; here stands only which exit code and which advice belong to it.

use std::fmt;
use std::process::ExitCode;

use llamero_protocol::{ErrorBody, ErrorCode, HookFailureKind};

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
        Self { exit, message: message.into(), hint: None }
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
        Self { exit: exit_for(error), message, hint: advice(error) }
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

/// The code as people look it up: `code 9, ErrHookFailed`.
fn describe_code(code: u32) -> String {
    match ErrorCode::from_number(code) {
        Some(known) => format!("code {code}, {}", known.name()),
        None => format!("code {code}"),
    }
}

/// The exit code that an error answer means.
fn exit_for(error: &ErrorBody) -> Exit {
    match error.kind() {
        Some(ErrorCode::Busy | ErrorCode::ShuttingDown) => Exit::Busy,
        Some(ErrorCode::Interrupted) => Exit::Interrupted,
        _ => Exit::Failure,
    }
}

/// What the user of a client command can do about an error answer.
fn advice(error: &ErrorBody) -> Option<String> {
    if let Some(hook) = &error.hook {
        let plugin = &hook.plugin;
        return Some(match hook.kind {
            HookFailureKind::Rejected => {
                format!("the plugin {plugin} decided against this request")
            }
            HookFailureKind::Busy => "all instances of the plugin are in use; try again".to_owned(),
            _ => format!("the worker's log has the details, under the plugin name {plugin}"),
        });
    }
    let text = error.error.as_str();
    let advice = match error.kind()? {
        ErrorCode::JobNotFound => "the job has ended, or its name is different",
        ErrorCode::ShuttingDown => "try again; another worker may take the job",
        ErrorCode::Busy => {
            "try again later, raise the worker's --queue or --slots, or start another worker"
        }
        ErrorCode::InvalidModel => {
            "`llamero models` lists the models of this worker; name one with --model"
        }
        ErrorCode::PredictionFailed if text.contains("overflow context size") => {
            "shorten the prompt or the system text, or give the job a larger context: \
             --option ctx_size=8192"
        }
        ErrorCode::PredictionFailed if text.contains("chat template") => {
            "this model knows no chat; leave out --chat"
        }
        ErrorCode::PredictionFailed if text.starts_with("option ") => {
            "`llamero models --options` lists the options with their defaults"
        }
        // Says itself what to do.
        ErrorCode::PredictionFailed if text.contains("send fewer texts") => return None,
        ErrorCode::PredictionFailed if text.contains("max_payload") => "leave out --no-stream",
        ErrorCode::UnsupportedCommand if text.contains("hooks") => {
            "the worker's operator can allow it with the setting embed = \"on\""
        }
        ErrorCode::UnsupportedCommand if text.contains("turned off") => {
            "the worker's operator can allow it with the setting embed"
        }
        ErrorCode::UnsupportedCommand => "the worker is older than this client",
        ErrorCode::InvalidRequest if text.starts_with("embed.input has") => {
            "send fewer texts at a time, or raise the worker's embed_max_inputs"
        }
        ErrorCode::PredictionFailed if text.contains("that one text may have") => {
            "split the text, or raise the worker's embed_max_tokens"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use llamero_protocol::HookPhase;

    fn body(code: u32, text: &str) -> ErrorBody {
        ErrorBody { code, error: text.to_owned(), hook: None }
    }

    #[test]
    fn errors_of_the_worker_have_exit_codes() {
        for (code, exit) in [
            (0, Exit::Failure),
            (4, Exit::Failure),
            (5, Exit::Busy),
            (6, Exit::Busy),
            (7, Exit::Failure),
            (8, Exit::Interrupted),
            (9, Exit::Failure),
            (10, Exit::Failure),
            (1001, Exit::Failure),
        ] {
            assert_eq!(Failure::from_worker(&body(code, "x")).exit, exit, "{code}");
        }
    }

    #[test]
    fn a_hook_failure_names_plugin_phase_and_kind() {
        let error =
            ErrorBody::hook_failed("trap", HookPhase::Request, HookFailureKind::Trap, false);
        assert_eq!(
            Failure::from_worker(&error).to_string(),
            "error: hook \"trap\" failed: trap (code 9, ErrHookFailed; plugin trap, phase request, \
             kind trap)\n hint: the worker's log has the details, under the plugin name trap"
        );
    }

    #[test]
    fn codes_of_plugins_have_no_name() {
        let failure = Failure::from_worker(&body(1001, "no poems"));
        assert_eq!(failure.to_string(), "error: no poems (code 1001)");
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        for exit in [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::Config,
            Exit::Unavailable,
            Exit::Busy,
            Exit::Timeout,
            Exit::Interrupted,
        ] {
            let line = format!("\n  {:<5}", exit as u8);
            assert!(EXIT_CODES_HELP.contains(&line), "{exit:?}");
        }
    }
}
