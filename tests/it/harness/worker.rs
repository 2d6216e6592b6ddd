//! The real `llamero worker` as a child, in an environment that the test alone
//! decides.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::prerequisites;
use super::process::{PATIENCE, Process, Signal, Witness};

/// A worker process that was told everything by this test.
pub struct Worker {
    process: Process,
}

impl Worker {
    /// Begins the description of a worker for the server at `url`.
    pub fn at(url: &str) -> Builder {
        Builder { args: Vec::new(), env: Vec::new(), config: String::new() }
            .flag("--nats", url)
            // Several compute threads wait for each other at every layer, which is
            // slow beyond measure when two tests, or a build, share the cores.
            .env("llm_threads", "1")
    }

    /// The process id.
    #[allow(dead_code, reason = "the load generator reads the worker's memory by it")]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGTERM: shut down in order.
    pub fn sigterm(&mut self) {
        self.process.signal(Signal::TERM);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn sigint(&mut self) {
        self.process.signal(Signal::INT);
    }

    /// SIGKILL: no last word, nothing put in order.
    pub fn sigkill(&mut self) {
        self.process.signal(Signal::KILL);
    }

    /// Stops the process where it stands.
    pub fn pause(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets a stopped process go on.
    pub fn unpause(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// Waits for the end of the process and returns its exit code; a death by a
    /// signal fails the test.
    pub async fn exit_code(&mut self) -> i32 {
        let status = self.process.exited().await;
        status.code().unwrap_or_else(|| panic!("{status}\n{}", self.process.tail()))
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Prints the end of the log if it is dropped by a failing test: for workers
    /// that outlive the test.
    pub fn witness(&self) -> Witness {
        self.process.witness()
    }

    /// What was written to standard output so far.
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// The log so far. What the worker wrote a moment ago may still be on its way
    /// through the pipe, so this is for what must not be there; [`Self::logs`] waits
    /// for what must.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits for a line of the log with all of these texts in it, and returns it.
    pub async fn logs(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let wanted = |line: &&str| parts.iter().all(|part| line.contains(part));
            if let Some(line) = log.lines().find(wanted) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no line with {parts:?} in the log:\n{log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What a worker is told: flags, environment, configuration file.
#[derive(Clone)]
pub struct Builder {
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    config: String,
}

impl Builder {
    /// A flag with its value.
    pub fn flag(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.args.push(name.into());
        self.args.push(value.as_ref().into());
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More text for `llamero.toml`.
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Starts the worker and waits until it has subscribed.
    pub fn start(self) -> Worker {
        let mut worker = self.launch();
        if let Err(error) = worker.process.wait_line(PATIENCE, says_ready) {
            panic!("{error}");
        }
        worker
    }

    /// Starts the worker and returns at once: for starts that have to fail, or
    /// that have to wait for a server.
    pub fn launch(self) -> Worker {
        let folder = tempfile::Builder::new().prefix("llamero-worker-").tempdir().expect("folder");
        let mut command = Command::new(prerequisites::llamero());
        command.arg("worker").args(&self.args);
        if !self.config.is_empty() {
            let file = folder.path().join("llamero.toml");
            fs::write(&file, &self.config).expect("write llamero.toml");
            command.arg("--config").arg(&file);
        }
        bare_environment(&mut command, folder.path());
        command.envs(self.env).stdin(Stdio::null());
        let mut process = Process::spawn("worker", &mut command);
        process.keep(folder);
        Worker { process }
    }
}

/// Takes away every variable that could reach the configuration: tests must not
/// depend on who runs them. The cache folder stays, since compiling the largest
/// plugins anew in every test would take minutes.
pub fn bare_environment(command: &mut Command, folder: &Path) {
    command.env_clear().current_dir(folder).env("NO_COLOR", "1");
    for name in ["PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// The one line with which a worker says that it takes requests, in the text
/// and in the JSON form of the log.
fn says_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == "ready")
}
