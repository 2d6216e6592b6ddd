//! `llamero predict`: one prediction, streamed to standard output.

use std::time::{Duration, Instant};

use llamero_protocol::{WorkerResponse, encode_response};
use tokio::time::{sleep_until, timeout};

use super::connect;
use crate::args::PredictArgs;
use crate::client::{Client, ClientError, Delivery, Prediction};
use crate::collector::{Done, Fragments, Step};
use crate::exit::{Exit, Failure};
use crate::output::{self, Written};
use crate::prompt;
use crate::signals::Signals;
use crate::stats;

/// How long an interrupted job may take to say so before the command ends
/// anyway: the time that clients of this protocol have always waited.
const INTERRUPT_WAIT: Duration = Duration::from_secs(1);

/// Why the loop over the messages ended.
enum End {
    Done(Box<Done>),
    Failed(Box<(Failure, WorkerResponse)>),
    Signal,
    TimedOut,
    /// Nobody reads standard output any more.
    BrokenPipe,
}

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(args: PredictArgs) -> Result<Exit, Failure> {
    let request = prompt::request(&args, prompt::read(&args.prompt)?);
    for warning in prompt::unknown_options(&args.options) {
        output::note(&format!("warning: {warning}"));
    }
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let client = connect(&args.connect).await?;
    let job = args.job.clone().unwrap_or_else(|| nuid::next().to_string());
    let delivery = if args.no_stream { Delivery::Whole } else { Delivery::Streamed };
    if args.verbose {
        output::note(&format!("job {job}"));
    }
    let started = Instant::now();
    let mut prediction = client.predict(&job, request, delivery).await?;
    let end = match read(&args, &job, &mut prediction, &mut signals, started).await {
        Ok(end) => end,
        Err(error) => {
            // Nobody will read the rest, so the worker need not make it.
            if !matches!(error, ClientError::NoWorker { .. }) {
                interrupt(&client, &job, &mut prediction).await;
            }
            return Err(error.into());
        }
    };
    finish(&args, &job, &client, &mut prediction, end).await
}

/// Reads messages, printing fragments, until the job or the patience ends.
async fn read(
    args: &PredictArgs,
    job: &str,
    prediction: &mut Prediction,
    signals: &mut Signals,
    started: Instant,
) -> Result<End, ClientError> {
    let deadline = (!args.timeout.is_zero()).then(|| started + args.timeout);
    let mut first_text = None;
    loop {
        let expired = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let step = tokio::select! {
            step = prediction.next() => step?,
            _ = signals.recv() => return Ok(End::Signal),
            () = expired => return Ok(End::TimedOut),
        };
        match step {
            Step::Accepted | Step::Ignored => {}
            Step::Fragment(text) => {
                first_text.get_or_insert_with(|| started.elapsed());
                if !args.json && print(&text)? == Written::BrokenPipe {
                    return Ok(End::BrokenPipe);
                }
            }
            Step::Done(done) => {
                if !args.json && print(&ending(&done))? == Written::BrokenPipe {
                    // The job has ended already; there is nothing to stop.
                    return Ok(End::Done(Box::new(done)));
                }
                if args.verbose {
                    output::note(&stats::summary(&done.response, first_text, started.elapsed()));
                }
                return Ok(End::Done(Box::new(done)));
            }
            Step::Failed(error) => {
                let failure = Failure::from_worker(&error);
                let response = WorkerResponse {
                    job: job.to_owned(),
                    error: Some(error),
                    ..WorkerResponse::default()
                };
                return Ok(End::Failed(Box::new((failure, response))));
            }
        }
    }
}

/// What is left to print when the job has ended: the rest of the output, or all
/// of it on a new line if fragments were lost; and on a terminal a last line
/// feed, so that the shell's prompt does not follow the text.
fn ending(done: &Done) -> String {
    let mut text = match done.fragments {
        Fragments::Intact => done.rest.clone(),
        Fragments::Lost => format!("\n{}", done.response.output),
    };
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) && !done.response.output.ends_with('\n')
    {
        text.push('\n');
    }
    text
}

fn print(text: &str) -> Result<Written, ClientError> {
    output::text(text).map_err(|error| ClientError::Output(error.to_string()))
}

async fn finish(
    args: &PredictArgs,
    job: &str,
    client: &Client,
    prediction: &mut Prediction,
    end: End,
) -> Result<Exit, Failure> {
    match end {
        End::Done(done) => {
            if done.fragments == Fragments::Lost && !args.json {
                output::note(
                    "warning: fragments were lost on the way; the whole text was repeated",
                );
            }
            if args.json {
                print_json(&WorkerResponse {
                    job: job.to_owned(),
                    predict: Some(done.response),
                    ..WorkerResponse::default()
                })?;
            }
            Ok(Exit::Ok)
        }
        End::Failed(ended) => {
            let (failure, response) = *ended;
            end_line(args, prediction);
            if args.json {
                print_json(&response)?;
            }
            Err(failure)
        }
        End::Signal => {
            end_line(args, prediction);
            interrupt(client, job, prediction).await;
            Err(Failure::new(Exit::Interrupted, "interrupted"))
        }
        End::TimedOut => {
            end_line(args, prediction);
            interrupt(client, job, prediction).await;
            Err(Failure::new(
                Exit::Timeout,
                format!(
                    "no complete answer within {} s; the job was interrupted",
                    args.timeout.as_secs_f64()
                ),
            )
            .with_hint("allow more with --timeout, or less text with --option max_tokens=N"))
        }
        End::BrokenPipe => {
            interrupt(client, job, prediction).await;
            Ok(Exit::Ok)
        }
    }
}

/// Ends a line that was streamed in part, so that a message on the terminal
/// starts on a line of its own.
fn end_line(args: &PredictArgs, prediction: &Prediction) {
    let seen = prediction.seen();
    if !args.json && !seen.is_empty() && !seen.ends_with('\n') {
        output::note("");
    }
}

/// Stops the job on the worker and waits a little until it says so. Failures are
/// of no interest: the user wants to leave.
async fn interrupt(client: &Client, job: &str, prediction: &mut Prediction) {
    let ended = async {
        while let Ok(step) = prediction.next().await {
            if matches!(step, Step::Done(_) | Step::Failed(_)) {
                break;
            }
        }
    };
    let answered = async {
        // The answer alone does not mean the end: a worker that does not know
        // the job answers as well.
        let _ = client.interrupt(job, INTERRUPT_WAIT).await;
        ended.await;
    };
    let _ = timeout(INTERRUPT_WAIT, answered).await;
}

fn print_json(response: &WorkerResponse) -> Result<(), Failure> {
    let json = String::from_utf8_lossy(&encode_response(response)).into_owned();
    output::line(&json).map_err(|error| {
        Failure::new(Exit::Failure, format!("standard output cannot be written: {error}"))
    })?;
    Ok(())
}
