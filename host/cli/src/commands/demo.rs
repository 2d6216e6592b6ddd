//! `llamero demo`: the whole system on one machine, narrated.
//!
//! Starts a NATS server ([`server`]) and a worker ([`child`]) with the example
//! plugins ([`stage`]), lets a client do what clients do ([`story`]), tells what
//! the hooks made of it ([`changes`]), and ends everything it started, also when
//! it fails or is interrupted. It uses the same client as the other commands and
//! knows nothing that a user could not know.

mod changes;
mod child;
pub mod server;
mod stage;
mod story;

use std::time::Instant;

use llamero_worker::settings::LogFormat;

use crate::args::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::output::{self, Written};
use crate::signals::Signals;
use child::Worker;
use server::Server;
use stage::Stage;

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(mut args: DemoArgs) -> Result<Exit, Failure> {
    logging::init(LogFormat::Text, super::CLIENT_LOG)?;
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    // The worker runs in another folder.
    args.models = std::path::absolute(&args.models).map_err(anyhow::Error::from)?;
    let stage = Stage::set(&args)?;
    let mut children = Children::default();
    let result = tokio::select! {
        result = act(&args, &stage, &mut children) => result.map(|()| Exit::Ok),
        // Who ends it need not be told so.
        _ = signals.recv() => Ok(Exit::Interrupted),
    };
    // Dropping would end them as well, but by force and without waiting.
    let told = matches!(result, Ok(Exit::Ok));
    children.stop(told).await;
    result
}

/// What was started and has to be ended.
#[derive(Debug, Default)]
struct Children {
    server: Option<Server>,
    worker: Option<Worker>,
}

impl Children {
    async fn stop(&mut self, told: bool) {
        if let Some(worker) = self.worker.take() {
            let ending = worker.stop().await;
            if told {
                // Nobody reads on when this fails; the children end anyway.
                let _ = say(&format!("\nThe worker was sent SIGTERM and ended with {ending}."));
            }
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }
}

async fn act(args: &DemoArgs, stage: &Stage, children: &mut Children) -> Result<(), Failure> {
    let mut tell = Narrator::default();
    let executable = server::find(args.nats_server.as_deref())?;
    say("Llamero: an LLM worker for NATS, with sandboxed WebAssembly hooks")?;
    tell.scene("A NATS server and a worker")?;
    let server = Server::start(&executable, stage.folder()).await?;
    say(&format!("  {} listens at {}", executable.display(), server.url))?;
    let config = stage.configure(args, &server.url)?;
    let url = server.url.clone();
    children.server = Some(server);
    say("  loading the model and compiling the hooks (the first time takes some seconds) ...")?;
    let started = Instant::now();
    let worker = children.worker.insert(Worker::start(&config, stage.folder()).await?);
    say(&format!(
        "  the worker is ready after {:.1} s; hooks: {}",
        started.elapsed().as_secs_f64(),
        stage.plugins.join(", ")
    ))?;
    let client = super::connect_to(&url).await?;
    story::play(&mut tell, &client, worker, stage).await
}

/// Writes a line of the narration.
fn say(line: &str) -> Result<(), Failure> {
    match output::line(line) {
        Ok(Written::Yes) => Ok(()),
        Ok(Written::BrokenPipe) => Err(Failure::new(Exit::Failure, "standard output was closed")),
        Err(error) => {
            Err(Failure::new(Exit::Failure, format!("standard output cannot be written: {error}")))
        }
    }
}

/// Counts the scenes; some are left out when their plugin is not there.
#[derive(Debug, Default)]
struct Narrator {
    scenes: usize,
}

impl Narrator {
    /// Begins the next scene.
    fn scene(&mut self, title: &str) -> Result<(), Failure> {
        self.scenes += 1;
        say(&format!("\n{}. {title}", self.scenes))
    }
}
