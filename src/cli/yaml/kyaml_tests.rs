//! KYAML against kubectl's.

use serde_json::Value;

use super::kyaml::document;

/// Compares with what kubectl 1.36 prints for a value.
fn check(json: &str, expected: &str) {
    let value: Value = serde_json::from_str(json).unwrap();
    assert_eq!(document(&value), expected);
    let read: Value = serde_yaml::from_str(expected).unwrap();
    assert_eq!(read, value);
}

#[test]
fn strings_are_quoted_and_those_of_several_lines_stand_on_lines() {
    check(
        include_str!("kyaml_tests/strings.json"),
        include_str!("kyaml_tests/strings.yaml"),
    );
}

#[test]
fn brackets_stand_together_if_all_elements_have_some() {
    check(
        include_str!("kyaml_tests/collections.json"),
        include_str!("kyaml_tests/collections.yaml"),
    );
}

#[test]
fn keys_are_only_quoted_if_a_reader_could_take_them_for_something_else() {
    check(
        include_str!("kyaml_tests/keys.json"),
        include_str!("kyaml_tests/keys.yaml"),
    );
}

#[test]
fn numbers_are_written_as_by_kubectl() {
    for (json, expected) in [
        ("100000.0", "100000"),
        ("1e6", "1000000"),
        ("-1.5", "-1.5"),
        ("12345678.9", "12345678.9"),
        ("-0.0", "0"),
        ("1e20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("-2.5e100", "-2.5e+100"),
        ("0.000001", "0.000001"),
        ("1e-7", "1e-7"),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551615", "18446744073709552000"),
    ] {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(document(&value), format!("---\n{expected}\n"), "{json}");
    }
}

#[test]
fn control_characters_are_escaped() {
    let value = Value::from("a\u{1}\u{1b}\u{7f}\u{9b}b");
    assert_eq!(document(&value), "---\n\"a\\x01\\e\\x7f\\u009bb\"\n");
}
