//! Everything that can go wrong: at start, at load, and in a call.
//!
//! [`Failure`] is what a client may learn (plugin, phase, kind); its detail and
//! everything in [`LoadError`] are for the operator only. The texts and codes on
//! the wire belong to the protocol crate.

use std::fmt;
use std::path::PathBuf;

/// Where in a job a plugin is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// The request, before the chat template and the tokenizer.
    Request,
    /// The rendered prompt.
    Prompt,
    /// Each token, before it is chosen; experimental.
    Token,
    /// The generated text, as it is generated.
    Stream,
    /// The whole generated text.
    Response,
    /// After the answer.
    Observer,
}

impl Phase {
    /// All phases, in the order in which a job passes them.
    pub const ALL: [Self; 6] =
        [Self::Request, Self::Prompt, Self::Token, Self::Stream, Self::Response, Self::Observer];

    /// Its name on the wire and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Prompt => "prompt",
            Self::Token => "token",
            Self::Stream => "stream",
            Self::Response => "response",
            Self::Observer => "observer",
        }
    }

    /// The phase of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The plugin trapped.
    Trap,
    /// It used more CPU time than it may.
    Cpu,
    /// It took more wall time than it may.
    Wall,
    /// It asked for more memory than it may have, and then trapped.
    Memory,
    /// It ran out of stack.
    Stack,
    /// It handed too much to the host, or held too many handles.
    Quota,
    /// It held back more text than it may, or for longer than it may.
    Hold,
    /// No instance of it could be made ready.
    Instantiate,
    /// No instance or call slot came free in time.
    Busy,
    /// It has failed so often that it is not called for a while.
    Quarantined,
    /// It returned an error.
    Guest,
    /// What it returned cannot be used.
    InvalidOutput,
    /// The job was cancelled.
    Cancelled,
    /// The host failed, not the plugin.
    Host,
}

impl FailureKind {
    /// Its name on the wire and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Quota => "quota",
            Self::Hold => "hold",
            Self::Instantiate => "instantiate",
            Self::Busy => "busy",
            Self::Quarantined => "quarantined",
            Self::Guest => "guest",
            Self::InvalidOutput => "invalid-output",
            Self::Cancelled => "cancelled",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call that failed. This crate has already logged it, detail included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin `{plugin}`, phase {phase}: {kind}")]
pub struct Failure {
    /// The plugin's id.
    pub plugin: String,
    /// The phase in which it was called.
    pub phase: Phase,
    /// Why it failed.
    pub kind: FailureKind,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// What happened, with backtrace and the end of the plugin's stderr. For the
    /// operator only: it may hold text of the client.
    pub detail: String,
}

/// The host could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A value of the configuration cannot work.
    #[error("plugin host: {0}")]
    Config(String),
    /// The directory for compiled code cannot be trusted or used.
    #[error("cache directory {path}: {reason}")]
    CacheDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("WebAssembly engine: {0}")]
    Engine(String),
    /// A thread or the runtime could not be started.
    #[error("plugin host threads: {0}")]
    Threads(#[source] std::io::Error),
}

/// A plugin that was not loaded: which one, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}{cause}", of_plugin(plugin))]
pub struct LoadError {
    /// The plugin's id; empty when the cause concerns the folder as a whole.
    pub plugin: String,
    /// What is wrong with it.
    pub cause: LoadCause,
}

fn of_plugin(id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("plugin {id}: ") }
}

