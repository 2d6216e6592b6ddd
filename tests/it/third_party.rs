//! An unmodified client library of another language, with JSON written by hand.

use std::process::{Command, Stdio};

use crate::harness::prerequisites::{python, tests_folder};
use crate::harness::{Process, plain};

#[test]
fn nats_py_lists_predicts_streams_and_interrupts() {
    let mut command = Command::new(python());
    command
        .arg(tests_folder().join("it/third_party.py"))
        .arg(plain().nats.url())
        .stdin(Stdio::null());
    let mut process = Process::spawn("third_party.py", &mut command);
    let status = process.wait_exit();
    assert!(
        !process.stderr().contains("No module named 'nats'"),
        "nats-py is missing: run `make plugins`, or point LLAMERO_TEST_PYTHON at a Python that has it"
    );
    assert!(status.success(), "{status}");
    assert!(process.stdout().starts_with("third party: listed"), "{}", process.stdout());
}
