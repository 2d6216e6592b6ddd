//! Files that must not come into service: each is renamed over a plugin that serves.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Traffic, guests};
use crate::files;
use crate::harness::Cli;
use crate::harness::prerequisites::refused_plugin;
use crate::report::Bar;
use crate::rig::{Rig, put};

/// The plugin that serves all the time.
const ID: &str = "a";

/// A file, and what the reason for refusing it must contain.
struct Bad {
    what: &'static str,
    bytes: Vec<u8>,
    cause: &'static str,
}

/// Every kind that there is a way to make.
fn bad() -> Vec<Bad> {
    let version = files::version(1);
    let refused = |name: &str| std::fs::read(refused_plugin(name)).expect("read a plugin");
    let bad = |what, bytes, cause| Bad { what, bytes, cause };
    vec![
        bad("a truncated file", version[..version.len() / 2].to_vec(), "invalid WebAssembly"),
        bad("no WebAssembly", b"#!/bin/sh\nexit 0\n".to_vec(), "not a WebAssembly file"),
        bad("wrong types", guests::wrong_types(), "does not have the types"),
        bad("an import that is not granted", files::plugin("state-counter"), "not granted"),
        bad("an import that nobody has", refused("unknown-import"), "nowhere"),
        bad("an error in configure", refused("configure-error"), "`limit` is missing"),
        bad("a trap in configure", refused("configure-trap"), "trial, configure: trap"),
        bad("a loop in configure", refused("configure-loop"), "trial, configure: cpu"),
        bad("a loop in self-test", guests::self_test_loop(), "trial, self-test: cpu"),
        bad("recursion in configure", guests::configure_recursion(), "trial, configure: stack"),
        bad("2 GiB of memory", guests::two_gib(), "minimum byte size of 2147483648"),
        bad(
            "a table of 10,000,000",
            guests::ten_million_elements(),
            "minimum element size of 10000000",
        ),
        bad("16 MiB in a host call", guests::configure_host_call(), "trial, configure: quota"),
        bad("5,000 handles", guests::handles(), "trial, instantiate: quota"),
        bad("a description of 10 MiB", guests::giant_description(), "trial, describe: "),
        bad("parked in a host call", guests::parked(), "trial, instantiate: wall"),
    ]
}

pub async fn measure() -> Vec<Bar> {
    let serving = files::version(0);
    let prepare = |dir: &Path| {
        put(dir, ID, &serving);
        put(dir, "respond", &files::plugin("respond"));
    };
    let rig = Rig::start(prepare, |worker| worker).await;
    let digest = rig.listed(ID).await["digest"].clone();
    let traffic = Traffic::start(rig.client.clone(), 0, Duration::from_millis(2));
    let mut unnamed = Vec::new();
    let (mut changed, mut slowest) = (Vec::new(), (Duration::ZERO, ""));
    let bad = bad();
    for Bad { what, bytes, cause } in &bad {
        let renamed = rig.swap(&rig.stage(bytes), ID);
        let refused = rig.until(ID, what, |a| a["error"].is_string()).await;
        slowest = slowest.max((renamed.elapsed(), *what));
        let error = listed_error(&rig).await;
        if !error.contains(cause) {
            unnamed.push(format!("{what}: {error}"));
        }
        if refused["digest"] != digest || refused["state"] != "serving" {
            changed.push(format!("{what}: {} is {}", refused["digest"], refused["state"]));
        }
        // The file that serves, again: the next one replaces it as this one did.
        rig.swap(&rig.stage(&serving), ID);
        rig.until(ID, "the end of the refusal", |a| a["error"].is_null()).await;
    }
    let ended = Instant::now();
    let (asked, failures) = traffic.end().await;
    assert!(ended.elapsed() < Duration::from_secs(10), "the last request took long");
    vec![
        Bar::noted(
            "bad files over one that serves",
            format!(
                "{}; {asked} requests meanwhile; the longest refusal took {:.1} s ({})",
                bad.len(),
                slowest.0.as_secs_f64(),
                slowest.1
            ),
        ),
        Bar::none(
            "bad files whose cause `llamero hook list` does not name",
            unnamed.len(),
            &unnamed,
        ),
        Bar::none("bad files that changed what serves", changed.len(), &changed),
        Bar::none("requests that failed meanwhile", failures.len(), &failures),
    ]
}

/// Why the file is not in service, as an operator is told.
async fn listed_error(rig: &Rig) -> String {
    let url = rig.bench.nats.url();
    let ran = Cli::new(&["hook", "list", "--json", "--nats", &url]).run().await;
    let list: Value = serde_json::from_str(&ran.stdout).expect("JSON of llamero hook list");
    let plugins = list["workers"][0]["hook"]["plugins"].as_array().expect("plugins");
    let plugin = plugins.iter().find(|plugin| plugin["plugin"] == ID).expect("the plugin");
    plugin["error"].as_str().unwrap_or_default().to_owned()
}
