//! Configuration as an operator meets it: its layers, its errors, its secrets,
//! and the ways to reach a server.

use serde_json::{Value, json};

use crate::harness::{Bench, Cli, Client, ModelsDir, Nats, Worker, brief};

/// What is wrong in the file, the environment and the flags of the tests below,
/// by the name that an operator must be able to find in the message.
const MISTAKES: [&str; 7] = [
    "slots",
    "queu",
    "flush_bytes",
    "temperature",
    "llm_queue",
    "log_format",
    "plugins.redact.limits.wal_ms",
];

const BAD_FILE: &str = r#"
slots = "many"
queu = 3
flush_bytes = 0
temperature = "hot"
log_format = "xml"

[plugins.redact.limits]
wal_ms = 5
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_reported_at_once() {
    for command in ["worker", "settings"] {
        let ran = Cli::new(&[command, "--config", "bad.toml"])
            .file("bad.toml", BAD_FILE)
            .env("llm_queue", "-1")
            .run()
            .await;
        assert_eq!(ran.code, 64, "{command}: {ran:?}");
        for name in MISTAKES {
            assert!(ran.stderr.contains(name), "{command}: {name} is missing:\n{}", ran.stderr);
        }
        assert!(ran.stderr.contains("did you mean queue"), "{}", ran.stderr);
        assert!(ran.stderr.contains("bad.toml"), "where it stands: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_read_are_named() {
    let ran = Cli::new(&["worker", "--config", "none.toml"]).run().await;
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(ran.stderr.contains("none.toml"), "{ran:?}");
    let ran =
        Cli::new(&["worker", "--config", "bad.toml"]).file("bad.toml", "slots = [").run().await;
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(ran.stderr.contains("bad.toml"), "{ran:?}");
    let ran = Cli::new(&["worker", "--log-format", "xml"]).run().await;
    assert_eq!(ran.code, 2, "a flag's own values are checked by the command line: {ran:?}");
    let ran = Cli::new(&["worker"]).env("llm_type", "other").run().await;
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(ran.stderr.contains("llm_type not found"), "as the Go worker says: {ran:?}");
}

async fn effective(cli: Cli) -> Value {
    let ran = cli.run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

fn value(settings: &Value, name: &str) -> Value {
    let all = settings["settings"].as_array().expect("a list of settings");
    let found = all.iter().find(|setting| setting["name"] == name);
    found.unwrap_or_else(|| panic!("no setting {name}"))["value"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_file_environment_and_flags_lie_over_each_other() {
    let file = "slots = 2\nqueue = 2\nflush_bytes = 2\nctx_size = 2048\ntop_k = 20\n";
    let cli = |args: &[&str]| {
        Cli::new(&[&["settings", "--json"], args].concat()).file("llamero.toml", file)
    };
    let settings = effective(
        cli(&["--slots", "5"])
            .env("llm_slots", "3")
            .env("llm_queue", "3")
            .env("LLAMERO_QUEUE", "4")
            .env("llm_top_k", "30")
            .env("llm_ack_delay_ms", ""),
    )
    .await;
    assert_eq!(value(&settings, "slots"), 5, "a flag wins");
    assert_eq!(value(&settings, "queue"), 4, "the upper-case name wins over the lower-case one");
    assert_eq!(value(&settings, "flush_bytes"), 2, "llamero.toml of the current folder is read");
    assert_eq!(value(&settings, "ctx_size"), 2048);
    assert_eq!(value(&settings, "top_k"), 30);
    assert_eq!(value(&settings, "ack_delay_ms"), 10, "an empty variable is as if absent");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_printed() {
    let secret = "s3cr3t-value";
    for cli in [
        Cli::new(&["settings"]).env("llm_nats_token", secret),
        Cli::new(&["settings", "--json"]).env("NATS_TOKEN", secret),
        Cli::new(&["settings"]).env("llm_nats_user", "u").env("llm_nats_password", secret),
        Cli::new(&["settings", "--nats", &format!("nats://u:{secret}@127.0.0.1:1")]),
        Cli::new(&["settings", "--json", "--nats", &format!("nats://{secret}@127.0.0.1:1")]),
        Cli::new(&["settings", "--config", "c.toml"])
            .file("c.toml", &format!("nats_url = \"nats://u:{secret}@h:1,nats://u:{secret}@i:1\"")),
    ] {
        let ran = cli.run().await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let all = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!all.contains(secret), "{all}");
        assert!(all.contains("redacted"), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_shows_every_setting_and_option() {
    let ran = Cli::new(&["settings"]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for name in
        ["nats_url", "dir", "queue", "hooks_dir", "shutdown_grace", "temperature", "max_tokens"]
    {
        assert!(ran.stdout.contains(name), "{name}: {}", ran.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_shows_what_llama_cpp_was_built_for() {
    let settings = effective(Cli::new(&["settings", "--json"])).await;
    let info = settings["system_info"].as_str().expect("a line of text");
    assert!(info.contains("CPU : "), "{info}");
    assert!(settings["kernels"].is_null(), "those of this build are a part of it: {settings}");
    let table = Cli::new(&["settings"]).run().await.stdout;
    assert!(table.contains(info), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_password_in_the_url() {
    let nats = Nats::with("authorization { user: clerk, password: s3cr3t }");
    let url = nats.url().replace("nats://", "nats://clerk:s3cr3t@");
    let models = ModelsDir::empty();
    let worker = Worker::at(&url).flag("--models", models.path()).start();
    let ran = Cli::at(&url, "models", &["--json"]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!worker.log().contains("s3cr3t"), "{}", worker.log());
    let ran = Cli::at(&nats.url(), "models", &[]).run().await;
    assert_eq!(ran.code, 69, "without the password: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_environment() {
    let nats = Nats::with("authorization { token: s3cr3t }");
    let models = ModelsDir::empty();
    let worker = Worker::at(&nats.url())
        .flag("--models", models.path())
        .env("llm_nats_token", "s3cr3t")
        .start();
    assert!(!worker.log().contains("s3cr3t"), "{}", worker.log());
    let ran = Cli::at(&nats.url(), "models", &["--json"]).env("NATS_TOKEN", "s3cr3t").run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_servers_of_which_one_answers() {
    let nats = Nats::start();
    let models = ModelsDir::empty();
    // Port 1 of the loopback interface: nobody listens there.
    let urls = format!("nats://127.0.0.1:1,{}", nats.url());
    let _worker = Worker::at(&urls).flag("--models", models.path()).start();
    let client = Client::connect(&nats.url()).await;
    assert!(client.call(&json!({"job": "a", "list": {}})).await["list"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_subject() {
    let bench = Bench::start(|worker| worker.flag("--subject", "team.llm"));
    let url = bench.nats.url();
    let ran = Cli::at(&url, "predict", &["--subject", "team.llm", "-o", "max_tokens=2", "Hello"])
        .run()
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(Cli::at(&url, "models", &[]).run().await.code, 69, "nobody on the usual subject");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_as_json_and_nothing_on_standard_output() {
    let bench = Bench::start(|worker| worker.flag("--log-format", "json"));
    let client = bench.client().await;
    assert!(client.predict(brief()).await["predict"].is_object());
    let log = bench.worker.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string(), "{line}");
    }
    assert_eq!(bench.worker.stdout(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_is_loaded_at_start_if_asked_for() {
    let bench = Bench::start(|worker| worker.env("llm_preload", "true"));
    let client = bench.client().await;
    assert!(client.predict(brief()).await["predict"].is_object());
    // A default model that cannot be loaded is found out at start.
    let nats = Nats::start();
    let models = ModelsDir::empty().file("m.gguf", b"GGUF, but not really");
    let mut worker =
        Worker::at(&nats.url()).flag("--models", models.path()).env("llm_preload", "true").launch();
    assert_ne!(worker.exit_code().await, 0);
    assert!(worker.log().contains("m.gguf"), "{}", worker.log());
}
