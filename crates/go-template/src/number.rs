//! Numbers in templates.

use crate::quote::{Unescaped, quoted, unescaped};

/// A number, as a template's text means it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    /// Greater than any Int.
    Overflow,
    Float(f64),
}

/// `'a'`
///
/// # Errors
/// If it is not exactly one character.
pub(crate) fn of_character(text: &str) -> Result<Number, String> {
    let inner = text.strip_prefix('\'').ok_or("invalid syntax")?;
    let (character, rest) = unescaped(inner, '\'').ok_or("invalid syntax")?;
    if rest != "'" {
        return Err(format!("malformed character constant: {text}"));
    }
    Ok(Number::Int(match character {
        Unescaped::Char(c) => i64::from(u32::from(c)),
        Unescaped::Byte(byte) => byte.into(),
    }))
}

/// `-1`, `0x1F`, `1_000`, `2.5e3`
///
/// # Errors
/// If it is no number, or too large.
pub(crate) fn of_text(text: &str) -> Result<Number, String> {
    let illegal = || format!("illegal number syntax: {}", quoted(text));
    if text.ends_with('i') && !text.contains(['x', 'X']) {
        return Err(format!("complex numbers are not supported: {}", quoted(text)));
    }
    let is_negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let has_prefix = unsigned.len() > 1 && unsigned.starts_with('0');
    let (radix, digits) = match unsigned.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &unsigned[2..]),
        Some("0o") => (8, &unsigned[2..]),
        Some("0b") => (2, &unsigned[2..]),
        Some(prefix) if prefix.starts_with('0') => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    if !has_separated_digits(unsigned) {
        return Err(illegal());
    }
    let digits = digits.replace('_', "");
    let is_integer = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    if is_integer {
        let magnitude = u128::from_str_radix(&digits, radix).unwrap_or(u128::MAX);
        let value = i128::try_from(magnitude).map_or(i128::MAX, |value| if is_negative { -value } else { value });
        if let Ok(value) = i64::try_from(value) {
            return Ok(Number::Int(value));
        }
        if !is_negative && !text.starts_with('+') && u64::try_from(magnitude).is_ok() {
            return Ok(Number::Overflow);
        }
        return Err(format!("integer overflow: {}", quoted(text)));
    }
    let is_hexadecimal = radix == 16;
    let value = if is_hexadecimal {
        hexadecimal(&digits)
    } else if has_prefix && !digits.contains(['.', 'e', 'E']) && radix == 8 && unsigned.contains(['8', '9']) {
        return Err(format!("integer overflow: {}", quoted(text)));
    } else {
        unsigned.replace('_', "").parse().ok()
    };
    match value.filter(|value: &f64| value.is_finite()) {
        Some(value) => Ok(Number::Float(if is_negative { -value } else { value })),
        None => Err(illegal()),
    }
}

/// An underscore separates digits, or the prefix from digits.
fn has_separated_digits(text: &str) -> bool {
    let mut before = '_';
    for (index, c) in text.char_indices() {
        let is_first_after_prefix = index == 2 && text.starts_with('0') && !before.is_ascii_digit();
        if c == '_' && !before.is_ascii_hexdigit() && !is_first_after_prefix {
            return false;
        }
        if before == '_' && index > 0 && !c.is_ascii_hexdigit() {
            return false;
        }
        before = c;
    }
    before != '_'
}

/// `1.8p4`; the exponent is necessary.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let mut exponent = exponent.parse::<i32>().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut value = 0_f64;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    let is_empty = whole.is_empty() && fraction.is_empty();
    (!is_empty).then(|| value * 2_f64.powi(exponent))
}
