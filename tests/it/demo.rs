//! `llamero demo`, the first thing that most people will run.

use std::path::Path;

use crate::harness::prerequisites::{example_plugin, nats_server, test_plugin};
use crate::harness::{Cli, ModelsDir, Signal};

fn demo(models: &ModelsDir) -> Cli {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let folder = |plugin: &Path| text(plugin.parent().expect("a folder"));
    let hooks = folder(&example_plugin("redact"));
    let sick = folder(&test_plugin("trap"));
    let (models, server) = (text(models.path()), text(&nats_server()));
    Cli::new(&[
        "demo",
        "--models",
        &models,
        "--hooks",
        &hooks,
        "--sick-hooks",
        &sick,
        "--nats-server",
        &server,
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_the_plugins_the_answer_and_the_failure() {
    let models = ModelsDir::real();
    let ran = demo(&models).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for shown in [
        "prompt-template",
        "prompt-window",
        "redact",
        "system-prompt",
        "topic-guard",
        "hook \"trap\" failed: trap",
        "exit status: 0",
    ] {
        assert!(ran.stdout.contains(shown), "{shown} is not shown:\n{}", ran.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn can_be_interrupted() {
    let models = ModelsDir::real();
    let mut process = demo(&models).spawn();
    process.some_stdout().await;
    process.signal(Signal::INT);
    assert_eq!(process.exited().await.code(), Some(130), "{}", process.tail());
    assert!(!process.stderr().contains("error"), "{}", process.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_is_missing() {
    let empty = ModelsDir::empty();
    let folder = empty.path().to_str().expect("UTF-8");
    let ran = Cli::new(&["demo", "--models", folder, "--hooks", folder]).run().await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("make plugins"), "{ran:?}");
}
