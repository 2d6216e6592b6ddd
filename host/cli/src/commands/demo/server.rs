//! A NATS server of the demo's own: found, started on a free port, ended.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};

/// Where distributions put daemons; often not in a user's search path.
const SYSTEM_PLACES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"];

/// How long the server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running NATS server. Dropping it ends the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, such as `nats://127.0.0.1:41234`.
    pub url: String,
}

impl Server {
    /// Starts the server in `folder`, where it puts its log and its port.
    ///
    /// # Errors
    /// The executable is missing, or the server does not come up.
    pub async fn start(executable: &Path, folder: &Path) -> Result<Self, Failure> {
        let log = folder.join("nats-server.log");
        // Port -1 lets the server choose a free one and write it into a file,
        // so that nobody can take the port between choosing and binding.
        let mut child = Command::new(executable)
            .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
            .arg(folder)
            .arg("-l")
            .arg(&log)
            // Ctrl-C on the terminal must reach the demo alone, which then ends
            // its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::new(
                    Exit::Failure,
                    format!("{} cannot be started: {error}", executable.display()),
                )
            })?;
        let ports = child.id().map(|pid| ports_file(executable, folder, pid)).unwrap_or_default();
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(url) = read_ports(&ports) {
                return Ok(Self { child, url });
            }
            let ended = child.try_wait().map_err(anyhow::Error::from)?;
            if ended.is_some() || Instant::now() > deadline {
                let last = std::fs::read_to_string(&log).unwrap_or_default();
                let last = last.lines().next_back().unwrap_or("it wrote no log");
                return Err(Failure::new(
                    Exit::Failure,
                    format!("{} does not listen: {last}", executable.display()),
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the server and waits until it is gone.
    pub async fn stop(mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill().await;
    }
}

/// The file that the server writes its ports to: `<executable>_<pid>.ports`.
fn ports_file(executable: &Path, folder: &Path, pid: u32) -> PathBuf {
    let mut name =
        executable.file_name().map_or_else(|| OsString::from("nats-server"), OsString::from);
    name.push(format!("_{pid}.ports"));
    folder.join(name)
}

/// The first client address in the file, once it is written completely.
fn read_ports(file: &Path) -> Option<String> {
    let text = std::fs::read(file).ok()?;
    let ports: Value = serde_json::from_slice(&text).ok()?;
    ports.get("nats")?.get(0)?.as_str().map(str::to_owned)
}

/// The server's executable: the flag, `NATS_SERVER_BIN`, the search path, or
/// one of the places where distributions put it.
///
/// # Errors
/// There is none; the text says how to get one.
pub fn find(flag: Option<&Path>) -> Result<PathBuf, Failure> {
    let named = flag.map(Path::to_owned).or_else(|| variable("NATS_SERVER_BIN").map(PathBuf::from));
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path);
        }
        return Err(Failure::new(
            Exit::Usage,
            format!("there is no NATS server at {}", path.display()),
        )
        .with_hint("correct --nats-server or NATS_SERVER_BIN, or leave both out"));
    }
    let search = variable("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .chain(SYSTEM_PLACES.iter().map(PathBuf::from))
        .map(|folder| folder.join("nats-server"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::new(Exit::Usage, "no nats-server was found").with_hint(
                "install it (Debian, Ubuntu: apt-get install nats-server) or name it with \
                 --nats-server",
            )
        })
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
