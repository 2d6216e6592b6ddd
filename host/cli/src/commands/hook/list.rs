//! The table of `llamero hook list`.

use serde_json::Value;

use super::{short, worker_of};
use crate::output;

/// One row a worker and plugin; below it, why files are not in service.
pub fn table(bodies: &[Value]) -> String {
    let header = [
        "WORKER", "PLUGIN", "VERSION", "DIGEST", "PHASES", "STATE", "CALLS", "FAILURES", "P50",
        "P99",
    ];
    let mut table = output::table(&header);
    let mut remarks = Vec::new();
    let mut is_empty = true;
    for body in bodies.iter().filter(|body| body["hook"].is_object()) {
        let worker = worker_of(body);
        let plugins = body["hook"]["plugins"].as_array();
        for plugin in plugins.into_iter().flatten() {
            is_empty = false;
            table.add_row(row(worker, plugin));
            if let Some(error) = plugin["error"].as_str() {
                let id = plugin["plugin"].as_str().unwrap_or("?");
                remarks.push(format!("{worker}: the file of {id} is not in service: {error}"));
            }
        }
        if plugins.is_none_or(Vec::is_empty) {
            remarks.push(format!("{worker}: no plugins"));
        }
    }
    let mut text = if is_empty { String::new() } else { table.trim_fmt() };
    if !remarks.is_empty() {
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&remarks.join("\n"));
    }
    text
}

fn row(worker: &str, plugin: &Value) -> Vec<String> {
    let text = |name: &str| match plugin[name].as_str() {
        None | Some("") => "-".to_owned(),
        Some(text) => text.to_owned(),
    };
    let number = |name: &str| plugin[name].as_u64().unwrap_or(0);
    let phases = plugin["phases"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let phases = phases.collect::<Vec<_>>().join(",");
    let micros = |name: &str| match (number("calls"), number(name)) {
        (0, _) => "-".to_owned(),
        (_, micros) => duration(micros),
    };
    vec![
        worker.to_owned(),
        text("plugin"),
        text("version"),
        short(&text("digest")).to_owned(),
        if phases.is_empty() { "-".to_owned() } else { phases },
        text("state"),
        number("calls").to_string(),
        number("failures").to_string(),
        micros("p50_us"),
        micros("p99_us"),
    ]
}

/// Three digits are enough to compare by.
fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.1}s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plugins_have_a_row_each() {
        let plugin = json!({"plugin": "redact", "version": "1.2.0", "phases": ["request", "stream"],
            "digest": "0123456789abcdef0123456789abcdef", "state": "serving",
            "calls": 1200, "failures": 3, "p50_us": 42, "p99_us": 1234});
        let refused = json!({"plugin": "broken", "version": "", "phases": [], "digest": "",
            "state": "refused", "calls": 0, "failures": 0, "p50_us": 0, "p99_us": 0,
            "error": "not a WebAssembly file: only 0 bytes"});
        insta::assert_snapshot!(table(&[
            json!({"worker": "W1", "hook": {"action": "list", "plugins": [plugin, refused]}}),
            json!({"worker": "W2", "hook": {"action": "list", "plugins": []}}),
            json!({"worker": "W3", "error": {"error": "worker busy"}}),
        ]));
        assert_eq!(duration(2_500_000), "2.5s");
    }
}
