//! What a component imports and exports, judged by name before it is compiled.
//!
//! Compiling takes seconds and links nothing that is missing, so what can be
//! refused by name is refused here, with its name. Types are checked when the
//! component is linked and tried (`load`).

use wasmparser::{ComponentExternalKind, Parser, Payload};

use crate::error::LoadCause;
use crate::policy::Grant;

/// Interfaces of the WIT package that a plugin may import.
const OFFERED: &[&str] = &["log", "config", "tokenizer", "state", "metrics", "call", "types"];
/// The one experimental interface that is served, in exactly this version.
const TOKEN_GUARD: &str = "llamero:hooks-experimental/token-guard@0.0.1";
/// The WASI packages that are linked, without anything in them.
const WASI: &[&str] = &["io", "clocks", "random", "cli", "filesystem", "sockets"];

/// The interfaces of the WIT package that a component exports, by the names that
/// it gives them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) lifecycle: Option<String>,
    pub(crate) request: Option<String>,
    pub(crate) prompt: Option<String>,
    pub(crate) guard: Option<String>,
    pub(crate) stream: Option<String>,
    pub(crate) response: Option<String>,
    pub(crate) observer: Option<String>,
    /// Whether it can read its configuration.
    pub(crate) reads_config: bool,
    /// What must be granted to it, with the names of the interfaces.
    pub(crate) needs: Vec<(Grant, String)>,
}

impl Found {
    fn has_phase(&self) -> bool {
        [&self.request, &self.prompt, &self.guard, &self.stream, &self.response, &self.observer]
            .into_iter()
            .any(Option::is_some)
    }
}

/// Refuses a component that asks for something else than there is, or that has a
/// phase which would not be called.
pub(crate) fn inspect(component: &[u8]) -> Result<Found, LoadCause> {
    let mut found = Found::default();
    let mut unserved = None;
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(invalid)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let name = import.map_err(invalid)?.name.name;
                    if let Some(grant) = check_import(name)? {
                        found.needs.push((grant, name.to_owned()));
                    }
                    found.reads_config |= name.starts_with("llamero:hooks/config@");
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    let is_instance = export.kind == ComponentExternalKind::Instance;
                    add_export(export.name.name, is_instance, &mut found, &mut unserved)?;
                }
            }
            _ => {}
        }
    }
    if let Some(export) = unserved {
        return Err(LoadCause::UnservedPhase { export });
    }
    if !found.has_phase() {
        return Err(LoadCause::NoPhases);
    }
    Ok(found)
}

fn invalid(error: wasmparser::BinaryReaderError) -> LoadCause {
    LoadCause::Invalid(error.to_string())
}

/// An interface name: package, interface and version.
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    version: &'a str,
}

fn split(name: &str) -> Option<Name<'_>> {
    let (package, rest) = name.split_once('/')?;
    let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
    Some(Name { package, interface, version })
}

