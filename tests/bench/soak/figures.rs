//! Figures of many samples, of a folder, and of a process; and a machine without a
//! core to spare.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::median_f64;
use crate::harness::Process;

/// One process for each core that computes without an end, at the priority of
/// everybody else. They end when this is dropped.
pub struct Spinners(#[allow(dead_code, reason = "dropping them ends them")] Vec<Process>);

impl Spinners {
    /// Takes every core.
    pub fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spinner = || {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            Process::spawn("spinner", &mut command)
        };
        Self((0..cores).map(|_| spinner()).collect())
    }
}

/// Slope of the line that fits equally spaced values best (least squares), in their
/// unit for each step.
pub fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let (mean_x, mean_y) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in values.iter().enumerate() {
        let x = x as f64 - mean_x;
        above += x * (y - mean_y);
        below += x * x;
    }
    above / below
}

/// The interval in which the median lies with 95 % confidence: medians of samples
/// that are drawn again and again from these.
pub fn median_interval(values: &[f64]) -> (f64, f64) {
    const DRAWS: usize = 10_000;
    // xorshift64: the same values always have the same interval.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[(state % values.len() as u64) as usize]
    };
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| median_f64(&(0..values.len()).map(|_| draw()).collect::<Vec<_>>()))
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[DRAWS / 40], medians[DRAWS - DRAWS / 40 - 1])
}

/// The longest of them.
pub fn longest(values: &[Duration]) -> Duration {
    values.iter().copied().max().unwrap_or_default()
}

/// Forgets the largest resident memory of a process, so that
/// [`crate::common::peak_rss_kib`] tells the largest one from now on.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset the peak of the worker");
}

/// What a folder holds, subfolders included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Disk {
    /// Looks at a folder; one that is not there holds nothing.
    pub fn of(folder: &Path) -> Self {
        let mut disk = Self::default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                let inside = Self::of(&path);
                disk.files += inside.files;
                disk.bytes += inside.bytes;
            } else if let Ok(metadata) = fs::metadata(&path) {
                disk.files += 1;
                disk.bytes += metadata.len();
            }
        }
        disk
    }
}

/// How the names of threads that compute begin; the rest is the model.
const ENGINE: &str = "llamero-";

/// CPU time of a worker's threads, by what they are there for.
#[derive(Clone, Copy, Default)]
pub struct CpuTime {
    /// Those that compute tokens.
    pub compute: Duration,
    /// All others: NATS, jobs, hooks.
    pub beside: Duration,
}

impl CpuTime {
    /// What the threads that are alive have used so far.
    pub fn of(pid: u32) -> Self {
        let mut used = Self::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("threads") {
            let thread = thread.expect("a thread").path();
            // It may have ended meanwhile.
            let (Ok(name), Ok(times)) = (
                fs::read_to_string(thread.join("comm")),
                fs::read_to_string(thread.join("schedstat")),
            ) else {
                continue;
            };
            let nanos = times.split(' ').next().and_then(|nanos| nanos.parse().ok());
            let time = Duration::from_nanos(nanos.expect("nanoseconds on a processor"));
            // llama.cpp's threads have the name of the engine's thread that starts them.
            let of = if name.starts_with(ENGINE) { &mut used.compute } else { &mut used.beside };
            *of += time;
        }
        used
    }

    /// What was used between an earlier moment and this one.
    pub fn since(self, before: Self) -> Self {
        Self {
            compute: self.compute.saturating_sub(before.compute),
            beside: self.beside.saturating_sub(before.beside),
        }
    }
}
