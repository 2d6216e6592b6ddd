//! The metrics of hooks, kept in this process.
//!
//! Hooks make their own counters, gauges and histograms; their names and labels
//! have been checked before they come here. This module bounds how many series
//! there are, and how much a series takes. Showing them is left to whoever asks
//! for a [`snapshot`](PluginMetrics::snapshot).

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llamero_hooks::{Measurement, MetricsService};
use serde::Serialize;

use crate::nats::throttle::Throttle;

/// Buckets of a histogram. Each is a power of two wide, the first ends at
/// 2^[`FIRST_EXPONENT`] and the last has no end.
const BUCKETS: usize = 64;

/// About a millionth; the last bucket begins at about 4 * 10^12.
const FIRST_EXPONENT: i32 = -20;

/// Series of all hooks.
#[derive(Debug)]
pub struct PluginMetrics {
    most: usize,
    kept: Mutex<Kept>,
    log: Throttle,
}

#[derive(Debug, Default)]
struct Kept {
    /// By plugin and by name.
    plugins: HashMap<String, HashMap<String, Family>>,
    n_series: usize,
    dropped: u64,
}

/// All series of one name. They are of one kind, that of the first measurement.
#[derive(Debug)]
struct Family {
    kind: Kind,
    series: HashMap<Vec<(String, String)>, Series>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
enum Series {
    Counter(u64),
    Gauge(f64),
    Histogram(Box<Histogram>),
}

#[derive(Debug)]
struct Histogram {
    count: u64,
    sum: f64,
    least: f64,
    most: f64,
    buckets: [u64; BUCKETS],
}

/// Everything that is kept, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricsSnapshot {
    /// The series, sorted by plugin, name and labels.
    pub series: Vec<SeriesSnapshot>,
    /// Measurements that were dropped: of a series beyond the limit, or of another
    /// kind than the first one of their name.
    pub dropped: u64,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeriesSnapshot {
    /// The hook's id.
    pub plugin: String,
    /// The name that the hook gave it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    #[serde(flatten)]
    pub value: SeriesValue,
}

/// What a series says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SeriesValue {
    /// The sum; it stays at its largest value.
    Counter(u64),
    /// The last value.
    Gauge(f64),
    /// The distribution.
    Histogram {
        /// How many values.
        count: u64,
        /// Their sum.
        sum: f64,
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
        /// The buckets that hold any: up to and including which value, and how
        /// many. Each begins where the one half as large ends; the first one also
        /// holds everything below, the last one everything above.
        buckets: Vec<(f64, u64)>,
    },
}

impl PluginMetrics {
    /// Keeps up to `most` series, over all hooks.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default(), log: Throttle::new(Duration::from_secs(60)) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let kept = self.kept();
        let mut series = Vec::with_capacity(kept.n_series);
        for (plugin, families) in &kept.plugins {
            for (name, family) in families {
                series.extend(family.series.iter().map(|(labels, value)| SeriesSnapshot {
                    plugin: plugin.clone(),
                    name: name.clone(),
                    labels: labels.iter().cloned().collect(),
                    value: value.snapshot(),
                }));
            }
        }
        let dropped = kept.dropped;
        drop(kept);
        series
            .sort_by(|a, b| (&a.plugin, &a.name, &a.labels).cmp(&(&b.plugin, &b.name, &b.labels)));
        MetricsSnapshot { series, dropped }
    }
}

impl MetricsService for PluginMetrics {
    fn record(&self, plugin: &str, name: &str, labels: &[(String, String)], value: Measurement) {
        let mut kept = self.kept();
        if kept.add(plugin, name, labels, value) {
            return;
        }
        if let Some(reason) = kept.make(plugin, name, labels, value, self.most) {
            kept.dropped = kept.dropped.saturating_add(1);
            let dropped = kept.dropped;
            drop(kept);
            if self.log.pass() {
                tracing::warn!(hook = plugin, name, dropped, reason, "a metric of a hook dropped");
            }
        }
    }
}

