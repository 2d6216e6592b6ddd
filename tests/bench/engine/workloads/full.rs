//! More jobs than the KV cache has room for, for a while.

use std::time::{Duration, Instant};

use super::{Context, Seen};
use crate::drivers::Request;

/// Prompt and answer: together the context of one job.
const JOB: (usize, usize) = (256, 240);

/// What a client waits after a failure, so that failing fast is no way to look
/// busy.
const PAUSE: Duration = Duration::from_millis(200);

pub async fn run(context: &mut Context<'_>, clients: usize, seconds: u64) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let seconds = if context.is_quick { 10 } else { seconds };
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for number in 0..clients {
        let client = context.running.client(&format!("client-{number}")).await?;
        let words = context.words.clone();
        let mut random = llamero_tests::random::Random::new(context.random.bits());
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            while Instant::now() < end {
                let request = Request::new(words.text(&mut random, JOB.0), JOB.1);
                let answer = client.run(&request).await;
                let is_failed = answer.error.is_some();
                answers.push(answer);
                if is_failed {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            answers
        }));
    }
    let mut finished = 0;
    for task in tasks {
        for answer in task.await.map_err(|error| error.to_string())? {
            seen.count(&answer);
            finished += u64::from(answer.error.is_none());
        }
    }
    let elapsed = begin.elapsed().as_secs_f64();
    seen.add("failed jobs", Some(seen.failed as f64));
    seen.add("finished jobs", Some(finished as f64));
    seen.add("finished jobs (tok/s)", Some(seen.tokens as f64 / elapsed));
    Ok(seen)
}
