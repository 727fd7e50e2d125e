//! Floating-point numbers, as Go writes them.

/// No number has more digits that are not zero.
const MAX_DIGITS: usize = 1100;

/// The number without a sign: with this verb, and a precision or as many digits as necessary.
pub(crate) fn digits(value: f64, verb: char, precision: Option<usize>, keeps_zeros: bool) -> String {
    let value = value.abs();
    let precision = precision.map(|precision| precision.min(MAX_DIGITS));
    match verb.to_ascii_lowercase() {
        'e' => exponential(value, precision.or(Some(6)), 'e'),
        'f' => format!("{value:.*}", precision.unwrap_or(6)),
        'b' => binary(value),
        'x' => hexadecimal(value),
        _ => general(value, precision, keeps_zeros),
    }
}

fn parts(value: f64, precision: Option<usize>) -> (String, i32) {
    let text = match precision {
        Some(precision) => format!("{value:.precision$e}"),
        None => format!("{value:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.to_owned(), exponent.parse().unwrap_or_default())
}

fn exponential(value: f64, precision: Option<usize>, letter: char) -> String {
    let (mantissa, exponent) = parts(value, precision);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}{letter}{sign}{:02}", exponent.unsigned_abs())
}

/// The form with an exponent, if it is small or large. With zeros, there are at least 6 digits.
fn general(value: f64, precision: Option<usize>, keeps_zeros: bool) -> String {
    let significant = precision.map(|precision| precision.max(1));
    let (mantissa, exponent) = parts(value, significant.map(|digits| digits - 1));
    let kept = mantissa.replace('.', "").trim_end_matches('0').len().max(1);
    let shown = if keeps_zeros {
        kept.max(significant.unwrap_or(6))
    } else {
        kept
    };
    let kept_digits = i32::try_from(kept).unwrap_or(i32::MAX);
    let mut threshold = i32::try_from(significant.unwrap_or(6)).unwrap_or(i32::MAX);
    if significant.is_some() && threshold > kept_digits && kept_digits > exponent {
        threshold = kept_digits;
    }
    if exponent < -4 || exponent >= threshold {
        return exponential(value, Some(shown - 1), 'e');
    }
    let decimals = i64::try_from(shown).unwrap_or(i64::MAX) - 1 - i64::from(exponent);
    let decimals = usize::try_from(decimals).unwrap_or_default();
    format!("{value:.decimals$}")
}

fn exponent_and_fraction(value: f64) -> (i64, u64) {
    let bits = value.to_bits();
    let exponent = i64::try_from(bits >> 52 & 0x7ff).unwrap_or_default();
    let fraction = bits & ((1 << 52) - 1);
    if exponent == 0 {
        (1 - 1075, fraction)
    } else {
        (exponent - 1075, fraction | 1 << 52)
    }
}

fn binary(value: f64) -> String {
    let (exponent, fraction) = exponent_and_fraction(value);
    format!("{fraction}p{exponent:+}")
}

fn hexadecimal(value: f64) -> String {
    let (mut exponent, mut fraction) = exponent_and_fraction(value);
    if fraction == 0 {
        return "0x0p+00".to_owned();
    }
    while fraction & 1 << 52 == 0 {
        fraction <<= 1;
        exponent -= 1;
    }
    let digits = format!("{:013x}", fraction & ((1 << 52) - 1));
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    let exponent = exponent + 52;
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("0x1{point}{digits}p{sign}{:02}", exponent.unsigned_abs())
}
