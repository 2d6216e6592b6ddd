//! One child process with its output collected.
//!
//! Knows nothing of NATS or of the worker; `nats.rs` and `worker.rs` say what to
//! start and which line means "ready".

use std::io::Read;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

/// How long a test waits for anything before it gives up. Generous on purpose:
/// it tells "never" from "slow", and is no statement about speed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Lines of the log that a failure message shows.
const TAIL: usize = 60;

/// A running child. Dropping it kills it; so does the death of the test process,
/// however it dies.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    watchdog: Watchdog,
    folder: Option<TempDir>,
}

impl Process {
    /// Starts `command` with both output streams collected. Standard input is
    /// what the caller set, or empty.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Output::default());
        output.collect(Stream::Out, child.stdout.take().expect("stdout is piped"));
        output.collect(Stream::Err, child.stderr.take().expect("stderr is piped"));
        let watchdog = Watchdog::of(&child);
        Self { name: name.to_owned(), child, output, watchdog, folder: None }
    }

    /// Keeps a folder for as long as the process may need it.
    pub fn keep(&mut self, folder: TempDir) {
        self.folder = Some(folder);
    }

    /// The write end of standard input, if the command asked for a pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin was piped and not yet taken")
    }

    /// Sends `signal`; a process that has already ended is no error.
    pub fn signal(&mut self, signal: Signal) {
        if self.child.try_wait().expect("state of the child").is_none() {
            kill_process(Pid::from_child(&self.child), signal)
                .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
        }
    }

    /// The process id.
    #[allow(dead_code, reason = "the load generator reads the worker's memory by it")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("state of the child").is_none()
    }

    /// Waits for the end of the process and of both its output streams.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("state of the child") {
                self.output.wait_closed(deadline);
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end\n{}", self.name, self.tail());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// As [`Self::wait_exit`], without blocking the test's runtime.
    pub async fn exited(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "{} does not end\n{}", self.name, self.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.wait_exit()
    }

    /// Waits until a line satisfies `wanted`, and returns it. `Err` with the
    /// reason if the process ends or `patience` runs out first.
    pub fn wait_line(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, String> {
        let deadline = Instant::now() + patience;
        loop {
            // Looked at before the lines: what a process says last is still read.
            let ended = self.child.try_wait().expect("state of the child");
            if ended.is_some() {
                self.output.wait_closed(deadline);
            }
            if let Some(line) = self.output.find(&wanted) {
                return Ok(line);
            }
            if let Some(status) = ended {
                return Err(format!("{} ended early ({status})\n{}", self.name, self.tail()));
            }
            if Instant::now() >= deadline {
                return Err(format!("{} is not ready in time\n{}", self.name, self.tail()));
            }
            self.output.wait_change(Duration::from_millis(50));
        }
    }

    /// What was written to standard output so far.
    pub fn stdout(&self) -> String {
        self.output.text(Stream::Out)
    }

    /// What was written to standard error so far.
    pub fn stderr(&self) -> String {
        self.output.text(Stream::Err)
    }

    /// Waits until standard output is not empty, and returns it.
    pub async fn some_stdout(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.stdout();
            if !text.is_empty() {
                return text;
            }
            assert!(self.is_running(), "{} ended without output\n{}", self.name, self.tail());
            assert!(Instant::now() < deadline, "{} writes nothing\n{}", self.name, self.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of both streams, for a failure message.
    pub fn tail(&self) -> String {
        self.output.tail(&self.name)
    }

    /// Prints the last lines of both streams if it is dropped by a failing test.
    pub fn witness(&self) -> Witness {
        Witness { name: self.name.clone(), output: Arc::clone(&self.output) }
    }
}

/// See [`Process::witness`].
pub struct Witness {
    name: String,
    output: Arc<Output>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.output.tail(&self.name));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // In this order: while the child is not reaped its number cannot be given
        // to another process, so the watchdog can never hit a stranger.
        self.watchdog.dismiss();
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.witness());
    }
}

/// A shell that waits for the end of a pipe which only this test process holds,
/// and then kills the child. Processes that are shared by many tests live in
/// statics, which are never dropped, and a test run can be killed at any time:
/// in both cases the kernel closes the pipe.
struct Watchdog {
    shell: Child,
}

impl Watchdog {
    fn of(child: &Child) -> Self {
        let shell = Command::new("/bin/sh")
            .args(["-c", "trap '' INT TERM HUP; read -r _; kill -9 \"$1\" 2>/dev/null", "watchdog"])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a shell");
        Self { shell }
    }

    fn dismiss(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stream {
    Out,
    Err,
}

/// What a process has written so far. Kept as bytes and not as lines, because a
/// test may want to see a line grow.
#[derive(Default)]
struct Output {
    state: Mutex<Written>,
    changed: Condvar,
}

#[derive(Default)]
struct Written {
    out: Vec<u8>,
    err: Vec<u8>,
    closed: usize,
}

impl Output {
    fn collect(self: &Arc<Self>, stream: Stream, mut source: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                output.change(|written| {
                    let bytes = match stream {
                        Stream::Out => &mut written.out,
                        Stream::Err => &mut written.err,
                    };
                    bytes.extend_from_slice(&buffer[..count]);
                });
            }
            output.change(|written| written.closed += 1);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, with: impl FnOnce(&mut Written)) {
        with(&mut self.lock());
        self.changed.notify_all();
    }

    fn text(&self, stream: Stream) -> String {
        let written = self.lock();
        let bytes = match stream {
            Stream::Out => &written.out,
            Stream::Err => &written.err,
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The first complete line of either stream that is wanted.
    fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        [Stream::Err, Stream::Out].into_iter().find_map(|stream| {
            let text = self.text(stream);
            text.split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
                .find(|line| wanted(line))
                .map(str::to_owned)
        })
    }

    fn tail(&self, name: &str) -> String {
        let last = |stream| {
            let text = self.text(stream);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL)..].join("\n")
        };
        let (out, err) = (last(Stream::Out), last(Stream::Err));
        format!("--- stdout of {name} ---\n{out}\n--- stderr of {name} ---\n{err}\n---")
    }

    fn wait_change(&self, at_most: Duration) {
        drop(self.changed.wait_timeout(self.lock(), at_most));
    }

    /// Waits until both streams have ended, so that nothing said last is missed.
    fn wait_closed(&self, deadline: Instant) {
        while self.lock().closed < 2 && Instant::now() < deadline {
            self.wait_change(Duration::from_millis(10));
        }
    }
}
