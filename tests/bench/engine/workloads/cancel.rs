//! A long prompt is cancelled while it is computed, and somebody waits for its
//! place.
//!
//! When the next job begins to compute cannot be seen from outside. What is
//! measured is when its first text comes, counted from the cancel, less the time
//! that the same request takes on an idle machine.

use std::time::{Duration, Instant};

use llamero_tests::stats::{median, quantile};

use super::{Context, Seen, first_texts, ms};
use crate::drivers::Client;

/// Prompt and answer of the one that waits.
const NEXT: (usize, usize) = (32, 1);

/// Cancels in one run, and requests that show the time without one.
const CANCELS: usize = 20;

/// When the cancel comes, in milliseconds after the long prompt was sent.
const AFTER: std::ops::Range<usize> = 150..1_200;

/// How long before the cancel the next request is sent: it must be waiting.
const AHEAD: Duration = Duration::from_millis(50);

pub async fn run(context: &mut Context<'_>, prompt: usize) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let client = context.running.client("cancel").await?;
    let other = context.running.client("next").await?;
    let count = if context.is_quick { 3 } else { CANCELS };
    let mut alone = Vec::new();
    for _ in 0..count {
        let request = context.request(NEXT.0, NEXT.1);
        let answer = other.run(&request).await;
        seen.count(&answer);
        alone.push(answer);
    }
    let alone = median(&first_texts(&alone)).ok_or("nothing went well on the idle machine")?;
    let mut delays = Vec::new();
    for _ in 0..count {
        match one(context, &client, &other, prompt).await {
            Ok(first_text) => delays.push(ms(first_text) - alone),
            Err(error) => seen.fail(&error),
        }
    }
    seen.add("cancel until the next job computes, p99 (ms)", quantile(&delays, 0.99));
    seen.add("cancel until the next job computes, p50 (ms)", median(&delays));
    seen.add("first token on the idle machine (ms)", Some(alone));
    Ok(seen)
}

/// From the cancel to the first text of the one that waited.
async fn one(
    context: &mut Context<'_>,
    client: &Client,
    other: &Client,
    prompt: usize,
) -> Result<Duration, String> {
    let wait = AFTER.start + context.random.below(AFTER.len());
    let long = client.open(&context.request(prompt, 1)).await?;
    tokio::time::sleep(Duration::from_millis(wait as u64)).await;
    let (other, request) = (other.clone(), context.request(NEXT.0, NEXT.1));
    let next = tokio::spawn(async move { other.run(&request).await });
    tokio::time::sleep(AHEAD).await;
    let cancelled = Instant::now();
    long.cancel().await?;
    let answer = next.await.map_err(|error| error.to_string())?;
    let first = answer.arrivals.first().copied();
    match (answer.error, first) {
        (None, Some(first)) if first >= cancelled => Ok(first.duration_since(cancelled)),
        (None, _) => Err("the next job did not wait for the cancelled one".to_owned()),
        (Some(error), _) => Err(error),
    }
}
