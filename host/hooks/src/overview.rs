//! What can be said of a file without compiling or running it: for people who want
//! to know what they have.
//!
//! It judges nothing by itself. Whether a worker would take the file is found out
//! by loading it (`load`); what is refused by name is asked of `inspect`.

use wasmparser::{Parser, Payload, WasmFeatures};

use crate::artifact;
use crate::error::{LoadCause, Phase};
use crate::inspect::inspect;

/// What a file is made of.
#[derive(Debug)]
#[non_exhaustive]
pub struct Overview {
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub digest: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// Size of the component: that of the file, unless it is a core module which
    /// has to be turned into one.
    pub component_bytes: u64,
    /// Whether the file is a core module with a component's type.
    pub is_module: bool,
    /// Names of everything that it imports, in its own order.
    pub imports: Vec<String>,
    /// Names of everything that it exports, in its own order.
    pub exports: Vec<String>,
    /// The phases among its exports.
    pub phases: Vec<Phase>,
    /// Why its imports and exports, by name, are not those of a plugin.
    pub refused: Option<LoadCause>,
}

impl Overview {
    /// Looks at a file.
    ///
    /// # Errors
    /// It is no valid component, and no core module that can become one.
    pub fn of(file: &[u8]) -> Result<Self, LoadCause> {
        // What the engine runs without is left to the engine, except the ABI that
        // has an error of its own.
        let features = WasmFeatures::default() - WasmFeatures::CM_ASYNC;
        let component = artifact::component(file.to_vec(), features)?;
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        let invalid = |error: wasmparser::BinaryReaderError| LoadCause::Invalid(error.to_string());
        // Components nest; only the outermost one's names count.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(&component) {
            match payload.map_err(invalid)? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        imports.push(import.map_err(invalid)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        exports.push(export.map_err(invalid)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            digest: artifact::digest(file),
            size_bytes: file.len() as u64,
            component_bytes: component.len() as u64,
            is_module: component != file,
            phases: Phase::ALL.into_iter().filter(|phase| has(&exports, *phase)).collect(),
            refused: inspect(&component).err(),
            imports,
            exports,
        })
    }
}

/// Whether an interface of this phase is exported, of whichever version.
fn has(exports: &[String], phase: Phase) -> bool {
    let interface = match phase {
        Phase::Request => "hooks/request-hook",
        Phase::Prompt => "hooks/prompt-hook",
        Phase::Token => "hooks-experimental/token-guard",
        Phase::Stream => "hooks/stream-filter",
        Phase::Response => "hooks/response-hook",
        Phase::Observer => "hooks/observer",
    };
    let prefix = format!("llamero:{interface}@");
    exports.iter().any(|export| export.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn names_phases_and_sizes_are_found() {
        let file = wat::parse_str(
            r#"(component
                (import "llamero:hooks/log@0.1.0" (instance))
                (component $c (import "inner" (instance)))
                (component $d) (instance $i (instantiate $d))
                (export "llamero:hooks/observer@0.1.0" (instance $i))
                (export "llamero:hooks/request-hook@0.1.3" (instance $i)))"#,
        )
        .unwrap();
        let overview = Overview::of(&file).unwrap();
        assert_eq!(overview.imports, ["llamero:hooks/log@0.1.0"]);
        assert_eq!(
            overview.exports,
            ["llamero:hooks/observer@0.1.0", "llamero:hooks/request-hook@0.1.3"]
        );
        assert_eq!(overview.phases, [Phase::Request, Phase::Observer]);
        let size = file.len() as u64;
        assert_eq!((overview.size_bytes, overview.component_bytes), (size, size));
        assert!(!overview.is_module && overview.refused.is_none());
    }

    #[test]
    fn what_no_worker_would_take_is_said() {
        let file = wat::parse_str(r#"(component (import "acme:things/x@1.0.0" (instance)))"#);
        let overview = Overview::of(&file.unwrap()).unwrap();
        let text = overview.refused.unwrap().to_string();
        assert!(text.contains("acme:things/x@1.0.0"), "{text}");
        assert!(matches!(Overview::of(b"prose"), Err(LoadCause::NotWasm(_))));
    }
}
