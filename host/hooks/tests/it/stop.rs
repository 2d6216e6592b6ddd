//! Stopping a plugin that runs: by cancelling the job, and by giving up on it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use llamero_hooks::{
    FailureKind, HookHost, ModelInfo, NoTokenizer, PromptOutcome, Services, TokenizerError,
    TokenizerService,
};

use crate::guest::{Guest, Image};
use crate::support::{
    chain, config, context, continued, failed, host, host_with, prompt, request, runtime,
};

fn endless() -> Guest {
    Guest::doing("(loop $l (br $l))")
}

#[test]
fn cancelling_ends_the_call_in_progress_and_later_ones() {
    let host = host();
    let chain = chain(&host, &[&endless()]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        let canceller = job.canceller();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            canceller.cancel();
        });
        failed(job.on_request(request()).await, "a", FailureKind::Cancelled);

        let mut late = chain.begin(context());
        late.canceller().cancel();
        failed(late.on_request(request()).await, "a", FailureKind::Cancelled);
    });
}

#[test]
fn dropping_the_future_stops_the_plugin_and_frees_its_place() {
    let host = host_with(|config| {
        config.concurrency = 1;
        config.max_instances = 1;
    });
    let stuck = chain(&host, &[&endless()]);
    let good = chain(&host, &[&Guest::returning(Image::pass)]);
    runtime().block_on(async {
        for _ in 0..3 {
            let mut job = stuck.begin(context());
            let waiting = Duration::from_millis(50);
            let gave_up = tokio::time::timeout(waiting, job.on_request(request())).await;
            assert!(gave_up.is_err());
            // The job cannot go on without the request phase.
            let outcome = job.on_prompt(prompt()).await;
            assert!(
                matches!(outcome, PromptOutcome::Continue { replaced: false, .. }),
                "no plugin has that phase: {outcome:?}"
            );
            failed(job.on_request(request()).await, "a", FailureKind::Cancelled);
        }
        continued(good.begin(context()).on_request(request()).await);
    });
}

/// Takes its time or panics, as no tokenizer should.
struct Slow;

impl TokenizerService for Slow {
    fn describe(&self, model: &str) -> Result<ModelInfo, TokenizerError> {
        NoTokenizer.describe(model)
    }

    fn count(&self, _: &str, text: &str) -> Result<u32, TokenizerError> {
        assert!(text.len().is_multiple_of(2), "an odd text");
        std::thread::sleep(Duration::from_secs(2));
        Ok(0)
    }

    fn encode(&self, model: &str, text: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
        NoTokenizer.encode(model, text, false)
    }

    fn count_prompt(
        &self,
        model: &str,
        text: &str,
        markup: &[Range<usize>],
    ) -> Result<u32, TokenizerError> {
        NoTokenizer.count_prompt(model, text, markup)
    }

    fn decode(&self, model: &str, tokens: &[u32]) -> Result<String, TokenizerError> {
        NoTokenizer.decode(model, tokens)
    }
}

#[test]
fn a_guest_that_waits_in_a_host_call_ends_by_wall_time() {
    let mut config = config();
    config.limits.wall = Duration::from_millis(200);
    let host = HookHost::new(config, Services::new(Arc::new(Slow))).unwrap();
    let waits = Guest::doing(
        "(call $count (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 20000) (i32.const 32))",
    )
    .import("tokenizer", "count", "(param i32 i32 i32 i32 i32)");
    let parked = chain(&host, &[&waits]);
    let good = chain(&host, &[&Guest::returning(Image::pass)]);
    runtime().block_on(async {
        let outcome = parked.begin(context()).on_request(request()).await;
        failed(outcome, "a", FailureKind::Wall);
        continued(good.begin(context()).on_request(request()).await);
    });
}

#[test]
fn a_panic_of_the_host_ends_one_job_and_is_the_hosts() {
    let host = HookHost::new(config(), Services::new(Arc::new(Slow))).unwrap();
    // A short text is counted on the spot, a long one on another thread.
    let panics = |length: u32| {
        Guest::doing(&format!(
            "(call $count (i32.const 0) (i32.const 0) (i32.const 0) (i32.const {length})
                (i32.const 32))"
        ))
        .import("tokenizer", "count", "(param i32 i32 i32 i32 i32)")
    };
    let good = chain(&host, &[&Guest::returning(Image::pass)]);
    runtime().block_on(async {
        for length in [11, 20_001] {
            let broken = chain(&host, &[&panics(length)]);
            let mut job = broken.begin(context());
            failed(job.on_request(request()).await, "a", FailureKind::Host);
            continued(good.begin(context()).on_request(request()).await);
        }
    });
}

#[test]
fn runaways_on_every_thread_leave_room_for_others() {
    let host = host_with(|config| {
        config.threads = 2;
        config.max_instances = 6;
    });
    let stuck = chain(&host, &[&endless()]);
    let good = chain(&host, &[&Guest::returning(Image::pass)]);
    runtime().block_on(async {
        let mut runaways = Vec::new();
        for _ in 0..4 {
            let mut job = stuck.begin(context());
            let canceller = job.canceller();
            let task = tokio::spawn(async move { job.on_request(request()).await });
            runaways.push((canceller, task));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..10 {
            continued(good.begin(context()).on_request(request()).await);
        }
        for (canceller, task) in runaways {
            canceller.cancel();
            failed(task.await.unwrap(), "a", FailureKind::Cancelled);
        }
    });
}
