//! Interprets unquoted YAML scalars like Kubernetes' parser (`go.yaml.in/yaml/v2`, `resolve.go`), which partly follows
//! YAML 1.1.

use serde_json::Number;

/// The meaning of a plain scalar.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    /// An empty scalar, `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// `yes`, `no`, `on`, `off`, `y`, `n`, with their meaning to Kubernetes.
    OldBool(bool),
    Number(Number),
    /// An infinity or NaN, which JSON does not have.
    NotFinite,
    /// `<<`
    Merge,
    /// Everything else.
    Text,
}

/// Interprets a plain scalar.
pub fn plain(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Plain::OldBool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Plain::OldBool(false),
        "<<" => return Plain::Merge,
        ".nan" | ".NaN" | ".NAN" => return Plain::NotFinite,
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Plain::NotFinite;
    }
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Plain::Text;
    }
    // Real manifests have no longer numbers, and parsing them takes time.
    if text.len() > 400 {
        return Plain::Text;
    }
    let bare = text.replace('_', "");
    if let Some(number) = integer(&bare) {
        return Plain::Number(number);
    }
    if !is_float(&bare) {
        return Plain::Text;
    }
    match bare.parse::<f64>().ok().map(Number::from_f64) {
        Some(Some(number)) => Plain::Number(number),
        Some(None) => Plain::NotFinite,
        None => Plain::Text,
    }
}

/// Go's integers with a base prefix: `0x`, `0b`, `0o`, and `0` for octal.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefixes = [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)];
    let (digits, base) = prefixes
        .iter()
        .find_map(|(prefix, base)| Some((digits.strip_prefix(prefix)?, *base)))
        .or_else(|| Some((digits.strip_prefix('0').filter(|rest| !rest.is_empty())?, 8)))
        .unwrap_or((digits, 10));
    // `from_str_radix` would accept a second sign.
    if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, base).ok()?;
    if !negative {
        return Some(Number::from(magnitude));
    }
    i64::try_from(-i128::from(magnitude)).ok().map(Number::from)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    if exponent.is_some_and(|digits| digits.is_empty() || !all_digits(digits)) {
        return false;
    }
    match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => !mantissa.is_empty() && all_digits(mantissa),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> String {
        match plain(text) {
            Plain::Number(number) => number.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn plain_scalars_are_parsed_as_by_kubernetes() {
        for (text, expected) in [
            ("80", "80"),
            ("-1", "-1"),
            ("+7", "7"),
            ("0", "0"),
            ("0644", "420"),
            ("0o644", "420"),
            ("-010", "-8"),
            ("08", "8.0"),
            ("0x1F", "31"),
            ("0b101", "5"),
            ("1_000", "1000"),
            ("0.5", "0.5"),
            (".5", "0.5"),
            ("1.", "1.0"),
            ("1e3", "1000.0"),
            ("1E+2", "100.0"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551616", "1.8446744073709552e+19"),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
        for text in [
            "nginx",
            "1.27.0",
            "12:30:45",
            "2026-01-02",
            "1e",
            "e3",
            ".",
            "..",
            "-",
            "+",
            "1Gi",
            "100m",
            "0x",
            "0b2",
            "--1",
            "0x-1",
            "yes!",
            "nan",
            "inf",
            "_1",
            "Yes please",
            "TRue",
        ] {
            assert_eq!(plain(text), Plain::Text, "{text}");
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(plain(text), Plain::Null, "{text}");
        }
        assert_eq!(plain("True"), Plain::Bool(true));
        assert_eq!((plain("on"), plain("N")), (Plain::OldBool(true), Plain::OldBool(false)));
        for text in [".inf", "-.Inf", ".NaN", "1e999"] {
            assert_eq!(plain(text), Plain::NotFinite, "{text}");
        }
        assert_eq!(plain("<<"), Plain::Merge);
    }

    proptest! {
        #[test]
        fn integers_are_parsed_exactly(value in any::<i64>()) {
            prop_assert_eq!(plain(&value.to_string()), Plain::Number(value.into()));
            prop_assert_eq!(plain(&format!("{:#o}", value.unsigned_abs())), Plain::Number(value.unsigned_abs().into()));
            prop_assert_eq!(plain(&format!("{:#x}", value.unsigned_abs())), Plain::Number(value.unsigned_abs().into()));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in "[-+0-9._xobeEaf~<ynYN]{0,30}") {
            let _ = plain(&text);
        }
    }
}
