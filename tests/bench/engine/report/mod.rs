//! The report: what the files of results say, as Markdown and as pictures.

mod figures;
mod judged;
mod markdown;
mod ratios;

use std::fs;
use std::path::Path;

use crate::results::Outcome;
use crate::workloads::cases::Case;

const BEGIN: &str = "<!-- measured: written by make bench-engine -->";
const END: &str = "<!-- end of measured -->";

/// The pictures, beside the page.
const RATIOS: &str = "benchmarks-engine.svg";
const FIGURES: &str = "benchmarks-engine-figures.svg";

/// A case with its results, if it was measured.
pub type Measured = (Case, Option<Outcome>);

/// Reads the results of all cases from a folder.
pub fn read(cases: Vec<Case>, results: &Path) -> Result<Vec<Measured>, String> {
    cases
        .into_iter()
        .map(|case| {
            let outcome = Outcome::read(results, case.id)?;
            Ok((case, outcome))
        })
        .collect()
}

/// The report as Markdown.
pub fn markdown(measured: &[Measured]) -> String {
    markdown::report(measured)
}

/// Writes the report between the markers of the page, and the pictures beside it.
pub fn write(measured: &[Measured], page: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", page.display());
    let text = fs::read_to_string(page).map_err(failed)?;
    let (before, rest) =
        text.split_once(BEGIN).ok_or_else(|| format!("{} has no line {BEGIN}", page.display()))?;
    let (_, after) =
        rest.split_once(END).ok_or_else(|| format!("{} has no line {END}", page.display()))?;
    let report = markdown::report(measured);
    fs::write(page, format!("{before}{BEGIN}\n\n{report}\n{END}{after}")).map_err(failed)?;
    let beside = |name: &str| page.with_file_name(name);
    fs::write(beside(RATIOS), ratios::picture(measured)).map_err(failed)?;
    fs::write(beside(FIGURES), figures::picture(measured)).map_err(failed)
}

/// How a contender is called in the report: the worker and the default
/// llama-server by their names, the others by their arguments.
fn heading(name: &str) -> String {
    if name.starts_with('-') { format!("server `{name}`") } else { name.to_owned() }
}
