//! Writes KYAML like `kubectl -o kyaml`, from JSON values: YAML in flow style, in which all strings are in quotes and keys
//! are only without them if no reader takes them for something else.
//!
//! As in YAML, characters that could mislead a reader of a terminal are escaped.

use microkube_image::is_unprintable;
use serde_json::{Number, Value};

use super::plain;

/// A document with its header.
pub(in crate::cli) fn document(value: &Value) -> String {
    let mut text = String::from("---\n");
    write(&mut text, value, 0);
    text.push('\n');
    text
}

/// Writes a value. Its first line is already indented, and its last one has this indentation.
fn write(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if map.is_empty() => text.push_str("{}"),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            text.push_str("{\n");
            for (key, value) in entries {
                start_line(text, indent + 2);
                if is_plain_key(key) {
                    text.push_str(key);
                } else {
                    write_on_one_line(text, key);
                }
                text.push_str(": ");
                write(text, value, indent + 2);
                text.push_str(",\n");
            }
            start_line(text, indent);
            text.push('}');
        }
        Value::Array(list) if list.is_empty() => text.push_str("[]"),
        // Brackets stand together if all elements have some.
        Value::Array(list) if list.iter().all(|value| value.is_object() || value.is_array()) => {
            text.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write(text, value, indent);
            }
            text.push(']');
        }
        Value::Array(list) => {
            text.push_str("[\n");
            for value in list {
                start_line(text, indent + 2);
                write(text, value, indent + 2);
                text.push_str(",\n");
            }
            start_line(text, indent);
            text.push(']');
        }
        Value::String(string) if string.contains('\n') => write_lines(text, string, indent),
        Value::String(string) => write_on_one_line(text, string),
        Value::Number(number) => text.push_str(&written_number(number)),
        other => text.push_str(&other.to_string()),
    }
}

/// A number as Go's JSON encoder writes it. Only integers of 64 bits with a sign are exact, as in kubectl.
fn written_number(number: &Number) -> String {
    // Adding zero drops its sign.
    let value = match (number.as_i64(), number.as_f64()) {
        (None, Some(value)) => value + 0.0,
        _ => return number.to_string(),
    };
    let size = value.abs();
    if size >= 1e21 || (size > 0.0 && size < 1e-6) {
        let text = format!("{value:e}");
        return if size < 1.0 { text } else { text.replace('e', "e+") };
    }
    value.to_string()
}

fn start_line(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// Whether all readers take a key for a string without quotes.
fn is_plain_key(key: &str) -> bool {
    const WORDS: [&str; 14] = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "nan", "inf", "infinity",
    ];
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    let is_inner = |c: char| is_word(c) || matches!(c, '-' | '.' | '/');
    let digits = key.replace('_', "");
    key.starts_with(is_word)
        && key.ends_with(is_word)
        && key.chars().all(is_inner)
        && !key.chars().any(is_unprintable)
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(key))
        && plain::is_string(key)
        && !is_octal(key)
        && (digits.is_empty() || (plain::is_string(&digits) && digits.parse::<f64>().is_err()))
}

/// `0o17`, a number of YAML 1.2.
fn is_octal(key: &str) -> bool {
    let digits = key.strip_prefix("0o").unwrap_or_default();
    !digits.is_empty() && digits.chars().all(|c| c.is_digit(8))
}

fn write_on_one_line(text: &mut String, string: &str) {
    text.push('"');
    string.chars().for_each(|c| write_escaped(text, c));
    text.push('"');
}

/// Each line on its own, indented so that the lines stand below each other. A backslash at the end of a line hides the
/// line end, and one at its start keeps the white space after it.
fn write_lines(text: &mut String, string: &str, indent: usize) {
    text.push_str("\"\\\n");
    let mut lines = string.split('\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        if !(is_last && line.is_empty()) {
            start_line(text, indent + 2);
            text.push(if line.starts_with([' ', '\t']) { '\\' } else { ' ' });
            line.chars().for_each(|c| write_escaped(text, c));
            text.push_str(if is_last { "\\\n" } else { "\\n\\\n" });
        }
    }
    start_line(text, indent + 2);
    text.push('"');
}

fn is_printed(character: char) -> bool {
    // A mark at the start of a text would be escaped.
    let text: String = ['a', character].iter().collect();
    text.escape_debug().eq(text.chars())
}

fn write_escaped(text: &mut String, character: char) {
    match character {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\0' => text.push_str("\\0"),
        '\u{7}' => text.push_str("\\a"),
        '\u{8}' => text.push_str("\\b"),
        '\t' | '\'' => text.push(character),
        '\n' => text.push_str("\\n"),
        '\u{b}' => text.push_str("\\v"),
        '\u{c}' => text.push_str("\\f"),
        '\r' => text.push_str("\\r"),
        '\u{1b}' => text.push_str("\\e"),
        '\u{85}' => text.push_str("\\N"),
        '\u{a0}' => text.push_str("\\_"),
        '\u{2028}' => text.push_str("\\L"),
        '\u{2029}' => text.push_str("\\P"),
        c if is_unprintable(c) || !is_printed(c) => {
            let number = u32::from(c);
            text.push_str(&match number {
                0..=0x7f => format!("\\x{number:02x}"),
                0x80..=0xffff => format!("\\u{number:04x}"),
                _ => format!("\\U{number:08x}"),
            });
        }
        c => text.push(c),
    }
}
