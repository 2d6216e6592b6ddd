//! Tables of hooks: keys, problems, and the files beside them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use llamero_hooks::{FailPolicy, GoldenInput, Grant, Mode, Phase, PluginSettings, WholeOutput};
use serde_json::json;

use super::*;
use crate::settings::source::MapSource;

fn tables(file: &str, problems: &mut Vec<Problem>) -> PluginTables {
    let mut table: toml::Table = toml::from_str(file).unwrap();
    let Some(toml::Value::Table(tables)) = table.remove("plugins") else { panic!("no plugins") };
    PluginTables::new(tables, &Origin::File("/etc/llamero/llamero.toml".into()), problems)
}

fn check(file: &str, source: &MapSource) -> (BTreeMap<String, PluginSettings>, Vec<Problem>) {
    let mut problems = Vec::new();
    let tables = tables(file, &mut problems);
    let plugins = tables.settings(source, &mut problems);
    (plugins, problems)
}

#[track_caller]
fn fine(file: &str, source: &MapSource) -> PluginSettings {
    let (mut plugins, problems) = check(file, source);
    assert_eq!(problems, []);
    plugins.remove("x").unwrap()
}

#[test]
fn configuration_limits_and_secrets_are_read() {
    let mut source = MapSource::default();
    source.variables.insert("TOKEN".into(), "t0".into());
    source.files.insert("/run/key".into(), "k0\n".into());
    let (plugins, problems) = check(
        "[plugins.redact]\nconfig = { words = [\"a\"] }\n\
         limits = { cpu_ms = 20, memory_mib = 32, hold_ms = 500 }\n\
         secrets = { token = \"env:TOKEN\", key = \"file:/run/key\" }\n[plugins.other]\n",
        &source,
    );
    assert_eq!(problems, []);
    let redact = &plugins["redact"];
    assert_eq!(redact.config, json!({"words": ["a"]}));
    assert_eq!(redact.limits.cpu, Some(Duration::from_millis(20)));
    assert_eq!(redact.limits.memory_bytes, Some(32 << 20));
    assert_eq!(redact.limits.hold_time, Some(Duration::from_millis(500)));
    assert_eq!(redact.limits.wall, None);
    assert_eq!(redact.secrets["token"], "t0");
    assert_eq!(redact.secrets["key"], "k0");
    let other = &plugins["other"];
    assert_eq!((&other.config, &other.policy), (&Value::Null, &Default::default()));
}

#[test]
fn the_whole_policy_is_read() {
    let mut source = MapSource::default();
    let cases = r#"[{"name": "n", "response": "text", "want": {"verdict": "pass"}}]"#;
    source.files.insert("/etc/llamero/cases/x.json".into(), cases.into());
    source.files.insert("/abs.json".into(), cases.into());
    let sum = "AB".repeat(32);
    let x = fine(
        &format!(
            "[plugins.x]\nmode = \"shadow\"\norder = -5\nrequired = true\n\
             phases = [\"request\", \"stream\"]\nfail = {{ default = \"open\", stream = \"closed\", \
             observer = \"open\" }}\nstream = \"skip\"\ngrant = [\"state\"]\nsha256 = \"{sum}\"\n\
             golden = [\"cases/x.json\", \"/abs.json\"]\n\
             [plugins.x.match]\nsubjects = [\"llm.>\"]\nmodels = [\"big-*\"]\naccounts = [\"*\"]\n"
        ),
        &source,
    );
    let policy = x.policy;
    assert_eq!((policy.mode, policy.order, policy.required), (Mode::Shadow, -5, true));
    assert_eq!(policy.phases, Some(vec![Phase::Request, Phase::Stream]));
    assert_eq!(policy.matches.subjects, ["llm.>"]);
    assert_eq!(policy.matches.models, ["big-*"]);
    assert_eq!(policy.matches.accounts, ["*"]);
    assert_eq!(policy.fail.of(Phase::Request), FailPolicy::Open);
    assert_eq!(policy.fail.of(Phase::Stream), FailPolicy::Closed);
    assert_eq!(policy.streams, WholeOutput::Skip);
    assert_eq!(policy.grants, [Grant::State]);
    assert_eq!(policy.sha256, Some("ab".repeat(32)));
    assert_eq!(policy.golden.len(), 2);
    assert_eq!(policy.golden[0].input, GoldenInput::Response("text".into()));
    let open = fine("[plugins.x]\nfail = \"open\"\n", &source);
    assert_eq!(open.policy.fail.of(Phase::Prompt), FailPolicy::Open);
}

