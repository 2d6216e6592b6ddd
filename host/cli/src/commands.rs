//! The commands, one module each, and what they share: settings and connection.

use llamero_worker::connection::{self, ConnectError, Role};
use llamero_worker::settings::{Flags, MapSource, ProcessSource, Settings};

use crate::args::{Command, ConnectArgs, WorkerArgs};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::{flags, logging};

pub mod demo;
pub mod embed;
pub mod hook;
pub mod interrupt;
pub mod models;
pub mod predict;
pub mod settings;
pub mod worker;

/// The log filter of the client commands: their errors are printed anyway.
const CLIENT_LOG: &str = "warn";

/// Runs a command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Worker(args) => worker::run(args).await,
        Command::Predict(args) => predict::run(args).await,
        Command::Embed(args) => embed::run(args).await,
        Command::Models(args) => models::run(args).await,
        Command::Interrupt(args) => interrupt::run(args).await,
        Command::Hook(args) => hook::run(args).await,
        Command::Settings(args) => settings::run(&args),
        Command::Demo(args) => demo::run(args).await,
    }
}

/// The settings that a client command would connect with.
///
/// # Errors
/// Every problem of the configuration, with exit code 64.
pub fn load_client(args: &ConnectArgs) -> Result<Settings, Failure> {
    load(&flags::of_client(args)?)
}

/// The settings of `llamero worker`.
///
/// # Errors
/// Every problem of the configuration, with exit code 64.
pub fn load_worker(args: &WorkerArgs) -> Result<Settings, Failure> {
    load(&flags::of_worker(args)?)
}

fn load(flags: &Flags) -> Result<Settings, Failure> {
    Settings::load(&ProcessSource, flags).map_err(|problems| {
        let count = problems.0.len();
        let things = if count == 1 { "problem" } else { "problems" };
        let mut message = format!("the configuration has {count} {things}:");
        for problem in &problems.0 {
            message.push_str(&format!("\n  {problem}"));
        }
        Failure::new(Exit::Config, message).with_hint(
            "`llamero settings` without the wrong values lists all settings and their use",
        )
    })
}

/// Connects a client command.
///
/// # Errors
/// The configuration is invalid, or NATS cannot be reached.
pub async fn connect(args: &ConnectArgs) -> Result<Client, Failure> {
    let settings = load_client(args)?;
    init_log(&settings)?;
    connect_with(&settings).await
}

/// Logs what a client command logs unless it is told otherwise.
fn init_log(settings: &Settings) -> Result<(), Failure> {
    let is_set = settings
        .effective()
        .iter()
        .any(|setting| setting.name == "log" && setting.origin != "default");
    let filter = if is_set { settings.log.filter.as_str() } else { CLIENT_LOG };
    logging::init(settings.log.format, filter)
}

/// Connects to the default subject of this server, whatever the user's own
/// configuration says.
///
/// # Errors
/// NATS cannot be reached.
pub async fn connect_to(url: &str) -> Result<Client, Failure> {
    let mut flags = Flags::default();
    flags.set("nats_url", url, "--nats");
    let settings = Settings::load(&MapSource::default(), &flags).map_err(anyhow::Error::from)?;
    connect_with(&settings).await
}

async fn connect_with(settings: &Settings) -> Result<Client, Failure> {
    let nats = &settings.nats;
    let servers = nats.servers.iter().map(|server| {
        // Without credentials: the settings have taken them out of the URLs.
        format!("{}://{}:{}", server.scheme(), server.host(), server.port())
    });
    let servers = servers.collect::<Vec<_>>().join(", ");
    let connection = connection::connect(nats, Role::Client).await.map_err(|error| {
        let failure = Failure::new(Exit::Unavailable, format!("{error} ({servers})"));
        match &error {
            ConnectError::Credentials(_) => failure,
            ConnectError::Nats(_) => failure.with_hint(
                "start a server with `nats-server`, or name yours with --nats or NATS_URL",
            ),
        }
    })?;
    Ok(Client::new(connection.client, nats.subject.clone(), servers))
}
