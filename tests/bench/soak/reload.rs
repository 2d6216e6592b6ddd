//! Reloads one after the other: what a thousand of them leave in memory and on disk,
//! and how long one takes.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::ask::{ask, predict};
use crate::common::{median, ms, rss_kib};
use crate::figures::{Disk, longest, slope};
use crate::files;
use crate::plan::Plan;
use crate::report::Bar;
use crate::rig::{Rig, put};

/// The plugin that changes.
const ID: &str = "a";

/// How long a file has to be at rest before it is looked at; the worker's constant
/// (`host/hooks/src/folder.rs`), which a reload cannot be faster than.
const SETTLE: Duration = Duration::from_millis(100);

/// Share of the reloads that is left out of the slope, in percent: until then caches
/// and allocators fill up.
const WARM_UP: usize = 20;

async fn rig() -> Rig {
    let prepare = |dir: &Path| {
        put(dir, ID, &files::version(0));
        put(dir, "respond", &files::plugin("respond"));
    };
    let rig = Rig::start(prepare, |worker| worker).await;
    assert_eq!(in_service(&rig).await, files::stamp(0));
    rig
}

/// The version that answers.
async fn in_service(rig: &Rig) -> String {
    let request = predict("[[version]] [[respond:here]]", 1);
    let answer = ask(&rig.client, request, false).await;
    let answer = answer.unwrap_or_else(|lost| panic!("a request failed: {}", lost.text()));
    match files::stamps(&answer.text)[..] {
        [(at_request, at_filter)] if at_request == at_filter => at_filter.to_owned(),
        _ => panic!("answered {:?}", answer.text),
    }
}

/// Renames a file into place, and waits for the first answer of its version.
async fn reload(rig: &Rig, number: usize, pause: Duration) -> Duration {
    let staged = rig.stage(&files::version(number));
    let wanted = files::stamp(number);
    let renamed = rig.swap(&staged, ID);
    while in_service(rig).await != wanted {
        assert!(renamed.elapsed() < Duration::from_secs(60), "version {number} never came");
        tokio::time::sleep(pause).await;
    }
    renamed.elapsed()
}

/// Memory and disk over reloads of versions that nobody has seen before.
pub async fn memory(plan: &Plan) -> Vec<Bar> {
    let rig = rig().await;
    let pid = rig.pid();
    let disk = || Disk::of(&rig.cache.join("compiled"));
    let kept = || Disk::of(&rig.cache.join("last-good"));
    let (disk_before, began) = (disk(), Instant::now());
    let mut resident = Vec::new();
    for number in 1..=plan.memory_reloads {
        reload(&rig, number, Duration::from_millis(10)).await;
        resident.push(rss_kib(pid) as f64);
    }
    let took = began.elapsed().as_secs_f64();
    let (disk_after, kept) = (disk(), kept());
    let reloads = plan.memory_reloads;
    let late = &resident[reloads * WARM_UP / 100..];
    let mib = |kib: Option<&f64>| kib.copied().unwrap_or(0.0) / 1024.0;
    let each = (disk_after.bytes - disk_before.bytes.min(disk_after.bytes)) / reloads as u64;
    vec![
        Bar::noted("reloads, each of a new version", format!("{reloads} in {took:.0} s")),
        Bar::at_most("resident memory, slope", slope(late), 4.0, "KiB per reload").also(&format!(
            "over the last {}; {:.1} MiB then, {:.1} MiB at the end",
            late.len(),
            mib(late.first()),
            mib(late.last())
        )),
        Bar::noted(
            "compiled code on disk",
            format!(
                "{:.1} MiB in {} files, {} bytes per reload; wasmtime removes the oldest above \
                 512 MiB, once an hour",
                disk_after.bytes as f64 / 1048576.0,
                disk_after.files,
                each
            ),
        ),
        Bar::noted(
            "kept in case that they are good",
            format!(
                "{:.1} MiB in {} files; those that never were go after ten minutes",
                kept.bytes as f64 / 1048576.0,
                kept.files
            ),
        ),
    ]
}

/// The time of a reload, of a new version and of one whose code is in the cache.
pub async fn latency(plan: &Plan) -> Vec<Bar> {
    let rig = rig().await;
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for round in 1..=plan.latency_rounds {
        for (number, times) in [(round, &mut cold), (round - 1, &mut cached)] {
            // The worker looks at the folder now and then without being told; no
            // pattern of its own may meet a pattern here.
            let quiet = 300 + (round * 7 + number * 13) % 40 * 25;
            tokio::time::sleep(Duration::from_millis(quiet as u64)).await;
            times.push(reload(&rig, number, Duration::from_millis(2)).await);
        }
    }
    let settle = ms(SETTLE);
    vec![
        Bar::at_most("a new version, longest", ms(longest(&cold)), 300.0, "ms").also(&format!(
            "median {:.0} ms of {}; {settle:.0} ms of each are the time for a file to settle",
            ms(median(&cold)),
            cold.len()
        )),
        Bar::at_most("a known version, median", ms(median(&cached)), settle + 50.0, "ms")
            .also(&format!("longest {:.0} ms of {}", ms(longest(&cached)), cached.len())),
    ]
}
