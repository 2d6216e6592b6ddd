//! From the bytes of a file to those of a valid component: recognise what it is,
//! turn a core module into a component, validate.
//!
//! Files are read in `folder`. Nothing is compiled here. Which interfaces the
//! component has is looked at in `inspect`.

use sha2::{Digest, Sha256};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wasmtime::Engine;
use wit_component::ComponentEncoder;

use crate::error::LoadCause;

/// First bytes of every WebAssembly file.
const MAGIC: &[u8] = b"\0asm";
/// Version and layer of a core module.
const MODULE: &[u8] = &[1, 0, 0, 0];
/// Version and layer of a component.
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];

/// Custom sections in which wit-bindgen leaves the type of the component.
const TYPE_SECTION: &str = "component-type";

/// Refuses more than `limit` bytes.
pub(crate) fn check_size(bytes: u64, limit: u64) -> Result<(), LoadCause> {
    if bytes > limit {
        return Err(LoadCause::TooLarge { bytes, limit });
    }
    Ok(())
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes of a valid component, made from `bytes` if that is a core module.
/// `features` are those of the engine that will run it.
pub(crate) fn component(bytes: Vec<u8>, features: WasmFeatures) -> Result<Vec<u8>, LoadCause> {
    if Engine::detect_precompiled(&bytes).is_some() {
        return Err(LoadCause::Precompiled);
    }
    let Some((magic, rest)) = bytes.split_at_checked(4) else {
        return Err(LoadCause::NotWasm(format!("only {} bytes", bytes.len())));
    };
    if magic != MAGIC {
        return Err(LoadCause::NotWasm(describe_other(&bytes).to_owned()));
    }
    let component = match rest.get(..4) {
        Some(COMPONENT) => bytes,
        Some(MODULE) => encode(&bytes)?,
        Some(other) => {
            return Err(LoadCause::Invalid(format!("unknown version and layer {other:02x?}")));
        }
        None => {
            return Err(LoadCause::Invalid(format!("cut off after {} bytes", bytes.len())));
        }
    };
    validate(&component, features)?;
    Ok(component)
}

fn describe_other(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"\x7fELF") {
        "it is a native object file"
    } else if bytes.trim_ascii_start().starts_with(b"(") {
        "it looks like the text format; turn it into the binary format first"
    } else {
        "it does not begin with the bytes `\\0asm`"
    }
}

fn encode(module: &[u8]) -> Result<Vec<u8>, LoadCause> {
    if !has_type_section(module)? {
        return Err(LoadCause::NoComponentType);
    }
    let encoded = ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| LoadCause::Encode(format!("{error:#}")))
}

fn has_type_section(module: &[u8]) -> Result<bool, LoadCause> {
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| LoadCause::Invalid(error.to_string()))?;
        if let Payload::CustomSection(section) = payload
            && section.name().starts_with(TYPE_SECTION)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn validate(component: &[u8], features: WasmFeatures) -> Result<(), LoadCause> {
    let Err(error) = Validator::new_with_features(features).validate_all(component) else {
        return Ok(());
    };
    // Whether it would be valid with the asynchronous ABI tells a component for a
    // newer WASI from a damaged one.
    let asynchronous = features | WasmFeatures::CM_ASYNC | WasmFeatures::CM_ASYNC_STACKFUL;
    let asynchronous = asynchronous | WasmFeatures::CM_MORE_ASYNC_BUILTINS;
    if Validator::new_with_features(asynchronous).validate_all(component).is_ok() {
        return Err(LoadCause::AsyncAbi(error.to_string()));
    }
    Err(LoadCause::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::inspect::inspect;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let error = component(bytes.to_vec(), WasmFeatures::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_no_component_is_named() {
        check(b"", "only 0 bytes");
        check(b"\0as", "only 3 bytes");
        check(b"\x7fELF........", "native object file");
        check(b"  (component)", "text format");
        check(b"#!/bin/sh\n", "does not begin with");
        check(b"\0asm", "cut off after 4 bytes");
        check(b"\0asm\x02\0\0\0", "unknown version and layer [02, 00, 00, 00]");
        check(&wat::parse_str("(module)").unwrap(), "without a component-type section");
    }

    #[test]
    fn every_truncation_of_a_plugin_is_refused() {
        // Without names, because a section of names at the end may well be cut.
        let whole = wat::parse_str(
            r#"(component
                (core module (func (export "f") (result i32) i32.const 1))
                (component)
                (instance (instantiate 0))
                (export "llamero:hooks/request-hook@0.1.0" (instance 0)))"#,
        )
        .unwrap();
        // Cut between two sections it is still a component, and lacks its phase.
        let load = |bytes: &[u8]| {
            let component = component(bytes.to_vec(), WasmFeatures::default())?;
            inspect(&component).map(drop)
        };
        load(&whole).unwrap();
        for length in 0..whole.len() {
            load(&whole[..length]).unwrap_err();
        }
    }

    #[test]
    fn a_component_for_the_asynchronous_abi_is_told_apart() {
        let bytes = wat::parse_str(
            r#"(component
                (core module $m
                    (func (export "f") (result i32) i32.const 0)
                    (func (export "cb") (param i32 i32 i32) (result i32) i32.const 0))
                (core instance $i (instantiate $m))
                (func (export "f") async
                    (canon lift (core func $i "f") async (callback (core func $i "cb")))))"#,
        )
        .unwrap();
        let features = WasmFeatures::default() - WasmFeatures::CM_ASYNC;
        let error = component(bytes, features).unwrap_err();
        assert!(matches!(error, LoadCause::AsyncAbi(_)), "{error}");
    }

    #[test]
    fn digest_is_sha256() {
        assert_eq!(
            digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
