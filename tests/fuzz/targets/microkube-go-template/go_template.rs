//! Templates: any template is refused or applied to any value within the limits.
#![no_main]

use microkube_go_template::{Template, go_text};
use serde_json::{Value, json};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));

/// The bytes are a template, and after a zero byte optionally a JSON value.
fn check(bytes: &[u8]) {
    let (template, value) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], serde_json::from_slice::<Value>(&bytes[end + 1..]).ok()),
        None => (bytes, None),
    };
    let value = value.unwrap_or_else(|| {
        json!({
            "n": 3, "f": 2.5, "s": "é<'\n", "z": null, "t": true, "b": "aGVsbG8=",
            "list": [1, "a", null, [2.5], { "k": "v" }], "m": { "a": { "b": {} } },
        })
    });
    let _ = go_text(&value);
    match Template::parse(&String::from_utf8_lossy(template)) {
        Ok(template) => {
            for allows_missing in [true, false] {
                if let Err(error) = template.render(&value, allows_missing) {
                    assert!(!error.to_string().is_empty());
                }
            }
        }
        Err(error) => assert!(error.to_string().starts_with("template: output:")),
    }
}
