//! `llamero interrupt`: stops a job by its name.

use super::connect;
use crate::args::InterruptArgs;
use crate::exit::{Exit, Failure};
use crate::output;

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code; a job that no worker knows is one.
pub async fn run(args: InterruptArgs) -> Result<Exit, Failure> {
    if args.job.is_empty() {
        return Err(Failure::new(Exit::Usage, "the job's name is empty"));
    }
    let client = connect(&args.connect).await?;
    let response = client.interrupt(&args.job, args.timeout).await?;
    if let Some(error) = &response.error {
        return Err(Failure::from_worker(error));
    }
    // A job that ended within the last seconds is answered in the same way, so
    // the message claims no more than what is certain.
    output::note(&format!("job {} is stopped or has ended", args.job));
    Ok(Exit::Ok)
}
