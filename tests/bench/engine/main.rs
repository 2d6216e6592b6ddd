//! The engine benchmark: the same requests at a real `llamero worker` behind a
//! real nats-server, and at llama-server, one after the other on one machine.
//!
//! ```text
//! make bench-engine [ARGS="--workload b1,b2-8 --rounds 5 --threads 2"]
//! ```
//!
//! Without arguments it runs all cases with 5 rounds, which takes some hours on
//! two cores, writes one file of results for each to `tests/bench/results`, and
//! the report to `docs/benchmarks-engine.md`. `--quick` tries the cheap ones once
//! and leaves both alone. The machine must do nothing else.
//!
//! Reading order: [`workloads`] for what is run, with its table of cases and
//! bars, [`sides`] for what each program is told, [`drivers`] for how a client
//! talks to it, [`measure`] for the rounds, [`report`] for what comes of it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints what it does and what it found"
)]

#[path = "../../it/harness/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "shared with the tests, which use more of it and fail by panicking"
)]
mod harness;

mod arguments;
mod drivers;
mod machine;
mod measure;
mod probe;
mod processes;
mod report;
mod results;
mod sides;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use llamero_tests::random::Random;

use arguments::Arguments;
use processes::Programs;
use results::{Conditions, Outcome, Run};
use workloads::cases;

/// Prompts of the gate in a quick run.
const QUICK_GATE: usize = 5;

fn main() -> ExitCode {
    // One thread: the generator must not take more of the machine than it needs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let arguments = Arguments::read(std::env::args().skip(1))?;
        runtime.block_on(run(&arguments))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), String> {
    let folder = results_folder(arguments.is_quick);
    if !arguments.is_report {
        measure_all(arguments, &folder).await?;
    }
    let measured = report::read(cases::all(), &folder)?;
    if arguments.is_json {
        let outcomes: Vec<&Outcome> = measured.iter().filter_map(|(_, o)| o.as_ref()).collect();
        println!("{}", serde_json::to_string(&outcomes).map_err(|error| error.to_string())?);
    } else {
        println!("{}", report::markdown(&measured));
    }
    if !arguments.is_quick {
        let page = repository().join("docs/benchmarks-engine.md");
        report::write(&measured, &page)?;
        eprintln!("wrote {} and the pictures beside it", page.display());
    }
    Ok(())
}

/// Measures the cases that are meant and writes a file for each.
async fn measure_all(arguments: &Arguments, folder: &Path) -> Result<(), String> {
    let chosen = arguments.cases()?;
    let programs = Programs::find(arguments.threads)?;
    let found = probe::ask(&programs).await?;
    eprintln!("Llamero:      {}\nllama-server: {}", programs.worker_info, found.server_info);
    let is_same = probe::instruction_sets(&programs.worker_info)
        == probe::instruction_sets(&found.server_info);
    if !is_same && !arguments.is_forced {
        return Err("the sides are built for other instruction sets, so a comparison says \
                    nothing about the engines: build both again with `make bench-engine`, or \
                    compare them all the same with --force"
            .to_owned());
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let mut random = Random::new(seed as u64);
    let prompts = arguments.is_quick.then_some(QUICK_GATE);
    let gate = probe::gate(&programs, &found.words, &mut random, prompts).await?;
    eprintln!("gate: {} of {} prompts gave the same text", gate.equal, gate.prompts);
    if let Some([prompt, ours, theirs]) = &gate.difference {
        eprintln!("first difference\n  prompt {prompt:?}\n  worker {ours:?}\n  server {theirs:?}");
    }
    for case in &chosen {
        eprintln!("\n{}: {}", case.id, case.title);
        if !programs.knows("kv_cells") && case.setup.cells < case.setup.slots * case.setup.ctx {
            eprintln!(
                "  this worker has no setting kv_cells: it serves fewer jobs at once instead"
            );
        }
        let runs = measure::case(
            &programs,
            case,
            &found.words,
            &mut random,
            (arguments.rounds, arguments.is_quick),
            tell,
        )
        .await;
        let outcome = Outcome {
            case: case.id.to_owned(),
            conditions: conditions(&programs, &found.server_info, (gate.prompts, gate.equal)),
            contenders: case
                .contenders()
                .iter()
                .map(|one| (one.name.clone(), programs.command(one, &case.setup)))
                .collect(),
            runs,
        };
        outcome.write(folder)?;
    }
    Ok(())
}

/// One line for each run, for those who watch.
fn tell(run: &Run) {
    let Run { contender, round, seconds, stolen, failed, .. } = run;
    eprintln!("  round {round}, {contender}: {seconds:.1} s, {failed} failed, steal {stolen:.3}");
    for error in &run.errors {
        eprintln!("    {error}");
    }
}

fn conditions(programs: &Programs, server_info: &str, gate: (usize, usize)) -> Conditions {
    let root = repository().display().to_string();
    let git =
        |arguments: &[&str]| machine::first_line("git", &[&["-C", &root], arguments].concat());
    // Results and report change by being written.
    let changed = git(&["status", "--porcelain", "--", "host", "tests/bench/engine", "Cargo.lock"]);
    let mark = if changed.is_empty() { "" } else { "+" };
    Conditions {
        date: machine::first_line("date", &["-u", "+%Y-%m-%d %H:%M"]),
        commit: git(&["rev-parse", "--short", "HEAD"]) + mark,
        machine: machine::describe(),
        tools: [
            machine::first_line("uname", &["-sr"]),
            machine::first_line("clang", &["--version"]),
            machine::first_line("rustc", &["--version"]),
        ]
        .join(", "),
        threads: programs.threads,
        worker_info: programs.worker_info.clone(),
        server_info: server_info.to_owned(),
        gate,
    }
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where results go. Those of a quick run say nothing, so they stay out of the
/// repository.
fn results_folder(is_quick: bool) -> PathBuf {
    let results = repository().join("tests/bench/results");
    if !is_quick {
        return results;
    }
    // The benchmark lies in `target/PROFILE/deps`.
    let target = std::env::current_exe().ok();
    let target = target.as_deref().and_then(|file| file.ancestors().nth(3));
    target.unwrap_or(&results).join("bench-engine")
}
