//! Plugins that change while a live worker serves: by their files, by commands over
//! NATS, and by `llamero hook`.
//!
//! Two versions of a plugin are two test plugins under one id. Each does nothing
//! unless a request asks for it by name, so that what answers says which version
//! is in service.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::prerequisites::{example_plugin, refused_plugin, test_plugin};
use crate::harness::{
    Bench, Cli, Client, HooksDir, ModelsDir, Nats, SUBJECT, Signal, Worker, assert_error, brief,
    endless, new_job, within,
};

/// Limits so wide that a busy machine is no reason to fail.
const LIMITS: &str = "hook_wall_ms = 60000\nhook_cpu_ms = 10000\nhook_trial_wall = 60";

/// Puts a test plugin into the place of another, by renaming.
fn put(dir: &Path, id: &str, plugin: &str) {
    let beside = dir.join(".new");
    fs::copy(test_plugin(plugin), &beside).expect("copy a plugin");
    fs::rename(beside, dir.join(format!("{id}.wasm"))).expect("rename a plugin");
}

/// A bench whose worker has the plugin `a`, and its hooks folder.
fn bench(plugin: &str, more: &str) -> (Bench, PathBuf) {
    let hooks = HooksDir::empty().test_as(plugin, "a");
    let dir = hooks.path().to_owned();
    // A cache of its own, because what is remembered of plugins is kept there.
    let cache = dir.join("cache");
    let bench = Bench::with_hooks(hooks, |worker| {
        worker
            .config(LIMITS)
            .config(more)
            .flag("--queue", "64")
            .env("llm_hooks_cache_dir", &cache.display().to_string())
    });
    (bench, dir)
}

/// A command to all workers; the answer of the one that there is.
async fn command(client: &Client, command: Value) -> Value {
    let subject = format!("{SUBJECT}._ctl");
    let answer = client.nats.request(subject, command.to_string().into());
    let answer = within("the answer to a command", answer).await.expect("an answer");
    serde_json::from_slice(&answer.payload).expect("JSON")
}

/// The plugin `a` as the worker lists it.
async fn plugin(client: &Client) -> Value {
    let answer = command(client, json!({"hook": {"action": "list"}})).await;
    let plugins = answer["hook"]["plugins"].as_array().unwrap_or_else(|| panic!("{answer}"));
    plugins.iter().find(|plugin| plugin["plugin"] == "a").cloned().unwrap_or_default()
}

/// Waits until the plugin `a` is as wanted.
async fn until(client: &Client, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let plugin = plugin(client).await;
            if wanted(&plugin) {
                return plugin;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, seen).await
}

