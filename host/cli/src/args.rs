//! The command line: every command, every flag, and the help that teaches them.
//!
//! Flags that are settings are not interpreted here. They are handed on as the
//! top layer over the configuration file and the environment, so that
//! `llamero-worker`'s settings decide about types, ranges and defaults, for the
//! client commands as for the worker.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub mod hook;

use crate::exit::EXIT_CODES_HELP;
use crate::values::{OptionArg, SettingArg, parse_duration, parse_option, parse_setting};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "llamero",
    version,
    about = "Run a large language model as a NATS worker, with sandboxed WebAssembly hooks",
    long_about = "Run a large language model as a NATS worker, with sandboxed WebAssembly hooks.\n\n\
        The worker speaks the protocol of llm-go and serves its clients unchanged. The other \
        commands are a client of any such worker.",
    after_help = EXIT_CODES_HELP,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models of a folder over NATS until SIGTERM or SIGINT.
    #[command(after_help = WORKER_EXAMPLES)]
    Worker(WorkerArgs),
    /// Ask a worker to continue a prompt or answer a chat message.
    #[command(after_help = PREDICT_EXAMPLES)]
    Predict(PredictArgs),
    /// Ask a worker for the vectors (embeddings) of texts.
    #[command(after_help = EMBED_EXAMPLES)]
    Embed(EmbedArgs),
    /// List the models that a worker offers, with their default options.
    #[command(after_help = MODELS_EXAMPLES)]
    Models(ModelsArgs),
    /// Stop a running or waiting job.
    #[command(after_help = INTERRUPT_EXAMPLES)]
    Interrupt(InterruptArgs),
    /// List, reload and check plugins: of running workers, or as files.
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Hook(hook::HookArgs),
    /// Print every setting with its value, default and origin; starts nothing.
    #[command(after_help = SETTINGS_EXAMPLES)]
    Settings(SettingsArgs),
    /// Show the whole system at work on this machine, in under a minute.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

