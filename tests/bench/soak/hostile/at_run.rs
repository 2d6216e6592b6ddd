//! Plugins that do harm to the request that asks for it, while other processes take
//! every core.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Traffic, guests};
use crate::ask::{Lost, ask, predict};
use crate::common::{median, ms, peak_rss_kib, rss_kib};
use crate::figures::{Spinners, forget_peak, longest};
use crate::files;
use crate::plan::Plan;
use crate::report::Bar;
use crate::rig::{Rig, put};

/// What a call may take by default: of a core's time, and of anybody's.
const CPU: Duration = Duration::from_millis(50);
const WALL: Duration = Duration::from_millis(250);

/// Who shares a core with one other may have half of it, and so needs twice the time.
const SHARE: u32 = 2;

/// What a failure may come later than its budget ends.
const SLACK: Duration = Duration::from_millis(50);

/// The most that a plugin here can fill of its memory, what the host may need beside it,
/// and what may stay, in KiB.
const MEMORY_KIB: u64 = 32 << 10;
const BESIDE_KIB: u64 = 8 << 10;

/// How long after the last request memory may still be above what it was before.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// A breaker would answer for the plugin after a few failures. The largest table that a
/// plugin can have is far below the memory that it may have by default. And filling all
/// of that memory takes about the CPU time that it may have, so that the one limit or
/// the other would be met first, as the machine likes.
const CONFIG: &str = "hook_breaker = false\n\
    [plugins.table-bomb]\nlimits = { memory_mib = 1 }\n\
    [plugins.memory-bomb]\nlimits = { memory_mib = 32 }";

/// One kind of harm.
struct Bad {
    plugin: &'static str,
    /// The kind that the client is told.
    kind: &'static str,
    budget: Duration,
    /// Asked for in a chat and not by name.
    chat: bool,
}

fn bad() -> Vec<Bad> {
    let bad = |plugin, kind| Bad { plugin, kind, budget: CPU * SHARE, chat: false };
    vec![
        bad("trap", "trap"),
        bad("hook-error", "guest"),
        bad("loop", "cpu"),
        bad("stack-overflow", "stack"),
        bad("memory-bomb", "memory"),
        bad("host-call-bomb", "quota"),
        bad("handle-bomb", "quota"),
        bad("oversized-output", "invalid-output"),
        Bad { budget: WALL, ..bad("slow-host-call", "wall") },
        Bad { chat: true, ..bad("table-bomb", "memory") },
    ]
}

impl Bad {
    fn request(&self) -> Value {
        if self.chat {
            return json!({
                "messages": [{"role": "user", "content": "harm"}],
                "options": {"max_tokens": 1},
            });
        }
        predict(&format!("[[{}]]", self.plugin), 1)
    }

    fn limit(&self) -> Duration {
        self.budget + SLACK
    }
}

pub async fn measure(plan: &Plan) -> Vec<Bar> {
    let bad = bad();
    let prepare = |dir: &Path| {
        for Bad { plugin, chat, .. } in &bad {
            let bytes = if *chat { guests::table_bomb() } else { files::plugin(plugin) };
            put(dir, plugin, &bytes);
        }
        put(dir, "version", &files::version(0));
        put(dir, "z-respond", &files::plugin("respond"));
    };
    let rig = Rig::start(prepare, |worker| worker.config(CONFIG)).await;
    let spinners = Spinners::start();
    let traffic = Traffic::start(rig.client.clone(), 0, Duration::from_millis(20));
    let mut bars = Vec::new();
    for bad in &bad {
        bars.extend(harm(&rig, bad, plan.samples).await);
    }
    drop(spinners);
    let (asked, failures) = traffic.end().await;
    bars.push(
        Bar::none("other requests that failed meanwhile", failures.len(), &failures)
            .also(&format!("of {asked}")),
    );
    bars
}

/// One kind of harm, again and again.
async fn harm(rig: &Rig, bad: &Bad, samples: usize) -> Vec<Bar> {
    let pid = rig.pid();
    // What the pool of instances keeps for good is not counted as left behind.
    let _ = ask(&rig.client, bad.request(), false).await;
    tokio::time::sleep(BACK_AFTER).await;
    let before = rss_kib(pid);
    forget_peak(pid);
    let (mut times, mut wrong) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        match ask(&rig.client, bad.request(), false).await {
            Err(Lost::Refused { code: 9, kind, took, .. }) if kind == bad.kind => times.push(took),
            Err(Lost::Refused { kind, text, .. }) => wrong.push(format!("{text}, kind {kind}")),
            Err(lost) => wrong.push(lost.text()),
            Ok(answer) => wrong.push(format!("answered {:?}", answer.text)),
        }
    }
    let peak = peak_rss_kib(pid);
    tokio::time::sleep(BACK_AFTER).await;
    let (more, left) = (peak.saturating_sub(before), rss_kib(pid).saturating_sub(before));
    let mib = |kib: u64| kib as f64 / 1024.0;
    let Bad { plugin, kind, .. } = bad;
    vec![
        Bar::none(format!("{plugin}: other ends than code 9, {kind}"), wrong.len(), &wrong),
        Bar::at_most(
            format!("{plugin}: the error comes, longest"),
            ms(longest(&times)),
            ms(bad.limit()),
            "ms",
        )
        .also(&format!("median {:.0} ms of {}", ms(median(&times)), times.len())),
        Bar::at_most(
            format!("{plugin}: memory, more at the most"),
            mib(more),
            mib(MEMORY_KIB + BESIDE_KIB),
            "MiB",
        ),
        Bar::at_most(
            format!("{plugin}: memory, more a second later"),
            mib(left),
            mib(BESIDE_KIB),
            "MiB",
        ),
    ]
}