#[test]
fn everything_wrong_is_reported() {
    let mut source = MapSource::default();
    source.files.insert("/etc/llamero/bad.json".into(), "[{\"name\": \"n\"}, 1]".into());
    let (_, problems) = check(
        "[plugins]\na = 1\n[plugins.b]\nconfi = {}\nconfig = 3\nlimits = { wal_ms = 1, cpu_ms = \"x\", ready = -1 }\n\
         secrets = { t = \"plain\", u = \"env:NONE\", v = \"file:/none\" }\n\
         mode = \"shadwo\"\norder = 3000000000\nrequired = \"yes\"\nphases = [\"requst\"]\n\
         fail = { streem = \"open\", prompt = \"opn\", observer = \"closed\" }\nstream = 1\n\
         grant = [\"stat\"]\nsha256 = \"abc\"\ngolden = [\"none.json\", \"bad.json\"]\n\
         [plugins.b.match]\nmodel = [\"m\"]\nsubjects = [\"a..b\"]\naccounts = \"x\"\nmodels = [\"\"]\n\
         [plugins.c]\nphases = []\nfail = 3\nmatch = []\ngrant = \"state\"\nmode = 1\nlimits = 1\n",
        &source,
    );
    let expected = [
        ("plugins.a", "must be a table"),
        ("plugins.b.confi", "did you mean config?"),
        ("plugins.b.config", "must be a table"),
        ("plugins.b.limits.wal_ms", "did you mean wall_ms?"),
        ("plugins.b.limits.cpu_ms", "whole number"),
        ("plugins.b.limits.ready", "whole number"),
        ("plugins.b.secrets.t", "env:VARIABLE"),
        ("plugins.b.secrets.u", "NONE is not set"),
        ("plugins.b.secrets.v", "/none cannot be read"),
        ("plugins.b.mode", "did you mean shadow?"),
        ("plugins.b.order", "whole number"),
        ("plugins.b.required", "true or false"),
        ("plugins.b.phases", "did you mean request?"),
        ("plugins.b.fail.streem", "did you mean stream?"),
        ("plugins.b.fail.prompt", "did you mean open?"),
        ("plugins.b.fail.observer", "after the answer"),
        ("plugins.b.stream", "buffer, skip"),
        ("plugins.b.grant", "did you mean state?"),
        ("plugins.b.sha256", "sha256sum"),
        ("plugins.b.golden", "none.json: it cannot be read"),
        ("plugins.b.golden", "bad.json: case 1 (`n`): `want` is missing"),
        ("plugins.b.golden", "bad.json: case 2: a case must be"),
        ("plugins.b.match.model", "did you mean models?"),
        ("plugins.b.match.subjects", "empty tokens"),
        ("plugins.b.match.accounts", "list of texts"),
        ("plugins.b.match.models", "must not be empty"),
        ("plugins.c.phases", "mode = \"off\""),
        ("plugins.c.fail", "closed, open"),
        ("plugins.c.match", "must be a table"),
        ("plugins.c.grant", "list of texts"),
        ("plugins.c.mode", "enforce, shadow, off"),
        ("plugins.c.limits", "must be a table"),
    ];
    for (key, part) in expected {
        assert!(
            problems.iter().any(|p| p.key == key && p.reason.contains(part)),
            "{key} with {part:?} is missing in {problems:#?}"
        );
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    assert!(problems.iter().all(|p| p.origin.to_string().contains("llamero.toml")));
}

/// A folder with files, and the tables of a configuration file.
fn beside(files: &[(&str, &str)], file: &str) -> BTreeMap<String, PluginSettings> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let mut problems = Vec::new();
    let tables = tables(&format!("[plugins]\n{file}"), &mut problems);
    assert_eq!(problems, []);
    settings_for(dir.path(), &tables)
}

