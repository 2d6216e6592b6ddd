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
const OVERRIDE: &str = "LLAMERO_ALLOW_GCC_AMX";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["CXX", "CARGO_ENCODED_RUSTFLAGS", OVERRIDE] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let Some(cpu) = flags.split("target-cpu=").nth(1) else {
        return;
    };
    let cpu = cpu.split('\x1f').next().unwrap_or_default();
    let has_amx = AMX_CPUS.contains(&cpu) || (cpu == "native" && host_has_amx());
    let clang = std::env::var("CXX").is_ok_and(|cxx| cxx.contains("clang"));
    if has_amx && !clang && std::env::var_os(OVERRIDE).is_none() {
        println!(
            "cargo::error=target-cpu={cpu} turns AMX on, and ggml's AMX kernels crash when GCC 12 \
             compiles them; build with CC=clang CXX=clang++, or with \
             -C target-cpu=icelake-server, or set {OVERRIDE}=1 for a GCC that is known to be good"
        );
    }
}

fn host_has_amx() -> bool {
    std::fs::read_to_string(Path::new("/proc/cpuinfo")).is_ok_and(|text| text.contains("amx_tile"))
}
