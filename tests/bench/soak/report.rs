//! Bars with what was measured: as a table, as JSON, and in the page
//! `docs/benchmarks-soak.md`, of which only the parts that were run are replaced.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::machine;
use crate::plan::Scenario;

/// One line: what is measured, what it has to be, and what it was.
#[derive(Debug)]
pub struct Bar {
    what: String,
    target: String,
    measured: String,
    /// `None`: there is no target.
    passed: Option<bool>,
    value: Value,
}

impl Bar {
    /// A value that must not be above `limit`.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            target: format!("≤ {}", quantity(limit, unit)),
            measured: quantity(value, unit),
            // A value that is no number has not passed.
            passed: Some(value <= limit),
            value: json!(value),
        }
    }

    /// A value that must not be below `limit`.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64, unit: &str) -> Self {
        let target = format!("≥ {}", quantity(limit, unit));
        Self { target, passed: Some(value >= limit), ..Self::at_most(what, value, limit, unit) }
    }

    /// Something that must not happen. `examples` says how it looked when it did.
    pub fn none(what: impl Into<String>, count: usize, examples: &[String]) -> Self {
        let bar = Self {
            what: what.into(),
            target: "0".to_owned(),
            measured: count.to_string(),
            passed: Some(count == 0),
            value: json!(count),
        };
        let examples = examples.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("; ");
        if examples.is_empty() { bar } else { bar.also(&examples) }
    }

    /// Something that has to be so.
    pub fn holds(what: impl Into<String>, target: &str, measured: String, passed: bool) -> Self {
        let value = json!(measured);
        let target = target.to_owned();
        Self { what: what.into(), target, measured, passed: Some(passed), value }
    }

    /// A figure without a target, for orientation.
    pub fn noted(what: impl Into<String>, measured: String) -> Self {
        let value = json!(measured);
        Self { what: what.into(), target: String::new(), measured, passed: None, value }
    }

    /// A scenario that did not come to its end.
    pub fn stopped(error: &tokio::task::JoinError) -> Self {
        // The whole text, with the logs of all processes, is on standard error.
        let text: String = error.to_string().chars().take(200).collect();
        Self::holds("the scenario", "comes to its end", "no".to_owned(), false).also(&text)
    }

    /// Adds to what was measured.
    pub fn also(mut self, more: &str) -> Self {
        // What comes from a worker may have several lines, and a table may not.
        let more = more.replace('\n', " ").replace('|', "\\|");
        self.measured = format!("{} ({more})", self.measured);
        self
    }

    fn row(&self) -> String {
        let passed = match self.passed {
            None => "",
            Some(true) => "pass",
            Some(false) => "**fail**",
        };
        format!("| {} | {} | {} | {passed} |\n", self.what, self.target, self.measured)
    }
}

/// A number with its unit; with as many digits as say something.
fn quantity(value: f64, unit: &str) -> String {
    let digits = if value.fract() == 0.0 || value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

/// What one scenario showed.
#[derive(Debug)]
pub struct Section {
    /// The scenario.
    pub scenario: Scenario,
    /// Its bars.
    pub bars: Vec<Bar>,
    /// How long it took in all.
    pub took: Duration,
}

impl Section {
    /// Whether no bar was missed.
    pub fn passed(&self) -> bool {
        self.bars.iter().all(|bar| bar.passed != Some(false))
    }

    /// The bars as a table in Markdown.
    pub fn table(&self) -> String {
        let rows: String = self.bars.iter().map(Bar::row).collect();
        format!("| | target | measured | |\n|---|---|---|---|\n{rows}")
    }
}

/// Everything, for people.
pub fn text(sections: &[Section]) -> String {
    let mut text = format!("machine: {}\n", machine());
    for section in sections {
        let (name, took) = (section.scenario.name(), section.took.as_secs());
        text.push_str(&format!("\n## {name} ({took} s)\n\n{}", section.table()));
    }
    let verdict = if sections.iter().all(Section::passed) { "every bar" } else { "NOT every bar" };
    text.push_str(&format!("\n{verdict} was met"));
    text
}

/// Everything, for programs.
pub fn json(sections: &[Section]) -> Value {
    let bars = sections.iter().flat_map(|section| {
        section.bars.iter().map(|bar| {
            json!({
                "scenario": section.scenario.name(),
                "bar": bar.what,
                "target": bar.target,
                "measured": bar.measured,
                "value": bar.value,
                "passed": bar.passed,
            })
        })
    });
    json!({
        "machine": machine(),
        "passed": sections.iter().all(Section::passed),
        "bars": bars.collect::<Vec<_>>(),
    })
}

/// Replaces the parts of the page that belong to these scenarios.
pub fn write(sections: &[Section]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks-soak.md");
    let mut page = fs::read_to_string(&path).expect("read docs/benchmarks-soak.md");
    for section in sections {
        let name = section.scenario.name();
        let begin = format!("<!-- measured: {name} -->\n");
        let end = format!("<!-- end of measured: {name} -->");
        let (head, rest) = page.split_once(&begin).expect("the page has this scenario's marker");
        let (_, tail) = rest.split_once(&end).expect("the page has this scenario's end marker");
        let took = section.took.as_secs();
        page = format!(
            "{head}{begin}\n{} on {}, in {took} s:\n\n{}\n{end}{tail}",
            today(),
            machine(),
            section.table(),
        );
    }
    fs::write(&path, page).expect("write docs/benchmarks-soak.md");
}

fn today() -> String {
    let date = Command::new("date").arg("+%Y-%m-%d").output().expect("run date");
    String::from_utf8_lossy(&date.stdout).trim().to_owned()
}
