//! What hooks cost generation: four streams against the same four streams with
//! something beside them.
//!
//! An arm is a fixed amount of work: four streams of so many tokens, with prompts that
//! no cache has seen. Rates of neighbouring arms are compared, because a machine
//! drifts.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::ask::{ask, predict};
use crate::common::{median_f64, prompt};
use crate::figures::{CpuTime, median_interval};
use crate::files;
use crate::harness::Client;
use crate::plan::Plan;
use crate::report::Bar;
use crate::rig::{Rig, put};

/// Streams at once: as many jobs as a worker computes at once.
const STREAMS: usize = 4;

/// Words of a prompt: few, because prompts are not what is measured.
const WORDS: usize = 8;

/// What an arm showed.
struct Arm {
    tokens: u64,
    seconds: f64,
}

impl Arm {
    fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// Four streams from their requests to their ends. `seed` makes prompts differ.
async fn arm(client: Client, tokens: usize, seed: u64) -> Arm {
    let began = Instant::now();
    let streams: Vec<_> = (0..STREAMS as u64)
        .map(|number| {
            let text = prompt(WORDS, seed * STREAMS as u64 + number);
            let request = predict(&format!("[[stream-pass]] {text}"), tokens);
            let client = client.clone();
            tokio::spawn(async move { ask(&client, request, true).await })
        })
        .collect();
    let mut seen = 0;
    for stream in streams {
        let answer = stream.await.expect("a stream");
        seen += answer.unwrap_or_else(|lost| panic!("a stream failed: {}", lost.text())).tokens;
    }
    assert_eq!(seen, (STREAMS * tokens) as u64, "every stream runs to its last token");
    Arm { tokens: seen, seconds: began.elapsed().as_secs_f64() }
}

/// The worker computes with every core, as it does by default.
async fn rig(prepare: impl FnOnce(&Path)) -> Rig {
    let rig = Rig::start(prepare, |worker| worker.env("llm_threads", "0")).await;
    // Memory that is touched for the first time is paid for here.
    arm(rig.client.clone(), 4, u64::MAX >> 8).await;
    rig
}

/// Four streams while a JavaScript plugin is compiled.
pub async fn js_compile(plan: &Plan) -> Vec<Bar> {
    const ID: &str = "prompt-template";
    let rig = rig(|_| {}).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let (mut lost, mut compiling, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let mut seed = 0;
    let mut next = || {
        seed += 1;
        arm(rig.client.clone(), plan.tokens, seed)
    };
    let mut before = next().await;
    for round in 0..plan.compile_rounds {
        let staged = rig.stage(&files::javascript(now + round as u64));
        let began = Instant::now();
        let during = tokio::spawn(next());
        // By now the streams have taken their chain, which stays without the plugin.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let renamed = rig.swap(&staged, ID);
        // While it is compiled for the first time it is listed, with neither.
        let settled = |plugin: &Value| {
            plugin["generation"] != 0 && !plugin.is_null() || plugin["error"].is_string()
        };
        let plugin = rig.until(ID, "the JavaScript plugin", settled).await;
        let compiled = renamed.elapsed().as_secs_f64();
        assert!(plugin["error"].is_null(), "it was refused: {plugin}");
        let during = during.await.expect("streams");
        rig.remove(ID);
        rig.until(ID, "the end of the plugin", Value::is_null).await;
        let after = next().await;

        // What was done before and after compiling was done at the usual rate; the
        // rest of the work was done in the rest of the time.
        let usual = (before.rate() + after.rate()) / 2.0;
        let lead = renamed.duration_since(began).as_secs_f64();
        let overlap = compiled.min(during.seconds - lead);
        let rate = (during.tokens as f64 - usual * (during.seconds - overlap)) / overlap;
        lost.push(100.0 * (1.0 - rate / usual));
        rates.push(usual);
        compiling.push(compiled);
        before = after;
    }
    let each = lost.iter().map(|lost| format!("{lost:.1}")).collect::<Vec<_>>().join(", ");
    vec![
        Bar::at_most("tokens/s lost while compiling, median", median_f64(&lost), 10.0, "%")
            .also(&format!("each: {each}")),
        Bar::noted("tokens/s of four streams", format!("{:.1}", median_f64(&rates))),
        Bar::noted(
            "from the rename to service",
            format!("median {:.1} s of {}", median_f64(&compiling), compiling.len()),
        ),
    ]
}

/// Four streams with and without a filter that lets every token pass.
///
/// Tokens per second are what a client sees, and drift by more than a filter costs on a
/// machine that others share. CPU time does not: whatever filtering costs, some thread
/// of the worker computes it. A thread that takes a core from one that computes also
/// stops the others, which wait for that one, so the loss is at most the CPU time of all
/// cores meanwhile.
pub async fn stream_filter(plan: &Plan) -> Vec<Bar> {
    const ID: &str = "stream-pass";
    let rig = rig(|dir| put(dir, ID, &files::plugin(ID))).await;
    let (mut lost, mut rates) = (Vec::new(), Vec::new());
    let (mut taken, mut beside) = (Vec::new(), Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut seed = 0;
    for _ in 0..plan.filter_rounds {
        // Without, with, with, without: a drift that goes on falls on both alike.
        let mut seen = Vec::new();
        for action in ["disable", "enable", "enable", "disable"] {
            rig.command(json!({"action": action, "name": ID})).await;
            seed += 1;
            let before = CpuTime::of(rig.pid());
            let arm = arm(rig.client.clone(), plan.tokens, seed).await;
            let used = CpuTime::of(rig.pid()).since(before);
            seen.push((arm, used));
        }
        for (without, with) in [(&seen[0], &seen[1]), (&seen[3], &seen[2])] {
            lost.push(100.0 * (1.0 - with.0.rate() / without.0.rate()));
            rates.push(without.0.rate());
            let more = with.1.beside.as_secs_f64() - without.1.beside.as_secs_f64();
            let all = without.1.compute + without.1.beside;
            taken.push(100.0 * cores as f64 * more / all.as_secs_f64());
            beside.push(1e6 * more / with.0.tokens as f64);
        }
    }
    let listed = rig.listed(ID).await;
    let filtered = listed["stats"]["phases"]
        .as_array()
        .and_then(|phases| phases.iter().find(|phase| phase["phase"] == "stream"))
        .and_then(|phase| phase["calls"].as_u64())
        .unwrap_or(0);
    // The first arm warmed up with the filter.
    let wanted = (2 * plan.filter_rounds + 1) * STREAMS;
    let interval = |values: &[f64]| {
        let (low, high) = median_interval(values);
        format!("of {} pairs; 95 % interval {low:.2} to {high:.2} %", values.len())
    };
    vec![
        Bar::at_most("tokens/s lost, median", median_f64(&lost), 1.0, "%").also(&interval(&lost)),
        Bar::at_most("tokens/s lost by CPU time, at most", median_f64(&taken), 1.0, "%")
            .also(&format!("{}; {:.1} µs for each token", interval(&taken), median_f64(&beside))),
        Bar::noted("tokens/s of four streams without it", format!("{:.1}", median_f64(&rates))),
        Bar::holds(
            "streams that went through the filter",
            &wanted.to_string(),
            filtered.to_string(),
            filtered == wanted as u64,
        ),
    ]
}
