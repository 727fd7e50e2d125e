//! Writes YAML like `kubectl -o yaml`, from JSON values.
//!
//! Kubernetes reads YAML 1.1, in which `yes`, `012` and `1:30` are not strings. Libraries that write YAML 1.2 leave
//! these unquoted; here a string is left unquoted only if every parser reads it as a string.

use std::fmt::Write as _;
use std::net::IpAddr;

use microkube_image::is_unprintable;
use serde_json::Value;

use super::print::escaped;

/// A document.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    if is_filled(value) {
        block(&mut text, value, 0);
    } else {
        text = scalar(value, 0);
        text.push('\n');
    }
    text
}

fn is_filled(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    }
}

/// A non-empty mapping or sequence. The indentation of its first line has already been written.
fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    let _ = write!(text, "{:indent$}", "");
                }
                let _ = write!(text, "{}:", plain_or_quoted(key));
                if is_filled(value) {
                    let inner = if value.is_object() { indent + 2 } else { indent };
                    let _ = write!(text, "\n{:inner$}", "");
                    block(text, value, inner);
                } else {
                    let _ = writeln!(text, " {}", scalar(value, indent + 2));
                }
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    let _ = write!(text, "{:indent$}", "");
                }
                text.push_str("- ");
                if is_filled(value) {
                    block(text, value, indent + 2);
                } else {
                    let _ = writeln!(text, "{}", scalar(value, indent + 2));
                }
            }
        }
        _ => {}
    }
}

/// A value on the same line, except for strings of several lines.
fn scalar(value: &Value, indent: usize) -> String {
    match value {
        Value::String(string) => lines(string, indent).unwrap_or_else(|| plain_or_quoted(string)),
        // `{}`, `[]`, numbers, booleans and null are written as in JSON.
        other => other.to_string(),
    }
}

/// A string of several lines as a block; `None` if it has only one line, or if a block would not preserve it.
fn lines(string: &str, indent: usize) -> Option<String> {
    let (body, indicator) = match string.strip_suffix('\n') {
        Some(body) => (body, "|"),
        None => (string, "|-"),
    };
    let is_whole = |line: &str| !line.ends_with([' ', '\t']) && !line.chars().any(|c| is_unprintable(c) && c != '\t');
    let starts_well = !body.is_empty() && !body.starts_with([' ', '\t', '\n']);
    if !string.contains('\n') || !starts_well || body.ends_with('\n') || !body.split('\n').all(is_whole) {
        return None;
    }
    let mut text = indicator.to_owned();
    for line in body.split('\n') {
        if line.is_empty() {
            text.push('\n');
        } else {
            let _ = write!(text, "\n{:indent$}{line}", "");
        }
    }
    Some(text)
}

/// A text on one line.
pub(super) fn plain_or_quoted(string: &str) -> String {
    if is_plain(string) {
        string.to_owned()
    } else {
        // A JSON string is a valid YAML string.
        escaped(&Value::from(string).to_string())
    }
}

/// Whether every parser reads this as a string without quotes.
fn is_plain(string: &str) -> bool {
    let Some(first) = string.chars().next() else {
        return false;
    };
    let simple = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=, ()<>*;$".contains(c);
    if !(first.is_ascii_alphanumeric() || first == '/' || first == '_')
        || !string.chars().all(simple)
        || string.ends_with([' ', ':'])
        || string.contains(": ")
    {
        return false;
    }
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if WORDS.iter().any(|word| string.eq_ignore_ascii_case(word)) {
        return false;
    }
    // Numbers of all notations, times and dates begin with a digit and have few letters.
    let is_identifier = string.matches('-').count() >= 3 && !string.contains(':');
    let has_other_letter = |c: char| c.is_ascii_alphabetic() && !"abcdefABCDEFoOxX".contains(c);
    !first.is_ascii_digit()
        || string.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
        || is_identifier
        || (string.contains(has_other_letter) && !string.contains(':'))
}

#[cfg(test)]
mod tests {
    use microkube_manifest::Input;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_formatted_as_by_kubectl() {
        let value = json!({
            "apiVersion": "v1",
            "items": [{ "args": ["-c", "echo a\necho b\n"], "empty": {}, "list": [], "nested": [["x"], [{ "y": 1 }]] }],
            "metadata": {
                "creationTimestamp": "2026-11-21T10:00:00Z",
                "labels": { "on": "yes", "a/b": "1", "c": "" },
                "ip": "10.88.0.5",
                "uid": "12345678-1234-4234-8234-123456789012",
                "memory": "128Mi",
                "mode": "0644",
                "time": "12:30",
            },
            "number": 3,
            "none": null,
        });
        let expected = r#"apiVersion: v1
items:
- args:
  - "-c"
  - |
    echo a
    echo b
  empty: {}
  list: []
  nested:
  - - x
  - - "y": 1
metadata:
  creationTimestamp: "2026-11-21T10:00:00Z"
  ip: 10.88.0.5
  labels:
    a/b: "1"
    c: ""
    "on": "yes"
  memory: 128Mi
  mode: "0644"
  time: "12:30"
  uid: 12345678-1234-4234-8234-123456789012
none: null
number: 3
"#;
        assert_eq!(document(&value), expected);
    }

    proptest! {
        /// Independent YAML 1.2 parsers also read the output back unchanged.
        #[test]
        fn independent_yaml_parsers_read_the_same_value(
            text in "[ \\-:#'\"a-z0-9\n.]{0,12}|yes|Off|~|0x1f|1e3|1_000|0o17|\\.inf|-?[0-9]{1,4}([.:eE-][0-9]{1,2}){0,2}",
            key in "[a-z0-9]{1,8}|y|no|0x1|1e3",
        ) {
            let value = json!({ "list": [text, 1, true, null], key: { "text": text, "empty": {} } });
            let yaml = document(&value);
            let read: serde_json::Value = serde_yaml::from_str(&yaml)
                .map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?;
            prop_assert_eq!(read, value, "{}", yaml);
        }

        /// The manifest loader reads YAML 1.1 like Kubernetes, and refuses what is ambiguous.
        #[test]
        fn every_text_survives_the_round_trip(
            text in "[ \\-:#'\"a-z0-9\n\t.]{0,12}|\\PC{0,12}|yes|Off|~|0x1f|1e3|1_000|0o17|\\.inf|-?[0-9]{1,4}([.:eE-][0-9]{1,2}){0,2}|(a|b|  c|\n|\t|#| ){0,8}",
            key in "[a-z0-9]{1,8}|y|no|0x1|1e3",
        ) {
            // Kubernetes' own rule for values of variables.
            prop_assume!(!text.contains('\0'));
            let pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": "web", "labels": { key.clone(): "x" } },
                "spec": { "containers": [{
                    "name": "web",
                    "image": "nginx",
                    "args": [text.clone(), text.clone()],
                    "env": [{ "name": "A", "value": text.clone() }],
                }] },
            });
            let yaml = document(&pod);
            let read = microkube_manifest::load(&[Input { source: "pod.yaml", text: yaml.as_bytes() }])
                .map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?;
            let pod = &read.pods[0];
            prop_assert!(pod.metadata.labels.as_ref().unwrap().contains_key(&key), "{}", yaml);
            let container = &pod.spec.as_ref().unwrap().containers[0];
            prop_assert_eq!(container.args.as_ref().unwrap(), &vec![text.clone(), text.clone()], "{}", yaml);
            prop_assert_eq!(container.env.as_ref().unwrap()[0].value.as_deref().unwrap_or_default(), text.as_str(), "{}", yaml);
        }
    }
}
