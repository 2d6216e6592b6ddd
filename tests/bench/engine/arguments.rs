//! The command line.

use crate::machine;
use crate::workloads::cases::{self, Case};

const USAGE: &str = "usage: make bench-engine ARGS=\"[--workload b1,b2-8,...] [--rounds N] \
                     [--quick] [--threads N] [--json] [--force] [--report]\"";

/// What to run.
#[derive(Debug)]
pub struct Arguments {
    /// Names of workloads or cases; empty for all.
    pub names: Vec<String>,
    /// Runs of each contender.
    pub rounds: usize,
    /// To try the benchmark rather than to measure: one round of the cheap cases,
    /// results beside the build and not in the repository.
    pub is_quick: bool,
    /// Threads of both sides.
    pub threads: u32,
    /// Results as JSON on standard output instead of Markdown.
    pub is_json: bool,
    /// Compare builds for other instruction sets as well.
    pub is_forced: bool,
    /// Measure nothing; write the report from the results there are.
    pub is_report: bool,
}

impl Arguments {
    /// Reads the arguments; `Err` says what is wrong with them.
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut read = Self {
            names: Vec::new(),
            rounds: 0,
            is_quick: false,
            threads: machine::cores(),
            is_json: false,
            is_forced: false,
            is_report: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                "--workload" => read.names = value()?.split(',').map(str::to_owned).collect(),
                "--rounds" => read.rounds = number(&argument, &value()?)?,
                "--threads" => {
                    read.threads = u32::try_from(number(&argument, &value()?)?)
                        .map_err(|error| error.to_string())?;
                }
                "--quick" => read.is_quick = true,
                "--json" => read.is_json = true,
                "--force" => read.is_forced = true,
                "--report" => read.is_report = true,
                // Cargo adds this to every benchmark.
                "--bench" => {}
                _ => return Err(format!("unknown argument {argument:?}\n{USAGE}")),
            }
        }
        if read.rounds == 0 {
            read.rounds = if read.is_quick { 1 } else { 5 };
        }
        Ok(read)
    }

    /// The cases that are meant.
    pub fn cases(&self) -> Result<Vec<Case>, String> {
        let all = cases::all();
        for name in &self.names {
            if !all.iter().any(|case| case.is_named(name)) {
                let known: Vec<&str> = all.iter().map(|case| case.id).collect();
                return Err(format!("no workload {name:?}; there are {}", known.join(", ")));
            }
        }
        let is_meant = |case: &Case| match self.names.as_slice() {
            [] => case.is_quick || !self.is_quick,
            names => names.iter().any(|name| case.is_named(name)),
        };
        Ok(all.into_iter().filter(is_meant).collect())
    }
}

fn number(name: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{name}: {text:?} is no number above 0\n{USAGE}")),
        Ok(number) => Ok(number),
    }
}
