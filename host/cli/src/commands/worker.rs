//! `llamero worker`: starts the worker, shows models being loaded, passes
//! signals on, and turns its end into an exit code.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use llamero_worker::settings::LogFormat;
use llamero_worker::{
    Callbacks, Exit as WorkerExit, LoadEvent, LoadProgress, ModelError, ShutdownSignals,
    WorkerError,
};
use tokio::signal::unix::{SignalKind, signal};

use super::load_worker;
use crate::args::WorkerArgs;
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::signals::Signals;

/// Steps of a progress bar; the fraction is multiplied by it.
const BAR_LENGTH: u64 = 1000;

/// How often progress is logged where there is no terminal: each quarter.
const QUARTERS: f32 = 4.0;

/// Loads that take less are not worth lines of their own: that they began and
/// ended is logged anyway.
const QUICK: Duration = Duration::from_secs(1);

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(args: WorkerArgs) -> Result<Exit, Failure> {
    llamero_worker::return_large_blocks();
    let settings = load_worker(&args)?;
    let format = settings.log.format;
    logging::init(format, &settings.log.filter)?;
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    tracing::info!(target: "llamero", version = env!("CARGO_PKG_VERSION"), "Llamero worker");
    let system = match llamero_worker::system_info() {
        Ok(system) => system,
        // What is missing are files beside the program, or those that a variable names.
        Err(error) => return report(Failure::new(Exit::Config, error.to_string()), format),
    };
    let kernels = system.kernels.map(|kernels| kernels.file.display().to_string());
    tracing::info!(target: "llamero", system_info = system.features, kernels, "llama.cpp");

    let shutdown = ShutdownSignals::default();
    let passed_on = shutdown.clone();
    tokio::spawn(async move {
        let signal = signals.recv().await;
        tracing::info!(target: "llamero", signal, "signal received: draining; a second one ends at once");
        passed_on.drain.cancel();
        let signal = signals.recv().await;
        tracing::warn!(target: "llamero", signal, "second signal received: ending at once");
        passed_on.abort.cancel();
    });
    reload_on_hangup(&shutdown)?;
    let progress: LoadProgress = if io::stderr().is_terminal() {
        let bars = Bars::default();
        Arc::new(move |event| bars.show(event))
    } else {
        let lines = Lines::default();
        Arc::new(move |event| lines.show(event))
    };
    let callbacks = Callbacks { load_progress: progress };
    match llamero_worker::run(settings, callbacks, shutdown).await {
        Ok(WorkerExit::Drained) => Ok(Exit::Ok),
        Ok(WorkerExit::GraceRanOut) => Ok(Exit::Failure),
        Ok(WorkerExit::Aborted) => Ok(Exit::Interrupted),
        Err(error) => report(failure(&error), format),
    }
}

/// Takes SIGHUP over, which would end the process otherwise.
fn reload_on_hangup(signals: &ShutdownSignals) -> Result<(), Failure> {
    let mut hangups = signal(SignalKind::hangup()).map_err(anyhow::Error::from)?;
    let reload = Arc::clone(&signals.reload);
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!(target: "llamero", signal = "SIGHUP", "signal received: looking at the hooks");
            reload.notify_one();
        }
    });
    Ok(())
}

/// Tells why the worker failed, once: a program that reads JSON lines gets one
/// more of them, people get the message that all commands print.
fn report(failure: Failure, format: LogFormat) -> Result<Exit, Failure> {
    let is_logged = tracing::enabled!(target: "llamero", tracing::Level::ERROR);
    if format == LogFormat::Text || !is_logged {
        return Err(failure);
    }
    tracing::error!(
        target: "llamero",
        error = failure.message,
        hint = failure.hint,
        exit_code = failure.exit as u8,
        "the worker failed"
    );
    Ok(failure.exit)
}

/// The exit code and the advice for an error of the worker.
fn failure(error: &WorkerError) -> Failure {
    let exit = match error {
        WorkerError::Connect(_) => Exit::Unavailable,
        // What is wrong stands in a folder or setting that the operator named.
        WorkerError::Hooks(_) => Exit::Config,
        WorkerError::Preload(ModelError::Load { .. } | ModelError::Panicked { .. }) => {
            Exit::Failure
        }
        WorkerError::Preload(_) => Exit::Config,
        _ => Exit::Failure,
    };
    let failure = Failure::new(exit, error.to_string());
    match error {
        // Its text names the cure.
        WorkerError::Preload(ModelError::TooLarge { .. }) => failure,
        WorkerError::Preload(_) => failure.with_hint(
            "name a folder with --models and, if it holds several models, one of them with --model",
        ),
        WorkerError::Denied(_) => {
            failure.with_hint("the NATS user of the worker needs permission for this subject")
        }
        _ => failure,
    }
}

/// One bar for each model being loaded.
#[derive(Debug, Default)]
struct Bars {
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn show(&self, event: LoadEvent) {
        // Nothing panics while the lock is held.
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            LoadEvent::Started { model } => {
                let bar = logging::bars().add(ProgressBar::new(BAR_LENGTH));
                if let Ok(style) =
                    ProgressStyle::with_template("loading {msg} [{bar:40}] {percent} %")
                {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_message(model.clone());
                bars.insert(model, bar);
            }
            LoadEvent::Progress { model, fraction } => {
                if let Some(bar) = bars.get(&model) {
                    // The engine promises 0 to 1; a cast saturates anyway.
                    bar.set_position((f64::from(fraction) * BAR_LENGTH as f64) as u64);
                }
            }
            LoadEvent::Finished { model, .. } | LoadEvent::Failed { model } => {
                if let Some(bar) = bars.remove(&model) {
                    bar.finish_and_clear();
                    logging::bars().remove(&bar);
                }
            }
        }
    }
}

/// A log line for each quarter of a model being loaded.
#[derive(Debug, Default)]
struct Lines {
    loads: Mutex<HashMap<String, (Instant, u32)>>,
}

impl Lines {
    fn show(&self, event: LoadEvent) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            LoadEvent::Started { model } => {
                loads.insert(model, (Instant::now(), 0));
            }
            LoadEvent::Progress { model, fraction } => {
                let Some((started, last)) = loads.get_mut(&model) else { return };
                if started.elapsed() < QUICK {
                    return;
                }
                if let Some(quarter) = next_quarter(*last, fraction) {
                    *last = quarter;
                    tracing::info!(target: "llamero", model, percent = quarter * 25, "loading model");
                }
            }
            LoadEvent::Finished { model, .. } | LoadEvent::Failed { model } => {
                loads.remove(&model);
            }
        }
    }
}

/// The quarter that `fraction` has reached, if it is a new one.
fn next_quarter(last: u32, fraction: f32) -> Option<u32> {
    // Casts of floats saturate, so nonsense becomes 0 or the largest number.
    let quarter = ((fraction * QUARTERS) as u32).min(QUARTERS as u32);
    (quarter > last).then_some(quarter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quarter_is_told_once() {
        let mut last = 0;
        let mut told = Vec::new();
        for step in 0..=100_u8 {
            if let Some(quarter) = next_quarter(last, f32::from(step) / 100.0) {
                last = quarter;
                told.push(quarter);
            }
        }
        assert_eq!(told, [1, 2, 3, 4]);
        assert_eq!(next_quarter(4, 1.0), None);
        assert_eq!(next_quarter(0, f32::NAN), None);
    }
}
