//! What is run, and how much of it.

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Requests across reloads.
    Soak,
    /// Calls while other processes take every core.
    Saturated,
    /// Memory over many reloads.
    ReloadMemory,
    /// Time of one reload.
    ReloadLatency,
    /// Tokens lost while a large plugin is compiled.
    JsCompile,
    /// Tokens lost to a filter that does nothing.
    StreamFilter,
    /// Plugins that mean harm.
    Hostile,
}

impl Scenario {
    /// In the order in which they are run.
    pub const ALL: [Self; 7] = [
        Self::Soak,
        Self::Saturated,
        Self::ReloadMemory,
        Self::ReloadLatency,
        Self::JsCompile,
        Self::StreamFilter,
        Self::Hostile,
    ];

    /// Its name for `--only`, and in the page of results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Soak => "soak",
            Self::Saturated => "saturated",
            Self::ReloadMemory => "reload-memory",
            Self::ReloadLatency => "reload-latency",
            Self::JsCompile => "js-compile",
            Self::StreamFilter => "stream-filter",
            Self::Hostile => "hostile",
        }
    }

    /// What happens, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Soak => "requests and streams across reloads of three plugins",
            Self::Saturated => "calls of a hook that computes for 1 ms, every core taken",
            Self::ReloadMemory => "resident memory over reloads of ever new versions",
            Self::ReloadLatency => "from the rename of a file to the first answer of its version",
            Self::JsCompile => "four streams while a JavaScript plugin of 12 MB is compiled",
            Self::StreamFilter => "four streams with a filter that lets everything pass",
            Self::Hostile => "plugins that mean harm, when they are loaded and when they run",
        }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Plan {
    only: Vec<Scenario>,
    /// `soak`: requests in all.
    pub requests: usize,
    /// `soak`: reloads, spread evenly over the requests.
    pub reloads: usize,
    /// `saturated`: calls in all.
    pub calls: usize,
    /// `reload-memory`: reloads.
    pub memory_reloads: usize,
    /// `reload-latency`: reloads, new versions and known ones each.
    pub latency_rounds: usize,
    /// `js-compile`: compilations.
    pub compile_rounds: usize,
    /// `stream-filter`: rounds of without, with, with, without.
    pub filter_rounds: usize,
    /// `js-compile` and `stream-filter`: tokens of each stream.
    pub tokens: usize,
    /// `hostile`: requests that hit each plugin that does harm when it runs.
    pub samples: usize,
    /// Print JSON in place of the table.
    pub json: bool,
    /// Put the results into the page.
    pub write: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            only: Scenario::ALL.to_vec(),
            requests: 10_000,
            reloads: 50,
            calls: 100_000,
            memory_reloads: 1_000,
            latency_rounds: 20,
            compile_rounds: 3,
            filter_rounds: 48,
            tokens: 48,
            samples: 10,
            json: false,
            write: false,
        }
    }
}

impl Plan {
    /// Reads the command line. The error is for the caller.
    pub fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self::default();
        while let Some(arg) = args.next() {
            let size = match arg.as_str() {
                "--requests" => &mut plan.requests,
                "--reloads" => &mut plan.reloads,
                "--calls" => &mut plan.calls,
                "--memory-reloads" => &mut plan.memory_reloads,
                "--latency-rounds" => &mut plan.latency_rounds,
                "--compile-rounds" => &mut plan.compile_rounds,
                "--filter-rounds" => &mut plan.filter_rounds,
                "--tokens" => &mut plan.tokens,
                "--samples" => &mut plan.samples,
                "--json" => {
                    plan.json = true;
                    continue;
                }
                "--write" => {
                    plan.write = true;
                    continue;
                }
                "--only" => {
                    plan.only = scenarios(&args.next().unwrap_or_default())?;
                    continue;
                }
                // Cargo adds this to every benchmark.
                "--bench" => continue,
                other => {
                    return Err(format!(
                        "unknown argument {other:?}; tests/bench/soak/plan.rs has them all"
                    ));
                }
            };
            let text = args.next().unwrap_or_default();
            *size = text
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| format!("{arg} needs a number above 0, not {text:?}"))?;
        }
        Ok(plan)
    }

    /// What was asked for, each once.
    pub fn scenarios(&self) -> impl Iterator<Item = Scenario> {
        Scenario::ALL.into_iter().filter(|scenario| self.only.contains(scenario))
    }
}

fn scenarios(list: &str) -> Result<Vec<Scenario>, String> {
    list.split(',')
        .map(|name| {
            Scenario::ALL.into_iter().find(|scenario| scenario.name() == name).ok_or_else(|| {
                let known = Scenario::ALL.map(Scenario::name).join(", ");
                format!("--only takes names from {known}, separated by commas; not {name:?}")
            })
        })
        .collect()
}
