//! What the kernel says of processes and of the machine.

use std::fs;
use std::process::Command;

/// Units a second in which `/proc` gives times: the kernel's interface fixes
/// them.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that a process has used, in all its threads.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces and brackets; what follows the last bracket is
    // the state, and user and system time are 11 and 12 fields behind it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
}

/// Resident memory of a process now, in MiB.
pub fn rss_mib(pid: u32) -> f64 {
    status_mib(pid, "VmRSS:")
}

/// The most resident memory a process had so far, in MiB.
pub fn peak_rss_mib(pid: u32) -> f64 {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok())
        .map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Times of the whole machine since its start, to be compared with later ones.
#[derive(Debug, Clone, Copy)]
pub struct CpuTimes {
    stolen: u64,
    all: u64,
}

impl CpuTimes {
    /// The times until now.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; what follows counts
        // guests, whose time is in user already.
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        Self { stolen: fields.get(7).copied().unwrap_or(0), all: fields.iter().sum() }
    }

    /// The share of all CPU time since then that another machine on the same
    /// hardware took, 0 to 1.
    pub fn stolen_since(self) -> f64 {
        let now = Self::now();
        let all = now.all.saturating_sub(self.all);
        if all == 0 { 0.0 } else { now.stolen.saturating_sub(self.stolen) as f64 / all as f64 }
    }
}

/// CPU model and number of cores.
pub fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| rest.trim_start_matches([' ', '\t', ':']));
    format!("{model}, {} cores", cores())
}

/// Cores that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// First line of what a command prints, for the report; empty if it fails.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}
