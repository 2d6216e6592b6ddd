//! Clients that send one request each, all at once.

use llamero_tests::stats::{largest, median};

use super::{Context, Seen, first_texts, throughput, worst_gap};
use crate::drivers::Request;

pub async fn run(
    context: &mut Context<'_>,
    clients: usize,
    shared: usize,
    own: usize,
    out: usize,
) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let common = context.request(shared, out).prompt;
    let requests = (0..clients)
        .map(|_| Request::new(common.clone() + &context.request(own, out).prompt, out))
        .collect();
    let answers = context.at_once(requests).await?;
    answers.iter().for_each(|answer| seen.count(answer));
    let first = first_texts(&answers);
    let computed: u64 = answers.iter().map(|a| a.usage.prompt.saturating_sub(a.usage.cached)).sum();
    seen.add("all clients (tok/s)", throughput(&answers));
    seen.add("first token p50 (ms)", median(&first));
    seen.add("last first token (ms)", largest(&first));
    seen.add("worst gap (ms)", worst_gap(&answers));
    seen.add("prompt tokens computed", Some(computed as f64));
    Ok(seen)
}
