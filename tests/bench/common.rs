//! What the load generator and the soak share: prompts, the figures of a process and
//! of the machine, and medians. Nothing here starts or asks anything.

use std::fs;
use std::time::Duration;

/// A prompt that no cache has seen: words drawn by a small generator, so that a
/// run can be repeated.
pub fn prompt(words: usize, seed: u64) -> String {
    const WORDS: [&str; 24] = [
        "river", "stone", "market", "lantern", "winter", "copper", "garden", "signal", "harbor",
        "window", "thunder", "paper", "orchard", "engine", "valley", "mirror", "bridge", "candle",
        "forest", "letter", "island", "hammer", "meadow", "anchor",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut text = String::from("Story:");
    for _ in 0..words {
        // xorshift64: enough to make prompts differ.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(' ');
        text.push_str(WORDS[(state % WORDS.len() as u64) as usize]);
    }
    text
}

/// Resident memory of a process, in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    status_field(pid, "VmRSS:")
}

/// The largest resident memory that a process ever had, in KiB.
pub fn peak_rss_kib(pid: u32) -> u64 {
    status_field(pid, "VmHWM:")
}

fn status_field(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status of the worker");
    let line = status.lines().find(|line| line.starts_with(field)).expect("field of the status");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
}

/// The processor and the number of its cores.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores")
}

/// A duration in milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The median; of an even number, the upper one of the two in the middle.
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// As [`median`], of plain numbers.
pub fn median_f64(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
