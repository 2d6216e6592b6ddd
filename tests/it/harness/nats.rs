//! A real nats-server as a child, with a configuration file of its own and a
//! port that survives a restart.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::prerequisites;
use super::process::{PATIENCE, Process, Signal};

/// A running nats-server. Dropping it kills the server and removes its folder.
pub struct Nats {
    process: Option<Process>,
    folder: TempDir,
    settings: String,
    port: u16,
}

impl Nats {
    /// A server with default limits on a free port of the loopback interface.
    pub fn start() -> Self {
        Self::with("")
    }

    /// A server with further lines in its configuration file.
    pub fn with(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("llamero-nats-").tempdir().expect("folder");
        let mut nats = Self { process: None, folder, settings: settings.to_owned(), port: 0 };
        // Port -1 lets the server itself choose: no other process can take the
        // port between a look for a free one and its use.
        let process = nats.launch(-1).expect("start nats-server");
        nats.port = process
            .stderr()
            .lines()
            .find_map(|line| line.split_once("for client connections on ")?.1.rsplit_once(':'))
            .and_then(|(_, port)| port.trim().parse().ok())
            .unwrap_or_else(|| panic!("nats-server names no port\n{}", process.tail()));
        nats.process = Some(process);
        nats
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The process id; `None` while the server is stopped.
    #[allow(dead_code, reason = "the load generator adds the server's CPU time to the worker's")]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Kills the server without a farewell to its clients.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait_exit();
        }
    }

    /// Starts a stopped server on the port it had.
    pub fn resume(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        let deadline = Instant::now() + PATIENCE;
        // The port is ephemeral: an outgoing connection may hold it for a moment.
        loop {
            match self.launch(i32::from(self.port)) {
                Ok(process) => return self.process = Some(process),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Stops the server and starts it again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        self.resume();
    }

    fn launch(&self, port: i32) -> Result<Process, String> {
        let file = self.folder.path().join("nats.conf");
        let settings = format!("listen: \"127.0.0.1:{port}\"\n{}\n", self.settings);
        fs::write(&file, settings).expect("write nats.conf");
        let mut command = Command::new(prerequisites::nats_server());
        command.arg("--config").arg(&file).current_dir(self.folder.path());
        let mut process = Process::spawn("nats-server", &mut command);
        process.wait_line(PATIENCE, |line| line.contains("Server is ready"))?;
        Ok(process)
    }
}
