//! Renders a model's chat template.
//!
//! Chat templates are Jinja programs written for Hugging Face's `transformers`:
//! Python methods on strings and lists, `raise_exception`, `strftime_now`, a
//! `tojson` without HTML escapes, and blocks that swallow their line breaks.
//! The template comes out of a model file, so its run time and its output are
//! bounded.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::ChatMessage;
use crate::error::PromptError;

/// Work a template may do before any message, in minijinja's unit: about one
/// instruction, or 64 bytes of text. Bounds its memory to 64 MiB as well.
const BASE_FUEL: u64 = 1_000_000;
/// Work it may do for each message; real templates need about 100.
const FUEL_PER_MESSAGE: u64 = 10_000;
/// How often it may copy the text of the messages.
const COPIES: u64 = 32;

/// The chat template of a model.
#[derive(Debug, Clone)]
pub(crate) struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// `bos` and `eos` are the texts of these tokens, for templates that write
    /// them.
    pub(crate) fn new(source: String, bos: String, eos: String) -> Self {
        Self { source, bos, eos }
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Renders the messages.
    pub(crate) fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, PromptError> {
        let env = environment(fuel(messages)).map_err(|e| describe(&e))?;
        let template =
            env.template_from_named_str("chat", &self.source).map_err(|e| describe(&e))?;
        let list: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
            .collect();
        template
            .render(context! {
                messages => list,
                add_generation_prompt,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
            })
            .map_err(|e| describe(&e))
    }
}

/// The work that messages of this number and size may take.
fn fuel(messages: &[ChatMessage]) -> u64 {
    let bytes: u64 = messages.iter().map(|m| m.content.len() as u64).sum();
    BASE_FUEL
        .saturating_add(FUEL_PER_MESSAGE.saturating_mul(messages.len() as u64))
        .saturating_add((bytes / 64).saturating_mul(COPIES))
}

fn environment(fuel: u64) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    env.set_syntax(syntax);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(fuel));
    env.add_filter("tojson", to_json);
    env.add_function("raise_exception", |text: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    env.add_function("strftime_now", |format: String| {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        strftime(&format, seconds)
    });
    Ok(env)
}

/// The error's own words, with the line of the template.
fn describe(error: &Error) -> PromptError {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "runs too long".to_string(),
        (_, Some(detail)) => detail.to_string(),
        (kind, None) => kind.to_string(),
    };
    PromptError::Template(match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    })
}

/// `tojson` as `transformers` has it: Python's separators, no HTML escapes.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    let _: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let mut out = Vec::new();
    let result = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let format = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, format))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
    };
    result
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
        .map(|()| String::from_utf8_lossy(&out).into_owned())
}

/// Writes `", "` and `": "` where serde_json writes `","` and `":"`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The parts of `strftime` that chat templates use, in UTC.
fn strftime(format: &str, seconds: u64) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = civil_date(days);
    let in_day = seconds % 86_400;
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    let month_name = MONTHS[(month - 1) as usize % 12];
    let day_name = DAYS[(days % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let padded = code != Some('-');
        if !padded {
            code = chars.next();
        }
        let two = |n: u64| {
            if padded { format!("{n:02}") } else { n.to_string() }
        };
        match code {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year % 100)),
            Some('m') => out.push_str(&two(month)),
            Some('d') => out.push_str(&two(day)),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('H') => out.push_str(&two(hour)),
            Some('I') => out.push_str(&two((hour + 11) % 12 + 1)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => out.push_str(&two(minute)),
            Some('S') => out.push_str(&two(second)),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian
/// calendar, whose leap years repeat every 146,097 days.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
