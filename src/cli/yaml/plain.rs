//! Whether go-yaml reads a text without quotes as a string. YAML 1.1 has many other notations: `yes`, `012`, `1:30`.
//!
//! Numbers beyond the range of a double are strings for go-yaml, but not for other readers. They are quoted here.

/// Words for booleans and null. Others, such as `yES`, are strings.
const WORDS: [&str; 27] = [
    "", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N", "no", "No", "NO", "false",
    "False", "FALSE", "off", "Off", "OFF", "~", "null", "Null", "NULL",
];
/// Floating point numbers that are no numbers.
const SPECIAL: [&str; 12] = [
    ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
];

/// Whether it is a string. Numbers with base 60 are not, although go-yaml does not read them itself.
pub(super) fn is_string(text: &str) -> bool {
    if WORDS.contains(&text) || SPECIAL.contains(&text) {
        return false;
    }
    match text.bytes().next() {
        Some(b'.') => !is_float(text),
        Some(b'+' | b'-' | b'0'..=b'9') => {
            let bare = text.replace('_', "");
            !(is_timestamp(text) || is_integer(&bare) || is_float(&bare) || is_base_60(text))
        }
        _ => true,
    }
}

fn without_sign(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An integer as in Go: with a prefix for its base, or `0` for octal. Its size does not matter.
fn is_integer(text: &str) -> bool {
    let text = without_sign(text);
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.get(..2) {
        Some("0b") if lower.len() > 2 => (lower.get(2..), 2),
        Some("0o") if lower.len() > 2 => (lower.get(2..), 8),
        Some("0x") if lower.len() > 2 => (lower.get(2..), 16),
        _ if lower == "0" => return true,
        _ if lower.starts_with('0') => (lower.get(1..), 8),
        _ => (Some(lower.as_str()), 10),
    };
    digits.is_some_and(|digits| !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base)))
}

/// A decimal number, with or without fraction and exponent.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match without_sign(mantissa).split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (without_sign(mantissa), None),
    };
    let is_number = match fraction {
        Some(fraction) if whole.is_empty() => is_digits(fraction),
        Some(fraction) => is_digits(whole) && (fraction.is_empty() || is_digits(fraction)),
        None => is_digits(whole),
    };
    is_number && exponent.is_none_or(|exponent| is_digits(without_sign(exponent)))
}

/// `12:30`, `-1:20:30.5`
fn is_base_60(text: &str) -> bool {
    let mut parts = without_sign(text).split(':');
    let is_loose = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let first = parts.next().unwrap_or_default();
    if !first.starts_with(|c: char| c.is_ascii_digit()) || !is_loose(first) {
        return false;
    }
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return false;
    }
    while let Some(part) = parts.next() {
        let part = match part.split_once('.') {
            Some((part, fraction)) if parts.peek().is_none() && is_loose(fraction) => part,
            Some(_) => return false,
            None => part,
        };
        let is_sixtieth = match part.as_bytes() {
            [ones] => ones.is_ascii_digit(),
            [tens, ones] => (b'0'..=b'5').contains(tens) && ones.is_ascii_digit(),
            _ => false,
        };
        if !is_sixtieth {
            return false;
        }
    }
    true
}

/// A date, or a date with a time.
fn is_timestamp(text: &str) -> bool {
    parsed_timestamp(text).is_some()
}

fn parsed_timestamp(text: &str) -> Option<()> {
    let (year, rest) = text.split_once('-')?;
    let (month, rest) = rest.split_once('-')?;
    let day_length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (day, rest) = rest.split_at_checked(day_length)?;
    let is_year = year.len() == 4 && is_digits(year);
    let date = jiff::civil::Date::new(year.parse().ok()?, number(month)?, number(day)?);
    if !is_year || date.is_err() {
        return None;
    }
    let (separator, time) = match rest.chars().next() {
        None => return Some(()),
        Some(separator @ ('T' | 't' | ' ')) => (separator, rest.get(1..)?),
        Some(_) => return None,
    };
    let (hour, rest) = time.split_once(':')?;
    let (minute, rest) = rest.split_once(':')?;
    let second_length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (second, rest) = rest.split_at_checked(second_length)?;
    if number(hour)? > 23 || number(minute)? > 59 || number(second)? > 59 {
        return None;
    }
    let zone = match rest.strip_prefix(['.', ',']) {
        Some(fraction) if fraction.starts_with(|c: char| c.is_ascii_digit()) => {
            fraction.trim_start_matches(|c: char| c.is_ascii_digit())
        }
        _ => rest,
    };
    let is_zone = match zone.strip_prefix(['+', '-']) {
        _ if separator == ' ' => zone.is_empty(),
        Some(offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            hours.len() == 2 && minutes.len() == 2 && number(hours)? <= 24 && number(minutes)? <= 60
        }
        None => zone == "Z",
    };
    is_zone.then_some(())
}

/// A number of one or two digits.
fn number(text: &str) -> Option<i8> {
    let fits = is_digits(text) && text.len() <= 2;
    fits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_that_go_yaml_reads_as_strings_are_strings() {
        for text in [
            "",
            "y",
            "NO",
            "Off",
            "~",
            "null",
            ".inf",
            "-.Inf",
            "0",
            "-1",
            "+1",
            "012",
            "08",
            "0x1f",
            "0X1F",
            "0b11",
            "-0b11",
            "0o17",
            "1_000",
            "1.5",
            ".5",
            "1.",
            "-1e3",
            "1E-3",
            "1e999",
            "12:30",
            "-1:20:30.5",
            "1_0:30.",
            "190:20:30",
            "2026-11-27",
            "2026-1-2",
            "2026-11-27T10:00:00Z",
            "2026-11-27t1:2:3.5+02:00",
            "2026-11-27 10:00:00",
            "99999999999999999999",
            "0xffffffffffffffffffffff",
        ] {
            assert!(!is_string(text), "{text}");
        }
        for text in [
            "a",
            "yES",
            "nULL",
            "nan",
            ".",
            "..",
            ".e3",
            "-",
            "--",
            "+",
            "-c",
            "1Gi",
            "100m",
            "10.88.0.5",
            "1.2.3",
            "0x",
            "0xg",
            "0b",
            "0b12",
            "1e",
            "1__x",
            "12:60",
            "12:",
            ":30",
            "1:2:x",
            "2026-13-01",
            "2026-02-30",
            "2026-11-27T25:00:00Z",
            "2026-11-27T10:00:00",
            "2026-11-27 10:00:00Z",
            "26-11-27",
            "2026-11",
            "<<",
            "=",
            "12345678-1234-4234-8234-123456789012",
            "1-1",
        ] {
            assert!(is_string(text), "{text}");
        }
    }
}
