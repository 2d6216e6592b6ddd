//! Resident memory, idle and at work.

use super::{Context, Seen, throughput};
use crate::machine::{peak_rss_mib, rss_mib};

const PROMPT: usize = 128;
const OUT: usize = 64;

pub async fn run(context: &mut Context<'_>, streams: usize) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let pid = context.running.id();
    // The first request of every run has been answered: what it touched counts.
    seen.add("RSS idle (MiB)", Some(rss_mib(pid)));
    let requests = (0..streams).map(|_| context.request(PROMPT, OUT)).collect();
    let answers = context.at_once(requests).await?;
    answers.iter().for_each(|answer| seen.count(answer));
    seen.add("RSS at most, all streams (MiB)", Some(peak_rss_mib(pid)));
    seen.add("RSS afterwards (MiB)", Some(rss_mib(pid)));
    seen.add("nats-server, RSS at most (MiB)", context.running.broker().map(peak_rss_mib));
    seen.add("all streams (tok/s)", throughput(&answers));
    Ok(seen)
}