#[test]
fn the_configuration_file_wins_key_by_key() {
    let cases = r#"[{"name": "n", "response": "", "want": {"verdict": "pass"}}]"#;
    let read = beside(
        &[
            ("x.wasm", ""),
            ("x.json", cases),
            (
                "x.toml",
                "mode = \"shadow\"\norder = 3\nfail = { prompt = \"open\" }\ngolden = [\"x.json\"]\n\
                 [config]\nwords = [\"beside\"]\nmax = 3\n[config.deep]\na = 1\n\
                 [limits]\ncpu_ms = 20\nwall_ms = 30\n",
            ),
            ("alone.wasm", ""),
            ("alone.toml", "order = 9"),
        ],
        "[plugins.x]\nmode = \"enforce\"\nfail = \"closed\"\nlimits = { wall_ms = 900 }\n\
         config = { words = [\"file\"], deep = { b = 2 } }\n[plugins.unseen]\norder = 4\n",
    );
    let x = &read["x"];
    assert_eq!(x.unusable, None);
    assert_eq!((x.policy.mode, x.policy.order), (Mode::Enforce, 3));
    assert_eq!(x.policy.fail.of(Phase::Prompt), FailPolicy::Closed);
    assert_eq!(x.policy.golden.len(), 1);
    // Member by member, at the top level only.
    assert_eq!(x.config, json!({"words": ["file"], "max": 3, "deep": {"b": 2}}));
    assert_eq!(x.limits.wall, Some(Duration::from_millis(900)));
    assert_eq!(x.limits.cpu, Some(Duration::from_millis(20)));
    assert_eq!(read["alone"].policy.order, 9);
    // Loading says that there is no such file.
    assert_eq!(read["unseen"].policy.order, 4);
    assert_eq!(read.len(), 3);
}

#[test]
fn a_problem_beside_a_hook_is_its_own_and_names_file_key_and_cure() {
    let read = beside(
        &[
            ("good.wasm", ""),
            ("good.toml", "order = 1"),
            ("bad.wasm", ""),
            ("bad.toml", "mod = \"off\"\nlimits = { cpu_ms = 0 }"),
            ("broken.wasm", ""),
            ("broken.toml", "mode = = \"hunter2\""),
            ("huge.wasm", ""),
            ("huge.toml", &"# comment\n".repeat(200_000)),
        ],
        "[plugins.broken]\norder = \"first\"\n",
    );
    assert_eq!(read["good"].policy.order, 1);
    let text = |id: &str| read[id].unusable.clone().unwrap();
    assert_eq!(read["good"].unusable, None);
    let bad = text("bad");
    assert!(bad.contains("bad.toml") && bad.contains("mod "), "{bad}");
    assert!(bad.contains("did you mean mode?") && bad.contains("limits.cpu_ms"), "{bad}");
    let broken = text("broken");
    assert!(broken.contains("broken.toml") && broken.contains("line 1"), "{broken}");
    assert!(broken.contains("plugins.broken.order") && !broken.contains("hunter2"), "{broken}");
    assert!(text("huge").contains("the limit is"), "{}", text("huge"));
}

#[test]
fn a_file_beside_no_hook_counts_only_if_the_hook_is_required() {
    let read = beside(
        &[
            ("gone.toml", "order = 1"),
            ("needed.toml", "required = true"),
            ("torn.toml", "= ="),
            (".hidden.toml", "required = true"),
            ("notes.txt", "required = true"),
        ],
        "",
    );
    let ids: Vec<_> = read.keys().map(String::as_str).collect();
    assert_eq!(ids, ["needed"]);
    let tables = PluginTables::default();
    assert!(settings_for(Path::new("/nowhere/at/all"), &tables).is_empty());
}
