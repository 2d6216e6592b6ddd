//! Whole configurations: layers, problems, and what is printed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::json;

use super::*;
use crate::settings::{FILE_VARIABLE, MapSource};

fn world(variables: &[(&str, &str)], file: Option<&str>) -> MapSource {
    let mut source = MapSource::default();
    for (name, value) in variables {
        source.variables.insert((*name).into(), value.into());
    }
    if let Some(file) = file {
        source.files.insert("llamero.toml".into(), file.into());
    }
    source
}

fn load_with(variables: &[(&str, &str)], file: &str) -> Result<Settings, Problems> {
    load(&world(variables, Some(file)), &Flags::default())
}

/// Keys and reasons of everything that is wrong.
fn problems(variables: &[(&str, &str)], file: &str) -> Vec<(String, String)> {
    let problems = load_with(variables, file).err().map_or(Vec::new(), |problems| problems.0);
    let lines = problems.into_iter().map(|problem| {
        let text = format!("{}: {}", problem.origin, problem.reason);
        (problem.key, text)
    });
    lines.collect()
}

fn shown<'a>(settings: &'a Settings, name: &str) -> &'a Effective {
    let mut lines = settings.effective().iter();
    lines.find(|line| line.name == name).unwrap()
}

#[test]
fn without_any_source_there_are_the_defaults() {
    let settings = load(&MapSource::default(), &Flags::default()).unwrap();
    assert_eq!(settings.nats.subject, "llm.worker.default");
    assert_eq!(settings.nats.servers.len(), 1);
    assert_eq!(settings.nats.servers[0].port(), 4222);
    assert!(matches!(settings.nats.auth, NatsAuth::None));
    assert_eq!((settings.jobs.slots, settings.jobs.queue), (4, 4));
    assert_eq!(settings.jobs.interrupt_peers, Duration::from_millis(300));
    assert_eq!(settings.jobs.shutdown_grace, Duration::from_secs(25));
    assert_eq!(settings.answers.ack_delay, Duration::from_millis(10));
    assert_eq!(settings.answers.flush_interval, Duration::from_millis(25));
    assert_eq!(settings.answers.flush_bytes, 1024);
    assert_eq!(settings.answers.stream_subjects, ["_INBOX.>"]);
    assert!(settings.answers.extras && !settings.jobs.allow_grammar);
    assert_eq!(settings.models.dir, PathBuf::from("."));
    assert_eq!(settings.models.max_loaded, 1);
    assert_eq!(settings.models.keep_alive, Some(Duration::from_secs(300)));
    assert_eq!(settings.models.ram, None);
    assert_eq!((settings.models.kv.type_k, settings.models.speculate_tokens), (KvType::F16, 0));
    assert!(settings.models.follow_links && settings.models.use_mmap);
    assert_eq!(settings.hooks.dir, None);
    assert_eq!(settings.log.format, LogFormat::Text);
    assert!(settings.effective().iter().all(|line| line.origin == "default"));
    assert_eq!(settings.effective().len(), spec::all().len());
    // Nothing is reported as set that equals its default.
    assert!(!settings.options.is_set("ctx_size"));
}

#[test]
fn hooks_turn_embed_off_until_the_operator_says_otherwise() {
    for (file, policy) in [
        ("", EmbedPolicy::Served),
        ("embed = \"off\"", EmbedPolicy::Off),
        ("hooks_dir = \"hooks\"", EmbedPolicy::UnseenByHooks),
        ("hooks_dir = \"hooks\"\nembed = \"auto\"", EmbedPolicy::UnseenByHooks),
        ("hooks_dir = \"hooks\"\nembed = \"off\"", EmbedPolicy::Off),
        ("hooks_dir = \"hooks\"\nembed = \"on\"", EmbedPolicy::Served),
    ] {
        let settings = load_with(&[], file).unwrap();
        assert_eq!(settings.jobs.embed, EmbedRules { policy, max_inputs: 64 }, "{file}");
    }
    let settings = load_with(&[("llm_embed_max_tokens", "2048")], "embed_idle = \"5m\"").unwrap();
    let embedding = &settings.models.embedding;
    assert_eq!((embedding.max_tokens, embedding.threads), (2048, 1));
    assert_eq!(embedding.idle, Duration::from_secs(300));
    assert_eq!(problems(&[], "embed = true").len(), 1);
}

#[test]
fn each_layer_goes_over_the_one_below() {
    let file = "slots = 2\nqueue = 2\npreload = true\nnats_worker_subject = \"from.file\"\n";
    let variables = [("llm_slots", "3"), ("llm_queue", "3")];
    let mut flags = Flags::default();
    flags.set("slots", "5", "--slots");
    let settings = load(&world(&variables, Some(file)), &flags).unwrap();
    assert_eq!((settings.jobs.slots, settings.jobs.queue), (5, 3));
    assert!(settings.models.preload);
    assert_eq!(settings.nats.subject, "from.file");
    for (name, value, origin) in [
        ("slots", json!(5), "flag --slots"),
        ("queue", json!(3), "variable llm_queue"),
        ("preload", json!(true), "file llamero.toml"),
        ("dir", json!("."), "default"),
    ] {
        let line = shown(&settings, name);
        assert_eq!((&line.value, line.origin.as_str()), (&value, origin), "{name}");
    }
}

