//! The models folder: which of its files are models, by protocol.md 8.
//!
//! Names are checked by the protocol's rules before anything is opened; here is
//! the part that needs the file system.

use std::io;
use std::path::{Path, PathBuf};

use llamero_engine::is_adapter;
use llamero_protocol::is_listed_model_name;

/// The names of all models, in byte order. Blocks.
///
/// # Errors
/// The folder cannot be read. Single entries that cannot be looked at are left
/// out, as are names that are not UTF-8: no request could name them.
pub fn list(dir: &Path, follow_links: bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let Ok(entry) = entry else { continue };
        if let Ok(name) = entry.file_name().into_string()
            && find(dir, &name, follow_links).is_some()
        {
            names.push(name);
        }
    }
    // `str` orders by bytes.
    names.sort();
    Ok(names)
}

/// The path of a model by its name, if it is one that [`list`] gives. Blocks.
pub fn find(dir: &Path, name: &str, follow_links: bool) -> Option<PathBuf> {
    // Adapters lie beside the models, and are none.
    file(dir, name, follow_links).filter(|path| !is_adapter(path))
}

/// The path of a model or an adapter: a file with a name such as models have.
/// Blocks.
pub fn file(dir: &Path, name: &str, follow_links: bool) -> Option<PathBuf> {
    if !is_listed_model_name(name) || name.contains(['/', '\\', '\0']) {
        return None;
    }
    let path = dir.join(name);
    if !std::fs::metadata(&path).ok()?.is_file() {
        return None;
    }
    let is_link = std::fs::symlink_metadata(&path).ok()?.is_symlink();
    if is_link && !follow_links && !stays_inside(dir, &path) {
        return None;
    }
    Some(path)
}

/// Whether a path, with all links followed, lies in the folder.
fn stays_inside(dir: &Path, path: &Path) -> bool {
    match (dir.canonicalize(), path.canonicalize()) {
        (Ok(dir), Ok(path)) => path.starts_with(dir),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        folder
    }

    #[test]
    fn models_are_listed_in_byte_order() {
        let folder = folder(&[
            "b.gguf",
            "a.bin",
            "B.gguf",
            ".hidden.gguf",
            "notes.txt",
            "gguf",
            "big-00001-of-00002.gguf",
            "big-00002-of-00002.gguf",
        ]);
        std::fs::create_dir(folder.path().join("folder.gguf")).unwrap();
        assert_eq!(
            list(folder.path(), true).unwrap(),
            ["B.gguf", "a.bin", "b.gguf", "big-00001-of-00002.gguf"]
        );
    }

    #[test]
    fn adapters_are_no_models() {
        let folder = folder(&["m.gguf"]);
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend([text("general.type"), vec![8, 0, 0, 0], text("adapter")].concat());
        std::fs::write(folder.path().join("a.gguf"), bytes).unwrap();
        assert_eq!(list(folder.path(), true).unwrap(), ["m.gguf"]);
        assert!(find(folder.path(), "a.gguf", true).is_none());
        assert!(file(folder.path(), "a.gguf", true).is_some());
        assert!(file(folder.path(), "../a.gguf", true).is_none());
    }

    #[test]
    fn only_listed_names_are_found() {
        let folder = folder(&["a.gguf", ".b.gguf", "c.txt"]);
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("d.gguf"), b"").unwrap();
        let found = |name| find(folder.path(), name, true).is_some();
        assert!(found("a.gguf"));
        for name in ["", ".", "..", ".b.gguf", "c.txt", "none.gguf", "inner/d.gguf", "inner"] {
            assert!(!found(name), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_folder_are_followed_only_if_allowed() {
        let outside = folder(&["real.gguf"]);
        let folder = folder(&["inside.gguf"]);
        let link = |to: PathBuf, name: &str| {
            std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        };
        link(outside.path().join("real.gguf"), "out.gguf");
        link(folder.path().join("inside.gguf"), "in.gguf");
        link(folder.path().join("nothing"), "dangling.gguf");
        assert_eq!(list(folder.path(), true).unwrap(), ["in.gguf", "inside.gguf", "out.gguf"]);
        assert_eq!(list(folder.path(), false).unwrap(), ["in.gguf", "inside.gguf"]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = folder(&[]);
        let error = list(&folder.path().join("none"), true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // The text is sent to clients, so it must not carry the path.
        assert!(!error.to_string().contains("none"), "{error}");
    }
}
