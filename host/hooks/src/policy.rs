//! The operator's word about one plugin: whether and where it runs, what it may
//! use, and what happens when it fails.
//!
//! These are values. They are read from files by the worker, checked against the
//! plugin when it is loaded (`load`), and applied to each call (`run`,
//! `outgoing`). Defaults are the strict ones: enforce, fail closed, nothing
//! granted that reaches outside.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::Phase;

/// What the operator says about one plugin beyond its limits and configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Whether its verdicts count.
    pub mode: Mode,
    /// Its place in the chain: incoming phases run in ascending order, outgoing
    /// ones in descending order; plugins of equal order by their ids.
    pub order: i32,
    /// Whether the worker refuses to run without it: a missing file refuses the
    /// start, and a file that is removed later leaves the plugin in service.
    pub required: bool,
    /// The phases it is called in, of those that it exports; `None` is all.
    pub phases: Option<Vec<Phase>>,
    /// The jobs it is called for.
    pub matches: Match,
    /// What a failure of it means.
    pub fail: FailPolicies,
    /// What happens to a stream when the plugin can only judge whole outputs.
    pub streams: WholeOutput,
    /// Interfaces it may have beyond those that everybody may.
    pub grants: Vec<Grant>,
    /// SHA-256 that its file must have, in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Cases that a new version must decide as written, before it takes traffic.
    pub golden: Vec<GoldenCase>,
}

impl Policy {
    /// Whether the operator lets the plugin be called in `phase`.
    pub fn includes(&self, phase: Phase) -> bool {
        self.phases.as_ref().is_none_or(|phases| phases.contains(&phase))
    }
}

/// Whether a plugin's verdicts count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// They do.
    #[default]
    Enforce,
    /// It runs under the same limits, its verdicts are logged and counted, and
    /// nothing that it decides has an effect.
    Shadow,
    /// It is loaded and never called.
    Off,
}

/// What a failure of a plugin means for the job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailPolicy {
    /// The job ends with the protocol's code of a failed hook.
    #[default]
    Closed,
    /// The job goes on without the plugin; the failure is logged and counted.
    Open,
}

/// The fail policy of each phase. Observers are always open: there is no answer
/// left that they could fail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailPolicies {
    /// For the phases that have none of their own.
    pub default: FailPolicy,
    /// For single phases.
    pub of_phase: BTreeMap<Phase, FailPolicy>,
}

impl FailPolicies {
    /// The policy that holds in `phase`.
    pub fn of(&self, phase: Phase) -> FailPolicy {
        if phase == Phase::Observer {
            return FailPolicy::Open;
        }
        self.of_phase.get(&phase).copied().unwrap_or(self.default)
    }
}

/// What happens to a stream when a plugin has a `response-hook` and no
/// `stream-filter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WholeOutput {
    /// The output is collected, judged, and sent as one fragment.
    #[default]
    Collect,
    /// Streams pass the plugin.
    Skip,
}

/// The jobs that a plugin is called for. Every list must match; an empty one
/// matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// NATS subjects, with the wildcards `*` and `>`.
    pub subjects: Vec<String>,
    /// Model names, in which `*` stands for any run of characters.
    pub models: Vec<String>,
    /// Account names, in which `*` stands for any run of characters. A job whose
    /// account is unknown is matched by `*` only.
    pub accounts: Vec<String>,
}

/// Something that must be granted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The import `state`.
    State,
    /// The export `token-guard`, which is experimental.
    TokenGuard,
}

impl Grant {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::State, Self::TokenGuard];

    /// Its name in the policy, which is also the name of the interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::TokenGuard => "token-guard",
        }
    }

    /// The grant of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == name)
    }
}

/// One case of the operator's that a plugin must decide as written.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenCase {
    /// Name, for the error when it is decided otherwise.
    pub name: String,
    /// What the plugin is given.
    pub input: GoldenInput,
    /// The verdict it must give: an object of which every member that is named
    /// must be equal to what [`crate::golden_cases`] says about verdicts.
    pub want: Value,
}

/// What a golden case gives to the plugin.
#[derive(Debug, Clone, PartialEq)]
pub enum GoldenInput {
    /// `on-request`, with a request as [`crate::Request`].
    Request(crate::Request),
    /// `on-prompt`.
    Prompt(crate::Prompt),
    /// A stream filter, with these chunks one after another.
    Stream(Vec<String>),
    /// `on-response`.
    Response(String),
}

impl Match {
    /// Whether a job on `subject`, from `account`, for `model` is meant.
    pub fn applies(&self, subject: &str, account: Option<&str>, model: &str) -> bool {
        let any = |list: &[String], found: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|pattern| found(pattern))
        };
        any(&self.subjects, &|pattern| subject_matches(pattern, subject))
            && any(&self.models, &|pattern| glob(pattern, model))
            && any(&self.accounts, &|pattern| match account {
                Some(account) => glob(pattern, account),
                None => pattern == "*",
            })
    }
}

/// NATS wildcards: `*` is one token, `>` is one or more at the end.
fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// `*` stands for any run of characters, and everything else for itself.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_match_as_in_nats() {
        for (pattern, subject, expected) in [
            ("llm.worker.default", "llm.worker.default", true),
            ("llm.worker.*", "llm.worker.default", true),
            ("llm.*", "llm.worker.default", false),
            ("llm.>", "llm.worker.default", true),
            ("llm.>", "llm", false),
            (">", "llm", true),
            ("*", "llm", true),
            ("llm.worker", "llm.worker.default", false),
        ] {
            assert_eq!(subject_matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn globs_match_names() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*.gguf", "m.gguf", true),
            ("a*b*c", "a-b-b-c", true),
            ("ab*ba", "aba", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn all_lists_must_match_and_empty_ones_do() {
        let all = Match::default();
        assert!(all.applies("s", None, "m"));
        let some = Match {
            models: vec!["big-*".to_owned()],
            accounts: vec!["acme".to_owned()],
            ..Match::default()
        };
        assert!(some.applies("s", Some("acme"), "big-7b"));
        assert!(!some.applies("s", Some("acme"), "small"));
        assert!(!some.applies("s", Some("other"), "big-7b"));
        assert!(!some.applies("s", None, "big-7b"));
    }

    #[test]
    fn observers_are_always_open() {
        let closed = FailPolicies::default();
        assert_eq!(closed.of(Phase::Request), FailPolicy::Closed);
        assert_eq!(closed.of(Phase::Observer), FailPolicy::Open);
        let mixed = FailPolicies {
            default: FailPolicy::Open,
            of_phase: [(Phase::Stream, FailPolicy::Closed)].into(),
        };
        assert_eq!(mixed.of(Phase::Stream), FailPolicy::Closed);
        assert_eq!(mixed.of(Phase::Response), FailPolicy::Open);
    }
}
