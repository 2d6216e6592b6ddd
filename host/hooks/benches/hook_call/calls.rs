//! Timing calls one by one: their sum is what criterion works with, and their
//! distribution is kept beside its files, because it tells nothing of a 99th
//! percentile.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use hdrhistogram::Histogram;

/// The calls of one benchmark.
pub struct Calls {
    nanoseconds: Histogram<u64>,
    sum: Duration,
}

impl Calls {
    pub fn add(&mut self, took: Duration) {
        self.sum += took;
        self.nanoseconds.saturating_record(u64::try_from(took.as_nanos()).unwrap());
    }
}

/// A group of benchmarks, and its name.
pub struct Group<'a> {
    name: String,
    group: BenchmarkGroup<'a, WallTime>,
}

impl<'a> Group<'a> {
    pub fn new(c: &'a mut Criterion, name: &str) -> Self {
        let mut group = c.benchmark_group(name);
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
        Self { name: name.to_owned(), group }
    }

    /// Measures calls that take microseconds: `run` makes so many and adds each.
    pub fn calls(&mut self, name: &str, mut run: impl FnMut(u64, &mut Calls)) {
        let mut calls = Calls {
            // Up to a minute.
            nanoseconds: Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap(),
            sum: Duration::ZERO,
        };
        self.group.bench_function(name, |b| {
            b.iter_custom(|n| {
                calls.sum = Duration::ZERO;
                run(n, &mut calls);
                calls.sum
            });
        });
        self.keep(name, &calls.nanoseconds);
    }

    /// Measures calls that take nanoseconds, in a loop of criterion's.
    pub fn each<T>(&mut self, name: &str, mut call: impl FnMut() -> T) {
        self.group.bench_function(name, |b| b.iter(&mut call));
    }

    /// The same in a loop of its own: `run` makes so many calls and returns what
    /// they took together.
    pub fn loops(&mut self, name: &str, mut run: impl FnMut(u64) -> Duration) {
        self.group.bench_function(name, |b| b.iter_custom(&mut run));
    }

    /// Writes the quantiles beside criterion's own files, if it was told where
    /// those are.
    fn keep(&self, name: &str, nanoseconds: &Histogram<u64>) {
        // A trial run makes one call, and a filtered one none.
        if nanoseconds.len() < 100 {
            return;
        }
        let quantile = |q| nanoseconds.value_at_quantile(q);
        let values = serde_json::json!({
            "calls": nanoseconds.len(),
            "p50_ns": quantile(0.5),
            "p99_ns": quantile(0.99),
            "max_ns": nanoseconds.max(),
        });
        println!("{}/{name} call by call: {values}", self.name);
        if let Some(home) = env::var_os("CRITERION_HOME") {
            let folder = PathBuf::from(home).join(&self.name).join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("calls.json"), values.to_string()).unwrap();
        }
    }
}