/// Whether a version of the WIT package is of the line 0.1.
fn is_served_line(version: &str) -> bool {
    // A pre-release is compatible with nothing but itself.
    version
        .strip_prefix("0.1.")
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// Refuses an import that there is not; says which grant it needs if it needs one.
fn check_import(name: &str) -> Result<Option<Grant>, LoadCause> {
    let unknown =
        |reason: String| Err(LoadCause::UnknownImport { import: name.to_owned(), reason });
    let offered =
        || format!("a plugin may import {} of llamero:hooks@0.1, and WASI 0.2", OFFERED.join(", "));
    let Some(parts) = split(name) else {
        return unknown(offered());
    };
    if parts.package == "llamero:hooks" {
        if !is_served_line(parts.version) {
            return Err(LoadCause::UnsupportedVersion { name: name.to_owned() });
        }
        return match parts.interface {
            interface if OFFERED.contains(&interface) => Ok(Grant::from_name(interface)),
            _ => unknown(offered()),
        };
    }
    if let Some(package) = parts.package.strip_prefix("wasi:") {
        if parts.version.starts_with("0.3.") {
            return Err(LoadCause::AsyncAbi(format!("it imports `{name}`")));
        }
        if WASI.contains(&package) && parts.version.starts_with("0.2.") {
            return Ok(None);
        }
        return unknown(format!(
            "of WASI there are the 0.2 packages {}, without files, sockets and environment",
            WASI.join(", ")
        ));
    }
    unknown(offered())
}

fn add_export(
    name: &str,
    is_instance: bool,
    found: &mut Found,
    unserved: &mut Option<String>,
) -> Result<(), LoadCause> {
    let Some(parts) = split(name) else {
        return Ok(());
    };
    if name == TOKEN_GUARD && is_instance {
        found.guard = Some(name.to_owned());
        found.needs.push((Grant::TokenGuard, name.to_owned()));
        return Ok(());
    }
    if parts.package.starts_with("llamero:hooks-") {
        unserved.get_or_insert_with(|| name.to_owned());
        return Ok(());
    }
    if parts.package != "llamero:hooks" {
        return Ok(());
    }
    if !is_served_line(parts.version) {
        return Err(LoadCause::UnsupportedVersion { name: name.to_owned() });
    }
    let slot = match parts.interface {
        "lifecycle" => &mut found.lifecycle,
        "request-hook" => &mut found.request,
        "prompt-hook" => &mut found.prompt,
        "stream-filter" => &mut found.stream,
        "response-hook" => &mut found.response,
        "observer" => &mut found.observer,
        other => {
            // Also what nobody has heard of: it may be a phase of a later version.
            if !OFFERED.contains(&other) {
                unserved.get_or_insert_with(|| name.to_owned());
            }
            return Ok(());
        }
    };
    if !is_instance {
        return Err(LoadCause::BrokenExport {
            export: name.to_owned(),
            reason: "it is not an interface".to_owned(),
        });
    }
    if slot.is_some() {
        return Err(LoadCause::BrokenExport {
            export: name.to_owned(),
            reason: "the same interface is exported twice, in two versions".to_owned(),
        });
    }
    *slot = Some(name.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn found(items: &str) -> Result<Found, LoadCause> {
        let text = format!("(component (component $c) (instance $i (instantiate $c)) {items})");
        inspect(&wat::parse_str(text).unwrap())
    }

    const REQUEST: &str = r#"(export "llamero:hooks/request-hook@0.1.0" (instance $i))"#;

    #[track_caller]
    fn refused(items: &str, expected: &str) {
        let text = found(items).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }

    fn import(name: &str) -> String {
        format!(r#"(import "{name}" (instance)) {REQUEST}"#)
    }

    #[test]
    fn phases_are_found_under_any_patch_version() {
        let all = found(
            r#"(export "llamero:hooks/request-hook@0.1.7" (instance $i))
               (export "llamero:hooks/prompt-hook@0.1.0" (instance $i))
               (export "llamero:hooks/lifecycle@0.1.0" (instance $i))
               (export "wasi:cli/run@0.2.0" (instance $i))"#,
        )
        .unwrap();
        assert_eq!(all.request.as_deref(), Some("llamero:hooks/request-hook@0.1.7"));
        assert!(all.prompt.is_some() && all.lifecycle.is_some());
    }

    #[test]
    fn without_a_phase_it_is_no_plugin() {
        refused("", "exports no phase");
        refused(r#"(export "llamero:hooks/lifecycle@0.1.0" (instance $i))"#, "exports no phase");
    }

    #[test]
    fn phases_that_would_not_be_called_are_refused() {
        for phase in ["token-guard", "brand-new"] {
            let name = format!("llamero:hooks/{phase}@0.1.0");
            let export = format!(r#"(export "{name}" (instance $i))"#);
            refused(&export, &name);
            refused(&format!("{REQUEST} {export}"), &name);
        }
        let name = "llamero:hooks-experimental/token-guard@0.0.2";
        refused(&format!(r#"{REQUEST} (export "{name}" (instance $i))"#), name);
    }

    #[test]
    fn imports_are_refused_by_name() {
        for name in
            ["llamero:hooks/log@0.1.0", "llamero:hooks/types@0.1.3", "wasi:io/streams@0.2.6"]
        {
            found(&import(name)).unwrap();
        }
        for name in
            ["llamero:hooks/teapot@0.1.0", "wasi:http/types@0.2.0", "acme:things/database@1.0.0"]
        {
            refused(&import(name), name);
        }
    }

    #[test]
    fn imports_that_need_a_grant_are_noted() {
        assert_eq!(found(&import("llamero:hooks/log@0.1.0")).unwrap().needs, []);
        let name = "llamero:hooks/state@0.1.4";
        assert_eq!(found(&import(name)).unwrap().needs, [(Grant::State, name.to_owned())]);
        let name = "llamero:hooks-experimental/token-guard@0.0.1";
        let guard = found(&format!(r#"(export "{name}" (instance $i))"#)).unwrap();
        assert_eq!(guard.needs, [(Grant::TokenGuard, name.to_owned())]);
    }

    #[test]
    fn other_lines_of_the_package_are_refused() {
        refused(&import("llamero:hooks/log@0.2.0"), "not of the line");
        refused(r#"(export "llamero:hooks/request-hook@0.2.0" (instance $i))"#, "not of the line");
        refused(
            r#"(export "llamero:hooks/request-hook@0.1.0-rc.1" (instance $i))"#,
            "not of the line",
        );
    }

    #[test]
    fn newer_wasi_is_the_asynchronous_abi() {
        refused(&import("wasi:clocks/monotonic-clock@0.3.0"), "asynchronous");
    }

    #[test]
    fn nested_components_do_not_count() {
        refused(r#"(component (import "llamero:hooks/log@0.1.0" (instance)))"#, "exports no phase");
    }
}
