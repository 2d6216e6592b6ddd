//! The soak: what the plugin host promises about minutes of work and about a real
//! worker, measured from outside on a real nats-server, the real model and real
//! components, against the bars that are written down for it.
//!
//! ```text
//! cargo bench --package llamero-tests --bench soak -- [--only NAME,…] [--json] [--write]
//!                                                     [--requests N] [--calls N] …
//! ```
//!
//! `plan` has the scenarios and every size. A run prints a table and ends with status 1
//! if a bar is missed; `--write` also puts what was measured into
//! `docs/benchmarks-soak.md`. The machine should do nothing else meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a scenario stops at the first thing that does not work, and results are printed"
)]

#[path = "../common.rs"]
#[allow(dead_code, reason = "shared with the load generator, which uses more of it")]
mod common;

#[path = "../../../host/hooks/tests/it/guest.rs"]
#[allow(dead_code, reason = "shared with the tests of the plugin host, which use all of it")]
mod guest;

#[path = "../../it/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use more of it")]
mod harness;

mod ask;
mod figures;
mod files;
mod generation;
mod hostile;
mod lost;
mod plan;
mod reload;
mod report;
mod rig;
mod saturated;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use plan::{Plan, Scenario};
use report::{Bar, Section};

fn main() -> ExitCode {
    let plan = match Plan::from_args(std::env::args().skip(1)) {
        Ok(plan) => Arc::new(plan),
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let mut sections = Vec::new();
    for scenario in plan.scenarios() {
        eprintln!("==> {}: {}", scenario.name(), scenario.what());
        let began = Instant::now();
        // A task of its own: one that panics has missed its bars, and the others
        // are measured all the same.
        let running = runtime.spawn(run(scenario, Arc::clone(&plan)));
        let bars = runtime.block_on(running).unwrap_or_else(|error| vec![Bar::stopped(&error)]);
        let section = Section { scenario, bars, took: began.elapsed() };
        eprintln!("{}", section.table());
        sections.push(section);
    }
    if plan.json {
        println!("{}", report::json(&sections));
    } else {
        println!("{}", report::text(&sections));
    }
    if plan.write {
        report::write(&sections);
    }
    if sections.iter().all(Section::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(scenario: Scenario, plan: Arc<Plan>) -> Vec<Bar> {
    match scenario {
        Scenario::Soak => lost::measure(&plan).await,
        Scenario::Saturated => saturated::measure(&plan).await,
        Scenario::ReloadMemory => reload::memory(&plan).await,
        Scenario::ReloadLatency => reload::latency(&plan).await,
        Scenario::JsCompile => generation::js_compile(&plan).await,
        Scenario::StreamFilter => generation::stream_filter(&plan).await,
        Scenario::Hostile => hostile::measure(&plan).await,
    }
}