impl Kept {
    /// Adds to a series that there is. False if there is none of this kind.
    fn add(
        &mut self,
        plugin: &str,
        name: &str,
        labels: &[(String, String)],
        value: Measurement,
    ) -> bool {
        let family = self.plugins.get_mut(plugin).and_then(|families| families.get_mut(name));
        let series = family.and_then(|family| family.series.get_mut(labels));
        series.is_some_and(|series| series.add(value))
    }

    /// Makes a series, or says why not.
    fn make(
        &mut self,
        plugin: &str,
        name: &str,
        labels: &[(String, String)],
        value: Measurement,
        most: usize,
    ) -> Option<&'static str> {
        let kind = kind(value);
        let family = self.plugins.get(plugin).and_then(|families| families.get(name));
        if family.is_some_and(|family| family.kind != kind) {
            return Some("the name belongs to a metric of another kind");
        }
        if self.n_series >= most {
            return Some("there are as many series as hook_metric_series allows");
        }
        let families = self.plugins.entry(plugin.to_owned()).or_default();
        let family = families
            .entry(name.to_owned())
            .or_insert_with(|| Family { kind, series: HashMap::new() });
        if let Entry::Vacant(place) = family.series.entry(labels.to_vec()) {
            place.insert(Series::new(value));
            self.n_series += 1;
        }
        None
    }
}

fn kind(value: Measurement) -> Kind {
    match value {
        Measurement::Counter(_) => Kind::Counter,
        Measurement::Gauge(_) => Kind::Gauge,
        Measurement::Histogram(_) => Kind::Histogram,
    }
}

impl Series {
    fn new(value: Measurement) -> Self {
        match value {
            Measurement::Counter(count) => Self::Counter(count),
            Measurement::Gauge(number) => Self::Gauge(number),
            Measurement::Histogram(number) => {
                let mut histogram = Histogram {
                    count: 0,
                    sum: 0.0,
                    least: number,
                    most: number,
                    buckets: [0; BUCKETS],
                };
                histogram.add(number);
                Self::Histogram(Box::new(histogram))
            }
        }
    }

    /// False if it is of another kind.
    fn add(&mut self, value: Measurement) -> bool {
        match (self, value) {
            (Self::Counter(sum), Measurement::Counter(count)) => *sum = sum.saturating_add(count),
            (Self::Gauge(last), Measurement::Gauge(number)) => *last = number,
            (Self::Histogram(histogram), Measurement::Histogram(number)) => histogram.add(number),
            _ => return false,
        }
        true
    }

    fn snapshot(&self) -> SeriesValue {
        match self {
            Self::Counter(sum) => SeriesValue::Counter(*sum),
            Self::Gauge(last) => SeriesValue::Gauge(*last),
            Self::Histogram(histogram) => SeriesValue::Histogram {
                count: histogram.count,
                sum: histogram.sum,
                min: histogram.least,
                max: histogram.most,
                buckets: histogram.used_buckets(),
            },
        }
    }
}

impl Histogram {
    fn add(&mut self, number: f64) {
        self.count = self.count.saturating_add(1);
        // Stays a number that JSON has, whatever is added.
        self.sum = (self.sum + number).clamp(f64::MIN, f64::MAX);
        self.least = self.least.min(number);
        self.most = self.most.max(number);
        let bucket = &mut self.buckets[bucket(number)];
        *bucket = bucket.saturating_add(1);
    }

    fn used_buckets(&self) -> Vec<(f64, u64)> {
        let ends = (FIRST_EXPONENT..).map(|exponent| 2f64.powi(exponent));
        ends.zip(self.buckets).filter(|(_, count)| *count > 0).collect()
    }
}

