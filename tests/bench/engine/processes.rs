//! Starts and stops both sides as real processes, and reads what they cost.

use std::collections::BTreeSet;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::drivers::{Client, Request, http, nats};
use crate::harness::{ModelsDir, Nats, PATIENCE, Process, Worker, prerequisites, worker};
use crate::machine;
use crate::sides::{Contender, Setup, Side, WorkerValue, server_arguments, worker_settings};

/// Where both programs are, and what the worker can be told.
pub struct Programs {
    /// llama-server.
    pub server: PathBuf,
    /// The model that both read.
    pub model: PathBuf,
    /// Threads of both.
    pub threads: u32,
    /// Names of the worker's settings.
    pub settings: BTreeSet<String>,
    /// What the worker says of its instruction sets.
    pub worker_info: String,
}

impl Programs {
    /// Finds the programs; `Err` names what is missing and how to get it.
    pub fn find(threads: u32) -> Result<Self, String> {
        let server = env::var_os("LLAMA_SERVER_BIN").map(PathBuf::from).unwrap_or_default();
        if !server.is_file() {
            return Err(format!(
                "{server:?} is no llama-server: run `make bench-engine`, or point \
                 LLAMA_SERVER_BIN at what `scripts/llama-server` prints"
            ));
        }
        let mut command = Command::new(prerequisites::llamero());
        command.args(["settings", "--json"]);
        worker::bare_environment(&mut command, &env::temp_dir());
        let output = command.output().map_err(|error| error.to_string())?;
        let told: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("llamero settings --json: {error}"))?;
        let settings = told["settings"].as_array().into_iter().flatten();
        let settings = settings.filter_map(|setting| setting["name"].as_str());
        Ok(Self {
            server,
            model: prerequisites::model_file(),
            threads,
            settings: settings.map(str::to_owned).collect(),
            worker_info: told["system_info"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// True if the worker has a setting.
    pub fn knows(&self, setting: &str) -> bool {
        self.settings.contains(setting)
    }

    /// Starts a contender and waits until it answers.
    pub async fn start(&self, contender: &Contender, setup: &Setup) -> Result<Running, String> {
        let running = match &contender.side {
            Side::Worker { settings } => self.start_worker(setup, settings),
            Side::Server { arguments, request } => {
                self.start_server(setup, arguments, request.clone()).await?
            }
        };
        // The first request pays for memory that is touched for the first time.
        let warm = running.client("warm").await?.run(&Request::new(" warm up".into(), 8)).await;
        warm.error.map_or(Ok(running), Err)
    }

    /// The command that [`Self::start`] runs, for the report.
    pub fn command(&self, contender: &Contender, setup: &Setup) -> String {
        match &contender.side {
            Side::Worker { settings } => {
                let settings = worker_settings(setup, self.threads, settings, &self.settings);
                let mut words: Vec<String> =
                    settings.iter().map(|(name, value)| format!("llm_{name}={value}")).collect();
                words.push("llamero worker --nats URL --models DIR".to_owned());
                words.join(" ")
            }
            Side::Server { arguments, request } => {
                let model = PathBuf::from(prerequisites::MODEL);
                let arguments = server_arguments(setup, self.threads, &model, arguments);
                let more = match request.is_empty() {
                    true => String::new(),
                    false => format!(" (requests with {})", json!(request)),
                };
                format!("llama-server {}{more}", arguments.join(" "))
            }
        }
    }

    fn start_worker(&self, setup: &Setup, more: &[WorkerValue]) -> Running {
        let nats = Nats::start();
        let models = ModelsDir::real().link("other-1.gguf").link("other-2.gguf");
        let mut builder = Worker::at(&nats.url())
            .flag("--models", models.path())
            .env("llm_model", prerequisites::MODEL);
        for (name, value) in worker_settings(setup, self.threads, more, &self.settings) {
            builder = builder.env(&format!("llm_{name}"), &value);
        }
        Running { programs: Processes::Worker { worker: builder.start(), nats, _models: models } }
    }

    /// Starts llama-server as [`Self::start`] does, without a first request.
    pub async fn start_server(
        &self,
        setup: &Setup,
        arguments: &[String],
        request: Map<String, Value>,
    ) -> Result<Running, String> {
        let mut command = Command::new(&self.server);
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        worker::bare_environment(&mut command, folder.path());
        command
            .args(server_arguments(setup, self.threads, &self.model, arguments))
            .stdin(Stdio::null());
        let mut process = Process::spawn("llama-server", &mut command);
        process.keep(folder);
        let mark = "listening on http://";
        let line = process.wait_line(PATIENCE, |line| line.contains(mark))?;
        let address = line.rsplit_once(mark).map(|(_, address)| address.trim());
        let address: SocketAddr = address
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| format!("llama-server names no address: {line}"))?;
        // It listens before the model is loaded.
        let client = http::Client::new(address, request);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.call("GET", "/health", &Value::Null).await {
            if Instant::now() > deadline || !process.is_running() {
                return Err(format!("llama-server: {error}\n{}", process.tail()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Running { programs: Processes::Server { process, client } })
    }
}

/// A side that runs; dropping it kills its processes.
pub struct Running {
    programs: Processes,
}

enum Processes {
    Worker { worker: Worker, nats: Nats, _models: ModelsDir },
    Server { process: Process, client: http::Client },
}

impl Running {
    /// A new client; the worker sees it under `name`.
    pub async fn client(&self, name: &str) -> Result<Client, String> {
        match &self.programs {
            Processes::Worker { nats, .. } => {
                Ok(Client::Nats(nats::Client::connect(&nats.url(), name).await?))
            }
            Processes::Server { client, .. } => Ok(Client::Http(client.clone())),
        }
    }

    /// llama-server's other endpoints; `None` on the worker's side.
    pub fn http(&self) -> Option<&http::Client> {
        match &self.programs {
            Processes::Worker { .. } => None,
            Processes::Server { client, .. } => Some(client),
        }
    }

    /// CPU seconds of all processes of this side; the nats-server is one of ours.
    pub fn cpu_seconds(&self) -> f64 {
        machine::cpu_seconds(self.id()) + self.broker().map_or(0.0, machine::cpu_seconds)
    }

    /// The process that computes.
    pub fn id(&self) -> u32 {
        match &self.programs {
            Processes::Worker { worker, .. } => worker.id(),
            Processes::Server { process, .. } => process.id(),
        }
    }

    /// The nats-server, which only the worker's side has.
    pub fn broker(&self) -> Option<u32> {
        match &self.programs {
            Processes::Worker { nats, .. } => nats.id(),
            Processes::Server { .. } => None,
        }
    }

    /// Everything that the side has logged to standard error.
    pub fn log(&self) -> String {
        match &self.programs {
            Processes::Worker { worker, .. } => worker.log(),
            Processes::Server { process, .. } => process.stderr() + &process.stdout(),
        }
    }
}
