//! The demo's worker: this very executable, as a child process.
//!
//! A child rather than a task, so that the demo shows what an operator runs,
//! and hears from it what an operator hears: its log.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// How long the worker may take to load its model and compile its hooks. The
/// two plugins in JavaScript and Python take seconds each on a small machine
/// when they are compiled for the first time.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How long the worker may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Log lines that are kept, for a message about a worker that died.
const KEPT_LINES: usize = 2_000;

/// A running worker. Dropping it ends the process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    log: Arc<Log>,
    lines: watch::Receiver<usize>,
}

/// What the worker has logged so far.
#[derive(Debug, Default)]
struct Log {
    events: Mutex<VecDeque<Value>>,
}

impl Log {
    fn push(&self, event: Value) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT_LINES {
            events.pop_front();
        }
        events.push_back(event);
    }

    fn select(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| wanted(event)).cloned().collect()
    }
}

impl Worker {
    /// Starts the worker with this configuration file and nothing of the user's
    /// own configuration, and waits until it serves requests.
    ///
    /// # Errors
    /// The worker ended or did not get ready; the message holds its last words.
    pub async fn start(config: &Path, folder: &Path) -> Result<Self, Failure> {
        let executable = std::env::current_exe().map_err(anyhow::Error::from)?;
        let mut command = Command::new(executable);
        command
            .arg("worker")
            .arg("--config")
            .arg(config)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal must reach the demo alone, which then ends
            // its children in order.
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let is_setting = ["llm_", "LLAMERO_", "NATS_"]
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix));
            if is_setting {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Exit::Failure, format!("the worker cannot be started: {error}"))
        })?;
        let log = Arc::new(Log::default());
        let (count, lines) = watch::channel(0);
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(read_log(stderr, Arc::clone(&log), count));
        }
        let mut worker = Self { child, log, lines };
        worker.ready().await?;
        Ok(worker)
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let is_ready = |event: &Value| event["message"] == "ready";
        match timeout(READY_LIMIT, self.wait_for(is_ready)).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(self.last_words("the worker ended before it was ready")),
            Err(_) => Err(self.last_words("the worker did not get ready in time")),
        }
    }

    /// Waits for the first logged event of this kind; `None`: the log has ended.
    async fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        loop {
            // Marked as seen before looking, so that no line is missed between.
            self.lines.borrow_and_update();
            if let Some(found) = self.log.select(&wanted).into_iter().next() {
                return Some(found);
            }
            self.lines.changed().await.ok()?;
        }
    }

    /// The events that `wanted` selects, once there is at least one and the log
    /// has been quiet for a moment; none if nothing comes within a second. Log
    /// lines travel through a pipe and may arrive after the answer.
    pub async fn events(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        if timeout(Duration::from_secs(1), self.wait_for(&wanted)).await.is_ok() {
            while timeout(Duration::from_millis(50), self.lines.changed())
                .await
                .is_ok_and(|r| r.is_ok())
            {}
        }
        self.log.select(wanted)
    }

    fn last_words(&self, what: &str) -> Failure {
        let mut message = format!("{what}; its log ends with:");
        let events = self.log.select(|_| true);
        for event in events.iter().rev().take(8).rev() {
            let line = event.as_str().map_or_else(|| event.to_string(), str::to_owned);
            message.push_str(&format!("\n  {line}"));
        }
        Failure::new(Exit::Failure, message)
    }

    /// Asks the worker to drain, as an operator would, and tells how it ended.
    pub async fn stop(mut self) -> String {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // An error means that it is gone already.
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                let _ = self.child.kill().await;
                format!("killed after {} s", STOP_LIMIT.as_secs())
            }
        }
    }
}

/// Reads the child's log to its end. A line that is no JSON (an error message
/// printed before logging starts) is kept as text.
async fn read_log(stderr: ChildStderr, log: Arc<Log>, count: watch::Sender<usize>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
        log.push(event);
        count.send_modify(|count| *count += 1);
    }
}
