//! What hooks cost a job: beginning it and running its request phase through a
//! chain of plugins that do nothing, each in a fresh instance.
//!
//! The time includes the way to the hooks' own threads and back, which a job pays
//! as well. `cargo bench -p llamero-hooks` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and criterion's macros document nothing"
)]

#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/it/guest.rs"]
mod guest;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use guest::{Guest, Image};
use llamero_hooks::{
    Content, HookHost, HostConfig, JobContext, NoTokenizer, PluginSettings, Request, Services,
};

fn request() -> Request {
    Request {
        model: "model.gguf".to_owned(),
        content: Content::Completion {
            system: String::new(),
            // With names and options about 1 KB, as the targets are stated for.
            input: vec!["word ".repeat(200)],
        },
        options: vec![("temperature".to_owned(), serde_json::json!(0.2))],
        wants_stream: true,
    }
}

fn chains(c: &mut Criterion) {
    let host = HookHost::new(HostConfig::default(), Services::new(Arc::new(NoTokenizer))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let module = Guest::returning(Image::pass).module();
    let mut group = c.benchmark_group("begin_and_on_request");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for n in [0, 1, 3] {
        let plugins: Vec<_> = ["a", "b", "c"][..n]
            .iter()
            .map(|id| (*id, module.as_slice(), PluginSettings::default()))
            .collect();
        let chain = host.load_bytes(&plugins).unwrap();
        let request = request();
        group.bench_function(BenchmarkId::new("no_op_plugins", n), |b| {
            b.to_async(&runtime).iter(|| async {
                let mut job = chain.begin(JobContext::default());
                black_box(job.on_request(request.clone()).await)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, chains);
criterion_main!(benches);
