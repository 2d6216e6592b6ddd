//! Tells a portable binary where its shared libraries are.
//!
//! They lie beside it wherever it is unpacked: in `lib` in what `make dist` packs,
//! and in the same folder where cargo builds it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_portable = std::env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    let is_linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if is_portable && is_linux {
        for place in ["$ORIGIN/lib", "$ORIGIN"] {
            println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{place}");
        }
    }
}