#[test]
fn upper_case_variables_win_and_empty_ones_do_not_count() {
    let variables = [
        ("llm_slots", "2"),
        ("LLAMERO_SLOTS", "3"),
        ("llm_queue", "7"),
        ("LLAMERO_QUEUE", ""),
        ("NATS_URL", "nats://elsewhere:1"),
    ];
    let settings = load_with(&variables, "").unwrap();
    assert_eq!((settings.jobs.slots, settings.jobs.queue), (3, 7));
    assert_eq!(settings.nats.servers[0].host(), "elsewhere");
    let settings = load_with(&[("NATS_URL", "a"), ("llm_nats_url", "b")], "").unwrap();
    assert_eq!(settings.nats.servers[0].host(), "b");
}

#[test]
fn defaults_of_requests_come_from_the_same_layers() {
    let variables = [
        ("llm_ctx_size", "2048"),
        ("llm_stop", r#"["x"]"#),
        ("llm_instructions", "plain text"),
        ("llm_temperature", "0"),
    ];
    let settings = load_with(&variables, "top_k = 7\nmodel = \"m.gguf\"\n").unwrap();
    let resolved =
        llamero_protocol::resolve(&Default::default(), &settings.options, false).unwrap();
    assert_eq!(resolved.ctx_size, 2048);
    assert_eq!(resolved.stop, ["x"]);
    assert_eq!(resolved.instructions, "plain text");
    assert_eq!((resolved.temperature, resolved.top_k), (0.0, 7));
    assert_eq!(resolved.model.as_deref(), Some("m.gguf"));
    assert_eq!(shown(&settings, "ctx_size").value, json!(2048));
    assert_eq!(shown(&settings, "ctx_size").default, json!(4096));
}

#[test]
fn models_have_a_time_a_budget_and_types() {
    let file = "keep_alive = 0\nmodels_ram_mib = 512\nkv_type_k = \"q8_0\"\nkv_type_v = \"bf16\"\n";
    let models = load_with(&[], file).unwrap().models;
    assert_eq!((models.keep_alive, models.ram), (None, Some(512 << 20)));
    assert_eq!((models.kv.type_k, models.kv.type_v), (KvType::Q8_0, KvType::Bf16));
    let models = load_with(&[("llm_keep_alive", "90s")], file).unwrap().models;
    assert_eq!(models.keep_alive, Some(Duration::from_secs(90)));
    let found = problems(&[("llm_kv_type_v", "q2_k"), ("llm_models_ram_mib", "1GiB")], "");
    assert!(
        found.iter().any(|(key, text)| key == "kv_type_v" && text.contains("q8_0")),
        "{found:?}"
    );
    assert!(found.iter().any(|(key, _)| key == "models_ram_mib"), "{found:?}");
    // The name without its unit is close enough to be understood.
    let found = problems(&[], "models_ram = 1\n");
    assert!(found[0].1.contains("did you mean models_ram_mib?"), "{found:?}");
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let file = "slotss = 1\nqueue = \"many\"\ntype = \"gpt\"\nmodel = \"../m.gguf\"\ntop_p = 2\n\
                nats_worker_subject = \"a.>\"\nstream_subjects = [\"a..b\"]\nnats_user = \"me\"\n\
                nats_cert = \"c.pem\"\n[plugins.x]\nlimit = {}\n";
    let variables = [("llm_ack_delay_ms", "soon"), ("llm_nats_url", "ftp://x")];
    let found = problems(&variables, file);
    for (key, part) in [
        ("slotss", "did you mean slots?"),
        ("queue", "whole number from 0 to 65536"),
        ("type", "llm_type not found"),
        ("model", "path separators"),
        ("top_p", "from 0 to 1"),
        ("nats_worker_subject", "wildcards"),
        ("stream_subjects", "empty tokens"),
        ("nats_user", "needs nats_password"),
        ("nats_cert", "needs nats_key"),
        ("plugins.x.limit", "did you mean limits?"),
        ("ack_delay_ms", "variable llm_ack_delay_ms"),
        ("nats_url", "variable llm_nats_url"),
    ] {
        assert!(
            found.iter().any(|(name, text)| name == key && text.contains(part)),
            "{key} with {part:?} is missing in {found:#?}"
        );
    }
    assert_eq!(found.len(), 12, "{found:#?}");
}

#[test]
fn a_broken_file_does_not_hide_other_problems() {
    let found = problems(&[("llm_slots", "0")], "slots = = 1\nnats_token = \"hunter2\"\n");
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["configuration file", "slots"]);
    assert!(found[0].1.contains("line 1"), "{found:?}");
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn a_named_file_must_exist() {
    let mut flags = Flags::default();
    flags.config = Some("other.toml".into());
    let error = load(&MapSource::default(), &flags).unwrap_err();
    assert_eq!(error.0.len(), 1);
    assert!(error.to_string().contains("other.toml"), "{error}");

    let mut source = world(&[(FILE_VARIABLE, "named.toml")], Some("slots = 1"));
    source.files.insert("named.toml".into(), "slots = 2".into());
    let settings = load(&source, &Flags::default()).unwrap();
    assert_eq!(settings.jobs.slots, 2);
}

#[test]
fn only_one_way_of_authenticating_is_taken() {
    let ways = [
        ("llm_nats_url", "nats://u:p@h"),
        ("llm_nats_nk", "seed.nk"),
        ("llm_nats_creds", "user.creds"),
        ("llm_nats_token", "t"),
    ];
    for way in ways {
        assert!(load_with(&[way], "").is_ok(), "{way:?}");
    }
    for (index, one) in ways.iter().enumerate() {
        for other in &ways[index + 1..] {
            let found = problems(&[*one, *other], "");
            assert_eq!(found.len(), 1, "{one:?} {other:?}");
            assert!(found[0].1.contains("only one way"), "{found:?}");
        }
    }
    let user = [("llm_nats_user", "u"), ("llm_nats_password", "p")];
    let settings = load_with(&user, "").unwrap();
    assert!(matches!(
        &settings.nats.auth,
        NatsAuth::UserPassword(user, password) if user == "u" && password.expose_secret() == "p"
    ));
}

#[test]
fn no_print_of_settings_carries_a_secret() {
    let secrets = ["pass-hunter2", "token-hunter2", "plugin-hunter2"];
    let file = "[plugins.x]\nsecrets = { t = \"env:T\" }\n";
    for variables in [
        vec![("llm_nats_url", "nats://u:pass-hunter2@h")],
        vec![("llm_nats_token", "token-hunter2")],
        vec![("llm_nats_user", "u"), ("llm_nats_password", "pass-hunter2")],
    ] {
        let variables: Vec<_> = variables.into_iter().chain([("T", "plugin-hunter2")]).collect();
        let settings = load_with(&variables, file).unwrap();
        let listing = serde_json::to_string(settings.effective()).unwrap();
        let text = format!("{settings:?} {listing}");
        for secret in secrets {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("redacted"));
    }
    // A value that is refused is not quoted either.
    let found = problems(&[("llm_nats_url", "nats://u:pass-hunter2@h,ftp://u:pass-hunter2@x")], "");
    assert!(!found.is_empty() && !format!("{found:?}").contains("pass-hunter2"));
}

#[test]
fn compiled_hooks_are_kept_in_the_users_cache() {
    for (variables, expected) in [
        (vec![("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], Some("/c/llamero/hooks")),
        (vec![("HOME", "/h")], Some("/h/.cache/llamero/hooks")),
        (vec![("HOME", "/h"), ("llm_hooks_cache_dir", "here")], Some("here")),
        (vec![("XDG_CACHE_HOME", "relative")], None),
        (vec![], None),
    ] {
        let settings = load_with(&variables, "").unwrap();
        assert_eq!(settings.hooks.cache_dir, expected.map(PathBuf::from));
    }
}

#[test]
fn the_state_of_hooks_is_in_memory_unless_it_is_to_be_shared() {
    let settings = load_with(&[], "").unwrap();
    assert_eq!((settings.hooks.state, settings.hooks.metric_series), (HookState::Memory, 1000));
    let file = "hook_state = \"nats\"\nhook_metric_series = 5\n";
    let settings = load_with(&[], file).unwrap();
    let bucket = "llamero-hooks".to_owned();
    assert_eq!(settings.hooks.state, HookState::Nats { bucket });
    assert_eq!(settings.hooks.metric_series, 5);
    let settings = load_with(&[("llm_hook_state_bucket", "fleet_2")], file).unwrap();
    assert_eq!(settings.hooks.state, HookState::Nats { bucket: "fleet_2".to_owned() });
    for bucket in ["a.b", "a b", "ä", "*"] {
        let found = problems(&[("llm_hook_state_bucket", bucket)], file);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains("no name of a bucket"), "{found:?}");
    }
    let found = problems(&[("llm_hook_state", "redis")], "");
    assert!(found[0].1.contains("memory, nats"), "{found:?}");
}

#[test]
fn hook_limits_are_read_globally_and_for_one_plugin() {
    let file = "hook_wall_ms = 100\n[plugins.x]\nlimits = { wall_ms = 900 }\nconfig = { a = 1 }\n";
    let settings = load_with(&[("llm_hook_memory_mib", "32")], file).unwrap();
    assert_eq!(settings.hooks.limits.wall, Some(Duration::from_millis(100)));
    assert_eq!(settings.hooks.limits.memory_bytes, Some(32 << 20));
    let plugin = &settings.hooks.plugins["x"];
    assert_eq!(plugin.limits.wall, Some(Duration::from_millis(900)));
    assert_eq!(plugin.config, json!({"a": 1}));
}