impl LogFormat {
    /// The value of the setting `log_format`.
    pub fn as_setting(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The flags by which every command finds its worker.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectArgs {
    /// Connect to this NATS server; commas separate several.
    ///
    /// May carry `user:password@`, but a password on the command line is visible
    /// to other users of the machine: prefer the configuration file.
    ///
    /// [default: nats://127.0.0.1:4222] [env: llm_nats_url, NATS_URL] [config: nats_url]
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    pub nats: Option<String>,

    /// Use this worker subject.
    ///
    /// [default: llm.worker.default] [env: llm_nats_worker_subject] [config: nats_worker_subject]
    #[arg(long, value_name = "SUBJECT", help_heading = "Connection")]
    pub subject: Option<String>,

    /// Read settings from this TOML file.
    ///
    /// Its values give way to the environment, and the environment to flags.
    ///
    /// [default: llamero.toml in the current folder, if it exists] [env: LLAMERO_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub config: Option<PathBuf>,

    /// Set any setting by name; repeat for several.
    ///
    /// `llamero settings` lists the names. A flag of its own and --set for the
    /// same setting may not be mixed.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting, help_heading = "Connection")]
    pub set: Vec<SettingArg>,

    /// Log what this filter lets through to stderr, in the syntax of RUST_LOG.
    ///
    /// Examples: `debug`, `info,llamero_worker=debug`. Unless it is set, the worker
    /// logs what an operator needs and the other commands log warnings.
    ///
    /// [default: info,async_nats=off,llama.cpp=warn; other commands: warn]
    /// [env: llm_log] [config: log]
    #[arg(long, value_name = "FILTER", help_heading = "Connection")]
    pub log: Option<String>,
}

/// `llamero worker`.
#[derive(Debug, Clone, Default, Args)]
pub struct WorkerArgs {
    /// Where and as whom to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,

    /// Serve the model files (*.gguf, *.bin) of this folder.
    ///
    /// [default: the current folder] [env: llm_dir] [config: dir]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,

    /// Use this model for requests that name none: a file name inside --models.
    ///
    /// [default: the only model, if the folder holds exactly one] [env: llm_model] [config: model]
    #[arg(long, value_name = "FILE")]
    pub model: Option<String>,

    /// Run the request hooks of this folder: its *.wasm files, in name order.
    ///
    /// [default: no hooks] [env: llm_hooks_dir] [config: hooks_dir]
    #[arg(long, value_name = "DIR")]
    pub hooks: Option<PathBuf>,

    /// Serve up to N jobs at once in one batch.
    ///
    /// Each slot needs memory for a context of --ctx-size tokens.
    ///
    /// [default: 4] [env: llm_slots] [config: slots]
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,

    /// Let up to N more jobs wait; beyond that clients are told `worker busy`.
    ///
    /// [default: 4] [env: llm_queue] [config: queue]
    #[arg(long, value_name = "N")]
    pub queue: Option<u32>,

    /// Give each job a context of N tokens, prompt and output together.
    ///
    /// [default: 4096] [env: llm_ctx_size] [config: ctx_size]
    #[arg(long, value_name = "N")]
    pub ctx_size: Option<u32>,

    /// Load the model at start instead of at the first request.
    ///
    /// [default: false] [env: llm_preload] [config: preload]
    #[arg(long)]
    pub preload: bool,

    /// Write log lines in this form.
    ///
    /// [default: text] [env: llm_log_format] [config: log_format]
    #[arg(long, value_name = "FORM", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// `llamero predict`.
#[derive(Debug, Clone, Default, Args)]
pub struct PredictArgs {
    /// Continue this text; several words are joined by spaces.
    ///
    /// Without it, or with `-`, the prompt is read from standard input.
    #[arg(value_name = "PROMPT")]
    pub prompt: Vec<String>,

    /// Send the prompt as a chat message, rendered with the model's own template.
    ///
    /// Right for models tuned to follow instructions; without it the model
    /// continues the plain text.
    #[arg(long)]
    pub chat: bool,

    /// Put this text in front of the prompt.
    ///
    /// With --chat it is a system message, else plain text that is kept whole when
    /// the prompt has to be cut to fit the context.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Use this model; `llamero models` lists them.
    ///
    /// [default: the worker's choice]
    #[arg(short, long, value_name = "NAME")]
    pub model: Option<String>,

    /// Set an option of the request; repeat for several.
    ///
    /// VALUE is read as JSON, or else as plain text. Common ones: max_tokens,
    /// temperature, seed, stop. `llamero models --options` lists all.
    #[arg(short, long = "option", value_name = "NAME=VALUE", value_parser = parse_option)]
    pub options: Vec<OptionArg>,

    /// Print the worker's final message as one JSON object instead of text.
    ///
    /// It holds output, finish_reason, usage and timings, or the error.
    #[arg(long)]
    pub json: bool,

    /// Ask for the whole output in one message instead of a stream.
    #[arg(long)]
    pub no_stream: bool,

    /// Give up after this time and interrupt the job.
    ///
    /// A number with ms, s, m or h; a bare number counts seconds; 0 waits without end.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub timeout: Duration,

    /// Name the job, for `llamero interrupt`.
    ///
    /// [default: a new random name]
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,

    /// Tell the job's name, token counts and timings on stderr.
    #[arg(short, long)]
    pub verbose: bool,

    /// Where and as whom to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `llamero embed`.
#[derive(Debug, Clone, Default, Args)]
pub struct EmbedArgs {
    /// Embed these texts, one for each argument.
    ///
    /// Without any, the lines of standard input are the texts; empty ones are left
    /// out.
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,

    /// Use this model; `llamero models` lists them.
    ///
    /// [default: the worker's choice]
    #[arg(short, long, value_name = "NAME")]
    pub model: Option<String>,

    /// Print the worker's answer as one JSON object, with all numbers.
    #[arg(long)]
    pub json: bool,

    /// Give up after this time and interrupt the job: a number with ms, s, m or h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub timeout: Duration,

    /// Name the job, for `llamero interrupt`.
    ///
    /// [default: a new random name]
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,

    /// Where and as whom to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `llamero models`.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelsArgs {
    /// Print the worker's answer as one JSON object.
    #[arg(long, conflicts_with = "options")]
    pub json: bool,

    /// Explain every option of a request with its default.
    #[arg(long)]
    pub options: bool,

    /// Give up after this time: a number with ms, s, m or h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    pub timeout: Duration,

    /// Where and as whom to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `llamero interrupt`.
#[derive(Debug, Clone, Default, Args)]
pub struct InterruptArgs {
    /// Stop all jobs of this name; `llamero predict --verbose` tells it.
    #[arg(value_name = "JOB")]
    pub job: String,

    /// Give up after this time: a number with ms, s, m or h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    pub timeout: Duration,

    /// Where and as whom to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `llamero settings`.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,

    /// The flags of `llamero worker`, to see their effect.
    #[command(flatten)]
    pub worker: WorkerArgs,
}

/// `llamero demo`.
#[derive(Debug, Clone, Default, Args)]
pub struct DemoArgs {
    /// Use the model files of this folder.
    #[arg(long, value_name = "DIR")]
    pub models: PathBuf,

    /// Use this model of the folder.
    ///
    /// [default: its only model]
    #[arg(long, value_name = "FILE")]
    pub model: Option<String>,

    /// Take the example plugins from this folder.
    #[arg(long, value_name = "DIR")]
    pub hooks: PathBuf,

    /// Take the plugin that crashes (trap.wasm) from this folder.
    ///
    /// [default: none; that part of the demo is left out]
    #[arg(long, value_name = "DIR")]
    pub sick_hooks: Option<PathBuf>,

    /// Start this NATS server.
    ///
    /// [default: nats-server from the search path or /usr/sbin] [env: NATS_SERVER_BIN]
    #[arg(long, value_name = "FILE")]
    pub nats_server: Option<PathBuf>,
}

const WORKER_EXAMPLES: &str = "\
Examples:
  llamero worker --models ~/models
  llamero worker --models ~/models --model small.gguf --preload --slots 8
  llamero worker --nats nats://10.0.0.5:4222 --hooks ./hooks --config llamero.toml
  llamero worker --models ~/models --set max_tokens=512 --log-format json

The first SIGTERM or SIGINT stops taking jobs and lets running ones finish for
up to shutdown_grace; the second ends the worker at once. SIGHUP looks at the
hooks folder again, as `llamero hook reload` does.

Exit codes: 0 drained within the grace, 1 the grace ran out or the worker failed,
64 configuration, hooks or model to preload invalid, 69 NATS credentials unusable,
130 ended by a second signal.";

const PREDICT_EXAMPLES: &str = "\
Examples:
  llamero predict The capital of France is
  llamero predict --chat --system 'Answer in one sentence.' 'Why is the sky blue?'
  llamero predict --chat -o max_tokens=200 -o temperature=0 < question.txt
  llamero predict --json -o 'stop=[\"\\n\"]' 'First line:' | jq .predict.usage

Text goes to standard output as it is generated, byte for byte when that is not
a terminal. Ctrl-C interrupts the job on the worker as well.";

const EMBED_EXAMPLES: &str = "\
Examples:
  llamero embed 'Llamas are kept for their wool.' 'The sea is deep.'
  llamero embed --json < titles.txt | jq -c '.embed.embeddings[]'

Each vector has the length 1, so that the cosine of two is the sum of their
products. Vectors of different models cannot be compared.";

const MODELS_EXAMPLES: &str = "\
Examples:
  llamero models
  llamero models --options
  llamero models --json | jq -r '.list.models[].model'";

const INTERRUPT_EXAMPLES: &str = "\
Examples:
  llamero predict --job night-run 'Once upon a time' &
  llamero interrupt night-run

Exit code 1 with code 4 (ErrJobNotFound) means that no worker knows the job.";

const SETTINGS_EXAMPLES: &str = "\
Examples:
  llamero settings
  llamero settings --config llamero.toml --slots 8
  llm_slots=8 llamero settings --json

Secrets are printed as [redacted]. An invalid configuration prints all its
problems to stderr and exits with 64.";

const DEMO_EXAMPLES: &str = "\
Examples:
  make demo
  llamero demo --models ~/.cache/llamero/models --hooks plugins/dist --sick-hooks plugins/dist/test

Starts its own NATS server on a free port and its own worker, and ends both.";
