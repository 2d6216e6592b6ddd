//! A second and a third model are loaded, and the second one unloaded, while the
//! first one streams. The models are one file under three names.

use std::time::{Duration, Instant};

use llamero_tests::stats::quantile;

use super::{Context, Seen, ms};

/// Prompt and answer of the streams.
const STREAM: (usize, usize) = (64, 900);

/// The streams alone: before it the prompts are computed.
const SETTLE: Duration = Duration::from_secs(3);
const STEADY: Duration = Duration::from_secs(4);

pub async fn run(context: &mut Context<'_>, streams: usize) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut tasks = Vec::new();
    for number in 0..streams {
        let client = context.running.client(&format!("stream-{number}")).await?;
        let request = context.request(STREAM.0, STREAM.1);
        tasks.push(tokio::spawn(async move { client.run(&request).await }));
    }
    tokio::time::sleep(SETTLE).await;
    let settled = Instant::now();
    tokio::time::sleep(STEADY).await;
    let begin = Instant::now();
    let other = context.running.client("other").await?;
    for model in ["other-1.gguf", "other-2.gguf"] {
        let mut request = context.request(8, 1);
        request.model = Some(model.to_owned());
        let answer = other.run(&request).await;
        seen.count(&answer);
    }
    let end = Instant::now();
    let mut steady = Vec::new();
    let mut loading = Vec::new();
    for task in tasks {
        let answer = task.await.map_err(|error| error.to_string())?;
        seen.count(&answer);
        if answer.ended.is_some_and(|ended| ended < end) {
            seen.fail("a stream ended before the models were loaded");
        }
        steady.extend(answer.gaps_within(settled, begin).map(ms));
        loading.extend(answer.gaps_within(begin, end).map(ms));
    }
    let (steady, loading) = (quantile(&steady, 0.99), quantile(&loading, 0.99));
    seen.add("gap p99, steady (ms)", steady);
    seen.add("gap p99, while loading (ms)", loading);
    seen.add("while loading / steady", steady.zip(loading).map(|(a, b)| b / a));
    seen.add("both loads together (ms)", Some(ms(end.duration_since(begin))));
    Ok(seen)
}
