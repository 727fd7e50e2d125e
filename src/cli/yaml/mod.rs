//! Writes YAML like `kubectl -o yaml`, from JSON values, byte for byte: the order of keys, quotes and line breaks are those
//! of `sigs.k8s.io/yaml`, which writes with go-yaml 2.
//!
//! Two rules differ. Characters that could mislead a reader of a terminal, such as those that change the direction of
//! text, are always escaped. Numbers too large for a double are quoted, because not all readers take them for strings.

pub(super) mod kyaml;
#[cfg(test)]
mod kyaml_tests;
mod order;
mod plain;
mod scalar;
#[cfg(test)]
mod tests;

use serde_json::Value;

use self::scalar::{INDENT, Place, write_scalar};

/// Keys longer than this, in bytes, are written with a question mark.
const MAX_SIMPLE_KEY: usize = 128;

/// A document.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    if is_filled(value) {
        block(&mut text, value, 0);
    } else {
        leaf(&mut text, value, INDENT);
        end_line(&mut text);
    }
    text
}

/// A text on one line.
pub(super) fn plain_or_quoted(string: &str) -> String {
    let mut text = String::new();
    write_scalar(&mut text, string, 0, Place::OneLine);
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
            for (index, (key, value)) in order::sorted(map).into_iter().enumerate() {
                if index > 0 {
                    start_line(text, indent);
                }
                let is_simple = key.len() <= MAX_SIMPLE_KEY && !key.contains('\n');
                if is_simple {
                    write_scalar(text, key, indent, Place::OneLine);
                    text.push(':');
                } else {
                    text.push_str("? ");
                    write_scalar(text, key, indent.saturating_add(INDENT), Place::Block);
                    end_line(text);
                    start_line(text, indent);
                    text.push(':');
                }
                let inner = indent.saturating_add(INDENT);
                if !is_filled(value) {
                    text.push(' ');
                    leaf(text, value, inner);
                    end_line(text);
                } else if is_simple {
                    // Sequences are not indented.
                    let inner = if value.is_object() { inner } else { indent };
                    text.push('\n');
                    start_line(text, inner);
                    block(text, value, inner);
                } else {
                    text.push(' ');
                    block(text, value, inner);
                }
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    start_line(text, indent);
                }
                text.push_str("- ");
                let inner = indent.saturating_add(INDENT);
                if is_filled(value) {
                    block(text, value, inner);
                } else {
                    leaf(text, value, inner);
                    end_line(text);
                }
            }
        }
        _ => {}
    }
}

/// A value without others in it. Further lines have this indentation.
fn leaf(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(string) => write_scalar(text, string, indent, Place::Block),
        // `{}`, `[]`, numbers, booleans and null are written as in JSON.
        other => text.push_str(&other.to_string()),
    }
}

fn start_line(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// Ends a line. A text of several lines may have ended it already.
fn end_line(text: &mut String) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
}
