//! Quantities as Kubernetes writes them (`CanonicalizeBytes` in `apimachinery/pkg/api/resource/quantity.go`): with the
//! largest suffix that needs no fraction, so `1024Mi` is `1Gi`.

use super::quantity::{Quantity, QuantityError};

/// The family of a quantity's suffix, which its canonical text keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, ...
    Binary,
    /// `k`, `M`, ..., and none.
    Decimal,
    /// `e3`, `e6`, ...
    Exponent,
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From billionths.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

const NANOS: i128 = 1_000_000_000;

/// A quantity with the format of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    pub quantity: Quantity,
    pub format: Format,
}

impl Amount {
    /// Reads a quantity.
    ///
    /// # Errors
    /// [`QuantityError`].
    pub fn read(text: &str) -> Result<Self, QuantityError> {
        let quantity = text.parse()?;
        let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
        let format = match suffix {
            _ if suffix.ends_with('i') => Format::Binary,
            _ if suffix.len() > 1 => Format::Exponent,
            _ => Format::Decimal,
        };
        Ok(Self { quantity, format })
    }

    /// The sum, in the format of the first amount that is not zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = match self.quantity == Quantity::default() {
            true => other.format,
            false => self.format,
        };
        Self {
            quantity: self.quantity.plus(other.quantity),
            format,
        }
    }

    /// The canonical text.
    pub fn text(self) -> String {
        let nanos = self.quantity.nanos();
        if nanos == 0 {
            return "0".to_owned();
        }
        match self.format {
            Format::Binary if nanos.abs() >= 1024 * NANOS => {
                // Fractions are rounded up.
                let units = nanos.div_euclid(NANOS) + i128::from(nanos.rem_euclid(NANOS) != 0);
                let (number, power) = without(units, 1024, BINARY.len() - 1);
                format!("{number}{}", BINARY[power])
            }
            // Kubernetes writes small binary amounts like decimal ones.
            Format::Binary | Format::Decimal => {
                let (number, power) = without(nanos, 1000, DECIMAL.len() - 1);
                format!("{number}{}", DECIMAL[power])
            }
            Format::Exponent => {
                let (number, power) = without(nanos, 1000, DECIMAL.len() - 1);
                match i32::try_from(power).unwrap_or(0) * 3 - 9 {
                    0 => number.to_string(),
                    exponent => format!("{number}e{exponent}"),
                }
            }
        }
    }
}

/// Divides a number that is not zero by the highest power of `base` that leaves no rest, up to `most`.
fn without(mut number: i128, base: i128, most: usize) -> (i128, usize) {
    let mut power = 0;
    while power < most && number % base == 0 {
        number /= base;
        power += 1;
    }
    (number, power)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_canonical() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("1000Mi", "1000Mi"),
            ("1023", "1023"),
            ("1024", "1024"),
            ("0.5Ki", "512"),
            ("0.001Ki", "1024m"),
            ("2000M", "2G"),
            ("1500M", "1500M"),
            ("0.1", "100m"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("12E6", "12e6"),
            ("1e1", "10"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
        ] {
            assert_eq!(Amount::read(text).unwrap().text(), canonical, "{text}");
        }
    }

    #[test]
    fn a_sum_has_the_format_of_its_first_amount() {
        let sum = |texts: &[&str]| {
            let amounts = texts.iter().map(|text| Amount::read(text).unwrap());
            amounts.reduce(Amount::plus).unwrap().text()
        };
        assert_eq!(sum(&["512Mi", "512Mi"]), "1Gi");
        assert_eq!(sum(&["1G", "1Gi"]), "2073741824");
        assert_eq!(sum(&["0", "1Gi"]), "1Gi");
    }

    proptest! {
        #[test]
        fn the_canonical_text_is_the_same_amount(
            text in "[0-9]{1,18}(\\.[0-9]{0,9})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9])?",
        ) {
            let amount = Amount::read(&text).unwrap();
            let again = Amount::read(&amount.text()).unwrap();
            // Large binary amounts are rounded up to whole units.
            prop_assert_eq!(again.quantity.units(), amount.quantity.units());
        }
    }
}
