//! A long prompt arrives while others stream.

use std::time::Instant;

use llamero_tests::stats::{largest, median};
use tokio::sync::mpsc;

use super::{Context, Seen, ms};

/// Prompt and answer of those who stream: long enough to outlast the long prompt
/// on a machine of two cores, if they are not held up.
const STREAM: (usize, usize) = (64, 384);

/// Pieces of text that every stream has to have before the long prompt comes.
const RUNNING: usize = 5;

const OUT: usize = 16;

pub async fn run(context: &mut Context<'_>, streams: usize, prompt: usize) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let (told, mut running) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for number in 0..streams {
        let client = context.running.client(&format!("stream-{number}")).await?;
        let request = context.request(STREAM.0, STREAM.1);
        let told = told.clone();
        tasks.push(tokio::spawn(async move {
            let on_text = |count| {
                if count == RUNNING {
                    // Nobody listens any more once the long prompt was sent.
                    let _ = told.send(());
                }
            };
            client.watch(&request, on_text).await
        }));
    }
    // Ends early, instead of never, if a stream fails.
    drop(told);
    let intruder = context.running.client("intruder").await?;
    let request = context.request(prompt, OUT);
    for _ in 0..streams {
        running.recv().await.ok_or("a stream ended before the long prompt came")?;
    }
    let begin = Instant::now();
    let long = intruder.run(&request).await;
    seen.count(&long);
    let end = long.arrivals.first().copied().unwrap_or_else(Instant::now);
    let mut steady = Vec::new();
    let mut disturbed = Vec::new();
    for task in tasks {
        let answer = task.await.map_err(|error| error.to_string())?;
        seen.count(&answer);
        steady.extend(answer.gaps_within(answer.sent.unwrap_or(begin), begin).map(ms));
        disturbed.extend(answer.gaps_within(begin, end).map(ms));
    }
    seen.add("worst gap of the streams (ms)", largest(&disturbed));
    seen.add("usual gap of the streams (ms)", median(&steady));
    seen.add("first token of the long prompt (ms)", long.first_text().map(ms));
    Ok(seen)
}
