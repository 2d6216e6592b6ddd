//! What hooks cost a job, against what it would cost to do the same otherwise.
//!
//! The group `request-hook` measures one job with one request phase of a plugin
//! that does nothing, on a request of 1 KB: begin the job, call, drop the job, and
//! the way to the hooks' own threads and back where it takes that. Beside it stand
//!
//! * `native`: the same function in Rust, called directly;
//! * `hop`: an empty task on the threads of another runtime, which is what going to
//!   the hooks' own threads costs by itself;
//! * `sidecar`: the same function behind HTTP on loopback (`sidecar.rs`);
//! * `per-call`: the same component, instantiated for every call without
//!   `InstancePre` and without a pool (`per_call.rs`).
//!
//! The group `stream` measures pieces of text on their way through a filter
//! (`stream.rs`). The groups `plugin-*` measure the example plugins in Rust, JavaScript and Python
//! (`examples.rs`). `make bench-hooks` runs everything and writes
//! `docs/benchmarks.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a benchmark fails by panicking and prints its results, and criterion's macros \
              document nothing"
)]

mod calls;
mod examples;
mod per_call;
mod sidecar;
mod stream;

#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/it/guest.rs"]
mod guest;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/it/outgoing_guest.rs"]
mod outgoing_guest;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use llamero_hooks::{
    Chain, Content, HookHost, HostConfig, JobContext, JobHooks, LimitOverrides, Limits,
    NoTokenizer, PluginSettings, Request, RequestOutcome, Services, Verdict,
};
use tokio::runtime::Runtime;

use crate::calls::Group;
use crate::guest::{Guest, Image};
use crate::per_call::PerCall;
use crate::sidecar::Sidecar;

/// Instances that are kept ready where a benchmark is about ready ones.
const READY: usize = 16;
/// Jobs in quick succession before the pool gets time to fill up again. Half of
/// the pool, so that none of them finds it empty.
const BURST: u64 = READY as u64 / 2;

/// The hook that does nothing, as a Rust function. The sidecar calls it as well.
#[inline(never)]
fn on_request(_context: &JobContext, request: &Request) -> Verdict {
    black_box(request);
    Verdict::Pass
}

/// With names and options about 1 KB, as the targets are stated for.
fn request() -> Request {
    Request {
        model: "model.gguf".to_owned(),
        content: Content::Completion { system: String::new(), input: vec!["word ".repeat(200)] },
        options: vec![("temperature".to_owned(), serde_json::json!(0.2))],
        wants_stream: true,
    }
}

/// A host whose limits never end a benchmark.
fn host() -> HookHost {
    let limits = Limits {
        wall: Duration::from_secs(60),
        cpu: Duration::from_secs(10),
        memory_bytes: 256 << 20,
        ..Limits::default()
    };
    let config =
        HostConfig { limits, trial_wall: Duration::from_secs(60), ..HostConfig::default() };
    HookHost::new(config, Services::new(Arc::new(NoTokenizer))).unwrap()
}

/// Settings with so many instances kept ready.
fn ready(instances: usize) -> PluginSettings {
    let limits = LimitOverrides { ready: Some(instances), ..LimitOverrides::default() };
    PluginSettings { limits, ..PluginSettings::default() }
}

/// What the calling side of a worker looks like: jobs are tasks, and hooks run
/// elsewhere.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn call(job: &mut JobHooks, request: Request) {
    match black_box(job.on_request(request).await) {
        RequestOutcome::Continue(_) => {}
        other => panic!("{other:?}"),
    }
}

/// One job with one request phase, in the time that it takes.
async fn one_job(chain: &Chain, request: &Request) -> Duration {
    let request = request.clone();
    let began = Instant::now();
    let mut job = chain.begin(JobContext::default());
    call(&mut job, request).await;
    drop(job);
    began.elapsed()
}

/// Waits without letting this thread go to sleep: what the pool gains from a pause
/// is wanted, and what a processor loses in one is not.
async fn wait(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::task::yield_now().await;
    }
}

/// Measures jobs that follow each other, each in a fresh instance. With a `refill`
/// time they come in bursts, with that much time in between for the pool.
fn jobs(group: &mut Group<'_>, name: &str, chain: &Chain, refill: Option<Duration>) {
    let runtime = runtime();
    let request = request();
    group.calls(name, |n, calls| {
        runtime.block_on(async {
            for done in 0..n {
                if let Some(time) = refill
                    && done % BURST == 0
                {
                    wait(time).await;
                }
                calls.add(one_job(chain, &request).await);
            }
        });
    });
}

fn request_hook(c: &mut Criterion) {
    let mut group = Group::new(c, "request-hook");
    let context = JobContext::default();
    let given = request();
    group.each("native", || black_box(on_request(black_box(&context), black_box(&given))));

    let host = host();
    let module = Guest::returning(Image::pass).module();
    let chain = |ids: &[&'static str], instances: usize| {
        let plugins: Vec<_> =
            ids.iter().map(|id| (*id, module.as_slice(), ready(instances))).collect();
        host.load_bytes(&plugins).unwrap()
    };
    let refill = Some(Duration::from_millis(2));
    jobs(&mut group, "ready", &chain(&["a"], READY), refill);
    jobs(&mut group, "inline", &chain(&["a"], 0), None);
    jobs(&mut group, "three-ready", &chain(&["a", "b", "c"], READY), refill);
    jobs(&mut group, "three-inline", &chain(&["a", "b", "c"], 0), None);

    let runtime = runtime();
    let empty = host.empty_chain();
    group.loops("empty-phase", |n| {
        runtime.block_on(async {
            let mut job = empty.begin(JobContext::default());
            let mut request = given.clone();
            let began = Instant::now();
            for _ in 0..n {
                request = match black_box(&mut job).on_request(request).await {
                    RequestOutcome::Continue(request) => request,
                    other => panic!("{other:?}"),
                };
            }
            began.elapsed()
        })
    });

    let per_call = PerCall::new(&module);
    group.calls("per-call", |n, calls| {
        runtime.block_on(async {
            for _ in 0..n {
                let request = given.clone();
                let began = Instant::now();
                per_call.on_request(request).await;
                calls.add(began.elapsed());
            }
        });
    });

    let other = self::runtime();
    group.calls("hop", |n, calls| {
        runtime.block_on(async {
            for _ in 0..n {
                let began = Instant::now();
                other.spawn(async {}).await.unwrap();
                calls.add(began.elapsed());
            }
        });
    });

    let mut sidecar = runtime.block_on(Sidecar::start());
    group.calls("sidecar", |n, calls| {
        runtime.block_on(async {
            for _ in 0..n {
                let began = Instant::now();
                let verdict = sidecar.on_request(&given).await;
                calls.add(began.elapsed());
                assert_eq!(verdict, Verdict::Pass.as_str());
            }
        });
    });
}

criterion_group!(benches, request_hook, stream::benches, examples::benches);

fn main() {
    if sidecar::is_service() {
        return sidecar::serve();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
