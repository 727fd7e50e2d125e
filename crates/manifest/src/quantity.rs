//! Kubernetes' quantities (`128Mi`, `0.5`, `100m`, `1e3`), computed exactly: in billionths, without floating point
//! (`apimachinery/pkg/api/resource/quantity.go`).

use std::fmt;
use std::str::FromStr;

/// An amount in billionths. Like Kubernetes, rounds finer fractions up and caps amounts above 2^63-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    nanos: i128,
}

/// The text is not a quantity. The message is Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantityError;

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    }
}

impl std::error::Error for QuantityError {}

const NANOS: i128 = 1_000_000_000;
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS;
/// Maximum number of significant decimal digits: 19 before the point of the largest number, 9 after.
const MAX_DIGITS: usize = 28;

impl Quantity {
    /// The amount in whole units, rounded up, such as bytes of memory.
    pub fn units(self) -> i64 {
        self.ceiling(NANOS)
    }

    /// The amount in thousandths, rounded up, such as millicores of cpu.
    pub fn millis(self) -> i64 {
        self.ceiling(NANOS / 1000)
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// This many whole units.
    pub fn of_units(units: u64) -> Self {
        Self {
            nanos: i128::from(units) * NANOS,
        }
    }

    /// The sum. Amounts have at most 64 bits before the point, so only thousands of millions of them could overflow.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
        }
    }

    /// The amount in billionths.
    pub(crate) fn nanos(self) -> i128 {
        self.nanos
    }

    fn ceiling(self, unit: i128) -> i64 {
        let rounded = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, text) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError);
        }
        let nanos = match binary_multiplier(suffix) {
            Some(multiplier) => binary_nanos(whole, fraction, multiplier),
            None => decimal_nanos(whole, fraction, decimal_exponent(suffix)?),
        };
        let nanos = nanos.min(MAX_NANOS);
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
        })
    }
}

fn binary_multiplier(suffix: &str) -> Option<i128> {
    let power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
        .iter()
        .position(|known| *known == suffix)?;
    1_i128.checked_shl(10 * (u32::try_from(power).ok()? + 1))
}

fn decimal_exponent(suffix: &str) -> Result<i32, QuantityError> {
    let exponent = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        _ => {
            let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
            // Beyond i32 only the parse error would differ; Kubernetes refuses such exponents too.
            digits.parse().map_err(|_| QuantityError)?
        }
    };
    Ok(exponent)
}

/// `whole.fraction` times 10^`exponent`, in nanos, rounded up.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i32) -> i128 {
    // All digits, and how many of them make up the whole nanos (possibly more than there are, or none).
    let digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|digit| digit - b'0')
        .collect();
    let kept = whole.len() as i128 + i128::from(exponent) + 9;
    let mut nanos: i128 = 0;
    let mut significant = 0;
    for position in 0..kept.max(0) {
        let digit = usize::try_from(position).ok().and_then(|position| digits.get(position));
        if digit.is_none() && nanos == 0 {
            return 0;
        }
        nanos = nanos * 10 + i128::from(digit.copied().unwrap_or(0));
        significant += usize::from(nanos > 0);
        if significant > MAX_DIGITS {
            return MAX_NANOS;
        }
    }
    let dropped = usize::try_from(kept.max(0))
        .ok()
        .and_then(|kept| digits.get(kept..))
        .unwrap_or_default();
    nanos + i128::from(dropped.iter().any(|digit| *digit != 0))
}

