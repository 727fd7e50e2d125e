//! What is written, as kubectl 1.32 has written the same objects.

use microkube_manifest::Input;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Texts, and what kubectl writes after `  k: `, without the last line end.
const CASES: &[(&str, &str)] = &[
    ("plain", "plain"),
    ("two words", "two words"),
    ("yes", "\"yes\""),
    ("NO", "\"NO\""),
    ("yES", "yES"),
    ("~", "\"~\""),
    ("null", "\"null\""),
    ("", "\"\""),
    ("true", "\"true\""),
    ("12", "\"12\""),
    ("0644", "\"0644\""),
    ("1e3", "\"1e3\""),
    ("1_000", "\"1_000\""),
    ("12:30", "\"12:30\""),
    ("10.88.0.5", "10.88.0.5"),
    ("1.5", "\"1.5\""),
    ("128Mi", "128Mi"),
    ("2026-11-21T10:00:00Z", "\"2026-11-21T10:00:00Z\""),
    ("2026-11-21", "\"2026-11-21\""),
    (
        "12345678-1234-4234-8234-123456789012",
        "12345678-1234-4234-8234-123456789012",
    ),
    ("it's", "it's"),
    ("'quoted'", "'''quoted'''"),
    ("say \"hi\"", "say \"hi\""),
    ("\"quoted\"", "'\"quoted\"'"),
    ("- a", "'- a'"),
    ("-c", "-c"),
    ("--flag=x", "--flag=x"),
    ("-", "'-'"),
    ("?", "'?'"),
    ("? x", "'? x'"),
    ("?x", "?x"),
    (":", "':'"),
    (":x", ":x"),
    (": x", "': x'"),
    ("x:", "'x:'"),
    ("x: y", "'x: y'"),
    ("x:y", "x:y"),
    ("a #b", "'a #b'"),
    ("a#b", "a#b"),
    ("#b", "'#b'"),
    ("[a]", "'[a]'"),
    ("{a: b}", "'{a: b}'"),
    ("a, b", "a, b"),
    (",", "','"),
    ("&a", "'&a'"),
    ("*", "'*'"),
    ("!a", "'!a'"),
    ("|", "'|'"),
    ("> a", "'> a'"),
    ("%a", "'%a'"),
    ("@a", "'@a'"),
    ("`a`", "'`a`'"),
    ("***", "'***'"),
    ("=", "="),
    ("<<", "<<"),
    ("<none>", "<none>"),
    ("a & b <c>", "a & b <c>"),
    ("$(VAR)", "$(VAR)"),
    ("${VAR}", "${VAR}"),
    ("/bin/sh", "/bin/sh"),
    ("~/x", "~/x"),
    ("---", "'---'"),
    ("--- a", "'--- a'"),
    ("...", "'...'"),
    ("..", ".."),
    ("\\n", "\\n"),
    ("a\\b", "a\\b"),
    ("it's: x", "'it''s: x'"),
    (" lead", "' lead'"),
    ("trail ", "'trail '"),
    (" ", "' '"),
    ("a\tb", "\"a\\tb\""),
    ("\t", "\"\\t\""),
    ("\u{e9}", "\u{e9}"),
    ("\u{4e2d}", "\u{4e2d}"),
    ("\u{1f600}", "\"\\U0001F600\""),
    ("\u{a0}", "\u{a0}"),
    ("\u{7}\u{1b}[0m", "\"\\a\\e[0m\""),
    ("\r", "\"\\r\""),
    ("a\r\nb\r\n", "\"a\\r\\nb\\r\\n\""),
    ("a\nb", "|-\n    a\n    b"),
    ("a\nb\n", "|\n    a\n    b"),
    ("a\n\nb\n\n", "|+\n    a\n\n    b\n"),
    ("\n", "|2+\n"),
    ("\n\n", "|2+\n\n"),
    ("\na", "|2-\n\n    a"),
    ("  a\nb", "|2-\n      a\n    b"),
    ("a\n  b\n", "|\n    a\n      b"),
    ("a \nb", "\"a \\nb\""),
    ("a\nb ", "\"a\\nb \""),
    ("a\tb\nc", "\"a\\tb\\nc\""),
    ("# a\nb\n", "|\n    # a\n    b"),
    ("a: b\nc: d\n", "|\n    a: b\n    c: d"),
    (
        "long long long long long long long long long long long long long long long long long long long long long long long long end",
        "long long long long long long long long long long long long long long long long\n    long long long long long long long long end",
    ),
    (
        "'long long long long long long long long long long long long long long long long long long long long long long long long end",
        "'''long long long long long long long long long long long long long long long\n    long long long long long long long long long end'",
    ),
    (
        "long long long long long long long long long long long long long long long long long long long long long long long long it's: end",
        "'long long long long long long long long long long long long long long long long\n    long long long long long long long long it''s: end'",
    ),
    (
        "yes\tlong long long long long long long long long long long long long long long long long long long long long long long long end",
        "\"yes\\tlong long long long long long long long long long long long long long long\n    long long long long long long long long long end\"",
    ),
    (
        "word word word word word word word word word word word word word word word   two  word word word word word word word word word word end",
        "word word word word word word word word word word word word word word word   two  word\n    word word word word word word word word word end",
    ),
    (
        "\tword word word word word word word word word word word word word word word   two  word word word word word word word word word word end",
        "\"\\tword word word word word word word word word word word word word word word\n    \\  two  word word word word word word word word word word end\"",
    ),
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx y zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n    y zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
    ),
    (
        "a: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx y zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz q",
        "'a: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n    y zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\n    q'",
    ),
];

#[test]
fn texts_have_the_quotes_and_line_breaks_of_kubectl() {
    for (string, yaml) in CASES {
        let value = json!({ "data": { "k": string } });
        let written = document(&value);
        assert_eq!(written, format!("data:\n  k: {yaml}\n"), "{string:?}");
        let read: Value = serde_yaml::from_str(&written).unwrap();
        assert_eq!(read, value, "{written}");
    }
}

#[test]
fn characters_that_mislead_readers_are_escaped() {
    for (string, yaml) in [
        ("a\u{202e}b", "\"a\\u202Eb\""),
        ("a\u{2028}b", "\"a\\Lb\""),
        ("\u{85}\u{9b}", "\"\\N\\x9B\""),
        ("\u{feff}x\n", "\"\\uFEFFx\\n\""),
    ] {
        assert_eq!(document(&json!({ "k": string })), format!("k: {yaml}\n"));
    }
}

#[test]
fn texts_for_one_line_have_no_line_breaks() {
    let long = "word ".repeat(40) + "end";
    assert_eq!(plain_or_quoted(&long), long);
    assert_eq!(plain_or_quoted("a\nb"), "\"a\\nb\"");
    assert_eq!(document(&json!("a\nb\n")), "|\n  a\n  b\n");
}

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
  - -c
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
    /// Independent YAML 1.2 parsers also read back what was written.
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
