//! Versions of built plugins that nobody has ever seen, made without building them.

use std::fs;

use crate::harness::prerequisites::{example_plugin, test_plugin};

/// What stands in front of the digits in the test plugin `version`.
const STAMP: &[u8] = b"version@@=";

/// Digits of a version.
const DIGITS: usize = 6;

/// The test plugin `version` with this number in it.
pub fn version(number: usize) -> Vec<u8> {
    let mut bytes = plugin("version");
    let places: Vec<usize> = (0..bytes.len() - STAMP.len() - DIGITS)
        .filter(|at| bytes[*at..].starts_with(STAMP))
        .collect();
    let [place] = places[..] else {
        panic!("the plugin `version` has its stamp {} times, not once", places.len());
    };
    let digits = stamp(number);
    bytes[place + STAMP.len()..][..DIGITS].copy_from_slice(digits.as_bytes());
    bytes
}

/// The number as the plugin tells it.
pub fn stamp(number: usize) -> String {
    format!("{number:0DIGITS$}")
}

/// Every `(at request, at filter)` with which plugins `version` have marked an output.
pub fn stamps(output: &str) -> Vec<(&str, &str)> {
    let marks = output.split(" <").skip(1);
    marks.filter_map(|mark| mark.split_once('>')?.0.split_once('/')).collect()
}

/// A test plugin.
pub fn plugin(name: &str) -> Vec<u8> {
    fs::read(test_plugin(name)).expect("read a test plugin")
}

/// The JavaScript example, with this number in a section that nobody reads.
pub fn javascript(number: u64) -> Vec<u8> {
    let mut bytes = fs::read(example_plugin("prompt-template")).expect("read an example");
    let name = b"soak";
    let content = number.to_le_bytes();
    // A custom section: 0, its length, the length of its name, its name, anything.
    bytes.extend([0, (1 + name.len() + content.len()) as u8, name.len() as u8]);
    bytes.extend(name);
    bytes.extend(content);
    bytes
}
