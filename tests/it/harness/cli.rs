//! The `llamero` binary as a command that a person or a script runs.

use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::prerequisites;
use super::process::Process;
use super::worker::bare_environment;

/// A command line to run, in an environment without anything of the caller's.
pub struct Cli {
    command: Command,
    input: Option<String>,
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Cli {
    /// `llamero ARGS`.
    pub fn new(args: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("llamero-cli-").tempdir().expect("folder");
        let mut command = Command::new(prerequisites::llamero());
        command.args(args).stdin(Stdio::null());
        bare_environment(&mut command, folder.path());
        Self { command, input: None, folder }
    }

    /// `llamero COMMAND --nats URL ARGS`.
    pub fn at(url: &str, command: &str, args: &[&str]) -> Self {
        Self::new(&[&[command, "--nats", url], args].concat())
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Writes a file into the folder in which the command runs.
    pub fn file(self, name: &str, content: &str) -> Self {
        std::fs::write(self.folder.path().join(name), content).expect("write a file");
        self
    }

    /// Gives `text` on standard input.
    pub fn input(mut self, text: &str) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(text.to_owned());
        self
    }

    /// Starts the command.
    pub fn spawn(mut self) -> Process {
        let mut process = Process::spawn("llamero", &mut self.command);
        if let Some(input) = self.input {
            // Dropped afterwards, which is the end of the input.
            let _ = process.stdin().write_all(input.as_bytes());
        }
        process.keep(self.folder);
        process
    }

    /// Runs the command to its end.
    pub async fn run(self) -> Ran {
        let mut process = self.spawn();
        let status = process.exited().await;
        let code = status.code().unwrap_or_else(|| panic!("{status}\n{}", process.tail()));
        Ran { code, stdout: process.stdout(), stderr: process.stderr() }
    }
}
