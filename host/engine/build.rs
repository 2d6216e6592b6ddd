//! Refuses to build kernels that are known to crash.
//!
//! GCC 12 moves the stores that fill the AMX tile configuration behind the
//! instruction that loads it, so ggml's AMX matrix product segfaults on the
//! first prompt. AMX is only built when Rust is told to build for a CPU that has
//! it; then the C++ compiler has to be another one.

use std::path::Path;

/// The CPUs that rustc knows to have AMX.
const AMX_CPUS: [&str; 6] = [
    "sapphirerapids",
    "emeraldrapids",
    "graniterapids",
    "graniterapids-d",
    "diamondrapids",
    "novalake",
];
/// The switch of ggml's own that turns the AMX kernels on.
const AMX_SWITCH: &str = "GGML_AMX_INT8";
const OVERRIDE: &str = "LLAMERO_ALLOW_GCC_AMX";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["CXX", "CARGO_ENCODED_RUSTFLAGS", AMX_SWITCH, OVERRIDE] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu = flags.split("target-cpu=").nth(1).unwrap_or_default();
    let cpu = cpu.split('\x1f').next().unwrap_or_default();
    let switched_on = std::env::var(AMX_SWITCH).is_ok_and(|value| value == "ON");
    let has_amx = switched_on || AMX_CPUS.contains(&cpu) || (cpu == "native" && host_has_amx());
    let clang = std::env::var("CXX").is_ok_and(|cxx| cxx.contains("clang"));
    if has_amx && !clang && std::env::var_os(OVERRIDE).is_none() {
        println!(
            "cargo::error=AMX is on ({}), and ggml's AMX kernels crash when GCC 12 compiles them; \
             build with CC=clang CXX=clang++, or without AMX ({AMX_SWITCH}=OFF, \
             -C target-cpu=icelake-server), or set {OVERRIDE}=1 for a GCC that is known to be good",
            if switched_on { format!("{AMX_SWITCH}=ON") } else { format!("target-cpu={cpu}") }
        );
    }
}

fn host_has_amx() -> bool {
    std::fs::read_to_string(Path::new("/proc/cpuinfo")).is_ok_and(|text| text.contains("amx_tile"))
}
