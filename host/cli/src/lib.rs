//! The command line of Llamero: `llamero worker` and the client commands.
//!
//! Responsible for arguments, help, logging set-up, printing, signals and exit
//! codes, for the client's side of the protocol, and for the demo. Not
//! responsible for what a setting means, for serving requests, or for anything
//! that happens to a job: that is `llamero-worker`'s, and this crate only starts
//! it. The messages are `llamero-protocol`'s.
//!
//! Reading order: [`args`] for what can be typed, [`commands`] for what it does,
//! [`client`] and [`collector`] for how an answer is put together, [`exit`] for
//! the exit codes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub mod args;
pub mod client;
pub mod collector;
pub mod commands;
pub mod control;
pub mod exit;
pub mod flags;
pub mod logging;
pub mod output;
pub mod prompt;
pub mod signals;
pub mod stats;
pub mod values;

use args::Cli;
use exit::{Exit, Failure};

/// Runs the command that `arguments` name; the first of them is the program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with exit code 0. A reader
            // that is gone, as in `llamero --help | head`, is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let is_worker = matches!(cli.command, args::Command::Worker(_));
    let exit = start(cli).unwrap_or_else(|failure| {
        output::note(&failure.to_string());
        failure.exit
    });
    if is_worker {
        // A model may still be loading or leaving memory on its own thread, and
        // must not meet the destructors of an ordinary end. Only stderr was
        // written to, which is not buffered.
        llamero_worker::exit_process(exit as u8);
    }
    exit.into()
}

fn start(cli: Cli) -> Result<Exit, Failure> {
    // TLS needs one process-wide provider of cryptography. Installing it here
    // keeps the choice independent of the features that other crates switch on
    // in rustls; an error only means that one is installed already.
    let _ = async_nats::rustls::crypto::ring::default_provider().install_default();
    // The NATS connection lives on the runtime's threads, so that a blocked
    // write to standard output (`| less`) does not stop its heartbeats.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            Failure::new(Exit::Failure, format!("threads cannot be started: {error}"))
        })?;
    let result = runtime.block_on(commands::run(cli.command));
    // A blocking task that is still at work (a model being loaded) must not
    // hold up the end of the process.
    runtime.shutdown_background();
    result
}
