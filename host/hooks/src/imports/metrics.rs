//! The import `metrics`: a plugin's own counters, gauges and histograms.
//!
//! Names and labels must fit into any collection of metrics, so that what does
//! not is dropped here: counted, and warned about as often as the plugin's log
//! budget allows. A measurement is never a reason to fail a request. Keeping the
//! series, and bounding their number, is the service's task (`services`).

use std::time::Instant;

use tracing::warn;

use super::TARGET;
use super::log::LOG_OVERHEAD;
use crate::bindings::v0_1::metrics;
use crate::guest::GuestState;
use crate::services::{DROPPED_METRICS, Measurement, RESERVED_METRICS};

/// Longest name of a metric or a label.
const NAME_BYTES: usize = 64;
/// Most labels of one measurement.
const LABELS: usize = 8;
/// Longest value of a label.
const LABEL_VALUE_BYTES: usize = 128;

/// Whether this can be the name of a metric or a label.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The labels in the order of their names, or what is wrong with a measurement.
fn check(
    name: &str,
    labels: Vec<metrics::Label>,
    value: Measurement,
) -> Result<Vec<(String, String)>, &'static str> {
    if !is_name(name) {
        return Err("its name is not 1 to 64 of a-z, 0-9 and _");
    }
    if name.starts_with(RESERVED_METRICS) {
        return Err("names that begin with llamero_ are the host's");
    }
    if labels.len() > LABELS {
        return Err("it has more than 8 labels");
    }
    if let Measurement::Gauge(number) | Measurement::Histogram(number) = value
        && !number.is_finite()
    {
        return Err("its value is not a finite number");
    }
    let mut sorted = Vec::with_capacity(labels.len());
    for metrics::Label { key, value } in labels {
        if !is_name(&key) {
            return Err("the name of a label is not 1 to 64 of a-z, 0-9 and _");
        }
        if value.len() > LABEL_VALUE_BYTES {
            return Err("the value of a label has more than 128 bytes");
        }
        sorted.push((key, value));
    }
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err("it has the same label twice");
    }
    Ok(sorted)
}

impl GuestState {
    fn measure(&self, name: &str, labels: Vec<metrics::Label>, value: Measurement) {
        let plugin = &self.plugin;
        match check(name, labels, value) {
            Ok(labels) => plugin.services.metrics.record(&plugin.id, name, &labels, value),
            Err(reason) => {
                let one = Measurement::Counter(1);
                plugin.services.metrics.record(&plugin.id, DROPPED_METRICS, &[], one);
                if plugin.log.take(LOG_OVERHEAD, Instant::now()).is_some() {
                    // The name is not logged: it is whatever the plugin made of it.
                    warn!(
                        target: TARGET,
                        plugin = plugin.id,
                        reason,
                        "a measurement of a plugin dropped"
                    );
                }
            }
        }
    }
}

impl metrics::Host for GuestState {
    fn counter_add(
        &mut self,
        name: String,
        value: u64,
        labels: Vec<metrics::Label>,
    ) -> wasmtime::Result<()> {
        self.measure(&name, labels, Measurement::Counter(value));
        Ok(())
    }

    fn gauge_set(
        &mut self,
        name: String,
        value: f64,
        labels: Vec<metrics::Label>,
    ) -> wasmtime::Result<()> {
        self.measure(&name, labels, Measurement::Gauge(value));
        Ok(())
    }

    fn histogram_record(
        &mut self,
        name: String,
        value: f64,
        labels: Vec<metrics::Label>,
    ) -> wasmtime::Result<()> {
        self.measure(&name, labels, Measurement::Histogram(value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<metrics::Label> {
        let label = |(key, value): &(&str, &str)| metrics::Label {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        pairs.iter().map(label).collect()
    }

    const ONE: Measurement = Measurement::Counter(1);

    #[test]
    fn names_are_of_one_alphabet_and_length() {
        let longest = "a".repeat(64);
        for name in ["a", "requests_total", "0", "_", longest.as_str()] {
            assert_eq!(check(name, Vec::new(), ONE), Ok(Vec::new()), "{name}");
            assert!(check("a", labels(&[(name, "x")]), ONE).is_ok(), "{name}");
        }
        let too_long = "a".repeat(65);
        for name in ["", "Requests", "a-b", "a.b", "a b", "ä", "a\n", too_long.as_str()] {
            assert!(check(name, Vec::new(), ONE).unwrap_err().contains("64"), "{name}");
            assert!(check("a", labels(&[(name, "x")]), ONE).unwrap_err().contains("label"));
        }
        assert!(check(DROPPED_METRICS, Vec::new(), ONE).unwrap_err().contains("host's"));
    }

    #[test]
    fn labels_are_few_short_sorted_and_different() {
        let many: Vec<String> = (0..9).map(|n| format!("k{n}")).collect();
        let pairs: Vec<_> = many.iter().map(|key| (key.as_str(), "v")).collect();
        assert!(check("a", labels(&pairs[..8]), ONE).is_ok());
        assert!(check("a", labels(&pairs), ONE).unwrap_err().contains("8 labels"));

        let (longest, too_long) = ("ä".repeat(64), "x".repeat(129));
        assert!(check("a", labels(&[("k", &longest)]), ONE).is_ok());
        assert!(check("a", labels(&[("k", &too_long)]), ONE).unwrap_err().contains("128"));

        let sorted = check("a", labels(&[("b", "1"), ("a", "2")]), ONE).unwrap();
        assert_eq!(sorted, [("a".into(), "2".into()), ("b".into(), "1".into())]);
        let twice = labels(&[("a", "1"), ("a", "2")]);
        assert!(check("a", twice, ONE).unwrap_err().contains("twice"));
    }

    #[test]
    fn values_are_finite() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for value in [Measurement::Gauge(number), Measurement::Histogram(number)] {
                assert!(check("a", Vec::new(), value).unwrap_err().contains("finite"));
            }
        }
        assert!(check("a", Vec::new(), Measurement::Gauge(-1.5)).is_ok());
    }
}
