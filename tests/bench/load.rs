//! The load generator: time to first token, tokens per second, the cost of the
//! hook chain, and resident memory, measured from outside on a real nats-server,
//! a real worker and the real model.
//!
//! ```text
//! cargo bench --package llamero-tests --bench load -- [--clients 1,4] [--rounds 5]
//!                                                     [--words 100] [--tokens 64] [--json]
//! ```
//!
//! Every request has a new random prompt, is greedy, and runs to exactly
//! `--tokens` tokens, so that runs compare. Nothing is asserted here about speed:
//! the numbers are printed with the machine they were taken on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark stops at the first thing that does not work, and prints"
)]

#[path = "../it/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use more of it")]
mod harness;

mod common;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::{machine, median, median_f64, ms, peak_rss_kib, prompt, rss_kib};
use harness::{Bench, Client, Exchange, HooksDir, ModelsDir, Nats, new_job};

fn main() {
    let plan = Plan::from_args(std::env::args().skip(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let rows = runtime.block_on(measure(&plan));
    if plan.json {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        println!("{}", json!({"machine": machine(), "rows": rows}));
        return;
    }
    println!("machine: {}", machine());
    println!(
        "each request: a new prompt of about {} words, {} tokens out, greedy; {} rounds\n",
        plan.words, plan.tokens, plan.rounds
    );
    println!(
        "| hooks | clients | first token p50 | first token max | tokens/s, all clients | worst gap \
         | hook chain p50 | RSS idle | RSS busy |\n|---|---|---|---|---|---|---|---|---|"
    );
    for row in &rows {
        println!("{}", row.to_markdown());
    }
}

/// What to run.
struct Plan {
    clients: Vec<usize>,
    rounds: usize,
    words: usize,
    tokens: usize,
    json: bool,
}

impl Plan {
    fn from_args(mut args: impl Iterator<Item = String>) -> Self {
        let mut plan = Self { clients: vec![1, 4], rounds: 5, words: 100, tokens: 64, json: false };
        while let Some(arg) = args.next() {
            let mut number = |name: &str| -> usize {
                let text = args.next().unwrap_or_else(|| panic!("{name} needs a number"));
                text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number"))
            };
            match arg.as_str() {
                "--rounds" => plan.rounds = number("--rounds"),
                "--words" => plan.words = number("--words"),
                "--tokens" => plan.tokens = number("--tokens"),
                "--json" => plan.json = true,
                "--clients" => {
                    let list = args.next().expect("--clients needs a list such as 1,4");
                    plan.clients =
                        list.split(',').map(|n| n.parse().expect("a number of clients")).collect();
                }
                // Cargo adds this to every benchmark.
                "--bench" => {}
                other => panic!("unknown argument {other:?}; see the head of tests/bench/load.rs"),
            }
        }
        plan
    }
}

/// One line of the result.
struct Row {
    hooks: &'static str,
    clients: usize,
    first_token: Vec<Duration>,
    gaps: Vec<Duration>,
    hook_us: Vec<f64>,
    tokens_per_second: f64,
    rss_idle_kib: u64,
    rss_busy_kib: u64,
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "hooks": self.hooks,
            "clients": self.clients,
            "first_token_ms_p50": ms(median(&self.first_token)),
            "first_token_ms_max": ms(self.first_token.iter().copied().max().unwrap_or_default()),
            "tokens_per_second": self.tokens_per_second,
            "worst_gap_ms": ms(self.gaps.iter().copied().max().unwrap_or_default()),
            "hook_chain_us_p50": median_f64(&self.hook_us),
            "rss_idle_kib": self.rss_idle_kib,
            "rss_busy_kib": self.rss_busy_kib,
        })
    }

    fn to_markdown(&self) -> String {
        format!(
            "| {} | {} | {:.0} ms | {:.0} ms | {:.1} | {:.0} ms | {:.0} µs | {:.0} MiB | {:.0} MiB |",
            self.hooks,
            self.clients,
            ms(median(&self.first_token)),
            ms(self.first_token.iter().copied().max().unwrap_or_default()),
            self.tokens_per_second,
            ms(self.gaps.iter().copied().max().unwrap_or_default()),
            median_f64(&self.hook_us),
            self.rss_idle_kib as f64 / 1024.0,
            self.rss_busy_kib as f64 / 1024.0,
        )
    }
}

async fn measure(plan: &Plan) -> Vec<Row> {
    let mut rows = Vec::new();
    for hooks in ["none", "3 in Rust"] {
        let folder = match hooks {
            "none" => HooksDir::empty(),
            _ => HooksDir::empty()
                .example("prompt-window")
                .example("redact")
                .example("system-prompt"),
        };
        for &clients in &plan.clients {
            // A worker of its own for every row, so that "idle" means idle.
            let bench = Bench::on(Nats::start(), ModelsDir::real(), |worker| {
                worker
                    .flag("--hooks", folder.path())
                    .env("llm_preload", "true")
                    .env("llm_threads", "0")
            });
            rows.push(row(plan, hooks, clients, &bench).await);
        }
    }
    rows
}

async fn row(plan: &Plan, hooks: &'static str, clients: usize, bench: &Bench) -> Row {
    let client = bench.client().await;
    let pid = bench.worker.id();
    let rss_idle_kib = rss_kib(pid);
    // The first request pays for memory that is touched for the first time.
    request(&client, "warm up", 8).await;

    let started = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..clients {
        let (client, rounds, words, tokens) =
            (client.clone(), plan.rounds, plan.words, plan.tokens);
        tasks.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for round in 0..rounds {
                let prompt = prompt(words, (number * 1_000 + round) as u64);
                seen.push(request(&client, &prompt, tokens).await);
            }
            seen
        }));
    }
    let mut row = Row {
        hooks,
        clients,
        first_token: Vec::new(),
        gaps: Vec::new(),
        hook_us: Vec::new(),
        tokens_per_second: 0.0,
        rss_idle_kib,
        rss_busy_kib: 0,
    };
    let mut tokens = 0;
    for task in tasks {
        for request in task.await.expect("client task") {
            row.first_token.push(request.first_token);
            row.gaps.extend(request.gaps);
            row.hook_us.push(request.hook_us);
            tokens += request.tokens;
        }
    }
    row.tokens_per_second = tokens as f64 / started.elapsed().as_secs_f64();
    row.rss_busy_kib = peak_rss_kib(pid);
    row
}

/// What one request showed.
struct Seen {
    first_token: Duration,
    gaps: Vec<Duration>,
    hook_us: f64,
    tokens: u64,
}

async fn request(client: &Client, prompt: &str, tokens: usize) -> Seen {
    let job = new_job();
    let mut exchange = Exchange::open(client).await;
    let sent = Instant::now();
    let options = json!({"temperature": 0, "max_tokens": tokens, "ignore_eos": true});
    exchange.request_stream(client, &job, json!({"input": [prompt], "options": options})).await;
    exchange.ack(&job).await;
    let mut arrivals = Vec::new();
    loop {
        let message = exchange.next().await;
        if message.body.get("stream").is_some() {
            arrivals.push(Instant::now());
            continue;
        }
        let end = &message.body["predict"];
        assert!(end.is_object(), "a request failed: {}", message.body);
        return Seen {
            first_token: arrivals.first().expect("some text arrived").duration_since(sent),
            gaps: arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            hook_us: end["timings"]["hooks_ms"].as_f64().unwrap_or(0.0) * 1_000.0,
            tokens: end["usage"]["completion_tokens"].as_u64().expect("usage"),
        };
    }
}
