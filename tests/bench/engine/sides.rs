//! What is compared, and what each side is told: the one place for the settings
//! of the worker and the arguments of llama-server.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

/// What a workload needs of either side: the same for both.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Jobs of the worker at once.
    pub slots: u32,
    /// Context of one job, in tokens.
    pub ctx: u32,
    /// Cells of the KV cache, for all jobs together.
    pub cells: u32,
}

impl Setup {
    /// As many cells as all jobs together may fill.
    pub const fn new(slots: u32, ctx: u32) -> Self {
        Self { slots, ctx, cells: slots * ctx }
    }
}

/// One that is measured.
#[derive(Debug, Clone)]
pub struct Contender {
    /// What it is called in the report.
    pub name: String,
    /// Which of the two programs it is.
    pub side: Side,
}

/// Which program, and what it is told beside the setup.
#[derive(Debug, Clone)]
pub enum Side {
    /// `llamero worker` with a nats-server of its own.
    Worker {
        /// Further settings.
        settings: Vec<WorkerValue>,
    },
    /// llama-server.
    Server {
        /// Further arguments.
        arguments: Vec<String>,
        /// What is added to each request.
        request: Map<String, Value>,
    },
}

impl Contender {
    /// The worker.
    pub fn worker() -> Self {
        Self { name: "Llamero".to_owned(), side: Side::Worker { settings: Vec::new() } }
    }

    /// The worker without a prefix cache. A prompt then begins at the first cell of the
    /// KV cache, as in a llama-server of one slot; in other cells attention adds up in
    /// another order, and the last bits of the logits differ.
    pub fn uncached() -> Self {
        let settings = vec![("prefix_cache", "false".to_owned())];
        Self { name: "Llamero, no prefix cache".to_owned(), side: Side::Worker { settings } }
    }

    /// The worker with drafts of at most so many tokens.
    pub fn drafting(tokens: u32) -> Self {
        let settings = vec![("speculate_tokens", tokens.to_string())];
        Self { name: format!("Llamero, drafts of {tokens}"), side: Side::Worker { settings } }
    }

    /// llama-server with further arguments, separated by spaces.
    pub fn server(arguments: &str) -> Self {
        let name = if arguments.is_empty() { "server" } else { arguments };
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Self { name: name.to_owned(), side: Side::Server { arguments, request: Map::new() } }
    }

    /// llama-server whose requests ask for the cheapest greedy sampling there is:
    /// one candidate instead of the whole chain.
    pub fn server_top_k(arguments: &str) -> Self {
        let mut contender = Self::server(arguments);
        contender.name = format!("{} samplers=top_k", contender.name);
        if let Side::Server { request, .. } = &mut contender.side {
            request.insert("samplers".to_owned(), json!(["top_k"]));
            request.insert("top_k".to_owned(), json!(1));
        }
        contender
    }
}

/// A setting of the worker: its name and its value.
pub type WorkerValue = (&'static str, String);

/// A setting of the worker: its name, and its value for a setup.
type WorkerSetting = (&'static str, fn(&Setup, u32) -> String);

/// What the worker is told, by name of the setting. A setting that the worker at
/// hand does not have is left out, so that an older one can be measured as well.
const WORKER: &[WorkerSetting] = &[
    ("slots", |setup, _| setup.slots.to_string()),
    ("ctx_size", |setup, _| setup.ctx.to_string()),
    ("threads", |_, threads| threads.to_string()),
    // More than any workload has clients: what is compared is the waiting, and
    // llama-server's queue has no end.
    ("queue", |_, _| "64".to_owned()),
    ("max_loaded_models", |_, _| "2".to_owned()),
    ("preload", |_, _| "true".to_owned()),
    ("kv_cells", |setup, _| setup.cells.to_string()),
];

/// The worker's settings for a setup, and `more`, by name, as far as it knows them.
pub fn worker_settings(
    setup: &Setup,
    threads: u32,
    more: &[WorkerValue],
    known: &BTreeSet<String>,
) -> Vec<WorkerValue> {
    let mut setup = *setup;
    if !known.contains("kv_cells") {
        // A worker whose KV cache has room for all jobs at once: fewer jobs.
        setup.slots = setup.slots.min(setup.cells / setup.ctx);
    }
    let usual = WORKER.iter().map(|(name, value)| (*name, value(&setup, threads)));
    usual.chain(more.iter().cloned()).filter(|(name, _)| known.contains(*name)).collect()
}

/// The arguments of llama-server for a setup.
pub fn server_arguments(setup: &Setup, threads: u32, model: &Path, more: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--host", "127.0.0.1", "--port", "0", "-m"].into_iter().map(str::to_owned).collect();
    arguments.push(model.display().to_string());
    for (name, value) in [
        ("-c", setup.cells.to_string()),
        ("-t", threads.to_string()),
        ("-ctk", "f16".to_owned()),
        ("-ctv", "f16".to_owned()),
    ] {
        arguments.extend([name.to_owned(), value]);
    }
    arguments.extend_from_slice(more);
    arguments
}
