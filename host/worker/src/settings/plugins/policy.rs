//! The keys that make a hook's policy: whether, where and for whom it runs, what a
//! failure means, what it may use, and what it must decide.
//!
//! What the policy does is said by `llamero_hooks::Policy`.

use std::collections::BTreeMap;

use llamero_hooks::{
    FailPolicies, FailPolicy, GoldenCase, Grant, Match, Mode, Phase, Policy, WholeOutput,
    golden_cases,
};
use llamero_protocol::check_subject_pattern;

use super::{Entry, Reader, suggestion};

/// Bytes of a file of golden cases.
const GOLDEN_BYTES: usize = 8 << 20;

const MODES: &[(&str, Mode)] =
    &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)];
const FAILS: &[(&str, FailPolicy)] = &[("closed", FailPolicy::Closed), ("open", FailPolicy::Open)];
const STREAMS: &[(&str, WholeOutput)] =
    &[("buffer", WholeOutput::Collect), ("skip", WholeOutput::Skip)];
const MATCHES: &[&str] = &["subjects", "models", "accounts"];

impl Reader<'_> {
    pub(super) fn policy(&mut self, entries: &BTreeMap<&str, Entry<'_>>) -> Policy {
        let mut policy = Policy::default();
        for (key, entry) in entries {
            let (key, entry) = (*key, *entry);
            match key {
                "mode" => policy.mode = self.word(entry, key, MODES),
                "order" => policy.order = self.order(entry),
                "required" => match entry.value.as_bool() {
                    Some(required) => policy.required = required,
                    None => self.problem(entry, key, "must be true or false".into()),
                },
                "phases" => policy.phases = self.phases(entry),
                "match" => policy.matches = self.matches(entry),
                "fail" => policy.fail = self.fail(entry),
                "stream" => policy.streams = self.word(entry, key, STREAMS),
                "grant" => policy.grants = self.grants(entry),
                "sha256" => policy.sha256 = self.digest(entry),
                "golden" => policy.golden = self.golden(entry),
                _ => {}
            }
        }
        policy
    }

    /// One of some words; the default if it is none of them.
    fn word<T: Copy + Default>(&mut self, entry: Entry<'_>, key: &str, words: &[(&str, T)]) -> T {
        let given = entry.value.as_str().unwrap_or_default();
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let reason = match entry.value.as_str() {
            Some(given) => format!("{given:?} is not known{}", suggestion(given, &known)),
            None => format!("must be one of the texts {}", known.join(", ")),
        };
        self.problem(entry, key, reason);
        T::default()
    }

    fn texts<'a>(&mut self, entry: Entry<'a>, key: &str) -> Vec<&'a str> {
        let items = entry.value.as_array();
        let texts = items.and_then(|items| items.iter().map(toml::Value::as_str).collect());
        texts.unwrap_or_else(|| {
            self.problem(entry, key, "must be a list of texts, such as [\"a\", \"b\"]".into());
            Vec::new()
        })
    }

    fn order(&mut self, entry: Entry<'_>) -> i32 {
        let order = entry.value.as_integer().and_then(|order| i32::try_from(order).ok());
        order.unwrap_or_else(|| {
            let reason = format!("must be a whole number from {} to {}", i32::MIN, i32::MAX);
            self.problem(entry, "order", reason);
            0
        })
    }

    fn phases(&mut self, entry: Entry<'_>) -> Option<Vec<Phase>> {
        let known = Phase::ALL.map(Phase::as_str);
        let names = self.texts(entry, "phases");
        if names.is_empty() && entry.value.is_array() {
            let reason = "is empty; leave it out for all phases, or set mode = \"off\"".to_owned();
            self.problem(entry, "phases", reason);
        }
        let mut phases = Vec::new();
        for name in names {
            match Phase::from_name(name) {
                Some(phase) => phases.push(phase),
                None => {
                    let reason = format!("{name:?} is no phase{}", suggestion(name, &known));
                    self.problem(entry, "phases", reason);
                }
            }
        }
        Some(phases)
    }

    fn matches(&mut self, entry: Entry<'_>) -> Match {
        let mut matches = Match::default();
        let Some(table) = entry.value.as_table() else {
            let reason = "must be a table, such as { models = [\"big-*\"] }".to_owned();
            self.problem(entry, "match", reason);
            return matches;
        };
        for (name, value) in table {
            let (inner, key) = (Entry { value, ..entry }, format!("match.{name}"));
            if !MATCHES.contains(&name.as_str()) {
                self.unknown(inner, &key, name, MATCHES);
                continue;
            }
            let texts = self.texts(inner, &key);
            for text in &texts {
                let checked = match name.as_str() {
                    "subjects" => check_subject_pattern(text),
                    _ if text.is_empty() => Err("must not be empty".to_owned()),
                    _ => Ok(()),
                };
                if let Err(reason) = checked {
                    self.problem(inner, &key, format!("{text:?} {reason}"));
                }
            }
            let texts = texts.into_iter().map(str::to_owned).collect();
            match name.as_str() {
                "subjects" => matches.subjects = texts,
                "models" => matches.models = texts,
                _ => matches.accounts = texts,
            }
        }
        matches
    }

    fn fail(&mut self, entry: Entry<'_>) -> FailPolicies {
        let Some(table) = entry.value.as_table() else {
            let default = self.word(entry, "fail", FAILS);
            return FailPolicies { default, ..FailPolicies::default() };
        };
        let known: Vec<&str> =
            ["default"].into_iter().chain(Phase::ALL.map(Phase::as_str)).collect();
        let mut fail = FailPolicies::default();
        for (name, value) in table {
            let (inner, key) = (Entry { value, ..entry }, format!("fail.{name}"));
            match (name.as_str(), Phase::from_name(name)) {
                ("default", _) => fail.default = self.word(inner, &key, FAILS),
                (_, Some(phase)) => {
                    let policy = self.word(inner, &key, FAILS);
                    if phase == Phase::Observer && value.as_str() == Some("closed") {
                        let reason = "observers are called after the answer, so there is nothing \
                                      that a failure could close; take it out";
                        self.problem(inner, &key, reason.into());
                    }
                    fail.of_phase.insert(phase, policy);
                }
                _ => self.unknown(inner, &key, name, &known),
            }
        }
        fail
    }

    fn grants(&mut self, entry: Entry<'_>) -> Vec<Grant> {
        let known = Grant::ALL.map(Grant::as_str);
        let mut grants = Vec::new();
        for name in self.texts(entry, "grant") {
            match Grant::from_name(name) {
                Some(grant) => grants.push(grant),
                None => {
                    let reason = format!("{name:?} cannot be granted{}", suggestion(name, &known));
                    self.problem(entry, "grant", reason);
                }
            }
        }
        grants
    }

    fn digest(&mut self, entry: Entry<'_>) -> Option<String> {
        let text = entry.value.as_str().unwrap_or_default();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Some(text.to_ascii_lowercase());
        }
        let reason = "must be the 64 hexadecimal digits that sha256sum prints".to_owned();
        self.problem(entry, "sha256", reason);
        None
    }

    /// Reads the files of golden cases; relative paths begin in the folder of the
    /// file that names them.
    fn golden(&mut self, entry: Entry<'_>) -> Vec<GoldenCase> {
        let mut cases = Vec::new();
        for name in self.texts(entry, "golden") {
            let path = entry.layer.dir.join(name);
            let shown = path.display();
            let read = match self.source.read(&path) {
                Ok(text) if text.len() > GOLDEN_BYTES => {
                    Err(vec![format!("it has {} bytes, the limit is {GOLDEN_BYTES}", text.len())])
                }
                Ok(text) => golden_cases(&text),
                Err(error) => Err(vec![format!("it cannot be read: {error}")]),
            };
            match read {
                Ok(read) => cases.extend(read),
                Err(reasons) => {
                    for reason in reasons {
                        self.problem(entry, "golden", format!("{shown}: {reason}"));
                    }
                }
            }
        }
        cases
    }
}
