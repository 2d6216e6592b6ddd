//! One client with many streams, another with a request now and then.

use std::time::{Duration, Instant};

use llamero_tests::random::Random;
use llamero_tests::stats::quantile;

use super::{Context, Seen, first_texts};
use crate::drivers::Request;

/// Prompt and answer of the one with many streams.
const MANY: (usize, usize) = (128, 128);

/// Prompt and answer of the other one.
const FEW: (usize, usize) = (128, 16);

/// The other one's pace.
const EVERY: Duration = Duration::from_secs(2);

/// Until all streams are under way.
const LEAD: Duration = Duration::from_secs(10);

/// The other one's requests while it is alone.
const ALONE: usize = 10;

pub async fn run(context: &mut Context<'_>, streams: usize, seconds: u64) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let seconds = if context.is_quick { 6 } else { seconds };
    let few = context.running.client("few").await?;
    let mut alone = Vec::new();
    for _ in 0..if context.is_quick { 3 } else { ALONE } {
        let request = context.request(FEW.0, FEW.1);
        let answer = few.run(&request).await;
        seen.count(&answer);
        alone.push(answer);
    }
    let many = context.running.client("many").await?;
    let busy: Vec<_> = (0..streams)
        .map(|_| {
            let (client, words) = (many.clone(), context.words.clone());
            let mut random = Random::new(context.random.bits());
            tokio::spawn(async move {
                loop {
                    let request = Request::new(words.text(&mut random, MANY.0), MANY.1);
                    if client.run(&request).await.error.is_some() {
                        tokio::time::sleep(EVERY).await;
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(LEAD).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    let mut pace = tokio::time::interval(EVERY);
    while Instant::now() < end {
        pace.tick().await;
        let (client, request) = (few.clone(), context.request(FEW.0, FEW.1));
        tasks.push(tokio::spawn(async move { client.run(&request).await }));
    }
    let mut beside = Vec::new();
    for task in tasks {
        let answer = task.await.map_err(|error| error.to_string())?;
        seen.count(&answer);
        beside.push(answer);
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    let alone = quantile(&first_texts(&alone), 0.95);
    let beside = quantile(&first_texts(&beside), 0.95);
    seen.add("first token p95, alone (ms)", alone);
    seen.add("first token p95, beside the streams (ms)", beside);
    seen.add("beside the streams / alone", alone.zip(beside).map(|(a, b)| b / a));
    Ok(seen)
}
