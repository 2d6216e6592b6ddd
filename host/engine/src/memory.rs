//! Whether a context fits into the memory there is.
//!
//! Linux grants more memory than it has, and llama.cpp writes to the whole KV
//! cache at once: a context that is too large does not fail, it gets the
//! process killed. So the size is estimated and compared first. Budgets over
//! several models are the worker's business.

use llama_cpp_2::model::LlamaModel;

/// Bytes of the KV cache for `n_cells` tokens in half precision.
pub(crate) fn kv_bytes(model: &LlamaModel, n_cells: u64) -> u64 {
    let n_embd = u64::try_from(model.n_embd()).unwrap_or(0);
    let heads = u64::from(model.n_head()).max(1);
    let row = (n_embd / heads).saturating_mul(u64::from(model.n_head_kv()));
    // Keys and values, two bytes each.
    4u64.saturating_mul(row).saturating_mul(u64::from(model.n_layer())).saturating_mul(n_cells)
}

/// Bytes this process may still use, if the system says so: the less of what
/// the machine has and what the control group leaves.
pub(crate) fn available() -> Option<u64> {
    let machine =
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let read = |name: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    let group = read("memory.max")
        .zip(read("memory.current"))
        .map(|(max, current)| max.saturating_sub(current));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:  100 kB\nMemAvailable:     42 kB\n";
        assert_eq!(mem_available(text), Some(42 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB"), None);
    }
}
