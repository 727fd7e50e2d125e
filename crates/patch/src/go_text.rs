//! Values in the notation of Go's `fmt` package, which Kubernetes' errors use.

use serde_json::{Number, Value};

/// Maximum length of a value or a path in an error, in bytes. Kubernetes has no limit.
const MAX_SHOWN: usize = 1024;

/// A value as `%v`, cut off after `MAX_SHOWN` bytes.
pub(crate) fn shown(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    shorten(text)
}

/// Several values as `%v` shows a list of them.
pub(crate) fn shown_list(values: &[Value]) -> String {
    let mut text = String::new();
    write_list(values, &mut text);
    shorten(text)
}

/// Text that is cut off after `MAX_SHOWN` bytes.
pub(crate) fn shorten(mut text: String) -> String {
    if text.len() > MAX_SHOWN {
        text.truncate(text.floor_char_boundary(MAX_SHOWN));
        text.push('…');
    }
    text
}

/// A scalar as `%v`: the order of lists in generated patches depends on it.
pub(crate) fn scalar(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// Go's name of the type of a value, as `%s` prints it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn write(value: &Value, text: &mut String) {
    // Longer texts are cut off anyway.
    if text.len() > MAX_SHOWN {
        return;
    }
    match value {
        Value::Null => text.push_str("<nil>"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&written_number(number)),
        Value::String(value) => text.push_str(value),
        Value::Array(elements) => write_list(elements, text),
        Value::Object(fields) => {
            text.push_str("map[");
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(name);
                text.push(':');
                if let Some(field) = fields.get(name) {
                    write(field, text);
                }
                if text.len() > MAX_SHOWN {
                    return;
                }
            }
            text.push(']');
        }
    }
}

fn write_list(values: &[Value], text: &mut String) {
    text.push('[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        write(value, text);
        if text.len() > MAX_SHOWN {
            return;
        }
    }
    text.push(']');
}

/// `%v` of a float has an exponent if it is below -4 or above 20.
fn written_number(number: &Number) -> String {
    let Some(value) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(exponent @ ..-4) => format!("{digits}e-{:02}", exponent.unsigned_abs()),
        Ok(exponent @ 21..) => format!("{digits}e+{exponent:02}"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_in_go() {
        for (value, text) in [
            (json!(null), "<nil>"),
            (json!(-7), "-7"),
            (json!(1.5), "1.5"),
            (json!(2.0), "2"),
            (json!(1e21), "1e+21"),
            (json!(0.00001), "1e-05"),
            (json!("a b"), "a b"),
            (json!([]), "[]"),
            (json!([1, "x", [true]]), "[1 x [true]]"),
            (json!({"b": {}, "a": null}), "map[a:<nil> b:map[]]"),
        ] {
            assert_eq!(shown(&value), text);
        }
    }

    #[test]
    fn long_values_are_cut_off() {
        let text = shown(&json!(["é".repeat(2000), 1]));
        assert!(
            text.len() <= MAX_SHOWN + '…'.len_utf8() && text.ends_with("é…"),
            "{text}"
        );
        let many = shown(&json!(vec![0; 100_000]));
        assert!(many.len() <= MAX_SHOWN + '…'.len_utf8());
    }
}
