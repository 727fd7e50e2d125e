//! The configuration file: any bytes are understood or refused, with places inside them, in bounded time and memory.
#![no_main]

use microkube::config::{SETTINGS, read};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));

/// Reads the bytes. Panics if a problem's place is outside them, or if the file sets a value that its variable cannot
/// have.
fn check(bytes: &[u8]) {
    match read("fuzz.yaml", bytes) {
        Ok(file) => {
            for setting in &SETTINGS {
                if let Some(text) = file.text_of(setting) {
                    assert!(!text.is_empty() && !text.contains('\0'), "{text:?}");
                    assert!(setting.expectation.of_variable(text).is_ok(), "{text:?}");
                }
            }
        }
        Err(problems) => {
            // Line breaks of YAML, and one line more for what is missing at the end.
            let lines = String::from_utf8_lossy(bytes)
                .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
                .count();
            assert!(!problems.list.is_empty());
            for problem in &problems.list {
                assert!(!problem.message.is_empty());
                if let Some((line, column)) = problem.place {
                    assert!((1..=lines + 1).contains(&line) && column >= 1, "{problem:?}");
                }
            }
        }
    }
}
