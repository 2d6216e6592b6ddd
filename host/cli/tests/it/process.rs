//! The executable itself: exit codes, and what goes to which output. No NATS
//! server is needed; what needs one is in `client.rs` and in the workspace's
//! end-to-end tests.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// The executable with an empty environment, in an empty folder, so that no
/// configuration of whoever runs the test has a say.
fn llamero(folder: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llamero"));
    command
        .args(arguments)
        .env_clear()
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    llamero(&folder, arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_and_version_are_answers_not_errors() {
    for arguments in [&["--help"][..], &["worker", "-h"], &["--version"]] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn usage_errors_exit_with_2_on_stderr() {
    for arguments in [&["worker", "--no-such"][..], &["predict"], &[]] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_problem_of_the_configuration_is_told_at_once() {
    for command in ["settings", "worker"] {
        let output = run(
            &[command, "--slots", "0", "--set", "slotz=1"],
            &[("llm_queue", "many"), ("llm_temperature", "hot")],
        );
        assert_eq!(output.status.code(), Some(64), "{command}");
        let stderr = text(&output.stderr);
        for part in ["slots (flag --slots)", "slotz", "llm_queue", "llm_temperature"] {
            assert!(stderr.contains(part), "{command} lacks {part}: {stderr}");
        }
    }
}

#[test]
fn a_malformed_log_filter_is_a_problem_of_the_configuration() {
    let output = run(&["settings", "--log", "llamero=loud"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("llamero=loud"));
}

#[test]
fn settings_print_no_secrets() {
    for arguments in [&["settings"][..], &["settings", "--json"]] {
        let output = run(
            arguments,
            &[("llm_nats_user", "me"), ("llm_nats_password", "s3cret"), ("llm_slots", "2")],
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let stdout = text(&output.stdout);
        assert!(!stdout.contains("s3cret"), "{stdout}");
        assert!(stdout.contains("[redacted]") && stdout.contains("variable llm_slots"), "{stdout}");
    }
}

#[test]
fn settings_as_json_have_name_use_value_default_and_origin() {
    let output = run(&["settings", "--json", "--slots", "3"], &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = json["settings"].as_array().unwrap();
    let slots = settings.iter().find(|setting| setting["name"] == "slots").unwrap();
    assert_eq!(slots["value"], 3);
    assert_eq!(slots["default"], 4);
    assert_eq!(slots["origin"], "flag --slots");
    assert!(slots["use"].is_string());
}

#[test]
fn a_server_that_is_not_there_is_named_with_advice() {
    // Port 1 is reserved and nothing listens there.
    for command in [&["models"][..], &["predict", "hi"], &["interrupt", "job"]] {
        let output = run(command, &[("NATS_URL", "nats://127.0.0.1:1")]);
        assert_eq!(output.status.code(), Some(69), "{command:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains("nats://127.0.0.1:1") && stderr.contains("hint:"), "{stderr}");
    }
}

#[test]
fn a_password_in_the_url_is_not_printed() {
    let output = run(&["models", "--nats", "nats://me:s3cret@127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(69));
    assert!(!text(&output.stderr).contains("s3cret"));
}

#[test]
fn an_empty_prompt_is_refused_before_anything_is_connected() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = llamero(&folder, &["predict", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("empty"));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = llamero(&folder, &["settings"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty());
}
