//! What can be typed, and what it means.

use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use llamero_cli::args::{Cli, Command, PredictArgs, WorkerArgs};
use llamero_cli::exit::Exit;
use llamero_cli::flags;
use llamero_worker::settings::{MapSource, Settings};

fn parse(line: &[&str]) -> Result<Command, ErrorKind> {
    Cli::try_parse_from(std::iter::once(&"llamero").chain(line))
        .map(|cli| cli.command)
        .map_err(|error| error.kind())
}

fn predict(line: &[&str]) -> PredictArgs {
    match parse(line).expect("parses") {
        Command::Predict(args) => args,
        other => panic!("{other:?}"),
    }
}

fn worker(line: &[&str]) -> WorkerArgs {
    match parse(line).expect("parses") {
        Command::Worker(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prompt_needs_no_quotes() {
    let args = predict(&["predict", "The", "capital", "of", "France", "is"]);
    assert_eq!(args.prompt.join(" "), "The capital of France is");
    assert_eq!(args.timeout, Duration::from_secs(600));
    assert!(!args.chat && !args.json && !args.no_stream);
}

#[test]
fn flags_may_stand_behind_the_prompt() {
    let args = predict(&["predict", "Hello", "--chat", "-o", "seed=1", "-o", "stop=[\"x\"]"]);
    assert!(args.chat);
    let options: Vec<_> =
        args.options.iter().map(|o| (o.name.as_str(), o.value.to_string())).collect();
    assert_eq!(options, [("seed", "1".to_owned()), ("stop", "[\"x\"]".to_owned())]);
}

#[test]
fn a_dash_and_a_prompt_that_looks_like_a_flag_can_be_typed() {
    assert_eq!(predict(&["predict", "-"]).prompt, ["-"]);
    assert_eq!(predict(&["predict", "--", "--help"]).prompt, ["--help"]);
}

#[test]
fn mistakes_are_usage_errors() {
    for line in [
        &["predict", "x", "-o", "seed"][..],
        &["predict", "x", "--timeout", "soon"],
        &["worker", "--slots", "many"],
        &["worker", "--log-format", "xml"],
        &["worker", "--set", "slots"],
    ] {
        let kind = parse(line).expect_err("refused");
        assert!(
            matches!(kind, ErrorKind::ValueValidation | ErrorKind::InvalidValue),
            "{line:?}: {kind:?}"
        );
    }
    assert_eq!(parse(&["interrupt"]).unwrap_err(), ErrorKind::MissingRequiredArgument);
    assert_eq!(parse(&["predict", "--no-such"]).unwrap_err(), ErrorKind::UnknownArgument);
    assert_eq!(parse(&["models", "--json", "--options"]).unwrap_err(), ErrorKind::ArgumentConflict);
}

#[test]
fn every_worker_flag_reaches_its_setting() {
    let args = worker(&[
        "worker",
        "--nats",
        "nats://10.0.0.1:4333",
        "--subject",
        "llm.worker.test",
        "--models",
        "/models",
        "--model",
        "a.gguf",
        "--hooks",
        "/hooks",
        "--slots",
        "3",
        "--queue",
        "7",
        "--ctx-size",
        "1024",
        "--preload",
        "--log-format",
        "json",
        "--log",
        "debug",
        "--set",
        "max_tokens=512",
    ]);
    let flags = flags::of_worker(&args).expect("no conflict");
    let settings = Settings::load(&MapSource::default(), &flags).expect("valid");
    for (name, value, origin) in [
        ("nats_url", "\"nats://10.0.0.1:4333\"", "flag --nats"),
        ("nats_worker_subject", "\"llm.worker.test\"", "flag --subject"),
        ("dir", "\"/models\"", "flag --models"),
        ("model", "\"a.gguf\"", "flag --model"),
        ("hooks_dir", "\"/hooks\"", "flag --hooks"),
        ("slots", "3", "flag --slots"),
        ("queue", "7", "flag --queue"),
        ("ctx_size", "1024", "flag --ctx-size"),
        ("preload", "true", "flag --preload"),
        ("log_format", "\"json\"", "flag --log-format"),
        ("log", "\"debug\"", "flag --log"),
        ("max_tokens", "512", "flag --set"),
    ] {
        let found = settings.effective().iter().find(|setting| setting.name == name).expect(name);
        assert_eq!(found.value.to_string(), value, "{name}");
        assert_eq!(found.origin, origin, "{name}");
    }
}

#[test]
fn flags_that_are_not_given_leave_every_default() {
    let flags = flags::of_worker(&WorkerArgs::default()).expect("no conflict");
    let settings = Settings::load(&MapSource::default(), &flags).expect("valid");
    for setting in settings.effective() {
        assert_eq!(setting.origin, "default", "{}", setting.name);
    }
}

#[test]
fn one_setting_cannot_be_given_twice() {
    for line in [
        &["worker", "--slots", "2", "--set", "slots=3"][..],
        &["worker", "--set", "slots=2", "--set", "slots=3"],
    ] {
        let failure = flags::of_worker(&worker(line)).expect_err("refused");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("slots is given twice"), "{failure}");
    }
}
