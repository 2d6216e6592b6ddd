//! The limits of hooks: the same names give the global settings `hook_*` and the
//! keys of a hook's table `limits`.
//!
//! What each limit means, and its default, is said by `llamero_hooks::Limits`.

use std::collections::BTreeMap;
use std::time::Duration;

use llamero_hooks::LimitOverrides;

use super::super::list::SETTINGS;
use super::super::spec::Kind;
use super::super::value;
use super::{Entry, Reader};

/// What every global limit setting begins with; the rest is its name in a
/// plugin's table.
const LIMIT_PREFIX: &str = "hook_";

/// The limits that may also be set for one plugin.
pub(super) const LIMITS: &[&str] = &[
    "wall_ms",
    "cpu_ms",
    "push_wall_ms",
    "push_cpu_ms",
    "observer_wall_ms",
    "observer_cpu_ms",
    "hold_bytes",
    "hold_ms",
    "state_bytes",
    "state_keys",
    "calls",
    "ready",
    "memory_mib",
    "output_bytes",
    "host_call_bytes",
    "handles",
    "reason_bytes",
    "tokenizer_bytes",
    "log_bytes_per_s",
    "notes",
];

/// Puts one limit where it belongs. `name` is one of [`LIMITS`].
pub(super) fn set_limit(limits: &mut LimitOverrides, name: &str, number: u64) {
    let millis = Some(Duration::from_millis(number));
    let count = Some(usize::try_from(number).unwrap_or(usize::MAX));
    match name {
        "wall_ms" => limits.wall = millis,
        "cpu_ms" => limits.cpu = millis,
        "push_wall_ms" => limits.push_wall = millis,
        "push_cpu_ms" => limits.push_cpu = millis,
        "observer_wall_ms" => limits.observer_wall = millis,
        "observer_cpu_ms" => limits.observer_cpu = millis,
        "hold_bytes" => limits.hold_bytes = count,
        "hold_ms" => limits.hold_time = millis,
        "state_bytes" => limits.state_bytes = count,
        "state_keys" => limits.state_keys = count,
        "calls" => limits.calls = count,
        "ready" => limits.ready = count,
        "memory_mib" => limits.memory_bytes = count.map(|mib| mib.saturating_mul(1 << 20)),
        "output_bytes" => limits.output_bytes = count,
        "host_call_bytes" => limits.host_call_bytes = count,
        "handles" => limits.handles = count,
        "reason_bytes" => limits.reason_bytes = count,
        "tokenizer_bytes" => limits.tokenizer_bytes = count,
        "log_bytes_per_s" => limits.log_bytes_per_s = count,
        "notes" => limits.notes = count,
        _ => {}
    }
}

/// The global limits: what the settings `hook_*` say.
pub fn global_limits(number: impl Fn(&str) -> u64) -> LimitOverrides {
    let mut limits = LimitOverrides::default();
    for name in LIMITS {
        set_limit(&mut limits, name, number(&format!("{LIMIT_PREFIX}{name}")));
    }
    limits
}

impl Reader<'_> {
    pub(super) fn limits(&mut self, members: &BTreeMap<&str, Entry<'_>>) -> LimitOverrides {
        let mut limits = LimitOverrides::default();
        for (name, entry) in members {
            let key = format!("limits.{name}");
            if !LIMITS.contains(name) {
                self.unknown(*entry, &key, name, LIMITS);
                continue;
            }
            let kind = SETTINGS
                .iter()
                .find(|spec| spec.name.strip_prefix(LIMIT_PREFIX) == Some(name))
                .map_or(Kind::Text, |spec| spec.kind);
            match value::from_toml(kind, entry.value) {
                Ok(number) => set_limit(&mut limits, name, number.as_u64().unwrap_or_default()),
                Err(reason) => self.problem(*entry, &key, reason),
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_limit_has_a_global_setting_and_a_field() {
        let mut all = LimitOverrides::default();
        for name in LIMITS {
            assert!(SETTINGS.iter().any(|spec| spec.name == format!("hook_{name}")), "{name}");
            let mut limits = LimitOverrides::default();
            set_limit(&mut limits, name, 7);
            assert_ne!(limits, LimitOverrides::default(), "{name}");
            set_limit(&mut all, name, 7);
        }
        // No field is left out.
        assert!(!format!("{all:?}").contains("None"), "{all:?}");
    }

    #[test]
    fn the_defaults_are_those_of_the_hooks_crate() {
        let defaults = global_limits(|name| {
            let spec = SETTINGS.iter().find(|spec| spec.name == name).unwrap();
            spec.default.to_value().as_u64().unwrap()
        });
        let limits = llamero_hooks::Limits::default();
        assert_eq!(defaults.over(&limits), limits);
    }
}