/// `whole.fraction` times `multiplier`, in nanos, rounded up.
fn binary_nanos(whole: &str, fraction: &str, multiplier: i128) -> i128 {
    let whole = decimal_nanos(whole, "", 0) / NANOS;
    // 18 digits: the product with 2^60 still fits, and any digits cut off count as one nano.
    let kept = fraction.get(..18).unwrap_or(fraction);
    let cut = fraction
        .get(18..)
        .unwrap_or_default()
        .bytes()
        .any(|digit| digit != b'0');
    let scale = 10_i128.pow(u32::try_from(kept.len()).unwrap_or(0));
    let numerator = kept.parse::<i128>().unwrap_or(0) * multiplier;
    let (units, rest) = (numerator / scale, numerator % scale);
    let rest_nanos = (rest * NANOS + scale - 1) / scale;
    let Some(whole) = whole.checked_mul(multiplier).and_then(|units| units.checked_mul(NANOS)) else {
        return MAX_NANOS;
    };
    whole.saturating_add(units * NANOS + rest_nanos + i128::from(cut))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> i128 {
        text.parse::<Quantity>().unwrap_or_else(|_| panic!("{text}")).nanos
    }

    #[test]
    fn reads_every_form() {
        for (text, expected) in [
            ("0", 0),
            ("1", NANOS),
            ("0.5", 500_000_000),
            (".5", 500_000_000),
            ("5.", 5 * NANOS),
            ("+1.5", 1_500_000_000),
            ("-1", -NANOS),
            ("100m", 100_000_000),
            ("100u", 100_000),
            ("7n", 7),
            ("0.1n", 1),
            ("-0.1n", -1),
            ("1e3", 1000 * NANOS),
            ("1E3", 1000 * NANOS),
            ("12E6", 12_000_000 * NANOS),
            ("1e-3", 1_000_000),
            ("1e+3", 1000 * NANOS),
            ("1e-30", 1),
            ("0e30", 0),
            ("1k", 1000 * NANOS),
            ("1E", 1_000_000_000_000_000_000 * NANOS),
            ("1Ki", 1024 * NANOS),
            ("128Mi", 134_217_728 * NANOS),
            ("1.5Gi", 1_610_612_736 * NANOS),
            ("0.001Ki", 1_024_000_000),
            ("1Ei", (1 << 60) * NANOS),
            ("9.5Ei", MAX_NANOS),
            ("99999999999999999999", MAX_NANOS),
            ("1e999999", MAX_NANOS),
            ("000000000000000000000000000000000000000000001", NANOS),
            ("1.000000000000000000000000000000000000000000001Ki", 1024 * NANOS + 1),
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            " ",
            "1 ",
            " 1",
            "+",
            "-",
            ".",
            "1.2.3",
            "1e",
            "1e+",
            "Mi",
            "1mi",
            "1MI",
            "1K",
            "1kB",
            "0x10",
            "1e1.5",
            "--1",
            "1_000",
            "１",
            "1Kii",
            "1e99999999999",
            "NaN",
            "inf",
            "1µ",
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError), "{text}");
        }
    }

    #[test]
    fn rounds_up_to_units_and_millis() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(quantity("0.1").units(), 1);
        assert_eq!(quantity("-0.1").units(), 0);
        assert_eq!(quantity("1500m").units(), 2);
        assert_eq!(quantity("0.0001").millis(), 1);
        assert_eq!(quantity("2").millis(), 2000);
        assert_eq!(quantity("9E").millis(), i64::MAX);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn any_number_with_any_suffix_is_read(text in "[+-]?[0-9]{1,60}(\\.[0-9]{0,60})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,9})?") {
            prop_assert!(nanos(&text).abs() <= MAX_NANOS);
        }

        #[test]
        fn integers_are_exact(value in i64::MIN + 1..=i64::MAX) {
            prop_assert_eq!(nanos(&value.to_string()), i128::from(value) * NANOS);
        }

        #[test]
        fn fractions_agree_with_integers(value in 0_i64..1_000_000_000_000, power in 0_usize..=9) {
            let divisor = 10_i64.pow(power as u32);
            let text = format!("{}.{:0width$}", value / divisor, value % divisor, width = power.max(1));
            let expected = if power == 0 { i128::from(value) * NANOS } else { i128::from(value) * (NANOS / i128::from(divisor)) };
            prop_assert_eq!(nanos(&text), expected);
        }

        #[test]
        fn binary_suffixes_agree_with_multiplication(value in 0_i64..4_000_000, power in 1_u32..=4) {
            let suffix = ["Ki", "Mi", "Gi", "Ti"][power as usize - 1];
            prop_assert_eq!(nanos(&format!("{value}{suffix}")), i128::from(value) * 1024_i128.pow(power) * NANOS);
        }
    }
}
