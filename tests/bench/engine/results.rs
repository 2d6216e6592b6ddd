//! What is kept of a measured case: one JSON file for each, which the report is
//! made of. A case that is measured again replaces its file; the repository's
//! history holds the older ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A case with all its runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The case.
    pub case: String,
    /// When, where and with what it was measured.
    pub conditions: Conditions,
    /// Contenders with the command of each, in the order of the report.
    pub contenders: Vec<(String, String)>,
    /// All runs, in the order in which they were made.
    pub runs: Vec<Run>,
}

/// When, where and with what a case was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Day and time, UTC.
    pub date: String,
    /// The commit of the worker; `+` behind it if files were changed.
    pub commit: String,
    /// CPU model and cores.
    pub machine: String,
    /// Kernel and compilers.
    pub tools: String,
    /// Threads of both sides.
    pub threads: u32,
    /// The worker's instruction sets.
    pub worker_info: String,
    /// llama-server's instruction sets.
    pub server_info: String,
    /// Prompts of the gate, and how many gave the same text on both sides.
    pub gate: (usize, usize),
}

/// One run of one contender.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// The contender's name.
    pub contender: String,
    /// The round, from 0.
    pub round: usize,
    /// Figures by name.
    pub values: BTreeMap<String, f64>,
    /// Tokens generated.
    pub tokens: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Why, each reason once.
    pub errors: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// CPU seconds of all processes of the side.
    pub cpu_seconds: f64,
    /// The most resident memory of the process that computes, in MiB.
    pub peak_rss_mib: f64,
    /// Share of the machine's CPU time that other machines took, 0 to 1.
    pub stolen: f64,
}

impl Outcome {
    /// Writes the file of the case.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        let file = folder.join(format!("{}.json", self.case));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, text + "\n"))
            .map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Reads the file of a case; `None` if it was never measured.
    pub fn read(folder: &Path, case: &str) -> Result<Option<Self>, String> {
        let file = folder.join(format!("{case}.json"));
        let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
        let outcome = serde_json::from_str(&text);
        outcome.map(Some).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Figures of a contender by round.
    pub fn figures(&self, contender: &str, name: &str) -> BTreeMap<usize, f64> {
        let runs = self.runs.iter().filter(|run| run.contender == contender);
        runs.filter_map(|run| Some((run.round, *run.values.get(name)?))).collect()
    }

    /// Figures of a contender, without the rounds.
    pub fn values(&self, contender: &str, name: &str) -> Vec<f64> {
        self.figures(contender, name).into_values().collect()
    }
}
