//! Calls of a hook that computes for a millisecond while other processes take every
//! core: none may fail, because a hook that the system does not run is not slow.
//!
//! One request passes through several copies of the hook before it is answered, so
//! that the time goes into calls and not into NATS.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::ask::{ask, predict};
use crate::common::median_f64;
use crate::figures::Spinners;
use crate::files;
use crate::harness::Client;
use crate::plan::Plan;
use crate::report::Bar;
use crate::rig::{Rig, put};

/// Copies of the hook in the chain.
const COPIES: usize = 8;

/// As many jobs as a worker computes at once.
const CLIENTS: usize = 4;

/// What one call has to compute for at least.
const CALL_US: f64 = 1_000.0;
/// What it is given to compute, measured on the idle machine: the same rounds take a
/// little less time on a processor that is awake.
const GIVEN_US: f64 = 1_250.0;

pub async fn measure(plan: &Plan) -> Vec<Bar> {
    let prepare = |dir: &Path| {
        let burn = files::plugin("burn");
        for copy in 0..COPIES {
            put(dir, &format!("burn-{copy}"), &burn);
        }
        put(dir, "respond", &files::plugin("respond"));
    };
    let rig = Rig::start(prepare, |worker| worker).await;
    let rounds = calibrate(&rig).await;
    let before = Counted::of(&rig).await;

    let spinners = Spinners::start();
    let requests = plan.calls.div_ceil(COPIES);
    let began = Instant::now();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let share = requests / CLIENTS + usize::from(number < requests % CLIENTS);
        clients.push(tokio::spawn(burn(rig.client.clone(), share, rounds)));
    }
    let mut errors = Vec::new();
    for client in clients {
        errors.extend(client.await.expect("a client"));
    }
    let took = began.elapsed().as_secs_f64();
    drop(spinners);

    let after = Counted::of(&rig).await;
    let calls = after.calls - before.calls;
    let missing = (requests * COPIES) as u64 - calls.min((requests * COPIES) as u64);
    vec![
        Bar::at_least("calls", calls as f64, plan.calls as f64, "").also(&format!(
            "{:.0} s, {:.0} calls/s",
            took,
            calls as f64 / took
        )),
        Bar::at_least("CPU time of a call, median", after.cpu_us, CALL_US, "µs")
            .also(&format!("wall time: p99 {} µs, longest {} µs", after.wall_p99, after.wall_max)),
        Bar::none("requests that failed", errors.len(), &errors),
        Bar::none("calls that failed", (after.failures - before.failures) as usize, &[])
            .also(&format!("limits: {} ms wall, {} ms CPU", 250, 50)),
        Bar::none("calls that were not made", missing as usize, &[]),
    ]
}

/// Rounds that take the hook [`GIVEN_US`] of CPU time on this machine.
async fn calibrate(rig: &Rig) -> u64 {
    // Enough to be the median of all calls so far, each time.
    let mut rounds = 100_000;
    for times in [20, 200] {
        let errors = burn(rig.client.clone(), times, rounds).await;
        assert!(errors.is_empty(), "the hook fails on an idle machine: {errors:?}");
        let counted = Counted::of(rig).await;
        rounds = (rounds as f64 * GIVEN_US / counted.cpu_us.max(1.0)) as u64;
    }
    rounds
}

/// Requests one after the other; what went wrong.
async fn burn(client: Client, requests: usize, rounds: u64) -> Vec<String> {
    let input = format!("[[burn:{rounds}]] [[respond:done]]");
    let mut errors = Vec::new();
    for _ in 0..requests {
        match ask(&client, predict(&input, 1), false).await {
            Ok(answer) if answer.text == "done" => {}
            Ok(answer) => errors.push(format!("answered {:?}", answer.text)),
            Err(lost) => errors.push(lost.text()),
        }
    }
    errors
}

/// What the worker counted for all copies together.
struct Counted {
    calls: u64,
    failures: u64,
    /// The median copy's median.
    cpu_us: f64,
    wall_p99: u64,
    wall_max: u64,
}

impl Counted {
    async fn of(rig: &Rig) -> Self {
        let list = rig.command(json!({"action": "list"})).await;
        let copies: Vec<&Value> = list["plugins"]
            .as_array()
            .expect("plugins")
            .iter()
            .filter(|plugin| plugin["plugin"].as_str().is_some_and(|id| id.starts_with("burn-")))
            .collect();
        assert_eq!(copies.len(), COPIES, "{list}");
        let sum = |field: &str| copies.iter().map(|copy| copy[field].as_u64().expect(field)).sum();
        let phase = |field: &str, which: &str| -> Vec<u64> {
            let value = |copy: &&Value| copy["stats"]["phases"][0][field][which].as_u64();
            copies.iter().map(|copy| value(copy).unwrap_or(0)).collect()
        };
        let cpu: Vec<f64> = phase("cpu_us", "p50").into_iter().map(|us| us as f64).collect();
        Self {
            calls: sum("calls"),
            failures: sum("failures"),
            cpu_us: median_f64(&cpu),
            wall_p99: phase("wall_us", "p99").into_iter().max().unwrap_or(0),
            wall_max: phase("wall_us", "max").into_iter().max().unwrap_or(0),
        }
    }
}