/// Why a plugin was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadCause {
    /// The folder of the plugins cannot be read.
    #[error("the hooks folder {path} cannot be read: {source}; create it, or name the right one")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why it was not.
        source: std::io::Error,
    },
    /// The operator wants the plugin without fail, and there is no file of it.
    #[error("its policy says `required`, and there is no file {path}")]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// The file is still being written.
    #[error("its file is still changing; it is looked at again when it is at rest")]
    Changing,
    /// This version was refused, or taken out of service, and the file is still
    /// the same.
    #[error("version {digest} stays out until its file changes: {reason}")]
    AlreadyBad {
        /// The first digits of its SHA-256.
        digest: String,
        /// Why it was refused.
        reason: String,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// Why it was not.
        source: std::io::Error,
    },
    /// The file's stem cannot be a plugin id.
    #[error(
        "`{0}` cannot be a plugin id: use 1 to 64 letters, digits, `-`, `_` and `.`, \
         beginning with a letter or digit"
    )]
    BadName(String),
    /// The file is larger than the operator allows.
    #[error("{bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Size of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// More plugins than the operator allows.
    #[error("{found} plugins in the folder; the limit is {limit}")]
    TooMany {
        /// Plugins found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes are no WebAssembly at all.
    #[error("not a WebAssembly file: {0}")]
    NotWasm(String),
    /// Compiled code, which is never accepted: it would run unchecked.
    #[error(
        "precompiled code (a .cwasm file) is never accepted, because it would run unchecked; \
         give the component that it was made from"
    )]
    Precompiled,
    /// The bytes begin as WebAssembly and then break the rules.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// A core module that is not meant to be a component.
    #[error(
        "a core WebAssembly module without a component-type section; build it with \
         wit-bindgen, or turn it into a component"
    )]
    NoComponentType,
    /// A core module that could not be turned into a component.
    #[error("the core module cannot be turned into a component: {0}")]
    Encode(String),
    /// Built for the asynchronous component ABI.
    #[error(
        "uses the asynchronous component ABI (WASI 0.3), which this version does not run: {0}; \
         build it for WASI 0.2, with synchronous functions"
    )]
    AsyncAbi(String),
    /// Built for another line of the WIT package.
    #[error("`{name}` is not of the line llamero:hooks@0.1, the only one this version serves")]
    UnsupportedVersion {
        /// The import or export.
        name: String,
    },
    /// Asks for something that is not offered.
    #[error("import `{import}` is not offered by this version: {reason}")]
    UnknownImport {
        /// The import.
        import: String,
        /// What is offered instead.
        reason: String,
    },
    /// Imports or exports something that must be granted by name, and is not.
    #[error(
        "wants `{interface}`, which it is not granted; if it may have that, add `{grant_line}` \
         to its settings"
    )]
    NotGranted {
        /// The interface.
        interface: String,
        /// The line that would grant it, beside what is granted already.
        grant_line: String,
    },
    /// The file is not the one whose sum the operator gave.
    #[error(
        "its SHA-256 is {found}, and its settings ask for {wanted}; put the new sum into \
         `sha256` if this file is meant"
    )]
    DigestMismatch {
        /// What the settings say.
        wanted: String,
        /// What the file has.
        found: String,
    },
    /// Imports a known function with another type than the WIT package has.
    #[error("its imports do not have the types that are offered: {0}")]
    BrokenImport(String),
    /// Exports no phase.
    #[error(
        "exports no phase of llamero:hooks@0.1; a plugin exports `request-hook`, `prompt-hook` \
         or both"
    )]
    NoPhases,
    /// Exports a phase that would never be called.
    #[error(
        "exports `{export}`, a phase that this version does not call; loading it would leave \
         its work undone without anybody noticing"
    )]
    UnservedPhase {
        /// The export.
        export: String,
    },
    /// Exports a known interface with other types than the WIT package has.
    #[error("export `{export}` does not have the types of llamero:hooks@0.1: {reason}")]
    BrokenExport {
        /// The export.
        export: String,
        /// The difference.
        reason: String,
    },
    /// Compiling it failed.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// It needs more than an instance can have.
    #[error("needs {needed} {what}, and an instance can have at most {limit}")]
    PoolLimit {
        /// The resource.
        what: &'static str,
        /// What it needs.
        needed: u64,
        /// What there is.
        limit: u64,
    },
    /// The operator's settings of this plugin are unusable.
    #[error("settings: {0}")]
    Settings(String),
    /// The configuration does not match the schema that the plugin gives for it.
    #[error("the configuration does not match the plugin's schema: {}", .0.join("; "))]
    Schema(
        /// At most five problems, each with the JSON pointer of its place.
        Vec<String>,
    ),
    /// The plugin refused its configuration.
    #[error("refuses its configuration: {0}")]
    Config(String),
    /// A step of the trial failed.
    #[error("trial, {step}: {kind}: {detail}")]
    Trial {
        /// `instantiate`, `describe`, `configure` or `self-test`.
        step: &'static str,
        /// Why.
        kind: FailureKind,
        /// The operator's detail.
        detail: String,
    },
    /// The plugin's own test found a defect.
    #[error("self-test failed: {0}")]
    SelfTest(String),
    /// The plugin decides a case of the operator's otherwise than it should.
    #[error("golden case `{case}`: it decides {got}, and should decide {want}")]
    Golden {
        /// The case's name.
        case: String,
        /// What the operator wants, as JSON.
        want: String,
        /// What the plugin decided, as JSON; long ones are cut.
        got: String,
    },
}
