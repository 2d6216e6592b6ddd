//! `llamero hook …`: the arguments of everything that is about plugins.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::ConnectArgs;
use crate::values::parse_duration;

/// `llamero hook`.
#[derive(Debug, Clone, Args)]
pub struct HookArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: HookCommand,
}

/// The commands about plugins.
#[derive(Debug, Clone, Subcommand)]
pub enum HookCommand {
    /// List the plugins of running workers: version, state, calls, failures, latency.
    #[command(after_help = LIST_EXAMPLES)]
    List(HookListArgs),
    /// Let running workers look at their hooks folders now.
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload(HookReloadArgs),
    /// Put the previous version of a plugin back into service.
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback(HookNamedArgs),
    /// Take a plugin out of the chain; it stays loaded.
    #[command(after_help = DISABLE_EXAMPLES)]
    Disable(HookNamedArgs),
    /// Put a disabled plugin back into the chain.
    #[command(after_help = DISABLE_EXAMPLES)]
    Enable(HookNamedArgs),
    /// Show what a plugin file is made of: phases, imports, exports, digest, sizes.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(HookInspectArgs),
    /// Try a plugin file as a worker would, without a worker.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(HookCheckArgs),
}

/// Which workers are meant, and how their answers are printed.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetArgs {
    /// Ask only the worker of this id; `llamero hook list` tells the ids.
    ///
    /// [default: every worker on the subject]
    #[arg(long, value_name = "ID")]
    pub worker: Option<String>,

    /// Print the answers of the workers as one JSON object.
    #[arg(long)]
    pub json: bool,

    /// Where and as whom to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `llamero hook list`.
#[derive(Debug, Clone, Default, Args)]
pub struct HookListArgs {
    /// Collect answers for this time: a number with ms, s, m or h.
    ///
    /// Nobody knows how many workers there are, so all of it is waited for, unless
    /// --worker names one.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2s")]
    pub timeout: Duration,

    /// Whom to ask.
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// `llamero hook reload`.
#[derive(Debug, Clone, Default, Args)]
pub struct HookReloadArgs {
    /// Try this plugin's file again even if it was taken out of service before.
    ///
    /// All other files are looked at as well.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// Wait this long for each worker to be done: a number with ms, s, m or h.
    ///
    /// Compiling a plugin of some megabytes takes seconds, beside running jobs even
    /// longer.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub timeout: Duration,

    /// Whom to ask.
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// `llamero hook rollback`, `disable` and `enable`.
#[derive(Debug, Clone, Default, Args)]
pub struct HookNamedArgs {
    /// Name the plugin by its id: its file's name without .wasm.
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Wait this long for each worker to be done: a number with ms, s, m or h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2s")]
    pub timeout: Duration,

    /// Whom to ask.
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// `llamero hook inspect`.
#[derive(Debug, Clone, Default, Args)]
pub struct HookInspectArgs {
    /// Look into this file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `llamero hook check`.
#[derive(Debug, Clone, Default, Args)]
pub struct HookCheckArgs {
    /// Try this file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Use the settings of the plugin of this id.
    ///
    /// [default: the file's name without .wasm]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,

    /// Where the settings come from; no connection is made.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

const LIST_EXAMPLES: &str = "\
Examples:
  llamero hook list
  llamero hook list --worker 5DHZ… --json | jq '.workers[].hook.plugins[].state'

States: serving; probation (new, and replaced by the version before if it fails
more often); quarantined (failed too often, tried again soon); disabled (by
`llamero hook disable`); off (by its mode); refused (no version can be loaded).
P50 and P99 are wall times of calls, those of the slowest phase.

Exit codes: 0 answers came, 69 no worker listens, 124 none answered in time.";

const RELOAD_EXAMPLES: &str = "\
Examples:
  llamero hook reload
  llamero hook reload redact --worker 5DHZ…

Workers watch their folders anyway (hook_reload); this also tries files again
that could not be loaded before. Workers have two seconds to make themselves
known, then each of them has --timeout.

Exit codes: 0 every worker serves what its folder holds, 1 a worker failed or
kept an old version, 69 no worker listens, 124 a worker did not answer in time.";

const ROLLBACK_EXAMPLES: &str = "\
Examples:
  llamero hook rollback redact

The version that is taken out stays out, also over a restart, until its file
changes or `llamero hook reload NAME` asks for it.

Exit codes: 0 done everywhere, 1 a worker refused, 69 no worker listens, 124 a
worker did not answer in time.";

const DISABLE_EXAMPLES: &str = "\
Examples:
  llamero hook disable topic-guard
  llamero hook enable topic-guard

Running jobs keep the plugins that they began with. A restart of the worker
enables everything. Plugins that are `required` cannot be disabled.

Exit codes: 0 done everywhere, 1 a worker refused, 69 no worker listens, 124 a
worker did not answer in time.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  llamero hook inspect plugins/dist/redact.wasm
  llamero hook inspect redact.wasm --json | jq -r .digest

The file is neither compiled nor run; `llamero hook check` does that.

Exit codes: 0 it can be read, 1 it is no component or no plugin.";

const CHECK_EXAMPLES: &str = "\
Examples:
  llamero hook check plugins/dist/redact.wasm
  llamero hook check new/redact.wasm --config llamero.toml

Does what a worker does before it serves a plugin: compiles it, starts it under
its limits, gives it its configuration ([plugins.NAME]) and runs its own test.

Exit codes: 0 a worker would take it, 1 a worker would refuse it, 64 the
configuration is invalid.";
