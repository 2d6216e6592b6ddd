//! The client commands: what they print, what they stop, how they end.

use serde_json::{Value, json};

use crate::harness::{
    Bench, Cli, MODEL, Nats, Signal, assert_error, brief, endless, new_job, plain, quiet,
};

const PROMPT: &str = "The capital of France is";

/// A greedy prediction of a few tokens.
const GREEDY: [&str; 4] = ["-o", "temperature=0", "-o", "max_tokens=8"];

fn predict(url: &str, args: &[&str]) -> Cli {
    Cli::at(url, "predict", args)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_prints_the_output_and_nothing_else() {
    let quiet = quiet().await;
    let url = quiet.bench.nats.url();
    let whole = quiet
        .bench
        .client()
        .await
        .output(json!({"input": [PROMPT], "options": {"temperature": 0, "max_tokens": 8}}))
        .await;
    assert!(whole.contains("Paris"), "{whole}");
    for extra in
        [&[PROMPT][..], &["--no-stream", PROMPT], &["The", "capital", "of", "France", "is"]]
    {
        let ran = predict(&url, &[&GREEDY, extra].concat()).run().await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.stdout, whole, "byte for byte, since stdout is no terminal");
        assert_eq!(ran.stderr, "", "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_reads_standard_input() {
    let url = plain().nats.url();
    for extra in [&[][..], &["-"]] {
        let ran = predict(&url, &[&GREEDY, extra].concat()).input(PROMPT).run().await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains("Paris"), "{ran:?}");
    }
    let ran = predict(&url, &GREEDY).input("").run().await;
    assert_eq!(ran.code, 2, "an empty prompt cannot be used: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_streams_and_ctrl_c_stops_the_job() {
    // One place in all: a job that still ran would show in the next answer.
    let bench = Bench::start(|worker| worker.flag("--slots", "1").flag("--queue", "0"));
    let url = bench.nats.url();
    let endless_args = ["-o", "max_tokens=3500", "-o", "ignore_eos=true", "Once upon a time"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut process = predict(&url, &endless_args).spawn();
        let text = process.some_stdout().await;
        assert!(process.is_running(), "text is printed while the job runs: {text}");
        process.signal(signal);
        assert_eq!(process.exited().await.code(), Some(130), "{}", process.tail());
        let body = bench.client().await.predict(brief()).await;
        assert!(body["predict"].is_object(), "the job was stopped: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_stops_the_job() {
    let bench = Bench::start(|worker| worker.flag("--slots", "1").flag("--queue", "0"));
    let llamero = crate::harness::prerequisites::llamero();
    let script = format!(
        "{} predict --nats {} -o max_tokens=3500 -o ignore_eos=true Once | head -c 1",
        llamero.display(),
        bench.nats.url()
    );
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &script]).stdin(std::process::Stdio::null());
    let mut process = crate::harness::Process::spawn("pipe", &mut command);
    // Ends when both ends of the pipe have ended.
    assert!(process.exited().await.success());
    assert_eq!(process.stdout().chars().count(), 1);
    assert_eq!(process.stderr(), "", "a broken pipe is no error");
    let body = bench.client().await.predict(brief()).await;
    assert!(body["predict"].is_object(), "the job was stopped: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_as_json() {
    let url = plain().nats.url();
    let job = new_job();
    let args = [&GREEDY[..], &["--json", "--job", &job, PROMPT]].concat();
    let ran = predict(&url, &args).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let body = json_of(&ran.stdout);
    assert_eq!(body["job"], job.as_str());
    assert!(body["predict"]["output"].as_str().is_some_and(|text| text.contains("Paris")));
    assert_eq!(body["predict"]["finish_reason"], "length");
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 8);

    let ran = predict(&url, &["--json", "-o", "top_k=1.5", PROMPT]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_error(&json_of(&ran.stdout), 7, None);
    assert!(ran.stderr.contains("top_k"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_as_chat_with_a_system_text() {
    let url = plain().nats.url();
    let args = [
        "--chat",
        "--system",
        "You answer with one word.",
        "--json",
        "-o",
        "temperature=0",
        "-o",
        "max_tokens=24",
        "What is the capital of France?",
    ];
    let ran = predict(&url, &args).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let body = json_of(&ran.stdout);
    assert!(
        body["predict"]["output"].as_str().is_some_and(|text| text.contains("Paris")),
        "{body}"
    );
    // The same request by hand has the same prompt.
    let by_hand = plain()
        .client()
        .await
        .predict(json!({"system": "You answer with one word.",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "options": {"max_tokens": 1}}))
        .await;
    let tokens = |body: &Value| body["predict"]["usage"]["prompt_tokens"].clone();
    assert_eq!(tokens(&body), tokens(&by_hand));
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_tells_failures_by_its_exit_code() {
    let url = plain().nats.url();
    let ran = predict(&url, &["--model", "none.gguf", PROMPT]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("failed to load \"none.gguf\""), "{ran:?}");
    assert_eq!(ran.stdout, "");

    for args in [&["--no-such-flag"][..], &["-o", "novalue", "x"], &["--timeout", "never", "x"]] {
        assert_eq!(predict(&url, args).run().await.code, 2, "{args:?}");
    }

    let args = ["--timeout", "1s", "-o", "max_tokens=3500", "-o", "ignore_eos=true", "Once"];
    let ran = predict(&url, &args).run().await;
    assert_eq!(ran.code, 124, "{ran:?}");

    let lonely = Nats::start();
    for command in ["predict", "models", "interrupt"] {
        let ran = Cli::at(&lonely.url(), command, if command == "models" { &[] } else { &["x"] })
            .run()
            .await;
        assert_eq!(ran.code, 69, "no worker listens: {command}: {ran:?}");
        assert!(ran.stderr.contains("llm.worker.default"), "{ran:?}");
    }
    let mut gone = lonely;
    gone.stop();
    let ran = predict(&gone.url(), &["x"]).run().await;
    assert_eq!(ran.code, 69, "no server listens: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_tells_a_busy_worker_by_its_exit_code() {
    let bench = Bench::start(|worker| worker.flag("--slots", "1").flag("--queue", "0"));
    let client = bench.client().await;
    let mut running = client.stream("r", endless(3500)).await;
    running.first_fragment("r").await;
    let ran = predict(&bench.nats.url(), &["x"]).run().await;
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("worker busy"), "{ran:?}");
    client.interrupt("r").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_stops_a_job_by_its_name() {
    let url = plain().nats.url();
    let job = new_job();
    let args = ["--job", &job, "-o", "max_tokens=3500", "-o", "ignore_eos=true", "Once"];
    let mut process = predict(&url, &args).spawn();
    process.some_stdout().await;
    let ran = Cli::at(&url, "interrupt", &[&job]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(process.exited().await.code(), Some(130), "{}", process.tail());

    let ran = Cli::at(&url, "interrupt", &[&new_job()]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("job not found"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_as_table_and_as_json() {
    let url = plain().nats.url();
    let ran = Cli::at(&url, "models", &[]).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let row = ran.stdout.lines().find(|line| line.contains(MODEL));
    let row = row.unwrap_or_else(|| panic!("{ran:?}"));
    assert!(row.contains("4096") && row.contains("0.8"), "{row}");

    let ran = Cli::at(&url, "models", &["--json"]).run().await;
    let body = json_of(&ran.stdout);
    assert_eq!(body["list"]["models"][0]["model"], MODEL, "{body}");

    let ran = Cli::at(&url, "models", &["--options"]).run().await;
    for name in ["temperature", "max_tokens", "json_schema"] {
        assert!(ran.stdout.contains(name), "{name}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn help_names_every_command_and_exit_code() {
    let ran = Cli::new(&["--help"]).run().await;
    assert_eq!(ran.code, 0);
    for word in [
        "worker",
        "predict",
        "models",
        "interrupt",
        "settings",
        "demo",
        "64",
        "69",
        "75",
        "124",
        "130",
    ] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
    assert_eq!(Cli::new(&[]).run().await.code, 2, "a command is required");
}
