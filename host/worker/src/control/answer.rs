//! What commands about hooks are answered with, as JSON. Members may be added, and
//! none is ever renamed.

use llamero_hooks::{
    Latency, PhaseStats, PluginState, PluginStats, PluginStatus, Registry, Rollback, SyncReport,
};
use serde_json::{Map, Value, json};

/// All plugins and what they did so far.
pub fn list(hooks: &Registry) -> Value {
    let plugins: Vec<Value> = hooks.list().iter().map(plugin).collect();
    json!({
        "action": "list",
        "generation": hooks.generation(),
        "draining": hooks.draining(),
        "plugins": plugins,
    })
}

/// What a look at the folder led to.
pub fn reload(report: &SyncReport) -> Value {
    let kept = report.kept.iter().map(|(id, error)| {
        // The text names the plugin by itself where it stands alone.
        json!({ "plugin": id, "error": error.cause.to_string() })
    });
    json!({
        "action": "reload",
        "generation": report.generation,
        "loaded": report.loaded,
        "removed": report.removed,
        "kept": kept.collect::<Vec<_>>(),
        "unchanged": report.unchanged,
    })
}

/// From which version to which.
pub fn rollback(plugin: &str, done: &Rollback) -> Value {
    json!({
        "action": "rollback",
        "plugin": plugin,
        "from": done.from,
        "to": done.to,
        "generation": done.generation,
    })
}

/// `changed` is false if it was so before.
pub fn switched(action: &str, plugin: &str, changed: bool, generation: u64) -> Value {
    json!({ "action": action, "plugin": plugin, "changed": changed, "generation": generation })
}

fn plugin(status: &PluginStatus) -> Value {
    let phases = &status.stats.phases;
    let failures = |phase: &PhaseStats| phase.failures.iter().map(|(_, count)| count).sum::<u64>();
    let mut value = json!({
        "plugin": status.id,
        "name": status.name,
        "version": status.version,
        "digest": status.digest,
        "phases": status.phases.iter().map(|phase| phase.as_str()).collect::<Vec<_>>(),
        "state": status.state.as_str(),
        "order": status.order,
        "required": status.required,
        "generation": status.generation,
        "calls": phases.iter().map(|phase| phase.calls).sum::<u64>(),
        "failures": phases.iter().map(failures).sum::<u64>(),
        // Of the slowest phase: an average over phases would be nobody's time.
        "p50_us": phases.iter().map(|phase| phase.wall.p50_us).max().unwrap_or(0),
        "p99_us": phases.iter().map(|phase| phase.wall.p99_us).max().unwrap_or(0),
        "stats": stats(&status.stats),
    });
    if let PluginState::Quarantined { retry_in } = status.state {
        value["retry_in_ms"] = (retry_in.as_millis() as u64).into();
    }
    if let Some(error) = &status.last_error {
        value["error"] = error.as_str().into();
    }
    if let Some(previous) = &status.previous {
        value["previous"] = previous.as_str().into();
    }
    value
}

fn stats(stats: &PluginStats) -> Value {
    let phases = stats.phases.iter().map(|phase| {
        let verdicts = phase.verdicts.iter().map(|(verdict, count)| (verdict.as_str(), *count));
        let failures = phase.failures.iter().map(|(kind, count)| (kind.as_str(), *count));
        json!({
            "phase": phase.phase.as_str(),
            "calls": phase.calls,
            "skipped": phase.skipped,
            "verdicts": counts(verdicts),
            "failures": counts(failures),
            "wall_us": latency(phase.wall),
            "cpu_us": latency(phase.cpu),
        })
    });
    let instances = &stats.instances;
    json!({
        "phases": phases.collect::<Vec<_>>(),
        "instances": {
            "ready": instances.ready,
            "inline": instances.inline,
            "ready_wait_us": latency(instances.ready_wait),
            "inline_wait_us": latency(instances.inline_wait),
        },
        "held_bytes_max": stats.held_bytes_max,
    })
}

fn counts<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Map<String, Value> {
    counts.map(|(name, count)| (name.to_owned(), count.into())).collect()
}

fn latency(latency: Latency) -> Value {
    json!({ "p50": latency.p50_us, "p99": latency.p99_us, "max": latency.max_us })
}
