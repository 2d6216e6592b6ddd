//! Writing to the terminal: text, notes and tables.
//!
//! The only module that prints, so that broken pipes and control characters are
//! dealt with once. Log lines are [`crate::logging`]'s.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};

/// What became of a write to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The reader has it.
    Yes,
    /// The reader is gone (`llamero predict … | head -1`): end quietly.
    BrokenPipe,
}

/// Writes generated text to standard output at once.
///
/// # Errors
/// Any error but a broken pipe, such as a full disk.
pub fn text(text: &str) -> io::Result<Written> {
    let stdout = io::stdout();
    let shown = if stdout.is_terminal() { terminal_safe(text) } else { Cow::Borrowed(text) };
    let mut stdout = stdout.lock();
    quiet_pipe(stdout.write_all(shown.as_bytes()).and_then(|()| stdout.flush()))
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`text`].
pub fn line(line: &str) -> io::Result<Written> {
    text(&format!("{line}\n"))
}

fn quiet_pipe(result: io::Result<()>) -> io::Result<Written> {
    match result {
        Ok(()) => Ok(Written::Yes),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::BrokenPipe),
        Err(error) => Err(error),
    }
}

/// Writes a line for the user, not for the next program in a pipe, to stderr.
/// A stderr that cannot be written to leaves nobody to tell, so errors are
/// ignored.
pub fn note(line: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{}", terminal_safe(line));
}

/// Replaces control characters, except line feed and tab, by U+FFFD. Model
/// output and a hook's error text come from afar, and an escape sequence in them
/// could rewrite the screen, the clipboard or the window title.
pub fn terminal_safe(text: &str) -> Cow<'_, str> {
    let unsafe_char = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(unsafe_char) {
        Cow::Owned(text.replace(unsafe_char, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A table without lines, as wide as the terminal at most. In a pipe nothing is
/// wrapped, so that `grep` and `awk` see one row a line.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(if io::stdout().is_terminal() {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        })
        .set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        // The default pads both sides; flush left lines up with other output.
        column.set_padding((0, 2));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(terminal_safe("a\tb\nc"), "a\tb\nc");
        assert!(matches!(terminal_safe("plain ü"), Cow::Borrowed(_)));
        assert_eq!(terminal_safe("\u{1b}[2Jx\u{9b}"), "\u{fffd}[2Jx\u{fffd}");
    }

    #[test]
    fn a_broken_pipe_is_no_error() {
        let broken = quiet_pipe(Err(io::ErrorKind::BrokenPipe.into()));
        assert!(matches!(broken, Ok(Written::BrokenPipe)));
        assert!(quiet_pipe(Err(io::ErrorKind::StorageFull.into())).is_err());
    }

    #[test]
    fn tables_are_plain_columns() {
        let mut table = table(&["NAME", "VALUE"]);
        table.add_row(["slots", "4"]);
        assert_eq!(table.trim_fmt(), "NAME   VALUE\nslots  4");
    }
}