/// The bucket of a number: the first whose end is not below it.
fn bucket(number: f64) -> usize {
    let first = 2f64.powi(FIRST_EXPONENT);
    if number <= first {
        return 0;
    }
    // Exact at the ends: both sides are powers of two there.
    let above = (number / first).log2().ceil();
    (above as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_kind_is_kept_its_own_way() {
        let metrics = PluginMetrics::new(10);
        let gold = labels(&[("tier", "gold")]);
        for count in [3, 4] {
            metrics.record("b", "requests", &gold, Measurement::Counter(count));
        }
        metrics.record("b", "requests", &[], Measurement::Counter(u64::MAX));
        metrics.record("b", "requests", &[], Measurement::Counter(1));
        for number in [1.5, -2.5] {
            metrics.record("a", "level", &[], Measurement::Gauge(number));
        }
        for number in [0.0, 1.0, 1.5, 2.0, 1e300] {
            metrics.record("a", "sizes", &[], Measurement::Histogram(number));
        }
        let snapshot = serde_json::to_value(metrics.snapshot()).unwrap();
        let (lowest, highest) = (2f64.powi(-20), 2f64.powi(43));
        assert_eq!(
            snapshot,
            json!({
                "dropped": 0,
                "series": [
                    {"plugin": "a", "name": "level", "labels": {}, "gauge": -2.5},
                    {"plugin": "a", "name": "sizes", "labels": {}, "histogram": {
                        "count": 5, "sum": 1e300, "min": 0.0, "max": 1e300,
                        "buckets": [[lowest, 1], [1.0, 1], [2.0, 2], [highest, 1]],
                    }},
                    {"plugin": "b", "name": "requests", "labels": {}, "counter": u64::MAX},
                    {"plugin": "b", "name": "requests", "labels": {"tier": "gold"}, "counter": 7},
                ],
            })
        );
    }

    #[test]
    fn series_beyond_the_limit_are_dropped_and_counted() {
        let metrics = PluginMetrics::new(2);
        for plugin in ["a", "b", "c", "c"] {
            metrics.record(plugin, "n", &[], Measurement::Counter(1));
        }
        metrics.record("a", "n", &labels(&[("k", "v")]), Measurement::Counter(1));
        // What is there goes on.
        metrics.record("a", "n", &[], Measurement::Counter(1));
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.dropped, 3);
        let values: Vec<_> = snapshot.series.iter().map(|s| (&*s.plugin, &s.value)).collect();
        assert_eq!(values, [("a", &SeriesValue::Counter(2)), ("b", &SeriesValue::Counter(1))]);
        let none = PluginMetrics::new(0);
        none.record("a", "n", &[], Measurement::Gauge(1.0));
        assert_eq!(none.snapshot(), MetricsSnapshot { series: Vec::new(), dropped: 1 });
    }

    #[test]
    fn a_name_is_of_one_kind() {
        let metrics = PluginMetrics::new(10);
        metrics.record("a", "n", &[], Measurement::Counter(1));
        metrics.record("a", "n", &[], Measurement::Gauge(1.0));
        metrics.record("a", "n", &labels(&[("k", "v")]), Measurement::Histogram(1.0));
        // Names of another plugin are its own.
        metrics.record("b", "n", &[], Measurement::Gauge(1.0));
        let snapshot = metrics.snapshot();
        assert_eq!((snapshot.series.len(), snapshot.dropped), (2, 2));
    }

    #[test]
    fn the_buckets_end_at_powers_of_two() {
        for exponent in FIRST_EXPONENT..FIRST_EXPONENT + 64 {
            let end = 2f64.powi(exponent);
            let index = usize::try_from(exponent - FIRST_EXPONENT).unwrap();
            assert_eq!(bucket(end), index, "{end}");
            assert_eq!(bucket(end * 0.75), index, "below {end}");
            assert_eq!(bucket(end * 1.5), (index + 1).min(BUCKETS - 1), "above {end}");
        }
        assert_eq!(bucket(-1.0), 0);
        assert_eq!(bucket(f64::MAX), BUCKETS - 1);
    }
}
