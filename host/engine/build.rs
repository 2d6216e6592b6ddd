//! Refuses to build kernels that are known to crash.
//!
//! GCC 12 moves the stores that fill the AMX tile configuration behind the
//! instruction that loads it, so ggml's AMX matrix product segfaults on the
//! first prompt. AMX is only built when Rust is told to build for a CPU that has
//! it, when ggml's own switch says so, and in a portable build, which has kernels
//! for each kind of CPU; then the C++ compiler has to be another one.

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
    let clang = std::env::var("CXX").is_ok_and(|cxx| cxx.contains("clang"));
    if clang || std::env::var_os(OVERRIDE).is_some() {
        return;
    }
    if let Some((cause, cure)) = amx() {
        println!(
            "cargo::error=AMX is on ({cause}), and ggml's AMX kernels crash when GCC 12 compiles them; \
             build with CC=clang CXX=clang++, or without {cure}, or set {OVERRIDE}=1 for a GCC that \
             is known to be good"
        );
    }
}

/// What turns AMX on, and what to leave out to have it off.
fn amx() -> Option<(String, String)> {
    // Of the kernels for each kind of CPU some have AMX, whatever this CPU has.
    let is_portable = std::env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    if is_portable && std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        return Some(("feature portable".to_owned(), "that feature".to_owned()));
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu = flags.split("target-cpu=").nth(1).unwrap_or_default();
    let cpu = cpu.split('\x1f').next().unwrap_or_default();
    let cause = if std::env::var(AMX_SWITCH).is_ok_and(|value| value == "ON") {
        format!("{AMX_SWITCH}=ON")
    } else if AMX_CPUS.contains(&cpu) || (cpu == "native" && host_has_amx()) {
        format!("target-cpu={cpu}")
    } else {
        return None;
    };
    Some((cause, format!("AMX ({AMX_SWITCH}=OFF, -C target-cpu=icelake-server)")))
}

fn host_has_amx() -> bool {
    std::fs::read_to_string(Path::new("/proc/cpuinfo")).is_ok_and(|text| text.contains("amx_tile"))
}