/// What an answer looks like when the version in service is the plugin `respond`.
async fn responds(client: &Client) -> bool {
    let predict = json!({"input": ["[[respond:here]]"], "options": {"max_tokens": 2}});
    let body = client.predict(predict).await;
    assert!(body["predict"].is_object(), "{body}");
    body["predict"]["output"] == "here"
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_swapped_under_streams_and_nobody_notices() {
    let (bench, dir) = bench("respond", "");
    let client = bench.client().await;
    let stop = Arc::new(AtomicBool::new(false));
    let streams: Vec<_> = (0..3)
        .map(|_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) || served == 0 {
                    let job = new_job();
                    let outcome = client.stream(&job, endless(30)).await.finish(&job).await;
                    assert!(!outcome.output().is_empty());
                    let usage = &outcome.last.body["predict"]["usage"];
                    assert_eq!(usage["completion_tokens"], 30, "{usage}");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for n in 1..=12_u64 {
        put(&dir, "a", if n % 2 == 1 { "set-input" } else { "respond" });
        let seen = until(&client, "the new version", |a| a["generation"] == n + 1).await;
        assert_eq!(responds(&client).await, n % 2 == 0, "{seen}");
    }
    stop.store(true, Ordering::Relaxed);
    for stream in streams {
        assert!(within("a stream", stream).await.expect("no panic") > 0);
    }
    // The last job of each old chain has taken it along.
    let drained = async {
        while command(&client, json!({"hook": {"action": "list"}})).await["hook"]["draining"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the old chains to drain", drained).await;
    bench.worker.logs(&["drained"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_is_named() {
    let (bench, dir) = bench("respond", "");
    let client = bench.client().await;
    fs::write(dir.join("a.wasm"), b"\0asm but not quite").expect("write a file");
    let a = until(&client, "the refusal", |a| a["error"].is_string()).await;
    assert_eq!((&a["state"], &a["generation"]), (&json!("serving"), &json!(1)), "{a}");
    assert!(responds(&client).await);
    bench.worker.logs(&["plugin refused"]).await;

    let url = bench.nats.url();
    let ran = Cli::new(&["hook", "reload", "--nats", &url]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("a stays as it was: "), "{ran:?}");
    put(&dir, "a", "set-input");
    until(&client, "the mended version", |a| a["error"].is_null()).await;
    assert!(!responds(&client).await);
    // The folder itself goes and comes: requests are served all the time.
    let away = dir.with_extension("away");
    fs::rename(&dir, &away).expect("move the folder");
    let ran = Cli::new(&["hook", "reload", "--nats", &url]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("the hooks folder"), "{ran:?}");
    assert!(!responds(&client).await);
    fs::rename(&away, &dir).expect("move the folder back");
    let ran = Cli::new(&["hook", "reload", "--nats", &url]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("nothing has changed (1 plugins)"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_more_often_is_rolled_back_by_itself() {
    let (bench, dir) = bench("respond", "");
    let client = bench.client().await;
    let first = plugin(&client).await["digest"].clone();
    put(&dir, "a", "trap");
    let a = until(&client, "the new version", |a| a["generation"] == 2).await;
    assert_eq!((&a["state"], &a["previous"]), (&json!("probation"), &first), "{a}");
    let trapping = json!({"input": ["Please [[trap]]"], "options": {"max_tokens": 1}});
    let rolled_back = async {
        while plugin(&client).await["digest"] != first {
            let body = client.predict(trapping.clone()).await;
            // Refused by the plugin, or served because it is out by now.
            assert!(body["error"]["code"] == 9 || body["predict"].is_object(), "{body}");
        }
    };
    within("the roll-back", rolled_back).await;
    let a = plugin(&client).await;
    assert!(a["error"].as_str().is_some_and(|error| error.contains("stays out until")), "{a}");
    assert!(responds(&client).await);
    bench.worker.logs(&["has failed its probation"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_and_commands_workers() {
    let (bench, dir) = bench("respond", "");
    let client = bench.client().await;
    let url = bench.nats.url();
    let hook = |args: &[&str]| Cli::new(&[&["hook"], args, &["--nats", &url]].concat()).run();

    assert!(responds(&client).await);
    let ran = hook(&["list"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let row = ran.stdout.lines().nth(1).unwrap_or_default().to_owned();
    assert!(row.contains(" a ") && row.contains("request") && row.contains("serving"), "{ran:?}");
    let ran = hook(&["list", "--json"]).await;
    let listed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let worker = listed["workers"][0]["worker"].as_str().expect("an id").to_owned();
    let a = &listed["workers"][0]["hook"]["plugins"][0];
    assert_eq!((&a["plugin"], &a["calls"], &a["failures"]), (&json!("a"), &json!(1), &json!(0)));

    let ran = hook(&["disable", "a"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("a is disabled"), "{ran:?}");
    assert!(!responds(&client).await);
    let ran = hook(&["enable", "a", "--worker", &worker]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(responds(&client).await);

    put(&dir, "a", "set-input");
    until(&client, "the new version", |a| a["previous"].is_string()).await;
    let ran = hook(&["rollback", "a"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("a rolled back from "), "{ran:?}");
    assert!(responds(&client).await);
    let ran = hook(&["reload"]).await;
    assert_eq!(ran.code, 1, "the file is still the version that was taken out: {ran:?}");
    let ran = hook(&["reload", "a"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!responds(&client).await);

    for (args, code, text) in [
        (&["rollback", "b"][..], 1, "there is no plugin `b` (there is a)"),
        (&["disable", "a", "--worker", "nobody"][..], 69, "no worker nobody listens"),
        (&["list", "--subject", "llm.worker.none"][..], 69, "no worker listens"),
    ] {
        let ran = hook(args).await;
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(text), "{args:?}: {ran:?}");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_every_worker() {
    let hooks = HooksDir::empty().test_as("respond", "a");
    let dir = hooks.path().to_owned();
    let (nats, models) = (Nats::start(), ModelsDir::real());
    let start = || {
        let worker = Worker::at(&nats.url()).flag("--models", models.path());
        worker.flag("--hooks", hooks.path()).config(LIMITS).config("hook_reload = false").start()
    };
    let _workers = [start(), start()];
    let url = nats.url();
    put(&dir, "a", "set-input");
    let ran = Cli::new(&["hook", "reload", "--json", "--nats", &url]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let answers: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let answers = answers["workers"].as_array().expect("answers");
    assert_eq!(answers.len(), 2, "{ran:?}");
    assert!(answers.iter().all(|answer| answer["hook"]["loaded"] == json!(["a"])), "{ran:?}");
    assert_ne!(answers[0]["worker"], answers[1]["worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_watching_a_hangup_is_what_reloads() {
    let (bench, dir) = bench("respond", "hook_reload = false");
    let client = bench.client().await;
    put(&dir, "a", "set-input");
    // Longer than the folder would be left alone by a worker that watches it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(responds(&client).await);
    let process = i32::try_from(bench.worker.id()).ok().and_then(rustix::process::Pid::from_raw);
    let process = process.expect("a process id");
    rustix::process::kill_process(process, Signal::HUP).expect("send a signal");
    until(&client, "the new version", |a| a["generation"] == 2).await;
    assert!(!responds(&client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_answered_and_harms_nothing() {
    let (bench, _) = bench("respond", "");
    let client = bench.client().await;
    for (text, code) in [
        (json!("x"), 2),
        (json!({}), 2),
        (json!({"job": "a", "predict": {"input": ["x"]}}), 2),
        (json!({"hook": {"action": "explode"}}), 2),
        (json!({"hook": {"action": "list", "all": true}}), 2),
        (json!({"hook": {"action": "disable"}}), 2),
        (json!({"hook": {"action": "disable", "name": "../../etc"}}), 2),
    ] {
        let answer = command(&client, text.clone()).await;
        assert_error(&answer, code, None);
        assert!(answer["worker"].is_string(), "{text}: {answer}");
    }
    // Neither a system subject nor the worker's own is answered on.
    for reply in ["$SYS.x", SUBJECT, "llm.worker.default._ctl"] {
        let payload = json!({"hook": {"action": "disable", "name": "a"}}).to_string();
        let subject = format!("{SUBJECT}._ctl");
        let sent = client.nats.publish_with_reply(subject, reply.to_owned(), payload.into());
        sent.await.expect("publish");
    }
    client.round_trip().await;
    let a = plugin(&client).await;
    assert_eq!(a["state"], "serving", "such commands are dropped: {a}");
    // Without a reply subject a command is carried out all the same.
    let payload = json!({"hook": {"action": "disable", "name": "a"}}).to_string();
    client.nats.publish(format!("{SUBJECT}._ctl"), payload.into()).await.expect("publish");
    until(&client, "the plugin to be disabled", |a| a["state"] == "disabled").await;
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_denied_or_unwanted_leave_a_worker_that_works() {
    let denied = r#"authorization { users = [
        { user: worker, password: secret, permissions: {
            subscribe: { deny: ["llm.worker.default._ctl", "llm.worker.default._w.>"] } } }
        { user: client, password: secret }
    ] }
    no_auth_user: client"#;
    let nats = Nats::with(denied);
    let models = ModelsDir::real();
    let as_worker = nats.url().replace("nats://", "nats://worker:secret@");
    let worker = Worker::at(&as_worker).flag("--models", models.path()).start();
    let client = Client::connect(&nats.url()).await;
    client.assert_alive().await;
    worker.logs(&["commands about hooks cannot be received there"]).await;
    let ran = Cli::new(&["hook", "list", "--nats", &nats.url()]).run().await;
    assert_eq!(ran.code, 69, "nobody listens there: {ran:?}");

    let quiet = Bench::start(|worker| worker.config("hook_control = false"));
    let ran = Cli::new(&["hook", "list", "--nats", &quiet.nats.url()]).run().await;
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(!quiet.worker.log().contains("cannot be received"), "{}", quiet.worker.log());
    let client = quiet.client().await;
    assert!(client.predict(brief()).await["predict"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_version_survives_a_restart() {
    let (nats, models) = (Nats::start(), ModelsDir::real());
    let hooks = HooksDir::empty().test_as("respond", "a");
    let cache = hooks.path().join("cache");
    let worker = || {
        Worker::at(&nats.url())
            .flag("--models", models.path())
            .flag("--hooks", hooks.path())
            .env("llm_hooks_cache_dir", &cache.display().to_string())
            .config(LIMITS)
    };
    let client = Client::connect(&nats.url()).await;
    let mut first = worker().start();
    first.sigterm();
    assert_eq!(first.exit_code().await, 0, "{}", first.log());
    fs::write(hooks.path().join("a.wasm"), b"damaged").expect("write a file");
    let mut second = worker().start();
    assert!(responds(&client).await);
    second.logs(&["its last good version is served"]).await;
    second.sigterm();
    assert_eq!(second.exit_code().await, 0);
    // Without it, the damaged file stops the start.
    fs::remove_dir_all(&cache).expect("remove the cache");
    let mut third = worker().launch();
    assert_eq!(third.exit_code().await, 64, "{}", third.log());
    // And so does a folder that is not there, by its name.
    let nowhere = Worker::at(&nats.url()).flag("--models", models.path());
    let mut fourth = nowhere.flag("--hooks", "no-such-folder").launch();
    assert_eq!(fourth.exit_code().await, 64);
    let log = fourth.log();
    assert!(log.contains("the hooks folder no-such-folder cannot be read"), "{log}");
    assert!(!log.contains("plugin no-such-folder"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_inspected_and_checked_without_a_worker() {
    let path = |name: &str| test_plugin(name).display().to_string();
    let ran = Cli::new(&["hook", "inspect", &path("respond")]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("llamero:hooks/request-hook@0.1.0"), "{ran:?}");
    let ran = Cli::new(&["hook", "inspect", &path("respond"), "--json"]).run().await;
    let inspected: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(inspected["phases"], json!(["request"]));

    let ran = Cli::new(&["hook", "check", &path("respond"), "--json"]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let checked: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(checked["digest"], inspected["digest"]);
    let refused =
        |name: &str| Cli::new(&["hook", "check", &refused_plugin(name).display().to_string()]);
    for (name, cause) in [
        ("configure-error", "`limit` is missing: set it to a number"),
        ("self-test-error", "two and two make five"),
        ("unknown-import", "nowhere"),
    ] {
        let ran = refused(name).run().await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains(cause), "{ran:?}");
    }
    // The settings are those of the plugin's id.
    let redact = example_plugin("redact").display().to_string();
    let ran = Cli::new(&["hook", "check", &redact, "--config", "own.toml"])
        .file("own.toml", "[plugins.redact]\nconfig = { no_such_key = 3 }\n")
        .run()
        .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("no_such_key"), "{ran:?}");
    let ran = Cli::new(&["hook", "check", &redact]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = Cli::new(&["hook", "check", "no-such-file.wasm"]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("no-such-file.wasm"), "{ran:?}");
}
