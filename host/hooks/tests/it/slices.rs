//! On whose threads plugins run: a short call where its job is, a long one on the
//! hooks' own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llamero_hooks::{
    Chain, HookHost, LimitOverrides, Measurement, MetricsService, PluginSettings, Request, Services,
};

use crate::guest::{Guest, MODEL};
use crate::support::{Letters, config, context, continued, request};

/// The name of the hooks' own threads.
const HOOKS: &str = "hooks";

/// Records on which thread it was called.
#[derive(Default)]
struct Threads(Mutex<Vec<String>>);

impl MetricsService for Threads {
    fn record(&self, _: &str, _: &str, _: &[(String, String)], _: Measurement) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push(name);
    }
}

/// Counts something, after having computed for long if the model's name is longer
/// than a letter.
fn plugin() -> Guest {
    let mut guest = Guest::new();
    let [name, length] = guest.image.text("calls_total");
    let pass = guest.image.pass();
    let signature = "(param i32 i32 i64 i32 i32)";
    guest.import("metrics", "counter-add", signature).on_request(&format!(
        "(if (i32.gt_u (i32.load offset={} (local.get $args)) (i32.const 1)) (then
            (local.set $n (i32.const 500000000))
            (loop $spin (br_if $spin
                (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
         (call $counter-add (i32.const {name}) (i32.const {length}) (i64.const 1)
            (i32.const 0) (i32.const 0))
         (i32.const {pass})",
        MODEL + 4
    ))
}

struct Bench {
    threads: Arc<Threads>,
    chain: Chain,
    runtime: tokio::runtime::Runtime,
    _host: HookHost,
}

impl Bench {
    fn new() -> Self {
        let threads = Arc::new(Threads::default());
        let mut services = Services::new(Arc::new(Letters));
        services.metrics = threads.clone();
        let host = HookHost::new(config(), services).unwrap();
        let limits = LimitOverrides { ready: Some(4), ..LimitOverrides::default() };
        let settings = PluginSettings { limits, ..PluginSettings::default() };
        let chain = host.load_bytes(&[("a", &plugin().module(), settings)]).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("callers")
            .enable_time()
            .build()
            .unwrap();
        Self { threads, chain, runtime, _host: host }
    }

    /// Runs one job and says on which thread its plugin was at last.
    fn thread(&self, model: &str) -> String {
        let request = Request { model: model.to_owned(), ..request() };
        let chain = self.chain.clone();
        let job = async move { chain.begin(context()).on_request(request).await };
        continued(self.runtime.block_on(self.runtime.spawn(job)).unwrap());
        self.threads.0.lock().unwrap().pop().unwrap()
    }

    /// Runs short jobs until one of them stayed where it was, and says how many
    /// did not. Those for which no instance was ready do not either.
    fn until_it_stays(&self) -> u32 {
        let patience = Instant::now() + Duration::from_secs(60);
        let mut moved = 0;
        while self.thread("m") == HOOKS {
            assert!(Instant::now() < patience, "short calls never stay with their job");
            moved += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        moved
    }
}

#[test]
fn short_calls_stay_with_their_job_and_long_ones_move() {
    let bench = Bench::new();
    // A long call that had no ready instance was never on the caller's thread, so that
    // nothing is known of it afterwards; then it is tried again.
    let is_remembered = || {
        bench.until_it_stays();
        assert_eq!(bench.thread("long"), HOOKS);
        // It is known to take long now, and gets no slice for a while. That may be known
        // since the call before, if no processor was free for the very end of that one;
        // then the long call is the first of those that begin elsewhere.
        bench.until_it_stays() + 1 >= 64
    };
    assert!((0..10).any(|_| is_remembered()), "calls after a long one begin where it did");
}

#[test]
fn jobs_at_the_same_time_share_one_slice() {
    let bench = Bench::new();
    bench.until_it_stays();
    // Whatever they do at once, each gets its answer.
    let jobs: Vec<_> = (0..50)
        .map(|n| {
            let chain = bench.chain.clone();
            let model = if n % 10 == 0 { "long" } else { "m" };
            let request = Request { model: model.to_owned(), ..request() };
            bench.runtime.spawn(async move { chain.begin(context()).on_request(request).await })
        })
        .collect();
    for job in jobs {
        continued(bench.runtime.block_on(job).unwrap());
    }
    assert_eq!(bench.threads.0.lock().unwrap().len(), 50);
}
